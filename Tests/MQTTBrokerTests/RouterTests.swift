import Identity
import MQTT
import MQTTBroker
import NIOCore
import Testing

struct RouterTests {
    @Test("A second connection of the same identity and client identifier takes the session over")
    func takeover() throws {
        var harness = Harness()
        let one = try harness.connect(try auditor("a"), expiry: 100)
        try harness.subscribe(one, "t")
        _ = harness.take()
        guard
            case .accepted(let two, let connAck, _) = harness.outcome(try auditor("a"), cleanStart: false, expiry: 100)
        else { throw UnexpectedPacket() }
        #expect(connAck.sessionPresent)
        #expect(harness.take() == ["close 0 142"])
        harness.router.start(two)
        harness.router.connectionLost(one, reason: "")
        let publisher = try harness.connect(try auditor("b"))
        _ = harness.take()
        try harness.publish(publisher)
        #expect(harness.take() == ["deliver \(two.index) x q1 #1", "puback \(publisher.index) 1 0"])
    }

    @Test("Another identity with the same client identifier has a session of its own")
    func noTheft() throws {
        var harness = Harness()
        let victim = try harness.connect(try auditor("a"), expiry: 100)
        try harness.subscribe(victim, "t")
        _ = harness.take()
        guard case .accepted(let thief, let connAck, _) = harness.outcome(try auditor("b"), cleanStart: false) else {
            throw UnexpectedPacket()
        }
        #expect(!connAck.sessionPresent)
        #expect(harness.take() == [])
        try harness.publish(thief)
        #expect(harness.take() == ["deliver \(victim.index) x q1 #1", "puback \(thief.index) 1 0"])
    }

    @Test("Client identifiers that look alike but differ in bytes are different")
    func clientIDBytes() throws {
        var harness = Harness()
        _ = try harness.connect(try auditor("a"), "\u{E9}")
        _ = try harness.connect(try auditor("a"), "e\u{301}")
        #expect(harness.take() == [])
        #expect(harness.router.statistics.sessions == 2)
    }

    @Test("What a client did not acknowledge comes again with DUP and its old identifier, then what waited")
    func resend() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("a"), expiry: 100, properties: [.receiveMaximum(2)])
        try harness.subscribe(subscriber, "t")
        let publisher = try harness.connect(try auditor("b"))
        for number in 1...4 { try harness.publish(publisher, "t", "m\(number)") }
        #expect(harness.take().filter { $0.hasPrefix("deliver") } == ["deliver 0 m1 q1 #1", "deliver 0 m2 q1 #2"])
        harness.router.acknowledged(1, from: subscriber)
        #expect(harness.take() == ["deliver 0 m3 q1 #3"])
        harness.router.connectionLost(subscriber, reason: "")
        try harness.publish(publisher, "t", "m5")
        _ = harness.take()
        let again = try harness.connect(
            try auditor("a"), cleanStart: false, expiry: 100, properties: [.receiveMaximum(10)])
        #expect(
            harness.take() == [
                "deliver 0 m2 q1 #2 dup", "deliver 0 m3 q1 #3 dup", "deliver 0 m4 q1 #4", "deliver 0 m5 q1 #5",
            ])
        #expect(again.index == 0)
    }

    @Test("A smaller Receive Maximum after a reconnect is kept, and the rest follows with DUP")
    func smallerWindow() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("a"), expiry: 100)
        try harness.subscribe(subscriber, "t")
        let publisher = try harness.connect(try auditor("b"))
        for number in 1...3 { try harness.publish(publisher, "t", "m\(number)") }
        harness.router.connectionLost(subscriber, reason: "")
        _ = harness.take()
        let again = try harness.connect(
            try auditor("a"), cleanStart: false, expiry: 100, properties: [.receiveMaximum(1)])
        #expect(harness.take() == ["deliver 0 m1 q1 #1 dup"])
        harness.router.acknowledged(1, from: again)
        #expect(harness.take() == ["deliver 0 m2 q1 #2 dup"])
    }

    @Test("Acknowledgements out of order or for nothing do no harm")
    func acknowledgementsOutOfOrder() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("a"), expiry: 100, properties: [.receiveMaximum(3)])
        try harness.subscribe(subscriber, "t")
        let publisher = try harness.connect(try auditor("b"))
        for number in 1...4 { try harness.publish(publisher, "t", "m\(number)") }
        _ = harness.take()
        harness.router.acknowledged(9, from: subscriber)
        #expect(harness.take() == [])
        harness.router.acknowledged(2, from: subscriber)
        #expect(harness.take() == ["deliver 0 m4 q1 #4"])
        harness.router.acknowledged(1, from: subscriber)
        #expect(harness.take() == [])
        harness.router.connectionLost(subscriber, reason: "")
        _ = try harness.connect(try auditor("a"), cleanStart: false, expiry: 100)
        #expect(harness.take() == ["deliver 0 m3 q1 #3 dup", "deliver 0 m4 q1 #4 dup"])
    }

    @Test("Packet identifiers go to 65,535, then to 1, and none is used twice at once")
    func identifiersWrap() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("a"))
        try harness.subscribe(subscriber, "t")
        let publisher = try harness.connect(try auditor("b"))
        _ = harness.take()
        for number in 0..<70_000 {
            let expected = number % 65_535 + 1
            try harness.publish(publisher)
            #expect(harness.take() == ["deliver 0 x q1 #\(expected)", "puback 1 1 0"])
            harness.router.acknowledged(UInt16(expected), from: subscriber)
        }
    }

    @Test("Clean start forgets the session; expiry ends it when its time has come")
    func sessionEnds() throws {
        var harness = Harness()
        let one = try harness.connect(try auditor("a"), expiry: 10)
        try harness.subscribe(one, "t")
        harness.router.connectionLost(one, reason: "")
        harness.router.advance(to: 9)
        #expect(harness.router.statistics.sessions == 1)
        harness.router.advance(to: 10)
        #expect(harness.router.statistics.sessions == 0)

        let two = try harness.connect(try auditor("a"), expiry: 10)
        harness.router.connectionLost(two, reason: "")
        guard case .accepted(_, let connAck, _) = harness.outcome(try auditor("a"), cleanStart: true) else {
            throw UnexpectedPacket()
        }
        #expect(!connAck.sessionPresent)
    }

    @Test("A session that outlived its connection may be ended by DISCONNECT, but not begun by it")
    func expiryInDisconnect() throws {
        var harness = Harness()
        let kept = try harness.connect(try auditor("a"), expiry: 10)
        harness.router.disconnect(Disconnect(properties: [.sessionExpiryInterval(0)]), from: kept)
        harness.router.connectionLost(kept, reason: "")
        #expect(harness.router.statistics.sessions == 0)
        let unkept = try harness.connect(try auditor("a"), expiry: 0)
        _ = harness.take()
        harness.router.disconnect(Disconnect(properties: [.sessionExpiryInterval(10)]), from: unkept)
        #expect(harness.take() == ["close 0 130"])
    }

    @Test("To a slow client QoS 0 is dropped and counted, QoS 1 waits until it takes again")
    func slowConsumer() throws {
        var harness = Harness()
        let slow = try harness.connect(try auditor("a"))
        try harness.subscribe(slow, "t")
        let other = try harness.connect(try auditor("c"))
        try harness.subscribe(other, "t")
        let publisher = try harness.connect(try auditor("b"))
        harness.router.setWritable(slow, false)
        _ = harness.take()
        try harness.publish(publisher, "t", "zero", qos: .atMostOnce)
        try harness.publish(publisher, "t", "one")
        #expect(harness.take() == ["deliver 1 zero q0", "deliver 1 one q1 #1", "puback 2 1 0"])
        #expect(harness.router.statistics.messagesDroppedByReason == [.slow: 1])
        harness.router.setWritable(slow, true)
        #expect(harness.take() == ["deliver 0 one q1 #1"])
    }

    @Test("When all queues together are full, the largest loses its newer half, and nobody else anything")
    func allQueuesFull() throws {
        var limits = BrokerLimits()
        limits.maximumTotalQueuedBytes = 6 * (6 + 5 + 64) + 5
        var harness = Harness(limits: limits)
        for (name, filter) in [("a", "large"), ("c", "small")] {
            let client = try harness.connect(try auditor(name), expiry: 100)
            try harness.subscribe(client, filter)
            harness.router.connectionLost(client, reason: "")
        }
        let publisher = try harness.connect(try auditor("b"))
        for number in 1...6 { try harness.publish(publisher, "large", "l\(number)____") }
        _ = harness.take()
        try harness.publish(publisher, "small", "s1____")
        #expect(harness.take() == ["full", "puback 0 1 0"])
        #expect(harness.router.statistics.messagesDroppedByReason == [.allQueuesFull: 3])
        var all = BrokerStatistics()
        harness.router.measureQueues(&all)
        #expect(all.queues == 2 && all.longestQueue == 3 && all.largestQueueBytes == 3 * 75)
        _ = try harness.connect(try auditor("a"), cleanStart: false, expiry: 100)
        #expect(
            harness.take() == [
                "deliver 1 l1____ q1 #1", "deliver 1 l2____ q1 #2", "deliver 1 l3____ q1 #3",
            ])
        _ = try harness.connect(try auditor("c"), cleanStart: false, expiry: 100)
        #expect(harness.take() == ["deliver 2 s1____ q1 #1"])
    }

    @Test("A full queue loses the newest, says so once, and ends the connection, not the session")
    func queueFull() throws {
        var limits = BrokerLimits()
        limits.maximumQueuedMessages = 2
        var harness = Harness(limits: limits)
        let slow = try harness.connect(try auditor("a"), expiry: 100)
        try harness.subscribe(slow, "t")
        let publisher = try harness.connect(try auditor("b"))
        harness.router.setWritable(slow, false)
        for number in 1...2 { try harness.publish(publisher, "t", "m\(number)") }
        _ = harness.take()
        try harness.publish(publisher, "t", "m3")
        #expect(harness.take() == ["full", "close 0 151", "puback 1 1 0"])
        harness.router.connectionLost(slow, reason: "")
        try harness.publish(publisher, "t", "m4")
        #expect(harness.take() == ["puback 1 1 0"])
        #expect(harness.router.statistics.messagesDroppedByReason == [.queueFull: 2])
        _ = try harness.connect(try auditor("a"), cleanStart: false, expiry: 100)
        #expect(harness.take() == ["deliver 0 m1 q1 #1", "deliver 0 m2 q1 #2"])
    }

    @Test("A queue is bounded in bytes as well")
    func queueBytes() throws {
        var limits = BrokerLimits()
        // Each message counts its topic and 64 bytes as well.
        limits.maximumQueuedBytes = 10 + 2 * 65
        var harness = Harness(limits: limits)
        let away = try harness.connect(try auditor("a"), expiry: 100)
        try harness.subscribe(away, "t")
        harness.router.connectionLost(away, reason: "")
        let publisher = try harness.connect(try auditor("b"))
        _ = harness.take()
        try harness.publish(publisher, "t", "123456")
        try harness.publish(publisher, "t", "78901")
        #expect(harness.take() == ["puback 0 1 0", "full", "puback 0 1 0"])
    }

    @Test("Overlapping subscriptions get one message, with the higher QoS and both identifiers")
    func overlapping() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("a"))
        try harness.subscribe(subscriber, "a/+", qos: .atMostOnce, identifier: 3)
        try harness.subscribe(subscriber, "a/#", qos: .atLeastOnce, identifier: 4)
        let publisher = try harness.connect(try auditor("b"))
        _ = harness.take()
        try harness.publish(publisher, "a/b")
        let delivered = harness.take().filter { $0.hasPrefix("deliver") }
        #expect(delivered == ["deliver 0 x q1 #1 [4, 3]"])
    }

    @Test("A subscription changes where the next message of the same topic goes")
    func routeIsRenewed() throws {
        var harness = Harness()
        let publisher = try harness.connect(try auditor("b"))
        try harness.publish(publisher, "t", "1", qos: .atMostOnce)
        let subscriber = try harness.connect(try auditor("a"))
        try harness.subscribe(subscriber, "t")
        _ = harness.take()
        try harness.publish(publisher, "t", "2", qos: .atMostOnce)
        #expect(harness.take() == ["deliver 1 2 q0"])
        harness.router.unsubscribe(Unsubscribe(packetID: 2, filters: [try TopicFilter("t")]), from: subscriber)
        _ = harness.take()
        try harness.publish(publisher, "t", "3", qos: .atMostOnce)
        #expect(harness.take() == [])
    }

    @Test("No Local keeps one's own messages away; Retain As Published keeps the flag")
    func options() throws {
        var harness = Harness()
        let one = try harness.connect(try auditor("a"))
        try harness.subscribe(one, "t", qos: .atMostOnce, noLocal: true)
        let two = try harness.connect(try auditor("b"))
        try harness.subscribe(two, "t", qos: .atMostOnce, retainAsPublished: true)
        _ = harness.take()
        try harness.publish(one, "t", "x", qos: .atMostOnce, retain: true)
        #expect(harness.take() == ["deliver 1 x q0 retain"])
        try harness.publish(two, "t", "y", qos: .atMostOnce, retain: true)
        #expect(Set(harness.take()) == ["deliver 0 y q0", "deliver 1 y q0 retain"])
    }

    @Test("A retained message is sent to who subscribes later, behind the SUBACK; an empty one removes it")
    func retained() throws {
        var harness = Harness()
        let publisher = try harness.connect(try auditor("b"))
        try harness.publish(publisher, "t/1", "old", retain: true)
        try harness.publish(publisher, "t/1", "new", retain: true)
        let subscriber = try harness.connect(try auditor("a"))
        _ = harness.take()
        try harness.subscribe(subscriber, "t/+")
        #expect(harness.take() == ["suback [1]", "deliver 1 new q1 #1 retain"])
        try harness.subscribe(subscriber, "t/+", retainHandling: .sendIfNew)
        #expect(harness.take() == ["suback [1]"])
        try harness.subscribe(subscriber, "t/1", retainHandling: .doNotSend)
        #expect(harness.take() == ["suback [1]"])
        try harness.publish(publisher, "t/1", "", qos: .atMostOnce, retain: true)
        _ = harness.take()
        try harness.subscribe(subscriber, "t/1")
        #expect(harness.take() == ["suback [1]"])
    }

    @Test("What is retained goes out in turns, however much it is, and once for a filter")
    func retainedInTurns() throws {
        var limits = BrokerLimits()
        limits.slowConsumerBytes = 250
        var harness = Harness(limits: limits)
        let publisher = try harness.connect(try auditor("b"))
        for number in 1...6 {
            try harness.publish(
                publisher, "r/\(number)", String(repeating: "x", count: 30), qos: .atMostOnce, retain: true)
        }
        let reader = try harness.connect(try auditor("a"))
        _ = harness.take()
        let filter = try TopicFilter("r/#")
        let subscription = Subscription(filter: filter, maximumQoS: .atMostOnce)
        harness.router.subscribe(
            Subscribe(packetID: 1, subscriptions: Array(repeating: subscription, count: 100)), from: reader)
        var taken = harness.take()
        #expect(taken.removeFirst().hasPrefix("suback"))
        #expect(taken.count == 4 && taken.last == "later \(reader.index)", "\(taken)")
        harness.router.pump(reader)
        #expect(harness.take().count == 3)
        harness.router.pump(reader)
        #expect(harness.take().isEmpty)
    }

    @Test("A filter of more levels than is of use is refused")
    func levels() throws {
        var harness = Harness()
        let client = try harness.connect(try auditor("a"))
        try harness.subscribe(client, String(repeating: "a/", count: 199) + "#")
        try harness.subscribe(client, String(repeating: "/", count: 65_535))
        #expect(harness.take() == ["suback [1]", "refused levels", "suback [143]"])
        try harness.publish(client, String(repeating: "/", count: 65_535))
        #expect(harness.take() == ["puback 0 1 0"])
    }

    @Test("What says that it is text and is not is refused")
    func payloadFormat() throws {
        var harness = Harness()
        let client = try harness.connect(try auditor("a"))
        for (bytes, code) in [([0xC3, 0xA9], 0), ([0xC3, 0x28], 153)] as [([UInt8], Int)] {
            harness.router.publish(
                Publish(
                    topic: try TopicName("t"), payload: ByteBuffer(bytes: bytes), qos: .atLeastOnce, packetID: 1,
                    properties: [.payloadFormatIndicator(true)]), from: client)
            #expect(harness.take().last == "puback 0 1 \(code)")
        }
    }

    @Test("The store of retained messages is bounded")
    func retainedBound() throws {
        var limits = BrokerLimits()
        limits.maximumRetainedMessages = 1
        var harness = Harness(limits: limits)
        let publisher = try harness.connect(try auditor("b"))
        _ = harness.take()
        try harness.publish(publisher, "a", retain: true)
        try harness.publish(publisher, "a", "again", retain: true)
        try harness.publish(publisher, "b", packetID: 2, retain: true)
        #expect(harness.take() == ["puback 0 1 0", "puback 0 1 0", "refused quota", "puback 0 2 151"])
    }

    @Test("A publish that is not allowed is answered 0x87 in 5.0 and ends the connection in 3.1.1")
    func publishRefused() throws {
        var harness = Harness(denying: "secret")
        let five = try harness.connect(try auditor("a"))
        let three = try harness.connect(try auditor("b"), version: .v3_1_1)
        _ = harness.take()
        try harness.publish(five, "secret", packetID: 9)
        try harness.publish(five, "secret", qos: .atMostOnce)
        try harness.publish(three, "secret")
        #expect(harness.take() == ["refused topic", "puback 0 9 135", "refused topic", "refused topic", "close 1 135"])
        #expect(harness.router.statistics.publishesRefused == 3)
    }

    @Test("A retained publish is asked about even when its topic was just allowed")
    func retainedIsAskedAbout() throws {
        var harness = Harness()
        harness.router = Router(limits: BrokerLimits(), authorizer: TopicTableAuthorizer())
        let id = try harness.connect(try auditor("a"))
        _ = harness.take()
        try harness.publish(id, "audits/measures/a", packetID: 1)
        try harness.publish(id, "audits/measures/a", packetID: 2, retain: true)
        #expect(harness.take() == ["puback 0 1 0", "refused retained", "puback 0 2 135"])
    }

    @Test("Subscriptions are refused one by one, each with its reason")
    func subscriptionsRefused() throws {
        var limits = BrokerLimits()
        limits.maximumSubscriptionsPerSession = 1
        var harness = Harness(limits: limits, denying: "secret")
        let id = try harness.connect(try auditor("a"))
        _ = harness.take()
        harness.router.subscribe(
            Subscribe(
                packetID: 1,
                subscriptions: try ["secret", "$share/g/a", "$share/g/a", "more"].map {
                    Subscription(filter: try TopicFilter($0), maximumQoS: .exactlyOnce)
                }), from: id)
        #expect(
            harness.take() == ["refused topic", "refused quota", "suback [135, 2, 2, 151]"])
    }

    @Test("What is announced as not available is not granted, and ends the connection that uses it")
    func notAvailable() throws {
        var limits = BrokerLimits()
        limits.maximumQoS = .atLeastOnce
        limits.isRetainAvailable = false
        limits.maximumPayloadSize = 3
        limits.deniedSubscriptions = [try TopicFilter("no/#")]
        var harness = Harness(limits: limits)
        let id = try harness.connect(try auditor("a"))
        let three = try harness.connect(try auditor("b"), version: .v3_1_1)
        _ = harness.take()
        try harness.subscribe(id, "t", qos: .exactlyOnce)
        try harness.subscribe(id, "no/t")
        try harness.subscribe(id, "no")
        try harness.publish(id, "t", qos: .exactlyOnce)
        try harness.publish(id, "t", retain: true)
        try harness.publish(id, "t", "long", packetID: 7)
        try harness.publish(three, "t", "long")
        #expect(
            harness.take() == [
                "suback [1]", "refused denied", "suback [128]", "refused denied", "suback [128]", "refused qos",
                "close 0 155", "refused retained", "close 0 154", "refused size", "puback 0 7 151", "refused size",
                "close 1 151",
            ])
        let will = Will(topic: try TopicName("t"), payload: [], qos: .exactlyOnce, retain: false)
        let kept = Will(topic: try TopicName("t"), payload: [], qos: .atMostOnce, retain: true)
        guard case .refused(.qosNotSupported, _) = harness.outcome(try auditor("c"), will: will),
            case .refused(.retainNotSupported, _) = harness.outcome(try auditor("c"), will: kept),
            case .accepted(_, let connAck, _) = harness.outcome(try auditor("c"))
        else { throw UnexpectedPacket() }
        #expect(connAck.properties.maximumQoS == .atLeastOnce)
        #expect(connAck.properties.retainAvailable == false)
    }

    @Test("A client's CONNECT is refused with the reason that the standard has for it")
    func connectRefused() throws {
        var limits = BrokerLimits()
        limits.maximumSessionsPerIdentity = 2
        limits.maximumClientIDLength = 10
        var harness = Harness(limits: limits, denying: "secret")
        func code(_ outcome: Router.ConnectOutcome) -> ReasonCode? {
            if case .refused(let code, _) = outcome { code } else { nil }
        }
        let will = Will(topic: try TopicName("secret"), payload: [], qos: .atMostOnce, retain: false)
        #expect(code(harness.outcome(try peer(.broker, "b"))) == .notAuthorized)
        #expect(code(harness.outcome(try auditor("a"), will: will)) == .notAuthorized)
        #expect(
            code(harness.outcome(try auditor("a"), properties: [.authenticationMethod("m")]))
                == .badAuthenticationMethod)
        #expect(code(harness.outcome(try auditor("a"), "12345678901")) == .clientIdentifierNotValid)
        #expect(
            code(harness.outcome(try auditor("a"), "", version: .v3_1_1, cleanStart: false))
                == .clientIdentifierNotValid)
        #expect(code(harness.outcome(try auditor("a"), "1")) == nil)
        #expect(code(harness.outcome(try auditor("a"), "2")) == nil)
        #expect(code(harness.outcome(try auditor("a"), "3")) == .quotaExceeded)
        #expect(code(harness.outcome(try auditor("b"), "3")) == nil)
    }

    @Test("CONNACK tells a client of 5.0 what is not as it may assume")
    func connAckProperties() throws {
        var harness = Harness()
        guard
            case .accepted(_, let connAck, let keepAlive) = harness.router.connect(
                Connect(
                    version: .v5_0, clientID: "", keepAlive: 0, properties: [.sessionExpiryInterval(.max)]),
                peer: try auditor("a"), assignedClientID: { "assigned" })
        else { throw UnexpectedPacket() }
        #expect(connAck.properties.assignedClientIdentifier == "assigned")
        #expect(connAck.properties.maximumQoS == nil)
        #expect(connAck.properties.topicAliasMaximum == BrokerLimits().topicAliasMaximum)
        #expect(connAck.properties.receiveMaximum == BrokerLimits().receiveMaximum)
        #expect(connAck.properties.maximumPacketSize == 131_072)
        #expect(connAck.properties.sessionExpiryInterval == BrokerLimits().maximumSessionExpiry)
        #expect(connAck.properties.serverKeepAlive == 3_600)
        #expect(keepAlive == 3_600)
    }

    @Test("A message that is larger than a client takes is left out, and does not block the next")
    func clientMaximumPacketSize() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("a"), properties: [.maximumPacketSize(30)])
        try harness.subscribe(subscriber, "t")
        let publisher = try harness.connect(try auditor("b"))
        _ = harness.take()
        try harness.publish(publisher, "t", String(repeating: "x", count: 100))
        try harness.publish(publisher, "t", "small")
        #expect(harness.take() == ["puback 1 1 0", "deliver 0 small q1 #2", "puback 1 1 0"])
    }

    @Test("A message past its expiry is not delivered; before, it says what is left")
    func messageExpiry() throws {
        var harness = Harness()
        let away = try harness.connect(try auditor("a"), expiry: 100)
        try harness.subscribe(away, "t")
        harness.router.connectionLost(away, reason: "")
        let publisher = try harness.connect(try auditor("b"))
        try harness.publish(publisher, "t", "short", properties: [.messageExpiryInterval(5)])
        try harness.publish(publisher, "t", "long", properties: [.messageExpiryInterval(50)])
        harness.router.advance(to: 20)
        _ = harness.take()
        _ = try harness.connect(try auditor("a"), cleanStart: false, expiry: 100)
        var intervals: [UInt32?] = []
        for case .deliver(_, let message, let header) in harness.router.actions {
            let publish = message.publish(
                qos: header.qos, retain: false, isDuplicate: false, packetID: header.packetID, subscriptionIDs: [],
                now: harness.router.now)
            intervals.append(publish.properties.messageExpiryInterval)
        }
        #expect(intervals == [30])
    }

    // MARK: In-process sessions

    private func withCenter(
        _ limits: BrokerLimits = BrokerLimits(), filters: [String] = ["t"]
    ) throws -> Harness {
        var harness = Harness(limits: limits)
        let refusal = harness.router.openInProcess(
            1, peer: try peer(.controlCenter, "center"), clientID: "center",
            subscriptions: try filters.map { Subscription(filter: try TopicFilter($0), maximumQoS: .atLeastOnce) })
        #expect(refusal == nil)
        return harness
    }

    @Test("A PUBACK waits for the control center's settlement, and for no other subscriber")
    func settlement() throws {
        var harness = try self.withCenter()
        let other = try harness.connect(try auditor("o"))
        try harness.subscribe(other, "t")
        let publisher = try harness.connect(try auditor("a"))
        _ = harness.take()
        try harness.publish(publisher, "t", "m", packetID: 5)
        #expect(Set(harness.take()) == ["local 1 m q1 token 1", "deliver 0 m q1 #1"])
        harness.router.settle(1)
        #expect(harness.take() == ["puback 1 5 0"])
        harness.router.settle(1)
        #expect(harness.take() == [])
    }

    @Test("Settled in any order, PUBACKs go out in the order of the publishes")
    func settlementOrder() throws {
        var harness = try self.withCenter()
        let publisher = try harness.connect(try auditor("a"))
        _ = harness.take()
        for number in 1...3 { try harness.publish(publisher, "t", "m", packetID: UInt16(number)) }
        try harness.publish(publisher, "nobody", "m", packetID: 4)
        #expect(harness.take().count == 3)
        harness.router.settle(3)
        harness.router.settle(2)
        #expect(harness.take() == [])
        harness.router.settle(1)
        #expect(harness.take() == ["puback 0 1 0", "puback 0 2 0", "puback 0 3 0", "puback 0 4 0"])
    }

    @Test("Settlements of a connection that is gone reach nobody, not even its successor")
    func settlementOfTheGone() throws {
        var harness = try self.withCenter()
        let publisher = try harness.connect(try auditor("a"))
        try harness.publish(publisher)
        harness.router.connectionLost(publisher, reason: "")
        let successor = try harness.connect(try auditor("a"))
        #expect(successor.index == publisher.index)
        try harness.publish(successor, "t", "m", packetID: 8)
        _ = harness.take()
        harness.router.settle(1)
        #expect(harness.take() == [])
        harness.router.settle(2)
        #expect(harness.take() == ["puback 0 8 0"])
    }

    @Test("A publisher of 3.1.1 is held when too much is unsettled, and read again at half")
    func holdsThree() throws {
        var limits = BrokerLimits()
        limits.receiveMaximum = 4
        var harness = try self.withCenter(limits)
        let publisher = try harness.connect(try auditor("a"), version: .v3_1_1)
        _ = harness.take()
        for number in 1...4 { try harness.publish(publisher, "t", "m", packetID: UInt16(number)) }
        #expect(harness.take().last == "hold 0")
        #expect(harness.router.isHeld(publisher))
        harness.router.settle(1)
        #expect(harness.take() == ["puback 0 1 0"])
        harness.router.settle(2)
        #expect(harness.take() == ["puback 0 2 0", "resume 0"])
        #expect(!harness.router.isHeld(publisher))
    }

    @Test("A publisher of 5.0 that exceeds our Receive Maximum is disconnected with 0x93")
    func receiveMaximumExceeded() throws {
        var limits = BrokerLimits()
        limits.receiveMaximum = 2
        var harness = try self.withCenter(limits)
        let publisher = try harness.connect(try auditor("a"))
        for number in 1...2 { try harness.publish(publisher, "t", "m", packetID: UInt16(number)) }
        _ = harness.take()
        try harness.publish(publisher, "t", "m", packetID: 3)
        #expect(harness.take() == ["close 0 147"])
    }

    @Test("When the control center lags, its publishers are held, others are not, and nothing is dropped")
    func holdsWhenFull() throws {
        var harness = try self.withCenter()
        let publisher = try harness.connect(try auditor("a"))
        let other = try harness.connect(try auditor("b"))
        harness.router.setFull(1, true)
        _ = harness.take()
        try harness.publish(publisher, "t", "m", qos: .atMostOnce)
        try harness.publish(other, "elsewhere", "m", qos: .atMostOnce)
        #expect(harness.take() == ["local 1 m q0", "hold 0"])
        harness.router.setFull(1, false)
        #expect(harness.take() == ["resume 0"])
    }

    @Test("When the control center's session closes, who waits for it is disconnected to send again")
    func closeInProcess() throws {
        var harness = try self.withCenter()
        let waiting = try harness.connect(try auditor("a"))
        _ = try harness.connect(try auditor("b"))
        try harness.publish(waiting)
        _ = harness.take()
        harness.router.closeInProcess(1)
        #expect(harness.take() == ["close 0 139"])
        harness.router.settle(1)
        #expect(harness.take() == [])
    }

    @Test("The control center gets retained messages, publishes, and is refused what it may not do")
    func inProcessPublishes() throws {
        var harness = Harness(denying: "secret")
        let subscriber = try harness.connect(try auditor("a"))
        try harness.subscribe(subscriber, "#")
        try harness.publish(subscriber, "t", "kept", retain: true)
        _ = harness.take()
        let center = try peer(.controlCenter, "center")
        let subscription = Subscription(filter: try TopicFilter("t"), maximumQoS: .atLeastOnce)
        #expect(
            harness.router.openInProcess(1, peer: center, clientID: "c", subscriptions: [subscription]) == nil)
        #expect(harness.take() == ["local 1 kept q1 retain"])
        #expect(
            harness.router.openInProcess(2, peer: center, clientID: "c", subscriptions: [subscription]) != nil)
        let denied = Subscription(filter: try TopicFilter("secret"), maximumQoS: .atLeastOnce)
        #expect(harness.router.openInProcess(3, peer: center, clientID: "d", subscriptions: [denied]) == "topic")
        let receipt = Publish(
            topic: try TopicName("r"), payload: ByteBuffer(string: "r"), qos: .atLeastOnce, packetID: 1)
        #expect(harness.router.publish(receipt, fromInProcess: 1) == nil)
        #expect(harness.take() == ["deliver 0 r q1 #2"])
        let secret = Publish(topic: try TopicName("secret"), payload: ByteBuffer())
        #expect(harness.router.publish(secret, fromInProcess: 1) == "topic")
    }

    @Test("Nobody takes an in-process session over from outside")
    func inProcessIsNotTakenOver() throws {
        var harness = try self.withCenter()
        let outcome = harness.outcome(try peer(.controlCenter, "center"), "center")
        guard case .refused(.clientIdentifierNotValid, _) = outcome else { throw UnexpectedPacket() }
    }
}
