/// Something that should have happened did not, within its deadline.
public struct DeadlineExceeded: Error, Sendable, CustomStringConvertible {
    /// What was waited for.
    public let what: String
    /// How long.
    public let limit: Duration

    public var description: String { "\(self.what): not within \(self.limit)" }
}

/// Runs `body` and cancels it when it takes longer than `limit`, so that a test that hangs fails instead.
///
/// - Throws: ``DeadlineExceeded``, or what `body` throws.
public func withDeadline<Value: Sendable>(
    _ limit: Duration = .seconds(30), _ what: String, _ body: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    try await withThrowingTaskGroup(of: Value.self) { group in
        group.addTask { try await body() }
        group.addTask {
            try await Task.sleep(for: limit)
            throw DeadlineExceeded(what: what, limit: limit)
        }
        defer { group.cancelAll() }
        guard let first = try await group.next() else { throw CancellationError() }
        return first
    }
}
