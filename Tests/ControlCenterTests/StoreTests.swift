import ControlCenter
import Foundation
import GRDB
import Identity
import Telemetry
import TestSupport
import Testing

/// The SQLite store, with a real file.
@Suite struct StoreTests {
    private let pki: TestPKI
    private let folder: TemporaryDirectory
    private var home: TestAuditor

    init() throws {
        self.pki = try TestPKI(auditors: ["home-1", "home-2"])
        self.folder = try TemporaryDirectory()
        self.home = TestAuditor(try self.pki.auditor("home-1"), at: Timestamp(seconds: self.pki.now))
    }

    private var file: String { self.folder.path(ControlCenterStore.fileName) }

    private func open() throws -> TestCenter<ControlCenterStore> {
        try TestCenter(ControlCenterStore(directory: self.folder.path), pki: self.pki)
    }

    /// What `sqlite3` prints: another program, reading while the store is open.
    private func shell(_ sql: String) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/sqlite3")
        process.arguments = ["-readonly", self.file, sql]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let text = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0)
        return String(decoding: text, as: UTF8.self).trimmingCharacters(in: .newlines)
    }

    @Test func `a commit is synchronous: FULL, not GRDB's NORMAL`() throws {
        #expect(try ControlCenterStore(directory: self.folder.path).synchronous == 2)
    }

    @Test func `one process holds a state directory`() throws {
        let first = try ControlCenterStore(directory: self.folder.path)
        #expect(throws: ControlCenterError(.stateInUse, "")) {
            try ControlCenterStore(directory: self.folder.path)
        }
        withExtendedLifetime(first) {}
    }

    @Test func `the directory is free again once the store is gone`() async throws {
        let path = self.folder.path
        do { _ = try ControlCenterStore(directory: path) }
        // A program that another test starts at that moment has the lock too, until it has become that program.
        try await withDeadline(.seconds(20), "it is free") {
            while (try? ControlCenterStore(directory: path)) == nil { try await Task.sleep(for: .milliseconds(10)) }
        }
    }

    @Test func `a folder that cannot be made is an error that says so`() throws {
        try self.folder.write("x", to: "blocked")
        #expect(throws: ControlCenterError(.stateUnusable, "")) {
            try ControlCenterStore(directory: self.folder.path("blocked/state"))
        }
    }

    @Test mutating func `a damaged file is refused with a clear message`() throws {
        do {
            var center = try self.open()
            try center.process([self.home.arrivalOfHello()] + self.home.next(500).map { self.home.arrival($0) })
        }
        var bytes = try Data(contentsOf: URL(fileURLWithPath: self.file))
        // Every page but the first, overwritten.
        for offset in stride(from: 8_192, to: bytes.count - 64, by: 8_192) {
            bytes.replaceSubrange(offset..<(offset + 64), with: Data(repeating: 0xA5, count: 64))
        }
        try bytes.write(to: URL(fileURLWithPath: self.file))
        #expect(throws: ControlCenterError(.storeDamaged, "")) {
            try ControlCenterStore(directory: self.folder.path)
        }
    }

    @Test func `what is no database is refused and left alone`() throws {
        try self.folder.write(String(repeating: "not a database", count: 1_000), to: ControlCenterStore.fileName)
        #expect(throws: ControlCenterError(.storeDamaged, "")) {
            try ControlCenterStore(directory: self.folder.path)
        }
    }

    @Test func `another program's database is refused`() throws {
        let queue = try DatabaseQueue(path: self.file)
        try queue.write { try $0.execute(sql: "CREATE TABLE theirs (x)") }
        try queue.close()
        #expect(throws: ControlCenterError(.storeDamaged, "")) {
            try ControlCenterStore(directory: self.folder.path)
        }
    }

    @Test func `a database of a newer version is refused`() throws {
        do { _ = try ControlCenterStore(directory: self.folder.path) }
        let queue = try DatabaseQueue(path: self.file)
        try queue.write { try $0.execute(sql: "INSERT INTO grdb_migrations VALUES ('99')") }
        try queue.close()
        #expect(throws: ControlCenterError(.storeDamaged, "")) {
            try ControlCenterStore(directory: self.folder.path)
        }
    }

    @Test mutating func `the sqlite3 shell reads the view while the control center runs`() throws {
        var center = try self.open()
        let readings = [
            Reading(
                meter: try MeterName("m1"), quantity: .consumption, unit: .kilowattHour,
                time: Timestamp(seconds: 1_700_000_000), interval: 900_000_000_000, value: ExactDecimal("0.30")),
            Reading(
                meter: try MeterName("m1"), quantity: .power, part: .line2, unit: .watt,
                time: Timestamp(nanoseconds: 1_700_000_000_500_000_000), value: ExactDecimal("-12.005"),
                quality: .estimated),
            Reading(
                meter: try MeterName("m1"), quantity: .consumptionTotal, unit: .wattHour,
                time: Timestamp(seconds: 1_700_000_001), value: ExactDecimal("123456789012345678")),
            Reading(
                meter: try MeterName("m1"), quantity: .voltage, unit: .volt, time: Timestamp(seconds: 1_700_000_002),
                value: nil, quality: .missing),
            Reading(
                meter: try MeterName("m1"), quantity: .frequency, unit: .hertz,
                time: Timestamp(seconds: 1_700_000_003), value: ExactDecimal("-0.05")),
        ]
        let message = try Payload.statement(readings, of: self.home.id).signed(
            at: StreamPosition(stream: self.home.stream, sequence: 1, previous: .zero), clock: .synchronised,
            issuedAt: self.home.now, by: self.home.signer)
        try center.process(self.home.arrivalOfHello(), self.home.arrival(message))

        let rows = try self.shell(
            """
            SELECT auditor, meter, quantity, unit, time, interval, value, exact, quality, stream, sequence, statement, \
            disputed FROM readings ORDER BY time_ns
            """)
        let tail = "\(self.home.stream)|1|\(message.id)|0"
        let expected: [String] = [
            "home-1|m1|consumption|kWh|2023-11-14T22:13:20Z|900.0|0.3|0.30|good|",
            "home-1|m1|power/l2|W|2023-11-14T22:13:20.500000000Z||-12.005|-12.005|estimated|",
            "home-1|m1|consumption_total|Wh|2023-11-14T22:13:21Z||1.23456789012346e+17|123456789012345678|good|",
            "home-1|m1|voltage|V|2023-11-14T22:13:22Z||||missing|",
            "home-1|m1|frequency|Hz|2023-11-14T22:13:23Z||-0.05|-0.05|good|",
        ]
        let lines: [String] = rows.split(separator: "\n").map(String.init)
        #expect(lines == expected.map { $0 + tail })
        #expect(try self.shell("SELECT leaf_index FROM readings LIMIT 1") == "1")

        // The same by our own query, row by row.
        var stored: [StoredReading] = []
        try center.core.store.forEachReading(ReadingsQuery(auditor: "home-1")) { stored.append($0) }
        #expect(stored.count == 5)
        for reading in readings {
            let row = try #require(stored.first { $0.time == reading.time && $0.unit == reading.unit.description })
            #expect(row.value == reading.value)
            #expect(row.interval == reading.interval)
            #expect(row.statement == message.id)
        }
    }

    @Test mutating func `readings from a fork on are disputed in the view`() throws {
        var center = try self.open()
        let all = try self.home.next(4)
        try center.process([self.home.arrivalOfHello()] + all.map { self.home.arrival($0) })
        try center.process(self.home.arrival(try self.home.statement(3, previous: all[1].id, values: ["9.9"])))
        #expect(try self.shell("SELECT sequence, disputed FROM readings ORDER BY sequence") == "1|0\n2|0\n3|1\n4|1")
        #expect(try center.core.store.forks().map(\.sequence) == [3])
        #expect(try center.core.store.alarms().map(\.kind) == [.fork])
        let alarm = try #require(try center.core.store.alarms().first)
        #expect(try center.core.store.acknowledge(alarm: alarm.number, by: "operator-1", at: self.home.now))
        #expect(try !center.core.store.acknowledge(alarm: alarm.number, by: "operator-1", at: self.home.now))
        #expect(try center.core.store.alarms().first?.acknowledgedBy == "operator-1")
    }

    @Test mutating func `a query takes only what it asks for, in order, and sums are exact`() throws {
        var center = try self.open()
        var other = TestAuditor(try self.pki.auditor("home-2"), at: self.home.now)
        try center.process(self.home.arrivalOfHello(), other.arrivalOfHello())
        // As doubles these would not add up.
        try center.process(
            self.home.arrival(try self.home.next(values: ["0.1", "0.2", "0.30"])),
            self.home.arrival(try self.home.next(values: ["9007199254740993"])),
            other.arrival(try other.next(values: ["5"])))
        let sums = try center.core.store.sums(ReadingsQuery())
        #expect(sums.map(\.auditor) == ["home-1", "home-2"])
        #expect(sums.map(\.sum) == ["9007199254740993.60", "5"])
        #expect(sums.map(\.count) == [4, 1])
        var values: [String] = []
        try center.core.store.forEachReading(
            ReadingsQuery(
                auditor: "home-1", meter: "meter", quantity: "consumption",
                from: Timestamp(seconds: 1_700_000_000 + 101 * 900), to: Timestamp(seconds: 1_700_000_000 + 200 * 900))
        ) { values.append($0.value?.description ?? "") }
        #expect(values == ["0.2", "0.30"])
        #expect(try center.core.store.sums(ReadingsQuery(auditor: "nobody")).isEmpty)
    }

    @Test mutating func `statistics count what was stored, refused and is missing`() throws {
        var center = try self.open()
        let all = try self.home.next(6)
        try center.process(
            [self.home.arrivalOfHello()] + [all[0], all[3], all[5], all[5]].map { self.home.arrival($0) })
        try center.process(Arrival(topic: self.home.measures, bytes: [1, 2, 3]))
        let statistics = try center.core.store.statistics()
        #expect(statistics.auditors.map(\.id) == ["home-1"])
        #expect(statistics.auditors.map(\.statements) == [3])
        #expect(statistics.auditors.map(\.missing) == [3])
        #expect(statistics.readings == 3)
        #expect(statistics.count(of: .duplicate) == 1)
        #expect(statistics.count(of: .format) == 1)
        #expect(statistics.quarantined == 1)
        let gaps = try center.core.store.gaps()
        #expect(gaps.map { $0.first...$0.last } == [2...3, 5...5])
        #expect(gaps.allSatisfy { $0.auditor == "home-1" && $0.stream == self.home.stream.description })
        #expect(try center.core.store.quarantined(limit: 5).map(\.bytes) == [[1, 2, 3]])
    }

    @Test mutating func `the quarantine has a quota per ID and reason that nobody else can use up`() throws {
        var configuration = IngestConfiguration()
        configuration.quarantine.maximumRows = 5
        configuration.quarantine.maximumBytes = 1_000
        var center = try TestCenter(
            ControlCenterStore(directory: self.folder.path), pki: self.pki, configuration: configuration)
        try center.process(self.home.arrivalOfHello())
        let store = center.core.store
        func rows(_ claimed: String, _ reason: Reason) throws -> Int {
            try store.quarantined(limit: 1_000).count { $0.claimed == claimed && $0.reason == reason.description }
        }
        for _ in 0..<4 {
            try center.process((0..<3).map { Arrival(topic: self.home.measures, bytes: [UInt8($0)]) })
        }
        #expect(try rows("home-1", .format) == 5)
        #expect(try store.statistics().count(of: .format) == 12)
        // Unknown IDs, however many, share one bucket; known ones and other reasons have theirs.
        try center.process((0..<9).map { Arrival(topic: "audits/measures/stranger-\($0)", bytes: [1]) })
        #expect(try rows(Quarantine.unknown, .format) == 5)
        try center.process(
            (0..<9).map { _ in Arrival(topic: self.home.measures, bytes: [UInt8](repeating: 0, count: 70_000)) })
        #expect(try rows("home-1", .tooLarge) == 0)
        var small = try self.home.next().bytes
        small[small.count - 67] ^= 1
        try center.process((0..<9).map { _ in Arrival(topic: self.home.measures, bytes: small) })
        #expect(try rows("home-1", .signature) == 1_000 / small.count)
        #expect(try store.statistics().count(of: .signature) == 9)
        // The quota holds over a restart.
        center = try TestCenter(store, pki: self.pki, configuration: configuration)
        try center.process(Arrival(topic: self.home.measures, bytes: [7]))
        #expect(try rows("home-1", .format) == 5)
    }

    @Test mutating func `a full disk decides nothing, and the same batch is stored once there is room`() throws {
        var center = try self.open()
        try center.process(self.home.arrivalOfHello())
        try center.core.store.limitSize(pages: center.core.store.pages + 2)
        let arrivals = try self.home.next(200).map { self.home.arrival($0) }
        #expect(throws: ControlCenterError(.storeFailed, "")) { try center.process(arrivals) }
        #expect(try center.core.store.statistics().statements == 0)
        try center.core.store.limitSize(pages: 1 << 30)
        #expect(try center.process(arrivals).first?.receipts.stored.first?.last == 200)
        #expect(try center.core.store.statistics().statements == 200)
    }

    @Test mutating func `a step that the disk did not take is committed again as it is`() throws {
        var center = try self.open()
        try center.process(self.home.arrivalOfHello())
        try center.core.store.limitSize(pages: center.core.store.pages + 2)
        let examiner = center.core.examiner
        let messages = try self.home.next(200)
        let step = try center.core.order(
            messages.map { examiner.examine(self.home.arrival($0), at: center.now) }, at: center.now)
        for _ in 0..<3 {
            #expect(throws: ControlCenterError(.storeFailed, "")) { try center.core.commit(step) }
        }
        try center.core.store.limitSize(pages: 1 << 30)
        try center.core.commit(step)
        #expect(try center.core.store.statistics().statements == 200)
        try center.process(self.home.arrival(try self.home.next()))
        #expect(try center.core.store.statistics().auditors.first?.missing == 0)
    }

    /// Statements of two auditors, with gaps, repeats, forks, new streams and rubbish.
    private func traffic(_ seed: UInt64) throws -> [Arrival] {
        var random = SplitMix64(seed: seed)
        var arrivals: [Arrival] = []
        for name in ["home-1", "home-2"] {
            var auditor = TestAuditor(try self.pki.auditor(name), at: self.home.now)
            arrivals.append(try auditor.arrivalOfHello())
            for stream in 1...3 as ClosedRange<UInt64> {
                auditor.restart(stream)
                var own: [Arrival] = []
                for number in 1...12 {
                    let previous = auditor.last
                    own.append(auditor.arrival(try auditor.next(values: ["\(number).5", "\(number).50"])))
                    if Int.random(in: 0..<8, using: &random) == 0 {
                        own.append(
                            auditor.arrival(try auditor.statement(Int64(number), previous: previous, values: ["7"])))
                    }
                }
                own.append(contentsOf: own.shuffled(using: &random).prefix(4))
                own.append(Arrival(topic: auditor.measures, bytes: random.bytes(20)))
                arrivals += Bool.random(using: &random) ? own : own.shuffled(using: &random)
            }
            arrivals.append(try auditor.arrivalOfHello(2))
        }
        return arrivals
    }

    @Test(arguments: 0..<6 as Range<UInt64>)
    func `file and memory, batches of any size, and restarts in between all come to the same`(_ seed: UInt64) throws {
        let arrivals = try self.traffic(seed)
        var random = SplitMix64(seed: seed &+ 1_000)
        var whole = try TestCenter(pki: self.pki)
        for arrival in arrivals { try whole.process(arrival) }
        var memory = try TestCenter(pki: self.pki)
        var file = try self.open()
        var rest = arrivals[...]
        while !rest.isEmpty {
            let batch = Array(rest.prefix(Int.random(in: 1...40, using: &random)))
            rest = rest.dropFirst(batch.count)
            let told = try memory.process(batch)
            let toldByFile = try file.process(batch)
            #expect(told.map(\.receipts) == toldByFile.map(\.receipts))
            #expect(told.map(\.subject) == toldByFile.map(\.subject))
            if Bool.random(using: &random) {
                // A new core on the same store: nothing that matters was only in memory.
                file = try TestCenter(file.core.store, pki: self.pki)
                memory = try TestCenter(memory.ledger, pki: self.pki)
            }
        }
        #expect(memory.ledger.statements.map(\.id) == whole.ledger.statements.map(\.id))
        #expect(memory.ledger.counts == whole.ledger.counts)
        #expect(memory.ledger.allStreams.map(\.held) == whole.ledger.allStreams.map(\.held))
        let statistics = try file.core.store.statistics()
        #expect(statistics.statements == Int64(memory.ledger.statements.count))
        #expect(statistics.readings == Int64(memory.ledger.readings.count))
        #expect(statistics.forks == Int64(memory.ledger.forks.count))
        #expect(statistics.quarantined == Int64(memory.ledger.quarantined.count))
        for stream in memory.ledger.allStreams {
            #expect(try file.core.store.stream(auditor: stream.auditor, id: stream.id) == stream)
        }
        #expect(try file.core.store.nextNumbers() == memory.ledger.nextNumbers())
        #expect(
            try self.shell("SELECT group_concat(leaf_index) FROM statement").split(separator: ",").count
                == memory.ledger.statements.count)
    }
}
