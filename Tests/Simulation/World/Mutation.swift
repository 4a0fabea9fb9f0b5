import Telemetry

/// What a broker can do to a message without any key, and the words that the control center may refuse
/// the result with.
enum Mutation {
    /// - Returns: `nil` if the bytes are not one of our messages to begin with.
    static func apply(_ attack: Attack, to bytes: [UInt8], using dice: inout SeededRandom) -> [UInt8]? {
        guard let parts = Parts(bytes) else { return nil }
        var result = bytes
        switch attack {
        case .oversized:
            result += [UInt8](repeating: 0, count: 65_536)
        case .garbage:
            result = [0x7B] + dice.bytes(1 + dice.below(100))
        case .truncated:
            result.removeLast(1 + dice.below(bytes.count - 1))
        case .trailingByte:
            result.append(0)
        case .longerLength:
            // The signature's length in three bytes instead of two.
            result.replaceSubrange(parts.signature - 2..<parts.signature, with: [0x59, 0x00, 0x40])
        case .highS:
            let s = Array(bytes[parts.signature + 32..<parts.signature + 64])
            result.replaceSubrange(parts.signature + 32..<parts.signature + 64, with: Self.negated(s))
        case .unprotectedLabel:
            result.replaceSubrange(parts.unprotected..<parts.unprotected + 1, with: [0xA1, 0x04, 0x41, 0x00])
        case .flippedPayload:
            guard parts.payloadEnd > parts.payload else { return nil }
            result[parts.payload + dice.below(parts.payloadEnd - parts.payload)] ^= UInt8(1 << dice.below(8))
        case .flippedSignature:
            // Not in the first bytes: r must stay below n.
            result[parts.signature + 8 + dice.below(24)] ^= UInt8(1 << dice.below(8))
        case .misdirected, .retained, .otherIssuer, .otherRole, .unknownCertificate:
            break
        }
        return result
    }

    /// The words that fit; more than one where a flipped bit may break the form before the signature.
    static func expected(_ attack: Attack) -> Set<Reason> {
        switch attack {
        case .oversized: [.tooLarge]
        case .garbage: [.format]
        case .truncated: [.format, .notCanonical]
        case .trailingByte: [.notCanonical, .format]
        case .longerLength, .highS, .unprotectedLabel: [.notCanonical]
        case .flippedPayload: [.signature, .format, .notCanonical]
        case .flippedSignature: [.signature]
        case .misdirected: [.topic]
        case .retained: [.retained]
        case .otherIssuer: [.issuer]
        case .otherRole: [.role]
        case .unknownCertificate: [.certificateUnknown]
        }
    }

    /// n - s, of the order n of P-256 (FIPS 186-5, SP 800-186 section 3.2.1.3), as a byte-wise subtraction.
    static func negated(_ s: [UInt8]) -> [UInt8] {
        let order: [UInt8] = [
            0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
            0xBC, 0xE6, 0xFA, 0xAD, 0xA7, 0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
        ]
        var result = [UInt8](repeating: 0, count: 32)
        var borrow = 0
        for i in (0..<32).reversed() {
            let difference = Int(order[i]) - Int(s[i]) - borrow
            result[i] = UInt8(truncatingIfNeeded: difference)
            borrow = difference < 0 ? 1 : 0
        }
        return result
    }

    /// Where the four parts of a COSE_Sign1 lie, by reading no more than lengths.
    private struct Parts {
        var unprotected = 0
        var payload = 0
        var payloadEnd = 0
        var signature = 0

        init?(_ bytes: [UInt8]) {
            guard bytes.count > 70, bytes[0] == 0xD2, bytes[1] == 0x84 else { return nil }
            var position = 2
            func skipString() -> Range<Int>? {
                guard position < bytes.count, bytes[position] >> 5 == 2 else { return nil }
                var length = Int(bytes[position] & 0x1F)
                position += 1
                if length == 24, position < bytes.count {
                    length = Int(bytes[position])
                    position += 1
                } else if length == 25, position + 1 < bytes.count {
                    length = Int(bytes[position]) << 8 | Int(bytes[position + 1])
                    position += 2
                } else if length > 25 {
                    return nil
                }
                guard position + length <= bytes.count else { return nil }
                defer { position += length }
                return position..<position + length
            }
            guard skipString() != nil else { return nil }
            self.unprotected = position
            position += 1
            guard let payload = skipString() else { return nil }
            self.payload = payload.lowerBound
            self.payloadEnd = payload.upperBound
            guard let signature = skipString(), signature.count == 64 else { return nil }
            self.signature = signature.lowerBound
        }
    }
}
