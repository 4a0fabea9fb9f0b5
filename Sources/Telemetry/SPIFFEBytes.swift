import Identity

/// Where the parts of a SPIFFE ID lie in a message: checked by the rules of `SPIFFEID` without making
/// strings of it, since this is done for every message that arrives.
struct SPIFFEBytes: Sendable {
    let whole: Range<Int>
    let trustDomain: Range<Int>
    let role: Role
    let id: Range<Int>

    /// Nil if `range` of `bytes` is not a SPIFFE ID of ours.
    init?(_ bytes: [UInt8], in range: Range<Int>) {
        guard Self.starts(bytes, range.lowerBound, range.upperBound, with: Self.scheme) else { return nil }
        let domainStart = range.lowerBound + Self.scheme.count
        guard let domainEnd = Self.slash(bytes, domainStart..<range.upperBound),
            Self.isTrustDomain(bytes, domainStart..<domainEnd),
            let roleEnd = Self.slash(bytes, (domainEnd + 1)..<range.upperBound),
            let role = Self.role(bytes, (domainEnd + 1)..<roleEnd)
        else { return nil }
        let id = (roleEnd + 1)..<range.upperBound
        guard Name.isWellFormed(bytes, in: id, maximumLength: Identifier.maximumLength), !Name.isAll(bytes, in: id)
        else { return nil }
        self.whole = range
        self.trustDomain = domainStart..<domainEnd
        self.role = role
        self.id = id
    }

    /// The value.
    func spiffeID(in bytes: [UInt8]) -> SPIFFEID {
        SPIFFEID(
            trustDomain: TrustDomain(checked: String(decoding: bytes[self.trustDomain], as: UTF8.self)),
            role: self.role,
            id: Identifier(checked: String(decoding: bytes[self.id], as: UTF8.self)))
    }

    private static let scheme = Array("spiffe://".utf8)
    private static let roles = Role.allCases.map { (role: $0, bytes: Array($0.rawValue.utf8)) }

    private static func starts(_ bytes: [UInt8], _ start: Int, _ end: Int, with prefix: [UInt8]) -> Bool {
        guard end - start >= prefix.count else { return false }
        for index in 0..<prefix.count where bytes[start + index] != prefix[index] { return false }
        return true
    }

    private static func slash(_ bytes: [UInt8], _ range: Range<Int>) -> Int? {
        for index in range where bytes[index] == UInt8(ascii: "/") { return index }
        return nil
    }

    private static func role(_ bytes: [UInt8], _ range: Range<Int>) -> Role? {
        for known in Self.roles
        where known.bytes.count == range.count
            && Self.starts(bytes, range.lowerBound, range.upperBound, with: known.bytes)
        {
            return known.role
        }
        return nil
    }

    private static func isTrustDomain(_ bytes: [UInt8], _ range: Range<Int>) -> Bool {
        guard range.count <= 253 else { return false }
        var labels = 0
        var length = 0
        var last = UInt8(ascii: "-")
        for index in range {
            let byte = bytes[index]
            if byte == UInt8(ascii: ".") {
                guard length > 0, last != UInt8(ascii: "-") else { return false }
                labels += 1
                length = 0
            } else {
                let isHyphen = byte == UInt8(ascii: "-")
                guard Name.isLowercase(byte) || Name.isDigit(byte) || (isHyphen && length > 0), length < 63 else {
                    return false
                }
                length += 1
            }
            last = byte
        }
        return labels >= 1 && length > 0 && last != UInt8(ascii: "-")
    }
}

/// The rules of `Identifier` and `MeterName`, on bytes where they lie.
enum Name {
    static func isWellFormed(_ bytes: [UInt8], in range: Range<Int>, maximumLength: Int) -> Bool {
        guard !range.isEmpty, range.count <= maximumLength, Self.isAlphanumeric(bytes[range.lowerBound]) else {
            return false
        }
        for index in range {
            let byte = bytes[index]
            guard
                Self.isAlphanumeric(byte) || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "_")
                    || byte == UInt8(ascii: "-")
            else { return false }
        }
        return true
    }

    /// Whether this is the reserved word `all`, in any case.
    static func isAll(_ bytes: [UInt8], in range: Range<Int>) -> Bool {
        range.count == 3 && bytes[range.lowerBound] | 0x20 == UInt8(ascii: "a")
            && bytes[range.lowerBound + 1] | 0x20 == UInt8(ascii: "l")
            && bytes[range.lowerBound + 2] | 0x20 == UInt8(ascii: "l")
    }

    static func isLowercase(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "a") < 26 }
    static func isDigit(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "0") < 10 }
    static func isAlphanumeric(_ byte: UInt8) -> Bool {
        Self.isLowercase(byte | 0x20) || Self.isDigit(byte)
    }
}

/// Whether two ranges of the same bytes are equal in content.
func areEqual(_ bytes: [UInt8], _ a: Range<Int>, _ b: Range<Int>) -> Bool {
    guard a.count == b.count else { return false }
    return bytes.withUnsafeBytes { raw in
        UnsafeRawBufferPointer(rebasing: raw[a]).elementsEqual(UnsafeRawBufferPointer(rebasing: raw[b]))
    }
}

/// Whether a range of bytes is exactly `text`.
func areEqual(_ bytes: [UInt8], _ range: Range<Int>, _ text: some Collection<UInt8>) -> Bool {
    guard range.count == text.count else { return false }
    var index = range.lowerBound
    for byte in text {
        guard bytes[index] == byte else { return false }
        index += 1
    }
    return true
}
