import Foundation
import GRDB
import Storage
public import Telemetry

/// The control center's database: a ``LedgerStore`` in SQLite, in a state directory that one process holds.
///
/// WAL with `synchronous = FULL`: when ``commit(_:)`` returns, the batch is on disk. Others may read while it
/// runs: what they may rely on is the view `readings`.
public final class ControlCenterStore: LedgerStore, Sendable {
    /// The database's name in the state directory.
    public static let fileName = "control-center.sqlite3"

    /// The largest database that is checked as a whole when it is opened: 256 MiB.
    private static let checkedPages = 32_768

    let pool: DatabasePool
    private let lock: StateLock

    /// Opens, and makes if need be, the store of a state directory.
    ///
    /// - Throws: ``ControlCenterError`` with code `state-unusable`, `state-in-use`, `store-damaged`,
    ///   `not-durable`.
    public convenience init(directory: String) throws(ControlCenterError) {
        try self.init(path: directory + "/" + Self.fileName)
    }

    /// Opens, and makes if need be, a store. The folder that it is in becomes its state directory.
    ///
    /// - Throws: as ``init(directory:)``.
    public init(path: String) throws(ControlCenterError) {
        let directory = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
        do {
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o750])
        } catch {
            throw ControlCenterError(.stateUnusable, "cannot make the folder \(directory): \(error)")
        }
        do throws(StateLockError) {
            self.lock = try StateLock(directory: directory)
        } catch {
            throw ControlCenterError(error.code == .inUse ? .stateInUse : .stateUnusable, error.reason)
        }
        do {
            var configuration = Configuration()
            configuration.foreignKeysEnabled = false
            configuration.label = "control-center"
            // Statements have 300 bytes and more: larger pages are fewer writes. Only a new file heeds it.
            configuration.prepareDatabase { db in try db.execute(sql: "PRAGMA page_size = 8192") }
            // Others read, and now and then write, with tools of their own.
            configuration.busyMode = .timeout(5)
            self.pool = try DatabasePool(path: path, configuration: configuration)
            try Self.refuseForeign(self.pool, path: path)
            try self.pool.writeWithoutTransaction { db in
                // GRDB sets NORMAL for WAL, which may lose the last commits when the power fails.
                try db.execute(sql: "PRAGMA synchronous = FULL")
                // A checkpoint syncs twice and copies pages: let more of them meet in one.
                try db.execute(sql: "PRAGMA wal_autocheckpoint = 2048")
                try db.execute(sql: "PRAGMA journal_size_limit = 67108864")
            }
            try Schema.migrator.migrate(self.pool)
            try Self.requireDurability(self.pool, path: path)
        } catch let error as ControlCenterError {
            throw error
        } catch {
            throw Self.opening(path, error)
        }
    }

    private static func opening(_ path: String, _ error: any Error) -> ControlCenterError {
        guard let error = error as? DatabaseError else {
            return ControlCenterError(.storeDamaged, "cannot open \(path): \(error)")
        }
        switch error.resultCode {
        case .SQLITE_CANTOPEN, .SQLITE_PERM, .SQLITE_READONLY, .SQLITE_FULL, .SQLITE_AUTH:
            return ControlCenterError(
                .stateUnusable, "cannot open \(path): \(error.message ?? "unknown"); check owner, rights and free space"
            )
        default:
            return ControlCenterError(
                .storeDamaged,
                "\(path) is damaged or not a database of ours (\(error.message ?? "unknown")): "
                    + "move it away and restore a copy; auditors offer again what the copy lacks")
        }
    }

    /// A file that has tables but not our mark belongs to somebody else, or is of a later version.
    private static func refuseForeign(_ pool: DatabasePool, path: String) throws {
        try pool.read { db in
            let mark = try Int.fetchOne(db, sql: "PRAGMA application_id") ?? 0
            let tables = try Int.fetchOne(db, sql: "SELECT count(*) FROM sqlite_schema") ?? 0
            guard mark == Schema.applicationID || (mark == 0 && tables == 0) else {
                throw ControlCenterError(.storeDamaged, "\(path) is not a control center's database")
            }
            guard try !Schema.migrator.hasBeenSuperseded(db) else {
                throw ControlCenterError(
                    .storeDamaged, "\(path) was written by a newer version of secure-mqtt: use that one")
            }
            // Finds damage now, and not at the first statement that meets it; a large file would take too long.
            let pages = try Int.fetchOne(db, sql: "PRAGMA page_count") ?? 0
            guard pages <= Self.checkedPages else { return }
            let check = try String.fetchOne(db, sql: "PRAGMA quick_check(1)")
            guard check == "ok" else {
                throw ControlCenterError(
                    .storeDamaged, "\(path) is damaged (\(check ?? "no answer")): restore a copy")
            }
        }
    }

    private static func requireDurability(_ pool: DatabasePool, path: String) throws {
        try pool.writeWithoutTransaction { db in
            let synchronous = try Int.fetchOne(db, sql: "PRAGMA synchronous")
            let mode = try String.fetchOne(db, sql: "PRAGMA journal_mode")
            guard synchronous == 2, mode == "wal" else {
                throw ControlCenterError(
                    .notDurable,
                    "\(path): synchronous = \(synchronous ?? -1) (2 is needed), journal_mode = \(mode ?? "?") (wal is needed)"
                )
            }
        }
    }

    /// What `PRAGMA synchronous` says on the connection that writes: 2 is FULL.
    public var synchronous: Int {
        get throws {
            try self.access { db in try Int.fetchOne(db, sql: "PRAGMA synchronous") ?? -1 }
        }
    }

    /// Limits the size of the database, in pages of 8,192 bytes, as a full disk does.
    package func limitSize(pages: Int) throws {
        try self.access { db in _ = try Int.fetchOne(db, sql: "PRAGMA max_page_count = \(pages)") }
    }

    /// The size of the database in pages.
    package var pages: Int {
        get throws {
            try self.access { db in try Int.fetchOne(db, sql: "PRAGMA page_count") ?? 0 }
        }
    }

    /// Runs on the connection that writes: it sees every commit.
    private func access<R>(_ body: (Database) throws -> R) throws(ControlCenterError) -> R {
        do {
            return try self.pool.writeWithoutTransaction(body)
        } catch {
            throw Self.failed(error)
        }
    }

    static func failed(_ error: any Error) -> ControlCenterError {
        if let error = error as? ControlCenterError { return error }
        guard let error = error as? DatabaseError else { return ControlCenterError(.storeFailed, "\(error)") }
        switch error.resultCode {
        case .SQLITE_FULL:
            return ControlCenterError(.storeFailed, "the disk is full: make room, storing goes on by itself")
        case .SQLITE_CORRUPT, .SQLITE_NOTADB:
            return ControlCenterError(
                .storeDamaged, "the database is damaged (\(error.message ?? "unknown")): restore a copy")
        default:
            return ControlCenterError(
                .storeFailed, "the database cannot be written or read: \(error.message ?? "unknown")")
        }
    }

    // MARK: LedgerStore

    public func commit(_ batch: CommitBatch) throws {
        do {
            try self.pool.write { db in try BatchWriter(db).write(batch) }
        } catch {
            throw Self.failed(error)
        }
    }

    public func nextNumbers() throws -> NextNumbers {
        try self.access { db in
            func next(_ column: String, _ table: String) throws -> Int64 {
                (try Int64.fetchOne(db, sql: "SELECT max(\(column)) FROM \(table)") ?? 0) + 1
            }
            return NextNumbers(
                leafIndex: try next("leaf_index", "statement"), auditor: try next("number", "auditor"),
                stream: try next("number", "stream"), certificate: try next("number", "certificate"),
                series: try next("number", "series"))
        }
    }

    public func auditor(spiffeID: String) throws -> AuditorRecord? {
        try self.access { db in
            guard
                let row = try Row.fetchOne(
                    db, sql: "SELECT number, open_stream FROM auditor WHERE spiffe = ?", arguments: [spiffeID])
            else { return nil }
            let number: Int64 = row["number"]
            let open: Int64? = row["open_stream"]
            let pending =
                try Int.fetchOne(
                    db, sql: "SELECT count(*) FROM stream WHERE auditor = ? AND state = 0", arguments: [number]) ?? 0
            return AuditorRecord(
                number: number, spiffeID: spiffeID,
                open: try open.flatMap { try Self.stream(db, where: "number = ?", arguments: [$0]) },
                pendingStreams: pending)
        }
    }

    public func knowsAuditor(id: String) throws -> Bool {
        try self.access { db in
            try Bool.fetchOne(db, sql: "SELECT EXISTS (SELECT 1 FROM auditor WHERE id = ?)", arguments: [id]) ?? false
        }
    }

    public func stream(auditor: Int64, id: StreamID) throws -> StreamLedger? {
        try self.access { db in
            try Self.stream(db, where: "auditor = ? AND id = ?", arguments: [auditor, Data(id.bytes)])
        }
    }

    private static func stream(
        _ db: Database, where condition: String, arguments: StatementArguments
    ) throws -> StreamLedger? {
        let statement = try db.cachedStatement(sql: "SELECT * FROM stream WHERE \(condition)")
        guard let row = try Row.fetchOne(statement, arguments: arguments) else { return nil }
        let number: Int64 = row["number"]
        let runs = try Row.fetchAll(
            db.cachedStatement(sql: "SELECT first, last FROM run WHERE stream = ? ORDER BY first"),
            arguments: [number]
        ).compactMap { row -> ClosedRange<Int64>? in
            let first: Int64 = row["first"]
            let last: Int64 = row["last"]
            return first <= last ? first...last : nil
        }
        let id: Data = row["id"]
        let state: Int64 = row["state"]
        let headID: Data? = row["head_id"]
        let headSequence: Int64? = row["head_sequence"]
        let origin: Data? = row["origin"]
        guard let id = StreamID(id), let state = UInt8(exactly: state).flatMap(StreamLedger.State.init(rawValue:)),
            let held = RunSet(runs), held.newest == headSequence
        else {
            throw ControlCenterError(.storeDamaged, "stream \(number) contradicts itself: restore a copy")
        }
        var head: StreamLedger.Head?
        if let headSequence, let id = headID.flatMap({ MessageID($0) }) {
            head = StreamLedger.Head(sequence: headSequence, id: id)
        }
        var unconfirmed: ClosedRange<Int64>?
        if let from: Int64 = row["unconfirmed_from"], let to: Int64 = row["unconfirmed_to"], from <= to {
            unconfirmed = from...to
        }
        return StreamLedger(
            number: number, auditor: row["auditor"], id: id, state: state, held: held, head: head,
            origin: origin.flatMap { MessageID($0) }, disputedFrom: row["disputed_from"], unconfirmed: unconfirmed)
    }

    public func link(stream: Int64, sequence: Int64) throws -> StoredLink? {
        try self.access { db in
            let statement = try db.cachedStatement(
                sql: "SELECT id, bytes FROM statement WHERE stream = ? AND sequence = ?")
            guard let row = try Row.fetchOne(statement, arguments: [stream, sequence]) else { return nil }
            let id: Data = row["id"]
            let bytes: Data = row["bytes"]
            guard let id = MessageID(id), let previous = (try? Envelope.decode([UInt8](bytes)))?.position?.previous
            else {
                throw ControlCenterError(
                    .storeDamaged, "statement \(sequence) of stream \(stream) is not one: restore a copy")
            }
            return StoredLink(id: id, previous: previous)
        }
    }

    public func certificate(hash: [UInt8]) throws -> CertificateRecord? {
        try self.access { db in
            guard
                let row = try Row.fetchOne(
                    db, sql: "SELECT number, spiffe FROM certificate WHERE hash = ?", arguments: [Data(hash)])
            else { return nil }
            let number: Int64 = row["number"]
            let chain = try Data.fetchAll(
                db, sql: "SELECT der FROM certificate_chain WHERE certificate = ? ORDER BY position",
                arguments: [number])
            return CertificateRecord(number: number, spiffeID: row["spiffe"], chain: chain.map { [UInt8]($0) })
        }
    }

    public func series(auditor: Int64, meter: String, quantity: String, unit: String) throws -> Int64? {
        try self.access { db in
            try Int64.fetchOne(
                db, sql: "SELECT number FROM series WHERE auditor = ? AND meter = ? AND quantity = ? AND unit = ?",
                arguments: [auditor, meter, quantity, unit])
        }
    }

    public func measure(auditor: Int64, local: Int64, kind: UInt8) throws -> ExactDecimal? {
        try self.access { db in
            let statement = try db.cachedStatement(
                sql: "SELECT mantissa, exponent FROM licore_reading WHERE auditor = ? AND local = ? AND kind = ?")
            guard let row = try Row.fetchOne(statement, arguments: [auditor, local, Int64(kind)]) else { return nil }
            guard let value = ExactDecimal(mantissa: row["mantissa"], exponent: row["exponent"]) else {
                throw ControlCenterError(.storeDamaged, "a reading contradicts itself: restore a copy")
            }
            return value
        }
    }

    public func quarantineUse(claimed: String, reason: Reason) throws -> QuarantineUse {
        try self.access { db in
            let row = try Row.fetchOne(
                db,
                sql: """
                    SELECT count(*) AS rows, coalesce(sum(length(bytes)), 0) AS bytes
                    FROM quarantine WHERE claimed = ? AND reason = ?
                    """, arguments: [claimed, reason.description])
            return QuarantineUse(rows: row?["rows"] ?? 0, bytes: row?["bytes"] ?? 0)
        }
    }

    public func hasFork(stream: Int64, sequence: Int64, id: MessageID) throws -> Bool {
        try self.access { db in
            try Bool.fetchOne(
                db, sql: "SELECT EXISTS (SELECT 1 FROM fork WHERE stream = ? AND sequence = ? AND id = ?)",
                arguments: [stream, sequence, Data(id.bytes)]) ?? false
        }
    }

    public func forkCount(stream: Int64) throws -> Int {
        try self.access { db in
            try Int.fetchOne(db, sql: "SELECT count(*) FROM fork WHERE stream = ?", arguments: [stream]) ?? 0
        }
    }
}
