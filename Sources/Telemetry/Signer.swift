public import Crypto
public import Identity

/// Who signs: an identity, its certificate, and a key that may live in hardware.
public protocol Signer: Sendable {
    /// The SPIFFE ID of the certificate: becomes `iss`.
    var issuer: SPIFFEID { get }

    /// SHA-256 of the certificate's DER: becomes `x5t`.
    var certificateHash: CertificateHash { get }

    /// An ECDSA signature over P-256 on a SHA-256 digest. A high s need not be replaced here.
    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature
}

/// Signs with a key held in memory.
public struct KeySigner: Signer {
    public let issuer: SPIFFEID
    public let certificateHash: CertificateHash
    private let key: P256.Signing.PrivateKey

    public init(issuer: SPIFFEID, certificateHash: CertificateHash, key: P256.Signing.PrivateKey) {
        self.issuer = issuer
        self.certificateHash = certificateHash
        self.key = key
    }

    public func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature {
        try self.key.signature(for: digest)
    }
}

/// A message made and signed by us.
public struct SignedMessage: Hashable, Sendable {
    public let id: MessageID

    /// What is published, stored and hashed.
    public let bytes: [UInt8]

    public init(bytes: [UInt8]) {
        self.bytes = bytes
        self.id = MessageID(hashing: bytes)
    }
}
