import Identity
import MQTT
import MQTTBroker
import NIOCore
import Testing

struct RouterQoS2Tests {
    @Test("A publish of QoS 2 is delivered once, and answered again when it is repeated")
    func inbound() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("s"))
        try harness.subscribe(subscriber, "t", qos: .exactlyOnce)
        let publisher = try harness.connect(try auditor("p"), expiry: 100)
        _ = harness.take()
        try harness.publish(publisher, "t", "m", qos: .exactlyOnce, packetID: 4)
        #expect(harness.take() == ["pubrec 1 4", "deliver 0 m q2 #1"])
        try harness.publish(publisher, "t", "m", qos: .exactlyOnce, packetID: 4)
        #expect(harness.take() == ["pubrec 1 4"])
        harness.router.connectionLost(publisher, reason: "")
        let again = try harness.connect(try auditor("p"), cleanStart: false, expiry: 100)
        try harness.publish(again, "t", "m", qos: .exactlyOnce, packetID: 4)
        #expect(harness.take() == ["pubrec 1 4"])
        harness.router.release(4, from: again)
        harness.router.release(4, from: again)
        #expect(harness.take() == ["pubcomp 1 4", "pubcomp 1 4 146"])
        try harness.publish(again, "t", "new", qos: .exactlyOnce, packetID: 4)
        #expect(harness.take() == ["pubrec 1 4", "deliver 0 new q2 #2"])
    }

    @Test("A refused publish of QoS 2 is answered by PUBREC and forgotten")
    func inboundRefused() throws {
        var harness = Harness(denying: "secret")
        let publisher = try harness.connect(try auditor("p"))
        _ = harness.take()
        try harness.publish(publisher, "secret", qos: .exactlyOnce, packetID: 4)
        harness.router.release(4, from: publisher)
        #expect(harness.take() == ["refused topic", "pubrec 0 4 135", "pubcomp 0 4 146"])
    }

    @Test("Open publishes of QoS 2 count against the Receive Maximum until PUBCOMP")
    func receiveMaximum() throws {
        var limits = BrokerLimits()
        limits.receiveMaximum = 2
        var harness = Harness(limits: limits, denying: "secret")
        let publisher = try harness.connect(try auditor("p"))
        _ = harness.take()
        try harness.publish(publisher, "t", qos: .exactlyOnce, packetID: 1)
        try harness.publish(publisher, "secret", qos: .exactlyOnce, packetID: 5)
        try harness.publish(publisher, "t", qos: .exactlyOnce, packetID: 2)
        harness.router.release(1, from: publisher)
        try harness.publish(publisher, "t", qos: .exactlyOnce, packetID: 3)
        #expect(
            harness.take() == [
                "pubrec 0 1", "refused topic", "pubrec 0 5 135", "pubrec 0 2", "pubcomp 0 1", "pubrec 0 3",
            ])
        // PUBREL for nothing gives no room.
        harness.router.release(9, from: publisher)
        try harness.publish(publisher, "t", qos: .atLeastOnce, packetID: 4)
        #expect(harness.take() == ["pubcomp 0 9 146", "close 0 147"])
    }

    @Test("To a subscriber QoS 2 goes its steps; after a reconnect each goes on where it was")
    func outbound() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("s"), expiry: 100)
        try harness.subscribe(subscriber, "t", qos: .exactlyOnce)
        let publisher = try harness.connect(try auditor("p"))
        _ = harness.take()
        for number in 1...3 {
            try harness.publish(publisher, "t", "m\(number)", qos: .exactlyOnce, packetID: UInt16(number))
        }
        _ = harness.take()
        harness.router.received(PubRec(packetID: 1), from: subscriber)
        harness.router.received(PubRec(packetID: 1), from: subscriber)
        harness.router.received(PubRec(packetID: 2), from: subscriber)
        #expect(harness.take() == ["pubrel 0 1", "pubrel 0 1", "pubrel 0 2"])
        harness.router.completed(1, from: subscriber)
        harness.router.completed(1, from: subscriber)
        #expect(harness.take() == [])
        harness.router.connectionLost(subscriber, reason: "")
        let again = try harness.connect(try auditor("s"), cleanStart: false, expiry: 100)
        #expect(harness.take() == ["pubrel 0 2", "deliver 0 m3 q2 #3 dup"])
        harness.router.completed(2, from: again)
        harness.router.received(PubRec(packetID: 3), from: again)
        harness.router.completed(3, from: again)
        #expect(harness.take() == ["pubrel 0 3"])
        try harness.publish(publisher, "t", "m4", qos: .exactlyOnce, packetID: 4)
        #expect(harness.take() == ["pubrec 1 4", "deliver 0 m4 q2 #4"])
    }

    @Test("PUBREC with a failure ends a delivery; PUBREC for nothing is answered 0x92")
    func pubRecFailures() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("s"), expiry: 100, properties: [.receiveMaximum(1)])
        try harness.subscribe(subscriber, "t", qos: .exactlyOnce)
        let publisher = try harness.connect(try auditor("p"))
        try harness.publish(publisher, "t", "m1", qos: .exactlyOnce, packetID: 1)
        try harness.publish(publisher, "t", "m2", qos: .exactlyOnce, packetID: 2)
        _ = harness.take()
        harness.router.received(PubRec(packetID: 1, reasonCode: .quotaExceeded), from: subscriber)
        #expect(harness.take() == ["deliver 0 m2 q2 #2"])
        harness.router.received(PubRec(packetID: 1), from: subscriber)
        harness.router.received(PubRec(packetID: 1, reasonCode: .quotaExceeded), from: subscriber)
        #expect(harness.take() == ["pubrel 0 1 146"])
    }

    @Test("An acknowledgement of the other QoS is a protocol error")
    func wrongAcknowledgements() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("s"))
        try harness.subscribe(subscriber, "t", qos: .exactlyOnce)
        let publisher = try harness.connect(try auditor("p"))
        try harness.publish(publisher, "t", qos: .atLeastOnce, packetID: 1)
        try harness.publish(publisher, "t", qos: .exactlyOnce, packetID: 2)
        _ = harness.take()
        harness.router.received(PubRec(packetID: 1), from: subscriber)
        harness.router.acknowledged(2, from: subscriber)
        harness.router.completed(2, from: subscriber)
        #expect(harness.take() == ["close 0 130", "close 0 130", "close 0 130"])
    }

    @Test("A small window is used again as soon as any message in it is dealt with")
    func window() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("s"), properties: [.receiveMaximum(2)])
        try harness.subscribe(subscriber, "t", qos: .exactlyOnce)
        let publisher = try harness.connect(try auditor("p"))
        _ = harness.take()
        try harness.publish(publisher, "t", "m1", qos: .exactlyOnce, packetID: 1)
        for number in 2...4 { try harness.publish(publisher, "t", "m\(number)", packetID: UInt16(number)) }
        #expect(harness.take().filter { $0.hasPrefix("deliver") } == ["deliver 0 m1 q2 #1", "deliver 0 m2 q1 #2"])
        harness.router.acknowledged(2, from: subscriber)
        #expect(harness.take() == ["deliver 0 m3 q1 #3"])
        harness.router.acknowledged(3, from: subscriber)
        #expect(harness.take() == ["deliver 0 m4 q1 #4"])
    }

    @Test("QoS 0 keeps its place behind what waits for the window")
    func order() throws {
        var harness = Harness()
        let subscriber = try harness.connect(try auditor("s"), expiry: 100, properties: [.receiveMaximum(1)])
        try harness.subscribe(subscriber, "t", qos: .exactlyOnce)
        let publisher = try harness.connect(try auditor("p"))
        _ = harness.take()
        try harness.publish(publisher, "t", "m1")
        try harness.publish(publisher, "t", "m2")
        try harness.publish(publisher, "t", "m3", qos: .atMostOnce)
        try harness.publish(publisher, "t", "m4")
        #expect(harness.take().filter { $0.hasPrefix("deliver") } == ["deliver 0 m1 q1 #1"])
        harness.router.acknowledged(1, from: subscriber)
        #expect(harness.take() == ["deliver 0 m2 q1 #2", "deliver 0 m3 q0"])
        harness.router.acknowledged(2, from: subscriber)
        #expect(harness.take() == ["deliver 0 m4 q1 #3"])
    }

    @Test("PUBREC waits for the control center, on a new connection too, and the message is not delivered again")
    func settlement() throws {
        var harness = Harness()
        _ = harness.router.openInProcess(
            1, peer: try peer(.controlCenter, "center"), clientID: "center",
            subscriptions: [Subscription(filter: try TopicFilter("t"), maximumQoS: .atLeastOnce)])
        let publisher = try harness.connect(try auditor("p"), expiry: 100)
        _ = harness.take()
        try harness.publish(publisher, "t", "m", qos: .exactlyOnce, packetID: 3)
        #expect(harness.take() == ["local 1 m q1 token 1"])
        harness.router.connectionLost(publisher, reason: "")
        let again = try harness.connect(try auditor("p"), cleanStart: false, expiry: 100)
        try harness.publish(again, "t", "m", qos: .exactlyOnce, packetID: 3)
        #expect(harness.take() == [])
        harness.router.settle(1)
        #expect(harness.take() == ["pubrec 0 3"])
    }
}
