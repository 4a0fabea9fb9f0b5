import Foundation
import GRDB
public import Telemetry

/// What a control center has stored and refused.
public struct StoreStatistics: Hashable, Sendable, Codable {
    /// One auditor's part.
    public struct Auditor: Hashable, Sendable, Codable {
        public var id: String
        public var spiffeID: String
        public var statements: Int64
        public var readings: Int64
        public var streams: Int64
        /// Sequence numbers that are missing below the newest ones held.
        public var missing: Int64
        /// When the newest statement was received, RFC 3339 UTC.
        public var lastReceived: String?
    }

    /// How often one reason was met.
    public struct Count: Hashable, Sendable, Codable {
        /// The ID on whose topic it was, or `-` for one that no auditor has.
        public var claimed: String
        public var reason: String
        public var count: Int64
    }

    public var auditors: [Auditor]
    public var counts: [Count]
    public var statements: Int64
    public var readings: Int64
    public var forks: Int64
    public var quarantined: Int64
    public var openAlarms: Int64

    /// How often a reason was met, over all auditors.
    public func count(of reason: Reason) -> Int64 {
        self.counts.reduce(0) { $1.reason == reason.description ? $0 + $1.count : $0 }
    }
}

/// Sequence numbers missing in a stream.
public struct StoredGap: Hashable, Sendable, Codable {
    public var auditor: String
    /// 16 hexadecimal digits.
    public var stream: String
    public var first: Int64
    public var last: Int64
}

/// An alarm, acknowledged or not.
public struct StoredAlarm: Hashable, Sendable {
    public var number: Int64
    public var kind: AlarmKind
    /// SPIFFE ID, or empty.
    public var auditor: String
    public var detail: String
    public var raised: Timestamp
    public var acknowledged: Timestamp?
    public var acknowledgedBy: String?
}

/// A refused message as kept.
public struct QuarantinedMessage: Hashable, Sendable {
    public var number: Int64
    public var claimed: String
    public var reason: String
    public var detail: String
    public var topic: String
    public var received: Timestamp
    public var bytes: [UInt8]
}

/// A statement that contradicts what is stored.
public struct StoredFork: Hashable, Sendable {
    public var number: Int64
    /// SPIFFE ID.
    public var auditor: String
    public var stream: StreamID
    public var sequence: Int64
    public var id: MessageID
    public var kind: String
    public var disputedFrom: Int64
    public var bytes: [UInt8]
    public var closed: Timestamp?
}

extension ControlCenterStore {
    /// Counts of everything. It reads all statements' rows: not for every second.
    public func statistics() throws -> StoreStatistics {
        try Self.statistics(self.pool)
    }

    static func statistics(_ reader: some DatabaseReader) throws -> StoreStatistics {
        try reader.read { db in
            let auditors = try Row.fetchAll(
                db,
                sql: """
                    SELECT auditor.id AS id, auditor.spiffe AS spiffe,
                        (SELECT count(*) FROM statement WHERE auditor = auditor.number) AS statements,
                        (SELECT max(received) FROM statement WHERE auditor = auditor.number) AS received,
                        (SELECT count(*) FROM stream WHERE auditor = auditor.number) AS streams,
                        (SELECT count(*) FROM series JOIN reading ON reading.series = series.number
                            WHERE series.auditor = auditor.number) AS readings,
                        (SELECT coalesce(sum(missing), 0) FROM gaps WHERE auditor_spiffe = auditor.spiffe) AS missing
                    FROM auditor ORDER BY auditor.id
                    """
            ).map { row in
                let received: Int64? = row["received"]
                return StoreStatistics.Auditor(
                    id: row["id"], spiffeID: row["spiffe"], statements: row["statements"], readings: row["readings"],
                    streams: row["streams"], missing: row["missing"],
                    lastReceived: received.map { Timestamp(nanoseconds: $0).description })
            }
            let counts = try Row.fetchAll(db, sql: "SELECT claimed, reason, count FROM counter ORDER BY 1, 2").map {
                StoreStatistics.Count(claimed: $0["claimed"], reason: $0["reason"], count: $0["count"])
            }
            func count(_ table: String) throws -> Int64 {
                try Int64.fetchOne(db, sql: "SELECT count(*) FROM \(table)") ?? 0
            }
            return StoreStatistics(
                auditors: auditors, counts: counts, statements: try count("statement"),
                readings: try count("reading"), forks: try count("fork"), quarantined: try count("quarantine"),
                openAlarms: try count("alarm WHERE acknowledged IS NULL"))
        }
    }

    /// What is missing, oldest stream first.
    public func gaps() throws -> [StoredGap] {
        try self.pool.read { db in
            try Row.fetchAll(db, sql: "SELECT auditor, stream, first, last FROM gaps ORDER BY auditor, stream, first")
                .map {
                    StoredGap(auditor: $0["auditor"], stream: $0["stream"], first: $0["first"], last: $0["last"])
                }
        }
    }

    /// All alarms, oldest first.
    public func alarms() throws -> [StoredAlarm] {
        try self.pool.read { db in
            try Row.fetchAll(db, sql: "SELECT * FROM alarm ORDER BY number").map { row in
                let acknowledged: Int64? = row["acknowledged"]
                return StoredAlarm(
                    number: row["number"], kind: AlarmKind(row["kind"]), auditor: row["auditor"],
                    detail: row["detail"], raised: Timestamp(nanoseconds: row["raised"]),
                    acknowledged: acknowledged.map { Timestamp(nanoseconds: $0) },
                    acknowledgedBy: row["acknowledged_by"])
            }
        }
    }

    /// An operator has seen an alarm.
    ///
    /// - Returns: whether there was such an alarm that nobody had acknowledged.
    public func acknowledge(alarm number: Int64, by operatorID: String, at now: Timestamp) throws -> Bool {
        try self.pool.write { db in
            try db.execute(
                sql: "UPDATE alarm SET acknowledged = ?, acknowledged_by = ? WHERE number = ? AND acknowledged IS NULL",
                arguments: [now.nanoseconds, operatorID, number])
            return db.changesCount > 0
        }
    }

    /// The newest refused messages.
    public func quarantined(limit: Int) throws -> [QuarantinedMessage] {
        try self.pool.read { db in
            try Row.fetchAll(db, sql: "SELECT * FROM quarantine ORDER BY number DESC LIMIT ?", arguments: [limit])
                .map { row in
                    let bytes: Data = row["bytes"]
                    return QuarantinedMessage(
                        number: row["number"], claimed: row["claimed"], reason: row["reason"], detail: row["detail"],
                        topic: row["topic"], received: Timestamp(nanoseconds: row["received"]), bytes: [UInt8](bytes))
                }
        }
    }

    /// All contradictions kept, oldest first.
    public func forks() throws -> [StoredFork] {
        try self.pool.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT fork.*, auditor.spiffe AS spiffe, stream.id AS stream_id FROM fork
                    JOIN auditor ON auditor.number = fork.auditor JOIN stream ON stream.number = fork.stream
                    ORDER BY fork.number
                    """
            ).map { row in
                let stream: Data = row["stream_id"]
                let id: Data = row["id"]
                let bytes: Data = row["bytes"]
                let closed: Int64? = row["closed"]
                guard let stream = StreamID(stream), let id = MessageID(id) else {
                    throw ControlCenterError(.storeDamaged, "a fork contradicts itself: restore a copy")
                }
                return StoredFork(
                    number: row["number"], auditor: row["spiffe"], stream: stream, sequence: row["sequence"], id: id,
                    kind: row["kind"], disputedFrom: row["disputed_from"], bytes: [UInt8](bytes),
                    closed: closed.map { Timestamp(nanoseconds: $0) })
            }
        }
    }
}
