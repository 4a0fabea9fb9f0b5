import Auditor
import Foundation
import GRDB
import Identity
import Telemetry
import TestSupport
import Testing

@Suite("Outbox in SQLite") struct SQLiteOutboxTests {
    static let owner = Result {
        SPIFFEID(
            trustDomain: try TrustDomain("energy.example"), role: .auditor, id: try Identifier("home-1"))
    }

    private func open(_ directory: TemporaryDirectory, pages: Int? = nil) throws -> SQLiteOutbox {
        var options = SQLiteOutbox.Options()
        options.maximumPages = pages
        return try SQLiteOutbox(directory: directory.path("state"), owner: try Self.owner.get(), options: options)
    }

    private func entry(_ order: Int64, _ stream: UInt64, _ sequence: Int64, size: Int = 100) -> OutboxEntry {
        let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: order), count: size)
        return OutboxEntry(
            order: order, stream: StreamID(rawValue: stream), sequence: sequence,
            id: MessageID(hashing: bytes + [UInt8(truncatingIfNeeded: sequence)]), readings: 2,
            signedAt: Timestamp(seconds: order), bytes: bytes)
    }

    /// Transactions of every kind, at random but in order.
    private func transactions(_ seed: UInt64, count: Int) -> [OutboxTransaction] {
        var dice = SplitMix64(seed: seed)
        var state = OutboxState(stream: StreamID(rawValue: .max), previous: .zero, nextOrder: 1)
        var all: [OutboxTransaction] = []
        for step in 0..<count {
            var changes: [OutboxChange] = []
            let stream = StreamID(rawValue: dice.next() % 3 == 0 ? 1 : .max)
            let first = Int64(dice.next() % 40) + 1
            let range = first...first + Int64(dice.next() % 5)
            let time = Timestamp(seconds: Int64(step))
            switch dice.next() % 7 {
            case 0, 1: changes.append(.receipted(stream, range, at: time))
            case 2: changes.append(.deadLetter(stream, sequence: first, .revoked, at: time))
            case 3: changes.append(.replaced(order: first))
            case 4: changes.append(.offerAgainAfter(order: first + 20))
            case 5: changes.append(.offerAgain(stream, range))
            default:
                changes.append(
                    .trimRing(
                        receiptedBefore: Timestamp(seconds: Int64(step) - 30), maximumBytes: Int64(dice.next() % 2_000))
                )
            }
            var appended: [OutboxEntry] = []
            for _ in 0..<dice.next() % 4 {
                let old = dice.next() % 4 == 0
                state.lastSequence += 1
                appended.append(
                    self.entry(state.nextOrder, old ? 1 : .max, state.lastSequence, size: Int(dice.next() % 300)))
                state.nextOrder += 1
                state.lastID = appended[appended.count - 1].id
            }
            state.source = dice.next() % 3 == 0 ? nil : SourcePosition(bytes: [UInt8(step & 0xFF)])
            state.resignBefore = Int64(dice.next() % 5)
            state.receiptedHead =
                dice.next() % 2 == 0
                ? nil : StreamHead(stream: stream, sequence: first, id: state.lastID, order: first)
            state.lastReceiptAt = dice.next() % 2 == 0 ? nil : time
            all.append(OutboxTransaction(changes: changes, appended: appended, state: state))
        }
        return all
    }

    private func compare(_ outbox: SQLiteOutbox, _ model: MemoryOutbox) throws {
        #expect(outbox.state == model.state)
        #expect(outbox.summary == model.summary)
        #expect(
            try outbox.unreceipted(after: 3, before: 1_000, limit: 1_000)
                == (try model.unreceipted(after: 3, before: 1_000, limit: 1_000)))
        #expect(try outbox.deadLetters(limit: 100) == (try model.deadLetters(limit: 100)))
        #expect(try outbox.oldestUnreceipted() == (try model.oldestUnreceipted()))
        #expect(try outbox.oldestReceipt() == (try model.oldestReceipt()))
        #expect(try outbox.ringCount(after: 10) == (try model.ringCount(after: 10)))
        for stream in [StreamID(rawValue: 1), StreamID(rawValue: .max)] {
            #expect(try outbox.ringCount(stream, 5...30) == (try model.ringCount(stream, 5...30)))
            #expect(try outbox.unreceiptedCount(stream, 5...30) == (try model.unreceiptedCount(stream, 5...30)))
            for sequence in Int64(1)...40 {
                #expect(try outbox.record(stream, sequence) == (try model.record(stream, sequence)))
            }
        }
        for order in Int64(1)...20 { #expect(try outbox.entry(order: order) == (try model.entry(order: order))) }
    }

    @Test(
        "it does what its model does, and says the same after it was closed and opened",
        arguments: 0..<6 as Range<UInt64>)
    func model(_ seed: UInt64) throws {
        let directory = try TemporaryDirectory()
        var outbox = try self.open(directory)
        var model = MemoryOutbox()
        for (index, transaction) in self.transactions(seed, count: 80).enumerated() {
            try outbox.commit(transaction)
            try model.commit(transaction)
            if index % 10 == 9 { outbox = try self.reopen(outbox, directory) }
            if index % 5 == 4 { try self.compare(outbox, model) }
        }
    }

    private func reopen(_ outbox: consuming SQLiteOutbox, _ directory: TemporaryDirectory) throws -> SQLiteOutbox {
        // A copy of the files is what a crash leaves: nothing is closed in order.
        let other = try TemporaryDirectory()
        try FileManager.default.createDirectory(atPath: other.path("state"), withIntermediateDirectories: true)
        for name in try FileManager.default.contentsOfDirectory(atPath: directory.path("state")) where name != "lock" {
            try FileManager.default.copyItem(
                atPath: directory.path("state") + "/" + name, toPath: other.path("state") + "/" + name)
        }
        try FileManager.default.removeItem(atPath: directory.path("state"))
        try FileManager.default.moveItem(atPath: other.path("state"), toPath: directory.path("state"))
        return try self.open(directory)
    }

    @Test("a transaction that contradicts itself changes nothing")
    func atomic() throws {
        let directory = try TemporaryDirectory()
        let outbox = try self.open(directory)
        var state = OutboxState(stream: StreamID(rawValue: 1), previous: .zero, nextOrder: 2)
        try outbox.commit(OutboxTransaction(appended: [self.entry(1, 1, 1)], state: state))
        let before = (outbox.state, outbox.summary)
        state.nextOrder = 9
        #expect(throws: OutboxError(.conflict, "")) {
            try outbox.commit(
                OutboxTransaction(
                    changes: [.receipted(StreamID(rawValue: 1), 1...1, at: Timestamp(seconds: 1))],
                    appended: [self.entry(2, 1, 2), self.entry(3, 1, 1)], state: state))
        }
        #expect(outbox.state == before.0)
        #expect(outbox.summary == before.1)
        #expect(try outbox.entry(order: 2) == nil)
        #expect(try outbox.record(StreamID(rawValue: 1), 1)?.isReceipted == false)
    }

    @Test("WAL and synchronous = FULL are in force")
    func durable() throws {
        let directory = try TemporaryDirectory()
        let outbox = try self.open(directory)
        #expect(try outbox.settings() == ["wal", "2"])
    }

    @Test("a state directory belongs to one process and to one auditor")
    func locked() throws {
        let directory = try TemporaryDirectory()
        var outbox: SQLiteOutbox? = try self.open(directory)
        let error = #expect(throws: OutboxError(.locked, "")) { try self.open(directory) }
        #expect(error?.reason.contains("\(getpid())") == true)
        #expect(outbox?.state == nil)
        outbox = nil
        let other = SPIFFEID(
            trustDomain: try TrustDomain("energy.example"), role: .auditor, id: try Identifier("home-2"))
        #expect(throws: OutboxError(.owner, "")) {
            try SQLiteOutbox(directory: directory.path("state"), owner: other)
        }
        _ = try self.open(directory)
    }

    @Test("a reader looks into it while it is used")
    func reading() throws {
        let directory = try TemporaryDirectory()
        let outbox = try self.open(directory)
        let state = OutboxState(stream: StreamID(rawValue: 1), previous: .zero, nextOrder: 2)
        try outbox.commit(OutboxTransaction(appended: [self.entry(1, 1, 1)], state: state))
        let reader = try SQLiteOutbox(reading: directory.path("state"))
        #expect(reader.state == state)
        #expect(reader.summary.unreceipted == 1)
        #expect(try reader.owner() == "spiffe://energy.example/auditor/home-1")
        #expect(throws: OutboxError(.io, "")) { try SQLiteOutbox(reading: directory.path("nowhere")) }
    }

    @Test("a file that is damaged, or of a newer version, is refused by name")
    func damaged() throws {
        let directory = try TemporaryDirectory()
        try FileManager.default.createDirectory(atPath: directory.path("state"), withIntermediateDirectories: true)
        try directory.write(String(repeating: "no database ", count: 1_000), to: "state/outbox.sqlite")
        #expect(throws: OutboxError(.corrupt, "")) { try self.open(directory) }
        try FileManager.default.removeItem(atPath: directory.path("state/outbox.sqlite"))
        _ = try self.open(directory)
        let queue = try DatabaseQueue(path: directory.path("state/outbox.sqlite"))
        try queue.write { try $0.execute(sql: "INSERT INTO grdb_migrations VALUES ('999')") }
        try queue.close()
        #expect(throws: OutboxError(.version, "")) { try self.open(directory) }
    }

    @Test("a full disk: the auditor says so, loses nothing, and goes on when there is room")
    func fullDisk() throws {
        let directory = try TemporaryDirectory()
        var desk = try Desk()
        var full: SQLiteOutbox? = try self.open(directory, pages: 60)
        var number = 0
        var commits = 0
        func step(_ input: AuditorMachine.Input, _ outbox: SQLiteOutbox) {
            var inputs = [input]
            while !inputs.isEmpty {
                let actions = desk.machine.handle(
                    inputs.removeFirst(), now: desk.now, outbox: outbox, random: &desk.random)
                for action in actions {
                    switch action {
                    case .commit(let transaction):
                        do {
                            try outbox.commit(transaction)
                            commits += 1
                            inputs.insert(.committed, at: 0)
                        } catch {
                            inputs.insert(.commitFailed(error), at: 0)
                        }
                    case .raise(let alarm): desk.alarms.append(alarm)
                    case .clear(let kind): desk.cleared.append(kind)
                    case .publish, .keep, .set: break
                    }
                }
            }
        }
        while let outbox = full, desk.machine.wantsReadings(outbox), number < 10_000 {
            number += 1
            step(.readings([try Desk.batch(number)]), outbox)
        }
        #expect(number < 10_000)
        #expect(desk.alarms.map(\.kind) == [.outboxWrite])
        #expect(desk.alarms.first?.text.contains("full") == true)
        #expect(full?.summary.unreceipted == number - 1)
        #expect(full?.state?.source == (try Desk.batch(number - 1)).position)
        full = nil
        let roomy = try self.open(directory)
        desk.now = desk.now.advanced(byNanoseconds: 60_000_000_000)
        step(.tick, roomy)
        #expect(desk.cleared == [.outboxWrite])
        #expect(roomy.summary.unreceipted == number)
        #expect(roomy.state?.source == (try Desk.batch(number)).position)
        #expect(
            try roomy.unreceipted(after: 0, before: .max, limit: .max).map(\.sequence) == (1...Int64(number)).map { $0 }
        )
    }
}
