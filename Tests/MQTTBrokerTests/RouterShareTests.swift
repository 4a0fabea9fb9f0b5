import Identity
import MQTT
import MQTTBroker
import NIOCore
import Testing

/// Shared subscriptions (MQTT 5.0 section 4.8.2).
struct RouterShareTests {
    private func deliveries(_ harness: inout Harness) -> [String] { harness.take().filter { $0.hasPrefix("deliver") } }

    @Test("Members take turns; those who are not there or do not take are passed over")
    func turns() throws {
        var harness = Harness()
        var members: [ConnectionID] = []
        for name in ["a", "b", "c"] {
            let id = try harness.connect(try auditor(name), expiry: 100)
            try harness.subscribe(id, "$share/g/t/+", identifier: UInt32(members.count + 1))
            members.append(id)
        }
        let other = try harness.connect(try auditor("o"))
        try harness.subscribe(other, "t/#", qos: .atMostOnce)
        let publisher = try harness.connect(try auditor("p"))
        _ = harness.take()
        for number in 1...4 { try harness.publish(publisher, "t/1", "\(number)") }
        #expect(
            self.deliveries(&harness).filter { !$0.contains("q0") } == [
                "deliver 0 1 q1 #1 [1]", "deliver 1 2 q1 #1 [2]", "deliver 2 3 q1 #1 [3]", "deliver 0 4 q1 #2 [1]",
            ])
        harness.router.setWritable(members[1], false)
        harness.router.connectionLost(members[2], reason: "")
        _ = harness.take()
        for number in 5...6 { try harness.publish(publisher, "t/1", "\(number)", qos: .atMostOnce) }
        #expect(
            self.deliveries(&harness).filter { !$0.hasPrefix("deliver \(other.index)") } == [
                "deliver 0 5 q0 [1]", "deliver 0 6 q0 [1]",
            ])
    }

    @Test("Without a member that is there, QoS 1 waits for one, and QoS 0 is gone")
    func queued() throws {
        var harness = Harness()
        let member = try harness.connect(try auditor("a"), expiry: 100)
        try harness.subscribe(member, "$share/g/t")
        harness.router.connectionLost(member, reason: "")
        let publisher = try harness.connect(try auditor("p"))
        try harness.publish(publisher, "t", "zero", qos: .atMostOnce)
        try harness.publish(publisher, "t", "one")
        _ = harness.take()
        let again = try harness.connect(try auditor("a"), cleanStart: false, expiry: 100)
        #expect(harness.take() == ["deliver \(again.index) one q1 #1"])
    }

    @Test("What a member had not got when its session ends goes to another; QoS 2 that was sent does not")
    func passedOn() throws {
        var harness = Harness()
        let leaving = try harness.connect(try auditor("a"), properties: [.receiveMaximum(2)])
        try harness.subscribe(leaving, "$share/g/t", qos: .exactlyOnce)
        let publisher = try harness.connect(try auditor("p"))
        _ = harness.take()
        try harness.publish(publisher, "t", "sent twice", qos: .exactlyOnce, packetID: 1)
        try harness.publish(publisher, "t", "sent once", packetID: 2)
        try harness.publish(publisher, "t", "waiting", qos: .exactlyOnce, packetID: 3)
        let staying = try harness.connect(try auditor("b"))
        try harness.subscribe(staying, "$share/g/t", qos: .exactlyOnce)
        _ = harness.take()
        harness.router.connectionLost(leaving, reason: "")
        #expect(
            harness.take() == [
                "deliver \(staying.index) sent once q1 #1", "deliver \(staying.index) waiting q2 #2",
            ])
    }

    @Test("A refusal by a member is final; a share sends nothing retained and ends with its last member")
    func rest() throws {
        var harness = Harness()
        let one = try harness.connect(try auditor("a"))
        let two = try harness.connect(try auditor("b"))
        try harness.publish(one, "t", "kept", retain: true)
        _ = harness.take()
        try harness.subscribe(one, "$share/g/t", qos: .exactlyOnce)
        try harness.subscribe(two, "$share/g/t", qos: .exactlyOnce)
        #expect(harness.take() == ["suback [2]", "suback [2]"])
        try harness.publish(two, "t", "m", qos: .exactlyOnce, packetID: 1)
        #expect(self.deliveries(&harness) == ["deliver 0 m q2 #1"])
        harness.router.received(PubRec(packetID: 1, reasonCode: .notAuthorized), from: one)
        #expect(harness.take() == [])
        for id in [one, two] {
            harness.router.unsubscribe(
                Unsubscribe(packetID: 1, filters: [try TopicFilter("$share/g/t")]), from: id)
        }
        #expect(harness.take() == ["unsuback [0]", "unsuback [0]"])
        try harness.publish(two, "t", "nobody", packetID: 2)
        #expect(self.deliveries(&harness) == [])
    }

    @Test("Two shares and a subscription of one's own each get the message")
    func severalShares() throws {
        var harness = Harness()
        let one = try harness.connect(try auditor("a"))
        try harness.subscribe(one, "$share/g/t")
        try harness.subscribe(one, "$share/h/t")
        try harness.subscribe(one, "t")
        _ = harness.take()
        try harness.publish(one, "t", "m")
        #expect(self.deliveries(&harness) == ["deliver 0 m q1 #1", "deliver 0 m q1 #2", "deliver 0 m q1 #3"])
    }
}
