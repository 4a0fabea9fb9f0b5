import Identity
import MQTT
import MQTTBroker
import NIOCore
import Testing

/// What the router tells a store, and what waits until it is on disk.
struct RouterStoreTests {
    private func isChange(_ text: String) -> Bool { text.hasPrefix("+") }

    @Test("PUBACK waits until the message is on disk for a session that is kept; the delivery does not")
    func pubAck() throws {
        var harness = Harness(restoring: StoredState())
        let kept = try harness.connect(try auditor("s"), expiry: 100)
        try harness.subscribe(kept, "t")
        #expect(harness.take() == ["+open 1 for 100", "+subscribe 1 t"])
        harness.router.committed(through: 2)
        #expect(harness.take() == ["suback [1]"])
        let publisher = try harness.connect(try auditor("p"))
        try harness.publish(publisher, "t", "m", packetID: 7)
        try harness.publish(publisher, "elsewhere", "m", packetID: 8)
        #expect(harness.take() == ["+enqueue 1/1 m q1", "+send 1/1 #1", "deliver 0 m q1 #1"])
        harness.router.committed(through: 3)
        #expect(harness.take() == [])
        harness.router.committed(through: 4)
        #expect(harness.take() == ["puback 1 7 0", "puback 1 8 0"])
        harness.router.acknowledged(1, from: kept)
        #expect(harness.take() == ["+complete 1/1"])
    }

    @Test("A retained message is on disk before its PUBACK; SUBACK comes before what is retained, on disk both")
    func retained() throws {
        var harness = Harness(restoring: StoredState())
        let publisher = try harness.connect(try auditor("p"))
        try harness.publish(publisher, "t", "kept", retain: true)
        #expect(harness.take() == ["+retain t"])
        harness.router.committed(through: 1)
        #expect(harness.take() == ["puback 0 1 0"])
        let subscriber = try harness.connect(try auditor("s"), expiry: 100)
        try harness.subscribe(subscriber, "t")
        #expect(harness.take() == ["+open 2 for 100", "+subscribe 2 t"])
        harness.router.committed(through: 3)
        #expect(
            harness.take() == ["suback [1]", "+enqueue 2/1 kept q1", "+send 2/1 #1", "deliver 1 kept q1 #1 retain"])
        harness.router.unsubscribe(Unsubscribe(packetID: 2, filters: [try TopicFilter("t")]), from: subscriber)
        #expect(harness.take() == ["+unsubscribe 2 t"])
        harness.router.committed(through: 6)
        #expect(harness.take() == ["unsuback [0]"])
        try harness.publish(publisher, "t", "", qos: .atMostOnce, retain: true)
        try harness.publish(publisher, "t", "", qos: .atMostOnce, retain: true)
        #expect(harness.take() == ["+removeRetained t"])
    }

    @Test("Each step of QoS 2 with a session that is kept waits for the one before it to be on disk")
    func qosTwo() throws {
        var harness = Harness(restoring: StoredState())
        let subscriber = try harness.connect(try auditor("s"), expiry: 100)
        try harness.subscribe(subscriber, "t", qos: .exactlyOnce)
        let publisher = try harness.connect(try auditor("p"), expiry: 100)
        harness.router.committed(through: 3)
        _ = harness.take()
        try harness.publish(publisher, "t", "m1", qos: .exactlyOnce, packetID: 1)
        try harness.publish(publisher, "t", "m2", qos: .exactlyOnce, packetID: 2)
        try harness.publish(publisher, "t", "m3", qos: .atMostOnce)
        #expect(
            harness.take() == [
                "+enqueue 1/1 m1 q2", "+send 1/1 #1", "+receive 2 #1", "+enqueue 1/2 m2 q2", "+send 1/2 #2",
                "+receive 2 #2",
            ])
        harness.router.committed(through: 6)
        #expect(harness.take() == ["deliver 0 m1 q2 #1", "pubrec 1 1"])
        harness.router.committed(through: 9)
        #expect(harness.take() == ["deliver 0 m2 q2 #2", "deliver 0 m3 q0", "pubrec 1 2"])
        harness.router.release(1, from: publisher)
        harness.router.received(PubRec(packetID: 1), from: subscriber)
        #expect(harness.take() == ["+forget 2 #1", "+release 1/1"])
        harness.router.committed(through: 11)
        #expect(harness.take() == ["pubcomp 1 1", "pubrel 0 1"])
        harness.router.completed(1, from: subscriber)
        #expect(harness.take() == ["+complete 1/1"])
    }

    @Test("Nothing waits if the store is not waited for, and nothing is said without a store")
    func relaxed() throws {
        var harness = Harness(restoring: StoredState(), waitsForStore: false)
        let kept = try harness.connect(try auditor("s"), expiry: 100)
        try harness.subscribe(kept, "t", qos: .exactlyOnce)
        try harness.publish(kept, "t", "m", qos: .exactlyOnce, packetID: 7)
        #expect(
            harness.take() == [
                "+open 1 for 100", "+subscribe 1 t", "suback [2]", "pubrec 0 7", "+enqueue 1/1 m q2", "+send 1/1 #1",
                "deliver 0 m q2 #1", "+receive 1 #7",
            ])
        var without = Harness()
        let session = try without.connect(try auditor("s"), expiry: 100)
        try without.subscribe(session, "t")
        try without.publish(session, "t", "m", retain: true)
        #expect(!without.take().contains { $0.hasPrefix("+") })
    }

    @Test("Sessions without expiry are not kept; one that loses its expiry is kept no longer")
    func sessions() throws {
        var harness = Harness(restoring: StoredState(), now: 1_000)
        let brief = try harness.connect(try auditor("b"))
        try harness.subscribe(brief, "t")
        harness.router.connectionLost(brief, reason: "")
        #expect(harness.take() == ["suback [1]"])
        let will = Will(topic: try TopicName("w"), payload: [], qos: .atMostOnce, retain: false)
        let kept = try harness.connect(try auditor("s"), expiry: 100, will: will)
        harness.router.disconnect(Disconnect(properties: [.sessionExpiryInterval(50)]), from: kept)
        harness.router.connectionLost(kept, reason: "")
        #expect(harness.take() == ["+open 1 for 100 will", "+open 1 for 50", "+leave 1 at 1000"])
        let again = try harness.connect(try auditor("s"), cleanStart: false, expiry: 0)
        harness.router.connectionLost(again, reason: "")
        #expect(harness.take() == ["+remove 1"])
        let third = try harness.connect(try auditor("s"), expiry: 10, will: will)
        harness.router.connectionLost(third, reason: "")
        harness.router.advance(to: 1_010)
        #expect(
            harness.take() == ["+open 2 for 10 will", "+leave 2 at 1000", "+open 2 for 10 left 1000", "+remove 2"])
    }

    @Test("A full store holds those who publish into it, and no one else")
    func full() throws {
        var harness = Harness(restoring: StoredState())
        let kept = try harness.connect(try auditor("s"), expiry: 100)
        try harness.subscribe(kept, "t")
        let publisher = try harness.connect(try auditor("p"))
        let other = try harness.connect(try auditor("o"))
        harness.router.setStoreFull(true)
        _ = harness.take()
        try harness.publish(publisher, "t", "m")
        try harness.publish(other, "elsewhere", "m")
        #expect(harness.take().filter { !self.isChange($0) } == ["deliver 0 m q1 #1", "hold 1", "puback 2 1 0"])
        harness.router.setStoreFull(false)
        #expect(harness.take() == ["resume 1"])
    }

    @Test("What was stored is taken up: who subscribed, what waits, what is half done, and the wills")
    func restored() throws {
        var model = StoreModel()
        func commit(_ harness: inout Harness) {
            for case .persist(let change) in harness.router.actions { model.apply(change) }
        }
        var before = Harness(restoring: StoredState(), waitsForStore: false, now: 1_000)
        let will = Will(topic: try TopicName("w"), payload: Array("gone".utf8), qos: .atLeastOnce, retain: false)
        let subscriber = try before.connect(try auditor("s"), expiry: 100)
        try before.subscribe(subscriber, "t", qos: .exactlyOnce, identifier: 9)
        try before.subscribe(subscriber, "w")
        let publisher = try before.connect(try auditor("p"), expiry: 100, will: will)
        for number in 1...3 {
            try before.publish(publisher, "t", "m\(number)", qos: .exactlyOnce, packetID: UInt16(number))
        }
        try before.publish(
            publisher, "t", "m4", qos: .atLeastOnce, packetID: 4, properties: [.messageExpiryInterval(60)])
        try before.publish(publisher, "k", "kept", packetID: 5, retain: true)
        before.router.received(PubRec(packetID: 1), from: subscriber)
        before.router.received(PubRec(packetID: 2), from: subscriber)
        before.router.completed(2, from: subscriber)
        before.router.release(1, from: publisher)
        commit(&before)

        var after = Harness(restoring: model.state, waitsForStore: false, now: 1_010)
        #expect(after.take() == ["+leave 1 at 1010", "+leave 2 at 1010"])
        after.router.advance(to: 1_011)
        #expect(after.take() == ["+enqueue 1/5 gone q1", "+open 2 for 100 left 1010"])
        let again = try after.connect(try auditor("s"), cleanStart: false, expiry: 100)
        #expect(
            after.take().filter { !self.isChange($0) } == [
                "pubrel 0 1", "deliver 0 m3 q2 #3 dup [9]", "deliver 0 m4 q1 #4 dup [9]", "deliver 0 gone q1 #5",
            ])
        after.router.completed(1, from: again)
        let back = try after.connect(try auditor("p"), cleanStart: false, expiry: 100)
        _ = after.take()
        try after.publish(back, "t", "m2", qos: .exactlyOnce, packetID: 2)
        after.router.release(1, from: back)
        #expect(after.take() == ["pubrec 1 2", "pubcomp 1 1 146"])
        try after.subscribe(back, "k")
        #expect(after.take().contains("deliver 1 kept q1 #1 retain"))
        try after.publish(back, "t", "m6", packetID: 9)
        #expect(after.take().contains("deliver 0 m6 q1 #6 [9]"))
    }

    @Test("A session that ran out while the broker was down ends at the first moment")
    func ranOut() throws {
        var state = StoredState()
        state.sessions = [
            StoredState.Session(
                session: StoredSession(number: 4, peer: try auditor("s"), clientID: "c", expiry: 10, leftAt: 1_000))
        ]
        state.nextNumber = 5
        var harness = Harness(restoring: state, now: 1_020)
        guard case .accepted(_, let connAck, _) = harness.outcome(try auditor("s"), cleanStart: false, expiry: 10)
        else { throw UnexpectedPacket() }
        #expect(!connAck.sessionPresent)
        #expect(harness.take() == ["+remove 4", "+open 5 for 10"])
    }

    @Test("What came by a shared subscription goes to another member when its session ends, after a restart too")
    func share() throws {
        let filter = try TopicFilter("$share/g/t")
        func session(_ number: UInt64, _ name: String, expiry: UInt32) throws -> StoredState.Session {
            var session = StoredState.Session(
                session: StoredSession(
                    number: number, peer: try auditor(name), clientID: "c", expiry: expiry, leftAt: 1_000))
            session.subscriptions = [(Subscription(filter: filter, maximumQoS: .atLeastOnce), identifier: nil)]
            return session
        }
        var leaving = try session(1, "a", expiry: 10)
        for (number, share) in [(3, filter), (4, nil)] as [(UInt64, TopicFilter?)] {
            let message = StoredMessage(
                number: number, topic: try TopicName("t"), payload: ByteBuffer(string: "m\(number)"), properties: [],
                sender: nil, expiry: nil)
            leaving.deliveries.append(
                StoredState.Delivery(
                    place: number,
                    delivery: StoredDelivery(
                        message: message, qos: .atLeastOnce, retain: false, subscriptionIDs: [], share: share),
                    packetID: nil, isReleased: false))
        }
        var state = StoredState()
        state.sessions = [leaving, try session(2, "b", expiry: 100)]
        state.nextNumber = 5
        var harness = Harness(restoring: state, now: 1_005)
        harness.router.advance(to: 1_020)
        #expect(harness.take() == ["+remove 1", "+enqueue 2/1 m3 q1"])
    }

    @Test("PUBREC waits for the control center and then for the store, so that nothing is lost between them")
    func settlement() throws {
        var harness = Harness(restoring: StoredState())
        _ = harness.router.openInProcess(
            1, peer: try peer(.controlCenter, "center"), clientID: "center",
            subscriptions: [Subscription(filter: try TopicFilter("t"), maximumQoS: .atLeastOnce)])
        let publisher = try harness.connect(try auditor("p"), expiry: 100)
        harness.router.committed(through: 1)
        _ = harness.take()
        try harness.publish(publisher, "t", "m", qos: .exactlyOnce, packetID: 3)
        #expect(harness.take() == ["local 1 m q1 token 1"])
        harness.router.settle(1)
        #expect(harness.take() == ["+receive 1 #3"])
        harness.router.committed(through: 2)
        #expect(harness.take() == ["pubrec 0 3"])
    }
}
