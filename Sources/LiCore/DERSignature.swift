// ECDSA signatures in DER (RFC 3279 section 2.2.3, X.690 section 10), in the one form that DER allows.

import Crypto

/// ECDSA signatures over P-256 as the original system writes them.
enum DERSignature {
    /// Two integers of 33 bytes, each with two bytes of head, and the head of the sequence.
    static let maximumSize = 72

    /// n, the order of P-256 (SEC 2 section 2.4.2).
    private static let order: [UInt8] = [
        0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        0xBC, 0xE6, 0xFA, 0xAD, 0xA7, 0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
    ]

    /// Reads `SEQUENCE { r INTEGER, s INTEGER }`: shortest lengths, shortest integers, 1 <= r, s < n, nothing behind.
    ///
    /// - Returns: `nil` for anything else.
    static func decode(_ bytes: [UInt8]) -> P256.Signing.ECDSASignature? {
        guard bytes.count <= Self.maximumSize, bytes.count >= 8, bytes[0] == 0x30, Int(bytes[1]) == bytes.count - 2
        else { return nil }
        var rest = bytes[2...]
        guard let r = Self.integer(&rest), let s = Self.integer(&rest), rest.isEmpty else { return nil }
        return try? P256.Signing.ECDSASignature(rawRepresentation: r + s)
    }

    /// - Returns: 32 bytes.
    private static func integer(_ rest: inout ArraySlice<UInt8>) -> [UInt8]? {
        guard rest.popFirst() == 0x02, let length = rest.popFirst(), (1...33).contains(length),
            rest.count >= Int(length)
        else { return nil }
        var digits = rest.prefix(Int(length))
        rest = rest.dropFirst(Int(length))
        guard let first = digits.first, first < 0x80 else { return nil }
        if first == 0 {
            // A zero in front is there only to keep the sign, and zero itself is no part of a signature.
            guard let next = digits.dropFirst().first, next >= 0x80 else { return nil }
            digits = digits.dropFirst()
        }
        guard digits.count <= 32 else { return nil }
        let padded = [UInt8](repeating: 0, count: 32 - digits.count) + digits
        return padded.lexicographicallyPrecedes(Self.order) ? padded : nil
    }
}
