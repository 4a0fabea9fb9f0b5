/// Second encodings of a signed statement: other bytes under which a careless verifier finds the same signature
/// good. Whoever carries a statement can make them without any key, and with them a false fork.
enum DemoForgery {
    /// (r, s) becomes (r, n-s), which verifies whenever (r, s) does.
    static func highS(_ statement: [UInt8]) -> [UInt8] {
        var forged = statement
        var borrow = 0
        for i in (0..<32).reversed() {
            let position = forged.count - 32 + i
            let difference = Int(Self.order[i]) - Int(forged[position]) - borrow
            borrow = difference < 0 ? 1 : 0
            forged[position] = UInt8(truncatingIfNeeded: difference)
        }
        return forged
    }

    /// The protected header's length in more bytes than it needs: the signature covers it in its shortest form.
    static func longLength(_ statement: [UInt8]) -> [UInt8] {
        let header = Self.protectedHeader(statement)
        let length = header.content.count
        return statement[..<header.start] + [0x5A, 0, 0, UInt8(length >> 8), UInt8(length & 0xFF)]
            + statement[header.content.lowerBound...]
    }

    /// A label in the unprotected header, which no signature covers: kid = h'00'.
    static func unprotectedLabel(_ statement: [UInt8]) -> [UInt8] {
        let end = Self.protectedHeader(statement).content.upperBound
        return statement[..<end] + [0xA1, 0x04, 0x41, 0x00] + statement[(end + 1)...]
    }

    /// One byte behind the end.
    static func trailingByte(_ statement: [UInt8]) -> [UInt8] { statement + [0] }

    /// One bit of the payload turned: the last digit before the signature's head.
    static func tamperedPayload(_ statement: [UInt8]) -> [UInt8] {
        var forged = statement
        // Behind it: the head of the signature (58 40) and its 64 bytes.
        forged[forged.count - 67] ^= 1
        return forged
    }

    /// Where the protected header's byte string begins, and where its content lies: behind `D2 84`.
    private static func protectedHeader(_ statement: [UInt8]) -> (start: Int, content: Range<Int>) {
        let start = 2
        switch statement[start] {
        case 0x58: return (start, (start + 2)..<(start + 2 + Int(statement[start + 1])))
        case 0x59:
            let length = Int(statement[start + 1]) << 8 | Int(statement[start + 2])
            return (start, (start + 3)..<(start + 3 + length))
        default: return (start, (start + 1)..<(start + 1 + Int(statement[start] & 0x1F)))
        }
    }

    /// The order n of P-256 (SEC 2 section 2.4.2).
    private static let order: [UInt8] = [
        0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        0xBC, 0xE6, 0xFA, 0xAD, 0xA7, 0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
    ]
}
