/// A decimal number with the digits that the meter gave, trailing zeros included: 0.30 stays 0.30.
///
/// `mantissa` × 10^`exponent`, |mantissa| < 2^63, exponent -18 ... 0. Equality and hashing are of the digits:
/// 0.3 and 0.30 differ. ``isNumericallyEqual(to:)`` compares values.
public struct ExactDecimal: Hashable, Sendable, CustomStringConvertible {
    /// All digits as an integer; never `Int64.min`.
    public let mantissa: Int64

    /// Minus the number of digits behind the point: -18 ... 0.
    public let exponent: Int8

    /// The smallest exponent.
    public static let minimumExponent = -18

    /// Nil if out of range.
    public init?(mantissa: Int64, exponent: Int) {
        guard mantissa != .min, (Self.minimumExponent...0).contains(exponent) else { return nil }
        self.mantissa = mantissa
        self.exponent = Int8(exponent)
    }

    /// An integer; nil for `Int64.min`.
    public init?(_ integer: Int64) { self.init(mantissa: integer, exponent: 0) }

    /// Reads `[-+]ddd[.ddd]`, digits on both sides of a point. Leading zeros, a plus and the sign of zero
    /// are not kept, every digit behind the point is.
    ///
    /// Nil for anything else (blanks, exponents, `.5`, `5.`), for more than 18 digits behind the point and
    /// for 2^63 or more as mantissa.
    public init?(_ text: some StringProtocol) { self.init(ascii: text.utf8) }

    /// As from text, out of bytes.
    public init?(ascii bytes: some Collection<UInt8>) {
        var digits = bytes[...]
        var isNegative = false
        if let sign = digits.first, sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") {
            isNegative = sign == UInt8(ascii: "-")
            digits = digits.dropFirst()
        }
        var mantissa: Int64 = 0
        var before = 0
        var behind: Int?
        for byte in digits {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"):
                let (tens, overflow) = mantissa.multipliedReportingOverflow(by: 10)
                let (sum, again) = tens.addingReportingOverflow(Int64(byte - UInt8(ascii: "0")))
                guard !overflow, !again else { return nil }
                mantissa = sum
                if let count = behind { behind = count + 1 } else { before += 1 }
            case UInt8(ascii: ".") where behind == nil: behind = 0
            default: return nil
            }
        }
        guard before > 0, behind != 0 else { return nil }
        self.init(mantissa: isNegative ? -mantissa : mantissa, exponent: -(behind ?? 0))
    }

    /// Written with exactly its digits.
    public var description: String {
        let digits = String(self.mantissa.magnitude)
        let sign = self.mantissa < 0 ? "-" : ""
        let behind = -Int(self.exponent)
        guard behind > 0 else { return sign + digits }
        let padded = String(repeating: "0", count: max(0, behind + 1 - digits.count)) + digits
        return sign + padded.dropLast(behind) + "." + padded.suffix(behind)
    }

    /// The nearest double.
    public var approximation: Double { Double(self.description) ?? .nan }

    /// Whether both are the same number, whatever their digits: 0.3 and 0.30.
    public func isNumericallyEqual(to other: ExactDecimal) -> Bool { self.reduced == other.reduced }

    /// Without trailing zeros behind the point.
    private var reduced: ExactDecimal {
        var mantissa = self.mantissa
        var exponent = Int(self.exponent)
        while exponent < 0, mantissa % 10 == 0 {
            mantissa /= 10
            exponent += 1
        }
        return ExactDecimal(mantissa: mantissa, exponent: exponent) ?? self
    }
}
