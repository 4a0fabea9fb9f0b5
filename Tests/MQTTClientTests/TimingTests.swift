import MQTTClient
import NIOCore
import TestSupport
import Testing

struct KeepAliveTests {
    private static let start = NIODeadline.uptimeNanoseconds(1_000_000_000_000)

    private func keepAlive() -> KeepAlive {
        KeepAlive(interval: .seconds(40), timeout: .seconds(10), now: Self.start)
    }

    @Test("After three quarters of the interval in silence it asks, and then waits for the answer")
    func asks() {
        var keepAlive = self.keepAlive()
        #expect(keepAlive.check(now: Self.start, isReading: true) == .wait(until: Self.start + .seconds(30)))
        #expect(
            keepAlive.check(now: Self.start + .seconds(29), isReading: true) == .wait(until: Self.start + .seconds(30)))
        #expect(keepAlive.check(now: Self.start + .seconds(30), isReading: true) == .ping)
        #expect(
            keepAlive.check(now: Self.start + .seconds(30), isReading: true) == .wait(until: Self.start + .seconds(40)))
    }

    @Test("Without an answer in time the server is gone")
    func timesOut() {
        var keepAlive = self.keepAlive()
        _ = keepAlive.check(now: Self.start + .seconds(30), isReading: true)
        #expect(
            keepAlive.check(now: Self.start + .seconds(39), isReading: true) == .wait(until: Self.start + .seconds(40)))
        #expect(keepAlive.check(now: Self.start + .seconds(40), isReading: true) == .timedOut)
    }

    @Test("Any packet is a sign of life")
    func answered() {
        var keepAlive = self.keepAlive()
        _ = keepAlive.check(now: Self.start + .seconds(30), isReading: true)
        keepAlive.received(now: Self.start + .seconds(35))
        #expect(
            keepAlive.check(now: Self.start + .seconds(40), isReading: true) == .wait(until: Self.start + .seconds(60)))
    }

    @Test("Who only sends asks as well")
    func sender() {
        var keepAlive = self.keepAlive()
        for second in stride(from: Int64(1), to: 30, by: 1) { keepAlive.sent(now: Self.start + .seconds(second)) }
        #expect(keepAlive.check(now: Self.start + .seconds(30), isReading: true) == .ping)
        keepAlive.sent(now: Self.start + .seconds(39))
        #expect(keepAlive.check(now: Self.start + .seconds(40), isReading: true) == .timedOut)
    }

    @Test("While we don't read, the server's time to answer does not pass, but we go on asking")
    func notReading() {
        var keepAlive = self.keepAlive()
        _ = keepAlive.check(now: Self.start + .seconds(30), isReading: true)
        #expect(
            keepAlive.check(now: Self.start + .seconds(45), isReading: false)
                == .wait(until: Self.start + .seconds(55)))
        #expect(keepAlive.check(now: Self.start + .seconds(60), isReading: false) == .ping)
        #expect(keepAlive.check(now: Self.start + .seconds(69), isReading: true) != .timedOut)
        #expect(keepAlive.check(now: Self.start + .seconds(70), isReading: true) == .timedOut)
    }
}

struct BackoffTests {
    /// Always the largest or smallest number.
    private struct Constant: RandomNumberGenerator {
        var value: UInt64
        mutating func next() -> UInt64 { self.value }
    }

    @Test("The longest wait doubles from the base up to the maximum")
    func ceiling() {
        let backoff = Backoff(base: .seconds(1), maximum: .seconds(10))
        var randomness = Constant(value: .max)
        let waits = (1...7).map { backoff.wait(afterFailures: $0, using: &randomness) }
        #expect(waits == [1, 2, 4, 8, 10, 10, 10].map { Duration.seconds($0) })
        #expect(backoff.wait(afterFailures: .max, using: &randomness) == .seconds(10))
    }

    @Test("Full jitter: a wait may be anything down to nothing")
    func jitter() {
        let backoff = Backoff(base: .seconds(1), maximum: .seconds(10))
        var zero = Constant(value: 0)
        #expect(backoff.wait(afterFailures: 5, using: &zero) == .zero)
        var randomness = SplitMix64(seed: 7)
        let waits = (0..<1000).map { _ in backoff.wait(afterFailures: 4, using: &randomness) }
        #expect(waits.allSatisfy { $0 >= .zero && $0 <= .seconds(8) })
        #expect(waits.contains { $0 < .seconds(1) } && waits.contains { $0 > .seconds(7) })
    }
}
