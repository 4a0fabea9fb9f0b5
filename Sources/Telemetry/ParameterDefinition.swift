import Identity

/// What an auditor's parameter is: its type, its unit and its bounds. The auditor holds every update against it;
/// a control center does so before it signs, so that a slip of the finger is told at once.
public struct ParameterDefinition: Hashable, Sendable {
    /// Types, with their bounds.
    public enum Kind: Hashable, Sendable {
        /// Seconds, in nanoseconds: a number with the unit `s`, exact to 1e-9.
        case seconds(ClosedRange<Int64>)
        /// A whole number without a unit.
        case count(ClosedRange<Int64>)
        /// One of these words.
        case choice([String])
        /// Names of meters; none for all.
        case meters
    }

    public let name: Topic.Parameter
    public let kind: Kind
    /// One line for people.
    public let summary: String

    private init(_ name: Topic.Parameter, _ kind: Kind, _ summary: String) {
        self.name = name
        self.kind = kind
        self.summary = summary
    }

    /// The unit that an update must say; nil for none.
    public var unit: String? {
        if case .seconds = self.kind { "s" } else { nil }
    }

    /// The bounds, for people.
    public var bounds: String {
        switch self.kind {
        case .seconds(let range): "\(Self.seconds(range.lowerBound)) to \(Self.seconds(range.upperBound)) s"
        case .count(let range): "\(range.lowerBound) to \(range.upperBound)"
        case .choice(let words): words.joined(separator: ", ")
        case .meters: "names of meters between commas, or all"
        }
    }

    // MARK: The parameters

    /// Every parameter that an auditor has.
    public static let all = [
        ParameterDefinition(
            .sampleRate, .seconds(50_000_000...86_400_000_000_000), "time between two readings of a meter"),
        ParameterDefinition(
            .statementInterval, .seconds(0...86_400_000_000_000),
            "time that readings wait to share a statement; 0 for none"),
        ParameterDefinition(.metersEnabled, .meters, "meters whose readings are signed and sent"),
        ParameterDefinition(
            .outboxLimit, .count(100...1_000_000_000), "messages without a receipt, beyond which no meter is read"),
        ParameterDefinition(
            .logLevel, .choice(["trace", "debug", "info", "notice", "warning", "error", "critical"]),
            "how much the auditor logs"),
    ]

    /// The parameter of this name; nil if there is none.
    public static func named(_ name: Topic.Parameter) -> ParameterDefinition? { Self.all.first { $0.name == name } }

    // MARK: Values

    /// Holds a value against type, unit and bounds.
    ///
    /// - Throws: ``Refusal`` `value`.
    public func check(_ value: ParameterValue, unit: String?) throws(Refusal) {
        if let flaw = value.flaw { throw Refusal(.value, flaw) }
        guard unit == self.unit else {
            throw Refusal(.value, "\(self.name) has \(self.unit.map { "the unit \($0)" } ?? "no unit")")
        }
        let isGood =
            switch (self.kind, value) {
            case (.seconds(let range), .number(let number)): number.nanoseconds.map(range.contains) ?? false
            case (.count(let range), .number(let number)): number.exponent == 0 && range.contains(number.mantissa)
            case (.choice(let words), .text(let word)): words.contains(word)
            case (.meters, .texts(let names)):
                Set(names).count == names.count && names.allSatisfy { (try? MeterName($0)) != nil }
            default: false
            }
        guard isGood else {
            throw Refusal(.value, "\(self.name) is \(self.bounds), not \(value.description.prefix(60))")
        }
    }

    /// Reads a value as people write it, and checks it.
    ///
    /// - Throws: ``Refusal`` `value`.
    public func parse(_ text: String) throws(Refusal) -> ParameterValue {
        let value: ParameterValue
        switch self.kind {
        case .seconds, .count:
            guard let number = ExactDecimal(text) else {
                throw Refusal(.value, "\(self.name) is \(self.bounds), not \(text.prefix(60))")
            }
            value = .number(number)
        case .choice: value = .text(text)
        case .meters:
            value = .texts(text == "all" || text.isEmpty ? [] : text.split(separator: ",").map(String.init))
        }
        try self.check(value, unit: self.unit)
        return value
    }

    private static func seconds(_ nanoseconds: Int64) -> String {
        let (whole, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        guard rest > 0 else { return String(whole) }
        var digits = String(String(rest + 1_000_000_000).dropFirst())
        while digits.hasSuffix("0") { digits.removeLast() }
        return "\(whole).\(digits)"
    }
}

extension ExactDecimal {
    /// The number of seconds that it says, in nanoseconds; nil if it is finer than that, or too large.
    public var nanoseconds: Int64? {
        var mantissa = self.mantissa
        var exponent = Int(self.exponent)
        while exponent < -9, mantissa % 10 == 0 {
            mantissa /= 10
            exponent += 1
        }
        guard exponent >= -9 else { return nil }
        var factor: Int64 = 1
        for _ in 0..<(9 + exponent) { factor *= 10 }
        let (nanoseconds, overflow) = mantissa.multipliedReportingOverflow(by: factor)
        return overflow ? nil : nanoseconds
    }
}
