package import NIOCore

/// When to ask the server for a sign of life, and when to give up (MQTT 5.0 section 3.1.2.10). A value: the
/// time is handed in.
///
/// The server's own limit counts only what we send. We ask as well when nothing came for as long: a client
/// that only sends would else never notice that nobody listens.
package struct KeepAlive: Sendable {
    package enum Verdict: Hashable, Sendable {
        /// Look again then.
        case wait(until: NIODeadline)
        /// Send a PINGREQ, then look again.
        case ping
        /// The server is gone.
        case timedOut
    }

    private let interval: TimeAmount
    private let timeout: TimeAmount
    private var lastSent: NIODeadline
    private var lastReceived: NIODeadline
    private var waitingSince: NIODeadline?

    /// - Parameter interval: More than zero. We ask after three quarters of it, since the question has to
    ///   arrive in time.
    package init(interval: TimeAmount, timeout: TimeAmount, now: NIODeadline) {
        self.interval = .nanoseconds(interval.nanoseconds / 4 * 3)
        self.timeout = timeout
        self.lastSent = now
        self.lastReceived = now
    }

    package mutating func sent(now: NIODeadline) { self.lastSent = now }

    package mutating func received(now: NIODeadline) {
        self.lastReceived = now
        self.waitingSince = nil
    }

    /// - Parameter isReading: While we don't read, an answer cannot reach us: its time is not counted.
    package mutating func check(now: NIODeadline, isReading: Bool) -> Verdict {
        if let since = self.waitingSince {
            if !isReading {
                self.waitingSince = now
            } else if now >= since + self.timeout {
                return .timedOut
            }
        }
        if now >= self.lastSent + self.interval {
            return self.ping(now)
        }
        if let since = self.waitingSince {
            return .wait(until: min(since + self.timeout, self.lastSent + self.interval))
        }
        if now >= self.lastReceived + self.interval {
            return self.ping(now)
        }
        return .wait(until: min(self.lastSent, self.lastReceived) + self.interval)
    }

    private mutating func ping(_ now: NIODeadline) -> Verdict {
        if self.waitingSince == nil { self.waitingSince = now }
        self.lastSent = now
        return .ping
    }
}
