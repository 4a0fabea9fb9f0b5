import Foundation
import GRDB
public import Identity
public import Telemetry

extension ControlCenterStore: UpdateStore {
    public func auditorsWithPendingUpdates() throws -> [SPIFFEID] {
        try self.pool.read { db in
            try String.fetchAll(
                db,
                sql: "SELECT DISTINCT auditor FROM update_request WHERE state IN ('queued', 'sent') ORDER BY auditor")
        }.compactMap { try? SPIFFEID($0) }
    }

    public func pendingUpdates(for auditor: SPIFFEID, at now: Timestamp) throws -> [PendingUpdate] {
        var unreadable: [Int64] = []
        let pending = try self.pool.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT number, parameter, value, unit, batch, expires FROM update_request
                    WHERE auditor = ? AND state IN ('queued', 'sent') ORDER BY number
                    """, arguments: [auditor.rawValue]
            ).compactMap { row -> PendingUpdate? in
                let value: Data = row["value"]
                let batch: Data = row["batch"]
                guard let parameter = Topic.Parameter(row["parameter"] as String),
                    let value = ParameterValue(encoded: [UInt8](value)), let batch = Nonce(batch)
                else {
                    unreadable.append(row["number"])
                    return nil
                }
                return PendingUpdate(
                    number: row["number"], auditor: auditor, parameter: parameter, value: value, unit: row["unit"],
                    batch: batch, expires: Timestamp(nanoseconds: row["expires"]))
            }
        }
        for number in unreadable { try self.refuse(number, "format: no value that an update can have", at: now) }
        return pending
    }

    public func refuse(_ number: Int64, _ reason: String, at now: Timestamp) throws {
        try self.pool.write { db in
            try db.execute(
                sql: """
                    UPDATE update_request SET state = 'refused', finished = ?, reason = ?
                    WHERE number = ? AND state IN ('queued', 'sent')
                    """, arguments: [now.nanoseconds, reason, number])
        }
    }

    public func lastUpdateSequence(for auditor: SPIFFEID) throws -> Int64 {
        try self.pool.read { db in try Self.lastNumber(db, target: auditor.rawValue) }
    }

    static func lastNumber(_ db: Database, target: String) throws -> Int64 {
        try Int64.fetchOne(db, sql: "SELECT last FROM outgoing_number WHERE target = ?", arguments: [target]) ?? 0
    }

    static func useNumber(_ db: Database, target: String, _ number: Int64) throws {
        try db.execute(
            sql:
                "INSERT INTO outgoing_number (target, last) VALUES (?1, ?2) ON CONFLICT (target) DO UPDATE SET last = ?2",
            arguments: [target, number])
    }

    public func record(_ updates: [SignedUpdate]) throws {
        try self.pool.write { db in
            for update in updates {
                try db.execute(
                    sql:
                        "INSERT INTO update_message (id, request, sequence, nonce, signed, bytes) VALUES (?, ?, ?, ?, ?, ?)",
                    arguments: [
                        Data(update.message.id.bytes), update.request, update.sequence, Data(update.nonce.bytes),
                        update.signedAt.nanoseconds, Data(update.message.bytes),
                    ])
                try db.execute(
                    sql: """
                        UPDATE update_request SET state = 'sent', sent = ? WHERE number = ? AND state IN ('queued', 'sent')
                        """, arguments: [update.signedAt.nanoseconds, update.request])
                try Self.useNumber(db, target: update.auditor.rawValue, update.sequence)
            }
        }
    }

    public func expireUpdates(at now: Timestamp) throws {
        // Looked at first: a transaction without a reason would wake the disk four times a second.
        let isDue = try self.pool.read { db in
            try Bool.fetchOne(
                db,
                sql: "SELECT EXISTS (SELECT 1 FROM update_request WHERE state IN ('queued', 'sent') AND expires <= ?)",
                arguments: [now.nanoseconds]) ?? false
        }
        guard isDue else { return }
        try self.pool.write { db in
            try db.execute(
                sql: """
                    UPDATE update_request SET state = 'expired', finished = ?1
                    WHERE state IN ('queued', 'sent') AND expires <= ?1
                    """, arguments: [now.nanoseconds])
        }
    }

    /// Results that were stored since the last call are linked to what they answer.
    ///
    /// - Returns: Whether there may be more, and the forms that were refused because of their connection only.
    func linkResults(at now: Timestamp) throws -> (isMore: Bool, late: [(id: MessageID, auditor: SPIFFEID)]) {
        let limit = 256
        let rows = try self.pool.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT statement.leaf_index AS leaf, auditor.spiffe AS auditor, statement.bytes AS bytes
                    FROM statement JOIN auditor ON auditor.number = statement.auditor
                    WHERE kind = 'result' AND leaf_index > coalesce((SELECT position FROM cursor WHERE name = 'results'), 0)
                    ORDER BY leaf_index LIMIT ?
                    """, arguments: [limit])
        }
        guard let last: Int64 = rows.last?["leaf"] else { return (false, []) }
        var late: [(id: MessageID, auditor: SPIFFEID)] = []
        try self.pool.write { db in
            for row in rows {
                let bytes: Data = row["bytes"]
                guard let result = (try? Envelope.decode([UInt8](bytes)))?.result else { continue }
                try Self.link(db, result, of: row["auditor"], leaf: row["leaf"], at: now)
                if result.isOnlyLate, let auditor = try? SPIFFEID(row["auditor"] as String) {
                    late.append((result.update, auditor))
                }
            }
            try Self.moveCursor(db, "results", to: last)
        }
        return (rows.count == limit, late)
    }

    private static func link(
        _ db: Database, _ result: UpdateResult, of auditor: String, leaf: Int64, at now: Timestamp
    ) throws {
        let id = Data(result.update.bytes)
        let form = try Row.fetchOne(
            db,
            sql: """
                SELECT update_request.number AS number, update_request.auditor AS auditor
                FROM update_message JOIN update_request ON update_request.number = update_message.request
                WHERE update_message.id = ?
                """, arguments: [id])
        guard let form else {
            // An alert that was shown, or something that was never ours.
            try db.execute(
                sql: """
                    INSERT OR IGNORE INTO outgoing_alert_shown (alert, auditor, result)
                    SELECT number, ?, ? FROM outgoing_alert WHERE id = ? AND target IN ('', ?)
                    """, arguments: [auditor, leaf, id, auditor])
            return
        }
        // What another auditor says about it means nothing.
        guard form["auditor"] == auditor else { return }
        let number: Int64 = form["number"]
        try db.execute(sql: "UPDATE update_message SET result = ? WHERE id = ?", arguments: [leaf, id])
        if result.isApplied {
            try db.execute(
                sql: """
                    UPDATE update_request SET state = 'applied', finished = ?, reason = NULL, value_now = ?
                    WHERE number = ? AND state <> 'applied'
                    """, arguments: [now.nanoseconds, result.value?.description, number])
        } else if result.isOnlyLate {
            // Another form may be applied; until then this is why it was not.
            try db.execute(
                sql: "UPDATE update_request SET reason = ? WHERE number = ? AND state = 'sent'",
                arguments: [result.reason, number])
        } else {
            try db.execute(
                sql: """
                    UPDATE update_request SET state = 'refused', finished = ?, reason = ?, value_now = ?
                    WHERE number = ? AND state NOT IN ('applied', 'cancelled', 'superseded')
                    """, arguments: [now.nanoseconds, result.reason, result.value?.description, number])
        }
    }
}
