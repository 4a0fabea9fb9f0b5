/// A moment: nanoseconds since 1970-01-01T00:00:00 UTC, leap seconds not counted. 1677 to 2262.
public struct Timestamp: Hashable, Sendable, Comparable {
    /// Seconds that appear on the wire are below this: 2^33, in the year 2242.
    public static let wireSecondsLimit: Int64 = 1 << 33

    public let nanoseconds: Int64

    public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    /// Whole seconds.
    ///
    /// What is beyond the years 1677 to 2262 becomes the first or the last moment.
    public init(seconds: Int64) {
        let (nanoseconds, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        self.nanoseconds = overflow ? (seconds < 0 ? .min : .max) : nanoseconds
    }

    /// Whole seconds, rounded down.
    public var seconds: Int64 {
        let (quotient, remainder) = self.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        return remainder < 0 ? quotient - 1 : quotient
    }

    public static func < (a: Timestamp, b: Timestamp) -> Bool { a.nanoseconds < b.nanoseconds }

    /// This moment and a number of nanoseconds.
    ///
    /// - Precondition: the result is within the range of the type.
    public func advanced(byNanoseconds nanoseconds: Int64) -> Timestamp {
        Timestamp(nanoseconds: self.nanoseconds + nanoseconds)
    }
}

extension Timestamp: CustomStringConvertible {
    /// RFC 3339 in UTC, with as many digits behind the second as are needed: `2026-01-31T08:15:00Z`.
    public var description: String {
        let seconds = self.seconds
        let fraction = self.nanoseconds - seconds * 1_000_000_000
        let day = seconds >= 0 ? seconds / 86_400 : (seconds - 86_399) / 86_400
        let second = seconds - day * 86_400
        let (year, month, dayOfMonth) = Self.civil(fromDays: day)
        func padded(_ value: Int64, _ width: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, width - text.count)) + text
        }
        var text = "\(padded(year, 4))-\(padded(month, 2))-\(padded(dayOfMonth, 2))T"
        text += "\(padded(second / 3600, 2)):\(padded(second / 60 % 60, 2)):\(padded(second % 60, 2))"
        if fraction > 0 {
            var digits = padded(fraction, 9)
            while digits.hasSuffix("0") { digits.removeLast() }
            text += ".\(digits)"
        }
        return text + "Z"
    }

    /// Year, month and day of the Gregorian calendar, counted in eras of 400 years that begin on 1 March.
    private static func civil(fromDays days: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * marchMonth + 2) / 5 + 1
        let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day)
    }
}

/// How far the signer trusts its clock (the letters of OCMF).
public enum ClockQuality: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// Synchronised.
    case synchronised = 0x53
    /// Informative: set once by someone, not kept.
    case informative = 0x49
    /// Relative: the last synchronised time plus a monotonic clock.
    case relative = 0x52
    /// Unknown.
    case unknown = 0x55

    /// The letter on the wire: `S`, `I`, `R` or `U`.
    public var description: String { String(UnicodeScalar(self.rawValue)) }
}
