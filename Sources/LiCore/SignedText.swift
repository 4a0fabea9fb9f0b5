public import Crypto
import Foundation
import Identity

/// The frame of both messages of the format: a text, `||`, and the hexadecimal digits of the DER of an ECDSA
/// signature over P-256 with BLAKE2b-512 of that text.
public struct SignedText: Sendable {
    /// The longest message, in bytes. The longest well-formed reading has 64 + 32 + 1 + 32 + 3 of text, and 146 behind.
    public static let maximumSize = 512

    /// The text before `||`: what is signed.
    public let text: [UInt8]
    public let signature: P256.Signing.ECDSASignature

    /// Splits a message.
    ///
    /// - Throws: ``LiCoreError`` with code `too-large`, `shape` or `signature`.
    public init(_ message: [UInt8]) throws(LiCoreError) {
        guard message.count <= Self.maximumSize else {
            throw LiCoreError(.tooLarge, "\(message.count) bytes; no LiCore message has more than \(Self.maximumSize)")
        }
        let bar = UInt8(ascii: "|")
        guard let end = message.firstIndex(of: bar), end + 1 < message.count, message[end + 1] == bar, end > 0 else {
            throw LiCoreError(.shape, "no '||' between text and signature")
        }
        guard message[..<end].allSatisfy({ (0x20...0x7E).contains($0) }) else {
            throw LiCoreError(.shape, "the text holds other characters than printable ASCII")
        }
        // In the one form that this has: lower case.
        let digits = message[(end + 2)...]
        guard let der = [UInt8](hexadecimal: String(decoding: digits, as: UTF8.self)),
            der.hexadecimal.utf8.elementsEqual(digits)
        else {
            throw LiCoreError(.signature, "behind '||' are not lower-case hexadecimal digits")
        }
        guard let signature = DERSignature.decode(der) else {
            throw LiCoreError(.signature, "not the DER of an ECDSA signature over P-256")
        }
        self.text = Array(message[..<end])
        self.signature = signature
    }

    /// Whether the signature is by this key.
    public func isSigned(by key: P256.Signing.PublicKey) -> Bool {
        key.isValidSignature(self.signature, for: BLAKE2b512.hash(data: self.text))
    }

    /// Signs a text.
    ///
    /// - Parameter sign: makes an ECDSA signature on a digest.
    /// - Returns: the message.
    /// - Throws: what `sign` throws.
    static func message(
        _ text: [UInt8], signedBy sign: (BLAKE2b512Digest) throws -> P256.Signing.ECDSASignature
    ) rethrows -> [UInt8] {
        let signature = try sign(BLAKE2b512.hash(data: text))
        var message = text
        message += [UInt8(ascii: "|"), UInt8(ascii: "|")]
        message += signature.derRepresentation.hexadecimal.utf8
        return message
    }
}
