import Foundation
import GRDB
import MQTT
public import MQTTClient
import NIOCore
import Synchronization

/// A client's session in SQLite: WAL and `synchronous = FULL`, set, read back and insisted on, so that a commit has
/// reached the disk when it returns.
///
/// One file, `mqtt-session.sqlite`, in a directory of its own, which it keeps to one process.
public final class SQLiteSessionStore: ClientSessionStore {
    /// Why the store cannot be used: one line with what is wrong, where, and what to do.
    public struct Failure: Error, Hashable, Sendable, CustomStringConvertible {
        public let description: String
    }

    private let database: DatabaseQueue
    private let path: String
    private let lock: DirectoryLock

    /// Opens the store in a directory, or makes both. The directory is its owner's alone.
    ///
    /// - Throws: ``Failure``: used by another process, written by a newer version, not writable, damaged.
    public init(directory: String) throws(Failure) {
        self.path = directory + "/mqtt-session.sqlite"
        self.lock = try DirectoryLock(directory: directory)
        var configuration = Configuration()
        configuration.journalMode = .wal
        configuration.label = "mqtt-session"
        do {
            self.database = try DatabaseQueue(path: self.path, configuration: configuration)
            // Only now: when it turns WAL on, GRDB sets NORMAL.
            try self.database.writeWithoutTransaction { try $0.execute(sql: "PRAGMA synchronous = FULL") }
            let migrator = Self.migrator
            guard try !self.database.read({ try migrator.hasBeenSuperseded($0) }) else {
                throw Failure(description: "\(self.path) was written by a newer version of this program; use that one")
            }
            try migrator.migrate(self.database)
            try self.database.writeWithoutTransaction { database in
                guard try String.fetchOne(database, sql: "PRAGMA journal_mode") == "wal",
                    try Int.fetchOne(database, sql: "PRAGMA synchronous") == 2
                else {
                    throw Failure(
                        description:
                            "\(self.path) cannot be kept durable: SQLite refuses WAL or synchronous = FULL")
                }
            }
            chmod(self.path, 0o600)
        } catch let error as Failure {
            throw error
        } catch {
            throw Failure(description: "\(self.path): \(error)")
        }
    }

    private static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("v1") { database in
            try database.execute(
                sql: """
                    CREATE TABLE session (
                        id INTEGER PRIMARY KEY CHECK (id = 1), client_id TEXT NOT NULL, has_begun INTEGER NOT NULL
                    ) STRICT;
                    CREATE TABLE message (
                        number INTEGER PRIMARY KEY, packet_id INTEGER, is_released INTEGER NOT NULL DEFAULT 0,
                        packet BLOB NOT NULL
                    ) STRICT;
                    CREATE TABLE received (packet_id INTEGER PRIMARY KEY) STRICT;
                    """)
        }
        return migrator
    }

    public func load(clientID: String) throws -> StoredSession {
        try self.database.write { database in
            let row = try Row.fetchOne(database, sql: "SELECT client_id, has_begun FROM session")
            if let row, row["client_id"] as String != clientID {
                throw Failure(
                    description: "\(self.path) holds the session of client \(row["client_id"] as String), "
                        + "not of \(clientID); give each client a directory of its own")
            }
            if row == nil {
                try database.execute(
                    sql: "INSERT INTO session (id, client_id, has_begun) VALUES (1, ?, 0)", arguments: [clientID])
            }
            var session = StoredSession()
            session.hasBegun = row?["has_begun"] ?? false
            let messages = try Row.fetchCursor(database, sql: "SELECT * FROM message ORDER BY number")
            while let row = try messages.next() {
                session.messages.append(
                    StoredSession.Message(
                        number: UInt64(bitPattern: row["number"] as Int64), message: try self.decode(row["packet"]),
                        packetID: (row["packet_id"] as Int64?).map { UInt16(truncatingIfNeeded: $0) },
                        isReleased: row["is_released"]))
            }
            session.received = Set(
                try Int64.fetchAll(database, sql: "SELECT packet_id FROM received")
                    .map { UInt16(truncatingIfNeeded: $0) })
            return session
        }
    }

    public func commit(_ changes: [SessionChange]) throws {
        do {
            try self.database.write { database in
                for change in changes { try self.apply(change, to: database) }
            }
        } catch {
            throw (error as? Failure) ?? Failure(description: "\(self.path): \(error)")
        }
    }

    private func apply(_ change: SessionChange, to database: Database) throws {
        func execute(_ sql: String, _ arguments: StatementArguments = []) throws {
            try database.cachedStatement(sql: sql).execute(arguments: arguments)
        }
        switch change {
        case .began:
            try execute("UPDATE session SET has_begun = 1")
            try execute("UPDATE message SET packet_id = NULL WHERE packet_id IS NOT NULL")
            try execute("DELETE FROM received")
        case .accepted(let number, let message):
            try execute(
                "INSERT INTO message (number, packet) VALUES (?, ?)",
                [Int64(bitPattern: number), try Self.encode(message)])
        case .sending(let number, let packetID):
            try execute(
                "UPDATE message SET packet_id = ? WHERE number = ?", [Int64(packetID), Int64(bitPattern: number)])
        case .released(let number):
            try execute("UPDATE message SET is_released = 1 WHERE number = ?", [Int64(bitPattern: number)])
        case .finished(let number):
            try execute("DELETE FROM message WHERE number = ?", [Int64(bitPattern: number)])
        case .received(let packetID):
            try execute("INSERT OR IGNORE INTO received (packet_id) VALUES (?)", [Int64(packetID)])
        case .completed(let packetID):
            try execute("DELETE FROM received WHERE packet_id = ?", [Int64(packetID)])
        }
    }

    // A message is kept as the packet that would carry it: that encoding is tested, bounded, and has all fields.

    private static func encode(_ message: OutgoingMessage) throws -> Data {
        var buffer = ByteBuffer()
        try Publish(
            topic: message.topic, payload: message.payload, qos: message.qos, retain: message.retain, packetID: 1,
            properties: message.properties.wire
        ).encode(into: &buffer, version: .v5_0)
        return Data(buffer.readableBytesView)
    }

    private func decode(_ data: Data) throws -> OutgoingMessage {
        var decoder = PacketDecoder(sender: .client, version: .v5_0, maximumPacketSize: 268_435_460)
        decoder.append(ByteBuffer(bytes: data))
        guard case .publish(let publish) = try decoder.next(), decoder.bufferedBytes == 0 else {
            throw Failure(description: "\(self.path) is damaged: a message is no PUBLISH")
        }
        return OutgoingMessage(
            topic: publish.topic, payload: publish.payload, qos: publish.qos, retain: publish.retain,
            properties: MessageProperties(wire: publish.properties))
    }
}

/// Keeps a directory to one process: an advisory lock (`flock`) on the file `lock` in it, released by the kernel
/// when the process ends, however it ends.
private final class DirectoryLock: Sendable {
    private let descriptor: Int32

    init(directory: String) throws(SQLiteSessionStore.Failure) {
        do {
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        } catch {
            throw SQLiteSessionStore.Failure(description: "\(directory) cannot be made: \(error.localizedDescription)")
        }
        let path = directory + "/lock"
        self.descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard self.descriptor >= 0 else {
            throw SQLiteSessionStore.Failure(description: "\(path): \(String(cString: strerror(errno)))")
        }
        guard flock(self.descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(self.descriptor)
            throw SQLiteSessionStore.Failure(
                description: "\(directory) is used by another process; give each client a directory of its own")
        }
    }

    deinit { close(self.descriptor) }
}
