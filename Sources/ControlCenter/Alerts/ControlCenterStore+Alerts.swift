import Foundation
import GRDB
import Identity
import LiCore
import PKI
import Telemetry
import X509

/// What the watch reads of the store, and what it writes.
extension ControlCenterStore {
    /// How far the watch has read.
    struct WatchPosition: Hashable, Sendable {
        var statement: Int64 = 0
        var alarm: Int64 = 0
        var auditorAlert: Int64 = 0
        /// Of readings in the original's format: when the newest was stored, nanoseconds since 1970.
        var measure: Int64 = 0
    }

    /// Where the watch begins: where it ended, or at the end of what is stored if it never ran.
    func watchPosition() throws -> WatchPosition {
        try self.pool.read { db in
            func position(_ name: String, _ column: String, _ table: String) throws -> Int64 {
                try Int64.fetchOne(db, sql: "SELECT position FROM cursor WHERE name = ?", arguments: [name])
                    ?? Int64.fetchOne(db, sql: "SELECT max(\(column)) FROM \(table)") ?? 0
            }
            return WatchPosition(
                statement: try position("watch-statement", "leaf_index", "statement"),
                alarm: try position("watch-alarm", "number", "alarm"),
                auditorAlert: try position("watch-told", "number", "auditor_alert"),
                measure: try position("watch-measure", "received", "licore_reading"))
        }
    }

    /// Alerts that are raised and not cleared, and when each auditor was heard last.
    func watchMemory() throws -> (alerts: [StoredAlert], lastHeard: [(String, Timestamp)]) {
        try self.pool.read { db in
            let alerts = try Row.fetchAll(db, sql: "SELECT * FROM alert WHERE cleared IS NULL").map(StoredAlert.init)
            let heard = try Row.fetchAll(
                db,
                sql: """
                    SELECT auditor.id AS id, statement.received AS received FROM auditor
                    JOIN stream ON stream.number = auditor.open_stream
                    JOIN statement ON statement.stream = stream.number AND statement.sequence = stream.head_sequence
                    UNION ALL
                    SELECT auditor.id, last_seen FROM licore_activity
                    JOIN auditor ON auditor.number = licore_activity.auditor
                    """
            ).map { ($0["id"] as String, Timestamp(nanoseconds: $0["received"])) }
            return (alerts, heard)
        }
    }

    struct WatchEvents {
        var events: [(event: WatchEvent, at: Timestamp)] = []
        /// Whether there is more.
        var isBehind = false
    }

    /// The next events behind a position, which moves on.
    func watchEvents(after position: inout WatchPosition, limit: Int) throws -> WatchEvents {
        var next = position
        var count = 0
        let events = try self.pool.read { db -> [(event: WatchEvent, at: Timestamp)] in
            var events: [(event: WatchEvent, at: Timestamp)] = []
            let statements = try Row.fetchCursor(
                db,
                sql: """
                    SELECT leaf_index, auditor.id AS id, received, bytes FROM statement
                    JOIN auditor ON auditor.number = statement.auditor WHERE leaf_index > ? ORDER BY leaf_index LIMIT ?
                    """, arguments: [position.statement, limit])
            while let row = try statements.next() {
                next.statement = row["leaf_index"]
                count += 1
                let (auditor, bytes): (String, Data) = (row["id"], row["bytes"])
                let received = Timestamp(nanoseconds: row["received"])
                guard let envelope = try? Envelope.decode([UInt8](bytes)), let clock = envelope.clock else { continue }
                events.append((.heard(auditor: auditor, clock: clock, issuedAt: envelope.issuedAt), received))
                for reading in envelope.readings { events.append((.reading(auditor: auditor, reading), received)) }
                if let heartbeat = envelope.heartbeat {
                    events.append((.heartbeat(auditor: auditor, heartbeat), received))
                }
            }
            let alarms = try Row.fetchCursor(
                db, sql: "SELECT * FROM alarm WHERE number > ? ORDER BY number LIMIT ?",
                arguments: [position.alarm, limit])
            while let row = try alarms.next() {
                let number: Int64 = row["number"]
                next.alarm = number
                let auditor = (try? SPIFFEID(row["auditor"] as String))?.id.rawValue ?? Quarantine.unknown
                events.append(
                    (
                        .alarm(
                            auditor: auditor, kind: AlarmKind(row["kind"]), number: number, detail: row["detail"]),
                        Timestamp(nanoseconds: row["raised"])
                    ))
            }
            let told = try Row.fetchCursor(
                db,
                sql: """
                    SELECT auditor_alert.number AS number, auditor.id AS id, word, text, is_raised, received
                    FROM auditor_alert JOIN auditor ON auditor.number = auditor_alert.auditor
                    WHERE auditor_alert.number > ? AND NOT EXISTS (
                        -- One that a newer one has overtaken. An auditor whose clock was put back is heard after a minute.
                        SELECT 1 FROM auditor_alert AS newer
                        WHERE newer.number BETWEEN auditor_alert.number - 1000 AND auditor_alert.number - 1
                            AND newer.auditor = auditor_alert.auditor AND newer.word = auditor_alert.word
                            AND newer.sequence > auditor_alert.sequence
                            AND newer.received > auditor_alert.received - 60000000000)
                    ORDER BY auditor_alert.number LIMIT ?
                    """, arguments: [position.auditorAlert, limit])
            while let row = try told.next() {
                next.auditorAlert = row["number"]
                guard let word = Reason(row["word"] as String) else { continue }
                events.append(
                    (
                        .told(auditor: row["id"], Alert(word, row["text"], isRaised: row["is_raised"])),
                        Timestamp(nanoseconds: row["received"])
                    ))
            }
            events += try Self.measures(db, after: &next, limit: limit)
            return events
        }
        position = next
        return WatchEvents(events: events, isBehind: count == limit)
    }

    /// Readings in the original's format. They have no number: what was committed at one moment is read together. If
    /// the clock is put back, the rules see them again when it has caught up.
    private static func measures(
        _ db: Database, after position: inout WatchPosition, limit: Int
    ) throws -> [(event: WatchEvent, at: Timestamp)] {
        let end = try Int64.fetchOne(
            db,
            sql: """
                SELECT max(received) FROM (
                    SELECT received FROM licore_reading WHERE received > ? ORDER BY received LIMIT ?)
                """, arguments: [position.measure, limit])
        guard let end, let meter = try? MeterName("licore") else { return [] }
        let rows = try Row.fetchCursor(
            db,
            sql: """
                SELECT auditor.id AS id, kind, time, interval, mantissa, exponent, received FROM licore_reading
                JOIN auditor ON auditor.number = licore_reading.auditor WHERE received > ? AND received <= ?
                ORDER BY received, local
                """, arguments: [position.measure, end])
        var events: [(event: WatchEvent, at: Timestamp)] = []
        while let row = try rows.next() {
            guard let kind = Measure.Kind(rawValue: row["kind"]) else { continue }
            let reading = Reading(
                meter: meter, quantity: kind.quantity, unit: .kilowattHour,
                time: Timestamp(nanoseconds: row["time"]), interval: row["interval"],
                value: ExactDecimal(mantissa: row["mantissa"], exponent: row["exponent"]))
            events.append((.measure(auditor: row["id"], reading), Timestamp(nanoseconds: row["received"])))
        }
        position.measure = end
        return events
    }

    /// Refusals so far, by claimed ID: what only repeats or waits is none.
    func refusalCounts() throws -> [String: Int64] {
        try self.pool.read { db in
            let rows = try Row.fetchAll(
                db,
                sql: """
                    SELECT claimed, sum(count) AS count FROM counter
                    WHERE reason NOT IN ('duplicate', 'busy', 'certificate-unknown') GROUP BY claimed
                    """)
            return Dictionary(rows.map { ($0["claimed"], $0["count"]) }, uniquingKeysWith: { $1 })
        }
    }

    /// Numbers that are missing in streams that may still grow, by auditor; 0 for those that miss none. What is missing
    /// in a stream that is closed comes never.
    func missingCounts() throws -> [String: Int64] {
        try self.pool.read { db in
            let rows = try Row.fetchAll(
                db,
                sql: """
                    SELECT auditor.id AS id, coalesce(sum(missing), 0) AS missing FROM auditor LEFT JOIN (
                        SELECT stream.auditor AS owner, max(run.last) - sum(run.last - run.first + 1) AS missing
                        FROM run JOIN stream ON stream.number = run.stream WHERE stream.state <> 2 GROUP BY run.stream
                    ) ON owner = auditor.number GROUP BY auditor.number
                    """)
            return Dictionary(rows.map { ($0["id"], $0["missing"]) }, uniquingKeysWith: +)
        }
    }

    /// When the newest certificate of each auditor ends.
    func certificateEnds() throws -> [String: Timestamp] {
        try self.pool.read { db in
            var ends: [String: Timestamp] = [:]
            let rows = try Row.fetchCursor(
                db,
                sql: """
                    SELECT auditor.id AS id, der FROM certificate_chain
                    JOIN certificate ON certificate.number = certificate_chain.certificate
                    JOIN auditor ON auditor.spiffe = certificate.spiffe WHERE position = 0
                    """)
            while let row = try rows.next() {
                let (auditor, der): (String, Data) = (row["id"], row["der"])
                guard let certificate = try? Certificate(der: [UInt8](der)) else { continue }
                let end = Timestamp(seconds: Int64(certificate.notValidAfter.timeIntervalSince1970))
                ends[auditor] = max(ends[auditor] ?? end, end)
            }
            return ends
        }
    }

    /// What is raised, and whether operators have acknowledged it.
    func openAlerts() throws -> [(key: AlertKey, isAcknowledged: Bool)] {
        try self.pool.read { db in
            try Row.fetchAll(db, sql: "SELECT * FROM alert WHERE cleared IS NULL").compactMap { row in
                let alert = StoredAlert(row)
                return AlertKey(alert).map { ($0, alert.acknowledged != nil) }
            }
        }
    }

    /// So many missing numbers of each auditor are known to operators.
    func acceptedGaps() throws -> [String: Int64] {
        try self.pool.read { db in
            let rows = try Row.fetchAll(
                db, sql: "SELECT substr(name, 5) AS id, position FROM cursor WHERE name LIKE 'gap-%' AND position > 0")
            return Dictionary(rows.map { ($0["id"], $0["position"]) }, uniquingKeysWith: { $1 })
        }
    }

    /// Writes what the watch has found, what is to be told of it, how far it has read, and what operators know.
    func commit(
        _ changes: [AlertWatch.Change], channels: [String], position: WatchPosition, acceptedGaps: [String: Int64],
        former: [String: Int64], at now: Timestamp
    ) throws {
        let gaps = Set(acceptedGaps.keys).union(former.keys).filter { acceptedGaps[$0] != former[$0] }.map {
            ("gap-\($0)", acceptedGaps[$0] ?? 0)
        }
        try self.pool.write { db in
            for change in changes {
                let key = change.key
                if change.isRaised {
                    // One that was raised before the last crash is not raised again.
                    try db.execute(
                        sql:
                            "INSERT OR IGNORE INTO alert (rule, auditor, subject, text, raised) VALUES (?, ?, ?, ?, ?)",
                        arguments: [
                            key.rule.description, key.auditor, key.subject, change.text, now.nanoseconds,
                        ])
                } else {
                    try db.execute(
                        sql: """
                            UPDATE alert SET cleared = ? WHERE rule = ? AND auditor = ? AND subject = ? AND cleared IS NULL
                            """, arguments: [now.nanoseconds, key.rule.description, key.auditor, key.subject])
                }
                guard db.changesCount > 0 else { continue }
                for channel in channels {
                    try db.execute(
                        sql: """
                            INSERT INTO notification (alert, event, channel, state, attempts, due)
                            SELECT max(number), ?, ?, 'pending', 0, ? FROM alert
                            WHERE rule = ? AND auditor = ? AND subject = ?
                            """,
                        arguments: [
                            change.isRaised ? "raised" : "cleared", channel, now.nanoseconds, key.rule.description,
                            key.auditor, key.subject,
                        ])
                }
            }
            for (name, place) in [
                ("watch-statement", position.statement), ("watch-alarm", position.alarm),
                ("watch-told", position.auditorAlert), ("watch-measure", position.measure),
            ] + gaps {
                try Self.moveCursor(db, name, to: place)
            }
        }
    }

    /// Remembers how far something has been read.
    static func moveCursor(_ db: Database, _ name: String, to position: Int64) throws {
        try db.execute(
            sql: "INSERT INTO cursor (name, position) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET position = ?2",
            arguments: [name, position])
    }

    /// How far the watch has read and written; nil if it has never written anything.
    package func watchedUpTo() throws -> Int64? {
        try self.pool.read { db in
            try Int64.fetchOne(db, sql: "SELECT position FROM cursor WHERE name = 'watch-statement'")
        }
    }

    /// Why notifications were not taken, the newest last.
    package func notificationErrors() throws -> [String] {
        try self.pool.read { db in
            try String.fetchAll(db, sql: "SELECT error FROM notification WHERE error IS NOT NULL ORDER BY number")
        }
    }

    // MARK: Notifications

    /// What is to be told now by one way.
    func dueNotifications(by channel: String, at now: Timestamp, limit: Int) throws -> [Notification] {
        try self.pool.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT notification.number AS notification, event, channel, attempts, alert.* FROM notification
                    JOIN alert ON alert.number = notification.alert
                    WHERE notification.state = 'pending' AND channel = ? AND due <= ?
                    ORDER BY due, notification.number LIMIT ?
                    """, arguments: [channel, now.nanoseconds, limit]
            ).map { row in
                Notification(
                    number: row["notification"], event: row["event"], channel: row["channel"],
                    attempts: row["attempts"], alert: StoredAlert(row))
            }
        }
    }

    /// What became of an attempt.
    ///
    /// - Parameters:
    ///   - error: why it failed; nil if it did not.
    ///   - retry: when it is tried again; nil for never.
    func settle(_ notification: Notification, error: String?, retry: Timestamp?) throws {
        try self.pool.write { db in try Self.settle(db, notification, error: error, retry: retry) }
    }

    static func settle(_ db: Database, _ notification: Notification, error: String?, retry: Timestamp?) throws {
        try db.execute(
            sql:
                "UPDATE notification SET state = ?, attempts = attempts + 1, due = coalesce(?, due), error = ? WHERE number = ?",
            arguments: [
                error == nil ? "sent" : retry == nil ? "failed" : "pending", retry?.nanoseconds, error,
                notification.number,
            ])
    }
}

/// One thing to be told by one way.
struct Notification: Sendable {
    var number: Int64
    /// raised, cleared.
    var event: String
    var channel: String
    var attempts: Int
    var alert: StoredAlert

    /// One line.
    var text: String { "[\(self.event)] \(self.alert.auditor): \(self.alert.rule): \(self.alert.text)" }
}

extension AlertKey {
    /// Nil for a rule of another version.
    init?(_ alert: StoredAlert) {
        guard let rule = AlertRule.all.first(where: { $0.description == alert.rule }) else { return nil }
        self.init(rule, alert.auditor, alert.subject)
    }
}
