import MQTT
import MQTTClient
import MessageBus
import NIOCore
import Testing

/// A session driven by hand: what it wants done is collected.
struct Driver {
    typealias Session = ClientSession<Int>

    var session: Session
    private(set) var sent: [Packet] = []
    private(set) var delivered: [(publish: Publish, token: UInt64?)] = []
    private(set) var outcomes: [(waiter: Int, outcome: Outcome)] = []
    private(set) var readiness: [Bool] = []
    private(set) var challenges: [[UInt8]] = []
    private(set) var undeliverable: [(message: OutgoingMessage, error: MQTTClientError)] = []
    /// What a store would hold.
    private(set) var stored: StoredSession?

    init() { self.init { _ in } }

    init(_ change: (inout MQTTClientConfiguration) throws -> Void) rethrows {
        var configuration = MQTTClientConfiguration(
            host: "localhost", port: 1883, transport: .plaintextLoopback, clientID: "me")
        try change(&configuration)
        self.configuration = configuration
        self.session = Session(configuration: configuration)
    }

    private let configuration: MQTTClientConfiguration

    /// From here on, as if there were a store, empty at first; or a new process with what the store holds.
    mutating func restart() {
        let stored = self.stored ?? StoredSession()
        self.stored = stored
        self.session = Session(configuration: self.configuration, stored: stored)
    }

    mutating func perform(_ body: (inout Session, inout [Session.Action]) throws -> Void) rethrows {
        var actions: [Session.Action] = []
        defer {
            // As the handler does: first the store, then what depends on it.
            for change in self.session.takeChanges() { self.stored?.apply(change) }
            for action in actions {
                switch action {
                case .send(let packet): self.sent.append(packet)
                case .deliver(let publish, let token): self.delivered.append((publish, token))
                case .complete(let waiter, let outcome): self.outcomes.append((waiter, outcome))
                case .ready(let server): self.readiness.append(server.sessionPresent)
                case .challenge(let data): self.challenges.append(data)
                case .authenticated(_, let waiter):
                    if let waiter { self.outcomes.append((waiter, .done)) }
                case .undeliverable(let message, let error): self.undeliverable.append((message, error))
                }
            }
        }
        try body(&self.session, &actions)
    }

    /// What was sent since this was last asked.
    mutating func takeSent() -> [Packet] {
        defer { self.sent = [] }
        return self.sent
    }

    mutating func receive(_ packets: Packet...) throws {
        for packet in packets {
            try self.perform { session, actions in try session.receive(packet, into: &actions) }
        }
    }

    /// Connects and subscribes, and forgets what was sent for it.
    mutating func connect(sessionPresent: Bool = false, properties: Properties = []) throws {
        self.perform { session, actions in session.connect(into: &actions) }
        try self.receive(
            .connAck(ConnAck(sessionPresent: sessionPresent, reasonCode: .success, properties: properties)))
        for case .subscribe(let subscribe) in self.sent {
            let granted = subscribe.subscriptions.map { ReasonCode(rawValue: $0.maximumQoS.rawValue) }
            try self.receive(.subAck(SubAck(packetID: subscribe.packetID, reasonCodes: granted)))
        }
        // What is left are publishes that waited for the connection.
        self.sent.removeAll { packet in
            switch packet {
            case .connect, .subscribe: true
            default: false
            }
        }
    }

    mutating func publish(_ waiter: Int, qos: QoS = .atLeastOnce, retain: Bool = false, size: Int = 3) throws {
        let message = OutgoingMessage(
            topic: try TopicName("t/\(waiter)"), payload: ByteBuffer(repeating: 1, count: size), qos: qos,
            retain: retain)
        self.perform { session, actions in session.publish(message, for: waiter, into: &actions) }
    }

    mutating func lose(isFinal: Bool = false) {
        self.perform { session, actions in
            session.disconnected(MQTTClientError(.connectionLost, "lost"), isFinal: isFinal, into: &actions)
        }
    }

    mutating func settle(_ token: UInt64?) {
        self.perform { session, actions in session.settle(token ?? 0, into: &actions) }
    }

    /// Packet identifiers of the PUBLISHes sent since this was last asked.
    mutating func takePublished() -> [UInt16] {
        self.takeSent().compactMap { if case .publish(let publish) = $0 { publish.packetID } else { nil } }
    }

    /// Packet identifiers of the PUBACKs sent since this was last asked.
    mutating func takeAcknowledged() -> [UInt16] {
        self.takeSent().compactMap { if case .pubAck(let packet) = $0 { packet.packetID } else { nil } }
    }
}

func message(_ packetID: UInt16, duplicate: Bool = false) throws -> Packet {
    .publish(
        Publish(
            topic: try TopicName("in"), payload: ByteBuffer(string: "\(packetID)"), qos: .atLeastOnce,
            isDuplicate: duplicate, packetID: packetID))
}

func acknowledge(_ packetID: UInt16, _ reasonCode: ReasonCode = .success) -> Packet {
    .pubAck(PubAck(packetID: packetID, reasonCode: reasonCode))
}

func error(_ code: MQTTClientError.Code) -> MQTTClientError { MQTTClientError(code, "") }

struct ClientSessionConnectTests {
    @Test("CONNECT of 5.0 announces expiry, Receive Maximum and Maximum Packet Size")
    func connectOf5() throws {
        var driver = Driver {
            $0.sessionExpiry = .seconds(77)
            $0.receiveMaximum = 9
            $0.maximumPacketSize = 5000
            $0.keepAlive = .seconds(30)
        }
        driver.perform { session, actions in session.connect(into: &actions) }
        let expected = Connect(
            version: .v5_0, clientID: "me", cleanStart: false, keepAlive: 30,
            properties: [.sessionExpiryInterval(77), .receiveMaximum(9), .maximumPacketSize(5000)])
        #expect(driver.sent == [.connect(expected)])
    }

    @Test("CONNECT of 3.1.1 has no properties")
    func connectOf3() throws {
        var driver = Driver {
            $0.version = .v3_1_1
            $0.cleanStart = true
        }
        driver.perform { session, actions in session.connect(into: &actions) }
        let expected = Connect(version: .v3_1_1, clientID: "me", cleanStart: true, keepAlive: 60)
        #expect(driver.sent == [.connect(expected)])
    }

    @Test("Ready comes only when every subscription is granted")
    func readyWhenGranted() throws {
        var driver = try Driver { $0.subscriptions = [.init(try TopicFilter("a/#")), .init(try TopicFilter("b"))] }
        driver.perform { session, actions in session.connect(into: &actions) }
        _ = driver.takeSent()
        try driver.receive(.connAck(ConnAck(sessionPresent: false, reasonCode: .success)))
        #expect(driver.readiness == [])
        guard case .subscribe(let subscribe) = driver.takeSent().first else {
            Issue.record("no SUBSCRIBE")
            return
        }
        #expect(subscribe.subscriptions.map(\.filter.rawValue) == ["a/#", "b"])
        #expect(subscribe.subscriptions.allSatisfy { $0.maximumQoS == .atLeastOnce })
        try driver.receive(
            .subAck(SubAck(packetID: subscribe.packetID, reasonCodes: [.grantedQoS1, .grantedQoS1])))
        #expect(driver.readiness == [false])
    }

    struct BadSubAck: CustomTestStringConvertible, Sendable {
        var packetID: UInt16 = 1
        var codes: [ReasonCode]
        var error: MQTTClientError.Code
        var testDescription: String { "\(self.packetID) \(self.codes)" }
    }

    @Test(
        "A subscription that is not granted as asked ends the connection",
        arguments: [
            BadSubAck(codes: [.grantedQoS1, .notAuthorized], error: .subscriptionRefused),
            BadSubAck(codes: [.unspecifiedError, .grantedQoS1], error: .subscriptionRefused),
            BadSubAck(codes: [.grantedQoS1, .grantedQoS0], error: .subscriptionRefused),
            BadSubAck(codes: [.grantedQoS1], error: .protocolError),
            BadSubAck(packetID: 2, codes: [.grantedQoS1, .grantedQoS1], error: .protocolError),
        ])
    func refusedSubscription(bad: BadSubAck) throws {
        var driver = try Driver { $0.subscriptions = [.init(try TopicFilter("a")), .init(try TopicFilter("b"))] }
        driver.perform { session, actions in session.connect(into: &actions) }
        try driver.receive(.connAck(ConnAck(sessionPresent: false, reasonCode: .success)))
        #expect(throws: error(bad.error)) {
            try driver.receive(.subAck(SubAck(packetID: bad.packetID, reasonCodes: bad.codes)))
        }
        #expect(driver.readiness == [])
    }

    @Test(
        "A refused CONNECT says why",
        arguments: [
            (ReasonCode.notAuthorized, BusError.Code.notAuthorized),
            (.clientIdentifierNotValid, .notAuthorized),
            (.banned, .notAuthorized),
            (.serverUnavailable, .disconnected),
            (.quotaExceeded, .disconnected),
        ])
    func refusedConnect(reasonCode: ReasonCode, busCode: BusError.Code) throws {
        var driver = Driver()
        driver.perform { session, actions in session.connect(into: &actions) }
        let thrown = #expect(throws: error(.connectionRefused)) {
            try driver.receive(.connAck(ConnAck(sessionPresent: false, reasonCode: reasonCode)))
        }
        #expect(thrown?.reasonCode == reasonCode)
        #expect(thrown?.busError.code == busCode)
    }

    @Test("A session that was to be fresh must not be present")
    func unwantedSession() throws {
        var driver = Driver { $0.cleanStart = true }
        #expect(throws: error(.protocolError)) { try driver.connect(sessionPresent: true) }
    }

    @Test("Nothing may come before CONNACK", arguments: [Packet.pingResp, acknowledge(1), try message(1)])
    func beforeConnAck(packet: Packet) throws {
        var driver = Driver()
        driver.perform { session, actions in session.connect(into: &actions) }
        #expect(throws: error(.protocolError)) { try driver.receive(packet) }
        #expect(driver.delivered.isEmpty)
    }

    @Test(
        "What a server may not send ends the connection",
        arguments: [
            Packet.connAck(ConnAck(sessionPresent: false, reasonCode: .success)),
            .connect(Connect(version: .v5_0, clientID: "")),
            .pubComp(PubComp(packetID: 1)),
            .subscribe(Subscribe(packetID: 1, subscriptions: [])),
            .subAck(SubAck(packetID: 1, reasonCodes: [.grantedQoS1])),
            .unsubscribe(Unsubscribe(packetID: 1, filters: [])), .unsubAck(UnsubAck(packetID: 1)),
            .pingReq, .auth(Auth()), acknowledge(1),
        ])
    func forbidden(packet: Packet) throws {
        var driver = Driver()
        try driver.connect()
        #expect(throws: error(.protocolError)) { try driver.receive(packet) }
        #expect(driver.delivered.isEmpty)
    }

    @Test("A server's DISCONNECT is an error with its reason; in 3.1.1 there is none")
    func serverDisconnect() throws {
        var driver = Driver()
        try driver.connect()
        let thrown = #expect(throws: error(.disconnectedByServer)) {
            try driver.receive(.disconnect(Disconnect(reasonCode: .sessionTakenOver)))
        }
        #expect(thrown?.reasonCode == .sessionTakenOver)
        var old = Driver { $0.version = .v3_1_1 }
        try old.connect()
        #expect(throws: error(.protocolError)) { try old.receive(.disconnect(Disconnect())) }
    }

    @Test("The server's keep-alive replaces ours, for this connection")
    func serverKeepAlive() throws {
        var driver = Driver { $0.keepAlive = .seconds(60) }
        try driver.connect(properties: [.serverKeepAlive(7)])
        #expect(driver.session.keepAlive == 7)
        driver.lose()
        try driver.connect()
        #expect(driver.session.keepAlive == 60)
    }
}

struct ClientSessionPublishTests {
    @Test("QoS 1 is done at its PUBACK, QoS 0 at once")
    func done() throws {
        var driver = Driver()
        try driver.connect()
        try driver.publish(1)
        #expect(driver.outcomes.isEmpty)
        try driver.publish(2, qos: .atMostOnce)
        #expect(driver.outcomes.map(\.waiter) == [2])
        try driver.receive(acknowledge(1))
        #expect(driver.outcomes.map(\.waiter) == [2, 1])
        #expect(driver.outcomes.allSatisfy { $0.outcome == .done })
        #expect(driver.session.outstanding == 0)
    }

    @Test(
        "A PUBACK that refuses says so",
        arguments: [
            (ReasonCode.notAuthorized, BusError.Code.notAuthorized), (.packetTooLarge, .tooLarge),
            (.quotaExceeded, .refused), (.payloadFormatInvalid, .refused), (.unspecifiedError, .refused),
        ])
    func refused(reasonCode: ReasonCode, code: BusError.Code) throws {
        var driver = Driver()
        try driver.connect()
        try driver.publish(1)
        try driver.receive(acknowledge(1, reasonCode))
        #expect(driver.outcomes.map(\.outcome) == [.failed(error(.publishRefused))])
        guard case .failed(let failure) = driver.outcomes.first?.outcome else { return }
        #expect(failure.busError == BusError(code, ""))
        #expect(failure.reasonCode == reasonCode)
    }

    @Test("That nobody subscribes is no failure")
    func noSubscribers() throws {
        var driver = Driver()
        try driver.connect()
        try driver.publish(1)
        try driver.receive(acknowledge(1, .noMatchingSubscribers))
        #expect(driver.outcomes.map(\.outcome) == [.done])
    }

    @Test("The server's Receive Maximum holds, and each PUBACK makes room for one more, in order")
    func receiveMaximum() throws {
        var driver = Driver()
        try driver.connect(properties: [.receiveMaximum(2)])
        for waiter in 1...5 { try driver.publish(waiter) }
        #expect(driver.takePublished() == [1, 2])
        try driver.receive(acknowledge(1))
        #expect(driver.takePublished() == [3])
        try driver.receive(acknowledge(3), acknowledge(2))
        #expect(driver.takePublished() == [4, 5])
        try driver.receive(acknowledge(4), acknowledge(5))
        #expect(driver.outcomes.map(\.waiter) == [1, 3, 2, 4, 5])
    }

    @Test("A refusal gives its place in the window back too")
    func refusalFreesPlace() throws {
        var driver = Driver()
        try driver.connect(properties: [.receiveMaximum(1)])
        try driver.publish(1)
        try driver.publish(2)
        try driver.receive(acknowledge(1, .quotaExceeded))
        #expect(driver.takePublished() == [1, 2])
    }

    @Test("Our own bound holds where the server has none")
    func maximumInFlight() throws {
        var driver = Driver { $0.maximumInFlight = 3 }
        try driver.connect()
        for waiter in 1...4 { try driver.publish(waiter) }
        #expect(driver.takePublished() == [1, 2, 3])
    }

    @Test("QoS 0 waits for no window but keeps its place behind what waits")
    func order() throws {
        var driver = Driver()
        try driver.connect(properties: [.receiveMaximum(1)])
        try driver.publish(1)
        try driver.publish(2)
        try driver.publish(3, qos: .atMostOnce)
        #expect(driver.takePublished() == [1])
        try driver.receive(acknowledge(1))
        #expect(driver.takePublished() == [2, 0])
    }

    @Test("Packet identifiers wrap around, leave out 0 and those in use")
    func packetIDs() throws {
        var driver = Driver()
        try driver.connect()
        try driver.publish(1)
        try driver.publish(2)
        for packetID in UInt16(3)...UInt16.max {
            try driver.publish(Int(packetID))
            try driver.receive(acknowledge(packetID))
        }
        _ = driver.takeSent()
        try driver.receive(acknowledge(2))
        try driver.publish(0)
        #expect(driver.takePublished() == [2])
    }

    @Test("A PUBACK counts once, and only for what is under way")
    func strayAcknowledgement() throws {
        var driver = Driver()
        try driver.connect()
        try driver.publish(1)
        try driver.receive(acknowledge(1))
        #expect(throws: error(.protocolError)) { try driver.receive(acknowledge(1)) }
        #expect(driver.outcomes.count == 1)
    }

    @Test("What the server does not take is not sent")
    func unsendable() throws {
        var driver = Driver()
        try driver.connect(
            properties: [.maximumPacketSize(100), .maximumQoS(.atMostOnce), .retainAvailable(false)])
        try driver.publish(1)
        try driver.publish(2, qos: .atMostOnce, retain: true)
        try driver.publish(3, qos: .atMostOnce, size: 100)
        try driver.publish(4, qos: .exactlyOnce)
        #expect(driver.sent.isEmpty)
        #expect(
            driver.outcomes.map(\.outcome)
                == [MQTTClientError.Code.notOffered, .notOffered, .messageTooLarge, .notOffered].map {
                    .failed(error($0))
                })
        // 2 bytes of fixed header, 5 of topic, 1 of properties.
        try driver.publish(5, qos: .atMostOnce, size: 92)
        try driver.publish(6, qos: .atMostOnce, size: 93)
        #expect(driver.sent.count == 1)
        #expect(driver.outcomes.map(\.waiter) == [1, 2, 3, 4, 5, 6])
    }

    @Test("While the network takes nothing, publishes wait")
    func unwritable() throws {
        var driver = Driver()
        try driver.connect()
        driver.perform { session, actions in session.setWritable(false, into: &actions) }
        try driver.publish(1)
        try driver.publish(2, qos: .atMostOnce)
        #expect(driver.sent.isEmpty)
        driver.perform { session, actions in session.setWritable(true, into: &actions) }
        #expect(driver.takePublished() == [1, 0])
    }

    @Test("Without a connection a publish fails at once")
    func notConnected() throws {
        var driver = Driver()
        try driver.publish(1)
        #expect(driver.outcomes.map(\.outcome) == [.failed(error(.notConnected))])
    }

    @Test("A lost connection fails everything that waits, in order, and nothing of it is sent again")
    func lost() throws {
        var driver = Driver()
        try driver.connect(properties: [.receiveMaximum(2)])
        for waiter in 1...4 { try driver.publish(waiter) }
        _ = driver.takeSent()
        driver.lose()
        #expect(driver.outcomes.map(\.waiter) == [1, 2, 3, 4])
        #expect(driver.outcomes.allSatisfy { $0.outcome == .failed(error(.connectionLost)) })
        try driver.connect(sessionPresent: true)
        #expect(driver.takeSent().isEmpty)
        #expect(throws: error(.protocolError)) { try driver.receive(acknowledge(1)) }
    }

    @Test("Told to resend: with the session present, in order, marked, with the same identifiers")
    func resendToSession() throws {
        var driver = Driver { $0.unacknowledged = .resend }
        try driver.connect()
        for waiter in 1...4 { try driver.publish(waiter) }
        try driver.receive(acknowledge(2))
        _ = driver.takeSent()
        driver.lose()
        #expect(driver.outcomes.map(\.waiter) == [2])
        try driver.publish(5)
        try driver.connect(sessionPresent: true)
        let publishes = driver.takeSent().compactMap { if case .publish(let publish) = $0 { publish } else { nil } }
        #expect(publishes.map(\.packetID) == [1, 3, 4, 5])
        #expect(publishes.map(\.isDuplicate) == [true, true, true, false])
        #expect(publishes.map(\.topic.rawValue) == ["t/1", "t/3", "t/4", "t/5"])
        try driver.receive(acknowledge(1), acknowledge(3), acknowledge(4), acknowledge(5))
        #expect(driver.outcomes.map(\.waiter) == [2, 1, 3, 4, 5])
    }

    @Test("Told to resend: without the session, everything goes anew")
    func resendAnew() throws {
        var driver = Driver { $0.unacknowledged = .resend }
        try driver.connect()
        for waiter in 1...3 { try driver.publish(waiter) }
        _ = driver.takeSent()
        driver.lose()
        try driver.connect(sessionPresent: false)
        let publishes = driver.takeSent().compactMap { if case .publish(let publish) = $0 { publish } else { nil } }
        #expect(publishes.map(\.topic.rawValue) == ["t/1", "t/2", "t/3"])
        #expect(publishes.allSatisfy { !$0.isDuplicate })
    }

    @Test("Told to resend: the new connection's Receive Maximum holds for repetitions too")
    func resendWithinWindow() throws {
        var driver = Driver { $0.unacknowledged = .resend }
        try driver.connect()
        for waiter in 1...3 { try driver.publish(waiter) }
        _ = driver.takeSent()
        driver.lose()
        try driver.connect(sessionPresent: true, properties: [.receiveMaximum(1)])
        #expect(driver.takePublished() == [1])
        #expect(throws: error(.protocolError)) { try driver.receive(acknowledge(2)) }
        try driver.receive(acknowledge(1))
        #expect(driver.takePublished() == [2])
    }

    @Test("Told to resend: the last connection's end fails what waits")
    func resendFinal() throws {
        var driver = Driver { $0.unacknowledged = .resend }
        try driver.connect()
        try driver.publish(1)
        driver.lose()
        #expect(driver.outcomes.isEmpty)
        driver.lose(isFinal: true)
        #expect(driver.outcomes.map(\.waiter) == [1])
    }

    @Test("Who no longer waits is let go; what was sent keeps its identifier until its PUBACK")
    func cancel() throws {
        var driver = Driver()
        try driver.connect(properties: [.receiveMaximum(1)])
        try driver.publish(1)
        try driver.publish(2)
        driver.perform { session, actions in session.cancel(where: { $0 <= 2 }, into: &actions) }
        #expect(driver.outcomes.map(\.outcome) == [.cancelled, .cancelled])
        #expect(driver.takePublished() == [1])
        try driver.publish(3)
        try driver.receive(acknowledge(1))
        #expect(driver.takePublished() == [2])
        #expect(driver.outcomes.count == 2)
    }

    @Test("Shutting down takes no more publishes and is finished when those under way are")
    func shutDown() throws {
        var driver = Driver()
        try driver.connect(properties: [.receiveMaximum(1)])
        try driver.publish(1)
        try driver.publish(2)
        driver.session.shutDown()
        try driver.publish(3)
        #expect(driver.outcomes.map(\.outcome) == [.failed(error(.closed))])
        #expect(!driver.session.isFinished)
        try driver.receive(acknowledge(1))
        #expect(!driver.session.isFinished)
        try driver.receive(acknowledge(2))
        #expect(driver.session.isFinished)
    }
}

struct ClientSessionDeliveryTests {
    @Test("QoS 0 is delivered without a token, QoS 1 with one, and acknowledged only when settled")
    func deliver() throws {
        var driver = Driver()
        try driver.connect()
        try driver.receive(
            .publish(Publish(topic: try TopicName("in"), payload: ByteBuffer(string: "zero"))), try message(7))
        #expect(driver.delivered.map { $0.token == nil } == [true, false])
        #expect(driver.takeSent().isEmpty)
        driver.settle(driver.delivered[1].token)
        #expect(driver.takeAcknowledged() == [7])
    }

    @Test("Whatever the order of settling, PUBACKs leave in the order of delivery (MQTT-4.6.0-2)")
    func inOrder() throws {
        var driver = Driver()
        try driver.connect()
        try driver.receive(message(5), message(3), message(9), message(1))
        let tokens = driver.delivered.map(\.token)
        driver.settle(tokens[2])
        driver.settle(tokens[1])
        #expect(driver.takeAcknowledged() == [])
        driver.settle(tokens[0])
        #expect(driver.takeAcknowledged() == [5, 3, 9])
        driver.settle(tokens[3])
        #expect(driver.takeAcknowledged() == [1])
    }

    @Test("Settling twice, or with a token that never was, does nothing more")
    func settleTwice() throws {
        var driver = Driver()
        try driver.connect()
        try driver.receive(message(1), message(2))
        let tokens = driver.delivered.map(\.token)
        driver.settle(tokens[0])
        driver.settle(tokens[0])
        driver.settle(0)
        driver.settle(.max)
        #expect(driver.takeAcknowledged() == [1])
    }

    @Test("Settling a delivery of an earlier connection acknowledges nothing")
    func settleLate() throws {
        var driver = Driver()
        try driver.connect()
        try driver.receive(message(1))
        driver.lose()
        try driver.connect(sessionPresent: true)
        try driver.receive(message(1, duplicate: true))
        driver.settle(driver.delivered[0].token)
        #expect(driver.takeAcknowledged() == [])
        driver.settle(driver.delivered[1].token)
        #expect(driver.takeAcknowledged() == [1])
    }

    @Test("More unacknowledged messages than announced end the connection (MQTT-3.3.4-9)")
    func receiveMaximum() throws {
        var driver = Driver { $0.receiveMaximum = 2 }
        try driver.connect()
        try driver.receive(message(1), message(2))
        #expect(throws: error(.receiveMaximumExceeded)) { try driver.receive(message(3)) }
        #expect(driver.delivered.count == 2)
    }

    @Test("A settled message makes room for another")
    func receiveMaximumAfterSettling() throws {
        var driver = Driver { $0.receiveMaximum = 1 }
        try driver.connect()
        for packetID: UInt16 in 1...5 {
            try driver.receive(message(packetID))
            driver.settle(driver.delivered.last?.token)
        }
        #expect(driver.takeAcknowledged() == [1, 2, 3, 4, 5])
    }

    @Test("3.1.1 has no Receive Maximum: at the bound reading stops")
    func brake() throws {
        var driver = Driver {
            $0.version = .v3_1_1
            $0.receiveMaximum = 2
        }
        try driver.connect()
        try driver.receive(message(1))
        #expect(!driver.session.isInboundFull)
        try driver.receive(message(2))
        #expect(driver.session.isInboundFull)
        driver.settle(driver.delivered[0].token)
        #expect(!driver.session.isInboundFull)
    }

    @Test("An identifier that is in use ends the connection (MQTT-2.2.1-4)", arguments: [true, false])
    func identifierInUse(duplicate: Bool) throws {
        var driver = Driver()
        try driver.connect()
        try driver.receive(message(1))
        #expect(throws: error(.protocolError)) { try driver.receive(message(1, duplicate: duplicate)) }
    }

    @Test("A 3.1.1 server may repeat a message that is not yet acknowledged: it is delivered once")
    func repetition() throws {
        var driver = Driver { $0.version = .v3_1_1 }
        try driver.connect()
        try driver.receive(message(1), message(1, duplicate: true))
        #expect(driver.delivered.count == 1)
        driver.settle(driver.delivered[0].token)
        #expect(driver.takeAcknowledged() == [1])
        #expect(throws: error(.protocolError)) { try driver.receive(message(2), message(2)) }
    }
}
