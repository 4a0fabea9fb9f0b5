import Crypto
import Identity

/// What stands for a message everywhere: in `prev`, in receipts, for forks and references.
///
/// SHA-256 of a zero byte and all bytes of the message: its leaf hash in a Merkle tree by RFC 9162
/// section 2.1.1. Written as 64 hexadecimal digits.
public struct MessageID: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// Its length in bytes.
    public static let length = 32

    /// 32 zero bytes: what the first statement of an auditor without any past names as its predecessor.
    public static let zero = MessageID(words: .zero)

    private let words: Words256

    private init(words: Words256) { self.words = words }

    /// The id of the message with these bytes.
    public init(hashing message: [UInt8]) {
        var hash = SHA256()
        withUnsafeBytes(of: UInt8(0)) { hash.update(bufferPointer: $0) }
        message.withUnsafeBytes { hash.update(bufferPointer: $0) }
        self.words = hash.finalize().withUnsafeBytes { Words256($0) }
    }

    /// An id read from somewhere; nil unless it has 32 bytes.
    public init?(_ bytes: some Collection<UInt8>) {
        guard let words = Words256(bytes) else { return nil }
        self.words = words
    }

    /// An id written as 64 hexadecimal digits; nil for any other text.
    public init?(hexadecimal text: some StringProtocol) {
        guard let bytes = [UInt8](hexadecimal: text) else { return nil }
        self.init(bytes)
    }

    /// Its 32 bytes.
    public var bytes: [UInt8] { self.words.bytes }

    public var description: String { self.bytes.hexadecimal }

    public static func < (a: MessageID, b: MessageID) -> Bool { a.words.isLess(than: b.words) }
}

/// SHA-256 of a certificate's DER: what `x5t` in the protected header names (RFC 9360 section 2).
public struct CertificateHash: Hashable, Sendable, CustomStringConvertible {
    /// Its length in bytes.
    public static let length = 32

    private let words: Words256

    /// The hash of a certificate in DER.
    public init(hashing certificate: [UInt8]) {
        self.words = SHA256.hash(data: certificate).withUnsafeBytes { Words256($0) }
    }

    /// A hash read from somewhere; nil unless it has 32 bytes.
    public init?(_ bytes: some Collection<UInt8>) {
        guard let words = Words256(bytes) else { return nil }
        self.words = words
    }

    /// Its 32 bytes.
    public var bytes: [UInt8] { self.words.bytes }

    public var description: String { self.bytes.hexadecimal }
}
