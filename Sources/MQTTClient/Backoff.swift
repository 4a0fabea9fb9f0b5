/// The waits between attempts to connect: exponential, with full jitter, so that a thousand clients that
/// lost their broker at the same moment don't come back at the same moment.
public struct Backoff: Hashable, Sendable {
    /// The longest wait before the first repetition.
    public var base: Duration
    /// The longest wait of all.
    public var maximum: Duration
    /// A connection that lasted so long counts as success: the next waits begin at `base` again.
    public var stableAfter: Duration

    public init(
        base: Duration = .seconds(1), maximum: Duration = .seconds(60), stableAfter: Duration = .seconds(10)
    ) {
        self.base = base
        self.maximum = maximum
        self.stableAfter = stableAfter
    }

    /// The wait before an attempt.
    ///
    /// - Parameter failures: Attempts in a row that failed, at least 1.
    /// - Returns: Anything from 0 to `base` doubled `failures - 1` times, held to `maximum`.
    public func wait(
        afterFailures failures: Int, using randomness: inout some RandomNumberGenerator
    ) -> Duration {
        var ceiling = min(self.base, self.maximum)
        for _ in 1..<max(failures, 1) where ceiling < self.maximum {
            ceiling = min(ceiling * 2, self.maximum)
        }
        return ceiling * Double.random(in: 0...1, using: &randomness)
    }
}
