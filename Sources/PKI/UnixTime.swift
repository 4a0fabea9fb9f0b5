/// A moment: whole seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
public typealias UnixTime = Int64

/// A moment as the proleptic Gregorian calendar writes it, in UTC.
package struct CivilTime: Hashable, Sendable {
    package var year: Int
    package var month: Int
    package var day: Int
    package var hours: Int
    package var minutes: Int
    package var seconds: Int

    package init(year: Int, month: Int, day: Int, hours: Int, minutes: Int, seconds: Int) {
        self.year = year
        self.month = month
        self.day = day
        self.hours = hours
        self.minutes = minutes
        self.seconds = seconds
    }

    /// - Parameter time: between the years 0 and 9999; a time outside is taken as the nearer end.
    package init(_ time: UnixTime) {
        let time = min(max(time, -62_167_219_200), 253_402_300_799)
        var days = time / 86_400
        var rest = time % 86_400
        if rest < 0 {
            rest += 86_400
            days -= 1
        }
        // Years are counted from March, so that the leap day is the last of its year, in eras of 400 years
        // (146,097 days) that are all alike.
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        self.day = Int(dayOfYear - (153 * monthFromMarch + 2) / 5 + 1)
        self.month = Int(monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9)
        self.year = Int(yearOfEra + era * 400) + (self.month <= 2 ? 1 : 0)
        self.hours = Int(rest / 3_600)
        self.minutes = Int(rest / 60 % 60)
        self.seconds = Int(rest % 60)
    }

    /// Seconds since 1970; the fields are taken as given, each within its range.
    package var unixTime: UnixTime {
        let year = Int64(self.month <= 2 ? self.year - 1 : self.year)
        let era = (year >= 0 ? year : year - 399) / 400
        let yearOfEra = year - era * 400
        let dayOfYear = (153 * Int64(self.month > 2 ? self.month - 3 : self.month + 9) + 2) / 5 + Int64(self.day) - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        let days = era * 146_097 + dayOfEra - 719_468
        return days * 86_400 + Int64(self.hours * 3_600 + self.minutes * 60 + self.seconds)
    }

    /// RFC 3339, for example `2026-11-22T18:30:00Z`.
    package var iso8601: String {
        func padded(_ value: Int, _ width: Int) -> String {
            let digits = String(value)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        let date = "\(padded(self.year, 4))-\(padded(self.month, 2))-\(padded(self.day, 2))"
        return "\(date)T\(padded(self.hours, 2)):\(padded(self.minutes, 2)):\(padded(self.seconds, 2))Z"
    }
}
