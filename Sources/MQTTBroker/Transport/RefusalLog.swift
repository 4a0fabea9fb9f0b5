import Connections

/// Decides which refusals are logged: all of a few, and of a flood a few and how many there were.
package struct RefusalLog: Sendable {
    package enum Decision: Hashable, Sendable {
        /// Log it, and that so many before it were not.
        case tell(untold: Int)
        case skip
    }

    /// Enough to see what is going on.
    private static let rate = Rate(perSecond: 5, burst: 100)

    private var bucket: TokenBucket
    private var untold = 0

    package init(at now: UInt64) { self.bucket = TokenBucket(Self.rate, at: now) }

    package mutating func next(at now: UInt64) -> Decision {
        guard self.bucket.take(of: Self.rate, at: now) else {
            self.untold += 1
            return .skip
        }
        defer { self.untold = 0 }
        return .tell(untold: self.untold)
    }
}
