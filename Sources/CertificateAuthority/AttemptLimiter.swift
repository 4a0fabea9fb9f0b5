import PKI

/// Counts wrong tokens, so that nobody tries them by the thousand.
///
/// By address, not by ID: otherwise whoever knows an ID could lock its device out. 130 random bits are not guessed
/// from many addresses either. A value: the time is handed in.
struct AttemptLimiter {
    /// In seconds.
    static let window: UnixTime = 600
    /// Addresses that are remembered; beyond, all are forgotten.
    static let capacity = 10_000

    private let maximum: Int
    private var failures: [String: (since: UnixTime, count: Int)] = [:]

    init(maximum: Int) { self.maximum = maximum }

    func mayTry(_ address: String, at now: UnixTime) -> Bool {
        guard let entry = self.failures[address], now - entry.since < Self.window else { return true }
        return entry.count < self.maximum
    }

    mutating func failed(_ address: String, at now: UnixTime) {
        if let entry = self.failures[address], now - entry.since < Self.window {
            self.failures[address] = (entry.since, entry.count + 1)
            return
        }
        if self.failures.count >= Self.capacity {
            self.failures = self.failures.filter { now - $0.value.since < Self.window }
            if self.failures.count >= Self.capacity { self.failures.removeAll() }
        }
        self.failures[address] = (now, 1)
    }
}
