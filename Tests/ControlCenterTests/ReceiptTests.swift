import ControlCenter
import Telemetry
import TestSupport
import Testing

@Suite struct ReceiptTests {
    private let pki: TestPKI
    private var center: TestCenter<MemoryLedger>
    private var home: TestAuditor

    init() throws {
        self.pki = try TestPKI(auditors: ["home-1", "home-2"])
        self.center = try TestCenter(pki: self.pki)
        self.home = TestAuditor(try self.pki.auditor("home-1"), at: self.center.now)
    }

    private func head(_ sequence: Int64, _ id: MessageID) -> Receipts.StreamHead {
        Receipts.StreamHead(sequence: sequence, id: id)
    }

    private func range(_ first: Int64, _ last: Int64, _ id: MessageID) -> Receipts.StoredRange {
        Receipts.StoredRange(first: first, last: last, lastID: id)
    }

    @Test mutating func `the first hello is answered with its nonce and nothing held`() throws {
        let answers = try self.center.process(self.home.arrivalOfHello(5))
        #expect(answers.count == 1)
        #expect(answers.first?.subject == StreamName(auditor: self.home.party.spiffeID, stream: self.home.stream))
        #expect(answers.first?.receipts == Receipts(nonce: self.home.nonce(5)))
    }

    @Test mutating func `a hello is answered with what is held of its stream`() throws {
        let all = try self.home.next(5)
        try self.center.process(
            [self.home.arrivalOfHello()] + [all[0], all[1], all[4]].map { self.home.arrival($0) })
        let answer = try #require(try self.center.process(self.home.arrivalOfHello(6)).first?.receipts)
        #expect(answer.nonce == self.home.nonce(6))
        #expect(answer.newest == self.head(5, all[4].id))
        #expect(answer.stored == [self.range(1, 2, all[1].id), self.range(5, 5, all[4].id)])
    }

    @Test mutating func `a hello in the batch of its statements is answered with what the batch stored`() throws {
        let all = try self.home.next(2)
        let answers = try self.center.process(
            self.home.arrivalOfHello(), self.home.arrival(all[0]), self.home.arrival(all[1]))
        #expect(answers.last?.receipts.newest == self.head(2, all[1].id))
    }

    @Test mutating func `a rolled-back auditor can compare what it has with what is stored`() throws {
        try self.center.process(self.home.arrivalOfHello())
        var old = self.home
        let all = try self.home.next(40)
        try self.center.process(all.map { self.home.arrival($0) })
        old.sequence = 25
        old.last = all[24].id
        let answer = try #require(try self.center.process(old.arrivalOfHello(2)).first?.receipts)
        #expect(answer.newest == self.head(40, all[39].id))
        #expect(answer.stored == [self.range(1, 25, all[24].id), self.range(26, 40, all[39].id)])
    }

    @Test mutating func `an auditor that went on from an old image finds the last message both know`() throws {
        try self.center.process(self.home.arrivalOfHello())
        let all = try self.home.next(200)
        try self.center.process(all.map { self.home.arrival($0) })
        // It knows up to 150 and has signed 151 ... 155 anew.
        var old = self.home
        old.sequence = 150
        old.last = all[149].id
        for number in 0..<5 { _ = try old.next(values: ["7.\(number)"]) }
        let answer = try #require(try self.center.process(old.arrivalOfHello(2)).first?.receipts)
        #expect(answer.stored.contains { $0.last == 150 && $0.lastID == all[149].id })
        #expect(answer.stored.first?.first == 1)
        for (before, behind) in zip(answer.stored, answer.stored.dropFirst()) {
            #expect(behind.first == before.last + 1)
        }
        #expect(answer.stored.allSatisfy { $0.lastID == all[Int($0.last) - 1].id })
        #expect(answer.stored.last?.last == 200)
    }

    @Test mutating func `a hello with a closed stream is told about that, and then about the open one`() throws {
        let former = try self.home.next(2)
        try self.center.process([self.home.arrivalOfHello()] + former.map { self.home.arrival($0) })
        let old = self.home
        self.home.restart(0xB2)
        let first = try self.home.next()
        try self.center.process(self.home.arrival(first))
        let answers = try self.center.process(old.arrivalOfHello(3))
        #expect(answers.count == 2)
        #expect(answers[0].subject.stream == old.stream)
        #expect(
            answers[0].receipts
                == Receipts(stored: [self.range(1, 2, former[1].id)], newest: self.head(2, former[1].id)))
        #expect(answers[1].subject.stream == self.home.stream)
        #expect(
            answers[1].receipts
                == Receipts(
                    stored: [self.range(1, 1, first.id)], newest: self.head(1, first.id), nonce: self.home.nonce(3)))
    }

    @Test mutating func `a hello with an unknown stream is told about the open one only`() throws {
        let first = try self.home.next()
        try self.center.process(self.home.arrivalOfHello(), self.home.arrival(first))
        var fresh = self.home
        fresh.restart(0xCC)
        let answers = try self.center.process(fresh.arrivalOfHello(4))
        #expect(answers.count == 1)
        #expect(answers[0].subject.stream == self.home.stream)
        #expect(answers[0].receipts.nonce == self.home.nonce(4))
        #expect(answers[0].receipts.newest == self.head(1, first.id))
    }

    @Test mutating func `one message tells an auditor what a commit decided about a stream`() throws {
        var other = TestAuditor(try self.pki.auditor("home-2"), at: self.center.now)
        try self.center.process(self.home.arrivalOfHello(), other.arrivalOfHello())
        let mine = try self.home.next(4)
        let its = try other.next(2)
        let answers = try self.center.process(
            self.home.arrival(mine[3]), other.arrival(its[0]), self.home.arrival(mine[0]),
            self.home.arrival(mine[1]), other.arrival(its[1]))
        #expect(answers.count == 2)
        #expect(answers[0].subject.auditor == self.home.party.spiffeID)
        #expect(
            answers[0].receipts
                == Receipts(
                    stored: [self.range(1, 2, mine[1].id), self.range(4, 4, mine[3].id)],
                    newest: self.head(4, mine[3].id)))
        #expect(answers[1].subject.auditor == other.party.spiffeID)
        #expect(answers[1].receipts.stored == [self.range(1, 2, its[1].id)])
    }

    @Test mutating func `at most ten refusals a second are told to an auditor`() throws {
        try self.center.process(self.home.arrivalOfHello(), self.home.arrival(try self.home.next()))
        let forks = try (0..<25).map {
            self.home.arrival(try self.home.statement(1, previous: .zero, values: ["\($0)"]))
        }
        #expect(try self.center.process(forks).first?.receipts.refused.count == 10)
        #expect(try self.center.process(forks).isEmpty)
        self.center.now = self.center.now.advanced(byNanoseconds: 1_000_000_000)
        #expect(try self.center.process(forks).first?.receipts.refused.count == 10)
        #expect(self.center.count(.fork) == 75)
    }

    @Test mutating func `more ranges than one message holds come in several`() throws {
        try self.center.process(self.home.arrivalOfHello())
        let all = try self.home.next(1_100)
        let even = all.enumerated().filter { $0.offset % 2 == 1 }.map { self.home.arrival($0.element) }
        let answers = try self.center.process(even)
        #expect(answers.count == 2)
        #expect(answers.flatMap(\.receipts.stored).count == 550)
        #expect(answers.allSatisfy { $0.receipts.stored.count <= Receipts.maximumEntries })
    }
}
