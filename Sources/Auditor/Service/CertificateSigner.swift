public import Crypto
public import Identity
public import PKI
public import Telemetry

/// Signs as the party that a certificate names, with a key that may be in hardware.
public struct CertificateSigner: Signer {
    public let issuer: SPIFFEID
    public let certificateHash: CertificateHash
    private let key: SigningKey

    /// - Parameters:
    ///   - identity: The verified certificate.
    ///   - key: Its key.
    /// - Throws: ``PKIError`` with code `signing` if the key is another's.
    public init(_ identity: VerifiedIdentity, key: SigningKey) throws(PKIError) {
        guard let hash = CertificateHash(identity.certificateHash),
            identity.publicKey.rawRepresentation == key.publicKey.rawRepresentation
        else {
            throw PKIError(.signing, "the key does not belong to the certificate of \(identity.spiffeID)")
        }
        self.issuer = identity.spiffeID
        self.certificateHash = hash
        self.key = key
    }

    public func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature {
        try self.key.sign(digest)
    }
}
