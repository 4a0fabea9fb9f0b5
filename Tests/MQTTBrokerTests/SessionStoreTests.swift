import Foundation
import GRDB
import Logging
import MQTT
import MQTTBroker
import NIOCore
import Synchronization
import TestSupport
import Testing

/// The store of sessions alone, with real files.
@Suite struct SessionStoreTests {
    private let folder: TemporaryDirectory
    private let directory: String
    private var file: String { self.directory + "/" + SQLiteSessionStore.fileName }

    init() throws {
        self.folder = try TemporaryDirectory()
        self.directory = self.folder.path("store")
    }

    private static let silent = Logger(label: "store") { _ in SwiftLogNoOpLogHandler() }

    private func open(_ directory: String? = nil, logger: Logger = Self.silent) throws -> SQLiteSessionStore {
        try SQLiteSessionStore(directory: directory ?? self.directory, logger: logger)
    }

    private func permissions(_ path: String) throws -> Int? {
        try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
    }

    private func count(_ table: String) throws -> Int {
        let queue = try DatabaseQueue(path: self.file)
        return try queue.read { try Int.fetchOne($0, sql: "SELECT count(*) FROM \(table)") ?? -1 }
    }

    private func bytes(_ path: String) throws -> [UInt8] { Array(try Data(contentsOf: URL(fileURLWithPath: path))) }

    /// A folder with these files.
    private func folder(_ name: String, _ contents: [String: [UInt8]]) throws -> String {
        let path = self.folder.path(name)
        try? FileManager.default.removeItem(atPath: path)
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        for (rest, bytes) in contents {
            try Data(bytes).write(to: URL(fileURLWithPath: "\(path)/\(SQLiteSessionStore.fileName)\(rest)"))
        }
        return path
    }

    // MARK: What is promised

    @Test func `a commit is synchronous: FULL, in WAL, in a file for its owner alone`() async throws {
        let store = try self.open()
        #expect(try store.pragma("synchronous") == "2")
        #expect(try store.pragma("journal_mode") == "wal")
        #expect(try store.pragma("application_id") == "\(0x534D_4231)")
        #expect(try store.pragma("user_version") == "2")
        var traffic = StoreTraffic(seed: 1)
        try await store.commit([.openSession(try traffic.session())])
        #expect(try self.permissions(self.directory) == 0o700)
        #expect(try self.permissions(self.file) == 0o600)
        #expect(try self.permissions(self.file + "-wal") == 0o600)
        store.close()
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `whatever happens, in batches of any size, is there after a restart`(seed: UInt64) async throws {
        var random = SplitMix64(seed: seed)
        var traffic = StoreTraffic(seed: seed)
        var highest: UInt64 = 0
        for _ in 0..<6 {
            let store = try self.open()
            let state = try store.load()
            #expect(lines(of: state) == traffic.lines, "seed \(seed)")
            #expect(state.nextNumber > highest)
            let waits = Bool.random(using: &random)
            for _ in 0..<Int.random(in: 1...20, using: &random) {
                let changes = try (0..<Int.random(in: 0...80, using: &random)).map { _ in try traffic.next() }
                if waits { try await store.commit(changes) } else { store.append(changes) { _ in } }
            }
            highest = traffic.number()
            store.close()
        }
        let store = try self.open()
        #expect(lines(of: try store.load()) == traffic.lines, "seed \(seed)")
        store.close()
    }

    @Test func `answers come in the order of what was appended, and only once it is on disk`() async throws {
        let store = try self.open()
        _ = try store.load()
        var traffic = StoreTraffic(seed: 2)
        let order = Mutex<[Int]>([])
        for number in 0..<500 {
            store.append([try traffic.next()]) { result in
                if case .success = result { order.withLock { $0.append(number) } }
            }
        }
        store.close()
        #expect(order.withLock { $0 } == Array(0..<500))
        let again = try self.open()
        #expect(lines(of: try again.load()) == traffic.lines)
        again.close()
    }

    @Test func `a message is stored once, however many sessions wait for it, and goes with the last`() async throws {
        let store = try self.open()
        _ = try store.load()
        var traffic = StoreTraffic(seed: 3)
        let sessions = try (0..<100).map { _ in try traffic.session() }
        let message = try traffic.message(bytes: 5_000)
        let delivery = StoredDelivery(message: message, qos: .atLeastOnce, retain: false, subscriptionIDs: [])
        try await store.commit(sessions.map { .openSession($0) })
        try await store.commit([.retain(message, .atLeastOnce)])
        for half in [sessions[..<50], sessions[50...]] {
            try await store.commit(half.map { .enqueue($0.number, place: 1, delivery) })
        }
        store.close()
        #expect(try self.count("message") == 1)
        #expect(try self.count("delivery") == 100)

        let second = try self.open()
        _ = try second.load()
        try await second.commit([.removeRetained(message.topic)])
        try await second.commit(sessions[..<60].map { .complete($0.number, place: 1) })
        try await second.commit(sessions[60..<99].map { .removeSession($0.number) })
        second.close()
        #expect(try self.count("message") == 1)

        let third = try self.open()
        _ = try third.load()
        try await third.commit([.complete(sessions[99].number, place: 1)])
        third.close()
        #expect(try self.count("message") == 0)
        #expect(try self.count("delivery") == 0)
    }

    @Test func `what begins and ends within a batch never reaches the disk`() async throws {
        let store = try self.open()
        _ = try store.load()
        var traffic = StoreTraffic(seed: 4)
        let session = try traffic.session()
        // The mark of numbers given out moves in strides.
        try await store.commit([.openSession(session)])
        let before = try self.bytes(self.file + "-wal")
        var changes: [StoreChange] = []
        for place in 1...1_000 as ClosedRange<UInt64> {
            let delivery = StoredDelivery(
                message: try traffic.message(), qos: .exactlyOnce, retain: false, subscriptionIDs: [])
            changes += [
                .enqueue(session.number, place: place, delivery), .send(session.number, place: place, packetID: 1),
                .release(session.number, place: place), .complete(session.number, place: place),
            ]
        }
        try await store.commit(changes)
        #expect(try self.bytes(self.file + "-wal") == before)
        store.close()
    }

    @Test func `the file does not grow with what has passed through it, and shrinks when a queue is gone`() async throws
    {
        let store = try self.open()
        _ = try store.load()
        var traffic = StoreTraffic(seed: 5)
        let session = try traffic.session()
        try await store.commit([.openSession(session)])
        var place: UInt64 = 0
        func pass(_ count: Int, bytes: Int) async throws {
            let first = place + 1
            for _ in 0..<count {
                place += 1
                let message = try traffic.message(bytes: bytes)
                store.append([
                    .enqueue(
                        session.number, place: place,
                        StoredDelivery(message: message, qos: .atLeastOnce, retain: false, subscriptionIDs: []))
                ]) { _ in }
            }
            try await store.commit([])
            try await store.commit((first...place).map { .complete(session.number, place: $0) })
        }
        try await pass(200, bytes: 1_000)
        let pages = Int(try store.pragma("page_count") ?? "") ?? 0
        for _ in 0..<20 { try await pass(200, bytes: 1_000) }
        #expect(Int(try store.pragma("page_count") ?? "") ?? .max <= pages + 16)
        try await pass(3_000, bytes: 10_000)
        store.close()
        let size = try self.bytes(self.file).count
        #expect(size < 12_000_000, "\(size)")
    }

    // MARK: Crashes

    @Test func `whatever a crash leaves of the log, the state is that of some commit, and never an older one`()
        async throws
    {
        let store = try self.open()
        _ = try store.load()
        var traffic = StoreTraffic(seed: 6)
        var states: [[String]] = [traffic.lines]
        var sizes = [0]
        for _ in 0..<40 {
            let changes = try (0..<4).map { _ in try traffic.next() }
            try await store.commit(changes)
            states.append(traffic.lines)
            sizes.append(try self.bytes(self.file + "-wal").count)
        }
        let database = try self.bytes(self.file)
        let log = try self.bytes(self.file + "-wal")
        store.close()
        var random = SplitMix64(seed: 7)
        for _ in 0..<60 {
            let length = Int.random(in: 0...log.count, using: &random)
            let path = try self.folder("crashed", ["": database, "-wal": Array(log[..<length])])
            let crashed = try self.open(path)
            let committed = sizes.lastIndex { $0 <= length } ?? 0
            #expect(lines(of: try crashed.load()) == states[committed], "\(length) of \(log.count)")
            crashed.close()
        }
    }

    // MARK: Damage

    /// A closed store with a bit of everything in it, and what it holds.
    private func specimen(sharing: Bool = true) async throws -> (bytes: [UInt8], lines: [String]) {
        let store = try self.open()
        _ = try store.load()
        var traffic = StoreTraffic(seed: 8)
        traffic.isSharing = sharing
        for _ in 0..<10 { try await store.commit(try (0..<60).map { _ in try traffic.next() }) }
        store.close()
        return (try self.bytes(self.file), traffic.lines)
    }

    /// What comes of a store: its contents, or the error that it does not start with.
    private func outcome(_ directory: String) -> Result<[String], BrokerError> {
        do {
            let store = try self.open(directory)
            defer { store.close() }
            return .success(lines(of: try store.load()))
        } catch let error as BrokerError {
            return .failure(error)
        } catch {
            return .failure(BrokerError(.configuration, "not one of ours: \(error)"))
        }
    }

    private func expectRefusal(
        _ code: BrokerError.Code, _ directory: String, _ note: Comment? = nil,
        location: SourceLocation = #_sourceLocation
    ) {
        guard case .failure(let error) = self.outcome(directory) else {
            Issue.record("it started: \(note ?? "")", sourceLocation: location)
            return
        }
        #expect(error.code == code, "\(error) \(note ?? "")", sourceLocation: location)
        #expect(error.reason.contains(directory) && !error.reason.contains("\n"), sourceLocation: location)
        if code == .storeDamaged {
            #expect(error.reason.contains("docs/durable-sessions.md"), "\(error)", sourceLocation: location)
        }
    }

    @Test func `a byte changed anywhere is refused, or changed nothing`() async throws {
        let (bytes, expected) = try await self.specimen()
        var random = SplitMix64(seed: 9)
        var refused = 0
        var tried = 0
        for page in 0..<(bytes.count / 4_096) {
            // Heads of pages and cells, where all is structure, and anywhere.
            let offsets = [0, 3, 5, 8] + (0..<4).map { _ in Int.random(in: 0..<4_096, using: &random) }
            for offset in offsets {
                var changed = bytes
                changed[page * 4_096 + offset] ^= UInt8.random(in: 1...255, using: &random)
                let path = try self.folder("changed", ["": changed])
                tried += 1
                switch self.outcome(path) {
                case .success(let lines):
                    #expect(lines == expected, "page \(page), offset \(offset)")
                case .failure(let error):
                    refused += 1
                    #expect([.storeDamaged, .storeUnusable].contains(error.code), "\(error)")
                }
            }
        }
        // Most of the rest was in unused space.
        #expect(refused > tried / 2, "\(refused) of \(tried)")
    }

    @Test func `a byte changed in the log costs nothing but the last commit, or is refused`() async throws {
        let store = try self.open()
        _ = try store.load()
        var traffic = StoreTraffic(seed: 10)
        var last: [[String]] = []
        for _ in 0..<12 {
            try await store.commit(try (0..<10).map { _ in try traffic.next() })
            last = last.suffix(1) + [traffic.lines]
        }
        let database = try self.bytes(self.file)
        let log = try self.bytes(self.file + "-wal")
        store.close()
        var random = SplitMix64(seed: 11)
        var refused = 0
        for offset in Array(0..<56) + (0..<150).map({ _ in Int.random(in: 0..<log.count, using: &random) }) {
            var changed = log
            changed[offset] ^= UInt8.random(in: 1...255, using: &random)
            switch self.outcome(try self.folder("changed", ["": database, "-wal": changed])) {
            case .success(let lines): #expect(last.contains(lines), "offset \(offset)")
            case .failure(let error):
                refused += 1
                #expect(error.code == .storeDamaged, "\(error)")
            }
        }
        #expect(refused > 100)
    }

    @Test(arguments: [0, 50, 100, 4_096, -4_096])
    func `a file cut short is refused`(length: Int) async throws {
        let (bytes, _) = try await self.specimen()
        let rest = length < 0 ? bytes.count + length : length
        self.expectRefusal(.storeDamaged, try self.folder("cut", ["": Array(bytes[..<rest])]))
    }

    @Test func `a log without its database is refused, and left alone`() async throws {
        let store = try self.open()
        var traffic = StoreTraffic(seed: 12)
        try await store.commit([.openSession(try traffic.session())])
        let log = try self.bytes(self.file + "-wal")
        store.close()
        let path = try self.folder("half", ["-wal": log])
        self.expectRefusal(.storeDamaged, path)
        #expect(try self.bytes("\(path)/\(SQLiteSessionStore.fileName)-wal") == log)
    }

    @Test func `what was begun to be made, and not finished, is made anew`() throws {
        let path = try self.folder("begun", [".new": Array("SQLite".utf8), ".new-journal": [1, 2, 3]])
        #expect(self.outcome(path) == .success([]))
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: path).sorted() == ["lock", SQLiteSessionStore.fileName])
    }

    @Test func `another program's file is refused, and left alone`() throws {
        let theirs = self.folder.path("theirs.sqlite")
        let queue = try DatabaseQueue(path: theirs)
        try queue.write { try $0.execute(sql: "CREATE TABLE theirs (x)") }
        try queue.close()
        for bytes in [try self.bytes(theirs), Array(String(repeating: "not a database ", count: 500).utf8)] {
            let path = try self.folder("foreign", ["": bytes])
            self.expectRefusal(.storeDamaged, path)
            #expect(try self.bytes("\(path)/\(SQLiteSessionStore.fileName)") == bytes)
        }
    }

    @Test func `a store of version 1 is read as it is, and goes on as version 2`() async throws {
        let (_, expected) = try await self.specimen(sharing: false)
        let queue = try DatabaseQueue(path: self.file)
        try await queue.writeWithoutTransaction { db in
            try db.execute(
                sql: """
                    ALTER TABLE delivery DROP COLUMN share;
                    DELETE FROM grdb_migrations WHERE identifier = '2';
                    PRAGMA user_version = 1;
                    """)
        }
        try queue.close()
        for _ in 0..<2 { #expect(try self.outcome(self.directory).get() == expected) }
    }

    @Test(arguments: ["PRAGMA user_version = 3", "INSERT INTO grdb_migrations VALUES ('3')"])
    func `a newer version's file is refused`(sql: String) async throws {
        _ = try await self.specimen()
        let queue = try DatabaseQueue(path: self.file)
        try await queue.writeWithoutTransaction { try $0.execute(sql: sql) }
        try queue.close()
        self.expectRefusal(.storeDamaged, self.directory)
    }

    @Test func `a store that is in use is refused`() async throws {
        let store = try self.open()
        self.expectRefusal(.storeInUse, self.directory)
        store.close()
        // By another program, that knows nothing of our lock.
        var configuration = Configuration()
        configuration.prepareDatabase { try $0.execute(sql: "PRAGMA locking_mode = EXCLUSIVE") }
        let queue = try DatabaseQueue(path: self.file, configuration: configuration)
        try await queue.write { try $0.execute(sql: "CREATE TABLE x (y)") }
        self.expectRefusal(.storeInUse, self.directory)
        try queue.close()
    }

    @Test func `what is no file, and a folder that cannot be made, are refused`() throws {
        let path = self.folder.path("odd")
        try FileManager.default.createDirectory(
            atPath: "\(path)/\(SQLiteSessionStore.fileName)", withIntermediateDirectories: true)
        self.expectRefusal(.storeUnusable, path)
        try self.folder.write("x", to: "blocked")
        self.expectRefusal(.storeUnusable, self.folder.path("blocked/store"))
    }

    // MARK: Full disks

    @Test func `a full disk is waited for, told, and nothing is lost or answered before its time`() async throws {
        let log = LogCollector()
        let store = try self.open(logger: log.logger)
        _ = try store.load()
        var traffic = StoreTraffic(seed: 13)
        try await store.commit([try traffic.next()])
        try store.limitSize(pages: (Int(try store.pragma("page_count") ?? "") ?? 0) + 2)
        let answers = Mutex<[Int]>([])
        for number in 0..<40 {
            let changes = try (0..<40).map { _ in try traffic.next() }
            store.append(changes) { result in
                if case .success = result { answers.withLock { $0.append(number) } }
            }
        }
        try await log.wait(for: "the disk is full")
        let before = answers.withLock { $0 }
        #expect(before.count < 40)
        try store.limitSize(pages: 1 << 30)
        try await store.commit([])
        try await log.wait(for: "can be written again")
        #expect(answers.withLock { $0 } == Array(0..<40))
        store.close()
        let again = try self.open()
        #expect(lines(of: try again.load()) == traffic.lines)
        again.close()
    }

    @Test func `a store that is closed on a full disk gives up after a while, and says what is lost`() async throws {
        let log = LogCollector()
        let store = try self.open(logger: log.logger)
        _ = try store.load()
        var traffic = StoreTraffic(seed: 14)
        try await store.commit([try traffic.next()])
        let former = traffic.lines
        try store.limitSize(pages: 1)
        let session = try traffic.session()
        let failures = Mutex(0)
        let message = try traffic.message(bytes: 100_000)
        store.append([
            .openSession(session),
            .enqueue(
                session.number, place: 1,
                StoredDelivery(message: message, qos: .atLeastOnce, retain: false, subscriptionIDs: [])),
        ]) { result in
            if case .failure = result { failures.withLock { $0 += 1 } }
        }
        try await log.wait(for: "the disk is full")
        store.close()
        store.append([]) { result in
            if case .failure = result { failures.withLock { $0 += 1 } }
        }
        store.close()
        #expect(failures.withLock { $0 } == 2)
        #expect(log.errors.contains { $0.contains("are lost") }, "\(log.errors)")
        let again = try self.open()
        #expect(lines(of: try again.load()) == former)
        again.close()
    }
}
