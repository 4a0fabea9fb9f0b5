import Identity
import MQTT
import MQTTBroker
import NIOCore
import Testing

struct RouterWillTests {
    private func will(delay: UInt32? = nil, retain: Bool = false) throws -> Will {
        Will(
            topic: try TopicName("w"), payload: Array("gone".utf8), qos: .atLeastOnce, retain: retain,
            properties: Properties(
                [.contentType("text")] + (delay.map { [.willDelayInterval($0)] } ?? [])
                    + [.userProperty(name: "a", value: "1"), .userProperty(name: "a", value: "2")]))
    }

    private func watched() throws -> Harness {
        var harness = Harness()
        let watcher = try harness.connect(try auditor("watcher"))
        try harness.subscribe(watcher, "w")
        return harness
    }

    @Test("A will is published when the connection ends, with its properties but not its delay")
    func published() throws {
        var harness = try self.watched()
        let id = try harness.connect(try auditor("a"), will: try self.will(delay: 0))
        _ = harness.take()
        harness.router.connectionLost(id, reason: "")
        let publishes = harness.router.actions.compactMap {
            if case .deliver(_, let message, let header) = $0 {
                message.publish(
                    qos: header.qos, retain: header.retain, isDuplicate: false, packetID: header.packetID,
                    subscriptionIDs: [], now: 0)
            } else {
                nil
            }
        }
        #expect(publishes.count == 1)
        #expect(
            publishes.first?.properties.all == [
                .contentType("text"), .userProperty(name: "a", value: "1"), .userProperty(name: "a", value: "2"),
            ])
        #expect(harness.take() == ["deliver 0 gone q1 #1"])
    }

    @Test("DISCONNECT 0x00 takes the will back; any other reason does not", arguments: [0x00, 0x04, 0x80] as [UInt8])
    func disconnect(code: UInt8) throws {
        var harness = try self.watched()
        let id = try harness.connect(try auditor("a"), expiry: 100, will: try self.will())
        _ = harness.take()
        harness.router.disconnect(Disconnect(reasonCode: ReasonCode(rawValue: code)), from: id)
        harness.router.connectionLost(id, reason: "")
        #expect(harness.take() == (code == 0 ? [] : ["deliver 0 gone q1 #1"]))
    }

    @Test("A delayed will waits, at most until the session ends, and a reconnect cancels it")
    func delay() throws {
        var harness = try self.watched()
        let one = try harness.connect(try auditor("a"), expiry: 100, will: try self.will(delay: 10))
        harness.router.connectionLost(one, reason: "")
        harness.router.advance(to: 9)
        let two = try harness.connect(
            try auditor("a"), cleanStart: false, expiry: 5, will: try self.will(delay: 10))
        harness.router.advance(to: 20)
        _ = harness.take()
        harness.router.connectionLost(two, reason: "")
        harness.router.advance(to: 24)
        #expect(harness.take() == [])
        harness.router.advance(to: 25)
        #expect(harness.take() == ["deliver 0 gone q1 #1"])
        harness.router.advance(to: 60)
        #expect(harness.take() == [])
    }

    @Test(
        "At a takeover the will is published if it has no delay or the session ends",
        arguments: [
            (0, 100, false, true), (10, 100, false, false), (10, 0, false, true), (10, 100, true, true),
        ] as [(UInt32, UInt32, Bool, Bool)])
    func takeover(delay: UInt32, expiry: UInt32, cleanStart: Bool, isPublished: Bool) throws {
        var harness = try self.watched()
        let one = try harness.connect(try auditor("a"), expiry: expiry, will: try self.will(delay: delay))
        _ = harness.take()
        _ = try harness.connect(try auditor("a"), cleanStart: cleanStart, expiry: 100)
        harness.router.connectionLost(one, reason: "")
        harness.router.advance(to: 50)
        #expect(harness.take() == ["close 1 142"] + (isPublished ? ["deliver 0 gone q1 #1"] : []))
    }

    @Test("A session of expiry 0 is not resumed by a takeover")
    func takeoverWithoutExpiry() throws {
        var harness = Harness()
        _ = try harness.connect(try auditor("a"))
        guard case .accepted(_, let connAck, _) = harness.outcome(try auditor("a"), cleanStart: false) else {
            throw UnexpectedPacket()
        }
        #expect(!connAck.sessionPresent)
    }

    @Test("A retained will is retained; an operator's hand and the shutdown publish wills too")
    func otherEnds() throws {
        var harness = try self.watched()
        let retained = try harness.connect(try auditor("r"), will: try self.will(retain: true))
        harness.router.connectionLost(retained, reason: "")
        let late = try harness.connect(try auditor("late"))
        _ = harness.take()
        try harness.subscribe(late, "w")
        #expect(harness.take() == ["suback [1]", "deliver 1 gone q1 #1 retain"])
        harness.router.connectionLost(late, reason: "")

        let revoked = try harness.connect(try auditor("v"), expiry: 100, will: try self.will(delay: 50))
        harness.router.connectionLost(revoked, reason: "")
        _ = harness.take()
        harness.router.removeSessions { $0.spiffeID.id.rawValue == "v" }
        #expect(harness.take() == ["deliver 0 gone q1 #2"])

        let last = try harness.connect(try auditor("l"), expiry: 100, will: try self.will())
        let delayed = try harness.connect(try auditor("d"), expiry: 100, will: try self.will(delay: 50))
        _ = harness.take()
        harness.router.publishWillsAtShutdown()
        harness.router.connectionLost(last, reason: "")
        harness.router.connectionLost(delayed, reason: "")
        #expect(harness.take() == ["deliver 0 gone q1 #3"])
    }

    @Test("By the topic table, wills are an auditor's, on its own alerts, not retained")
    func topicTable() throws {
        let authorizer = TopicTableAuthorizer()
        let own = try TopicName("audits/alerts/a")
        #expect(authorizer.refusalOfWill(own, isRetained: false, by: try auditor("a")) == nil)
        #expect(authorizer.refusalOfWill(own, isRetained: true, by: try auditor("a")) == "retained")
        #expect(authorizer.refusalOfWill(own, isRetained: false, by: try auditor("b")) == "topic")
        let measures = try TopicName("audits/measures/a")
        #expect(authorizer.refusalOfWill(measures, isRetained: false, by: try auditor("a")) == "topic")
        #expect(authorizer.refusalOfWill(own, isRetained: false, by: try peer(.operator, "a")) == "topic")
    }
}
