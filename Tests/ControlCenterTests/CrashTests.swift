import ControlCenter
import Telemetry
import TestSupport
import Testing

@Suite struct CrashTests {
    private let pki: TestPKI

    init() throws {
        self.pki = try TestPKI(auditors: ["home-1"])
    }

    /// Where the control center dies.
    enum Crash: CaseIterable {
        case beforeOrder, beforeCommit, afterCommit, afterSigning, never
    }

    @Test(arguments: 0..<20 as Range<UInt64>)
    func `a crash between any two steps loses nothing and stores nothing twice`(_ seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        var disk = MemoryLedger()
        var home = TestAuditor(try self.pki.auditor("home-1"), at: Timestamp(seconds: self.pki.now))
        let center = PartySigner(self.pki.controlCenter)
        let all = try home.next(60)
        var unreceipted = Dictionary(uniqueKeysWithValues: all.enumerated().map { (Int64($0 + 1), $1) })
        let verifier = try self.pki.verifier()
        let now = Timestamp(seconds: self.pki.now)

        var rounds = 0
        while !unreceipted.isEmpty, rounds < 1_000 {
            rounds += 1
            // The process starts: nothing is left but the disk.
            var core = IngestCore(store: disk, verifier: verifier)
            var lives = true
            while lives, !unreceipted.isEmpty {
                let resent = unreceipted.values.shuffled(using: &random).prefix(Int.random(in: 1...12, using: &random))
                let examiner = core.examiner
                let arrivals = try [home.arrivalOfHello(random.next())] + resent.map { home.arrival($0) }
                let crash = Crash.allCases.randomElement(using: &random)
                if crash == .beforeOrder { break }
                let step = try core.order(arrivals.map { examiner.examine($0, at: now) }, at: now)
                if crash == .beforeCommit { break }
                try core.commit(step)
                disk = core.store
                if crash == .afterCommit { break }
                let messages = try step.receipts.map { try $0.signed(by: center, at: now) }
                if crash == .afterSigning { break }
                for message in messages {
                    for range in try Envelope.decode(message.bytes).receipts?.stored ?? [] {
                        #expect(all[Int(range.last) - 1].id == range.lastID)
                        for number in range.first...range.last { unreceipted[number] = nil }
                    }
                }
                lives = Bool.random(using: &random)
            }
        }
        #expect(unreceipted.isEmpty)
        #expect(disk.statements.map(\.sequence).sorted() == Array(1...60))
        #expect(Set(disk.statements.map(\.id)).count == 60)
        #expect(disk.readings.count == 60)
        #expect(disk.allStreams.map(\.held.runs) == [[1...60]])
        #expect(disk.forks.isEmpty && disk.quarantined.isEmpty)
    }

    @Test func `what was ordered and not committed leaves nothing in memory behind when it is given up`() throws {
        var home = TestAuditor(try self.pki.auditor("home-1"), at: Timestamp(seconds: self.pki.now))
        var center = try TestCenter(pki: self.pki)
        let arrivals = try [home.arrivalOfHello()] + home.next(3).map { home.arrival($0) }
        let examiner = center.core.examiner
        _ = try center.core.order(arrivals.map { examiner.examine($0, at: center.now) }, at: center.now)
        center.core.forget()
        try center.process(arrivals)
        #expect(center.ledger.statements.map(\.leafIndex) == [1, 2, 3])
        #expect(center.ledger.certificates.count == 1)
        #expect(center.ledger.counts.isEmpty)
    }

    @Test func `auditors beyond what memory holds are read back from the store`() throws {
        let pki = try TestPKI(auditors: (1...9).map { "home-\($0)" })
        var configuration = IngestConfiguration()
        configuration.maximumAuditorsInMemory = 2
        configuration.maximumSeriesInMemory = 1
        configuration.streamsInMemory = 0
        var center = try TestCenter(pki: pki, configuration: configuration)
        var homes = pki.auditors.map { TestAuditor($0, at: Timestamp(seconds: pki.now)) }
        for home in homes { try center.process(home.arrivalOfHello()) }
        for _ in 0..<3 {
            for index in homes.indices {
                let message = try homes[index].next()
                let answers = try center.process(homes[index].arrival(message))
                #expect(answers.map(\.receipts.newest?.id) == [message.id])
            }
        }
        #expect(center.ledger.statements.count == 27)
        #expect(center.ledger.allStreams.allSatisfy { $0.held.runs == [1...3] })
        #expect(center.ledger.counts.isEmpty)
        #expect(center.ledger.nextNumbers().series == 10)
    }
}
