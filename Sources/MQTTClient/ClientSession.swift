// MQTT 3.1.1 and 5.0 chapter 4, the client's side of QoS 0 and 1.

import DequeModule
package import MQTT
package import MessageBus
import NIOCore

/// How a publish ended.
package enum PublishOutcome: Hashable, Sendable {
    /// QoS 1: acknowledged. QoS 0: handed to the network.
    case done
    case failed(BusError)
    /// Whoever waited for it no longer does.
    case cancelled
}

/// A client's session with a server as a value: packets and requests in, actions out, no I/O.
///
/// It outlives connections. `Waiter` stands for whoever waits for a publish; it is handed back exactly once.
package struct ClientSession<Waiter: Sendable>: Sendable {
    /// What is to be done, in this order.
    package enum Action: Sendable {
        case send(Packet)
        /// A message for us; with a token if it is to be settled.
        case deliver(Publish, token: UInt64?)
        case complete(Waiter, PublishOutcome)
        /// Connected, and every subscription granted.
        case ready(sessionPresent: Bool)
    }

    private enum Phase: Hashable, Sendable {
        case disconnected
        case awaitingConnAck
        case awaitingSubAck(packetID: UInt16, sessionPresent: Bool)
        case ready
    }

    private struct InFlight: Sendable {
        var waiter: Waiter?
        /// Kept only if it may have to be sent again.
        var publish: Publish?
        /// Sent on this connection, so that it holds a place in the server's window.
        var isSent: Bool
    }

    private struct Waiting: Sendable {
        var message: OutgoingMessage
        var waiter: Waiter
    }

    private let configuration: MQTTClientConfiguration
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

    /// Free places in the server's window (MQTT 5.0 section 4.9).
    private var quota = 0
    private var serverMaximumPacketSize = Int.max
    private var serverMaximumQoS = QoS.exactlyOnce
    private var serverTakesRetained = true

    /// Whether the network takes more now. While it doesn't, publishes wait here.
    package private(set) var isWritable = true

    /// Seconds; 0 for none. The server's wish, once connected.
    package private(set) var keepAlive: Int64

    package init(configuration: MQTTClientConfiguration) {
        self.configuration = configuration
        self.keepAlive = MQTTClientConfiguration.seconds(configuration.keepAlive, limit: 65_535)
    }

    package var isReady: Bool { self.phase == .ready }

    /// Publishes that are unacknowledged or wait for a place.
    package var outstanding: Int { self.inFlight.count + self.waiting.count }

    /// So many deliveries are unsettled that no more should be read. 5.0 needs no such brake: there the server
    /// keeps to the maximum.
    package var isInboundFull: Bool {
        self.configuration.version == .v3_1_1 && self.inbound.count >= Int(self.configuration.receiveMaximum)
    }

    // MARK: Connecting

    /// The network is there: asks to be let in.
    package mutating func connect(into actions: inout [Action]) {
        self.phase = .awaitingConnAck
        self.isWritable = true
        self.keepAlive = MQTTClientConfiguration.seconds(self.configuration.keepAlive, limit: 65_535)
        var properties = Properties()
        if self.configuration.version == .v5_0 {
            properties.append(
                .sessionExpiryInterval(
                    UInt32(MQTTClientConfiguration.seconds(self.configuration.sessionExpiry, limit: Int64(UInt32.max)))
                ))
            properties.append(.receiveMaximum(self.configuration.receiveMaximum))
            properties.append(.maximumPacketSize(UInt32(self.configuration.maximumPacketSize)))
        }
        actions.append(
            .send(
                .connect(
                    Connect(
                        version: self.configuration.version, clientID: self.configuration.clientID,
                        cleanStart: self.configuration.cleanStart, keepAlive: UInt16(self.keepAlive),
                        properties: properties))))
    }

    /// The network is gone.
    ///
    /// - Parameters:
    ///   - error: What waiting publishes are told.
    ///   - isFinal: No connection will follow, so all of them are told.
    package mutating func disconnected(_ error: BusError, isFinal: Bool, into actions: inout [Action]) {
        self.phase = .disconnected
        self.inbound.reset()
        if isFinal || self.configuration.unacknowledged == .fail {
            // In the order in which they were asked for.
            for packetID in self.order {
                if let waiter = self.inFlight[packetID]?.waiter { actions.append(.complete(waiter, .failed(error))) }
            }
            self.inFlight.removeAll()
            self.order.removeAll()
            self.toResend.removeAll()
            while let next = self.waiting.popFirst() { actions.append(.complete(next.waiter, .failed(error))) }
        } else {
            self.toResend = self.order.filter { self.inFlight[$0] != nil }
            self.order = self.toResend
            for packetID in self.toResend { self.inFlight[packetID]?.isSent = false }
        }
    }

    /// No further publishes; ``isFinished`` says when those under way are done.
    package mutating func shutDown() { self.isShuttingDown = true }

    /// Shutting down, and nothing waits any more.
    package var isFinished: Bool {
        self.isShuttingDown && (self.phase != .ready || (self.inFlight.isEmpty && self.waiting.isEmpty))
    }

    // MARK: Publishing

    package mutating func publish(_ message: OutgoingMessage, for waiter: Waiter, into actions: inout [Action]) {
        guard !self.isShuttingDown else {
            actions.append(.complete(waiter, .failed(BusError(.closed, "the client is shutting down"))))
            return
        }
        guard self.isReady || self.configuration.unacknowledged == .resend else {
            actions.append(.complete(waiter, .failed(BusError(.disconnected, "not connected"))))
            return
        }
        guard self.isReady, self.waiting.isEmpty, self.toResend.isEmpty, self.hasRoom(for: message.qos) else {
            self.waiting.append(Waiting(message: message, waiter: waiter))
            return
        }
        self.send(message, for: waiter, into: &actions)
    }

    /// Whoever waits for a publish no longer does. What was sent stays sent.
    package mutating func cancel(where isIt: (Waiter) -> Bool, into actions: inout [Action]) {
        for (packetID, entry) in self.inFlight {
            if let waiter = entry.waiter, isIt(waiter) {
                self.inFlight[packetID]?.waiter = nil
                actions.append(.complete(waiter, .cancelled))
            }
        }
        self.waiting.removeAll { entry in
            guard isIt(entry.waiter) else { return false }
            actions.append(.complete(entry.waiter, .cancelled))
            return true
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
                || (self.quota > 0 && self.inFlight.count < Int(self.configuration.maximumInFlight)))
    }

    private mutating func sendWaiting(into actions: inout [Action]) {
        guard self.isReady else { return }
        while self.isWritable, self.quota > 0, let packetID = self.toResend.popFirst() {
            guard var publish = self.inFlight[packetID]?.publish else { continue }
            publish.isDuplicate = true
            self.inFlight[packetID]?.isSent = true
            self.quota -= 1
            actions.append(.send(.publish(publish)))
        }
        guard self.toResend.isEmpty else { return }
        while let next = self.waiting.first, self.hasRoom(for: next.message.qos) {
            self.waiting.removeFirst()
            self.send(next.message, for: next.waiter, into: &actions)
        }
    }

    private mutating func send(_ message: OutgoingMessage, for waiter: Waiter, into actions: inout [Action]) {
        var publish = Publish(
            topic: message.topic, payload: message.payload, qos: message.qos, retain: message.retain)
        if message.qos != .atMostOnce { publish.packetID = self.freePacketID() }
        if let refusal = self.refusal(of: publish) {
            actions.append(.complete(waiter, .failed(refusal)))
            return
        }
        actions.append(.send(.publish(publish)))
        if message.qos == .atMostOnce {
            actions.append(.complete(waiter, .done))
        } else {
            self.quota -= 1
            self.inFlight[publish.packetID] = InFlight(
                waiter: waiter, publish: self.configuration.unacknowledged == .resend ? publish : nil, isSent: true)
            self.order.append(publish.packetID)
        }
    }

    /// Why the server would not take it; `nil` if it should.
    private func refusal(of publish: Publish) -> BusError? {
        guard publish.qos < .exactlyOnce else { return BusError(.refused, "this client does not offer QoS 2") }
        guard publish.qos <= self.serverMaximumQoS else {
            return BusError(.refused, "the server takes no QoS above \(self.serverMaximumQoS.rawValue)")
        }
        guard !publish.retain || self.serverTakesRetained else {
            return BusError(.refused, "the server keeps no retained messages")
        }
        guard let header = try? publish.encodedHeaderSize(version: self.configuration.version) else {
            return BusError(.tooLarge, "no MQTT packet is so large")
        }
        let size = header + publish.payload.readableBytes
        guard size <= self.serverMaximumPacketSize else {
            return BusError(
                .tooLarge, "\(size) bytes; the server takes packets of at most \(self.serverMaximumPacketSize)")
        }
        return nil
    }

    /// One that no unacknowledged publish holds. There always is one: the window is smaller than the numbers.
    private mutating func freePacketID() -> UInt16 {
        repeat {
            self.lastPacketID = self.lastPacketID == .max ? 1 : self.lastPacketID + 1
        } while self.inFlight[self.lastPacketID] != nil
        return self.lastPacketID
    }

    // MARK: Settling

    /// A delivery is dealt with.
    package mutating func settle(_ token: UInt64, into actions: inout [Action]) {
        self.inbound.settle(token) { packetID in
            actions.append(.send(.pubAck(PubAck(packetID: packetID))))
        }
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
        case (.awaitingConnAck, _):
            throw MQTTClientError(.protocolError, "the server began with something else than CONNACK (MQTT-3.2.0-1)")
        case (_, .publish(let publish)):
            try self.receive(publish, into: &actions)
        case (.ready, .pubAck(let packet)):
            try self.receive(packet, into: &actions)
        case (.awaitingSubAck(let packetID, let sessionPresent), .subAck(let packet)):
            try self.receive(packet, for: packetID)
            self.becomeReady(sessionPresent: sessionPresent, into: &actions)
        case (_, .pingResp):
            break
        case (_, .disconnect(let packet)):
            guard self.configuration.version == .v5_0 else {
                throw MQTTClientError(.protocolError, "a 3.1.1 server sends no DISCONNECT")
            }
            let text = packet.properties.reasonString.map { ": \($0)" } ?? ""
            throw MQTTClientError(
                .disconnectedByServer, "\(packet.reasonCode)\(text)", reasonCode: packet.reasonCode)
        case (_, .pubAck), (_, .subAck), (_, .unsubAck):
            throw MQTTClientError(.protocolError, "the server acknowledges what was not asked")
        case (_, .connAck):
            throw MQTTClientError(.protocolError, "a second CONNACK (MQTT-3.2.0-2)")
        case (_, .pubRec), (_, .pubRel), (_, .pubComp):
            throw MQTTClientError(.protocolError, "QoS 2 was not agreed")
        case (_, .auth):
            throw MQTTClientError(.protocolError, "AUTH, but no method was agreed (MQTT-4.12.0-1)")
        case (_, .connect), (_, .subscribe), (_, .unsubscribe), (_, .pingReq):
            throw MQTTClientError(.protocolError, "a packet that only clients send")
        }
    }

    private mutating func receive(_ packet: ConnAck, into actions: inout [Action]) throws(MQTTClientError) {
        guard !packet.reasonCode.isFailure else {
            let text = packet.properties.reasonString.map { ": \($0)" } ?? ""
            throw MQTTClientError(
                .connectionRefused, "\(packet.reasonCode)\(text)", reasonCode: packet.reasonCode)
        }
        guard !(packet.sessionPresent && self.configuration.cleanStart) else {
            throw MQTTClientError(.protocolError, "a session is present that was to be fresh (MQTT-3.2.2-2)")
        }
        let properties = packet.properties
        self.quota = Int(properties.receiveMaximum ?? .max)
        self.serverMaximumPacketSize = properties.maximumPacketSize.map(Int.init) ?? .max
        self.serverMaximumQoS = properties.maximumQoS ?? .exactlyOnce
        self.serverTakesRetained = properties.retainAvailable ?? true
        if let seconds = properties.serverKeepAlive { self.keepAlive = Int64(seconds) }
        if !packet.sessionPresent { self.discardServerSide() }
        let topics = self.configuration.subscriptions
        guard !topics.isEmpty else {
            self.becomeReady(sessionPresent: packet.sessionPresent, into: &actions)
            return
        }
        let packetID = self.freePacketID()
        self.phase = .awaitingSubAck(packetID: packetID, sessionPresent: packet.sessionPresent)
        let subscriptions = topics.map { topic in
            // What is retained comes at each connect: the session may outlive the process that knew it.
            Subscription(filter: topic.filter, maximumQoS: topic.qos, retainHandling: .send)
        }
        actions.append(.send(.subscribe(Subscribe(packetID: packetID, subscriptions: subscriptions))))
    }

    /// The server has no session of ours: ours is void too (MQTT-3.2.2-5). Who still waits is served anew.
    private mutating func discardServerSide() {
        for packetID in self.order.reversed() {
            guard let entry = self.inFlight[packetID], let publish = entry.publish, let waiter = entry.waiter else {
                continue
            }
            let message = OutgoingMessage(
                topic: publish.topic, payload: publish.payload, qos: publish.qos, retain: publish.retain)
            self.waiting.prepend(Waiting(message: message, waiter: waiter))
        }
        self.inFlight.removeAll()
        self.order.removeAll()
        self.toResend.removeAll()
    }

    private func receive(_ packet: SubAck, for packetID: UInt16) throws(MQTTClientError) {
        let topics = self.configuration.subscriptions
        guard packet.packetID == packetID, packet.reasonCodes.count == topics.count else {
            throw MQTTClientError(.protocolError, "SUBACK does not answer our SUBSCRIBE (MQTT-3.8.4-6)")
        }
        for (topic, reasonCode) in zip(topics, packet.reasonCodes) {
            guard !reasonCode.isFailure else {
                throw MQTTClientError(
                    .subscriptionRefused, "\(topic.filter): \(reasonCode)", reasonCode: reasonCode)
            }
            guard reasonCode.rawValue >= topic.qos.rawValue else {
                throw MQTTClientError(
                    .subscriptionRefused, "\(topic.filter): granted only QoS \(reasonCode.rawValue)",
                    reasonCode: reasonCode)
            }
        }
    }

    private mutating func becomeReady(sessionPresent: Bool, into actions: inout [Action]) {
        self.phase = .ready
        actions.append(.ready(sessionPresent: sessionPresent))
        self.sendWaiting(into: &actions)
    }

    private mutating func receive(_ packet: PubAck, into actions: inout [Action]) throws(MQTTClientError) {
        guard let entry = self.inFlight[packet.packetID], entry.isSent else {
            throw MQTTClientError(.protocolError, "PUBACK for packet \(packet.packetID), which is not under way")
        }
        self.inFlight[packet.packetID] = nil
        self.quota += 1
        // An acknowledged identifier may be used again only after it left the order, else it would stand there
        // twice; servers acknowledge in order (MQTT-4.6.0-2), so this is nearly always the front.
        if self.order.first == packet.packetID {
            self.order.removeFirst()
        } else if let place = self.order.firstIndex(of: packet.packetID) {
            self.order.remove(at: place)
        }
        if let waiter = entry.waiter {
            actions.append(.complete(waiter, Self.outcome(of: packet)))
        }
        self.sendWaiting(into: &actions)
    }

    private static func outcome(of packet: PubAck) -> PublishOutcome {
        guard packet.reasonCode.isFailure else { return .done }
        let text = packet.properties.reasonString.map { ": \($0)" } ?? ""
        let code: BusError.Code =
            switch packet.reasonCode {
            case .notAuthorized: .notAuthorized
            case .packetTooLarge: .tooLarge
            default: .refused
            }
        return .failed(BusError(code, "\(packet.reasonCode)\(text)"))
    }

    private mutating func receive(_ publish: Publish, into actions: inout [Action]) throws(MQTTClientError) {
        switch publish.qos {
        case .atMostOnce:
            actions.append(.deliver(publish, token: nil))
        case .atLeastOnce:
            guard
                self.configuration.version == .v3_1_1
                    || self.inbound.count < Int(self.configuration.receiveMaximum)
            else {
                throw MQTTClientError(
                    .receiveMaximumExceeded,
                    "more than \(self.configuration.receiveMaximum) unacknowledged messages (MQTT-3.3.4-9)")
            }
            if let token = self.inbound.begin(publish.packetID) {
                actions.append(.deliver(publish, token: token))
            } else if self.configuration.version == .v5_0 || !publish.isDuplicate {
                throw MQTTClientError(
                    .protocolError, "packet identifier \(publish.packetID) is in use (MQTT-2.2.1-4)")
            }
        // A 3.1.1 server may repeat a message we hold already: its acknowledgement is still to come.
        case .exactlyOnce:
            throw MQTTClientError(.protocolError, "a message of QoS 2, which we did not subscribe to")
        }
    }
}
