/// How often something may happen: so many times a second in the long run, so many at once after a pause.
public struct Rate: Hashable, Sendable {
    /// At least 1.
    public let perSecond: Int
    /// At least 1.
    public let burst: Int

    /// - Parameter burst: twice the rate unless given.
    public init(perSecond: Int, burst: Int? = nil) {
        self.perSecond = max(1, perSecond)
        self.burst = max(1, burst ?? 2 * perSecond)
    }
}

/// Keeps a ``Rate``. Full at the start; what is spent comes back with time.
package struct TokenBucket: Hashable, Sendable {
    /// May go below zero by ``spend(_:of:at:)``.
    private var tokens: Double
    /// Nanoseconds of a clock that never goes back.
    private var time: UInt64

    package init(_ rate: Rate, at now: UInt64) {
        self.tokens = Double(rate.burst)
        self.time = now
    }

    private mutating func refill(_ rate: Rate, at now: UInt64) {
        guard now > self.time else { return }
        let earned = Double(now - self.time) * Double(rate.perSecond) / 1e9
        self.tokens = min(Double(rate.burst), self.tokens + earned)
        self.time = now
    }

    /// Takes one, if there is one.
    package mutating func take(of rate: Rate, at now: UInt64) -> Bool {
        self.refill(rate, at: now)
        guard self.tokens >= 1 else { return false }
        self.tokens -= 1
        return true
    }

    /// Takes any number, there or not: what has happened has happened.
    ///
    /// - Returns: nanoseconds until the debt is paid; 0 if there is none.
    package mutating func spend(_ amount: Int, of rate: Rate, at now: UInt64) -> UInt64 {
        self.refill(rate, at: now)
        self.tokens -= Double(amount)
        guard self.tokens < 0 else { return 0 }
        return UInt64((-self.tokens / Double(rate.perSecond) * 1e9).rounded(.up))
    }

    /// Whether forgetting it would change nothing.
    package func isFull(_ rate: Rate, at now: UInt64) -> Bool {
        var copy = self
        copy.refill(rate, at: now)
        return copy.tokens >= Double(rate.burst)
    }
}
