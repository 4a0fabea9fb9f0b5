import Telemetry

/// When something that is stored is worth a person's attention. Every limit has a default that suits most homes.
public struct AlertRules: Hashable, Sendable {
    /// A quantity and the values that it may have, in the unit of its readings.
    public struct Range: Hashable, Sendable {
        /// As in readings, without its part: `voltage`, `frequency`.
        public var quantity: String
        public var bounds: ClosedRange<Double>

        public init(quantity: String, bounds: ClosedRange<Double>) {
            self.quantity = quantity
            self.bounds = bounds
        }
    }

    /// Minutes of the day, local, between which there is no sun; the first may be above the second.
    public struct Night: Hashable, Sendable {
        public var from: Int
        public var to: Int
        /// What local time is ahead of UTC, in minutes.
        public var offset: Int
        /// Watts, above which something produces.
        public var threshold: Double

        public init(from: Int, to: Int, offset: Int, threshold: Double = 20) {
            self.from = from
            self.to = to
            self.offset = offset
            self.threshold = threshold
        }

        func contains(_ time: Timestamp) -> Bool {
            let minutes = Int((time.seconds + Int64(self.offset) * 60) % 86_400 + 86_400) % 86_400 / 60
            return self.from <= self.to
                ? (self.from..<self.to).contains(minutes) : minutes >= self.from || minutes < self.to
        }
    }

    /// Nothing of an auditor for so many nanoseconds. Its heartbeat comes every 15 minutes.
    public var noDataAfter: Int64 = 35 * minute
    public var ranges = [
        Range(quantity: "voltage", bounds: 195...255), Range(quantity: "frequency", bounds: 47.5...52.5),
    ]
    /// Nil: production is never suspicious.
    public var night: Night?
    /// A consumption so many times the usual one; 0: none is.
    public var jumpFactor = 8.0
    /// Numbers that are missing for so long.
    public var gapAfter: Int64 = 10 * minute
    /// A certificate that ends within so long.
    public var certificateWithin: Int64 = 14 * 1_440 * minute
    /// A message that says it was signed so much later than it arrived.
    public var clockOff: Int64 = 2 * minute
    /// So many messages in an auditor's outbox.
    public var outboxCount: Int64 = 10_000
    /// So many refused messages in a minute.
    public var refusalsPerMinute: Int64 = 60
    /// What is over must stay so for so long before an alert is cleared.
    public var clearAfter: Int64 = 5 * minute

    public init() {}

    private static var minute: Int64 { 60_000_000_000 }
}

/// What a rule is called: the same word in store, notification and page.
public struct AlertRule: Hashable, Sendable, CustomStringConvertible {
    public let description: String

    private init(_ description: String) { self.description = description }

    public static let noData = AlertRule("no-data")
    public static let outOfRange = AlertRule("out-of-range")
    public static let nightProduction = AlertRule("night-production")
    public static let consumptionJump = AlertRule("consumption-jump")
    public static let gap = AlertRule("gap")
    public static let fork = AlertRule("fork")
    public static let streamRestart = AlertRule("stream-restart")
    public static let certificateExpiring = AlertRule("certificate-expiring")
    public static let clockOff = AlertRule("clock-off")
    public static let outboxFilling = AlertRule("outbox-filling")
    public static let refusals = AlertRule("refusals")
    /// What an auditor tells itself.
    public static let auditor = AlertRule("auditor")

    /// An auditor has so many alerts open that no more are told.
    public static let andMore = AlertRule("and-more")

    public static let all: [AlertRule] = [
        .noData, .outOfRange, .nightProduction, .consumptionJump, .gap, .fork, .streamRestart, .certificateExpiring,
        .clockOff, .outboxFilling, .refusals, .auditor, .andMore,
    ]

    /// Whether it is about something that has happened or is lost, so that an operator's word clears it.
    public var isClearedByOperator: Bool { self == .fork || self == .streamRestart || self == .gap }
}
