import Auditor
import Identity
import Telemetry

/// What an auditor's meter reads: for each number a reading, always the same, with digits of its own.
enum Meter {
    static let interval: Int64 = 1_000_000_000

    static func reading(_ number: Int, of auditor: Int, from start: Timestamp) throws -> Reading {
        Reading(
            meter: try MeterName("meter"), quantity: .consumption, unit: .kilowattHour,
            time: start.advanced(byNanoseconds: Int64(number) * Self.interval), interval: Self.interval,
            value: Self.value(number, of: auditor))
    }

    /// Different for every number; trailing zeros, no point and many digits all come up.
    static func value(_ number: Int, of auditor: Int) -> ExactDecimal? {
        ExactDecimal(mantissa: Int64(number * 10 + auditor) * (number % 3 == 0 ? 10 : 1), exponent: -(number % 5))
    }

    /// Which number a reading has by its time; `nil` if no meter of ours reads at such a time.
    static func number(of time: Timestamp, from start: Timestamp) -> Int? {
        let elapsed = time.nanoseconds - start.nanoseconds
        guard elapsed >= 0, elapsed % Self.interval == 0 else { return nil }
        return Int(elapsed / Self.interval)
    }

    /// Behind the first so many readings.
    static func position(_ next: Int) -> SourcePosition {
        SourcePosition(bytes: (0..<8).map { UInt8(truncatingIfNeeded: next >> (56 - 8 * $0)) })
    }

    static func next(_ position: SourcePosition) -> Int {
        position.bytes.reduce(0) { $0 << 8 | Int($1) }
    }
}
