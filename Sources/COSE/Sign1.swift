public import Crypto
import FoundationEssentials

/// COSE_Sign1 (RFC 9052 section 4.2) with ECDSA on P-256 and SHA-256, in one form only:
///
/// - `D2 84` (tag 18, an array of four), the protected header as a byte string, `A0` (an empty unprotected
///   header), the payload as a byte string, and a signature of 64 bytes r‖s;
/// - lengths in their shortest form, nothing behind;
/// - 1 ≤ r < n and 1 ≤ s ≤ n/2, n being the order of P-256.
///
/// ECDSA signatures come in pairs: if (r, s) verifies, so does (r, n-s), and anyone can compute one from
/// the other. Taking only the lower s, and only this form, leaves each signed message one encoding, so
/// that a hash of all its bytes can stand for it.
///
/// The contents of the protected header and of the payload are the caller's to check.
public struct Sign1: Sendable {
    /// The first byte of every message in this form: tag 18.
    public static let firstByte: UInt8 = 0xD2

    /// The bytes as received or made.
    public let bytes: [UInt8]

    /// Where the content of the protected header lies in ``bytes``.
    public let protected: Range<Int>

    /// Where the content of the payload lies in ``bytes``.
    public let payload: Range<Int>

    /// From the head of the protected header's byte string to its end, and the payload's: these bytes
    /// appear unchanged in the Sig_structure.
    private let protectedItem: Range<Int>
    private let payloadItem: Range<Int>

    /// Where the 64 bytes of the signature lie: the last ones.
    public var signature: Range<Int> { (self.bytes.count - 64)..<self.bytes.count }

    /// Takes `bytes` apart; says nothing about whether the signature verifies.
    ///
    /// - Throws: ``COSEError`` `notCanonical` for a COSE_Sign1 in another form than ours, `malformed` or
    ///   `unexpected` for what is none.
    public init(_ bytes: [UInt8]) throws(COSEError) {
        do {
            try self.init(strict: bytes)
        } catch {
            guard Self.isSign1InAnyForm(bytes) else {
                throw error.code == .notCanonical
                    ? COSEError(.malformed, "not a well-formed COSE_Sign1", at: error.offset) : error
            }
            throw COSEError(.notCanonical, error.reason, at: error.offset)
        }
    }

    private init(strict bytes: [UInt8]) throws(COSEError) {
        guard bytes.count >= 2, bytes[0] == Self.firstByte, bytes[1] == 0x84 else {
            throw COSEError(.unexpected, "expected a COSE_Sign1 with tag 18", at: 0)
        }
        var reader = CBORReader(bytes, in: 2..<bytes.count)
        self.protected = try reader.byteString()
        self.protectedItem = 2..<self.protected.upperBound
        guard reader.remaining > 0, bytes[reader.position] == 0xA0 else {
            throw COSEError(.unexpected, "the unprotected header must be empty", at: reader.position)
        }
        reader = CBORReader(bytes, in: (reader.position + 1)..<bytes.count)
        let payloadStart = reader.position
        self.payload = try reader.byteString()
        self.payloadItem = payloadStart..<self.payload.upperBound
        let signature = try reader.byteString()
        guard signature.count == 64 else {
            throw COSEError(.unexpected, "the signature must have 64 bytes", at: signature.lowerBound)
        }
        try reader.finish()
        let r = P256Scalar(bytes, at: signature.lowerBound)
        let s = P256Scalar(bytes, at: signature.lowerBound + 32)
        guard !r.isZero, r < P256Scalar.order, !s.isZero, !(P256Scalar.halfOrder < s) else {
            throw COSEError(.notCanonical, "the signature's numbers are out of range", at: signature.lowerBound)
        }
        self.bytes = bytes
    }

    /// Whether bytes begin with a tagged COSE_Sign1 in any encoding: tag 18 on an array of byte string, map,
    /// byte string or null, and byte string.
    private static func isSign1InAnyForm(_ bytes: [UInt8]) -> Bool {
        var scanner = CBORScanner(bytes, in: 0..<bytes.count)
        guard let tag = scanner.head(), tag.major == 6, tag.argument == 18,
            let array = scanner.head(), array.major == 4, array.isIndefinite || array.argument == 4,
            scanner.item() == 2, scanner.item() == 5
        else { return false }
        let payload = scanner.position
        guard let kind = scanner.item(), kind == 2 || (kind == 7 && bytes[payload] == 0xF6), scanner.item() == 2
        else { return false }
        return !array.isIndefinite || scanner.head()?.isBreak == true
    }

    // MARK: Verifying

    /// SHA-256 of the Sig_structure (RFC 9052 section 4.4) with empty external_aad: what is signed.
    public var digest: SHA256Digest {
        self.bytes.withUnsafeBytes { raw in
            Self.digest(
                protected: UnsafeRawBufferPointer(rebasing: raw[self.protectedItem]),
                payload: UnsafeRawBufferPointer(rebasing: raw[self.payloadItem]))
        }
    }

    /// Whether the signature is that of `key`.
    public func isSigned(by key: P256.Signing.PublicKey) -> Bool {
        guard let signature = try? P256.Signing.ECDSASignature(rawRepresentation: self.bytes[self.signature]) else {
            return false
        }
        return key.isValidSignature(signature, for: self.digest)
    }

    // MARK: Signing

    /// Makes the one form from a protected header and a payload, both encoded already.
    ///
    /// - Parameter sign: Signs a SHA-256 digest. A high s in what it returns is replaced by n-s.
    /// - Returns: The bytes of the message.
    /// - Throws: What `sign` throws.
    public static func sign<Failure: Error>(
        protected: [UInt8], payload: [UInt8],
        with sign: (SHA256Digest) throws(Failure) -> P256.Signing.ECDSASignature
    ) throws(Failure) -> [UInt8] {
        var writer = CBORWriter(capacity: protected.count + payload.count + 80)
        writer.tag(18)
        writer.array(4)
        let protectedStart = writer.bytes.count
        writer.byteString(protected)
        let protectedItem = protectedStart..<writer.bytes.count
        writer.map(0)
        let payloadStart = writer.bytes.count
        writer.byteString(payload)
        let payloadItem = payloadStart..<writer.bytes.count
        let digest = writer.bytes.withUnsafeBytes { raw in
            Self.digest(
                protected: UnsafeRawBufferPointer(rebasing: raw[protectedItem]),
                payload: UnsafeRawBufferPointer(rebasing: raw[payloadItem]))
        }
        let signature = try sign(digest)
        writer.byteString(Self.withLowS([UInt8](signature.rawRepresentation)))
        return writer.bytes
    }

    /// A raw signature r‖s with the lower of its two possible s.
    ///
    /// - Precondition: 64 bytes.
    public static func withLowS(_ signature: [UInt8]) -> [UInt8] {
        precondition(signature.count == 64)
        let s = P256Scalar(signature, at: 32)
        guard P256Scalar.halfOrder < s, s < P256Scalar.order else { return signature }
        var low = signature
        s.negated.write(to: &low, at: 32)
        return low
    }

    /// Both parts come as encoded byte strings, head included. An empty map as protected header counts as
    /// zero-length here (RFC 9052 section 3).
    private static func digest(
        protected: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer
    ) -> SHA256Digest {
        var hash = SHA256()
        Self.context.withUnsafeBytes { hash.update(bufferPointer: $0) }
        if protected.count == 2, protected[1] == 0xA0 {
            Self.empty.withUnsafeBytes { hash.update(bufferPointer: $0) }
        } else {
            hash.update(bufferPointer: protected)
        }
        Self.empty.withUnsafeBytes { hash.update(bufferPointer: $0) }
        hash.update(bufferPointer: payload)
        return hash.finalize()
    }

    /// An array of four that begins with the text "Signature1".
    private static let context: [UInt8] = [0x84, 0x6A] + Array("Signature1".utf8)

    /// An empty byte string.
    private static let empty: [UInt8] = [0x40]
}
