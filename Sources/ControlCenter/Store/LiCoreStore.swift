// What the store keeps of the original's format beside readings: who was seen when, updates to be published, and the
// history of the original's database.

import Foundation
import GRDB
public import Identity
public import Telemetry

/// When a LiCore auditor was last heard of.
public struct LiCoreActivity: Hashable, Sendable {
    public var auditor: String
    /// When its newest reading was stored.
    public var lastSeen: Timestamp
    /// Readings stored.
    public var readings: Int64
}

/// An update in the original's form that waits to be signed and published.
public struct LiCoreOrder: Hashable, Sendable {
    public var number: Int64
    public var auditor: Identifier
    public var parameter: Topic.Parameter
    public var value: String
}

extension ControlCenterStore {
    /// Updates that wait, the oldest first; at most `limit`. One that cannot be read ends here: it holds up no other.
    func openLiCoreOrders(at now: Timestamp, limit: Int = 64) throws -> [LiCoreOrder] {
        var wrong: [Int64] = []
        let orders = try self.pool.read { db in
            try Row.fetchAll(
                db,
                sql:
                    "SELECT number, auditor, parameter, value FROM licore_update WHERE done IS NULL ORDER BY number LIMIT ?",
                arguments: [limit]
            ).compactMap { row -> LiCoreOrder? in
                let auditor: String = row["auditor"]
                let parameter: String = row["parameter"]
                guard let auditor = try? Identifier(auditor), let parameter = Topic.Parameter(parameter) else {
                    wrong.append(row["number"])
                    return nil
                }
                return LiCoreOrder(
                    number: row["number"], auditor: auditor, parameter: parameter, value: row["value"])
            }
        }
        for number in wrong { try self.closeLiCoreOrder(number, outcome: "it cannot be read", at: now) }
        return orders
    }

    /// Says what became of an update.
    func closeLiCoreOrder(_ number: Int64, outcome: String, at now: Timestamp) throws {
        try self.pool.write { db in
            try db.execute(
                sql: "UPDATE licore_update SET done = ?, outcome = ? WHERE number = ?",
                arguments: [now.nanoseconds, outcome, number])
        }
    }
}

extension StoreReader {
    /// When each LiCore auditor was last heard of; empty for a database of before this format was known.
    public func liCoreActivity() throws -> [LiCoreActivity] {
        try self.read { db in
            guard try db.tableExists("licore_activity") else { return [] }
            return try Row.fetchAll(
                db,
                sql: """
                    SELECT auditor.id AS auditor, last_seen, readings
                    FROM licore_activity JOIN auditor ON auditor.number = licore_activity.auditor ORDER BY 1
                    """
            ).map {
                LiCoreActivity(
                    auditor: $0["auditor"], lastSeen: Timestamp(nanoseconds: $0["last_seen"]), readings: $0["readings"])
            }
        }
    }
}

/// Writes into a control center's database from outside, a little at a time, also while the control center runs: only
/// into tables that are no part of what is verified.
public struct StoreClerk: Sendable {
    private let database: DatabaseQueue

    /// - Parameter path: the database file. If no control center holds it, it is brought up to date first.
    /// - Throws: ``ControlCenterError`` as ``ControlCenterStore/init(path:)``.
    public init(path: String) throws(ControlCenterError) {
        guard FileManager.default.fileExists(atPath: path) else {
            throw ControlCenterError(
                .stateUnusable, "\(path) does not exist: a control center makes it when it first starts")
        }
        do throws(ControlCenterError) {
            _ = try ControlCenterStore(path: path)
        } catch {
            // Whoever holds it has brought it up to date.
            guard error.code == .stateInUse else { throw error }
        }
        do {
            var configuration = Configuration()
            configuration.foreignKeysEnabled = false
            configuration.busyMode = .timeout(10)
            self.database = try DatabaseQueue(path: path, configuration: configuration)
            let isReady = try self.database.read { try $0.tableExists("licore_history") }
            guard isReady else {
                throw ControlCenterError(
                    .stateInUse, "\(path) is held by a control center of an older version: start it with this one")
            }
        } catch let error as ControlCenterError {
            throw error
        } catch {
            throw ControlCenterStore.failed(error)
        }
    }

    /// Orders an update in the original's form: the control center signs and publishes it, within two seconds if it runs.
    ///
    /// - Parameter operatorID: who asks.
    /// - Returns: its number.
    public func order(
        auditor: Identifier, parameter: Topic.Parameter, value: String, by operatorID: String, at now: Timestamp
    ) throws(ControlCenterError) -> Int64 {
        do {
            return try self.database.write { db in
                try db.execute(
                    sql:
                        "INSERT INTO licore_update (auditor, parameter, value, ordered, asked_by) VALUES (?, ?, ?, ?, ?)",
                    arguments: [auditor.rawValue, parameter.rawValue, value, now.nanoseconds, operatorID])
                return db.lastInsertedRowID
            }
        } catch {
            throw ControlCenterStore.failed(error)
        }
    }

    /// What became of an update; nil while it waits.
    public func outcome(of order: Int64) throws(ControlCenterError) -> String? {
        do {
            return try self.database.read { db in
                try String.fetchOne(db, sql: "SELECT outcome FROM licore_update WHERE number = ?", arguments: [order])
            }
        } catch {
            throw ControlCenterStore.failed(error)
        }
    }

    /// What an import did.
    public struct ImportReport: Hashable, Sendable {
        public var imported = 0
        /// Rows that were there already.
        public var known = 0
        /// Rows that are no readings: something is missing, or the type is neither 0 nor 1, or a text is too long.
        public var skipped = 0
        /// How the columns were understood: auditor, date, type, value.
        public var columns: [String] = []
        public var table = ""
    }

    /// Imports the table of readings of an original's database into the history, unverified. Importing again changes
    /// nothing.
    ///
    /// The original writes `measures (aud_id, measured_timestamp, measure_type, measure)`; other names for the same
    /// four columns are recognised.
    ///
    /// - Throws: ``ControlCenterError`` with code `store-damaged` for a file that is no such database, `store-failed`.
    public func importHistory(from path: String, at now: Timestamp) throws(ControlCenterError) -> ImportReport {
        do {
            var configuration = Configuration()
            configuration.readonly = true
            configuration.busyMode = .timeout(10)
            let original = try DatabaseQueue(path: path, configuration: configuration)
            return try original.read { try self.importHistory($0, path, now) }
        } catch let error as DatabaseError where error.resultCode == .SQLITE_NOTADB {
            throw ControlCenterError(.storeDamaged, "\(path) is not an SQLite database")
        } catch {
            throw ControlCenterStore.failed(error)
        }
    }

    private static let columnNames: [[String]] = [
        ["aud_id", "auditor_id", "auditor", "device", "device_id", "user_id", "id"],
        ["measured_timestamp", "timestamp", "datetime", "date", "time"],
        ["measure_type", "type"],
        ["measure", "value"],
    ]

    private func importHistory(_ original: Database, _ path: String, _ now: Timestamp) throws -> ImportReport {
        var report = ImportReport()
        guard try original.tableExists("measures") else {
            throw ControlCenterError(
                .storeDamaged, "\(path) has no table measures: is it the original's measures.sqlite3?")
        }
        report.table = "measures"
        let present = try original.columns(in: "measures").map(\.name)
        for names in Self.columnNames {
            guard let name = names.first(where: { name in present.contains { $0.lowercased() == name } }) else {
                throw ControlCenterError(
                    .storeDamaged,
                    "\(path): table measures has the columns \(present.joined(separator: ", ")), and none of "
                        + names.joined(separator: ", "))
            }
            report.columns.append(name)
        }
        let source = path.split(separator: "/").last.map(String.init) ?? path
        let list = report.columns.map { "\"\($0)\"" }.joined(separator: ", ")
        let rows = try Row.fetchCursor(original, sql: "SELECT \(list) FROM measures ORDER BY rowid")
        var isAtEnd = false
        while !isAtEnd {
            var rest: [[DatabaseValue]] = []
            while rest.count < 2_000 {
                guard let row = try rows.next() else {
                    isAtEnd = true
                    break
                }
                rest.append(Array(row.databaseValues))
            }
            // Short transactions: a control center that runs commits between them.
            try self.database.write { db in
                let insert = try db.cachedStatement(
                    sql: """
                        INSERT OR IGNORE INTO licore_history (auditor, date, kind, value, source, imported)
                        VALUES (?, ?, ?, ?, ?, ?)
                        """)
                for row in rest {
                    guard let auditor = Self.text(row[0]), let date = Self.text(row[1]), let kind = Self.text(row[2]),
                        kind == "0" || kind == "1", let value = Self.text(row[3]), Double(value) != nil
                    else {
                        report.skipped += 1
                        continue
                    }
                    try insert.execute(
                        arguments: [auditor, date, kind == "0" ? 0 : 1, value, source, now.seconds])
                    if db.changesCount > 0 { report.imported += 1 } else { report.known += 1 }
                }
            }
        }
        return report
    }

    /// A value as text, a double with the digits that name it and no other; nil if there is none or it is too long.
    private static func text(_ value: DatabaseValue) -> String? {
        switch value.storage {
        case .null, .blob: nil
        case .int64(let number): String(number)
        case .double(let number): number.isFinite ? "\(number)" : nil
        case .string(let text): (1...64).contains(text.utf8.count) ? text : nil
        }
    }
}
