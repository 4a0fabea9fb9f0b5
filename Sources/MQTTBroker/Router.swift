// The broker's core: sessions, subscriptions, deliveries and acknowledgements as a state machine. Packets
// and events go in, actions come out; there is no I/O, no clock and no thread in here.

import DequeModule
package import Identity
package import MQTT
import NIOCore

/// A connection that has a session. The index is used again, with another generation.
package struct ConnectionID: Hashable {
    package let index: Int
    package let generation: UInt32
}

package struct Router {
    /// What the broker has to do, in order.
    package enum Action {
        case send(ConnectionID, Packet)
        case acknowledge(ConnectionID, packetID: UInt16, ReasonCode)
        case deliver(ConnectionID, Message, Header)
        /// `token` comes back by ``Router/settle(_:)``; `nil` if nobody waits.
        case deliverInProcess(Int, Message, QoS, retain: Bool, token: UInt64?)
        /// Say why (5.0), then close.
        case close(ConnectionID, ReasonCode, String)
        /// Read no more from it until ``resume``.
        case hold(ConnectionID)
        case resume(ConnectionID)
        case event(BrokerEvent)
    }

    /// How a message is delivered to one client.
    package struct Header {
        package var qos: QoS
        package var retain: Bool
        package var isDuplicate: Bool
        package var packetID: UInt16
        package var subscriptionIDs: [UInt32]
    }

    package enum ConnectOutcome {
        /// Send the CONNACK, then call ``Router/start(_:)``.
        case accepted(ConnectionID, ConnAck, keepAlive: UInt16)
        case refused(ReasonCode, String)
    }

    /// To be carried out and emptied by the caller after every call.
    package var actions: ContiguousArray<Action> = []
    package private(set) var statistics = BrokerStatistics()
    /// Seconds of a clock that never goes back.
    package private(set) var now: UInt64 = 0

    private struct Connection {
        var generation: UInt32 = 0
        var isOpen = false
        var session = 0
        var peer: PeerIdentity?
        var clientID = ""
        var version = ProtocolVersion.v3_1_1
        var maximumPacketSize = Int.max
        var isWritable = true
        var isHeld = false
        /// Publishes of QoS 1 whose PUBACK waits for a settlement, or for one before it (MQTT-4.6.0-2).
        var pending: Deque<PendingAcknowledgement> = []
        /// Counts what left `pending`, so that a settlement finds its place.
        var pendingBase: UInt64 = 0
        var route: Route?
    }

    private struct PendingAcknowledgement {
        var packetID: UInt16
        var reasonCode: ReasonCode
        /// In-process sessions that have not settled.
        var waiting: Int
    }

    /// Where the last topic of a publisher goes. Publishers repeat themselves.
    private struct Route {
        var topic: TopicName
        var generation: UInt64
        var targets: [Target]
    }

    private struct Target {
        var session: Int
        var qos: QoS
        var retainAsPublished: Bool
        var subscriptionIDs: [UInt32]
    }

    private struct Settlement {
        var connection: ConnectionID
        var place: UInt64
        var inProcess: Int
    }

    private struct InProcess {
        var session: Int
        var isFull = false
    }

    private let limits: BrokerLimits
    private let authorizer: any Authorizer
    private var connections: ContiguousArray<Connection> = []
    private var freeConnections: [Int] = []
    private var sessions: ContiguousArray<Session?> = []
    private var freeSessions: [Int] = []
    private var sessionIndex: [SessionKey: Int] = [:]
    private var sessionsOfOwner: [String: Int] = [:]
    private var tree = SubscriptionTree()
    private var retained = RetainedStore()
    private var inProcess: [Int: InProcess] = [:]
    private var settlements: [UInt64: Settlement] = [:]
    private var nextToken: UInt64 = 1
    private var stamp: UInt64 = 0
    private var scratch: [SubscriptionTree.Entry] = []

    package init(limits: BrokerLimits, authorizer: any Authorizer) {
        self.limits = limits
        self.authorizer = authorizer
    }

    // MARK: Connections

    /// A CONNECT of an authenticated peer.
    package mutating func connect(
        _ packet: Connect, peer: PeerIdentity, assignedClientID: () -> String
    ) -> ConnectOutcome {
        if let reason = self.authorizer.refusalToConnect(peer) { return .refused(.notAuthorized, reason) }
        guard packet.will == nil else {
            return .refused(.notAuthorized, "wills are not supported")
        }
        guard packet.properties.authenticationMethod == nil else {
            return .refused(.badAuthenticationMethod, "extended authentication is not supported")
        }
        guard packet.clientID.utf8.count <= self.limits.maximumClientIDLength else {
            return .refused(.clientIdentifierNotValid, "the client identifier is too long")
        }
        guard !packet.clientID.isEmpty || packet.cleanStart || packet.version == .v5_0 else {
            return .refused(.clientIdentifierNotValid, "an empty client identifier needs a clean session")
        }
        let clientID = packet.clientID.isEmpty ? assignedClientID() : packet.clientID
        let key = SessionKey(peer, clientID)

        var found = self.sessionIndex[key]
        if let index = found, case .inProcess = self.place(of: index) {
            return .refused(.clientIdentifierNotValid, "an in-process session has this client identifier")
        }
        if let index = found, case .connection(let old) = self.place(of: index) {
            self.actions.append(.close(old, .sessionTakenOver, "its session was taken over by a new connection"))
        }
        if let index = found, packet.cleanStart {
            self.removeSession(index)
            found = nil
        }
        guard found != nil || self.sessionsOfOwner[key.owner, default: 0] < self.limits.maximumSessionsPerIdentity
        else { return .refused(.quotaExceeded, "this identity has too many sessions") }

        let asked =
            packet.version == .v5_0
            ? packet.properties.sessionExpiryInterval ?? 0 : packet.cleanStart ? 0 : UInt32.max
        let expiry = min(asked, self.limits.maximumSessionExpiry)
        let id = self.openConnection(packet, peer)
        let index =
            found
            ?? self.addSession(
                Session(key: key, clientID: clientID, peer: peer, place: .nowhere, expiry: expiry))
        self.connections[id.index].session = index
        self.connections[id.index].clientID = clientID
        self.sessions[index]?.place = .connection(id)
        self.sessions[index]?.peer = peer
        self.sessions[index]?.expiry = expiry
        self.sessions[index]?.sentOnConnection = 0
        self.sessions[index]?.window = min(
            Int(packet.properties.receiveMaximum ?? .max), self.limits.maximumInflight)

        var keepAlive = packet.keepAlive
        var properties = Properties()
        if packet.version == .v5_0 {
            if expiry != asked { properties.append(.sessionExpiryInterval(expiry)) }
            properties.append(.receiveMaximum(self.limits.receiveMaximum))
            properties.append(.maximumQoS(.atLeastOnce))
            properties.append(.maximumPacketSize(UInt32(clamping: self.limits.maximumPacketSize)))
            if packet.clientID.isEmpty { properties.append(.assignedClientIdentifier(clientID)) }
            properties.append(.sharedSubscriptionAvailable(false))
            if keepAlive == 0 || keepAlive > self.limits.maximumKeepAlive {
                keepAlive = self.limits.maximumKeepAlive
                properties.append(.serverKeepAlive(keepAlive))
            }
        }
        self.actions.append(.event(.connected(peer: peer, clientID: clientID, version: packet.version)))
        let connAck = ConnAck(sessionPresent: found != nil, reasonCode: .success, properties: properties)
        return .accepted(id, connAck, keepAlive: keepAlive)
    }

    private mutating func openConnection(_ packet: Connect, _ peer: PeerIdentity) -> ConnectionID {
        let index: Int
        if let free = self.freeConnections.popLast() {
            index = free
        } else {
            index = self.connections.count
            self.connections.append(Connection())
        }
        var connection = Connection()
        connection.generation = self.connections[index].generation &+ 1
        connection.isOpen = true
        connection.peer = peer
        connection.version = packet.version
        connection.maximumPacketSize = packet.properties.maximumPacketSize.map { Int($0) } ?? .max
        self.connections[index] = connection
        self.statistics.connections += 1
        return ConnectionID(index: index, generation: connection.generation)
    }

    /// The CONNACK is on its way: what waits in the session may follow.
    package mutating func start(_ id: ConnectionID) {
        guard self.isOpen(id) else { return }
        self.pump(self.connections[id.index].session)
    }

    /// The connection is gone, for whatever reason.
    package mutating func connectionLost(_ id: ConnectionID, reason: String) {
        guard self.isOpen(id) else { return }
        let index = self.connections[id.index].session
        let peer = self.connections[id.index].peer
        self.connections[id.index].isOpen = false
        self.connections[id.index].pending = []
        self.connections[id.index].route = nil
        self.freeConnections.append(id.index)
        self.statistics.connections -= 1
        if let peer {
            let clientID = self.connections[id.index].clientID
            self.actions.append(.event(.disconnected(peer: peer, clientID: clientID, reason: reason)))
        }
        // After a takeover the session belongs to another connection, or to another session already.
        guard let session = self.sessions[index], session.place == .connection(id) else { return }
        self.sessions[index]?.place = .nowhere
        self.sessions[index]?.sentOnConnection = 0
        self.sessions[index]?.disconnectedAt = self.now
        if session.expiry == 0 { self.removeSession(index) }
    }

    /// DISCONNECT from the client; it closes afterwards.
    package mutating func disconnect(_ packet: Disconnect, from id: ConnectionID) {
        guard self.isOpen(id) else { return }
        let index = self.connections[id.index].session
        guard let expiry = packet.properties.sessionExpiryInterval else { return }
        guard self.sessions[index]?.expiry != 0 || expiry == 0 else {
            self.actions.append(
                .close(id, .protocolError, "a session without expiry cannot get one at the end (section 3.14.2.2.2)"))
            return
        }
        self.sessions[index]?.expiry = min(expiry, self.limits.maximumSessionExpiry)
    }

    /// Whether the client takes what is sent to it. What is slow is told apart here from what is not.
    package mutating func setWritable(_ id: ConnectionID, _ isWritable: Bool) {
        guard self.isOpen(id), self.connections[id.index].isWritable != isWritable else { return }
        self.connections[id.index].isWritable = isWritable
        if isWritable { self.pump(self.connections[id.index].session) }
    }

    /// Whether it may not be read from now.
    package func isHeld(_ id: ConnectionID) -> Bool { self.isOpen(id) && self.connections[id.index].isHeld }

    private func isOpen(_ id: ConnectionID) -> Bool {
        let connection = self.connections[id.index]
        return connection.isOpen && connection.generation == id.generation
    }

    private func place(of session: Int) -> Session.Place { self.sessions[session]?.place ?? .nowhere }

    // MARK: Sessions

    private mutating func addSession(_ session: Session) -> Int {
        let index: Int
        if let free = self.freeSessions.popLast() {
            index = free
            self.sessions[index] = session
        } else {
            index = self.sessions.count
            self.sessions.append(session)
        }
        self.sessionIndex[session.key] = index
        self.sessionsOfOwner[session.key.owner, default: 0] += 1
        self.statistics.sessions += 1
        return index
    }

    private mutating func removeSession(_ index: Int) {
        guard let session = self.sessions[index] else { return }
        for filter in session.subscriptions.keys { self.tree.remove(session: index, filter) }
        self.sessions[index] = nil
        self.freeSessions.append(index)
        self.sessionIndex[session.key] = nil
        let left = self.sessionsOfOwner[session.key.owner, default: 1] - 1
        self.sessionsOfOwner[session.key.owner] = left == 0 ? nil : left
        self.statistics.sessions -= 1
    }

    /// Time has passed: ends sessions and retained messages that are past their time.
    ///
    /// - Parameter now: seconds, never less than before.
    package mutating func advance(to now: UInt64) {
        guard now > self.now else { return }
        self.now = now
        for index in self.sessions.indices {
            guard let session = self.sessions[index], session.place == .nowhere,
                session.disconnectedAt + UInt64(session.expiry) <= now
            else { continue }
            self.removeSession(index)
        }
        self.retained.removeExpired(now: now)
    }

    /// Ends the sessions without connection of everybody for whom `isUnwanted` holds.
    package mutating func removeSessions(where isUnwanted: (PeerIdentity) -> Bool) {
        for index in self.sessions.indices {
            guard let session = self.sessions[index], session.place == .nowhere, isUnwanted(session.peer) else {
                continue
            }
            self.removeSession(index)
        }
    }

    // MARK: Subscriptions

    package mutating func subscribe(_ packet: Subscribe, from id: ConnectionID) {
        guard self.isOpen(id), let peer = self.connections[id.index].peer else { return }
        let index = self.connections[id.index].session
        let identifier = packet.properties.subscriptionIdentifiers.first
        var codes: [ReasonCode] = []
        var granted: [(Subscription, isNew: Bool)] = []
        for subscription in packet.subscriptions {
            if let (code, reason) = self.refusal(of: subscription, index, peer) {
                codes.append(code)
                self.statistics.subscriptionsRefused += 1
                self.actions.append(
                    .event(.subscribeRefused(peer: peer, filter: subscription.filter, reason: reason)))
                continue
            }
            let isNew = self.sessions[index]?.subscriptions[subscription.filter] == nil
            self.insert(subscription, identifier: identifier, session: index)
            codes.append(min(subscription.maximumQoS, .atLeastOnce) == .atLeastOnce ? .grantedQoS1 : .grantedQoS0)
            granted.append((subscription, isNew))
        }
        self.actions.append(.send(id, .subAck(SubAck(packetID: packet.packetID, reasonCodes: codes))))
        for (subscription, isNew) in granted {
            switch subscription.retainHandling {
            case .doNotSend: continue
            case .sendIfNew where !isNew: continue
            case .send, .sendIfNew: self.sendRetained(subscription, identifier: identifier, session: index)
            }
        }
    }

    private func refusal(
        of subscription: Subscription, _ session: Int, _ peer: PeerIdentity
    ) -> (ReasonCode, String)? {
        guard subscription.filter.shareName == nil else { return (.sharedSubscriptionsNotSupported, "shared") }
        if let reason = self.authorizer.refusalToSubscribe(subscription.filter, by: peer) {
            return (.notAuthorized, reason)
        }
        guard let held = self.sessions[session]?.subscriptions,
            held.count < self.limits.maximumSubscriptionsPerSession || held[subscription.filter] != nil
        else { return (.quotaExceeded, "quota") }
        return nil
    }

    private mutating func insert(_ subscription: Subscription, identifier: UInt32?, session: Int) {
        self.sessions[session]?.subscriptions[subscription.filter] = .some(identifier)
        self.tree.insert(
            SubscriptionTree.Entry(
                session: session, qos: min(subscription.maximumQoS, .atLeastOnce), noLocal: subscription.noLocal,
                retainAsPublished: subscription.retainAsPublished, identifier: identifier),
            subscription.filter)
    }

    private mutating func sendRetained(_ subscription: Subscription, identifier: UInt32?, session: Int) {
        for entry in self.retained.matching(subscription.filter, now: self.now) {
            self.deliver(
                entry.message, to: session, qos: min(entry.qos, subscription.maximumQoS), retain: true,
                subscriptionIDs: identifier.map { [$0] } ?? [], settlement: nil)
        }
    }

    package mutating func unsubscribe(_ packet: Unsubscribe, from id: ConnectionID) {
        guard self.isOpen(id) else { return }
        let index = self.connections[id.index].session
        var codes: [ReasonCode] = []
        for filter in packet.filters {
            if self.sessions[index]?.subscriptions.removeValue(forKey: filter) != nil {
                self.tree.remove(session: index, filter)
                codes.append(.success)
            } else {
                codes.append(.noSubscriptionExisted)
            }
        }
        self.actions.append(.send(id, .unsubAck(UnsubAck(packetID: packet.packetID, reasonCodes: codes))))
    }

    // MARK: Publishing

    /// A PUBLISH of a client.
    package mutating func publish(_ publish: Publish, from id: ConnectionID) {
        guard self.isOpen(id), let peer = self.connections[id.index].peer else { return }
        self.statistics.messagesReceived += 1
        guard publish.qos != .exactlyOnce else {
            self.actions.append(.event(.publishRefused(peer: peer, topic: publish.topic, reason: "qos")))
            self.actions.append(.close(id, .qosNotSupported, "QoS 2 is not supported"))
            return
        }
        guard self.connections[id.index].pending.count < Int(self.limits.receiveMaximum) else {
            // A client of 3.1.1 is held before that.
            self.actions.append(.close(id, .receiveMaximumExceeded, "more publishes than the Receive Maximum"))
            return
        }
        guard let targets = self.route(publish, from: id, peer) else { return }

        let message = Message(publish, sender: peer, now: self.now)
        if publish.retain, !self.retained.store(message, qos: publish.qos, limits: self.limits) {
            self.refuse(publish, from: id, peer, .quotaExceeded, "quota")
            return
        }
        let isAcknowledged = publish.qos == .atLeastOnce
        let settlement =
            isAcknowledged
            ? Settlement(
                connection: id,
                place: self.connections[id.index].pendingBase + UInt64(self.connections[id.index].pending.count),
                inProcess: 0)
            : nil
        var waiting = 0
        for target in targets {
            let isWaitedFor = self.deliver(
                message, to: target.session, qos: min(publish.qos, target.qos),
                retain: publish.retain && target.retainAsPublished, subscriptionIDs: target.subscriptionIDs,
                settlement: settlement)
            if isWaitedFor { waiting += 1 }
            if case .inProcess(let local) = self.place(of: target.session), self.inProcess[local]?.isFull == true {
                self.hold(id)
            }
        }
        if isAcknowledged { self.acknowledge(publish.packetID, .success, waiting: waiting, id) }
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

    /// Each session once, with the highest QoS and all the identifiers of its subscriptions that match.
    private mutating func targets(_ topic: TopicName, publisher: Int?) -> [Target] {
        var entries: [SubscriptionTree.Entry] = []
        swap(&entries, &self.scratch)
        entries.removeAll(keepingCapacity: true)
        self.tree.forEachMatch(topic) { entries.append($0) }
        self.stamp += 1
        var targets: [Target] = []
        for entry in entries where !(entry.noLocal && entry.session == publisher) {
            if let session = self.sessions[entry.session], session.stamp == self.stamp {
                targets[session.slot].qos = max(targets[session.slot].qos, entry.qos)
                targets[session.slot].retainAsPublished =
                    targets[session.slot].retainAsPublished || entry.retainAsPublished
                if let identifier = entry.identifier { targets[session.slot].subscriptionIDs.append(identifier) }
            } else {
                self.sessions[entry.session]?.stamp = self.stamp
                self.sessions[entry.session]?.slot = targets.count
                targets.append(
                    Target(
                        session: entry.session, qos: entry.qos, retainAsPublished: entry.retainAsPublished,
                        subscriptionIDs: entry.identifier.map { [$0] } ?? []))
            }
        }
        swap(&entries, &self.scratch)
        return targets
    }

    /// 5.0 can be told and goes on; 3.1.1 has no such answer, so its connection ends (3.1.1 section 3.3.5).
    private mutating func refuse(
        _ publish: Publish, from id: ConnectionID, _ peer: PeerIdentity, _ code: ReasonCode, _ reason: String
    ) {
        self.statistics.publishesRefused += 1
        self.actions.append(.event(.publishRefused(peer: peer, topic: publish.topic, reason: reason)))
        if self.connections[id.index].version == .v3_1_1 {
            self.actions.append(.close(id, code, "may not publish there: \(reason)"))
        } else if publish.qos == .atLeastOnce {
            self.acknowledge(publish.packetID, code, waiting: 0, id)
        }
    }

    private mutating func acknowledge(_ packetID: UInt16, _ code: ReasonCode, waiting: Int, _ id: ConnectionID) {
        guard waiting > 0 || !self.connections[id.index].pending.isEmpty else {
            self.actions.append(.acknowledge(id, packetID: packetID, code))
            return
        }
        self.connections[id.index].pending.append(
            PendingAcknowledgement(packetID: packetID, reasonCode: code, waiting: waiting))
        if self.connections[id.index].version == .v3_1_1,
            self.connections[id.index].pending.count >= Int(self.limits.receiveMaximum)
        {
            self.hold(id)
        }
    }

    private mutating func hold(_ id: ConnectionID) {
        guard !self.connections[id.index].isHeld else { return }
        self.connections[id.index].isHeld = true
        self.actions.append(.hold(id))
    }

    // MARK: Settlement

    /// An in-process session has dealt with a message: its publisher gets the PUBACK, in its turn.
    package mutating func settle(_ token: UInt64) {
        guard let settlement = self.settlements.removeValue(forKey: token), self.isOpen(settlement.connection) else {
            return
        }
        let id = settlement.connection
        let position = Int(settlement.place - self.connections[id.index].pendingBase)
        guard self.connections[id.index].pending.indices.contains(position) else { return }
        self.connections[id.index].pending[position].waiting -= 1
        while let first = self.connections[id.index].pending.first, first.waiting == 0 {
            self.connections[id.index].pending.removeFirst()
            self.connections[id.index].pendingBase += 1
            self.actions.append(.acknowledge(id, packetID: first.packetID, first.reasonCode))
        }
        self.resumeIfPossible(id)
    }

    private mutating func resumeIfPossible(_ id: ConnectionID) {
        guard self.connections[id.index].isHeld,
            self.connections[id.index].pending.count <= Int(self.limits.receiveMaximum) / 2,
            !self.inProcess.values.contains(where: \.isFull)
        else { return }
        self.connections[id.index].isHeld = false
        self.actions.append(.resume(id))
    }

    // MARK: In-process sessions

    /// Opens a session that lives in this process.
    ///
    /// - Returns: the refusal of the first subscription that is not allowed, if any; then there is no session.
    package mutating func openInProcess(
        _ local: Int, peer: PeerIdentity, clientID: String, subscriptions: [Subscription]
    ) -> String? {
        if let reason = self.authorizer.refusalToConnect(peer) { return reason }
        for subscription in subscriptions {
            if subscription.filter.shareName != nil { return "shared" }
            if let reason = self.authorizer.refusalToSubscribe(subscription.filter, by: peer) { return reason }
        }
        let key = SessionKey(peer, clientID)
        if let index = self.sessionIndex[key] {
            switch self.place(of: index) {
            case .inProcess: return "this client identifier is in use"
            case .connection(let old):
                self.actions.append(.close(old, .sessionTakenOver, "its session was taken over by the broker's own"))
            case .nowhere: break
            }
            self.removeSession(index)
        }
        let index = self.addSession(
            Session(key: key, clientID: clientID, peer: peer, place: .inProcess(local), expiry: 0))
        self.inProcess[local] = InProcess(session: index)
        for subscription in subscriptions { self.insert(subscription, identifier: nil, session: index) }
        for subscription in subscriptions { self.sendRetained(subscription, identifier: nil, session: index) }
        return nil
    }

    /// Ends an in-process session. Whoever waits for its settlement is disconnected, and will send again.
    package mutating func closeInProcess(_ local: Int) {
        guard let state = self.inProcess.removeValue(forKey: local) else { return }
        self.removeSession(state.session)
        var waiting: Set<ConnectionID> = []
        for (token, settlement) in self.settlements where settlement.inProcess == local {
            self.settlements[token] = nil
            if self.isOpen(settlement.connection) { waiting.insert(settlement.connection) }
        }
        for id in waiting {
            self.actions.append(.close(id, .serverShuttingDown, "the session that its messages were for has closed"))
        }
        self.resumeAll()
    }

    /// Whether an in-process session has so much to receive that its publishers must wait.
    package mutating func setFull(_ local: Int, _ isFull: Bool) {
        self.inProcess[local]?.isFull = isFull
        if !isFull { self.resumeAll() }
    }

    private mutating func resumeAll() {
        for index in self.connections.indices where self.connections[index].isOpen {
            self.resumeIfPossible(ConnectionID(index: index, generation: self.connections[index].generation))
        }
    }

    /// A message published by an in-process session.
    ///
    /// - Returns: the refusal, if it was refused.
    package mutating func publish(_ publish: Publish, fromInProcess local: Int) -> String? {
        guard let state = self.inProcess[local], let peer = self.sessions[state.session]?.peer else { return "closed" }
        self.statistics.messagesReceived += 1
        if let reason = self.authorizer.refusalToPublish(publish.topic, isRetained: publish.retain, by: peer) {
            self.statistics.publishesRefused += 1
            self.actions.append(.event(.publishRefused(peer: peer, topic: publish.topic, reason: reason)))
            return reason
        }
        let message = Message(publish, sender: peer, now: self.now, isKept: true)
        if publish.retain, !self.retained.store(message, qos: publish.qos, limits: self.limits) { return "quota" }
        for target in self.targets(publish.topic, publisher: state.session) {
            self.deliver(
                message, to: target.session, qos: min(publish.qos, target.qos),
                retain: publish.retain && target.retainAsPublished, subscriptionIDs: target.subscriptionIDs,
                settlement: nil)
        }
        return nil
    }

    /// A message of the broker's own, below `$SYS`: not retained, QoS 0, and nobody is asked whether it may be.
    ///
    /// - Returns: whether anybody has subscribed to it.
    mutating func publishOwn(_ topic: TopicName, _ payload: ByteBuffer) -> Bool {
        let targets = self.targets(topic, publisher: nil)
        guard !targets.isEmpty else { return false }
        let publish = Publish(topic: topic, payload: payload, qos: .atMostOnce, packetID: 0)
        let message = Message(publish, sender: nil, now: self.now, isKept: true)
        for target in targets {
            self.deliver(
                message, to: target.session, qos: .atMostOnce, retain: false,
                subscriptionIDs: target.subscriptionIDs, settlement: nil)
        }
        return true
    }

    // MARK: Delivering

    /// - Returns: whether an in-process session will settle it.
    @discardableResult
    private mutating func deliver(
        _ message: Message, to index: Int, qos: QoS, retain: Bool, subscriptionIDs: [UInt32], settlement: Settlement?
    ) -> Bool {
        switch self.place(of: index) {
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
                self.statistics.messagesDropped += 1
                return false
            }
            let header = Header(
                qos: .atMostOnce, retain: retain, isDuplicate: false, packetID: 0, subscriptionIDs: subscriptionIDs)
            self.send(message, header, to: id)
        case .nowhere where qos == .atMostOnce:
            self.statistics.messagesDropped += 1
        case .connection, .nowhere:
            self.queue(
                Session.Outgoing(message: message, retain: retain, subscriptionIDs: subscriptionIDs), for: index)
        }
        return false
    }

    private mutating func queue(_ outgoing: Session.Outgoing, for index: Int) {
        guard let session = self.sessions[index] else { return }
        let size = outgoing.message.payload.readableBytes
        guard session.queue.count < self.limits.maximumQueuedMessages,
            session.queuedBytes + size <= self.limits.maximumQueuedBytes
        else {
            self.statistics.messagesDropped += 1
            self.sessions[index]?.lost += 1
            guard !session.isOverflowing else { return }
            self.sessions[index]?.isOverflowing = true
            self.actions.append(.event(.queueFull(peer: session.peer, clientID: session.clientID)))
            if case .connection(let id) = session.place {
                self.actions.append(.close(id, .quotaExceeded, "too slow: its queue is full"))
            }
            return
        }
        self.sessions[index]?.enqueue(outgoing)
        self.pump(index)
    }

    /// Sends what a session has to send and its window has room for: what was sent before and not
    /// acknowledged comes first, as a duplicate, with its old identifier (MQTT-4.4.0-1).
    private mutating func pump(_ index: Int) {
        guard case .connection(let id) = self.place(of: index), self.connections[id.index].isWritable else { return }
        guard let session = self.sessions[index] else { return }
        var budget = self.limits.slowConsumerBytes
        while budget > 0, session.sentOnConnection < session.window {
            let position = session.sentOnConnection
            let isDuplicate = position < session.inflight.count
            if isDuplicate {
                session.sentOnConnection += 1
                guard !session.inflight[position].isAcknowledged else { continue }
            } else {
                guard let next = session.dequeue() else { break }
                if let expiry = next.message.expiry, expiry <= self.now { continue }
                session.inflight.append(Session.Inflight(outgoing: next))
                session.sentOnConnection += 1
            }
            let outgoing = session.inflight[position].outgoing
            let header = Header(
                qos: .atLeastOnce, retain: outgoing.retain, isDuplicate: isDuplicate,
                packetID: session.packetID(at: position), subscriptionIDs: outgoing.subscriptionIDs)
            budget -= outgoing.message.payload.readableBytes + 64
            if !self.send(outgoing.message, header, to: id) {
                // Too large for this client: as if it had acknowledged (MQTT-3.1.2-25).
                session.acknowledge(header.packetID)
            }
        }
        if session.isOverflowing, session.queue.count <= self.limits.maximumQueuedMessages / 2,
            session.queuedBytes <= self.limits.maximumQueuedBytes / 2
        {
            self.sessions[index]?.isOverflowing = false
        }
    }

    /// - Returns: `false` if the packet is larger than the client takes.
    @discardableResult
    private mutating func send(_ message: Message, _ header: Header, to id: ConnectionID) -> Bool {
        let limit = self.connections[id.index].maximumPacketSize
        if limit < self.limits.maximumPacketSize + 4_096 {
            let publish = message.publish(
                qos: header.qos, retain: header.retain, isDuplicate: header.isDuplicate, packetID: header.packetID,
                subscriptionIDs: header.subscriptionIDs, now: self.now)
            let size = try? publish.encodedHeaderSize(version: self.connections[id.index].version)
            guard let size, size + publish.payload.readableBytes <= limit else {
                self.statistics.messagesDropped += 1
                return false
            }
        }
        self.statistics.messagesSent += 1
        self.actions.append(.deliver(id, message, header))
        return true
    }

    /// PUBACK of a client.
    package mutating func acknowledged(_ packetID: UInt16, from id: ConnectionID) {
        guard self.isOpen(id) else { return }
        let index = self.connections[id.index].session
        self.sessions[index]?.acknowledge(packetID)
        self.pump(index)
    }
}
