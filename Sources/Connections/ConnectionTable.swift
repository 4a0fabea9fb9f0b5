/// Counts the connections of each address, or of each identity, and how fast they come.
///
/// Bounded: keys without a connection are forgotten when there are too many. Then somebody who has that many
/// addresses begins anew, whom a limit for each address does not hold back anyway.
package struct ConnectionTable<Key: Hashable & Sendable>: Sendable {
    /// Why a connection may not be.
    package enum Refusal: Hashable, Sendable {
        case tooMany
        case tooFast
    }

    private struct Entry {
        var connections = 0
        var bucket: TokenBucket?
    }

    private let maximum: Int
    private let rate: Rate?
    private let capacity: Int
    private var entries: [Key: Entry] = [:]

    /// - Parameters:
    ///   - maximum: connections of one key at once.
    ///   - rate: of new connections of one key, the refused ones included; `nil` is none.
    ///   - capacity: keys without a connection that are remembered, about.
    package init(maximum: Int, rate: Rate?, capacity: Int = 16_384) {
        self.maximum = maximum
        self.rate = rate
        self.capacity = max(1, capacity)
    }

    /// Keys that are remembered.
    package var count: Int { self.entries.count }

    /// A connection of this key has come. Unless refused it is counted, and ``close(_:)`` must follow.
    ///
    /// - Parameter now: nanoseconds of a clock that never goes back.
    package mutating func open(_ key: Key, at now: UInt64) -> Refusal? {
        var entry = self.entries[key] ?? self.newEntry(at: now)
        if let rate = self.rate {
            var bucket = entry.bucket ?? TokenBucket(rate, at: now)
            let mayCome = bucket.take(of: rate, at: now)
            entry.bucket = bucket
            guard mayCome else {
                self.entries[key] = entry
                return .tooFast
            }
        }
        guard entry.connections < self.maximum else {
            self.entries[key] = entry
            return .tooMany
        }
        entry.connections += 1
        self.entries[key] = entry
        return nil
    }

    package mutating func close(_ key: Key) {
        guard var entry = self.entries[key], entry.connections > 0 else { return }
        entry.connections -= 1
        // The bucket says how fast it came: that is kept while there is room for it.
        self.entries[key] = entry.connections == 0 && entry.bucket == nil ? nil : entry
    }

    /// Keys with a connection are as many as the broker allows; of the others, at most ``capacity`` pile up
    /// between two sweeps.
    private var idleSinceSweep = 0

    private mutating func newEntry(at now: UInt64) -> Entry {
        self.idleSinceSweep += 1
        if self.idleSinceSweep > self.capacity {
            self.idleSinceSweep = 0
            let rate = self.rate
            self.entries = self.entries.filter { _, entry in
                if entry.connections > 0 { return true }
                guard let rate, let bucket = entry.bucket else { return false }
                return !bucket.isFull(rate, at: now)
            }
            // Everybody came a moment ago: a flood from many addresses.
            if self.entries.count > 2 * self.capacity {
                self.entries = self.entries.filter { $0.value.connections > 0 }
            }
        }
        return Entry()
    }
}
