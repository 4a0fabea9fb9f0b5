public import Telemetry

/// What an alert is about.
public struct AlertKey: Hashable, Sendable, Comparable {
    public var rule: AlertRule
    /// The auditor's ID, or `-`.
    public var auditor: String
    /// What of it; or empty.
    public var subject: String

    public init(_ rule: AlertRule, _ auditor: String, _ subject: String = "") {
        self.rule = rule
        self.auditor = auditor
        self.subject = subject
    }

    public static func < (a: AlertKey, b: AlertKey) -> Bool {
        (a.rule.description, a.auditor, a.subject) < (b.rule.description, b.auditor, b.subject)
    }
}

/// Something that is stored, or has been counted.
public enum WatchEvent: Sendable {
    /// A message of an auditor's stream.
    case heard(auditor: String, clock: ClockQuality, issuedAt: Timestamp)
    case reading(auditor: String, Reading)
    /// A reading in the original's format, which is a message of its own.
    case measure(auditor: String, Reading)
    case heartbeat(auditor: String, Heartbeat)
    /// So many messages more were refused in the name of this ID.
    case refused(claimed: String, count: Int64)
    /// So many numbers are missing in the auditor's streams now.
    case missing(auditor: String, count: Int64)
    /// When the auditor's newest certificate ends.
    case certificate(auditor: String, ends: Timestamp)
    /// An alarm of the ingest path, with its number.
    case alarm(auditor: String, kind: AlarmKind, number: Int64, detail: String)
    /// An alert of the auditor itself.
    case told(auditor: String, Alert)
    /// An operator has acknowledged an alert.
    case acknowledged(AlertKey)
}

/// The rules at work, as a value: stored events and time go in, alerts that are raised or cleared come out.
///
/// A condition is not an alert: it is over only well within its limit, has to stay so for a while before the alert is
/// cleared, and where messages tell, more than one has to say so. So nothing flaps.
public struct AlertWatch: Sendable {
    public struct Change: Hashable, Sendable {
        public var key: AlertKey
        public var isRaised: Bool
        public var text: String
    }

    private struct Condition {
        var holds: Bool
        var since: Timestamp
        var text: String
        var isRaised: Bool
        /// That it is over was said again later.
        var isConfirmed = false
    }

    private struct Usual {
        var mean: Double
        var count: Int
    }

    /// So many conditions and series are remembered; what is beyond is not watched.
    private static let maximumKeys = 200_000
    private static let minute: Int64 = 60_000_000_000

    public let rules: AlertRules
    private var conditions: [AlertKey: Condition] = [:]
    private var lastHeard: [String: Timestamp] = [:]
    private var usual: [AlertKey: Usual] = [:]
    private var refusals: [String: (minute: Int64, count: Int64)] = [:]

    public init(rules: AlertRules = AlertRules()) {
        self.rules = rules
    }

    /// An alert that was raised before this process began.
    public mutating func restore(_ key: AlertKey, text: String, at now: Timestamp) {
        self.conditions[key] = Condition(holds: true, since: now, text: text, isRaised: true)
    }

    /// When an auditor was heard last, before this process began.
    public mutating func restore(lastHeard time: Timestamp, of auditor: String) {
        self.lastHeard[auditor] = max(self.lastHeard[auditor] ?? time, time)
    }

    // MARK: Events

    /// - Parameter now: when it was stored.
    public mutating func take(_ event: WatchEvent, at now: Timestamp) {
        switch event {
        case .heard(let auditor, let clock, let issuedAt):
            self.lastHeard[auditor] = max(self.lastHeard[auditor] ?? now, now)
            self.judgeClock(auditor, clock, issuedAt, now)
        case .reading(let auditor, let reading): self.judge(reading, auditor, now)
        case .measure(let auditor, let reading):
            self.lastHeard[auditor] = max(self.lastHeard[auditor] ?? now, now)
            self.judge(reading, auditor, now)
        case .heartbeat(let auditor, let heartbeat):
            let limit = self.rules.outboxCount
            self.set(
                AlertKey(.outboxFilling, auditor), heartbeat.outboxCount >= limit,
                isOver: heartbeat.outboxCount <= limit / 2, "\(heartbeat.outboxCount) messages wait in the outbox", now)
        case .refused(let claimed, let count):
            let minute = now.nanoseconds / Self.minute
            let former = self.refusals[claimed]
            self.refusals[claimed] = (minute, count + (former?.minute == minute ? former?.count ?? 0 : 0))
            self.judgeRefusals(claimed, now)
        case .missing(let auditor, let count):
            self.set(AlertKey(.gap, auditor), count > 0, "\(count) messages are missing in its streams", now)
        case .certificate(let auditor, let ends):
            let left = ends.nanoseconds - now.nanoseconds
            self.set(
                AlertKey(.certificateExpiring, auditor), left < self.rules.certificateWithin,
                "its certificate ends at \(ends); renew it", now)
        case .alarm(let auditor, let kind, let number, let detail):
            let rule: AlertRule? = kind == .fork ? .fork : kind == .streamRestart ? .streamRestart : nil
            if let rule { self.set(AlertKey(rule, auditor, "\(number)"), true, detail, now) }
        case .told(let auditor, let alert):
            self.set(AlertKey(.auditor, auditor, alert.word.rawValue), alert.isRaised, alert.text, now)
        case .acknowledged(let key):
            guard key.rule.isClearedByOperator, self.conditions[key]?.isRaised == true else { return }
            self.conditions[key]?.holds = false
            self.conditions[key]?.since = Timestamp(nanoseconds: now.nanoseconds - self.rules.clearAfter)
        }
    }

    private mutating func judgeClock(_ auditor: String, _ clock: ClockQuality, _ issuedAt: Timestamp, _ now: Timestamp)
    {
        // What waited in an outbox is old for good reason; what comes from the future is not.
        let ahead = issuedAt.nanoseconds - now.nanoseconds
        self.set(
            AlertKey(.clockOff, auditor), ahead > self.rules.clockOff || clock == .unknown,
            isOver: ahead < self.rules.clockOff / 2 && clock != .unknown,
            clock == .unknown
                ? "its clock was never set" : "its clock is \(ahead / 1_000_000_000) s ahead of the control center's",
            now)
    }

    private mutating func judge(_ reading: Reading, _ auditor: String, _ now: Timestamp) {
        guard let value = reading.value?.approximation else { return }
        let quantity = reading.quantity.description
        let part = reading.part == .whole ? "" : "/\(reading.part)"
        let subject = "\(reading.meter) \(quantity)\(part)"
        for range in self.rules.ranges where range.quantity == quantity {
            let margin = (range.bounds.upperBound - range.bounds.lowerBound) / 50
            let inner = (range.bounds.lowerBound + margin)...(range.bounds.upperBound - margin)
            self.set(
                AlertKey(.outOfRange, auditor, subject), !range.bounds.contains(value), isOver: inner.contains(value),
                "\(subject) is \(reading.value?.description ?? "") \(reading.unit), outside of \(range.bounds.lowerBound) to \(range.bounds.upperBound)",
                now)
        }
        guard let watts = Self.watts(of: reading, value) else { return }
        switch reading.quantity {
        case .production, .powerProduced:
            guard let night = self.rules.night else { return }
            self.set(
                AlertKey(.nightProduction, auditor, subject), night.contains(reading.time) && watts > night.threshold,
                "\(subject) is \(Int(watts)) W at \(reading.time), which is at night", now)
        case .consumption, .powerConsumed:
            self.judgeJump(AlertKey(.consumptionJump, auditor, subject), watts, now)
        default: break
        }
    }

    private mutating func judgeJump(_ key: AlertKey, _ watts: Double, _ now: Timestamp) {
        guard self.rules.jumpFactor > 0 else { return }
        guard var usual = self.usual[key] else {
            if self.usual.count < Self.maximumKeys { self.usual[key] = Usual(mean: watts, count: 1) }
            return
        }
        // It takes some readings to know what is usual, and what nobody would call much is never a jump.
        if usual.count >= 20 {
            let limit = max(usual.mean * self.rules.jumpFactor, 500)
            self.set(
                key, watts > limit, isOver: watts < limit * 0.7,
                "\(key.subject) is \(Int(watts)) W; usual is \(Int(usual.mean)) W", now)
            // A jump becomes usual slowly.
            usual.mean += (min(watts, limit) - usual.mean) * 0.02
        } else {
            usual.mean += (watts - usual.mean) / Double(usual.count + 1)
        }
        usual.count += 1
        self.usual[key] = usual
    }

    /// The mean power that a reading tells; nil for what tells none.
    private static func watts(of reading: Reading, _ value: Double) -> Double? {
        switch reading.unit {
        case .watt: return value
        case .kilowatt: return value * 1_000
        case .wattHour, .kilowattHour:
            guard let interval = reading.interval, interval > 0 else { return nil }
            return value * (reading.unit == .wattHour ? 1 : 1_000) * 3_600e9 / Double(interval)
        default: return nil
        }
    }

    private mutating func judgeRefusals(_ claimed: String, _ now: Timestamp) {
        guard let refusals = self.refusals[claimed] else { return }
        let isNow = refusals.minute == now.nanoseconds / Self.minute
        let count = isNow ? refusals.count : 0
        self.set(
            AlertKey(.refusals, claimed), count >= self.rules.refusalsPerMinute,
            isOver: !isNow || count < self.rules.refusalsPerMinute / 2,
            "\(count) messages in its name were refused within a minute; look at the quarantine", now)
    }

    // MARK: Conditions

    /// - Parameter isOver: whether a condition that holds is over; by default when it does not hold. Between the two
    ///   it stays as it is.
    private mutating func set(
        _ key: AlertKey, _ holds: Bool, isOver: Bool? = nil, _ text: @autoclosure () -> String, _ now: Timestamp
    ) {
        guard var condition = self.conditions[key] else {
            guard holds, self.conditions.count < Self.maximumKeys else { return }
            self.conditions[key] = Condition(holds: true, since: now, text: text(), isRaised: false)
            return
        }
        if holds, !condition.holds {
            condition = Condition(holds: true, since: now, text: text(), isRaised: condition.isRaised)
        } else if !holds, isOver ?? true, condition.holds {
            condition.holds = false
            condition.since = now
            condition.isConfirmed = false
        } else if !holds, isOver ?? true, now > condition.since {
            condition.isConfirmed = true
        } else {
            return
        }
        self.conditions[key] = condition
    }

    /// How long a condition must last before it is an alert.
    private func raiseAfter(_ rule: AlertRule) -> Int64 { rule == .gap ? self.rules.gapAfter : 0 }

    /// How long a condition must be over before its alert is cleared.
    private func clearAfter(_ rule: AlertRule) -> Int64 {
        // One sign of life in each such time is what the rule is about.
        rule == .noData ? max(self.rules.clearAfter, self.rules.noDataAfter + 1) : self.rules.clearAfter
    }

    /// Whether a second message must say that a condition is over: for what is told once in a quarter of an hour, time
    /// that passes proves nothing.
    private static func needsConfirmation(_ rule: AlertRule) -> Bool {
        switch rule {
        case .outOfRange, .nightProduction, .consumptionJump, .clockOff, .outboxFilling: true
        default: false
        }
    }

    /// What becomes of the conditions by now.
    ///
    /// - Returns: In the order of their keys.
    public mutating func advance(to now: Timestamp) -> [Change] {
        for (auditor, time) in self.lastHeard {
            self.set(
                AlertKey(.noData, auditor), now.nanoseconds - time.nanoseconds > self.rules.noDataAfter,
                "nothing was heard of it since \(time)", now)
        }
        for claimed in self.refusals.keys { self.judgeRefusals(claimed, now) }
        self.refusals = self.refusals.filter { $0.value.minute + 1 >= now.nanoseconds / Self.minute }
        var changes: [Change] = []
        for (key, condition) in self.conditions {
            let lasted = now.nanoseconds - condition.since.nanoseconds
            if condition.holds, !condition.isRaised, lasted >= self.raiseAfter(key.rule) {
                self.conditions[key]?.isRaised = true
                changes.append(Change(key: key, isRaised: true, text: condition.text))
            } else if !condition.holds, !condition.isRaised {
                self.conditions[key] = nil
            } else if !condition.holds, lasted >= self.clearAfter(key.rule),
                condition.isConfirmed || !Self.needsConfirmation(key.rule)
            {
                self.conditions[key] = nil
                changes.append(Change(key: key, isRaised: false, text: condition.text))
            }
        }
        return changes.sorted { $0.key < $1.key }
    }
}
