public import PKI

/// When an auditor's certificate is renewed, and what is said when it is not: a value, with clock and randomness
/// handed in.
///
/// It is tried first when about two thirds of the lifetime are over, spread so that auditors who joined on one day do
/// not all come in one minute. A failure is tried again, at first after a minute, then less and less often, but
/// always several times in what is left. The nearer the end, the louder: at a sixth, a twelfth and a twenty-fourth of
/// the lifetime an alarm, and another one when it is over.
public struct RenewalMachine: Sendable {
    public enum Action: Hashable, Sendable {
        /// Try to renew now, and say ``RenewalMachine/renewed(_:at:using:)`` or ``RenewalMachine/failed(_:at:using:)``.
        case renew
        case raise(Alarm)
        case clear(Alarm.Kind)
    }

    public static let adviceForAuditors =
        "ask the operator for a new invitation, then secure-mqtt auditor join --renew"

    /// The longest time between two tries, in seconds.
    static let longestWait: UnixTime = 6 * 3_600
    /// The shortest.
    static let shortestWait: UnixTime = 60

    public private(set) var validity: ClosedRange<UnixTime>
    /// When it is tried next. Behind the end nothing is tried any more: an expired certificate cannot ask.
    public private(set) var nextTry: UnixTime
    /// How often it failed since it was renewed.
    public private(set) var failures = 0
    /// Why it failed last.
    public private(set) var lastFailure: String?

    private let canRenew: Bool
    private let advice: String
    private var isTrying = false
    private var stage = Stage.quiet

    private enum Stage: Int, Comparable {
        case quiet, sixth, twelfth, last, over

        static func < (a: Stage, b: Stage) -> Bool { a.rawValue < b.rawValue }
    }

    /// - Parameters:
    ///   - validity: of the present certificate.
    ///   - canRenew: Whether there is an authority to ask; without, the end is only told.
    ///   - advice: What a person is to do when it cannot renew itself.
    public init(
        validity: ClosedRange<UnixTime>, canRenew: Bool = true, advice: String = Self.adviceForAuditors,
        using random: inout some RandomNumberGenerator
    ) {
        self.validity = validity
        self.canRenew = canRenew
        self.advice = advice
        self.nextTry = Self.firstTry(validity, &random)
    }

    /// Two thirds of the lifetime, a thirtieth of it sooner or later.
    private static func firstTry(
        _ validity: ClosedRange<UnixTime>, _ random: inout some RandomNumberGenerator
    ) -> UnixTime {
        let lifetime = validity.upperBound - validity.lowerBound
        let spread = lifetime / 30
        return validity.lowerBound + lifetime / 3 * 2 + Int64.random(in: -spread...spread, using: &random)
    }

    /// What to do by now.
    public mutating func tick(at now: UnixTime) -> [Action] {
        var actions = self.warn(now)
        if self.canRenew, !self.isTrying, now >= self.nextTry, now <= self.validity.upperBound {
            self.isTrying = true
            actions.append(.renew)
        }
        return actions
    }

    /// When ``tick(at:)`` is due at the latest; `nil` if nothing waits for time.
    public var nextDeadline: UnixTime? {
        var deadlines: [UnixTime] = []
        if self.canRenew, !self.isTrying, self.nextTry <= self.validity.upperBound { deadlines.append(self.nextTry) }
        if let next = Self.stages.first(where: { $0.stage > self.stage }) {
            deadlines.append(self.validity.upperBound - self.lifetime / next.part + 1)
        } else if self.stage < .over {
            deadlines.append(self.validity.upperBound + 1)
        }
        return deadlines.min()
    }

    /// There is another certificate, whoever brought it.
    public mutating func renewed(
        _ validity: ClosedRange<UnixTime>, at now: UnixTime, using random: inout some RandomNumberGenerator
    ) -> [Action] {
        self.validity = validity
        // A certificate that begins well before its issue and lives for minutes may be past two thirds already.
        self.nextTry = max(Self.firstTry(validity, &random), now + Self.shortestWait)
        self.failures = 0
        self.lastFailure = nil
        self.isTrying = false
        self.stage = .quiet
        return [.clear(.certificateEnds), .clear(.certificateExpired)] + self.warn(now)
    }

    /// It could not be renewed.
    public mutating func failed(
        _ reason: String, at now: UnixTime, using random: inout some RandomNumberGenerator
    ) -> [Action] {
        self.isTrying = false
        self.failures += 1
        self.lastFailure = reason
        let left = max(0, self.validity.upperBound - now)
        let doubled = Self.shortestWait << Int64(min(self.failures - 1, 10))
        let wait = max(Self.shortestWait, min(doubled, Self.longestWait, left / 8))
        // A quarter sooner or later, so that those whom one outage hit do not come back together.
        self.nextTry = now + wait + Int64.random(in: -(wait / 4)...(wait / 4), using: &random)
        return self.warn(now)
    }

    private static let stages: [(stage: Stage, part: Int64)] = [(.sixth, 6), (.twelfth, 12), (.last, 24)]

    private var lifetime: Int64 { self.validity.upperBound - self.validity.lowerBound }

    private mutating func warn(_ now: UnixTime) -> [Action] {
        let left = self.validity.upperBound - now
        var stage = Stage.quiet
        for (next, part) in Self.stages where left < self.lifetime / part { stage = next }
        if left < 0 { stage = .over }
        guard stage > self.stage else { return [] }
        self.stage = stage
        let end = CivilTime(self.validity.upperBound).iso8601
        let why = self.lastFailure.map { ": \($0)" } ?? ""
        guard stage == .over else {
            let renewal =
                self.canRenew
                ? "could not be renewed until now (\(self.failures) tries)\(why)"
                : "does not renew itself: \(self.advice)"
            return [
                .clear(.certificateEnds),
                .raise(Alarm(.certificateEnds, "the certificate ends at \(end) and \(renewal)")),
            ]
        }
        return [
            .clear(.certificateEnds),
            .raise(
                Alarm(
                    .certificateExpired,
                    "the certificate ended at \(end), brokers do not let it in\(why); \(self.advice)"
                )),
        ]
    }
}
