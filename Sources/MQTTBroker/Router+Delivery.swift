import DequeModule
import Identity
package import MQTT
import NIOCore

extension Router {
    /// To one member of a shared subscription.
    mutating func deliver(_ message: Message, to share: Share, qos: QoS, retain: Bool, settlement: Settlement?) {
        guard let member = self.nextMember(of: share, topic: message.topic, qos: qos) else {
            self.statistics.drop(.absent)
            return
        }
        self.deliver(
            message, to: member.session, qos: min(qos, member.qos), retain: retain && member.retainAsPublished,
            subscriptionIDs: member.subscriptionIDs, share: share, settlement: settlement)
    }

    /// - Returns: whether an in-process session will settle it.
    @discardableResult
    mutating func deliver(
        _ message: Message, to index: Int, qos: QoS, retain: Bool, subscriptionIDs: [UInt32], share: Share?,
        settlement: Settlement?
    ) -> Bool {
        guard let session = self.sessions[index] else { return false }
        switch session.place {
        case .inProcess(let local):
            message.keep()
            self.statistics.messagesSent += 1
            var token: UInt64?
            // The publisher's QoS decides, not the subscription's: its PUBACK says that we are done with it.
            if var settlement {
                settlement.inProcess = local
                token = self.nextToken
                self.settlements[self.nextToken] = settlement
                self.nextToken += 1
            }
            self.actions.append(.deliverInProcess(local, message, qos, retain: retain, token: token))
            return token != nil
        case .connection(let id) where qos == .atMostOnce:
            guard self.connections[id.index].isWritable else {
                self.statistics.drop(.slow)
                return false
            }
            guard session.queue.isEmpty, session.isAllSent, self.connections[id.index].isStarted else {
                // Behind what came before it.
                self.queue(
                    Session.Outgoing(
                        message: message, qos: qos, retain: retain, subscriptionIDs: subscriptionIDs, share: share),
                    for: session)
                return false
            }
            let header = Header(
                qos: .atMostOnce, retain: retain, isDuplicate: false, packetID: 0, subscriptionIDs: subscriptionIDs)
            self.send(message, header, to: id)
        case .nowhere where qos == .atMostOnce:
            self.statistics.drop(.absent)
        case .connection, .nowhere:
            self.queue(
                Session.Outgoing(
                    message: message, qos: qos, retain: retain, subscriptionIDs: subscriptionIDs, share: share),
                for: session)
        }
        return false
    }

    mutating func queue(_ outgoing: Session.Outgoing, for session: Session) {
        let size = outgoing.message.size
        let isVictim =
            self.totals.bytes + size > self.limits.maximumTotalQueuedBytes && self.relieve() === session
        guard !isVictim, session.queue.count < self.limits.maximumQueuedMessages,
            session.queuedBytes + size <= self.limits.maximumQueuedBytes
        else {
            self.statistics.drop(isVictim ? .allQueuesFull : .queueFull)
            if outgoing.qos != .atMostOnce { self.overflow(session) }
            return
        }
        var outgoing = outgoing
        if session.isDurable, outgoing.qos != .atMostOnce {
            outgoing.place = session.nextPlace
            session.nextPlace += 1
            self.persist(
                .enqueue(
                    session.number, place: outgoing.place,
                    StoredDelivery(
                        message: self.stored(outgoing.message), qos: outgoing.qos, retain: outgoing.retain,
                        subscriptionIDs: outgoing.subscriptionIDs, share: outgoing.share?.filter)))
        }
        session.enqueue(outgoing)
        self.pump(session.index)
    }

    /// It begins to lose messages: said once, and the client is asked to come again.
    private mutating func overflow(_ session: Session) {
        guard !session.isOverflowing else { return }
        session.isOverflowing = true
        self.actions.append(.event(.queueFull(peer: session.peer, clientID: session.clientID)))
        if case .connection(let id) = session.place {
            self.actions.append(.close(id, .quotaExceeded, "too slow: its queue is full"))
        }
    }

    /// All queues together are full: the largest loses the newer half of its bytes, so that nobody pays for another,
    /// and the next search is far away.
    ///
    /// - Returns: whose it was.
    private mutating func relieve() -> Session? {
        var victim: Session?
        for case .some(let session) in self.sessions where session.queuedBytes > victim?.queuedBytes ?? 0 {
            victim = session
        }
        guard let victim else { return nil }
        let half = victim.queuedBytes / 2
        while victim.queuedBytes > half, let outgoing = victim.dequeueLast() {
            self.statistics.drop(.allQueuesFull)
            if victim.isDurable, outgoing.place > 0 { self.persist(.complete(victim.number, place: outgoing.place)) }
        }
        self.overflow(victim)
        return victim
    }

    /// How many queues there are, and how large the largest is: a look at each session.
    package func measureQueues(_ statistics: inout BrokerStatistics) {
        for case .some(let session) in self.sessions where !session.queue.isEmpty {
            statistics.queues += 1
            statistics.longestQueue = max(statistics.longestQueue, session.queue.count)
            statistics.largestQueueBytes = max(statistics.largestQueueBytes, session.queuedBytes)
        }
    }

    /// Sends what a session has to send and its window has room for: what was sent before and not
    /// acknowledged comes first, as a duplicate, with its old identifier (MQTT-4.4.0-1).
    mutating func pump(_ index: Int) {
        guard let session = self.sessions[index], case .connection(let id) = session.place,
            self.connections[id.index].isWritable, self.connections[id.index].isStarted
        else { return }
        var budget = self.limits.slowConsumerBytes
        sending: while true {
            if session.isAllSent {
                guard let next = session.queue.first else { break }
                if next.message.hasExpired(self.now) {
                    self.dropFirst(of: session)
                } else if next.qos == .atMostOnce {
                    // Nothing comes back that would call us again.
                    guard self.connections[id.index].turnBytes < self.limits.slowConsumerBytes else {
                        if !self.connections[id.index].waitsForTurn {
                            self.connections[id.index].waitsForTurn = true
                            self.actions.append(.pumpLater(id))
                        }
                        break sending
                    }
                    self.connections[id.index].turnBytes += next.message.size
                    _ = session.dequeue()
                    let header = Header(
                        qos: .atMostOnce, retain: next.retain, isDuplicate: false, packetID: 0,
                        subscriptionIDs: next.subscriptionIDs)
                    self.send(next.message, header, to: id)
                } else {
                    guard budget > 0, session.room > 0 else { break }
                    self.assignFirst(of: session)
                }
                continue
            }
            let position = session.sentOnConnection
            let entry = session.inflight[position]
            guard entry.state != .done else {
                session.markSent()
                continue
            }
            guard budget > 0, session.unacknowledged < session.window else { break }
            guard self.store.isCommitted(entry.change) else {
                // Those behind it get their identifiers now, so that they need not wait once more.
                while session.room > 0, let next = session.queue.first, next.qos != .atMostOnce {
                    if next.message.hasExpired(self.now) {
                        self.dropFirst(of: session)
                    } else {
                        self.assignFirst(of: session)
                    }
                }
                break sending
            }
            let packetID = session.packetID(at: position)
            session.markSent()
            guard let outgoing = entry.outgoing else {
                self.actions.append(.send(id, .pubRel(PubRel(packetID: packetID))))
                continue
            }
            budget -= outgoing.message.size
            let header = Header(
                qos: outgoing.qos, retain: outgoing.retain, isDuplicate: entry.wasSent, packetID: packetID,
                subscriptionIDs: outgoing.subscriptionIDs)
            if !self.send(outgoing.message, header, to: id) {
                // Too large for this client: as if it had acknowledged (MQTT-3.1.2-25).
                self.finish(position, of: session)
            }
        }
        if session.isOverflowing, session.queue.count <= self.limits.maximumQueuedMessages / 2,
            session.queuedBytes <= self.limits.maximumQueuedBytes / 2
        {
            session.isOverflowing = false
        }
    }

    /// The first of the queue has expired (MQTT-3.3.2-5).
    private mutating func dropFirst(of session: Session) {
        guard let outgoing = session.dequeue() else { return }
        self.statistics.drop(.expired)
        if session.isDurable, outgoing.place > 0 { self.persist(.complete(session.number, place: outgoing.place)) }
    }

    /// What a connection could not be sent in one go goes on.
    package mutating func pump(_ id: ConnectionID) {
        guard self.isOpen(id) else { return }
        self.connections[id.index].turnBytes = 0
        self.connections[id.index].waitsForTurn = false
        self.pump(self.connections[id.index].session)
    }

    /// Gives the first of the queue its packet identifier.
    private mutating func assignFirst(of session: Session) {
        guard let outgoing = session.dequeue() else { return }
        let position = session.inflight.count
        session.assign(outgoing)
        guard session.isDurable, outgoing.place > 0 else { return }
        self.persist(
            .send(session.number, place: outgoing.place, packetID: session.packetID(at: position)))
        if outgoing.qos == .exactlyOnce {
            session.setChange(self.store.changes, at: position)
            self.store.wait(for: self.store.changes, .pump(session))
        }
    }

    /// - Returns: `false` if the packet is larger than the client takes.
    @discardableResult
    private mutating func send(_ message: Message, _ header: Header, to id: ConnectionID) -> Bool {
        let limit = self.connections[id.index].maximumPacketSize
        // No packet is larger than the message's size and its identifiers: only near the limit it is measured.
        if limit != .max, message.size + 5 * header.subscriptionIDs.count > limit {
            let publish = message.publish(
                qos: header.qos, retain: header.retain, isDuplicate: header.isDuplicate, packetID: header.packetID,
                subscriptionIDs: header.subscriptionIDs, now: self.now)
            let size = try? publish.encodedHeaderSize(version: self.connections[id.index].version)
            guard let size, size + publish.payload.readableBytes <= limit else {
                self.statistics.drop(.tooLarge)
                return false
            }
        }
        self.statistics.messagesSent += 1
        self.actions.append(.deliver(id, message, header))
        return true
    }

    // MARK: Acknowledgements of clients (sections 3.4 to 3.7)

    /// PUBACK of a client. One that belongs to nothing is ignored.
    package mutating func acknowledged(_ packetID: UInt16, from id: ConnectionID) {
        guard self.isOpen(id), let session = self.sessions[self.connections[id.index].session],
            let position = session.position(of: packetID)
        else { return }
        guard session.inflight[position].qos == .atLeastOnce else {
            self.actions.append(.close(id, .protocolError, "PUBACK for a message of QoS 2"))
            return
        }
        self.finish(position, of: session)
        self.pump(session.index)
    }

    /// PUBREC of a client.
    package mutating func received(_ packet: PubRec, from id: ConnectionID) {
        guard self.isOpen(id), let session = self.sessions[self.connections[id.index].session] else { return }
        guard let position = session.position(of: packet.packetID) else {
            if !packet.reasonCode.isFailure {
                self.actions.append(
                    .send(
                        id, .pubRel(PubRel(packetID: packet.packetID, reasonCode: .packetIdentifierNotFound))))
            }
            return
        }
        let entry = session.inflight[position]
        guard entry.qos == .exactlyOnce else {
            self.actions.append(.close(id, .protocolError, "PUBREC for a message of QoS 1"))
            return
        }
        if packet.reasonCode.isFailure {
            // Not sent again, not even if it had been taken before (MQTT-4.3.3-4).
            self.finish(position, of: session)
            self.pump(session.index)
            return
        }
        guard entry.state == .published else {
            self.sendRelease(packet.packetID, of: session)
            return
        }
        session.release(at: position)
        let change = self.store.changes
        if session.isDurable, entry.place > 0 {
            self.persist(.release(session.number, place: entry.place))
            session.setChange(self.store.changes, at: position)
        }
        self.whenCommitted(since: change, .release(session, packet.packetID))
    }

    /// PUBREL, if its time has come on this connection; else ``pump(_:)`` sends it.
    mutating func sendRelease(_ packetID: UInt16, of session: Session) {
        guard case .connection(let id) = session.place, let position = session.position(of: packetID),
            session.inflight[position].state == .released,
            self.store.isCommitted(session.inflight[position].change)
        else { return }
        self.actions.append(.send(id, .pubRel(PubRel(packetID: packetID))))
    }

    /// PUBCOMP of a client. One that belongs to nothing is ignored.
    package mutating func completed(_ packetID: UInt16, from id: ConnectionID) {
        guard self.isOpen(id), let session = self.sessions[self.connections[id.index].session],
            let position = session.position(of: packetID)
        else { return }
        guard session.inflight[position].state == .released else {
            self.actions.append(.close(id, .protocolError, "PUBCOMP without PUBREC"))
            return
        }
        self.finish(position, of: session)
        self.pump(session.index)
    }

    private mutating func finish(_ position: Int, of session: Session) {
        let place = session.inflight[position].place
        if session.isDurable, place > 0 { self.persist(.complete(session.number, place: place)) }
        session.finish(at: position)
    }
}
