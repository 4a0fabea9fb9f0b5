import Testing

@Suite("The simulation's own parts")
struct KernelTests {
    @Test("Events come in the order of their time, equal times in the order of their making")
    func order() {
        var dice = SeededRandom(seed: 1)
        var schedule = Schedule<(time: Int64, number: Int)>(startingAt: 0)
        for number in 0..<1000 {
            let time = Int64(dice.below(50))
            schedule.at(time, (time, number))
        }
        var before: (time: Int64, number: Int) = (-1, -1)
        var count = 0
        while let event = schedule.next() {
            #expect((event.time, event.number) > before)
            #expect(schedule.now == event.time)
            before = event
            count += 1
        }
        #expect(count == 1000)
    }

    @Test("A seed gives the same numbers for ever, and each stream its own")
    func dice() {
        var a = SeededRandom(seed: 7)
        var b = SeededRandom(seed: 7)
        var other = SeededRandom(seed: 7, stream: 1)
        let first = (0..<8).map { _ in a.next() }
        #expect(first == (0..<8).map { _ in b.next() })
        #expect(first != (0..<8).map { _ in other.next() })
    }

    @Test("A kind of fault that is off leaves the dice of the others alone")
    func faultsAreIndependent() {
        var both = Faults(seed: 3, rates: [.disconnect: 0.5, .replay: 0.5])
        var one = Faults(seed: 3, rates: [.disconnect: 0.5])
        for _ in 0..<100 {
            _ = both.strikes(.replay)
            #expect(one.strikes(.replay) == false)
            #expect(both.strikes(.disconnect) == one.strikes(.disconnect))
        }
    }

    @Test("A commit is there after a crash behind it, and not after a crash before it")
    func disk() throws {
        let disk = Disk<[Int]>([])
        try disk.commit { $0.append(1) }
        disk.crashAtNextCommit = .before
        #expect(throws: Disk<[Int]>.Failure.self) { try disk.commit { $0.append(2) } }
        #expect(throws: Disk<[Int]>.Failure.self) { try disk.commit { $0.append(3) } }
        disk.restart()
        #expect(disk.visible == [1])
        disk.crashAtNextCommit = .after
        #expect(throws: Disk<[Int]>.Failure.self) { try disk.commit { $0.append(4) } }
        disk.restart()
        #expect(disk.visible == [1, 4])
    }

    @Test("A disk that lies loses what it did not sync")
    func lyingDisk() throws {
        let disk = Disk<[Int]>([])
        disk.liesAboutSync = true
        try disk.commit { $0.append(1) }
        disk.sync()
        try disk.commit { $0.append(2) }
        #expect(disk.visible == [1, 2])
        disk.restart()
        #expect(disk.visible == [1])
    }

    @Test("What is not acknowledged comes again after a reconnect, before what waited")
    func redelivery() {
        var broker = Broker(shape: .forwarding, inProcess: 0)
        _ = broker.receive(.connect(subscriptions: ["audits/measures/+"], keepsSession: true), from: 0)
        _ = broker.receive(.connect(subscriptions: [], keepsSession: true), from: 1)
        let first = broker.receive(.publish(1, .init(topic: "audits/measures/a", payload: [1])), from: 1)
        #expect(first.map(\.client) == [0, 1])
        broker.disconnected(0)
        _ = broker.receive(.publish(2, .init(topic: "audits/measures/a", payload: [2])), from: 1)
        _ = broker.receive(.publish(3, .init(topic: "audits/hello/a", payload: [3])), from: 1)
        let again = broker.receive(.connect(subscriptions: ["audits/measures/+"], keepsSession: true), from: 0)
        var payloads: [[UInt8]] = []
        var repeated: [Bool] = []
        for output in again {
            if case .publish(_, let message, let isRepeated) = output.response {
                payloads.append(message.payload)
                repeated.append(isRepeated)
            }
        }
        #expect(payloads == [[1], [2]])
        #expect(repeated == [true, false])
    }

    @Test("In one process the publisher's PUBACK waits for the settlement, in order")
    func withholding() {
        var broker = Broker(shape: .withholding, inProcess: 0)
        _ = broker.receive(.connect(subscriptions: ["#"], keepsSession: false), from: 0)
        _ = broker.receive(.connect(subscriptions: [], keepsSession: true), from: 1)
        let a = broker.receive(.publish(1, .init(topic: "x", payload: [1])), from: 1)
        let b = broker.receive(.publish(2, .init(topic: "x", payload: [2])), from: 1)
        #expect((a + b).map(\.client) == [0, 0])
        #expect(broker.receive(.acknowledge(2), from: 0).isEmpty)
        let settled = broker.receive(.acknowledge(1), from: 0)
        #expect(settled.map(\.client) == [1, 1])
    }

    @Test(
        "Filters match topics as MQTT says",
        arguments: [
            ("a/+", "a/b", true), ("a/+", "a/b/c", false), ("a/#", "a/b/c", true), ("a/b", "a/b", true),
            ("a/b", "a/c", false), ("a/+", "a", false),
        ])
    func filters(filter: String, topic: String, matches: Bool) {
        #expect(Broker.matches(filter, topic) == matches)
    }

    @Test("The naive model finds duplicates, forks, closed streams and gaps")
    func naiveOrder() {
        var order = NaiveOrder<String, Int>()
        func statement(_ stream: String, _ sequence: Int64, _ id: Int, _ previous: Int)
            -> NaiveOrder<String, Int>.Statement
        {
            .init(stream: stream, sequence: sequence, id: id, previous: previous)
        }
        #expect(order.decide(statement("s", 1, 1, 0), none: 0) == .stored)
        #expect(order.decide(statement("s", 1, 1, 0), none: 0) == .duplicate)
        #expect(order.decide(statement("s", 1, 9, 0), none: 0) == .fork)
        #expect(order.decide(statement("s", 5, 5, 4), none: 0) == .stored)
        #expect(order.gaps(of: "s") == [2...4])
        #expect(order.decide(statement("s", 4, 40, 3), none: 0) == .fork)
        #expect(order.decide(statement("s", 4, 4, 3), none: 0) == .stored)
        #expect(order.decide(statement("s", 2, 2, 7), none: 0) == .fork)
        #expect(order.decide(statement("t", 1, 11, 5), none: 0) == .stored)
        #expect(order.decide(statement("s", 2, 2, 1), none: 0) == .streamClosed)
        #expect(order.gaps(of: "s") == [2...3])
        #expect(order.restarts == 1)
    }
}
