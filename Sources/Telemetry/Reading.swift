public import Identity

/// One reading of one meter.
public struct Reading: Hashable, Sendable {
    /// The longest interval: 2^28 s, in nanoseconds.
    public static let maximumInterval: Int64 = (1 << 28) * 1_000_000_000

    public var meter: MeterName
    public var quantity: Quantity
    public var part: Part
    public var unit: Unit

    /// When it was read; with an interval, the interval's start. From 2^28 s on.
    public var time: Timestamp

    /// The length of the interval that the value is of, in nanoseconds, 1 ... ``maximumInterval``; nil for
    /// a momentary value or a register.
    public var interval: Int64?

    /// Nil if and only if the quality is ``Quality/missing``.
    public var value: ExactDecimal?

    public var quality: Quality

    public init(
        meter: MeterName, quantity: Quantity, part: Part = .whole, unit: Unit, time: Timestamp,
        interval: Int64? = nil, value: ExactDecimal?, quality: Quality = .good
    ) {
        self.meter = meter
        self.quantity = quantity
        self.part = part
        self.unit = unit
        self.time = time
        self.interval = interval
        self.value = value
        self.quality = quality
    }

    /// What is wrong with this reading by the rules of the wire format, in one line; nil if nothing is.
    public var flaw: String? {
        guard self.quantity.allows(self.unit) else { return "\(self.quantity) cannot come in \(self.unit)" }
        guard !self.part.isTariff || self.quantity.kind != .momentary else {
            return "\(self.quantity) has no tariffs"
        }
        switch self.quantity.kind {
        case .energy where self.interval == nil: return "\(self.quantity) needs an interval"
        case .register where self.interval != nil: return "\(self.quantity) is a register and has no interval"
        default: break
        }
        if let interval = self.interval, !(1...Self.maximumInterval).contains(interval) {
            return "an interval must be above 0 and at most 2^28 s"
        }
        guard (self.value == nil) == (self.quality == .missing) else {
            return "a value must be there, unless the quality is m (missing)"
        }
        let nanoseconds = self.time.nanoseconds
        guard nanoseconds >= SenML.earliest, nanoseconds < SenML.latest else {
            return "the time must be from 2^28 s to below 2^33 s after 1970"
        }
        return nil
    }
}
