import Foundation
import GRDB

/// When the control center last stored a statement of each auditor, read beside it.
enum LastSeen {
    /// By SPIFFE ID, in Unix seconds; empty if the store is not there, or not to be read from here: then nobody knows.
    static func read(_ path: String) -> [String: Int64] {
        guard FileManager.default.fileExists(atPath: path) else { return [:] }
        var configuration = Configuration()
        configuration.readonly = true
        configuration.busyMode = .timeout(2)
        let rows = try? DatabaseQueue(path: path, configuration: configuration).read { db in
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
        return Dictionary(rows ?? [], uniquingKeysWith: max)
    }
}
