import Foundation
import GRDB
import Identity
import Telemetry

/// Alerts to auditors, in the store: signed once, sent again at each hello until the auditor's result says that it was
/// shown, or its time is over.
extension ControlCenterStore {
    struct WaitingAlert: Sendable {
        var number: Int64
        /// Nil for all.
        var target: SPIFFEID?
        var alert: Alert
        var expires: Timestamp
    }

    /// Those that are not signed yet. One that cannot be said, or that is for nobody, ends here: it holds up no other,
    /// and is not told to all instead.
    func unsignedAlerts(at now: Timestamp) throws -> [WaitingAlert] {
        var wrong: [Int64] = []
        let waiting = try self.pool.read { db in
            try Row.fetchAll(
                db, sql: "SELECT * FROM outgoing_alert WHERE id IS NULL AND expires > ? ORDER BY number LIMIT 64",
                arguments: [now.nanoseconds]
            ).compactMap { row -> WaitingAlert? in
                let text: String = row["target"]
                let target = try? SPIFFEID(text)
                guard let word = Reason(row["word"] as String), text.isEmpty || target != nil else {
                    wrong.append(row["number"])
                    return nil
                }
                return WaitingAlert(
                    number: row["number"], target: target,
                    alert: Alert(word, row["text"], isRaised: row["is_raised"]),
                    expires: Timestamp(nanoseconds: row["expires"]))
            }
        }
        if !wrong.isEmpty {
            try self.pool.write { db in
                for number in wrong {
                    try db.execute(
                        sql: "UPDATE outgoing_alert SET expires = ? WHERE number = ?",
                        arguments: [now.nanoseconds, number])
                }
            }
        }
        return waiting
    }

    /// Signs them, and notes them before any leaves.
    func sign(_ alerts: [WaitingAlert], at now: Timestamp, by signer: some Signer) throws -> [Outgoing] {
        try self.pool.write { db in
            var last = try Self.lastNumber(db, target: "")
            var outgoing: [Outgoing] = []
            for waiting in alerts {
                last = max(last + 1, now.nanoseconds / 1_000_000)
                let message = try waiting.alert.signed(
                    for: waiting.target, sequence: last, expires: waiting.expires, issuedAt: now, by: signer)
                try db.execute(
                    sql: "UPDATE outgoing_alert SET id = ?, bytes = ? WHERE number = ?",
                    arguments: [Data(message.id.bytes), Data(message.bytes), waiting.number])
                outgoing.append(
                    Outgoing(
                        topic: waiting.target.map { .alerts($0.id) } ?? .alertsToAll, bytes: message.bytes,
                        isRetained: false))
            }
            try Self.useNumber(db, target: "", last)
            return outgoing
        }
    }

    /// What an auditor has not shown yet.
    func unshownAlerts(of auditor: SPIFFEID, at now: Timestamp) throws -> [Outgoing] {
        try self.pool.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT target, bytes FROM outgoing_alert
                    WHERE id IS NOT NULL AND expires > ?1 AND target IN ('', ?2) AND NOT EXISTS (
                        SELECT 1 FROM outgoing_alert_shown
                        WHERE outgoing_alert_shown.alert = outgoing_alert.number AND auditor = ?2)
                    ORDER BY number LIMIT 64
                    """, arguments: [now.nanoseconds, auditor.rawValue]
            ).map { row in
                let target: String = row["target"]
                let bytes: Data = row["bytes"]
                return Outgoing(
                    topic: target.isEmpty ? .alertsToAll : .alerts(auditor.id), bytes: [UInt8](bytes), isRetained: false
                )
            }
        }
    }
}

extension ControlCenterStore {
    /// What a rule has found, for the auditor that it is about: into the queue of alerts, and told by that. What is about
    /// nobody who could verify it is not told to all instead.
    func queue(_ notification: Notification, at now: Timestamp) throws {
        let text = String(notification.alert.text.prefix(250))
        try self.pool.write { db in
            let target = try String.fetchOne(
                db, sql: "SELECT spiffe FROM auditor WHERE id = ?", arguments: [notification.alert.auditor])
            guard let target else {
                return try Self.settle(db, notification, error: "no auditor of this ID takes alerts", retry: nil)
            }
            try db.execute(
                sql: """
                    INSERT INTO outgoing_alert (target, word, text, is_raised, asked, asked_by, expires)
                    VALUES (?, ?, ?, ?, ?, 'rules', ?)
                    """,
                arguments: [
                    target, notification.alert.rule, text, notification.event == "raised", now.nanoseconds,
                    now.advanced(byNanoseconds: 86_400_000_000_000).nanoseconds,
                ])
            try Self.settle(db, notification, error: nil, retry: nil)
        }
    }
}
