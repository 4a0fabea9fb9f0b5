import MQTT
import MQTTClient
import MessageBus
import NIOCore
import Synchronization
import TestSupport
import Testing

/// One connection, against a server that does what the script says.
struct MQTTConnectionTests {
    private func message(
        _ topic: String, _ packetID: UInt16 = 0, qos: QoS = .atMostOnce, properties: Properties = []
    ) throws -> Packet {
        .publish(
            Publish(
                topic: try TopicName(topic), payload: ByteBuffer(string: topic), qos: qos, packetID: packetID,
                properties: properties))
    }

    private func topic(_ filter: String, qos: QoS = .atLeastOnce) throws -> MQTTClientConfiguration.Topic {
        .init(try TopicFilter(filter), qos: qos)
    }

    /// Runs a client and its server at once.
    @discardableResult
    private func run<Value: Sendable>(
        version: ProtocolVersion = .v5_0,
        configure: (inout MQTTClientConfiguration) throws -> Void = { _ in },
        client: @escaping @Sendable (MQTTConnection) async throws -> Value,
        server script: @escaping @Sendable (ScriptedServer) async throws -> Void
    ) async throws -> Value {
        let server = try await ScriptedServer(version: version)
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port, version: version)
        configuration.subscriptions = []
        configuration.cleanStart = true
        try configure(&configuration)
        let frozen = configuration
        return try await withDeadline(.seconds(60), "client and server are done") {
            async let served: Void = script(server)
            let value = try await MQTTConnection.withConnection(frozen, client)
            try await served
            return value
        }
    }

    @Test(
        "A subscription's messages come to its closure, are acknowledged when the next is asked for, and end with it",
        arguments: ProtocolVersion.allCases)
    func subscription(version: ProtocolVersion) async throws {
        let texts = try await self.run(version: version) { connection in
            try await connection.withSubscription(to: [self.topic("a/+"), self.topic("b", qos: .exactlyOnce)]) {
                var texts: [String] = []
                for try await message in $0 {
                    texts.append(message.text)
                    if texts.count == 2 { break }
                }
                return texts
            }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect()
            let subscribe = try await connection.grantSubscribe()
            #expect(subscribe.subscriptions.map(\.filter.rawValue) == ["a/+", "b"])
            #expect(subscribe.subscriptions.map(\.maximumQoS) == [.atLeastOnce, .exactlyOnce])
            #expect(subscribe.properties.subscriptionIdentifiers == (version == .v5_0 ? [1] : []))
            let properties: Properties = version == .v5_0 ? [.subscriptionIdentifier(1)] : []
            connection.send(
                try message("a/1", 1, qos: .atLeastOnce, properties: properties),
                try message("b", 2, qos: .exactlyOnce, properties: properties))
            #expect(try await connection.next() == acknowledge(1))
            // The closure returned: that settles the last one.
            var rest: [Packet] = []
            for _ in 0..<2 { rest.append(try #require(try await connection.next())) }
            #expect(rest.contains(.pubRec(PubRec(packetID: 2))))
            let unsubscribe = rest.compactMap { if case .unsubscribe(let packet) = $0 { packet } else { nil } }
            #expect(unsubscribe.first?.filters.map(\.rawValue) == ["a/+", "b"])
            connection.send(
                .unsubAck(
                    UnsubAck(
                        packetID: unsubscribe.first?.packetID ?? 0,
                        reasonCodes: version == .v5_0 ? [.success, .success] : [])))
            #expect(try await connection.next() == .disconnect(Disconnect()))
        }
        #expect(texts == ["a/1", "b"])
    }

    @Test("A message of two subscriptions goes to both and is acknowledged when both have settled it")
    func overlapping() async throws {
        try await self.run { connection in
            try await connection.withSubscription(to: [self.topic("a/#")], acknowledgement: .manual) { wide in
                try await connection.withSubscription(to: [self.topic("a/b")], acknowledgement: .manual) { narrow in
                    var (wide, narrow) = (wide.makeAsyncIterator(), narrow.makeAsyncIterator())
                    let both = [try await wide.next(), try await narrow.next()]
                    #expect(both.map { $0?.text } == ["a/b", "a/b"])
                    // By its identifier only the first subscription is meant.
                    #expect(try await wide.next()?.topic.rawValue == "a/b")
                    both[0]?.settle()
                    both[0]?.settle()
                    try await connection.publish("marker", qos: .atMostOnce)
                    both[1]?.settle()
                }
            }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect()
            let first = try await connection.grantSubscribe().properties
            let second = try await connection.grantSubscribe().properties
            connection.send(
                try message("a/b", 1, qos: .atLeastOnce, properties: Properties(first.all + second.all)),
                try message("a/b", properties: first))
            #expect(try await connection.nextPublish().topic.rawValue == "marker")
            #expect(try await connection.next() == acknowledge(1))
            _ = try await connection.grantUnsubscribe()
            _ = try await connection.grantUnsubscribe()
        }
    }

    @Test("A resumed session's messages, sent before anyone subscribed, come to the subscription they match")
    func resumed() async throws {
        try await self.run {
            $0.cleanStart = false
        } client: { connection in
            #expect(connection.sessionPresent)
            // With the PUBACK everything before it has come.
            try await connection.publish("marker")
            try await connection.withSubscription(to: [self.topic("a")]) { messages in
                var messages = messages.makeAsyncIterator()
                let text = try await messages.next()?.text
                #expect(text == "a")
            }
            #expect(try await Events(connection).nextDelivery().text == "other")
        } server: { server in
            let connection = try await server.accept()
            _ = try await connection.nextConnect()
            connection.send(
                .connAck(ConnAck(sessionPresent: true, reasonCode: .success)),
                try message("a", 1, qos: .atLeastOnce), try message("other"))
            connection.send(acknowledge(try await connection.nextPublish().packetID))
            _ = try await connection.grantSubscribe()
            #expect(try await connection.next() == acknowledge(1))
            _ = try await connection.grantUnsubscribe()
        }
    }

    @Test("What the server refuses or grants only in part is an error with its code")
    func refusedSubscription() async throws {
        try await self.run { connection in
            let refused = await #expect(throws: error(.subscriptionRefused)) {
                try await connection.subscribe(to: [self.topic("a"), self.topic("b")])
            }
            #expect(refused?.reasonCode == .notAuthorized)
            let granted = try await connection.subscribe(to: [self.topic("c", qos: .exactlyOnce)])
            #expect(granted == [.atLeastOnce])
            await #expect(throws: error(.subscriptionRefused)) {
                try await connection.unsubscribe(from: [TopicFilter("c")])
            }
            await #expect(throws: error(.invalidRequest)) { try await connection.subscribe(to: []) }
            await #expect(throws: error(.invalidRequest)) { try await connection.unsubscribe(from: []) }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect()
            for codes: [ReasonCode] in [[.grantedQoS1, .notAuthorized], [.grantedQoS1]] {
                guard case .subscribe(let subscribe) = try await connection.next() else { return }
                connection.send(.subAck(SubAck(packetID: subscribe.packetID, reasonCodes: codes)))
            }
            guard case .unsubscribe(let unsubscribe) = try await connection.next() else { return }
            connection.send(.unsubAck(UnsubAck(packetID: unsubscribe.packetID, reasonCodes: [.notAuthorized])))
        }
    }

    @Test("Whatever is thrown while a subscription is read, it is ended")
    func endsAfterAnyError() async throws {
        try await self.run { connection in
            await #expect(throws: error(.messageTooLarge)) {
                try await connection.withSubscription(to: [self.topic("a")]) { _ in
                    throw MQTTClientError(.messageTooLarge, "a body's own")
                }
            }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect()
            _ = try await connection.grantSubscribe()
            _ = try await connection.grantUnsubscribe()
        }
    }

    @Test("Of a subscription that is refused in part, only what was granted is ended; in whole, nothing")
    func endsWhatWasGranted() async throws {
        try await self.run { connection in
            for _ in 0..<2 {
                await #expect(throws: error(.subscriptionRefused)) {
                    try await connection.withSubscription(to: [self.topic("a"), self.topic("b")]) { _ in }
                }
            }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect()
            guard case .subscribe(let first) = try await connection.next() else { return }
            connection.send(.subAck(SubAck(packetID: first.packetID, reasonCodes: [.notAuthorized, .grantedQoS1])))
            guard case .unsubscribe(let unsubscribe) = try await connection.next() else {
                Issue.record("no UNSUBSCRIBE")
                return
            }
            #expect(unsubscribe.filters == [try TopicFilter("b")])
            connection.send(.unsubAck(UnsubAck(packetID: unsubscribe.packetID, reasonCodes: [.success])))
            guard case .subscribe(let second) = try await connection.next() else { return }
            connection.send(.subAck(SubAck(packetID: second.packetID, reasonCodes: [.notAuthorized, .notAuthorized])))
            #expect(try await connection.next() == .disconnect(Disconnect()))
        }
    }

    @Test("Answers of the wrong kind or number end the connection", arguments: [0, 1, 2, 3])
    func wrongAnswer(kind: Int) async throws {
        try await self.run { connection in
            await #expect(throws: error(.protocolError)) { try await connection.subscribe(to: [self.topic("a")]) }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect()
            guard case .subscribe(let subscribe) = try await connection.next() else { return }
            connection.send(
                [
                    .subAck(SubAck(packetID: subscribe.packetID, reasonCodes: [.grantedQoS1, .grantedQoS1])),
                    .subAck(SubAck(packetID: subscribe.packetID + 1, reasonCodes: [.grantedQoS1])),
                    .unsubAck(UnsubAck(packetID: subscribe.packetID, reasonCodes: [.success])),
                    acknowledge(subscribe.packetID),
                ][kind])
            #expect(try await connection.next() == .disconnect(Disconnect(reasonCode: .protocolError)))
        }
    }

    @Test("What the server does not offer is not asked for")
    func notOffered() async throws {
        try await self.run { connection in
            for (filter, code) in [
                ("a/+", ReasonCode.wildcardSubscriptionsNotSupported),
                ("$share/g/a", .sharedSubscriptionsNotSupported),
            ] {
                let refused = await #expect(throws: error(.notOffered)) {
                    try await connection.subscribe(to: [self.topic(filter)])
                }
                #expect(refused?.reasonCode == code)
            }
            await #expect(throws: error(.notOffered)) {
                try await connection.publish(OutgoingMessage(topic: "a", text: "", qos: .exactlyOnce))
            }
            #expect(connection.server.assignedClientID == "you")
            #expect(connection.server.userProperties == [UserProperty("a", "b")])
            #expect(connection.server.keepAlive == .seconds(11))
            // Without identifiers the topic decides.
            try await connection.withSubscription(to: [self.topic("a")]) { messages in
                var messages = messages.makeAsyncIterator()
                let text = try await messages.next()?.text
                #expect(text == "a")
            }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect(properties: [
                .wildcardSubscriptionAvailable(false), .sharedSubscriptionAvailable(false),
                .subscriptionIdentifiersAvailable(false), .maximumQoS(.atLeastOnce),
                .assignedClientIdentifier("you"), .serverKeepAlive(11), .userProperty(name: "a", value: "b"),
            ])
            #expect(try await connection.grantSubscribe().properties.isEmpty)
            connection.send(try message("a"))
            _ = try await connection.grantUnsubscribe()
        }
    }

    @Test("3.1.1 has no properties, options, requests or goodbyes: they are refused, not left out")
    func notInOld() async throws {
        try await self.run(version: .v3_1_1) { connection in
            let message = try OutgoingMessage(
                topic: "a", text: "", properties: MessageProperties(userProperties: [UserProperty("a", "b")]))
            await #expect(throws: error(.notInThisVersion)) { try await connection.publish(message) }
            var topic = try self.topic("a")
            topic.noLocal = true
            let asked = topic
            await #expect(throws: error(.notInThisVersion)) { try await connection.subscribe(to: [asked]) }
            await #expect(throws: error(.notInThisVersion)) { try await connection.reauthenticate() }
            await #expect(throws: error(.notInThisVersion)) {
                try await connection.request(OutgoingMessage(topic: "a", text: ""), timeout: .seconds(1))
            }
            #expect(throws: error(.notInThisVersion)) { try connection.setGoodbye(publishingWill: true) }
        } server: { server in
            _ = try await server.acceptAndConnect()
        }
    }

    @Test("A subscription that is not read holds up the network at its bound, and goes on when it is read")
    func backpressure() async throws {
        try await self.run {
            $0.maximumBufferedDeliveries = 10
        } client: { connection in
            try await connection.withSubscription(to: [self.topic("a")]) { messages in
                var count = 0
                for try await _ in messages {
                    count += 1
                    if count == 5_000 { break }
                }
                #expect(count == 5_000)
            }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect()
            _ = try await connection.grantSubscribe()
            for _ in 0..<50 { connection.send(try (0..<100).map { _ in try message("a") }) }
            _ = try await connection.grantUnsubscribe()
        }
    }

    @Test("When the connection ends, whoever reads a subscription is told why")
    func endOfSubscription() async throws {
        try await self.run { connection in
            let thrown = await #expect(throws: error(.disconnectedByServer)) {
                try await connection.withSubscription(to: [self.topic("a")]) { messages in
                    for try await _ in messages {}
                }
            }
            #expect(thrown?.reasonCode == .serverMoved)
            #expect(thrown?.serverReference == "other.example:8883")
            await #expect(throws: error(.closed)) {
                try await connection.publish(OutgoingMessage(topic: "a", text: ""))
            }
        } server: { server in
            let (connection, _) = try await server.acceptAndConnect()
            _ = try await connection.grantSubscribe()
            connection.send(
                .disconnect(
                    Disconnect(reasonCode: .serverMoved, properties: [.serverReference("other.example:8883")])))
        }
    }

    @Test("A CONNACK that sends us elsewhere is an error that says where (section 4.11)")
    func redirected() async throws {
        let thrown = await #expect(throws: error(.connectionRefused)) {
            try await self.run { _ in
            } server: { server in
                let connection = try await server.accept()
                _ = try await connection.nextConnect()
                connection.send(
                    .connAck(
                        ConnAck(
                            sessionPresent: false, reasonCode: .useAnotherServer,
                            properties: [.serverReference("b.example"), .reasonString("full")])))
            }
        }
        #expect(thrown?.reasonCode == .useAnotherServer)
        #expect(thrown?.serverReference == "b.example")
        #expect(thrown?.reason.contains("full") == true)
    }

    @Test("A request gets the answer with its correlation data, whatever else comes on the response topic")
    func request() async throws {
        try await self.run {
            $0.requestsResponseInformation = true
        } client: { connection in
            async let first = connection.request(OutgoingMessage(topic: "ask", text: "1"), timeout: .seconds(60))
            async let second = connection.request(OutgoingMessage(topic: "ask", text: "2"), timeout: .seconds(60))
            let answers = [try await first.text, try await second.text]
            #expect(answers == ["re: 1", "re: 2"])
            await #expect(throws: error(.requestTimeout)) {
                try await connection.request(
                    OutgoingMessage(topic: "nobody", text: "3", qos: .atMostOnce), timeout: .milliseconds(20))
            }
        } server: { server in
            let (connection, connect) = try await server.acceptAndConnect(properties: [.responseInformation("mine")])
            #expect(connect.properties.all.contains(.requestResponseInformation(true)))
            let subscribe = try await connection.grantSubscribe()
            #expect(subscribe.subscriptions.first?.filter.rawValue.hasPrefix("mine/") == true)
            var asked: [Publish] = []
            for _ in 0..<2 { asked.append(try await connection.nextPublish()) }
            for publish in asked.reversed() {
                let properties = MessageProperties(wire: publish.properties)
                let topic = try #require(properties.responseTopic)
                #expect(subscribe.subscriptions.first?.filter.matches(topic) == true)
                let text = "re: " + String(buffer: publish.payload)
                func answer(_ correlation: [UInt8]) -> Packet {
                    .publish(
                        Publish(
                            topic: topic, payload: ByteBuffer(string: text),
                            properties: [.correlationData(correlation)]))
                }
                connection.send(
                    answer([1, 2, 3]), answer(properties.correlationData ?? []),
                    acknowledge(publish.packetID))
            }
            #expect(try await connection.nextPublish().topic.rawValue == "nobody")
        }
    }

    @Test("Messages carry their properties there and back")
    func properties() async throws {
        let properties = MessageProperties(
            contentType: "application/cbor", responseTopic: try TopicName("r"), correlationData: [1, 2],
            expiry: .seconds(60), userProperties: [UserProperty("n", "1"), UserProperty("n", "2")])
        try await self.run {
            $0.subscriptions = [try self.topic("in")]
        } client: { connection in
            try await connection.publish(
                OutgoingMessage(topic: "out", text: "x", qos: .atMostOnce, properties: properties))
            let delivery = try await Events(connection).nextDelivery()
            #expect(delivery.properties.contentType == "application/cbor")
            #expect(delivery.properties.responseTopic?.rawValue == "r")
            #expect(delivery.properties.correlationData == [1, 2])
            #expect(delivery.properties.expiry == .seconds(60))
            #expect(delivery.properties.userProperties == properties.userProperties)
            #expect(!delivery.properties.isText)
        } server: { server in
            let (connection, _) = try await server.acceptAndLetIn()
            var publish = try await connection.nextPublish()
            #expect(
                publish.properties == [
                    .contentType("application/cbor"), .responseTopic(try TopicName("r")), .correlationData([1, 2]),
                    .messageExpiryInterval(60), .userProperty(name: "n", value: "1"),
                    .userProperty(name: "n", value: "2"),
                ])
            publish.topic = try TopicName("in")
            connection.send(.publish(publish))
        }
    }

    @Test("A topic alias that we did not allow ends the connection with 0x94; one that we did stands for its topic")
    func inboundAlias() async throws {
        try await self.run {
            $0.topicAliasMaximum = 1
            $0.subscriptions = [try self.topic("#")]
        } client: { connection in
            let events = Events(connection)
            #expect(try await events.nextDelivery().topic.rawValue == "long")
            #expect(try await events.nextDelivery().topic.rawValue == "long")
            _ = try await events.untilDisconnected()
        } server: { server in
            let (connection, connect) = try await server.acceptAndLetIn()
            #expect(connect.properties.topicAliasMaximum == 1)
            connection.send(
                try message("long", properties: [.topicAlias(1)]),
                .publish(
                    Publish(topic: TopicName(unchecked: ""), payload: ByteBuffer(), properties: [.topicAlias(1)])),
                try message("other", properties: [.topicAlias(2)]))
            #expect(try await connection.next() == .disconnect(Disconnect(reasonCode: .topicAliasInvalid)))
        }
    }

    @Test("CONNECT carries the will with its properties, user name, password and user properties; the goodbye its code")
    func everythingInConnect() async throws {
        try await self.run {
            $0.userName = "mona"
            $0.password = "secret"
            $0.userProperties = [UserProperty("model", "x")]
            $0.requestsProblemInformation = false
            $0.will = .init(
                try OutgoingMessage(
                    topic: "gone", text: "bye", qos: .exactlyOnce, retain: true,
                    properties: MessageProperties(contentType: "text/plain")), delay: .seconds(5))
        } client: { connection in
            try connection.setGoodbye(publishingWill: true, sessionExpiry: .seconds(3))
        } server: { server in
            let (connection, connect) = try await server.acceptAndConnect()
            #expect(connect.username == "mona")
            #expect(connect.password == Array("secret".utf8))
            #expect(connect.properties.all.contains(.userProperty(name: "model", value: "x")))
            #expect(connect.properties.requestProblemInformation == false)
            let expected = Will(
                topic: try TopicName("gone"), payload: Array("bye".utf8), qos: .exactlyOnce, retain: true,
                properties: [.contentType("text/plain"), .willDelayInterval(5)])
            #expect(connect.will == expected)
            #expect(
                try await connection.next()
                    == .disconnect(
                        Disconnect(reasonCode: .disconnectWithWill, properties: [.sessionExpiryInterval(3)])))
        }
    }

    // MARK: Enhanced authentication

    private func auth(_ code: ReasonCode, _ data: [UInt8]? = nil, method: String = "SCRIPTED") -> Packet {
        var properties: Properties = [.authenticationMethod(method)]
        if let data { properties.append(.authenticationData(data)) }
        return .auth(Auth(reasonCode: code, properties: properties))
    }

    @Test("Authentication goes through its challenges at connect, and once more when asked (section 4.12)")
    func authentication() async throws {
        try await self.run {
            $0.authenticator = Scripted(answers: [[7]: [8], [9]: [10]], proof: [42])
        } client: { connection in
            try await connection.reauthenticate()
            await #expect(throws: error(.authenticationFailed)) { try await connection.reauthenticate() }
        } server: { server in
            let connection = try await server.accept()
            let connect = try await connection.nextConnect()
            #expect(connect.properties.authenticationMethod == "SCRIPTED")
            #expect(connect.properties.authenticationData == [1])
            for (challenge, answer): ([UInt8], [UInt8]) in [([7], [8]), ([9], [10])] {
                connection.send(auth(.continueAuthentication, challenge))
                #expect(try await connection.nextAuthPacket() == auth(.continueAuthentication, answer))
            }
            connection.send(
                .connAck(
                    ConnAck(
                        sessionPresent: false, reasonCode: .success,
                        properties: [.authenticationMethod("SCRIPTED"), .authenticationData([42])])))
            #expect(try await connection.nextAuthPacket() == auth(.reauthenticate, [1]))
            connection.send(auth(.continueAuthentication, [7]))
            #expect(try await connection.nextAuthPacket() == auth(.continueAuthentication, [8]))
            connection.send(auth(.success, [42]))
            // The second time the server does not prove who it is.
            #expect(try await connection.nextAuthPacket() == auth(.reauthenticate, [1]))
            connection.send(auth(.success, [0]))
        }
    }

    @Test("A server that breaks the rules of authentication, or that we do not believe, is left", arguments: 0..<5)
    func badAuthentication(kind: Int) async throws {
        let code: MQTTClientError.Code = kind == 2 ? .authenticationFailed : .protocolError
        await #expect(throws: error(code)) {
            try await self.run {
                if kind < 4 { $0.authenticator = Scripted(answers: [[7]: [8]]) }
            } client: { connection in
                _ = try await Events(connection).untilDisconnected()
            } server: { server in
                let connection = try await server.accept()
                _ = try await connection.nextConnect()
                connection.send(
                    [
                        auth(.continueAuthentication, [7], method: "OTHER"), auth(.success),
                        auth(.continueAuthentication, [0]),
                        .connAck(ConnAck(sessionPresent: false, reasonCode: .success)),
                        auth(.continueAuthentication, [7]),
                    ][kind])
                while try await connection.next() != nil {}
            }
        }
    }
}

struct OutboundAliasTests {
    @Test("The first topics get an alias, as many as the server allows; repetitions on a new connection have none")
    func aliases() throws {
        var driver = Driver {
            $0.usesTopicAliases = true
            $0.unacknowledged = .resend
        }
        try driver.connect(properties: [.topicAliasMaximum(1)])
        func publish(_ topic: String, _ waiter: Int) throws {
            let message = try OutgoingMessage(topic: topic, text: "x")
            driver.perform { session, actions in session.publish(message, for: waiter, into: &actions) }
        }
        for (waiter, topic) in ["a", "a", "b", "a"].enumerated() { try publish(topic, waiter) }
        func takeTopics() -> [String] {
            driver.takeSent().map {
                guard case .publish(let publish) = $0 else { return "?" }
                return "\(publish.topic) \(publish.properties.topicAlias ?? 0)"
            }
        }
        #expect(takeTopics() == ["a 1", " 1", "b 0", " 1"])
        driver.lose()
        try driver.connect(sessionPresent: true)
        #expect(takeTopics() == ["a 0", "a 0", "b 0", "a 0"])
    }

    @Test("An alias is not what makes a packet too large")
    func tooLarge() throws {
        var driver = Driver { $0.usesTopicAliases = true }
        // 2 bytes of fixed header, 3 of topic, 2 of identifier, 1 of properties, 1 of payload; an alias takes 3.
        try driver.connect(properties: [.topicAliasMaximum(1), .maximumPacketSize(11)])
        let message = try OutgoingMessage(topic: "a", text: "x")
        driver.perform { session, actions in session.publish(message, for: 1, into: &actions) }
        guard case .publish(let publish) = driver.takeSent().first else {
            Issue.record("not sent")
            return
        }
        #expect(publish.properties.isEmpty)
    }
}

struct SessionStoreFailureTests {
    @Test("A store that fails stops the client: nothing is told or sent that is not on disk")
    func failure() async throws {
        let server = try await ScriptedServer()
        let store = MemorySessionStore()
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port)
        configuration.sessionStore = store
        let bus = try MQTTClientBus(quiet: configuration)
        let running = Task { try await bus.run() }
        let (connection, _) = try await server.acceptAndLetIn()
        try await bus.enqueue(OutgoingMessage(topic: "a", text: "1"))
        let first = try await connection.nextPublish()
        #expect(String(buffer: first.payload) == "1")
        store.fail()
        await #expect(throws: error(.sessionStore)) { try await bus.enqueue(OutgoingMessage(topic: "a", text: "2")) }
        #expect(try await connection.next() == .disconnect(Disconnect(reasonCode: .implementationSpecificError)))
        await #expect(throws: error(.sessionStore)) {
            try await withDeadline(.seconds(60), "the bus has stopped") { try await running.value }
        }
        await #expect(throws: error(.closed)) { try await bus.enqueue(OutgoingMessage(topic: "a", text: "3")) }
        #expect(store.session.messages.map { String(buffer: $0.message.payload) } == ["1"])
    }

    @Test("What is taken over before there is a connection is in the store, and is sent when there is one")
    func offline() async throws {
        let server = try await ScriptedServer()
        let store = MemorySessionStore()
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port)
        configuration.sessionStore = store
        let bus = try MQTTClientBus(quiet: configuration)
        try await bus.enqueue(OutgoingMessage(topic: "a", text: "early", qos: .exactlyOnce))
        #expect(store.session.messages.count == 1)
        try await withBus(bus) { _, _ in
            let (connection, _) = try await server.acceptAndLetIn()
            let publish = try await connection.nextPublish()
            #expect(String(buffer: publish.payload) == "early")
            #expect(store.session.messages.first?.packetID == publish.packetID)
            connection.send(.pubRec(PubRec(packetID: publish.packetID)))
            #expect(try await connection.next() == .pubRel(PubRel(packetID: publish.packetID)))
            #expect(store.session.messages.first?.isReleased == true)
            connection.send(.pubComp(PubComp(packetID: publish.packetID)))
        }
        #expect(store.session.messages.isEmpty)
    }
}
