import ControlCenter
import Foundation
import GRDB
import Identity
import MQTTBroker
import Synchronization
import Telemetry

/// What the system itself wrote down about the intruder: the broker's events and the control center's database.
/// An attack counts as refused only if it is found here.
final class DemoWitness: Sendable {
    /// How often the control center met a reason, and how many messages it kept for it.
    struct Record {
        var count: Int
        var kept: Int
    }

    private struct Counts {
        var handshakes = 0
        var authorisations = 0
        var limits = 0
    }

    private let counts = Mutex(Counts())
    private let database: DatabasePool
    private let intruder: SPIFFEID

    /// - Parameter store: Path of the control center's database, which exists.
    init(store: String, intruder: SPIFFEID) throws {
        var configuration = Configuration()
        configuration.readonly = true
        self.database = try DatabasePool(path: store, configuration: configuration)
        self.intruder = intruder
    }

    /// Hears what the broker says.
    func note(_ event: BrokerEvent) {
        self.counts.withLock { counts in
            switch event {
            case .handshakeRefused, .connectRefused: counts.handshakes += 1
            case .publishRefused(let peer, _, _) where peer.spiffeID == self.intruder: counts.authorisations += 1
            case .subscribeRefused(let peer, _, _) where peer.spiffeID == self.intruder: counts.authorisations += 1
            case .packetTooLarge(let peer, _, _) where peer?.spiffeID == self.intruder: counts.limits += 1
            default: break
            }
        }
    }

    var handshakesRefused: Int { self.counts.withLock { $0.handshakes } }
    var authorisationsRefused: Int { self.counts.withLock { $0.authorisations } }
    var limitsRefused: Int { self.counts.withLock { $0.limits } }

    func record(of reason: Reason) throws -> Record {
        let arguments: StatementArguments = [self.intruder.id.rawValue, reason.rawValue]
        return try self.database.read { db in
            Record(
                count: try Int.fetchOne(
                    db, sql: "SELECT count FROM counter WHERE claimed = ? AND reason = ?", arguments: arguments) ?? 0,
                kept: try Int.fetchOne(
                    db, sql: "SELECT count(*) FROM quarantine WHERE claimed = ? AND reason = ?",
                    arguments: arguments) ?? 0)
        }
    }

    /// The intruder's stored statements.
    func storedStatements() throws -> Int {
        try self.count("SELECT count(*) FROM statement JOIN auditor ON auditor.number = statement.auditor")
    }

    /// The intruder's forks on record.
    func forks() throws -> Int {
        try self.count("SELECT count(*) FROM fork JOIN auditor ON auditor.number = fork.auditor")
    }

    private func count(_ sql: String) throws -> Int {
        try self.database.read { db in
            try Int.fetchOne(db, sql: sql + " WHERE auditor.spiffe = ?", arguments: [self.intruder.rawValue]) ?? 0
        }
    }

    /// The statements with readings that are stored, of all others.
    func statements() throws -> Int {
        try self.database.read { db in
            try Int.fetchOne(
                db,
                sql: """
                    SELECT count(*) FROM statement JOIN auditor ON auditor.number = statement.auditor
                    WHERE auditor.spiffe <> ? AND statement.kind = 'statement'
                    """, arguments: [self.intruder.rawValue]) ?? 0
        }
    }

    /// How many readings of each auditor are stored.
    func storedReadings() throws -> [String: Int] {
        try self.database.read { db in
            let rows = try Row.fetchAll(
                db,
                sql: """
                    SELECT auditor.id AS id, count(*) AS count FROM reading
                    JOIN series ON series.number = reading.series JOIN auditor ON auditor.number = series.auditor
                    GROUP BY auditor.number
                    """)
            return Dictionary(rows.map { ($0["id"] as String, $0["count"] as Int) }) { $1 }
        }
    }

    /// A stored statement of another auditor.
    func capture(from victim: SPIFFEID) throws -> [UInt8]? {
        try self.database.read { db in
            let bytes = try Data.fetchOne(
                db,
                sql: """
                    SELECT bytes FROM statement JOIN auditor ON auditor.number = statement.auditor
                    WHERE auditor.spiffe = ? AND statement.kind = 'statement' LIMIT 1
                    """, arguments: [victim.rawValue])
            return bytes.map { Array($0) }
        }
    }

    /// Whether something comes true within some seconds: records are written by other threads.
    func waits(_ condition: () throws -> Bool) async throws -> Bool {
        for _ in 0..<500 {
            if try condition() { return true }
            try await Task.sleep(for: .milliseconds(20))
        }
        return false
    }
}
