/// 32 bytes held in place, so that hashes are values without a heap allocation.
struct Words256: Hashable, Sendable {
    var a: UInt64
    var b: UInt64
    var c: UInt64
    var d: UInt64

    static let zero = Words256(a: 0, b: 0, c: 0, d: 0)

    init(a: UInt64, b: UInt64, c: UInt64, d: UInt64) {
        (self.a, self.b, self.c, self.d) = (a, b, c, d)
    }

    /// - Precondition: 32 bytes.
    init(_ raw: UnsafeRawBufferPointer) {
        precondition(raw.count == 32)
        self.a = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        self.b = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        self.c = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        self.d = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
    }

    init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == 32 else { return nil }
        self = .zero
        for (index, byte) in bytes.enumerated() {
            switch index >> 3 {
            case 0: self.a = self.a << 8 | UInt64(byte)
            case 1: self.b = self.b << 8 | UInt64(byte)
            case 2: self.c = self.c << 8 | UInt64(byte)
            default: self.d = self.d << 8 | UInt64(byte)
            }
        }
    }

    var bytes: [UInt8] {
        [UInt8](unsafeUninitializedCapacity: 32) { buffer, count in
            let raw = UnsafeMutableRawBufferPointer(buffer)
            raw.storeBytes(of: self.a.bigEndian, toByteOffset: 0, as: UInt64.self)
            raw.storeBytes(of: self.b.bigEndian, toByteOffset: 8, as: UInt64.self)
            raw.storeBytes(of: self.c.bigEndian, toByteOffset: 16, as: UInt64.self)
            raw.storeBytes(of: self.d.bigEndian, toByteOffset: 24, as: UInt64.self)
            count = 32
        }
    }

    func isLess(than other: Words256) -> Bool {
        (self.a, self.b, self.c, self.d) < (other.a, other.b, other.c, other.d)
    }
}

/// Lower-case hexadecimal digits, two a byte.
func hexadecimal(_ bytes: some Collection<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

/// Bytes of lower- or upper-case hexadecimal digits; nil for anything else.
func bytes(hexadecimal text: some StringProtocol) -> [UInt8]? {
    let digits = Array(text.utf8)
    guard digits.count.isMultiple(of: 2) else { return nil }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(digits.count / 2)
    for index in stride(from: 0, to: digits.count, by: 2) {
        guard let high = nibble(digits[index]), let low = nibble(digits[index + 1]) else { return nil }
        bytes.append(high << 4 | low)
    }
    return bytes
}

private func nibble(_ digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
    default: nil
    }
}
