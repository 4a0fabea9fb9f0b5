/// A 256-bit number, as far as the canonical form of an ECDSA signature over P-256 needs one.
///
/// Signatures are public, so nothing here needs to take constant time.
struct P256Scalar: Equatable {
    /// Most significant first.
    private var a: UInt64
    private var b: UInt64
    private var c: UInt64
    private var d: UInt64

    /// n, the order of the group (FIPS 186-5, SEC 2 section 2.4.2).
    static let order = P256Scalar(
        0xFFFF_FFFF_0000_0000, 0xFFFF_FFFF_FFFF_FFFF, 0xBCE6_FAAD_A717_9E84, 0xF3B9_CAC2_FC63_2551)

    /// Half of n, rounded down.
    static let halfOrder = P256Scalar(
        0x7FFF_FFFF_8000_0000, 0x7FFF_FFFF_FFFF_FFFF, 0xDE73_7D56_D38B_CF42, 0x79DC_E561_7E31_92A8)

    private init(_ a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64) {
        (self.a, self.b, self.c, self.d) = (a, b, c, d)
    }

    /// Reads 32 bytes, most significant first.
    ///
    /// - Precondition: 32 bytes follow `start`.
    init(_ bytes: [UInt8], at start: Int) {
        func word(_ index: Int) -> UInt64 {
            var value: UInt64 = 0
            for offset in 0..<8 { value = value << 8 | UInt64(bytes[start + index * 8 + offset]) }
            return value
        }
        self.init(word(0), word(1), word(2), word(3))
    }

    var isZero: Bool { self.a | self.b | self.c | self.d == 0 }

    static func < (x: P256Scalar, y: P256Scalar) -> Bool {
        (x.a, x.b, x.c, x.d) < (y.a, y.b, y.c, y.d)
    }

    /// n minus this number.
    ///
    /// - Precondition: below n.
    var negated: P256Scalar {
        let n = Self.order
        let (d, borrowD) = n.d.subtractingReportingOverflow(self.d)
        let (c, borrowC) = Self.subtract(n.c, self.c, borrowD)
        let (b, borrowB) = Self.subtract(n.b, self.b, borrowC)
        let (a, _) = Self.subtract(n.a, self.a, borrowB)
        return P256Scalar(a, b, c, d)
    }

    private static func subtract(_ x: UInt64, _ y: UInt64, _ borrow: Bool) -> (UInt64, Bool) {
        let (first, overflow) = x.subtractingReportingOverflow(y)
        let (second, again) = first.subtractingReportingOverflow(borrow ? 1 : 0)
        return (second, overflow || again)
    }

    /// Writes 32 bytes, most significant first.
    func write(to bytes: inout [UInt8], at start: Int) {
        for (index, word) in [self.a, self.b, self.c, self.d].enumerated() {
            for offset in 0..<8 {
                bytes[start + index * 8 + offset] = UInt8(truncatingIfNeeded: word >> UInt64(56 - offset * 8))
            }
        }
    }
}
