/// What was measured. The raw values are for storage, fixed for good.
public enum Quantity: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// Energy consumed over an interval.
    case consumption = 1
    /// Energy produced over an interval.
    case production = 2
    /// A register of energy consumed.
    case consumptionTotal = 3
    /// A register of energy produced.
    case productionTotal = 4
    /// Power, positive or negative as the meter says.
    case power = 5
    case powerConsumed = 6
    case powerProduced = 7
    case voltage = 8
    case current = 9
    case powerFactor = 10
    case frequency = 11

    /// The name on the wire, such as `consumption_total`.
    public var description: String { Self.names[Int(self.rawValue) - 1] }

    /// Nil for a name that is none.
    public init?(_ name: some StringProtocol) {
        guard let index = Self.names.firstIndex(where: { $0 == name }) else { return nil }
        self.init(rawValue: UInt8(index + 1))
    }

    /// What kind of quantity, which decides about units and interval.
    public enum Kind: Hashable, Sendable {
        /// Energy over an interval, which must be told.
        case energy
        /// The count of a register at a moment: no interval.
        case register
        /// A momentary value, or with an interval the mean over it.
        case momentary
    }

    public var kind: Kind {
        switch self {
        case .consumption, .production: .energy
        case .consumptionTotal, .productionTotal: .register
        default: .momentary
        }
    }

    /// Whether a reading of this quantity may come in `unit`.
    public func allows(_ unit: Unit) -> Bool {
        switch self {
        case .consumption, .production, .consumptionTotal, .productionTotal: unit == .wattHour || unit == .kilowattHour
        case .power, .powerConsumed, .powerProduced: unit == .watt || unit == .kilowatt
        case .voltage: unit == .volt
        case .current: unit == .ampere
        case .powerFactor: unit == .ratio
        case .frequency: unit == .hertz
        }
    }

    /// In the order of raw values, from 1.
    private static let names = [
        "consumption", "production", "consumption_total", "production_total", "power", "power_consumed",
        "power_produced", "voltage", "current", "power_factor", "frequency",
    ]

    static let wireNames: [[UInt8]] = Self.names.map { Array($0.utf8) }
}

/// The unit of a reading, as in the SenML registry (RFC 8428 section 12.1, RFC 9100). The raw values are for
/// storage, fixed for good.
public enum Unit: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    case wattHour = 1
    case kilowattHour = 2
    case watt = 3
    case kilowatt = 4
    case volt = 5
    case ampere = 6
    case hertz = 7
    /// A ratio, written `/`.
    case ratio = 8

    /// The name on the wire: `Wh`, `kWh`, `W`, `kW`, `V`, `A`, `Hz`, `/`.
    public var description: String { Self.names[Int(self.rawValue) - 1] }

    /// Nil for a name that is none.
    public init?(_ name: some StringProtocol) {
        guard let index = Self.names.firstIndex(where: { $0 == name }) else { return nil }
        self.init(rawValue: UInt8(index + 1))
    }

    private static let names = ["Wh", "kWh", "W", "kW", "V", "A", "Hz", "/"]

    static let wireNames: [[UInt8]] = Self.names.map { Array($0.utf8) }
}

/// Which part of the quantity a reading is of: all of it, one of three lines, or one tariff of an energy.
public struct Part: Hashable, Sendable, CustomStringConvertible {
    /// For storage: 0 all, 1...3 a line, 100 + n tariff n.
    public let rawValue: UInt8

    /// All lines and tariffs together: no suffix.
    public static let whole = Part(checked: 0)
    public static let line1 = Part(checked: 1)
    public static let line2 = Part(checked: 2)
    public static let line3 = Part(checked: 3)

    /// The highest number of a tariff.
    public static let maximumTariff = 99

    private init(checked: UInt8) { self.rawValue = checked }

    /// Nil for a number that is none.
    public init?(rawValue: UInt8) {
        guard rawValue <= 3 || (101...199).contains(rawValue) else { return nil }
        self.rawValue = rawValue
    }

    /// Tariff 1...99; nil for another number.
    public init?(tariff: Int) {
        guard (1...Self.maximumTariff).contains(tariff) else { return nil }
        self.rawValue = UInt8(100 + tariff)
    }

    public var isTariff: Bool { self.rawValue > 100 }

    /// The suffix on the wire: empty, `l1`...`l3`, `t1`...`t99`.
    public var description: String {
        self.rawValue == 0 ? "" : self.isTariff ? "t\(self.rawValue - 100)" : "l\(self.rawValue)"
    }

    /// Nil for a suffix that is none.
    public init?(_ suffix: some StringProtocol) { self.init(ascii: suffix.utf8) }

    init?(ascii suffix: some Collection<UInt8>) {
        guard let kind = suffix.first else {
            self = .whole
            return
        }
        var number = 0
        let digits = suffix.dropFirst()
        guard (1...2).contains(digits.count), digits.first != UInt8(ascii: "0") else { return nil }
        for digit in digits {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { return nil }
            number = number * 10 + Int(digit - UInt8(ascii: "0"))
        }
        switch kind {
        case UInt8(ascii: "l") where number <= 3: self.init(rawValue: UInt8(number))
        case UInt8(ascii: "t"): self.init(tariff: number)
        default: return nil
        }
    }
}

/// How good a reading is. The raw value is its letter on the wire; ``good`` has none there.
public enum Quality: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    case good = 0
    /// `e`: estimated.
    case estimated = 0x65
    /// `r`: the counter was reset or wrapped since the last reading.
    case reset = 0x72
    /// `m`: missing; there is no value.
    case missing = 0x6D
    /// `x`: implausible.
    case implausible = 0x78

    /// `good`, or the letter.
    public var description: String { self == .good ? "good" : String(UnicodeScalar(self.rawValue)) }
}
