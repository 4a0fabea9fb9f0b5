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
/// cleared, and where messages tell, more than one has to say so, for several times as long as they are usually apart.
/// A condition that held is told of even if it is over by the next look.
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
        /// It has held, and is to be raised whatever came since.
        var isDue = false
        /// That it is over was said again later.
        var isConfirmed = false
        /// When a message told of it last, and how far apart such messages are.
        var said: Timestamp
        var spacing: Int64 = 0

        /// A message tells of it. One long silence is forgotten after some messages more.
        mutating func hear(at now: Timestamp) {
            guard now > self.said else { return }
            self.spacing = max(now.nanoseconds - self.said.nanoseconds, self.spacing - self.spacing / 8)
            self.said = now
        }
    }

    /// What an auditor's words can make many of: meters and their quantities, what it tells; incidents apart, so that
    /// the ones do not hide the others.
    private struct Share: Hashable {
        var auditor: String
        var isIncident: Bool

        init(_ auditor: String, isIncident: Bool) {
            self.auditor = auditor
            self.isIncident = isIncident
        }

        /// Nil for what there is one of.
        init?(_ key: AlertKey) {
            guard !key.subject.isEmpty else { return nil }
            self.auditor = key.auditor
            self.isIncident = key.rule == .fork || key.rule == .streamRestart
        }
    }

    private struct Usual {
        var mean: Double
        var count: Int
    }

    /// So many conditions and series are remembered; what is beyond is not watched.
    private static let maximumKeys = 200_000
    /// So many conditions with a subject of one auditor, and as many incidents; what is beyond is one alert.
    static let maximumOfAuditor = 64
    /// So many series of one auditor have a usual consumption.
    private static let maximumSeries = 256
    private static let minute: Int64 = 60_000_000_000

    public let rules: AlertRules
    private var conditions: [AlertKey: Condition] = [:]
    private var lastHeard: [String: Timestamp] = [:]
    private var usual: [AlertKey: Usual] = [:]
    private var refusals: [String: (minute: Int64, count: Int64)] = [:]
    /// How many conditions there are of each share, and how many series of each auditor.
    private var shares: [Share: Int] = [:]
    private var series: [String: Int] = [:]
    private var missing: [String: Int64] = [:]
    /// So many missing numbers of an auditor are known to operators.
    private(set) var acceptedGaps: [String: Int64] = [:]
    /// Something was not watched for want of room.
    private(set) var isFull = false
    /// When certificates end, and the ends of those that operators know of.
    private var certificates: [String: Timestamp] = [:]
    private var closedCertificates: [String: Timestamp] = [:]

    public init(rules: AlertRules = AlertRules()) {
        self.rules = rules
    }

    /// An alert that was raised before this process began.
    public mutating func restore(_ key: AlertKey, text: String, at now: Timestamp) {
        self.insert(key, Condition(holds: true, since: now, text: text, isRaised: true, said: now))
        // Nothing more of it may ever come, which is what ends it.
        if key.rule == .refusals { self.refusals[key.auditor] = (now.nanoseconds / Self.minute - 1, 0) }
    }

    /// So many missing numbers of an auditor were known to operators before this process began.
    mutating func restore(acceptedGap count: Int64, of auditor: String) {
        self.acceptedGaps[auditor] = count
    }

    /// When an auditor was heard last, before this process began.
    public mutating func restore(lastHeard time: Timestamp, of auditor: String) {
        self.lastHeard[auditor] = max(self.lastHeard[auditor] ?? time, time)
    }

    /// Alerts that are open in the store: what is raised here and not among them, an operator has closed. It is raised
    /// again when something new says so.
    mutating func keep(_ open: Set<AlertKey>) {
        for (key, condition) in self.conditions where condition.isRaised && !open.contains(key) {
            self.remove(key)
            switch key.rule {
            case .noData: self.lastHeard[key.auditor] = nil
            case .gap: self.acceptedGaps[key.auditor] = self.missing[key.auditor]
            case .certificateExpiring: self.closedCertificates[key.auditor] = self.certificates[key.auditor]
            default: break
            }
        }
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
            self.missing[auditor] = count
            let accepted = min(self.acceptedGaps[auditor] ?? 0, count)
            self.acceptedGaps[auditor] = accepted == 0 ? nil : accepted
            self.set(AlertKey(.gap, auditor), count > accepted, "\(count) messages are missing in its stream", now)
        case .certificate(let auditor, let ends):
            self.certificates[auditor] = ends
            guard self.closedCertificates[auditor] != ends else { return }
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
            // More than these is news again.
            if key.rule == .gap { self.acceptedGaps[key.auditor] = self.missing[key.auditor] ?? 0 }
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
        guard let value = reading.value?.approximation, value.isFinite else { return }
        let quantity = reading.quantity.description
        let part = reading.part == .whole ? "" : "/\(reading.part)"
        let subject = "\(reading.meter) \(quantity)\(part)"
        for range in self.rules.ranges where range.quantity == quantity {
            let margin = (range.bounds.upperBound - range.bounds.lowerBound) / 50
            self.set(
                AlertKey(.outOfRange, auditor, subject), !range.bounds.contains(value),
                isOver: value >= range.bounds.lowerBound + margin && value <= range.bounds.upperBound - margin,
                "\(subject) is \(reading.value?.description ?? "") \(reading.unit), outside of \(range.bounds.lowerBound) to \(range.bounds.upperBound)",
                now)
        }
        guard let watts = Self.watts(of: reading, value) else { return }
        switch reading.quantity {
        case .production, .powerProduced:
            guard let night = self.rules.night else { return }
            let isNight = night.contains(reading.time)
            self.set(
                AlertKey(.nightProduction, auditor, subject), isNight && watts > night.threshold,
                isOver: !isNight || watts < night.threshold / 2,
                "\(subject) is \(Self.text(watts)) W at \(reading.time), which is at night", now)
        case .consumption, .powerConsumed:
            self.judgeJump(AlertKey(.consumptionJump, auditor, subject), watts, now)
        default: break
        }
    }

    private mutating func judgeJump(_ key: AlertKey, _ watts: Double, _ now: Timestamp) {
        guard self.rules.jumpFactor > 0 else { return }
        guard var usual = self.usual[key] else {
            guard self.usual.count < Self.maximumKeys, self.series[key.auditor, default: 0] < Self.maximumSeries else {
                self.isFull = true
                return
            }
            self.series[key.auditor, default: 0] += 1
            self.usual[key] = Usual(mean: watts, count: 1)
            return
        }
        // It takes some readings to know what is usual, and what nobody would call much is never a jump.
        if usual.count >= 20 {
            let limit = max(usual.mean * self.rules.jumpFactor, 500)
            self.set(
                key, watts > limit, isOver: watts < limit * 0.7,
                "\(key.subject) is \(Self.text(watts)) W; usual is \(Self.text(usual.mean)) W", now)
            // A jump becomes usual slowly.
            usual.mean += (min(max(watts, -limit), limit) - usual.mean) * 0.02
        } else {
            usual.mean += (watts - usual.mean) / Double(usual.count + 1)
        }
        usual.count += 1
        self.usual[key] = usual
    }

    /// The mean power that a reading tells; nil for what tells none.
    private static func watts(of reading: Reading, _ value: Double) -> Double? {
        let watts: Double
        switch reading.unit {
        case .watt: watts = value
        case .kilowatt: watts = value * 1_000
        case .wattHour, .kilowattHour:
            guard let interval = reading.interval, interval > 0 else { return nil }
            watts = value * (reading.unit == .wattHour ? 1 : 1_000) * 3_600e9 / Double(interval)
        default: return nil
        }
        return watts.isFinite ? watts : nil
    }

    /// Whole watts; what a meter can say is more than an integer holds.
    private static func text(_ watts: Double) -> String {
        Int64(exactly: watts.rounded(.towardZero)).map(String.init) ?? "\(watts)"
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
        let isDue = holds && self.raiseAfter(key.rule) == 0
        guard var condition = self.conditions[key] else {
            guard holds else { return }
            guard self.conditions.count < Self.maximumKeys else { return self.isFull = true }
            if let share = Share(key), self.shares[share, default: 0] >= Self.maximumOfAuditor {
                return self.set(
                    AlertKey(.andMore, key.auditor), true,
                    "more than \(Self.maximumOfAuditor) alerts of it are open; what is beyond is not told", now)
            }
            self.insert(
                key, Condition(holds: true, since: now, text: text(), isRaised: false, isDue: isDue, said: now))
            return
        }
        condition.hear(at: now)
        defer { self.conditions[key] = condition }
        if holds, !condition.holds {
            condition.holds = true
            condition.since = now
            condition.text = text()
            condition.isDue = isDue
            condition.isConfirmed = false
        } else if !holds, isOver ?? true, condition.holds {
            condition.holds = false
            condition.since = now
            condition.isConfirmed = false
        } else if !holds, isOver ?? true, now > condition.since {
            condition.isConfirmed = true
        }
    }

    private mutating func insert(_ key: AlertKey, _ condition: Condition) {
        if self.conditions.updateValue(condition, forKey: key) == nil, let share = Share(key) {
            self.shares[share, default: 0] += 1
        }
    }

    private mutating func remove(_ key: AlertKey) {
        guard self.conditions.removeValue(forKey: key) != nil, let share = Share(key) else { return }
        let count = self.shares[share, default: 0] - 1
        self.shares[share] = count > 0 ? count : nil
    }

    /// How long a condition must last before it is an alert.
    private func raiseAfter(_ rule: AlertRule) -> Int64 { rule == .gap ? self.rules.gapAfter : 0 }

    /// How long a condition must be over before its alert is cleared.
    private func clearAfter(_ key: AlertKey, _ condition: Condition) -> Int64 {
        switch key.rule {
        // One sign of life in each such time is what the rule is about.
        case .noData: max(self.rules.clearAfter, self.rules.noDataAfter + 1)
        // What comes back every few messages is not over in between.
        case let rule where Self.needsConfirmation(rule):
            max(self.rules.clearAfter, min(condition.spacing, 1_440 * Self.minute) * 6)
        default: self.rules.clearAfter
        }
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
        for key in self.conditions.keys where key.rule == .andMore {
            let open = [Share(key.auditor, isIncident: false), Share(key.auditor, isIncident: true)].compactMap {
                self.shares[$0]
            }
            self.set(key, false, isOver: open.allSatisfy { $0 <= Self.maximumOfAuditor / 2 }, "", now)
        }
        self.refusals = self.refusals.filter { $0.value.minute + 1 >= now.nanoseconds / Self.minute }
        var changes: [Change] = []
        for (key, condition) in self.conditions {
            let lasted = now.nanoseconds - condition.since.nanoseconds
            if !condition.isRaised, condition.isDue || condition.holds && lasted >= self.raiseAfter(key.rule) {
                self.conditions[key]?.isRaised = true
                changes.append(Change(key: key, isRaised: true, text: condition.text))
            } else if !condition.holds, !condition.isRaised {
                self.remove(key)
            } else if !condition.holds, lasted >= self.clearAfter(key, condition),
                condition.isConfirmed || !Self.needsConfirmation(key.rule)
            {
                self.remove(key)
                changes.append(Change(key: key, isRaised: false, text: condition.text))
            }
        }
        return changes.sorted { $0.key < $1.key }
    }
}
