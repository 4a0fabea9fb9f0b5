import Foundation

/// How times that are written without a zone are to be read.
public enum LocalTimeZone: Hashable, Sendable, CustomStringConvertible {
    /// A constant distance from UTC, in seconds, east positive.
    case offset(seconds: Int)
    /// A zone of the IANA database, with its changes of clock.
    case named(String)

    public static let utc = LocalTimeZone.offset(seconds: 0)

    /// Reads `UTC`, `Z`, `+02:00`, `-0330`, or a name of the IANA database such as `Europe/Madrid`; nil for any
    /// other text.
    public init?(name text: String) {
        if text == "UTC" || text == "Z" || text == "GMT" {
            self = .utc
            return
        }
        let bytes = Array(text.utf8)
        if let first = bytes.first, first == UInt8(ascii: "+") || first == UInt8(ascii: "-") {
            var scanner = TimeScanner(bytes[...])
            guard let seconds = scanner.offset(), scanner.isAtEnd else { return nil }
            self = .offset(seconds: seconds)
            return
        }
        guard text.contains("/"), TimeZone(identifier: text) != nil else { return nil }
        self = .named(text)
    }

    public var description: String {
        switch self {
        case .named(let name): return name
        case .offset(0): return "UTC"
        case .offset(let seconds):
            let minutes = abs(seconds) / 60
            let hours = minutes / 60 < 10 ? "0\(minutes / 60)" : "\(minutes / 60)"
            let rest = minutes % 60 < 10 ? "0\(minutes % 60)" : "\(minutes % 60)"
            return "\(seconds < 0 ? "-" : "+")\(hours):\(rest)"
        }
    }
}

/// A date and time of day without a zone: seconds since 1970-01-01 00:00 as that clock counts them.
public struct LocalTime: Hashable, Sendable {
    public var seconds: Int64
    public var nanoseconds: Int64 = 0
    /// The distance from UTC, if the text itself says it.
    public var offset: Int?

    /// Days since 1970-01-01 of a date of the Gregorian calendar; `nil` if there is no such day.
    package static func days(year: Int, month: Int, day: Int) -> Int64? {
        guard (1970...9_999).contains(year), (1...12).contains(month), day >= 1 else { return nil }
        let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
        let lengths = [31, isLeap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        guard day <= lengths[month - 1] else { return nil }
        // Years counted from March, so that the leap day is the last.
        let shifted = month <= 2 ? year - 1 : year
        let era = shifted / 400
        let yearOfEra = shifted % 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return Int64(era * 146_097 + dayOfEra - 719_468)
    }

    /// Reads `2011-07-01 00:30[:00[.5]]`, also with `T` or `/`, day first with `01/07/2011 00:30`, a date alone,
    /// an offset or `Z` behind any of them, or Unix seconds (nine to eleven digits).
    public init?(_ text: ArraySlice<UInt8>) {
        var scanner = TimeScanner(text)
        let leading = scanner.digits(1...11)
        guard let leading else { return nil }
        if scanner.isAtEnd {
            guard leading.count >= 9 else { return nil }
            self.init(seconds: Int64(leading.value), offset: 0)
            return
        }
        guard let separator = scanner.any("-/."), let middle = scanner.digits(1...2), scanner.any(separator),
            let trailing = scanner.digits(1...4)
        else { return nil }
        let date: Int64?
        if leading.count == 4, trailing.count <= 2 {
            date = Self.days(year: leading.value, month: middle.value, day: trailing.value)
        } else if trailing.count == 4, leading.count <= 2, separator != UInt8(ascii: "-") {
            date = Self.days(year: trailing.value, month: middle.value, day: leading.value)
        } else {
            return nil
        }
        guard let date else { return nil }
        self.init(seconds: date * 86_400)
        guard !scanner.isAtEnd else { return }
        guard scanner.any("T ") != nil else { return nil }
        guard let hour = scanner.digits(1...2), hour.value < 24, scanner.any(UInt8(ascii: ":")),
            let minute = scanner.digits(2...2), minute.value < 60
        else { return nil }
        self.seconds += Int64(hour.value * 3_600 + minute.value * 60)
        if scanner.any(UInt8(ascii: ":")) {
            guard let second = scanner.digits(2...2), second.value < 60 else { return nil }
            self.seconds += Int64(second.value)
            if scanner.any(".,") != nil {
                guard let fraction = scanner.digits(1...9) else { return nil }
                var value = Int64(fraction.value)
                for _ in fraction.count..<9 { value *= 10 }
                self.nanoseconds = value
            }
        }
        guard !scanner.isAtEnd else { return }
        _ = scanner.any(" ")
        if scanner.any("Zz") != nil {
            self.offset = 0
        } else {
            guard let offset = scanner.offset() else { return nil }
            self.offset = offset
        }
        guard scanner.isAtEnd else { return nil }
    }

    public init(seconds: Int64, nanoseconds: Int64 = 0, offset: Int? = nil) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
        self.offset = offset
    }
}

/// Takes digits and signs from the front of a text.
private struct TimeScanner {
    private var rest: ArraySlice<UInt8>

    init(_ text: ArraySlice<UInt8>) { self.rest = text }

    var isAtEnd: Bool { self.rest.isEmpty }

    mutating func digits(_ allowed: ClosedRange<Int>) -> (value: Int, count: Int)? {
        var value = 0
        var count = 0
        while let byte = self.rest.first, (0x30...0x39).contains(byte) {
            guard count < allowed.upperBound else { return nil }
            value = value * 10 + Int(byte - 0x30)
            count += 1
            self.rest.removeFirst()
        }
        return allowed.contains(count) ? (value, count) : nil
    }

    mutating func any(_ set: String) -> UInt8? {
        guard let byte = self.rest.first, set.utf8.contains(byte) else { return nil }
        self.rest.removeFirst()
        return byte
    }

    mutating func any(_ byte: UInt8) -> Bool {
        guard self.rest.first == byte else { return false }
        self.rest.removeFirst()
        return true
    }

    /// `+02`, `+0200` or `+02:00`, in seconds.
    mutating func offset() -> Int? {
        guard let sign = self.any("+-") else { return nil }
        guard let first = self.digits(2...4), first.count != 3 else { return nil }
        var hours = first.value
        var minutes = 0
        if first.count == 4 {
            hours = first.value / 100
            minutes = first.value % 100
        } else if self.any(UInt8(ascii: ":")) {
            guard let second = self.digits(2...2) else { return nil }
            minutes = second.value
        }
        guard hours <= 18, minutes < 60 else { return nil }
        return (sign == UInt8(ascii: "-") ? -1 : 1) * (hours * 3_600 + minutes * 60)
    }
}

/// Turns local times into UTC; remembers the day it last looked up, because asking for a zone's offset is slow.
public struct LocalTimeResolver: Sendable {
    public enum Outcome: Hashable, Sendable {
        /// Seconds since 1970 UTC.
        case one(Int64)
        /// It never was: clocks were put forward over it.
        case skipped
        /// It was twice: clocks were put back.
        case ambiguous
    }

    private let constant: Int?
    private let zone: TimeZone?
    /// A local day during and around which the offset does not change.
    private var quietDay: (day: Int64, offset: Int)?

    public init(_ zone: LocalTimeZone) {
        switch zone {
        case .offset(let seconds):
            self.constant = seconds
            self.zone = nil
        case .named(let name):
            self.constant = nil
            self.zone = TimeZone(identifier: name)
        }
    }

    /// The moment that a local time is in this zone.
    public mutating func resolve(_ local: LocalTime) -> Outcome {
        if let offset = local.offset ?? self.constant { return .one(local.seconds - Int64(offset)) }
        guard let zone = self.zone else { return .one(local.seconds) }
        let day = local.seconds / 86_400
        if let quietDay, quietDay.day == day { return .one(local.seconds - Int64(quietDay.offset)) }
        // Offsets lie between -18 h and +18 h: a day before and behind is far enough on both sides of a change.
        let before = Self.offset(of: zone, at: (day - 1) * 86_400)
        let after = Self.offset(of: zone, at: (day + 2) * 86_400)
        if before == after {
            self.quietDay = (day, before)
            return .one(local.seconds - Int64(before))
        }
        let candidates = [before, after].filter {
            Self.offset(of: zone, at: local.seconds - Int64($0)) == $0
        }
        switch candidates.count {
        case 0: return .skipped
        case 1: return .one(local.seconds - Int64(candidates[0]))
        default: return .ambiguous
        }
    }

    /// The local time of a moment, in whole seconds since 1970 as a clock of this zone counts them.
    public func localSeconds(at seconds: Int64) -> Int64 {
        if let constant { return seconds + Int64(constant) }
        guard let zone = self.zone else { return seconds }
        return seconds + Int64(Self.offset(of: zone, at: seconds))
    }

    private static func offset(of zone: TimeZone, at seconds: Int64) -> Int {
        zone.secondsFromGMT(for: Date(timeIntervalSince1970: TimeInterval(seconds)))
    }
}
