// MQTT 3.1.1 and 5.0 chapter 4, the client's side.

import DequeModule
package import MQTT
import NIOCore

/// How a request ended.
package enum Outcome: Hashable, Sendable {
    /// QoS 1 and 2: acknowledged. QoS 0: handed to the network. To be delivered later: stored.
    case done
    /// SUBACK or UNSUBACK, with a code for each filter (none in a 3.1.1 UNSUBACK).
    case answered([ReasonCode])
    case failed(MQTTClientError)
    /// Whoever waited for it no longer does.
    case cancelled
}

/// A client's session with a server as a value: packets and requests in, actions out, no I/O.
///
/// It outlives connections. `Waiter` stands for whoever waits for a request; it is handed back exactly once.
/// With a store, ``takeChanges()`` must be made durable before the actions that came with them are performed.
package struct ClientSession<Waiter: Sendable>: Sendable {
    /// What is to be done, in this order.
    package enum Action: Sendable {
        case send(Packet)
        /// A message for us; with a token if it is to be settled.
        case deliver(Publish, token: UInt64?)
        case complete(Waiter, Outcome)
        /// Connected, and every subscription granted.
        case ready(ServerInformation)
        /// The server's next word in an authentication; ``ClientSession/authenticate(with:into:)`` answers it.
        case challenge([UInt8])
        /// The server is satisfied, and may have proved who it is. `waiter`: who asked for it.
        case authenticated([UInt8]?, waiter: Waiter?)
        /// The server refuses a message for which nobody waits.
        case undeliverable(OutgoingMessage, MQTTClientError)
    }

    /// What is asked of the server beside publishing.
    package enum Request: Sendable {
        /// 5.0: with an identifier.
        case subscribe([Subscription], identifier: UInt32?)
        case unsubscribe([TopicFilter])
        /// With the method's first data.
        case reauthenticate([UInt8]?)
    }

    private enum Phase: Hashable, Sendable {
        case disconnected
        case awaitingConnAck
        case awaitingSubAck(packetID: UInt16)
        case ready
    }

    /// A publish above QoS 0 on its way.
    struct InFlight: Sendable {
        var waiter: Waiter?
        /// Kept only if it may have to be sent again; `nil` as well when the server has it.
        var publish: Publish?
        /// QoS 2: PUBREC has come, PUBREL is to go or has gone.
        var isReleased = false
        var qos: QoS
        /// Sent on this connection.
        var isSent: Bool
        /// Takes a place in the server's window. Not so a PUBREL that is sent again (section 4.9).
        var holdsPlace = true
        /// In the store.
        var number: UInt64?
    }

    struct Waiting: Sendable {
        var message: OutgoingMessage
        var waiter: Waiter?
        var number: UInt64?
    }

    private struct Asked: Sendable {
        var waiter: Waiter
        /// How many codes the answer has.
        var count: Int
        var isSubscribe: Bool
    }

    /// More filters than these are asked for one after the other.
    private static var maximumAsked: Int { 64 }
    /// Leaves packet identifiers for SUBSCRIBE and UNSUBSCRIBE.
    private static var maximumInFlight: Int { 65_000 }

    let configuration: MQTTClientConfiguration
    /// Whether a lost connection leaves publishes waiting. With a store, always.
    let resends: Bool
    let isDurable: Bool
    private var phase = Phase.disconnected
    private var isShuttingDown = false

    private var inFlight: [UInt16: InFlight] = [:]
    /// Those of an earlier connection that are to be sent again, in their order.
    private var toResend: Deque<UInt16> = []
    /// The order in which `inFlight` was first sent. Acknowledged ones leave when they reach the front.
    private var order: Deque<UInt16> = []
    private var waiting: Deque<Waiting> = []
    private var lastPacketID: UInt16 = 0
    private var inbound = InboundWindow()

    private var asked: [UInt16: Asked] = [:]
    /// Identifiers of SUBSCRIBE and UNSUBSCRIBE whose answer nobody waits for any more.
    private var abandoned: Set<UInt16> = []
    private var toAsk: Deque<(request: Request, waiter: Waiter)> = []
    /// Who waits for a re-authentication; `.some(nil)` if nobody does any more.
    private var reauthentication: Waiter??

    /// Free places in the server's window (MQTT 5.0 section 4.9).
    private var quota = 0
    private var aliases = OutboundAliases(maximum: 0)
    /// What the server said of itself at the last CONNACK.
    package private(set) var server = ServerInformation()
    /// Whether we know what the server's session holds of us. A new process without a store does not.
    private var knowsSession = false

    private var changes: [SessionChange] = []
    private var lastNumber: UInt64 = 0

    /// Whether the network takes more now. While it doesn't, publishes wait here.
    package private(set) var isWritable = true

    /// Seconds; 0 for none. The server's wish, once connected.
    package private(set) var keepAlive: Int64

    /// - Parameter stored: What a store holds; `nil`: there is none.
    package init(configuration: MQTTClientConfiguration, stored: StoredSession? = nil) {
        self.configuration = configuration
        self.isDurable = stored != nil
        self.resends = self.isDurable || configuration.unacknowledged == .resend
        self.keepAlive = MQTTClientConfiguration.seconds(configuration.keepAlive, limit: 65_535)
        if let stored { self.restore(stored) }
    }

    private mutating func restore(_ stored: StoredSession) {
        self.knowsSession = stored.hasBegun
        self.inbound.restore(received: stored.received)
        for message in stored.messages {
            self.lastNumber = max(self.lastNumber, message.number)
            if let packetID = message.packetID {
                self.lastPacketID = packetID
                self.order.append(packetID)
                self.inFlight[packetID] = InFlight(
                    publish: message.isReleased ? nil : message.message.publish(packetID: packetID),
                    isReleased: message.isReleased, qos: message.message.qos, isSent: false, number: message.number)
            } else if message.isReleased {
                // The server had it, and then lost its session: nothing more can be done.
                self.change(.finished(number: message.number))
            } else {
                self.waiting.append(Waiting(message: message.message, number: message.number))
            }
        }
        self.toResend = self.order
    }

    package var isReady: Bool { self.phase == .ready }

    /// Publishes that are unacknowledged or wait for a place.
    package var outstanding: Int { self.inFlight.count + self.waiting.count }

    /// So many deliveries are unsettled that no more should be read. 5.0 needs no such brake: there the server
    /// keeps to the maximum.
    package var isInboundFull: Bool {
        self.configuration.version == .v3_1_1 && self.inbound.count >= Int(self.configuration.receiveMaximum)
    }

    // MARK: The store

    /// What has changed since this was last asked. Always empty without a store.
    package mutating func takeChanges() -> [SessionChange] {
        defer { self.changes = [] }
        return self.changes
    }

    package var hasChanges: Bool { !self.changes.isEmpty }

    private mutating func change(_ change: SessionChange) {
        if self.isDurable { self.changes.append(change) }
    }

    private mutating func finish(_ number: UInt64?) {
        if let number { self.change(.finished(number: number)) }
    }

    // MARK: Connecting

    /// The network is there: asks to be let in.
    ///
    /// - Parameter authentication: What the authentication method begins with.
    package mutating func connect(authentication: [UInt8]? = nil, into actions: inout [Action]) {
        self.phase = .awaitingConnAck
        self.isWritable = true
        self.keepAlive = MQTTClientConfiguration.seconds(self.configuration.keepAlive, limit: 65_535)
        actions.append(.send(.connect(self.configuration.connect(authentication: authentication))))
    }

    /// The network is gone.
    ///
    /// - Parameters:
    ///   - error: What waiting requests are told.
    ///   - isFinal: No connection will follow, so all of them are told.
    package mutating func disconnected(_ error: MQTTClientError, isFinal: Bool, into actions: inout [Action]) {
        self.phase = .disconnected
        self.inbound.reset()
        for packetID in self.asked.keys.sorted() {
            if let asked = self.asked[packetID] { actions.append(.complete(asked.waiter, .failed(error))) }
        }
        self.asked.removeAll()
        self.abandoned.removeAll()
        while let next = self.toAsk.popFirst() { actions.append(.complete(next.waiter, .failed(error))) }
        if case .some(.some(let waiter)) = self.reauthentication { actions.append(.complete(waiter, .failed(error))) }
        self.reauthentication = nil
        // In the order in which they were asked for. A QoS 2 publish that was sent is never forgotten while the
        // session lasts: its identifier would be used again, and the next message taken for this one.
        for packetID in self.order {
            guard let entry = self.inFlight[packetID], isFinal || (!self.resends && entry.qos != .exactlyOnce) else {
                self.inFlight[packetID]?.isSent = false
                continue
            }
            if let waiter = entry.waiter { actions.append(.complete(waiter, .failed(error))) }
            self.inFlight[packetID] = nil
        }
        self.order = self.order.filter { self.inFlight[$0] != nil }
        self.toResend = self.order
        if isFinal || !self.resends {
            while let next = self.waiting.popFirst() {
                if let waiter = next.waiter { actions.append(.complete(waiter, .failed(error))) }
            }
        }
    }

    /// No further publishes; ``isFinished`` says when those under way are done.
    package mutating func shutDown() { self.isShuttingDown = true }

    /// Shutting down, and nothing waits any more.
    package var isFinished: Bool {
        self.isShuttingDown && (self.phase != .ready || (self.inFlight.isEmpty && self.waiting.isEmpty))
    }

    // MARK: Publishing

    /// Publishes, and tells the waiter when the server has it.
    package mutating func publish(_ message: OutgoingMessage, for waiter: Waiter, into actions: inout [Action]) {
        guard !self.isShuttingDown else {
            actions.append(.complete(waiter, .failed(MQTTClientError(.closed, "the client is shutting down"))))
            return
        }
        guard self.isReady || self.resends else {
            actions.append(.complete(waiter, .failed(MQTTClientError(.notConnected, "not connected"))))
            return
        }
        if message.qos == .exactlyOnce, self.isReady, let error = self.unknownSession {
            actions.append(.complete(waiter, .failed(error)))
            return
        }
        self.accept(Waiting(message: message, waiter: waiter), into: &actions)
    }

    /// Takes a message over, and tells the waiter when it is in the store. Nobody waits for the rest.
    package mutating func enqueue(_ message: OutgoingMessage, for waiter: Waiter, into actions: inout [Action]) {
        guard !self.isShuttingDown else {
            actions.append(.complete(waiter, .failed(MQTTClientError(.closed, "the client is shutting down"))))
            return
        }
        guard self.isDurable, message.qos != .atMostOnce else {
            actions.append(
                .complete(
                    waiter, .failed(MQTTClientError(.invalidRequest, "only above QoS 0, and only with a session store"))
                ))
            return
        }
        actions.append(.complete(waiter, .done))
        self.accept(Waiting(message: message), into: &actions)
    }

    private mutating func accept(_ message: Waiting, into actions: inout [Action]) {
        var message = message
        if self.isDurable, message.message.qos != .atMostOnce {
            self.lastNumber += 1
            message.number = self.lastNumber
            self.change(.accepted(number: self.lastNumber, message.message))
        }
        guard self.isReady, self.waiting.isEmpty, self.toResend.isEmpty, self.hasRoom(for: message.message.qos) else {
            self.waiting.append(message)
            return
        }
        self.send(message, into: &actions)
    }

    /// Why a QoS 2 message must not be sent in this session; `nil` if it may.
    private var unknownSession: MQTTClientError? {
        guard self.server.sessionPresent, !self.knowsSession else { return nil }
        return MQTTClientError(
            .sessionUnknown,
            "the server resumed a session that this process knows nothing of: "
                + "QoS 2 needs a session store or a clean start")
    }

    /// Whoever waits for a request no longer does. What was sent stays sent.
    package mutating func cancel(where isIt: (Waiter) -> Bool, into actions: inout [Action]) {
        for (packetID, entry) in self.inFlight {
            if let waiter = entry.waiter, isIt(waiter) {
                self.inFlight[packetID]?.waiter = nil
                actions.append(.complete(waiter, .cancelled))
            }
        }
        var given: [UInt64?] = []
        self.waiting.removeAll { entry in
            guard let waiter = entry.waiter, isIt(waiter) else { return false }
            actions.append(.complete(waiter, .cancelled))
            given.append(entry.number)
            return true
        }
        for number in given { self.finish(number) }
        self.toAsk.removeAll { entry in
            guard isIt(entry.waiter) else { return false }
            actions.append(.complete(entry.waiter, .cancelled))
            return true
        }
        // The answers of these must still come; they then find nobody.
        for (packetID, asked) in self.asked where isIt(asked.waiter) {
            self.abandoned.insert(packetID)
            self.asked[packetID] = nil
            actions.append(.complete(asked.waiter, .cancelled))
        }
        if case .some(.some(let waiter)) = self.reauthentication, isIt(waiter) {
            self.reauthentication = .some(nil)
            actions.append(.complete(waiter, .cancelled))
        }
    }

    /// The network takes more, or doesn't.
    package mutating func setWritable(_ isWritable: Bool, into actions: inout [Action]) {
        self.isWritable = isWritable
        self.sendWaiting(into: &actions)
    }

    private func hasRoom(for qos: QoS) -> Bool {
        self.isWritable
            && (qos == .atMostOnce
                || (self.quota > 0
                    && self.inFlight.count < min(Int(self.configuration.maximumInFlight), Self.maximumInFlight)))
    }

    private mutating func sendWaiting(into actions: inout [Action]) {
        guard self.isReady else { return }
        // In the order in which they were first sent (MQTT-4.6.0-1); PUBRELs wait for no window.
        while self.isWritable, let packetID = self.toResend.first {
            guard let entry = self.inFlight[packetID] else {
                self.toResend.removeFirst()
                continue
            }
            if var publish = entry.publish {
                guard self.quota > 0 else { return }
                self.quota -= 1
                publish.isDuplicate = true
                self.inFlight[packetID]?.holdsPlace = true
                actions.append(.send(.publish(self.aliased(publish))))
            } else {
                self.inFlight[packetID]?.holdsPlace = false
                actions.append(.send(.pubRel(PubRel(packetID: packetID))))
            }
            self.inFlight[packetID]?.isSent = true
            self.toResend.removeFirst()
        }
        guard self.toResend.isEmpty else { return }
        while let next = self.waiting.first, self.hasRoom(for: next.message.qos) {
            self.waiting.removeFirst()
            self.send(next, into: &actions)
        }
    }

    private mutating func send(_ next: Waiting, into actions: inout [Action]) {
        let message = next.message
        let publish = message.publish(packetID: message.qos == .atMostOnce ? 0 : self.freePacketID())
        let unknown = message.qos == .exactlyOnce ? self.unknownSession : nil
        if let refusal = unknown ?? self.server.refusal(of: publish, version: self.configuration.version) {
            self.finish(next.number)
            if let waiter = next.waiter {
                actions.append(.complete(waiter, .failed(refusal)))
            } else {
                actions.append(.undeliverable(message, refusal))
            }
            return
        }
        actions.append(.send(.publish(self.aliased(publish))))
        if message.qos == .atMostOnce {
            if let waiter = next.waiter { actions.append(.complete(waiter, .done)) }
            return
        }
        self.quota -= 1
        let isKept = self.resends || message.qos == .exactlyOnce
        self.inFlight[publish.packetID] = InFlight(
            waiter: next.waiter, publish: isKept ? publish : nil, qos: message.qos, isSent: true, number: next.number)
        self.order.append(publish.packetID)
        if let number = next.number { self.change(.sending(number: number, packetID: publish.packetID)) }
    }

    private mutating func aliased(_ publish: Publish) -> Publish {
        guard self.aliases.maximum > 0 else { return publish }
        return self.aliases.apply(to: publish, maximumPacketSize: self.server.maximumPacketSize)
    }

    /// One that nothing unacknowledged holds. There always is one: the windows are smaller than the numbers.
    private mutating func freePacketID() -> UInt16 {
        repeat {
            self.lastPacketID = self.lastPacketID == .max ? 1 : self.lastPacketID + 1
        } while self.inFlight[self.lastPacketID] != nil || self.asked[self.lastPacketID] != nil
            || self.abandoned.contains(self.lastPacketID)
        return self.lastPacketID
    }

    // MARK: Settling

    /// A delivery is dealt with.
    package mutating func settle(_ token: UInt64, into actions: inout [Action]) {
        let first = actions.count
        self.inbound.settle(token) { actions.append(.send(Self.acknowledgement(of: $0, $1))) }
        self.record(actions[first...])
    }

    private static func acknowledgement(of packetID: UInt16, _ qos: QoS) -> Packet {
        qos == .exactlyOnce ? .pubRec(PubRec(packetID: packetID)) : .pubAck(PubAck(packetID: packetID))
    }

    /// What we acknowledge with PUBREC is ours from then on.
    private mutating func record(_ actions: ArraySlice<Action>) {
        guard self.isDurable else { return }
        for case .send(.pubRec(let packet)) in actions { self.change(.received(packetID: packet.packetID)) }
    }

    // MARK: Asking

    /// Asks for something beside publishing; the waiter is told the answer.
    package mutating func ask(_ request: Request, for waiter: Waiter, into actions: inout [Action]) {
        if let error = self.refusal(of: request) {
            actions.append(.complete(waiter, .failed(error)))
            return
        }
        if case .reauthenticate(let data) = request {
            self.reauthentication = .some(waiter)
            actions.append(.send(.auth(self.configuration.auth(.reauthenticate, data: data))))
            return
        }
        self.toAsk.append((request, waiter))
        self.sendAsked(into: &actions)
    }

    private func refusal(of request: Request) -> MQTTClientError? {
        guard !self.isShuttingDown else { return MQTTClientError(.closed, "the client is shutting down") }
        guard self.isReady else { return MQTTClientError(.notConnected, "not connected") }
        switch request {
        case .subscribe(let subscriptions, let identifier):
            guard !subscriptions.isEmpty else {
                return MQTTClientError(.invalidRequest, "a subscription to nothing (MQTT-3.8.3-2)")
            }
            if identifier != nil, !self.server.subscriptionIdentifiersAvailable {
                return MQTTClientError(
                    .notOffered, "the server offers no subscription identifiers",
                    reasonCode: .subscriptionIdentifiersNotSupported)
            }
            return self.refusal(of: subscriptions)
        case .unsubscribe(let filters):
            return filters.isEmpty
                ? MQTTClientError(.invalidRequest, "an unsubscription from nothing (MQTT-3.10.3-2)") : nil
        case .reauthenticate:
            guard self.configuration.version == .v5_0 else {
                return MQTTClientError(.notInThisVersion, "MQTT 3.1.1 has no re-authentication")
            }
            guard self.configuration.authenticator != nil, self.reauthentication == nil else {
                return MQTTClientError(
                    .invalidRequest, "no authenticator, or a re-authentication is under way (MQTT-4.12.1-1)")
            }
            return nil
        }
    }

    private func refusal(of subscriptions: [Subscription]) -> MQTTClientError? {
        for subscription in subscriptions {
            if let error = self.server.refusal(of: subscription) { return error }
            if self.configuration.version == .v3_1_1, subscription.usesOptions {
                return MQTTClientError(
                    .notInThisVersion, "\(subscription.filter): MQTT 3.1.1 has no subscription options but the QoS")
            }
        }
        return nil
    }

    private mutating func sendAsked(into actions: inout [Action]) {
        while self.asked.count + self.abandoned.count < Self.maximumAsked, let next = self.toAsk.popFirst() {
            let packetID = self.freePacketID()
            switch next.request {
            case .subscribe(let subscriptions, let identifier):
                self.asked[packetID] = Asked(waiter: next.waiter, count: subscriptions.count, isSubscribe: true)
                let properties: Properties = identifier.map { [.subscriptionIdentifier($0)] } ?? []
                actions.append(
                    .send(
                        .subscribe(
                            Subscribe(packetID: packetID, subscriptions: subscriptions, properties: properties))))
            case .unsubscribe(let filters):
                self.asked[packetID] = Asked(waiter: next.waiter, count: filters.count, isSubscribe: false)
                actions.append(.send(.unsubscribe(Unsubscribe(packetID: packetID, filters: filters))))
            case .reauthenticate:
                break
            }
        }
    }

    /// What the authentication method answers to a challenge.
    package mutating func authenticate(with data: [UInt8], into actions: inout [Action]) {
        guard self.phase != .disconnected else { return }
        actions.append(.send(.auth(self.configuration.auth(.continueAuthentication, data: data))))
    }

    // MARK: Receiving

    /// A packet has come.
    ///
    /// - Throws: ``MQTTClientError``: the connection must be closed.
    package mutating func receive(_ packet: Packet, into actions: inout [Action]) throws(MQTTClientError) {
        switch (self.phase, packet) {
        case (.disconnected, _):
            break
        case (.awaitingConnAck, .connAck(let packet)):
            try self.receive(packet, into: &actions)
        case (.awaitingConnAck, .auth(let packet)):
            try self.receive(packet, into: &actions)
        case (.awaitingConnAck, .disconnect(let packet)) where self.configuration.version == .v5_0:
            throw MQTTClientError(.disconnectedByServer, answer: packet.reasonCode, properties: packet.properties)
        case (.awaitingConnAck, _):
            throw MQTTClientError(.protocolError, "the server began with something else than CONNACK (MQTT-3.2.0-1)")
        case (_, .publish(let publish)):
            try self.receive(publish, into: &actions)
        case (_, .pubRel(let packet)):
            try self.receive(pubRel: packet, into: &actions)
        case (.ready, .pubAck(let packet)):
            try self.receive(pubAck: packet, into: &actions)
        case (.ready, .pubRec(let packet)):
            try self.receive(pubRec: packet, into: &actions)
        case (.ready, .pubComp(let packet)):
            try self.receive(pubComp: packet, into: &actions)
        case (.awaitingSubAck(let packetID), .subAck(let packet)):
            try self.receive(packet, for: packetID)
            self.becomeReady(into: &actions)
        case (.ready, .subAck(let packet)):
            try self.receive(answer: packet.packetID, packet.reasonCodes, isSubscribe: true, into: &actions)
        case (.ready, .unsubAck(let packet)):
            try self.receive(answer: packet.packetID, packet.reasonCodes, isSubscribe: false, into: &actions)
        case (.ready, .auth(let packet)):
            try self.receive(packet, into: &actions)
        case (_, .pingResp):
            break
        case (_, .disconnect(let packet)):
            guard self.configuration.version == .v5_0 else {
                throw MQTTClientError(.protocolError, "a 3.1.1 server sends no DISCONNECT")
            }
            throw MQTTClientError(.disconnectedByServer, answer: packet.reasonCode, properties: packet.properties)
        case (_, .pubAck), (_, .pubRec), (_, .pubComp), (_, .subAck), (_, .unsubAck):
            throw MQTTClientError(.protocolError, "the server acknowledges what was not asked")
        case (_, .connAck):
            throw MQTTClientError(.protocolError, "a second CONNACK (MQTT-3.2.0-2)")
        case (_, .auth):
            throw MQTTClientError(.protocolError, "AUTH, but no authentication is under way (MQTT-4.12.0-1)")
        case (_, .connect), (_, .subscribe), (_, .unsubscribe), (_, .pingReq):
            throw MQTTClientError(.protocolError, "a packet that only clients send")
        }
    }

    private mutating func receive(_ packet: ConnAck, into actions: inout [Action]) throws(MQTTClientError) {
        guard !packet.reasonCode.isFailure else {
            throw MQTTClientError(.connectionRefused, answer: packet.reasonCode, properties: packet.properties)
        }
        guard !(packet.sessionPresent && self.configuration.cleanStart) else {
            throw MQTTClientError(.protocolError, "a session is present that was to be fresh (MQTT-3.2.2-2)")
        }
        if let authenticator = self.configuration.authenticator {
            guard packet.properties.authenticationMethod == authenticator.method else {
                throw MQTTClientError(.protocolError, "CONNACK names another authentication method (MQTT-4.12.0-5)")
            }
            actions.append(.authenticated(packet.properties.authenticationData, waiter: nil))
        }
        self.server = ServerInformation(packet, keepAlive: self.keepAlive, version: self.configuration.version)
        self.keepAlive = self.server.keepAlive.components.seconds
        self.quota = Int(self.server.receiveMaximum)
        self.aliases = OutboundAliases(
            maximum: self.configuration.usesTopicAliases ? self.server.topicAliasMaximum : 0)
        if !packet.sessionPresent { self.begin(into: &actions) }
        let topics = self.configuration.subscriptions
        guard !topics.isEmpty else {
            self.becomeReady(into: &actions)
            return
        }
        let subscriptions = topics.map { $0.subscription }
        if let error = self.refusal(of: subscriptions) { throw error }
        let packetID = self.freePacketID()
        self.phase = .awaitingSubAck(packetID: packetID)
        actions.append(.send(.subscribe(Subscribe(packetID: packetID, subscriptions: subscriptions))))
    }

    /// The server has no session of ours: ours is void too (MQTT-3.2.2-5). What is still to be delivered goes
    /// anew; of what the server had already (PUBREC) nothing more can be done.
    private mutating func begin(into actions: inout [Action]) {
        for packetID in self.order.reversed() {
            guard let entry = self.inFlight[packetID] else { continue }
            if entry.isReleased {
                if let waiter = entry.waiter { actions.append(.complete(waiter, .done)) }
                self.finish(entry.number)
            } else if let publish = entry.publish, entry.waiter != nil || entry.number != nil {
                self.waiting.prepend(
                    Waiting(message: OutgoingMessage(publish), waiter: entry.waiter, number: entry.number))
            }
        }
        self.inFlight.removeAll()
        self.order.removeAll()
        self.toResend.removeAll()
        self.inbound.restore(received: [])
        self.knowsSession = true
        self.change(.began)
    }

    private func receive(_ packet: SubAck, for packetID: UInt16) throws(MQTTClientError) {
        let topics = self.configuration.subscriptions
        guard packet.packetID == packetID, packet.reasonCodes.count == topics.count else {
            throw MQTTClientError(.protocolError, "SUBACK does not answer our SUBSCRIBE (MQTT-3.8.4-6)")
        }
        for (topic, reasonCode) in zip(topics, packet.reasonCodes) {
            if let error = topic.refusal(reasonCode) { throw error }
        }
    }

    private mutating func becomeReady(into actions: inout [Action]) {
        self.phase = .ready
        actions.append(.ready(self.server))
        self.sendWaiting(into: &actions)
    }

    private mutating func receive(
        answer packetID: UInt16, _ reasonCodes: [ReasonCode], isSubscribe: Bool, into actions: inout [Action]
    ) throws(MQTTClientError) {
        if self.abandoned.remove(packetID) != nil {
            self.sendAsked(into: &actions)
            return
        }
        guard let asked = self.asked[packetID], asked.isSubscribe == isSubscribe else {
            throw MQTTClientError(.protocolError, "the server answers what was not asked")
        }
        let hasCodes = isSubscribe || self.configuration.version == .v5_0
        guard reasonCodes.count == (hasCodes ? asked.count : 0) else {
            throw MQTTClientError(.protocolError, "an answer with a wrong number of codes (MQTT-3.8.4-6, 3.11.3-1)")
        }
        self.asked[packetID] = nil
        actions.append(.complete(asked.waiter, .answered(reasonCodes)))
        self.sendAsked(into: &actions)
    }

    private mutating func receive(_ packet: Auth, into actions: inout [Action]) throws(MQTTClientError) {
        guard let authenticator = self.configuration.authenticator,
            packet.properties.authenticationMethod == authenticator.method
        else {
            throw MQTTClientError(.protocolError, "AUTH with a method that was not agreed (MQTT-4.12.0-1)")
        }
        let data = packet.properties.authenticationData
        switch (packet.reasonCode, self.reauthentication) {
        case (.continueAuthentication, _) where self.phase == .awaitingConnAck || self.reauthentication != nil:
            actions.append(.challenge(data ?? []))
        case (.success, .some(let waiter)):
            self.reauthentication = nil
            actions.append(.authenticated(data, waiter: waiter))
        default:
            throw MQTTClientError(.protocolError, "AUTH \(packet.reasonCode) at a wrong time (MQTT-4.12.0-2)")
        }
    }

    // MARK: Acknowledgements of ours

    private mutating func receive(pubAck packet: PubAck, into actions: inout [Action]) throws(MQTTClientError) {
        guard let entry = self.inFlight[packet.packetID], entry.isSent, entry.qos == .atLeastOnce else {
            throw MQTTClientError(
                .protocolError, "PUBACK for packet \(packet.packetID), which is not under way or not of QoS 1")
        }
        self.complete(packet.packetID, entry, Self.outcome(of: packet), into: &actions)
    }

    private mutating func receive(pubRec packet: PubRec, into actions: inout [Action]) throws(MQTTClientError) {
        guard let entry = self.inFlight[packet.packetID], entry.isSent else {
            // Not an error: a server may remember what we do not (section 4.13 with table 3.6).
            guard self.configuration.version == .v5_0 else {
                throw MQTTClientError(.protocolError, "PUBREC for packet \(packet.packetID), which is not under way")
            }
            guard !packet.reasonCode.isFailure else { return }
            actions.append(
                .send(.pubRel(PubRel(packetID: packet.packetID, reasonCode: .packetIdentifierNotFound))))
            return
        }
        guard entry.qos == .exactlyOnce else {
            throw MQTTClientError(.protocolError, "PUBREC for packet \(packet.packetID), which is of QoS 1")
        }
        if packet.reasonCode.isFailure, !entry.isReleased {
            self.complete(packet.packetID, entry, Self.outcome(of: packet), into: &actions)
            return
        }
        if !entry.isReleased {
            self.inFlight[packet.packetID]?.isReleased = true
            self.inFlight[packet.packetID]?.publish = nil
            if let number = entry.number { self.change(.released(number: number)) }
        }
        actions.append(.send(.pubRel(PubRel(packetID: packet.packetID))))
    }

    private mutating func receive(pubComp packet: PubComp, into actions: inout [Action]) throws(MQTTClientError) {
        guard let entry = self.inFlight[packet.packetID], entry.isSent, entry.isReleased else {
            // It may answer our PUBREL that said the same.
            guard packet.reasonCode != .packetIdentifierNotFound else { return }
            throw MQTTClientError(
                .protocolError, "PUBCOMP for packet \(packet.packetID), for which no PUBREL is under way")
        }
        // "Not found" says that the server had finished before: so it is done.
        self.complete(packet.packetID, entry, .done, into: &actions)
    }

    /// A publish is over, one way or the other: its identifier and its place are free.
    private mutating func complete(
        _ packetID: UInt16, _ entry: InFlight, _ outcome: Outcome, into actions: inout [Action]
    ) {
        self.inFlight[packetID] = nil
        if entry.holdsPlace { self.quota = min(self.quota + 1, Int(self.server.receiveMaximum)) }
        // An acknowledged identifier may be used again only after it left the order, else it would stand there
        // twice; servers acknowledge in order (MQTT-4.6.0-2), so this is nearly always the front.
        if self.order.first == packetID {
            self.order.removeFirst()
        } else if let place = self.order.firstIndex(of: packetID) {
            self.order.remove(at: place)
        }
        self.finish(entry.number)
        if let waiter = entry.waiter {
            actions.append(.complete(waiter, outcome))
        } else if case .failed(let error) = outcome, let publish = entry.publish {
            actions.append(.undeliverable(OutgoingMessage(publish), error))
        }
        self.sendWaiting(into: &actions)
    }

    private static func outcome(of packet: Acknowledgement) -> Outcome {
        guard packet.reasonCode.isFailure else { return .done }
        return .failed(
            MQTTClientError(.publishRefused, answer: packet.reasonCode, properties: packet.properties))
    }

    // MARK: Messages for us

    private mutating func receive(_ publish: Publish, into actions: inout [Action]) throws(MQTTClientError) {
        guard publish.qos != .atMostOnce else {
            actions.append(.deliver(publish, token: nil))
            return
        }
        if publish.qos == .exactlyOnce, self.inbound.isReceived(publish.packetID) {
            // We have it, and said so; the server has not heard (MQTT-4.3.3-10).
            actions.append(.send(.pubRec(PubRec(packetID: publish.packetID))))
            return
        }
        guard
            self.configuration.version == .v3_1_1
                || self.inbound.held < Int(self.configuration.receiveMaximum)
        else {
            throw MQTTClientError(
                .receiveMaximumExceeded,
                "more than \(self.configuration.receiveMaximum) unacknowledged messages (MQTT-3.3.4-9)")
        }
        if publish.qos == .exactlyOnce,
            self.inbound.resume(publish.packetID, isDuplicate: publish.isDuplicate)
        {
            let first = actions.count
            self.inbound.acknowledgeSettled { actions.append(.send(Self.acknowledgement(of: $0, $1))) }
            self.record(actions[first...])
            return
        }
        if let token = self.inbound.begin(publish.packetID, publish.qos) {
            actions.append(.deliver(publish, token: token))
        } else if self.configuration.version == .v5_0 || !publish.isDuplicate {
            throw MQTTClientError(.protocolError, "packet identifier \(publish.packetID) is in use (MQTT-2.2.1-4)")
        }
        // A 3.1.1 server may repeat a message we hold already: its acknowledgement is still to come.
    }

    private mutating func receive(pubRel packet: PubRel, into actions: inout [Action]) throws(MQTTClientError) {
        if self.inbound.release(packet.packetID) {
            self.change(.completed(packetID: packet.packetID))
            actions.append(.send(.pubComp(PubComp(packetID: packet.packetID))))
        } else if self.inbound.isUnsettled(packet.packetID) {
            throw MQTTClientError(
                .protocolError, "PUBREL for packet \(packet.packetID), which we have not acknowledged (MQTT-4.3.3-3)")
        } else {
            // Released before, and the server has not heard. In 3.1.1 the code is not written.
            actions.append(
                .send(.pubComp(PubComp(packetID: packet.packetID, reasonCode: .packetIdentifierNotFound))))
        }
    }
}

extension Subscription {
    /// Whether it has more than 3.1.1 knows.
    var usesOptions: Bool { self.noLocal || self.retainAsPublished || self.retainHandling != .send }
}
