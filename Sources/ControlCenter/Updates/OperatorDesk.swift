import Foundation
import GRDB
public import Identity
import Storage
public import Telemetry

/// How an operator acts on a control center's auditors, whether the control center runs at the moment or not: what is
/// asked for is a row of its store, with who asked, and a running control center takes it up within a second.
///
/// Whoever may write the store's file is an operator: the file's owner and rights are the gate.
public struct OperatorDesk: Sendable {
    private let database: DatabaseQueue
    private let path: String

    /// - Parameter path: the database file.
    /// - Throws: ``ControlCenterError`` with code `state-unusable` if it is not there or cannot be written,
    ///   `store-damaged` if it is not a control center's, or of another version.
    public init(path: String) throws(ControlCenterError) {
        guard FileManager.default.fileExists(atPath: path) else {
            throw ControlCenterError(
                .stateUnusable, "\(path) does not exist: it is made when the control center first runs")
        }
        self.path = path
        do {
            var configuration = Configuration()
            configuration.busyMode = .timeout(5)
            let database = try DatabaseQueue(path: path, configuration: configuration)
            try database.writeWithoutTransaction { db in
                guard try Int.fetchOne(db, sql: "PRAGMA application_id") == Schema.applicationID else {
                    throw ControlCenterError(.storeDamaged, "\(path) is not a control center's database")
                }
                guard try Schema.migrator.hasCompletedMigrations(db), try !Schema.migrator.hasBeenSuperseded(db) else {
                    throw ControlCenterError(
                        .storeDamaged, "\(path) is of another version of secure-mqtt: start that control center first")
                }
                // What is asked for is as durable as all else.
                try db.execute(sql: "PRAGMA synchronous = FULL")
            }
            self.database = database
        } catch let error as ControlCenterError {
            throw error
        } catch let error as DatabaseError where error.resultCode == .SQLITE_NOTADB {
            throw ControlCenterError(.storeDamaged, "\(path) is not a control center's database")
        } catch {
            throw ControlCenterError(
                .stateUnusable,
                "cannot open \(path): \(Self.message(error)); act as the user that the control center runs as"
            )
        }
    }

    private static func message(_ error: any Error) -> String { (error as? DatabaseError)?.message ?? "\(error)" }

    private func write<Value>(_ body: (Database) throws -> Value) throws(ControlCenterError) -> Value {
        do {
            return try self.database.write(body)
        } catch let error as ControlCenterError {
            throw error
        } catch {
            throw ControlCenterError(
                .stateUnusable,
                "cannot write \(self.path): \(Self.message(error)); act as the user that the control center runs as"
            )
        }
    }

    private func read<Value>(_ body: (Database) throws -> Value) throws(ControlCenterError) -> Value {
        do {
            return try self.database.read(body)
        } catch {
            throw ControlCenterStore.failed(error)
        }
    }

    /// Whether a control center has this store open.
    public var isControlCenterRunning: Bool {
        StateLock.isHeld(directory: self.path.lastIndex(of: "/").map { String(self.path[..<$0]) } ?? ".")
    }

    /// Every auditor that has said hello, by its ID.
    public func auditors() throws(ControlCenterError) -> [SPIFFEID] {
        try self.read { db in try String.fetchAll(db, sql: "SELECT spiffe FROM auditor ORDER BY id") }
            .compactMap { try? SPIFFEID($0) }
    }

    // MARK: Updates

    /// Puts one update for each auditor into the queue, under a common batch. Older ones for the same parameter that are
    /// not answered end by that, so that none is applied behind it.
    ///
    /// - Parameters:
    ///   - name: how the operator calls them together.
    ///   - operatorID: who asks.
    /// - Returns: their numbers.
    /// - Throws: ``ControlCenterError`` with code `state-unusable`; nothing is asked for then. A value that no update can
    ///   have is `store-damaged`.
    @discardableResult
    public func ask(
        _ parameter: Topic.Parameter, _ value: ParameterValue, unit: String?, of auditors: [SPIFFEID],
        name: String? = nil, expires: Timestamp, by operatorID: String, at now: Timestamp,
        random: inout some RandomNumberGenerator
    ) throws(ControlCenterError) -> [Int64] {
        if let flaw = value.flaw { throw ControlCenterError(.storeDamaged, "\(parameter): \(flaw)") }
        let batch = Data(Nonce(using: &random).bytes)
        return try self.write { db in
            try auditors.map { auditor in
                try db.execute(
                    sql: """
                        INSERT INTO update_request
                            (batch, name, auditor, parameter, value, unit, asked, asked_by, expires, state)
                        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued')
                        """,
                    arguments: [
                        batch, name, auditor.rawValue, parameter.rawValue, Data(value.encoded), unit, now.nanoseconds,
                        operatorID, expires.nanoseconds,
                    ])
                let number = db.lastInsertedRowID
                try db.execute(
                    sql: """
                        UPDATE update_request SET state = 'superseded', finished = ?, reason = ?
                        WHERE auditor = ? AND parameter = ? AND state IN ('queued', 'sent') AND number < ?
                        """,
                    arguments: [
                        now.nanoseconds, "superseded by \(number)", auditor.rawValue, parameter.rawValue, number,
                    ])
                return number
            }
        }
    }

    /// Takes an update back that is not answered. One that an auditor has got already may still be applied, and is
    /// shown as applied then.
    ///
    /// - Returns: whether there was such an update.
    public func cancel(_ number: Int64, by operatorID: String, at now: Timestamp) throws(ControlCenterError) -> Bool {
        try self.write { db in
            try db.execute(
                sql: """
                    UPDATE update_request SET state = 'cancelled', finished = ?, reason = ?
                    WHERE number = ? AND state IN ('queued', 'sent')
                    """, arguments: [now.nanoseconds, "cancelled by \(operatorID)", number])
            return db.changesCount > 0
        }
    }

    /// The newest updates last.
    public func updates(limit: Int) throws(ControlCenterError) -> [StoredUpdate] {
        try self.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT * FROM (SELECT update_request.*,
                        (SELECT lower(hex(id)) FROM update_message WHERE request = number ORDER BY sequence DESC LIMIT 1) AS id,
                        (SELECT max(result) FROM update_message WHERE request = number) AS result
                        FROM update_request ORDER BY number DESC LIMIT ?) ORDER BY number
                    """, arguments: [limit]
            ).compactMap(StoredUpdate.init)
        }
    }

    /// The newest updates in the original's form last. They are ordered by ``StoreClerk``; nothing answers them.
    public func liCoreUpdates(limit: Int) throws(ControlCenterError) -> [StoredLiCoreUpdate] {
        try self.read { db in
            try Row.fetchAll(
                db,
                sql: "SELECT * FROM (SELECT * FROM licore_update ORDER BY number DESC LIMIT ?) ORDER BY number",
                arguments: [limit]
            ).map(StoredLiCoreUpdate.init)
        }
    }

    // MARK: Alerts

    /// Has an alert sent to one auditor, or to all.
    @discardableResult
    public func send(
        _ alert: Alert, to auditor: SPIFFEID?, expires: Timestamp, by operatorID: String, at now: Timestamp
    ) throws(ControlCenterError) -> Int64 {
        try self.write { db in
            try db.execute(
                sql: """
                    INSERT INTO outgoing_alert (target, word, text, is_raised, asked, asked_by, expires)
                    VALUES (?, ?, ?, ?, ?, ?, ?)
                    """,
                arguments: [
                    auditor?.rawValue ?? "", alert.word.rawValue, alert.text, alert.isRaised, now.nanoseconds,
                    operatorID, expires.nanoseconds,
                ])
            return db.lastInsertedRowID
        }
    }

    /// The newest alerts last.
    ///
    /// - Parameter isOpen: only those that are not cleared.
    public func alerts(isOpen: Bool, limit: Int) throws(ControlCenterError) -> [StoredAlert] {
        try self.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT * FROM (SELECT * FROM alert WHERE cleared IS NULL OR NOT ? ORDER BY number DESC LIMIT ?)
                    ORDER BY number
                    """, arguments: [isOpen, limit]
            ).map(StoredAlert.init)
        }
    }

    /// The newest alerts that auditors have sent, the newest last.
    public func auditorAlerts(limit: Int) throws(ControlCenterError) -> [StoredAuditorAlert] {
        try self.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT * FROM (
                        SELECT auditor_alert.*, auditor.id AS name FROM auditor_alert
                        JOIN auditor ON auditor.number = auditor_alert.auditor ORDER BY auditor_alert.number DESC LIMIT ?
                    ) ORDER BY number
                    """, arguments: [limit]
            ).map(StoredAuditorAlert.init)
        }
    }

    /// An operator knows that an alert is over, or that what it is about is gone. If it is not, what comes new of it
    /// raises it again.
    ///
    /// - Returns: whether there was such an alert that was not cleared.
    public func close(_ number: Int64, by operatorID: String, at now: Timestamp) throws(ControlCenterError) -> Bool {
        try self.write { db in
            try db.execute(
                sql: """
                    UPDATE alert SET cleared = ?1, acknowledged = coalesce(acknowledged, ?1),
                        acknowledged_by = coalesce(acknowledged_by, ?2) WHERE number = ?3 AND cleared IS NULL
                    """, arguments: [now.nanoseconds, operatorID, number])
            return db.changesCount > 0
        }
    }

    /// An operator has seen an alert.
    ///
    /// - Returns: whether there was such an alert that nobody had acknowledged.
    public func acknowledge(_ number: Int64, by operatorID: String, at now: Timestamp) throws(ControlCenterError)
        -> Bool
    {
        try self.write { db in
            try db.execute(
                sql: "UPDATE alert SET acknowledged = ?, acknowledged_by = ? WHERE number = ? AND acknowledged IS NULL",
                arguments: [now.nanoseconds, operatorID, number])
            return db.changesCount > 0
        }
    }
}

/// An update as the queue has it.
public struct StoredUpdate: Hashable, Sendable {
    public var number: Int64
    /// 32 hexadecimal digits.
    public var batch: String
    public var name: String?
    public var auditor: SPIFFEID
    public var parameter: String
    public var value: String
    public var unit: String?
    public var asked: Timestamp
    public var askedBy: String
    public var expires: Timestamp
    /// queued, sent, applied, refused, expired, superseded, cancelled.
    public var state: String
    public var sent: Timestamp?
    public var finished: Timestamp?
    public var reason: String?
    public var valueNow: String?
    /// The id of its newest signed form, 64 hexadecimal digits.
    public var id: String?
    /// The leaf index of the newest result about it.
    public var result: Int64?

    fileprivate init?(_ row: Row) {
        let batch: Data = row["batch"]
        let value: Data = row["value"]
        guard let auditor = try? SPIFFEID(row["auditor"] as String), let batch = Nonce(batch) else { return nil }
        self.number = row["number"]
        self.batch = batch.description
        self.name = row["name"]
        self.auditor = auditor
        self.parameter = row["parameter"]
        self.value = ParameterValue(encoded: [UInt8](value))?.description ?? "?"
        self.unit = row["unit"]
        self.asked = Timestamp(nanoseconds: row["asked"])
        self.askedBy = row["asked_by"]
        self.expires = Timestamp(nanoseconds: row["expires"])
        self.state = row["state"]
        self.sent = (row["sent"] as Int64?).map { Timestamp(nanoseconds: $0) }
        self.finished = (row["finished"] as Int64?).map { Timestamp(nanoseconds: $0) }
        self.reason = row["reason"]
        self.valueNow = row["value_now"]
        self.id = row["id"]
        self.result = row["result"]
    }
}

/// An update in the original's form.
public struct StoredLiCoreUpdate: Hashable, Sendable {
    /// Among those in the original's form.
    public var number: Int64
    public var auditor: String
    public var parameter: String
    public var value: String
    public var asked: Timestamp
    /// Nil for one of before this was recorded.
    public var askedBy: String?
    public var finished: Timestamp?
    /// `published`, or why not; nil while it waits.
    public var outcome: String?

    /// queued, published, refused.
    public var state: String {
        switch self.outcome {
        case nil: "queued"
        case "published": "published"
        default: "refused"
        }
    }

    /// Why it was not published.
    public var reason: String? { self.state == "refused" ? self.outcome : nil }

    fileprivate init(_ row: Row) {
        self.number = row["number"]
        self.auditor = row["auditor"]
        self.parameter = row["parameter"]
        self.value = row["value"]
        self.asked = Timestamp(nanoseconds: row["ordered"])
        self.askedBy = row["asked_by"]
        self.finished = (row["done"] as Int64?).map { Timestamp(nanoseconds: $0) }
        self.outcome = row["outcome"]
    }
}

/// What a rule has found.
public struct StoredAlert: Hashable, Sendable {
    public var number: Int64
    public var rule: String
    /// An ID, or `-`.
    public var auditor: String
    public var subject: String
    public var text: String
    public var raised: Timestamp
    public var acknowledged: Timestamp?
    public var acknowledgedBy: String?
    public var cleared: Timestamp?

    /// raised, acknowledged, cleared.
    public var state: String {
        self.cleared != nil ? "cleared" : self.acknowledged != nil ? "acknowledged" : "raised"
    }

    init(_ row: Row) {
        self.number = row["number"]
        self.rule = row["rule"]
        self.auditor = row["auditor"]
        self.subject = row["subject"]
        self.text = row["text"]
        self.raised = Timestamp(nanoseconds: row["raised"])
        self.acknowledged = (row["acknowledged"] as Int64?).map { Timestamp(nanoseconds: $0) }
        self.acknowledgedBy = row["acknowledged_by"]
        self.cleared = (row["cleared"] as Int64?).map { Timestamp(nanoseconds: $0) }
    }
}

/// What an auditor has told.
public struct StoredAuditorAlert: Hashable, Sendable {
    public var number: Int64
    public var auditor: String
    public var word: String
    public var text: String
    public var isRaised: Bool
    public var received: Timestamp

    init(_ row: Row) {
        self.number = row["number"]
        self.auditor = row["name"]
        self.word = row["word"]
        self.text = row["text"]
        self.isRaised = row["is_raised"]
        self.received = Timestamp(nanoseconds: row["received"])
    }
}
