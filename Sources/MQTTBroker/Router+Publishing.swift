import DequeModule
import Identity
package import MQTT
import NIOCore

extension Router {
    /// A PUBLISH of a client (MQTT 5.0 section 3.3).
    package mutating func publish(_ publish: Publish, from id: ConnectionID) {
        guard self.isOpen(id), let peer = self.connections[id.index].peer else { return }
        self.statistics.messagesReceived += 1
        guard self.isAcceptable(publish, from: id, peer) else { return }
        if publish.qos == .exactlyOnce, self.isKnown(publish.packetID, from: id) {
            self.acknowledge(publish, .success, waiting: 0, change: 0, id)
            return
        }
        if publish.qos != .atMostOnce { self.connections[id.index].openPublishes += 1 }
        guard publish.payload.readableBytes <= self.limits.maximumPayloadSize else {
            self.refuse(publish, from: id, peer, .quotaExceeded, "size")
            return
        }
        guard let targets = self.route(publish, from: id, peer) else { return }
        // Section 3.3.2.3.2.
        if !publish.properties.isEmpty, publish.properties.all.contains(.payloadFormatIndicator(true)),
            String(validating: publish.payload.readableBytesView, as: UTF8.self) == nil
        {
            self.refuse(publish, from: id, peer, .payloadFormatInvalid, "format")
            return
        }

        let change = self.store.changes
        let message = Message(publish, sender: peer, now: self.now)
        if publish.retain, !self.retain(message, qos: publish.qos) {
            self.statistics.drop(.retainedFull)
            self.refuse(publish, from: id, peer, .quotaExceeded, "quota")
            return
        }
        if publish.qos == .exactlyOnce {
            self.receive(publish, message, to: targets, from: id)
        } else {
            let settlement =
                publish.qos == .atLeastOnce
                ? Settlement(connection: id, place: self.nextPending(id), inProcess: 0, packetID: publish.packetID)
                : nil
            let waiting = self.distribute(
                message, qos: publish.qos, retain: publish.retain, to: targets, settlement: settlement)
            if settlement != nil {
                self.acknowledge(
                    publish, .success, waiting: waiting,
                    change: self.store.changes == change ? 0 : self.store.changes, id)
            }
        }
        if self.isAnyFull(of: targets) || (self.store.isFull && self.store.changes != change) { self.hold(id) }
    }

    /// What the client was told not to send ends its connection.
    private mutating func isAcceptable(_ publish: Publish, from id: ConnectionID, _ peer: PeerIdentity) -> Bool {
        guard publish.qos <= self.limits.maximumQoS else {
            self.actions.append(.event(.publishRefused(peer: peer, topic: publish.topic, reason: "qos")))
            self.actions.append(
                .close(id, .qosNotSupported, "a QoS above the maximum of \(self.limits.maximumQoS.rawValue)"))
            return false
        }
        guard !publish.retain || self.limits.isRetainAvailable else {
            self.actions.append(.event(.publishRefused(peer: peer, topic: publish.topic, reason: "retained")))
            self.actions.append(.close(id, .retainNotSupported, "retained messages are not available"))
            return false
        }
        // A client of 3.1.1 does not know of it, and is held instead.
        guard
            publish.qos == .atMostOnce || self.connections[id.index].version == .v3_1_1
                || self.connections[id.index].openPublishes < Int(self.limits.receiveMaximum)
        else {
            self.actions.append(.close(id, .receiveMaximumExceeded, "more publishes than the Receive Maximum"))
            return false
        }
        return true
    }

    private func nextPending(_ id: ConnectionID) -> UInt64 {
        self.connections[id.index].pendingBase + UInt64(self.connections[id.index].pending.count)
    }

    /// - Returns: `nil` if the message is refused; then it was answered.
    private mutating func route(_ publish: Publish, from id: ConnectionID, _ peer: PeerIdentity) -> [Target]? {
        if !publish.retain, let route = self.connections[id.index].route, route.generation == self.tree.generation,
            route.topic == publish.topic
        {
            return route.targets
        }
        if let reason = self.authorizer.refusalToPublish(publish.topic, isRetained: publish.retain, by: peer) {
            self.refuse(publish, from: id, peer, .notAuthorized, reason)
            return nil
        }
        let targets = self.targets(publish.topic, publisher: self.connections[id.index].session)
        if !publish.retain {
            self.connections[id.index].route = Route(
                topic: publish.topic, generation: self.tree.generation, targets: targets)
        }
        return targets
    }

    /// Each session once, with the highest QoS and all the identifiers of its subscriptions that match; besides,
    /// each shared subscription once.
    mutating func targets(_ topic: TopicName, publisher: Int?) -> [Target] {
        var entries: [SubscriptionTree.Entry] = []
        swap(&entries, &self.scratch)
        entries.removeAll(keepingCapacity: true)
        self.tree.forEachMatch(topic) { entries.append($0) }
        self.stamp += 1
        var targets: [Target] = []
        for entry in entries where !(entry.noLocal && entry.session == publisher) {
            if let session = self.sessions.indices.contains(entry.session) ? self.sessions[entry.session] : nil {
                if session.stamp == self.stamp {
                    targets[session.slot].qos = max(targets[session.slot].qos, entry.qos)
                    targets[session.slot].retainAsPublished =
                        targets[session.slot].retainAsPublished || entry.retainAsPublished
                    if let identifier = entry.identifier { targets[session.slot].subscriptionIDs.append(identifier) }
                    continue
                }
                guard self.authorizer.mayReceive(topic, by: session.peer) else { continue }
                session.stamp = self.stamp
                session.slot = targets.count
            }
            targets.append(
                Target(
                    session: entry.session, share: entry.share, qos: entry.qos,
                    retainAsPublished: entry.retainAsPublished, subscriptionIDs: entry.identifier.map { [$0] } ?? []))
        }
        swap(&entries, &self.scratch)
        return targets
    }

    /// Delivers to everybody.
    ///
    /// - Returns: how many in-process sessions will settle it.
    @discardableResult
    mutating func distribute(
        _ message: Message, qos: QoS, retain: Bool, to targets: [Target], settlement: Settlement?
    ) -> Int {
        var waiting = 0
        for target in targets {
            if let share = target.share {
                self.deliver(message, to: share, qos: qos, retain: retain, settlement: settlement)
                continue
            }
            let isWaitedFor = self.deliver(
                message, to: target.session, qos: min(qos, target.qos), retain: retain && target.retainAsPublished,
                subscriptionIDs: target.subscriptionIDs, share: nil, settlement: settlement)
            if isWaitedFor { waiting += 1 }
        }
        return waiting
    }

    private func isAnyFull(of targets: [Target]) -> Bool {
        guard !self.inProcess.isEmpty else { return false }
        return targets.contains { target in
            if target.share == nil, case .inProcess(let local) = self.place(of: target.session) {
                return self.inProcess[local]?.isFull == true
            }
            return false
        }
    }

    /// Makes a message the retained one of its topic.
    ///
    /// - Returns: `false` if there is no room; then nothing has changed.
    mutating func retain(_ message: Message, qos: QoS) -> Bool {
        let isRemoval = message.payload.readableBytes == 0
        let hadOne = self.store.isPresent && isRemoval && self.retained.contains(message.topic)
        guard self.retained.store(message, qos: qos, limits: self.limits) else { return false }
        guard self.store.isPresent else { return true }
        if !isRemoval {
            self.persist(.retain(self.stored(message), qos))
        } else if hadOne {
            self.persist(.removeRetained(message.topic))
        }
        return true
    }

    // MARK: QoS 2 (section 4.3.3)

    /// Whether a message under this identifier has come, and PUBREL has not.
    private func isKnown(_ packetID: UInt16, from id: ConnectionID) -> Bool {
        self.sessions[self.connections[id.index].session]?.received[packetID] != nil
    }

    private mutating func receive(
        _ publish: Publish, _ message: Message, to targets: [Target], from id: ConnectionID
    ) {
        guard let session = self.sessions[self.connections[id.index].session] else { return }
        session.received[publish.packetID] = Session.Received()
        let waits = !self.inProcess.isEmpty || self.store.isWaitedFor
        if !waits {
            // PUBREC goes before the message, for a client that is its own subscriber.
            self.acknowledge(publish, .success, waiting: 0, change: 0, id)
        }
        let change = self.store.changes
        let settlement = Settlement(
            connection: id, place: self.nextPending(id), inProcess: 0, session: session, packetID: publish.packetID)
        let waiting = self.distribute(
            message, qos: publish.qos, retain: publish.retain, to: targets, settlement: settlement)
        if waiting == 0, session.isDurable {
            self.persist(.receive(session.number, packetID: publish.packetID))
        }
        let isChanged = self.store.changes != change || publish.retain
        session.received[publish.packetID] = Session.Received(
            waiting: waiting, change: isChanged ? self.store.changes : 0)
        if waits { self.acknowledge(publish, .success, waiting: 0, change: 0, id) }
    }

    /// PUBREL of a client.
    package mutating func release(_ packetID: UInt16, from id: ConnectionID) {
        guard self.isOpen(id), let session = self.sessions[self.connections[id.index].session] else { return }
        let change = self.store.changes
        var code = ReasonCode.success
        if session.received.removeValue(forKey: packetID) != nil {
            if session.isDurable { self.persist(.forget(session.number, packetID: packetID)) }
            // One that was published on an earlier connection was not counted on this one.
            if self.connections[id.index].openPublishes > 0 { self.connections[id.index].openPublishes -= 1 }
        } else {
            code = .packetIdentifierNotFound
        }
        self.whenCommitted(since: change, .send(id, .pubComp(PubComp(packetID: packetID, reasonCode: code))))
    }

    // MARK: Answers

    /// 5.0 can be told and goes on; 3.1.1 has no such answer, so its connection ends (3.1.1 section 3.3.5).
    private mutating func refuse(
        _ publish: Publish, from id: ConnectionID, _ peer: PeerIdentity, _ code: ReasonCode, _ reason: String
    ) {
        self.statistics.publishesRefused += 1
        self.actions.append(.event(.publishRefused(peer: peer, topic: publish.topic, reason: reason)))
        if code == .notAuthorized, self.authorizer.discards(publish.topic, by: peer) {
            if publish.qos != .atMostOnce { self.acknowledge(publish, .success, waiting: 0, change: 0, id) }
        } else if self.connections[id.index].version == .v3_1_1 {
            self.actions.append(.close(id, code, "may not publish there: \(reason)"))
        } else if publish.qos != .atMostOnce {
            self.acknowledge(publish, code, waiting: 0, change: 0, id)
        }
    }

    /// Answers a publish with PUBACK or PUBREC, in the order of the publishes, once nothing is waited for.
    private mutating func acknowledge(
        _ publish: Publish, _ code: ReasonCode, waiting: Int, change: UInt64, _ id: ConnectionID
    ) {
        let pending = PendingAcknowledgement(
            packetID: publish.packetID, qos: publish.qos, reasonCode: code, waiting: waiting, change: change)
        guard !self.connections[id.index].pending.isEmpty || !self.isReady(pending, id) else {
            self.answer(pending, id)
            return
        }
        self.connections[id.index].pending.append(pending)
        self.wait(for: pending, id)
        if self.connections[id.index].version == .v3_1_1,
            self.connections[id.index].pending.count >= Int(self.limits.receiveMaximum)
        {
            self.hold(id)
        }
    }

    /// The change that an answer waits for; at QoS 2 it is the session's, for the answer may be to a repeated publish.
    private func change(_ pending: PendingAcknowledgement, _ id: ConnectionID) -> UInt64 {
        guard pending.qos == .exactlyOnce, !pending.reasonCode.isFailure else { return pending.change }
        return self.sessions[self.connections[id.index].session]?.received[pending.packetID]?.change ?? 0
    }

    private func isReady(_ pending: PendingAcknowledgement, _ id: ConnectionID) -> Bool {
        guard pending.waiting == 0, self.store.isCommitted(self.change(pending, id)) else { return false }
        guard pending.qos == .exactlyOnce, !pending.reasonCode.isFailure else { return true }
        return self.sessions[self.connections[id.index].session]?.received[pending.packetID]?.waiting ?? 0 == 0
    }

    private mutating func wait(for pending: PendingAcknowledgement, _ id: ConnectionID) {
        let change = self.change(pending, id)
        if !self.store.isCommitted(change) { self.store.wait(for: change, .answers(id)) }
    }

    private mutating func answer(_ pending: PendingAcknowledgement, _ id: ConnectionID) {
        if pending.qos == .exactlyOnce {
            if pending.reasonCode.isFailure { self.connections[id.index].openPublishes -= 1 }
            let answer = PubRec(packetID: pending.packetID, reasonCode: pending.reasonCode)
            self.actions.append(.send(id, .pubRec(answer)))
        } else {
            self.connections[id.index].openPublishes -= 1
            self.actions.append(.acknowledge(id, packetID: pending.packetID, pending.reasonCode))
        }
    }

    /// Gives the answers whose turn has come.
    mutating func answerPending(_ id: ConnectionID) {
        while let first = self.connections[id.index].pending.first, self.isReady(first, id) {
            self.connections[id.index].pending.removeFirst()
            self.connections[id.index].pendingBase += 1
            self.answer(first, id)
        }
        self.resumeIfPossible(id)
    }

    // MARK: Back-pressure

    mutating func hold(_ id: ConnectionID) {
        guard !self.connections[id.index].isHeld else { return }
        self.connections[id.index].isHeld = true
        self.actions.append(.hold(id))
    }

    mutating func resumeIfPossible(_ id: ConnectionID) {
        guard self.connections[id.index].isHeld, !self.store.isFull,
            self.connections[id.index].pending.count <= Int(self.limits.receiveMaximum) / 2,
            !self.inProcess.values.contains(where: \.isFull)
        else { return }
        self.connections[id.index].isHeld = false
        self.actions.append(.resume(id))
    }

    mutating func resumeAll() {
        for index in self.connections.indices where self.connections[index].isOpen {
            self.resumeIfPossible(ConnectionID(index: index, generation: self.connections[index].generation))
        }
    }

    /// A message of the broker's own, below `$SYS`: not retained, QoS 0, and nobody is asked whether it may be.
    ///
    /// - Returns: whether anybody has subscribed to it.
    mutating func publishOwn(_ topic: TopicName, _ payload: ByteBuffer) -> Bool {
        let targets = self.targets(topic, publisher: nil)
        guard !targets.isEmpty else { return false }
        let publish = Publish(topic: topic, payload: payload, qos: .atMostOnce, packetID: 0)
        let message = Message(publish, sender: nil, now: self.now, isKept: true)
        for target in targets where target.share == nil {
            self.deliver(
                message, to: target.session, qos: .atMostOnce, retain: false,
                subscriptionIDs: target.subscriptionIDs, share: nil, settlement: nil)
        }
        return true
    }
}
