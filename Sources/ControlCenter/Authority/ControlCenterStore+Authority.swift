import Foundation
import GRDB
import Telemetry

extension ControlCenterStore {
    /// What the authority did and was read from it, in the order in which it was read first.
    public func certificateEvents() throws -> [CertificateEvent] {
        try self.pool.read { db in
            try Row.fetchAll(db, sql: "SELECT * FROM authority_event ORDER BY number").map(Self.certificateEvent)
        }
    }

    /// The one with the highest number that the authority is known to have.
    func newestCertificateEvent() async throws -> CertificateEvent? {
        try await self.pool.read { db in
            try Row.fetchOne(
                db,
                sql: """
                    SELECT * FROM authority_event WHERE authority_number IS NOT NULL
                    ORDER BY authority_number DESC LIMIT 1
                    """
            ).map(Self.certificateEvent)
        }
    }

    /// Stores events; how far was read is the highest number among them. One that is stored gets its number there.
    func store(_ events: [CertificateEvent], at now: Timestamp) async throws {
        try await self.pool.write { db in
            let insert = try db.cachedStatement(
                sql: """
                    INSERT INTO authority_event
                        (authority_number, event, certificate_hash, spiffe, serial, not_before, not_after, time,
                         requester, reason, received)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                    ON CONFLICT (event, certificate_hash) DO UPDATE SET authority_number = excluded.authority_number
                    """)
            for event in events {
                try insert.execute(arguments: [
                    event.number, event.kind.description, Data(event.certificateHash), event.party, event.serial,
                    event.notBefore, event.notAfter, event.time, event.requester, event.reason, now.nanoseconds,
                ])
            }
        }
    }

    /// The authority's record is another one than was read: nothing is known to be there until it is read anew.
    func forgetEventNumbers(alarm detail: String, at now: Timestamp) async throws {
        try await self.pool.write { db in
            try db.execute(sql: "UPDATE authority_event SET authority_number = NULL")
            try db.execute(
                sql: "INSERT INTO alarm (kind, auditor, detail, raised) VALUES (?, '', ?, ?)",
                arguments: [AlarmKind.authorityRestored.description, detail, now.nanoseconds])
        }
    }

    private static func certificateEvent(_ row: Row) -> CertificateEvent {
        let hash: Data = row["certificate_hash"]
        return CertificateEvent(
            number: row["authority_number"] ?? 0, kind: .init(row["event"]), certificateHash: [UInt8](hash),
            party: row["spiffe"], serial: row["serial"], notBefore: row["not_before"], notAfter: row["not_after"],
            time: row["time"], requester: row["requester"], reason: row["reason"])
    }
}
