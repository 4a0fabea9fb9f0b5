public import Crypto
public import Identity
public import X509

/// A party whose certificate chain ``IdentityVerifier`` has verified.
public struct VerifiedIdentity: Sendable {
    public let spiffeID: SPIFFEID

    public let certificate: Certificate

    /// The intermediate that issued ``certificate``.
    public let intermediate: Certificate

    /// The key under which the party's signatures are verified.
    public let publicKey: P256.Signing.PublicKey

    /// SHA-256 of the certificate's DER, 32 bytes: what a COSE `x5t` names.
    public let certificateHash: [UInt8]

    /// When every certificate of the chain is valid, both ends included.
    public let validity: ClosedRange<UnixTime>

    let serialNumber: [UInt8]
    let issuerKeyIdentifier: [UInt8]
    let intermediateSerialNumber: [UInt8]
    let rootKeyIdentifier: [UInt8]
}
