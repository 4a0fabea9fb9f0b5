import Foundation
import GRDB
public import Identity
import Storage
public import Telemetry

/// The outbox in SQLite: WAL and `synchronous = FULL`, set, read back and insisted on, so that a commit has
/// reached the disk when it returns.
///
/// One file, `outbox.sqlite`, in the state directory, which it keeps to one process. Only one thread may use it
/// at a time. Another process may look into it with ``init(reading:)``.
public final class SQLiteOutbox: OutboxStore {
    /// Limits of the file.
    public struct Options: Hashable, Sendable {
        /// The most pages of 4 KiB that the file may have; `nil`: as many as the disk has room for.
        public var maximumPages: Int?

        public init() {}
    }

    public private(set) var state: OutboxState?
    public private(set) var summary = OutboxSummary()
    public private(set) var memory = ControlMemory()

    private let database: DatabaseQueue
    private let lock: StateLock?

    /// The file in a state directory.
    public static func path(in directory: String) -> String { directory + "/outbox.sqlite" }

    /// Opens the outbox of an auditor, or makes it.
    ///
    /// - Throws: ``OutboxError``: `locked`, `owner`, `version`, `corrupt`, `full`, `io`.
    public init(directory: String, owner: SPIFFEID, options: Options = Options()) throws(OutboxError) {
        self.lock = try StateLock.take(auditorsDirectory: directory)
        var configuration = Configuration()
        configuration.journalMode = .wal
        configuration.label = "outbox"
        configuration.prepareDatabase { database in
            if let pages = options.maximumPages { try database.execute(sql: "PRAGMA max_page_count = \(pages)") }
        }
        let path = Self.path(in: directory)
        do {
            // Before SQLite opens it: the files beside it get its mode.
            let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
            guard descriptor >= 0, fchmod(descriptor, 0o600) == 0, close(descriptor) == 0 else {
                throw OutboxError(.io, "cannot open \(path) for its owner alone: \(String(cString: strerror(errno)))")
            }
            self.database = try DatabaseQueue(path: path, configuration: configuration)
            // Only now: when it turns WAL on, GRDB sets NORMAL.
            try self.database.writeWithoutTransaction { try $0.execute(sql: "PRAGMA synchronous = FULL") }
            let migrator = Self.migrator
            let isNewer = try self.database.read { try migrator.hasBeenSuperseded($0) }
            guard !isNewer else {
                throw OutboxError(.version, "\(path) was written by a newer version of this program; use that one")
            }
            try migrator.migrate(self.database)
            try self.database.writeWithoutTransaction { database in
                guard try String.fetchOne(database, sql: "PRAGMA journal_mode") == "wal",
                    try Int.fetchOne(database, sql: "PRAGMA synchronous") == 2
                else {
                    throw OutboxError(.io, "\(path) cannot be kept durable: SQLite refuses WAL or synchronous = FULL")
                }
            }
            try self.database.write { database in
                let stored = try String.fetchOne(database, sql: "SELECT spiffe_id FROM owner")
                if let stored, stored != owner.rawValue {
                    throw OutboxError(
                        .owner,
                        "\(directory) belongs to \(stored), not to \(owner); give each auditor a directory of its own")
                }
                if stored == nil {
                    try database.execute(
                        sql: "INSERT INTO owner (id, spiffe_id) VALUES (1, ?)", arguments: [owner.rawValue])
                }
            }
        } catch {
            throw Self.translate(error, path)
        }
        try self.load()
    }

    /// Opens an outbox to look into it, also while its auditor runs.
    public init(reading directory: String) throws(OutboxError) {
        self.lock = nil
        let path = Self.path(in: directory)
        guard FileManager.default.fileExists(atPath: path) else {
            throw OutboxError(.io, "\(directory) has no outbox; is it the state directory of an auditor that has run?")
        }
        var configuration = Configuration()
        configuration.readonly = true
        do {
            self.database = try DatabaseQueue(path: path, configuration: configuration)
        } catch {
            throw Self.translate(error, path)
        }
        try self.load()
    }

    /// The SPIFFE ID of the auditor whose outbox it is.
    public func owner() throws(OutboxError) -> String {
        try self.read { database in try String.fetchOne(database, sql: "SELECT spiffe_id FROM owner") ?? "" }
    }

    /// The journal mode and the level of synchronisation that SQLite says are in force.
    package func settings() throws(OutboxError) -> [String] {
        try self.read { database in
            try ["journal_mode", "synchronous"].map { try String.fetchOne(database, sql: "PRAGMA \($0)") ?? "" }
        }
    }

    private static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { database in
            try database.execute(
                sql: """
                    CREATE TABLE owner (
                        id INTEGER PRIMARY KEY CHECK (id = 1),
                        spiffe_id TEXT NOT NULL
                    );
                    -- Streams are the 8 bytes of their id as a signed number; times are nanoseconds since 1970.
                    CREATE TABLE state (
                        id INTEGER PRIMARY KEY CHECK (id = 1),
                        stream INTEGER NOT NULL,
                        last_sequence INTEGER NOT NULL,
                        last_id BLOB NOT NULL,
                        first_previous BLOB NOT NULL,
                        first_order INTEGER NOT NULL,
                        next_order INTEGER NOT NULL,
                        resign_before INTEGER NOT NULL,
                        head_stream INTEGER,
                        head_sequence INTEGER,
                        head_id BLOB,
                        head_order INTEGER,
                        source BLOB,
                        last_receipt_at INTEGER,
                        -- Counted on with every transaction: counting anew would read the whole file.
                        unreceipted INTEGER NOT NULL,
                        unreceipted_bytes INTEGER NOT NULL,
                        ring INTEGER NOT NULL,
                        ring_bytes INTEGER NOT NULL,
                        dead_letters INTEGER NOT NULL,
                        dead_letter_bytes INTEGER NOT NULL
                    );
                    CREATE TABLE message (
                        position INTEGER PRIMARY KEY,
                        stream INTEGER NOT NULL,
                        sequence INTEGER NOT NULL,
                        id BLOB NOT NULL,
                        readings INTEGER NOT NULL,
                        signed_at INTEGER NOT NULL,
                        receipted_at INTEGER,
                        bytes BLOB NOT NULL
                    );
                    CREATE UNIQUE INDEX message_by_sequence ON message (stream, sequence);
                    CREATE INDEX unreceipted_by_position ON message (position) WHERE receipted_at IS NULL;
                    CREATE INDEX unreceipted_by_sequence ON message (stream, sequence) WHERE receipted_at IS NULL;
                    CREATE INDEX ring_by_position ON message (position) WHERE receipted_at IS NOT NULL;
                    CREATE INDEX ring_by_receipt ON message (receipted_at) WHERE receipted_at IS NOT NULL;
                    CREATE TABLE dead_letter (
                        id INTEGER PRIMARY KEY,
                        position INTEGER NOT NULL,
                        stream INTEGER NOT NULL,
                        sequence INTEGER NOT NULL,
                        message_id BLOB NOT NULL,
                        readings INTEGER NOT NULL,
                        signed_at INTEGER NOT NULL,
                        reason TEXT NOT NULL,
                        refused_at INTEGER NOT NULL,
                        bytes BLOB NOT NULL
                    );
                    """)
        }
        migrator.registerMigration("updates") { database in
            // One row, in JSON: it is small, changes seldom, and is read at start.
            try database.execute(
                sql: "CREATE TABLE control (id INTEGER PRIMARY KEY CHECK (id = 1), memory TEXT NOT NULL)")
        }
        return migrator
    }

    // MARK: Committing

    public func commit(_ transaction: OutboxTransaction) throws(OutboxError) {
        var summary = self.summary
        do {
            try self.database.write { database in
                for change in transaction.changes { try Self.apply(change, &summary, database) }
                if !transaction.appended.isEmpty {
                    let insert = try database.cachedStatement(
                        sql: """
                            INSERT INTO message (position, stream, sequence, id, readings, signed_at, bytes)
                            VALUES (?, ?, ?, ?, ?, ?, ?)
                            """)
                    for entry in transaction.appended {
                        insert.setUncheckedArguments([
                            entry.order, entry.stream.stored, entry.sequence, Data(entry.id.bytes), entry.readings,
                            entry.signedAt.nanoseconds, Data(entry.bytes),
                        ])
                        try insert.execute()
                        summary.unreceipted += 1
                        summary.unreceiptedBytes += Int64(entry.bytes.count)
                    }
                }
                try Self.store(transaction.state, summary, database)
            }
        } catch {
            throw Self.translate(error, self.database.path)
        }
        self.summary = summary
        self.state = transaction.state
        for case .remember(let memory) in transaction.changes { self.memory = memory }
    }

    private static func store(_ state: OutboxState, _ summary: OutboxSummary, _ database: Database) throws {
        let statement = try database.cachedStatement(
            sql: "REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        let head = state.receiptedHead
        statement.setUncheckedArguments([
            state.stream.stored, state.lastSequence, Data(state.lastID.bytes), Data(state.firstPrevious.bytes),
            state.firstOrder, state.nextOrder, state.resignBefore, head?.stream.stored, head?.sequence,
            head.map { Data($0.id.bytes) }, head?.order, state.source.map { Data($0.bytes) },
            state.lastReceiptAt?.nanoseconds, summary.unreceipted, summary.unreceiptedBytes, summary.ring,
            summary.ringBytes, summary.deadLetters, summary.deadLetterBytes,
        ])
        try statement.execute()
    }

    private static func apply(_ change: OutboxChange, _ summary: inout OutboxSummary, _ database: Database) throws {
        switch change {
        case .receipted(let stream, let range, let time):
            let condition = "stream = ? AND sequence BETWEEN ? AND ? AND receipted_at IS NULL"
            let arguments: StatementArguments = [stream.stored, range.lowerBound, range.upperBound]
            let index = "unreceipted_by_sequence"
            let (count, bytes) = try Self.size(by: index, where: condition, arguments, database)
            try Self.run(
                "UPDATE message INDEXED BY \(index) SET receipted_at = ? WHERE \(condition)",
                [time.nanoseconds] + arguments, database)
            summary.unreceipted -= count
            summary.unreceiptedBytes -= bytes
            summary.ring += count
            summary.ringBytes += bytes
        case .deadLetter(let stream, let sequence, let reason, let time):
            let condition = "stream = ? AND sequence = ? AND receipted_at IS NULL"
            let arguments: StatementArguments = [stream.stored, sequence]
            let (count, bytes) = try Self.size(where: condition, arguments, database)
            try Self.run(
                """
                INSERT INTO dead_letter
                    (position, stream, sequence, message_id, readings, signed_at, reason, refused_at, bytes)
                SELECT position, stream, sequence, id, readings, signed_at, ?, ?, bytes FROM message WHERE \(condition)
                """, [reason.rawValue, time.nanoseconds] + arguments, database)
            try Self.run("DELETE FROM message WHERE \(condition)", arguments, database)
            summary.unreceipted -= count
            summary.unreceiptedBytes -= bytes
            summary.deadLetters += count
            summary.deadLetterBytes += bytes
        case .replaced(let order):
            let row = try Row.fetchOne(
                database.cachedStatement(
                    sql: "SELECT length(bytes), receipted_at IS NULL FROM message WHERE position = ?"),
                arguments: [order])
            guard let row else { return }
            try Self.run("DELETE FROM message WHERE position = ?", [order], database)
            let bytes: Int64 = row[0]
            if row[1] {
                summary.unreceipted -= 1
                summary.unreceiptedBytes -= bytes
            } else {
                summary.ring -= 1
                summary.ringBytes -= bytes
            }
        case .offerAgainAfter(let order):
            try Self.offerAgain(where: "position > ?", [order], &summary, database)
        case .offerAgain(let stream, let range):
            try Self.offerAgain(
                where: "stream = ? AND sequence BETWEEN ? AND ?", [stream.stored, range.lowerBound, range.upperBound],
                &summary, database)
        case .trimRing(let limit, let maximum):
            try Self.trimRing(before: limit, maximum: maximum, &summary, database)
        case .remember(let memory):
            let text = String(decoding: try JSONEncoder().encode(memory), as: UTF8.self)
            try Self.run("REPLACE INTO control (id, memory) VALUES (1, ?)", [text], database)
        }
    }

    private static func offerAgain(
        where condition: String, _ arguments: StatementArguments, _ summary: inout OutboxSummary, _ database: Database
    ) throws {
        let condition = condition + " AND receipted_at IS NOT NULL"
        let (count, bytes) = try Self.size(where: condition, arguments, database)
        try Self.run("UPDATE message SET receipted_at = NULL WHERE \(condition)", arguments, database)
        summary.ring -= count
        summary.ringBytes -= bytes
        summary.unreceipted += count
        summary.unreceiptedBytes += bytes
    }

    private static func trimRing(
        before limit: Timestamp, maximum: Int64, _ summary: inout OutboxSummary, _ database: Database
    ) throws {
        let old = "receipted_at IS NOT NULL AND receipted_at < ?"
        let (count, bytes) = try Self.size(by: "ring_by_receipt", where: old, [limit.nanoseconds], database)
        if count > 0 { try Self.run("DELETE FROM message WHERE \(old)", [limit.nanoseconds], database) }
        summary.ring -= count
        summary.ringBytes -= bytes
        guard summary.ringBytes > maximum else { return }
        let rows = try Row.fetchCursor(
            database.cachedStatement(
                sql: """
                    SELECT position, length(bytes) FROM message INDEXED BY ring_by_position
                    WHERE receipted_at IS NOT NULL ORDER BY position
                    """))
        var last: Int64 = 0
        while summary.ringBytes > maximum, let row = try rows.next() {
            last = row[0]
            summary.ring -= 1
            summary.ringBytes -= row[1] as Int64
        }
        try Self.run("DELETE FROM message WHERE receipted_at IS NOT NULL AND position <= ?", [last], database)
    }

    private static func size(
        by index: String? = nil, where condition: String, _ arguments: StatementArguments, _ database: Database
    ) throws -> (count: Int, bytes: Int64) {
        let index = index.map { " INDEXED BY \($0)" } ?? ""
        let row = try Row.fetchOne(
            database.cachedStatement(
                sql: "SELECT count(*), coalesce(sum(length(bytes)), 0) FROM message\(index) WHERE \(condition)"),
            arguments: arguments)
        return (row?[0] ?? 0, row?[1] ?? 0)
    }

    private static func run(_ sql: String, _ arguments: StatementArguments, _ database: Database) throws {
        try database.cachedStatement(sql: sql).execute(arguments: arguments)
    }

    // MARK: Reading

    private func load() throws(OutboxError) {
        self.memory = try self.read { database in
            // An outbox that was not opened by this version yet may have no such table.
            guard try database.tableExists("control"),
                let text = try String.fetchOne(database, sql: "SELECT memory FROM control")
            else { return ControlMemory() }
            do {
                return try JSONDecoder().decode(ControlMemory.self, from: Data(text.utf8))
            } catch {
                throw OutboxError(.corrupt, "what control centers have told is damaged in the outbox")
            }
        }
        let (state, summary) = try self.read { database -> (OutboxState?, OutboxSummary) in
            var summary = OutboxSummary()
            guard let row = try Row.fetchOne(database, sql: "SELECT * FROM state") else { return (nil, summary) }
            guard let state = OutboxState(row) else {
                throw OutboxError(.corrupt, "the state of the outbox is damaged")
            }
            summary.unreceipted = row["unreceipted"]
            summary.unreceiptedBytes = row["unreceipted_bytes"]
            summary.ring = row["ring"]
            summary.ringBytes = row["ring_bytes"]
            summary.deadLetters = row["dead_letters"]
            summary.deadLetterBytes = row["dead_letter_bytes"]
            return (state, summary)
        }
        self.state = state
        self.summary = summary
    }

    private func read<Value>(_ body: (Database) throws -> Value) throws(OutboxError) -> Value {
        do {
            return try self.database.read(body)
        } catch {
            throw Self.translate(error, self.database.path)
        }
    }

    private func entries(_ sql: String, _ arguments: StatementArguments) throws(OutboxError) -> [OutboxEntry] {
        try self.read { database in
            var entries: [OutboxEntry] = []
            let rows = try Row.fetchCursor(database.cachedStatement(sql: sql), arguments: arguments)
            while let row = try rows.next() {
                guard let entry = OutboxEntry(row) else {
                    throw OutboxError(.corrupt, "a message in the outbox is damaged")
                }
                entries.append(entry)
            }
            return entries
        }
    }

    private static let columns = "position, stream, sequence, id, readings, signed_at, bytes"

    public func unreceipted(after: Int64, before: Int64, limit: Int) throws(OutboxError) -> [OutboxEntry] {
        try self.entries(
            """
            SELECT \(Self.columns) FROM message INDEXED BY unreceipted_by_position
            WHERE receipted_at IS NULL AND position > ? AND position < ? ORDER BY position LIMIT ?
            """, [after, before, limit])
    }

    public func entry(order: Int64) throws(OutboxError) -> OutboxEntry? {
        try self.entries("SELECT \(Self.columns) FROM message WHERE position = ?", [order]).first
    }

    public func record(_ stream: StreamID, _ sequence: Int64) throws(OutboxError) -> OutboxRecord? {
        try self.read { database in
            let row = try Row.fetchOne(
                database.cachedStatement(
                    sql: "SELECT position, id, receipted_at IS NOT NULL FROM message WHERE stream = ? AND sequence = ?"),
                arguments: [stream.stored, sequence])
            guard let row else { return nil }
            guard let id = MessageID(row[1] as Data) else {
                throw OutboxError(.corrupt, "an id in the outbox is damaged")
            }
            return OutboxRecord(order: row[0], id: id, isReceipted: row[2])
        }
    }

    private func count(
        by index: String, _ condition: String, _ arguments: StatementArguments
    ) throws(OutboxError) -> Int {
        try self.read { database in
            try Int.fetchOne(
                database.cachedStatement(sql: "SELECT count(*) FROM message INDEXED BY \(index) WHERE \(condition)"),
                arguments: arguments)
                ?? 0
        }
    }

    public func unreceiptedCount(_ stream: StreamID, _ range: ClosedRange<Int64>) throws(OutboxError) -> Int {
        try self.count(
            by: "unreceipted_by_sequence", "stream = ? AND sequence BETWEEN ? AND ? AND receipted_at IS NULL",
            [stream.stored, range.lowerBound, range.upperBound])
    }

    public func ringCount(_ stream: StreamID, _ range: ClosedRange<Int64>) throws(OutboxError) -> Int {
        try self.count(
            by: "message_by_sequence", "stream = ? AND sequence BETWEEN ? AND ? AND receipted_at IS NOT NULL",
            [stream.stored, range.lowerBound, range.upperBound])
    }

    public func ringCount(after order: Int64) throws(OutboxError) -> Int {
        try self.count(by: "ring_by_position", "position > ? AND receipted_at IS NOT NULL", [order])
    }

    public func oldestUnreceipted() throws(OutboxError) -> Timestamp? {
        try self.time(
            """
            SELECT signed_at FROM message INDEXED BY unreceipted_by_position
            WHERE receipted_at IS NULL ORDER BY position LIMIT 1
            """)
    }

    public func oldestReceipt() throws(OutboxError) -> Timestamp? {
        try self.time(
            """
            SELECT min(receipted_at) FROM message INDEXED BY ring_by_receipt WHERE receipted_at IS NOT NULL
            """)
    }

    private func time(_ sql: String) throws(OutboxError) -> Timestamp? {
        try self.read { database in
            try Int64.fetchOne(database.cachedStatement(sql: sql)).map { Timestamp(nanoseconds: $0) }
        }
    }

    public func deadLetters(limit: Int) throws(OutboxError) -> [DeadLetter] {
        try self.read { database in
            var letters: [DeadLetter] = []
            let rows = try Row.fetchCursor(
                database,
                sql: """
                    SELECT position, stream, sequence, message_id, readings, signed_at, bytes, reason, refused_at
                    FROM dead_letter ORDER BY id DESC LIMIT ?
                    """, arguments: [limit])
            while let row = try rows.next() {
                guard let entry = OutboxEntry(row), let reason = Reason(row[7] as String) else {
                    throw OutboxError(.corrupt, "a dead letter is damaged")
                }
                letters.append(
                    DeadLetter(entry: entry, reason: reason, refusedAt: Timestamp(nanoseconds: row[8])))
            }
            return letters
        }
    }

    // MARK: Errors

    private static func translate(_ error: any Error, _ path: String) -> OutboxError {
        if let error = error as? OutboxError { return error }
        guard let error = error as? DatabaseError else { return OutboxError(.io, "\(path): \(error)") }
        let message = error.message ?? "SQLite error \(error.resultCode.rawValue)"
        switch error.resultCode {
        case .SQLITE_FULL:
            return OutboxError(.full, "\(path) cannot grow: the disk is full; make room, nothing is lost meanwhile")
        case .SQLITE_CORRUPT, .SQLITE_NOTADB:
            return OutboxError(.corrupt, "\(path) is damaged: \(message)")
        case .SQLITE_CONSTRAINT:
            return OutboxError(.conflict, "\(path): \(message)")
        case .SQLITE_BUSY, .SQLITE_LOCKED:
            return OutboxError(.locked, "\(path) is used by another process")
        default:
            return OutboxError(.io, "\(path): \(message)")
        }
    }
}

extension StreamID {
    fileprivate var stored: Int64 { Int64(bitPattern: self.rawValue) }

    fileprivate init(stored: Int64) { self.init(rawValue: UInt64(bitPattern: stored)) }
}

extension OutboxEntry {
    /// From the columns position, stream, sequence, id, readings, signed_at, bytes.
    fileprivate init?(_ row: Row) {
        guard let id = MessageID(row[3] as Data) else { return nil }
        self.init(
            order: row[0], stream: StreamID(stored: row[1]), sequence: row[2], id: id, readings: row[4],
            signedAt: Timestamp(nanoseconds: row[5]), bytes: [UInt8](row[6] as Data))
    }
}

extension OutboxState {
    fileprivate init?(_ row: Row) {
        guard let lastID = MessageID(row["last_id"] as Data), let first = MessageID(row["first_previous"] as Data)
        else { return nil }
        self.init(stream: StreamID(stored: row["stream"]), previous: first, nextOrder: row["next_order"])
        self.lastSequence = row["last_sequence"]
        self.lastID = lastID
        self.firstOrder = row["first_order"]
        self.resignBefore = row["resign_before"]
        if let stream: Int64 = row["head_stream"], let id = (row["head_id"] as Data?).flatMap({ MessageID($0) }) {
            self.receiptedHead = StreamHead(
                stream: StreamID(stored: stream), sequence: row["head_sequence"], id: id, order: row["head_order"])
        }
        self.source = (row["source"] as Data?).map { SourcePosition(bytes: [UInt8]($0)) }
        self.lastReceiptAt = (row["last_receipt_at"] as Int64?).map { Timestamp(nanoseconds: $0) }
    }
}
