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
        var doublings = max(failures, 1) - 1
        while doublings > 0, ceiling < self.maximum, ceiling > .zero {
            ceiling = min(ceiling * 2, self.maximum)
            doublings -= 1
        }
        // 53 random bits over 2^53 - 1: both ends can be reached, and one draw is enough.
        return ceiling * (Double(randomness.next() >> 11) / 0x1F_FFFF_FFFF_FFFF)
    }
}
