/// A decimal number as it is written by other programs: sign, digits, an optional point (or comma), an optional exponent.
///
/// Digits are kept as written: `0.48200000000000004` stays what it is and `0.10` keeps its zero.
package struct DecimalText: Hashable {
    /// All digits as one integer.
    package var mantissa: Int64
    /// How far the point stands to the right of them: -18 to 0.
    package var exponent: Int

    package enum Failure: Error, Equatable {
        /// Not a decimal number.
        case malformed
        /// More digits than 63 bits or 18 places behind the point hold.
        case tooManyDigits
    }

    package init(_ text: ArraySlice<UInt8>, allowsComma: Bool) throws(Failure) {
        var rest = text
        var isNegative = false
        if let sign = rest.first, sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") {
            isNegative = sign == UInt8(ascii: "-")
            rest.removeFirst()
        }
        var mantissa: Int64 = 0
        var places = 0
        var digits = 0
        var hasPoint = false
        while let byte = rest.first {
            if (0x30...0x39).contains(byte) {
                let (product, overflow) = mantissa.multipliedReportingOverflow(by: 10)
                let (sum, overflow2) = product.addingReportingOverflow(Int64(byte - 0x30))
                guard !overflow, !overflow2 else { throw .tooManyDigits }
                mantissa = sum
                digits += 1
                if hasPoint { places += 1 }
            } else if !hasPoint, byte == UInt8(ascii: ".") || (allowsComma && byte == UInt8(ascii: ",")) {
                hasPoint = true
            } else {
                break
            }
            rest.removeFirst()
        }
        guard digits > 0 else { throw .malformed }
        var exponent = -places
        if let letter = rest.first, letter == UInt8(ascii: "e") || letter == UInt8(ascii: "E") {
            rest.removeFirst()
            exponent += try Self.scale(&rest)
        }
        guard rest.isEmpty else { throw .malformed }
        // 2e3 is 2000: the wire has no positive exponents.
        while exponent > 0 {
            let (product, overflow) = mantissa.multipliedReportingOverflow(by: 10)
            guard !overflow, mantissa != 0 || exponent <= 18 else { throw .tooManyDigits }
            mantissa = product
            exponent -= 1
        }
        guard exponent >= -18 else { throw .tooManyDigits }
        self.mantissa = isNegative ? -mantissa : mantissa
        self.exponent = exponent
    }

    private static func scale(_ rest: inout ArraySlice<UInt8>) throws(Failure) -> Int {
        var isNegative = false
        if let sign = rest.first, sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") {
            isNegative = sign == UInt8(ascii: "-")
            rest.removeFirst()
        }
        var value = 0
        guard (1...3).contains(rest.count) else { throw .malformed }
        for byte in rest {
            guard (0x30...0x39).contains(byte) else { throw .malformed }
            value = value * 10 + Int(byte - 0x30)
        }
        rest.removeAll()
        return isNegative ? -value : value
    }
}
