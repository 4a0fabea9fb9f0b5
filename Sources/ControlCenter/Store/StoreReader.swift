import Foundation
import GRDB

/// Looks into a control center's database from outside, also while the control center runs. Writes nothing.
public struct StoreReader: Sendable {
    private let database: DatabaseQueue

    /// - Parameter path: the database file.
    /// - Throws: ``ControlCenterError`` with code `state-unusable` if it is not there or cannot be opened,
    ///   `store-damaged` if it is not a control center's.
    public init(path: String) throws(ControlCenterError) {
        guard FileManager.default.fileExists(atPath: path) else {
            throw ControlCenterError(
                .stateUnusable, "\(path) does not exist: it is made when the control center first runs")
        }
        do {
            var configuration = Configuration()
            configuration.readonly = true
            configuration.busyMode = .timeout(5)
            self.database = try DatabaseQueue(path: path, configuration: configuration)
            let mark = try self.database.read { try Int.fetchOne($0, sql: "PRAGMA application_id") }
            guard mark == Schema.applicationID else {
                throw ControlCenterError(.storeDamaged, "\(path) is not a control center's database")
            }
        } catch {
            throw Self.translated(error, path)
        }
    }

    private static func translated(_ error: any Error, _ path: String) -> ControlCenterError {
        if let error = error as? ControlCenterError { return error }
        let message = (error as? DatabaseError)?.message ?? "\(error)"
        return (error as? DatabaseError)?.resultCode == .SQLITE_NOTADB
            ? ControlCenterError(.storeDamaged, "\(path) is not a control center's database")
            : ControlCenterError(
                .stateUnusable,
                "cannot open \(path): \(message); reading needs the right to read it and to write the file -shm beside it"
            )
    }

    /// As ``ControlCenterStore/forEachReading(_:_:)``.
    public func forEachReading(_ query: ReadingsQuery, _ body: (StoredReading) throws -> Void) throws {
        try ControlCenterStore.forEachReading(self.database, query, body)
    }

    /// As ``ControlCenterStore/sums(_:)``.
    public func sums(_ query: ReadingsQuery) throws -> [ReadingsSum] {
        try ControlCenterStore.sums(self.database, query)
    }

    /// As ``ControlCenterStore/statistics()``.
    public func statistics() throws -> StoreStatistics {
        try ControlCenterStore.statistics(self.database)
    }

    /// When the newest statement of each auditor was stored, by SPIFFE ID, in Unix seconds.
    ///
    /// - Throws: what SQLite does.
    public func lastSeen() throws -> [String: Int64] {
        let rows = try self.read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT auditor.spiffe AS name, MAX(statement.received) / 1000000000 AS time
                    FROM auditor JOIN stream ON stream.auditor = auditor.number
                    JOIN statement ON statement.stream = stream.number AND statement.sequence = stream.head_sequence
                    GROUP BY auditor.number
                    """
            ).map { ($0["name"] as String, $0["time"] as Int64) }
        }
        return Dictionary(rows, uniquingKeysWith: max)
    }

    func read<R>(_ body: (Database) throws -> R) throws -> R { try self.database.read(body) }
}
