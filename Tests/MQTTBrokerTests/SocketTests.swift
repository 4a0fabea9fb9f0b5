import Identity
import MQTT
import MQTTBroker
import MessageBus
import NIOCore
import Testing

/// Raw packets over real sockets, without TLS.
struct SocketTests {
    @Test("Everything that a client sent before it left is dealt with, its DISCONNECT too")
    func left() async throws {
        try await TestBroker.withPlaintext(authorizer: Permissive()) { broker in
            let (subscriber, _) = try await broker.connect("auditor-1")
            try await subscriber.subscribe("t", "will", qos: .atMostOnce)
            let publisher = try await RawClient.connect(port: broker.port)
            let will = Will(topic: try TopicName("will"), payload: [1], qos: .atMostOnce, retain: false)
            try await publisher.send(
                .connect(Connect(version: .v5_0, clientID: "p", will: will, username: "auditor-2")))
            _ = try await publisher.expectConnAck()
            try await publisher.publishAndLeave("t", 10_000)
            for number in 1...10_000 {
                #expect(String(buffer: try await subscriber.expectPublish().payload) == "\(number)")
            }
            try await subscriber.ping()
        }
    }

    @Test("A message goes from publisher to subscriber in both versions", arguments: ProtocolVersion.allCases)
    func path(version: ProtocolVersion) async throws {
        try await TestBroker.withPlaintext { broker in
            let (subscriber, connAck) = try await broker.connect("operator-1", version: version)
            #expect(connAck.reasonCode == .success)
            #expect(try await subscriber.subscribe("audits/#") == [.grantedQoS1])
            let (publisher, _) = try await broker.connect("auditor-1", version: version)
            try await publisher.publish("audits/measures/auditor-1", "hello", id: 77)
            #expect(try await publisher.expectPubAck().packetID == 77)
            let publish = try await subscriber.expectPublish()
            #expect(publish.topic == (try TopicName("audits/measures/auditor-1")))
            #expect(String(buffer: publish.payload) == "hello")
            #expect(publish.qos == .atLeastOnce)
            try await subscriber.send(.pubAck(PubAck(packetID: publish.packetID)))
            try await publisher.publish("audits/measures/auditor-1", "zero", qos: .atMostOnce)
            #expect(try await subscriber.expectPublish().qos == .atMostOnce)
        }
    }

    @Test("Packets that come byte by byte, or many at once, are the same packets")
    func pieces() async throws {
        try await TestBroker.withPlaintext { broker in
            let client = try await RawClient.connect(port: broker.port)
            var buffer = ByteBuffer()
            try Packet.connect(Connect(version: .v5_0, clientID: "c", username: "auditor-1"))
                .encode(into: &buffer, version: .v5_0)
            for byte in buffer.readableBytesView { try await client.send(bytes: [byte]) }
            #expect(
                try await client.expectConnAck().reasonCode
                    == .success)
            var many = ByteBuffer()
            for number in 1...500 {
                try Publish(
                    topic: try TopicName("audits/measures/auditor-1"), payload: ByteBuffer(), qos: .atLeastOnce,
                    packetID: UInt16(number)
                ).encode(into: &many, version: .v5_0)
            }
            try await client.send(bytes: Array(many.readableBytesView))
            for number in 1...500 { #expect(try await client.expectPubAck().packetID == UInt16(number)) }
        }
    }

    @Test("What is refused is answered and observed")
    func refusals() async throws {
        try await TestBroker.withPlaintext { broker in
            let (five, _) = try await broker.connect("auditor-1")
            #expect(
                try await five.subscribe("audits/#", "control_center/receipts/auditor-1") == [
                    .notAuthorized, .grantedQoS1,
                ])
            try await five.publish("audits/measures/auditor-2", id: 3)
            let answer = try await five.expectPubAck()
            #expect(answer.packetID == 3)
            #expect(answer.reasonCode == .notAuthorized)
            let (three, _) = try await broker.connect("auditor-2", version: .v3_1_1)
            #expect(try await three.subscribe("#") == [.unspecifiedError])
            try await three.publish("audits/measures/auditor-1")
            #expect(try await three.expectEnd())
            let publishes = broker.events.all.compactMap {
                if case .publishRefused(let peer, let topic, let reason) = $0 {
                    "\(peer.spiffeID.id) \(topic) \(reason)"
                } else {
                    nil
                }
            }
            #expect(
                publishes == ["auditor-1 audits/measures/auditor-2 topic", "auditor-2 audits/measures/auditor-1 topic"])
            let subscriptions = broker.events.all.compactMap {
                if case .subscribeRefused(let peer, let filter, let reason) = $0 {
                    "\(peer.spiffeID.id) \(filter) \(reason)"
                } else {
                    nil
                }
            }
            #expect(subscriptions == ["auditor-1 audits/# topic", "auditor-2 # topic"])
        }
    }

    @Test("Who is not known, or a broker, or has a will where it may not, is refused in CONNACK")
    func connectRefused() async throws {
        try await TestBroker.withPlaintext { broker in
            let stranger = try await RawClient.connect(port: broker.port)
            try await stranger.send(.connect(Connect(version: .v5_0, clientID: "c")))
            #expect(
                try await stranger.expectConnAck().reasonCode
                    == .notAuthorized)
            #expect(try await stranger.expectEnd())

            let (other, connAck) = try await broker.connect("broker-1", version: .v3_1_1)
            #expect(connAck.reasonCode == .notAuthorized)
            #expect(try await other.expectEnd())

            let mortal = try await RawClient.connect(port: broker.port)
            let will = Will(
                topic: try TopicName("audits/measures/auditor-1"), payload: [], qos: .atMostOnce, retain: false)
            try await mortal.send(.connect(Connect(version: .v5_0, clientID: "c", will: will, username: "auditor-1")))
            let refusal = try await mortal.expectConnAck()
            #expect(refusal.reasonCode == .notAuthorized)
            #expect(refusal.properties.reasonString == "may not have a will there: topic")
            #expect(broker.events.all.filter { if case .connectRefused = $0 { true } else { false } }.count == 3)
        }
    }

    @Test("Too large a packet is refused from its header with 0x95, and observed")
    func tooLarge() async throws {
        try await TestBroker.withPlaintext { broker in
            let (client, _) = try await broker.connect("auditor-1")
            try await client.send(bytes: [0x30, 0xFF, 0xFF, 0x7F])
            #expect(try await client.expectDisconnect() == .packetTooLarge)
            #expect(try await client.expectEnd())
            #expect(broker.events.all.contains { if case .packetTooLarge = $0 { true } else { false } })
        }
    }

    @Test("Bytes that are no MQTT end the connection with their reason, and nobody else's")
    func malformed() async throws {
        try await TestBroker.withPlaintext { broker in
            let (bystander, _) = try await broker.connect("auditor-2")
            let cases: [([UInt8], ReasonCode)] = [
                ([0xC1, 0x00], .malformedPacket), ([0xD0, 0x00], .protocolError),
                ([0x36, 0x05, 0, 1, 0x61, 0, 1], .malformedPacket),
                ([0x82, 0x06, 0, 1, 0, 0, 0, 0], .topicFilterInvalid),
                ([0xF0, 0x00], .protocolError),
            ]
            for (bytes, code) in cases {
                let (client, _) = try await broker.connect("auditor-1")
                try await client.send(bytes: bytes)
                #expect(try await client.expectDisconnect() == code, "\(bytes)")
                #expect(try await client.expectEnd())
            }
            let silent = try await RawClient.connect(port: broker.port)
            try await silent.send(bytes: Array("GET / HTTP/1.1\r\n\r\n".utf8))
            #expect(try await silent.expectEnd())
            let old = try await RawClient.connect(port: broker.port, version: .v3_1_1)
            try await old.send(bytes: [0x10, 0x0F, 0, 6, 0x4D, 0x51, 0x49, 0x73, 0x64, 0x70, 3, 2, 0, 10, 0, 1, 0x61])
            #expect(
                try await old.expectConnAck().reasonCode
                    == .unsupportedProtocolVersion)
            try await bystander.ping()
        }
    }

    @Test("QoS 2 goes its four steps in both directions", arguments: ProtocolVersion.allCases)
    func qosTwo(version: ProtocolVersion) async throws {
        try await TestBroker.withPlaintext { broker in
            let (subscriber, _) = try await broker.connect("operator-1", version: version)
            #expect(try await subscriber.subscribe("audits/#", qos: .exactlyOnce) == [.grantedQoS2])
            let (publisher, _) = try await broker.connect("auditor-1", version: version)
            try await publisher.publish("audits/measures/auditor-1", "once", qos: .exactlyOnce, id: 9)
            #expect(try await publisher.next() == .pubRec(PubRec(packetID: 9)))
            try await publisher.publish("audits/measures/auditor-1", "once", qos: .exactlyOnce, id: 9)
            #expect(try await publisher.next() == .pubRec(PubRec(packetID: 9)))
            try await publisher.send(.pubRel(PubRel(packetID: 9)))
            #expect(try await publisher.next() == .pubComp(PubComp(packetID: 9)))
            let publish = try await subscriber.expectPublish()
            #expect(publish.qos == .exactlyOnce)
            #expect(publish.packetID == 1)
            try await subscriber.send(.pubRec(PubRec(packetID: 1)))
            #expect(try await subscriber.next() == .pubRel(PubRel(packetID: 1)))
            try await subscriber.send(.pubComp(PubComp(packetID: 1)))
            try await subscriber.ping()
        }
    }

    @Test("A will is published when the connection ends without a word, and not after DISCONNECT")
    func will() async throws {
        try await TestBroker.withPlaintext { broker in
            let (operator1, _) = try await broker.connect("operator-1")
            try await operator1.subscribe("audits/alerts/+")
            let will = Will(
                topic: try TopicName("audits/alerts/auditor-1"), payload: Array("gone".utf8), qos: .atLeastOnce,
                retain: false)
            for isPolite in [true, false] {
                let mortal = try await RawClient.connect(port: broker.port)
                try await mortal.send(
                    .connect(Connect(version: .v5_0, clientID: "c", will: will, username: "auditor-1")))
                #expect(try await mortal.expectConnAck().reasonCode == .success)
                if isPolite {
                    try await mortal.send(.disconnect(Disconnect()))
                    #expect(try await mortal.expectEnd())
                } else {
                    try await mortal.drop()
                }
            }
            #expect(String(buffer: try await operator1.expectPublish().payload) == "gone")
            try await operator1.ping()
        }
    }

    @Test("Topic aliases are used in both directions, within what each side allows")
    func topicAliases() async throws {
        try await TestBroker.withPlaintext { broker in
            let (subscriber, _) = try await broker.connect("operator-1", properties: [.topicAliasMaximum(1)])
            try await subscriber.subscribe("audits/#", qos: .atMostOnce)
            let (publisher, connAck) = try await broker.connect("auditor-1")
            #expect(connAck.properties.topicAliasMaximum == BrokerLimits().topicAliasMaximum)
            let topic = "audits/measures/auditor-1"
            try await publisher.publish(topic, "1", qos: .atMostOnce, properties: [.topicAlias(1)])
            // Without topic, by its alias.
            try await publisher.send(bytes: [0x30, 0x07, 0, 0, 3, 0x23, 0, 1, 0x32])
            try await publisher.publish("audits/alerts/auditor-1", "3", qos: .atMostOnce)
            for number in 1...2 {
                let publish = try await subscriber.expectPublish()
                #expect(publish.topic == (try TopicName(topic)))
                #expect(publish.properties.topicAlias == 1)
                #expect(String(buffer: publish.payload) == "\(number)")
            }
            #expect(try await subscriber.expectPublish().properties.topicAlias == nil)
            try await publisher.send(bytes: [0x30, 0x07, 0, 0, 3, 0x23, 0, 2, 0x32])
            #expect(try await publisher.expectDisconnect() == .protocolError)
        }
    }

    @Test("A client is sent nothing larger than it takes: words are left out first")
    func clientMaximumPacketSize() async throws {
        try await TestBroker.withPlaintext { broker in
            let (client, _) = try await broker.connect("auditor-1", properties: [.maximumPacketSize(40)])
            try await client.send(bytes: [0xF0, 0x00])
            guard case .disconnect(let disconnect) = try await client.next() else { throw UnexpectedPacket() }
            #expect(disconnect.reasonCode == .protocolError)
            #expect(disconnect.properties.isEmpty)
            let small = try await RawClient.connect(port: broker.port)
            try await small.send(
                .connect(
                    Connect(
                        version: .v5_0, clientID: "c", username: "broker-1", properties: [.maximumPacketSize(5)])))
            let connAck = try await small.expectConnAck()
            #expect(connAck.reasonCode == .notAuthorized)
            #expect(connAck.properties.isEmpty)
        }
    }

    @Test("A CONNECT of 5.0 that is wrong is answered with its reason")
    func wrongConnect() async throws {
        try await TestBroker.withPlaintext { broker in
            let client = try await RawClient.connect(port: broker.port)
            // The reserved flag is set.
            try await client.send(bytes: [0x10, 0x0D, 0, 4, 0x4D, 0x51, 0x54, 0x54, 5, 3, 0, 10, 0, 0, 0])
            #expect(try await client.expectConnAck().reasonCode == .malformedPacket)
            #expect(try await client.expectEnd())
        }
    }

    @Test("A session outlives its connection: unacknowledged messages come again, those missed follow")
    func sessionResumes() async throws {
        try await TestBroker.withPlaintext { broker in
            let (first, _) = try await broker.connect(
                "operator-1", cleanStart: false, properties: [.sessionExpiryInterval(100)])
            try await first.subscribe("audits/#")
            let (publisher, _) = try await broker.connect("auditor-1")
            try await publisher.publish("audits/measures/auditor-1", "one")
            _ = try await publisher.expectPubAck()
            #expect(try await first.expectPublish().isDuplicate == false)
            try await first.drop()
            try await broker.events.wait("the first connection is gone") {
                if case .disconnected(let peer, _, _) = $0 { peer.spiffeID.role == .operator } else { false }
            }
            try await publisher.publish("audits/measures/auditor-1", "two")
            _ = try await publisher.expectPubAck()
            let (second, connAck) = try await broker.connect(
                "operator-1", cleanStart: false, properties: [.sessionExpiryInterval(100)])
            #expect(connAck.sessionPresent)
            let one = try await second.expectPublish()
            #expect(String(buffer: one.payload) == "one")
            #expect(one.isDuplicate)
            let two = try await second.expectPublish()
            #expect(String(buffer: two.payload) == "two")
            #expect(!two.isDuplicate)
        }
    }

    @Test("A takeover tells the old connection 0x8E; another identity's is left alone")
    func takeover() async throws {
        try await TestBroker.withPlaintext { broker in
            let (old, _) = try await broker.connect("auditor-1", clientID: "same")
            let (thief, _) = try await broker.connect("auditor-2", clientID: "same")
            try await old.ping()
            let (_, _) = try await broker.connect("auditor-1", clientID: "same")
            #expect(try await old.expectDisconnect() == .sessionTakenOver)
            #expect(try await old.expectEnd())
            try await thief.ping()
        }
    }

    @Test("A client that is silent for one and a half keep-alives is disconnected with 0x8D")
    func keepAlive() async throws {
        try await TestBroker.withPlaintext { broker in
            let (client, _) = try await broker.connect("auditor-1", keepAlive: 1)
            #expect(try await client.expectDisconnect() == .keepAliveTimeout)
            #expect(try await client.expectEnd())
        }
    }

    @Test("Who connects and says nothing is disconnected at the deadline")
    func connectDeadline() async throws {
        var limits = BrokerLimits()
        limits.connectDeadline = 1
        try await TestBroker.withPlaintext(limits: limits) { broker in
            let client = try await RawClient.connect(port: broker.port)
            #expect(try await client.expectEnd())
            #expect(broker.events.texts.contains { $0.contains("no CONNECT within 1 s") })
        }
    }

    @Test(
        "Connections beyond the limit are told so; a place that becomes free, or is taken over, is given again",
        arguments: ProtocolVersion.allCases)
    func connectionLimit(version: ProtocolVersion) async throws {
        var limits = BrokerLimits()
        limits.maximumConnections = 2
        try await TestBroker.withPlaintext(limits: limits) { broker in
            let (one, _) = try await broker.connect("auditor-1")
            let (two, _) = try await broker.connect("auditor-2")
            let (third, refused) = try await broker.connect("auditor-3", version: version)
            #expect(refused.reasonCode == (version == .v5_0 ? .quotaExceeded : .serverUnavailable))
            #expect(try await third.expectEnd())
            try await two.ping()
            let (_, takeover) = try await broker.connect("auditor-2", version: version)
            #expect(takeover.reasonCode == .success)
            try await one.send(.disconnect(Disconnect()))
            #expect(try await one.expectEnd())
            let (_, connAck) = try await broker.connect("auditor-1", version: version)
            #expect(connAck.reasonCode == .success)
        }
    }

    @Test("A subscriber that reads nothing holds nobody up: its queue fills and it is disconnected")
    func slowConsumer() async throws {
        var limits = BrokerLimits()
        limits.maximumQueuedMessages = 50
        limits.slowConsumerBytes = 64 * 1_024
        try await TestBroker.withPlaintext(limits: limits) { broker in
            let (slow, _) = try await broker.connect("operator-1")
            try await slow.subscribe("audits/#")
            try await slow.setAutoRead(false)
            let (good, _) = try await broker.connect("operator-2", properties: [.receiveMaximum(65_535)])
            try await good.subscribe("audits/#", qos: .atMostOnce)
            let (publisher, _) = try await broker.connect("auditor-1")
            let payload = String(repeating: "x", count: 60_000)
            for number in 1...400 {
                try await publisher.publish("audits/measures/auditor-1", payload, id: UInt16(number))
                #expect(try await publisher.expectPubAck().packetID == UInt16(number))
                #expect(try await good.expectPublish().payload.readableBytes == 60_000)
            }
            #expect(
                broker.events.all.contains {
                    if case .queueFull(let peer, _) = $0 { peer.spiffeID.id.rawValue == "operator-1" } else { false }
                })
            #expect(try await broker.broker.statistics().messagesDropped > 0)
        }
    }

    @Test("The broker's figures come at once and then every ten seconds, to operators alone")
    func figures() async throws {
        try await TestBroker.withPlaintext { broker in
            let (auditor, _) = try await broker.connect("auditor-1")
            #expect(try await auditor.subscribe("$SYS/#") == [.notAuthorized])
            try await auditor.publish("audits/measures/auditor-1", "x", qos: .atMostOnce)
            try await auditor.ping()
            let (reader, _) = try await broker.connect("operator-1")
            #expect(try await reader.subscribe("$SYS/broker/#", qos: .atMostOnce) == [.grantedQoS0])
            func read(upTo last: String) async throws -> [String: String] {
                var figures: [String: String] = [:]
                while figures["$SYS/broker/\(last)"] == nil {
                    let publish = try await reader.expectPublish()
                    #expect(!publish.retain)
                    figures[publish.topic.rawValue] = String(buffer: publish.payload)
                }
                return figures
            }
            let first = try await read(upTo: "refused/connections")
            #expect(first["$SYS/broker/connections/open"] == "2")
            #expect(first["$SYS/broker/messages/received/qos0"] == "1")
            #expect(first["$SYS/broker/messages/dropped/queue-full"] == "0")
            #expect(first["$SYS/broker/refused/subscriptions"] == "1")
            try await auditor.send(.disconnect(Disconnect()))
            #expect(try await auditor.expectEnd())
            #expect(try await read(upTo: "refused/connections")["$SYS/broker/connections/open"] == "1")
        }
    }

    @Test("Retained messages are the control center's; a client's retained statement is refused")
    func retained() async throws {
        try await TestBroker.withPlaintext { broker in
            let (center, _) = try await broker.connect("center-1")
            try await center.publish("control_center/crl", "list", retain: true)
            #expect(try await center.expectPubAck().reasonCode == .success)
            let (auditor, _) = try await broker.connect("auditor-1")
            try await auditor.subscribe("control_center/crl")
            let publish = try await auditor.expectPublish()
            #expect(publish.retain)
            #expect(String(buffer: publish.payload) == "list")
            try await auditor.publish("audits/measures/auditor-1", retain: true)
            #expect(try await auditor.expectPubAck().reasonCode == .notAuthorized)
            #expect(
                broker.events.all.contains {
                    if case .publishRefused(_, _, "retained") = $0 { true } else { false }
                })
        }
    }

    @Test("At shutdown clients of 5.0 are told 0x8B and the port is free again")
    func shutdown() async throws {
        let left = RawClientBox()
        try await TestBroker.withPlaintext { broker in
            left.client = try await broker.connect("auditor-1").0
        }
        #expect(try await left.client?.expectDisconnect() == .serverShuttingDown)
        #expect(try await left.client?.expectEnd() == true)
    }

    @Test("An operator's hand disconnects whom it means, and if told so ends the session too")
    func disconnectWhere() async throws {
        try await TestBroker.withPlaintext { broker in
            let (one, _) = try await broker.connect("auditor-1", properties: [.sessionExpiryInterval(100)])
            let (two, _) = try await broker.connect("auditor-2")
            #expect(try await broker.broker.disconnect { $0.spiffeID.id.rawValue == "auditor-1" } == 1)
            #expect(try await one.expectDisconnect() == .administrativeAction)
            try await two.ping()
            let (_, kept) = try await broker.connect(
                "auditor-1", cleanStart: false, properties: [.sessionExpiryInterval(100)])
            #expect(kept.sessionPresent)
            _ = try await broker.broker.disconnect(endingSessions: true) { $0.spiffeID.id.rawValue == "auditor-1" }
            let (_, ended) = try await broker.connect("auditor-1", cleanStart: false)
            #expect(!ended.sessionPresent)
        }
    }
}

private final class RawClientBox {
    var client: RawClient?
}
