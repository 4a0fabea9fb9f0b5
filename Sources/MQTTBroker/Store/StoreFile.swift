// On Linux the fields of `stat` belong to this module once Foundation is linked.
import CoreFoundation
import Foundation
import GRDB
import Storage

/// The database of the broker's sessions as a file: made, examined and opened.
///
/// It is made aside, complete, and then renamed, so that a file of its name is never half made: an empty one is a
/// damaged one. A foreign file is recognised by its first bytes and never opened by SQLite, which could change it.
enum StoreFile {
    /// Says that a file is ours: the application id of its header ("SMB1").
    static let applicationID: UInt32 = 0x534D_4231

    /// Of the tables, as `user_version`.
    static let version: UInt32 = 2

    static let help = "see docs/durable-sessions.md"

    // MARK: Opening

    /// - Throws: ``BrokerError`` with code `store-unusable`, `store-damaged`.
    static func open(_ path: String) throws(BrokerError) -> DatabaseQueue {
        do {
            if try !self.exists(path) { try self.make(path) }
            try self.requireOurs(path)
            try WriteAheadLog.requireWhole(path + "-wal")
            let database = try DatabaseQueue(path: path, configuration: self.configuration(wal: true))
            try database.writeWithoutTransaction { db in
                // Only now: when it turns WAL on, GRDB sets NORMAL, which may lose the last commits at power loss.
                try db.execute(sql: "PRAGMA synchronous = FULL")
                // A checkpoint syncs twice and copies pages: let more of them meet in one.
                try db.execute(sql: "PRAGMA wal_autocheckpoint = 2048")
                try db.execute(sql: "PRAGMA journal_size_limit = 67108864")
            }
            try self.requireVersion(database, path)
            try self.migrator.migrate(database)
            try self.requireDurability(database, path)
            try self.requireSoundness(database, path)
            return database
        } catch {
            throw self.opening(path, error)
        }
    }

    private static func configuration(wal: Bool) -> Configuration {
        var configuration = Configuration()
        configuration.foreignKeysEnabled = false
        configuration.label = "sessions"
        if wal { configuration.journalMode = .wal }
        configuration.prepareDatabase { db in
            // The file is ours alone: no shared memory beside it, and no reader that keeps the log from shrinking.
            try db.execute(sql: "PRAGMA locking_mode = EXCLUSIVE")
            try db.execute(sql: "PRAGMA cell_size_check = ON")
            // Heeded by a new file only: pages can be given back.
            try db.execute(sql: "PRAGMA auto_vacuum = INCREMENTAL")
        }
        return configuration
    }

    /// - Returns: whether there is a store, whatever state it is in.
    private static func exists(_ path: String) throws(BrokerError) -> Bool {
        var status = stat()
        if lstat(path, &status) == 0 {
            guard status.st_mode & S_IFMT == S_IFREG else {
                throw BrokerError(
                    .storeUnusable, "\(path) is not a regular file: give broker.store a folder of its own")
            }
            // For its owner alone, whatever it was copied from.
            guard status.st_mode & 0o077 == 0 || chmod(path, 0o600) == 0 else {
                throw self.system("cannot restrict", path)
            }
            return true
        }
        guard errno == ENOENT else { throw self.system("cannot examine", path) }
        for rest in ["-wal", "-journal"] where access(path + rest, F_OK) == 0 {
            throw BrokerError(
                .storeDamaged,
                "\(path)\(rest) is there and \(path) is not: put both back as they were, or move it away; \(self.help)")
        }
        return false
    }

    private static func make(_ path: String) throws {
        let aside = path + ".new"
        for rest in ["", "-journal", "-wal", "-shm"] { unlink(aside + rest) }
        let descriptor = Foundation.open(aside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw self.system("cannot make", path) }
        defer { close(descriptor) }
        guard fchmod(descriptor, 0o600) == 0 else { throw self.system("cannot make", path) }
        let database = try DatabaseQueue(path: aside, configuration: self.configuration(wal: false))
        try self.migrator.migrate(database)
        try database.close()
        guard fsync(descriptor) == 0, rename(aside, path) == 0 else { throw self.system("cannot make", path) }
        let folder = Foundation.open(self.folder(of: path), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw self.system("cannot open the folder of", path) }
        defer { close(folder) }
        guard fsync(folder) == 0 else { throw self.system("cannot sync the folder of", path) }
    }

    private static func folder(of path: String) -> String {
        path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    }

    /// By the file's header (SQLite's file format, section 1.3).
    private static func requireOurs(_ path: String) throws(BrokerError) {
        let descriptor = Foundation.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw self.system("cannot open", path) }
        defer { close(descriptor) }
        var header = [UInt8](repeating: 0, count: 100)
        guard read(descriptor, &header, 100) == 100 else {
            throw self.damaged(path, "it ends in its header")
        }
        guard header.starts(with: Array("SQLite format 3\0".utf8)) else {
            throw self.damaged(path, "it is no SQLite database, or its header is gone")
        }
        let mark = header[68..<72].reduce(0 as UInt32) { $0 << 8 | UInt32($1) }
        guard mark == self.applicationID else {
            throw BrokerError(
                .storeDamaged,
                "\(path) is a database of another program, or its header is damaged: give broker.store a folder of its own, or move the file away; \(self.help)"
            )
        }
    }

    private static func requireVersion(_ database: DatabaseQueue, _ path: String) throws {
        let version = try database.read { try Int.fetchOne($0, sql: "PRAGMA user_version") ?? 0 }
        let isNewer = try database.read { try self.migrator.hasBeenSuperseded($0) }
        guard version <= Int(self.version), !isNewer else {
            throw BrokerError(
                .storeDamaged,
                "\(path) was written by a newer version of secure-mqtt: use that one, or move the file away; \(self.help)"
            )
        }
    }

    private static func requireDurability(_ database: DatabaseQueue, _ path: String) throws {
        try database.writeWithoutTransaction { db in
            let synchronous = try Int.fetchOne(db, sql: "PRAGMA synchronous")
            let mode = try String.fetchOne(db, sql: "PRAGMA journal_mode")
            guard synchronous == 2, mode == "wal" else {
                throw BrokerError(
                    .storeUnusable,
                    "\(path) cannot be kept durable: synchronous = \(synchronous ?? -1) (2 is needed), journal_mode = \(mode ?? "?") (wal is needed)"
                )
            }
        }
    }

    /// Finds damage now, and not at the first session that meets it. All of it is read at the start anyway.
    private static func requireSoundness(_ database: DatabaseQueue, _ path: String) throws {
        let check = try database.read { try String.fetchOne($0, sql: "PRAGMA quick_check(1)") }
        guard check == "ok" else { throw self.damaged(path, check ?? "no answer to a check") }
    }

    // MARK: Tables

    /// Sessions and messages are named by the broker's numbers. Each row ends with a sum over its other columns,
    /// ``RowSum``: SQLite itself would not notice a changed byte inside of a row. No table has a second index.
    private static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { db in
            try db.execute(sql: "PRAGMA application_id = \(self.applicationID)")
            try db.execute(sql: "PRAGMA user_version = 1")
            try db.execute(
                sql: """
                    CREATE TABLE numbers (id INTEGER PRIMARY KEY, next INTEGER NOT NULL, sum INTEGER NOT NULL);
                    CREATE TABLE session (
                        number INTEGER PRIMARY KEY, spiffe TEXT NOT NULL, certificate BLOB NOT NULL,
                        client TEXT NOT NULL, expiry INTEGER NOT NULL, left_at INTEGER, will BLOB, sum INTEGER NOT NULL);
                    CREATE TABLE subscription (
                        session INTEGER NOT NULL, filter TEXT NOT NULL, packet BLOB NOT NULL, sum INTEGER NOT NULL,
                        PRIMARY KEY (session, filter)) WITHOUT ROWID;
                    CREATE TABLE message (
                        number INTEGER PRIMARY KEY, spiffe TEXT, certificate BLOB, expiry INTEGER,
                        packet BLOB NOT NULL, sum INTEGER NOT NULL);
                    CREATE TABLE delivery (
                        session INTEGER NOT NULL, place INTEGER NOT NULL, message INTEGER NOT NULL,
                        options INTEGER NOT NULL, subscriptions BLOB, packet_id INTEGER, sum INTEGER NOT NULL,
                        PRIMARY KEY (session, place)) WITHOUT ROWID;
                    CREATE TABLE received (
                        session INTEGER NOT NULL, packet_id INTEGER NOT NULL, sum INTEGER NOT NULL,
                        PRIMARY KEY (session, packet_id)) WITHOUT ROWID;
                    CREATE TABLE retained (
                        topic TEXT NOT NULL, message INTEGER NOT NULL, qos INTEGER NOT NULL, sum INTEGER NOT NULL,
                        PRIMARY KEY (topic)) WITHOUT ROWID;
                    """)
        }
        migrator.registerMigration("2") { db in
            try db.execute(sql: "PRAGMA user_version = 2")
            try db.execute(sql: "ALTER TABLE delivery ADD COLUMN share TEXT")
        }
        return migrator
    }

    // MARK: Errors

    static func damaged(_ path: String, _ detail: String) -> BrokerError {
        BrokerError(
            .storeDamaged,
            "\(path) is damaged (\(detail)): restore a copy, or move \(path)* away to begin without sessions; \(self.help)"
        )
    }

    private static func system(_ what: String, _ path: String) -> BrokerError {
        BrokerError(
            .storeUnusable, "\(what) \(path): \(String(cString: strerror(errno))); check owner, rights and free space")
    }

    private static func opening(_ path: String, _ error: any Error) -> BrokerError {
        if let error = error as? BrokerError { return error }
        guard let error = error as? DatabaseError else { return self.damaged(path, "\(error)") }
        let message = error.message ?? "SQLite error \(error.extendedResultCode.rawValue)"
        switch error.resultCode {
        case .SQLITE_BUSY, .SQLITE_LOCKED:
            return BrokerError(.storeInUse, "\(path) is open in another program: close it there")
        case .SQLITE_CANTOPEN, .SQLITE_PERM, .SQLITE_READONLY, .SQLITE_FULL, .SQLITE_AUTH:
            return BrokerError(.storeUnusable, "cannot open \(path): \(message); check owner, rights and free space")
        default:
            return self.damaged(path, message)
        }
    }
}

/// A sum over the columns of a row, by which a changed byte is noticed. Not against forgers: who may write the file
/// may compute it.
///
/// Each step is a bijection of what came before and of the word that is added, so no single change cancels out.
struct RowSum {
    private var value: UInt64

    /// - Parameter table: a letter of its own, so that no row of one table passes for one of another.
    init(_ table: Unicode.Scalar) { self.value = 0xCBF2_9CE4_8422_2325 ^ UInt64(table.value) }

    /// As it is stored.
    var stored: Int64 { Int64(bitPattern: self.value) }

    mutating func add(_ number: UInt64) {
        self.value = (self.value ^ number) &* 0x9E37_79B9_7F4A_7C15
        self.value ^= self.value >> 32
    }

    mutating func add(_ number: UInt64?) {
        self.add(number == nil ? 0 : 1 as UInt64)
        if let number { self.add(number) }
    }

    mutating func add(_ bytes: UnsafeRawBufferPointer?) {
        guard let bytes else { return self.add(UInt64.max) }
        self.add(UInt64(bytes.count))
        var offset = 0
        while offset + 8 <= bytes.count {
            self.add(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
            offset += 8
        }
        guard offset < bytes.count else { return }
        var word: UInt64 = 0
        for index in offset..<bytes.count { word = word << 8 | UInt64(bytes[index]) }
        self.add(word)
    }

    mutating func add(_ text: String) {
        var text = text
        text.withUTF8 { self.add(UnsafeRawBufferPointer($0)) }
    }
}
