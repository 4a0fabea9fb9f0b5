public import Crypto
import Foundation
import SwiftASN1
public import X509

/// A P-256 private key that never leaves its place: in memory, or behind ``HardwareKey`` in a TPM, a secure
/// element or a PKCS#11 token.
///
/// Everything that signs (certificates, revocation lists, COSE messages, TLS) takes a `SigningKey`, so that a key can
/// move into hardware without a change elsewhere.
public struct SigningKey: Sendable {
    private enum Backing: Sendable {
        case software(P256.Signing.PrivateKey)
        case hardware(any HardwareKey)
    }

    private let backing: Backing

    /// Makes a new key in memory, from the system's random source.
    public init() {
        // Without the search for a compactly representable key, which triples the time and serves nothing here.
        self.init(P256.Signing.PrivateKey(compactRepresentable: false))
    }

    public init(_ key: P256.Signing.PrivateKey) {
        self.backing = .software(key)
    }

    public init(_ key: any HardwareKey) {
        self.backing = .hardware(key)
    }

    public var publicKey: P256.Signing.PublicKey {
        switch self.backing {
        case .software(let key): key.publicKey
        case .hardware(let key): key.publicKey
        }
    }

    /// Signs a SHA-256 digest by ECDSA (FIPS 186-5). `s` may be high: COSE signers replace it by n - s.
    ///
    /// - Throws: ``PKIError`` with code `signing`.
    public func sign(_ digest: SHA256Digest) throws(PKIError) -> P256.Signing.ECDSASignature {
        try self.sign(prehashed: digest)
    }

    /// Signs a digest of another hash function by ECDSA: its leftmost 32 bytes (FIPS 186-5 section 6.4).
    ///
    /// - Throws: ``PKIError`` with code `signing`.
    public func sign(prehashed digest: some Digest) throws(PKIError) -> P256.Signing.ECDSASignature {
        do {
            switch self.backing {
            case .software(let key): return try key.signature(for: digest)
            case .hardware(let key): return try key.sign(digest)
            }
        } catch let error as PKIError {
            throw error
        } catch {
            throw PKIError(.signing, "the private key could not sign: \(error)")
        }
    }

    /// The key for swift-certificates: issues certificates, signs requests.
    public var certificateKey: Certificate.PrivateKey {
        switch self.backing {
        case .software(let key): Certificate.PrivateKey(key)
        case .hardware(let key): Certificate.PrivateKey(HardwareCertificateKey(key: key))
        }
    }

    /// Nil if the key is in hardware.
    var softwareKey: P256.Signing.PrivateKey? {
        switch self.backing {
        case .software(let key): key
        case .hardware: nil
        }
    }

    /// What names the key, if it is in hardware and can be found again.
    public var uri: String? {
        switch self.backing {
        case .software: nil
        case .hardware(let key): key.uri
        }
    }

    /// PKCS#8 (RFC 5958) as PEM, for a TLS library and for ``KeyFile``; nil if the key is in hardware.
    public var pemRepresentation: String? {
        switch self.backing {
        case .software(let key): key.pemRepresentation + "\n"
        case .hardware: nil
        }
    }
}

/// The seam behind which a hardware key stands.
public protocol HardwareKey: Sendable {
    var publicKey: P256.Signing.PublicKey { get }

    /// What ``HardwareKeys`` finds it by; nil if nothing does.
    var uri: String? { get }

    /// Signs a digest by ECDSA over P-256: its leftmost 32 bytes. May block for as long as the device takes.
    func sign(_ digest: some Digest) throws -> P256.Signing.ECDSASignature
}

extension HardwareKey {
    public var uri: String? { nil }
}

/// A hardware key as swift-certificates wants it.
private struct HardwareCertificateKey: CustomPrivateKey {
    let key: any HardwareKey

    var publicKey: Certificate.PublicKey { Certificate.PublicKey(self.key.publicKey) }

    var defaultSignatureAlgorithm: Certificate.SignatureAlgorithm { .ecdsaWithSHA256 }

    var supportedSignatureAlgorithms: [Certificate.SignatureAlgorithm] { [.ecdsaWithSHA256] }

    func signSynchronously(
        bytes: some DataProtocol,
        signatureAlgorithm: Certificate.SignatureAlgorithm
    ) throws -> Certificate.Signature {
        guard signatureAlgorithm == .ecdsaWithSHA256 else {
            throw PKIError(.signing, "a hardware key signs with ecdsa-with-SHA256 only")
        }
        let signature = try self.key.sign(SHA256.hash(data: bytes))
        return try Certificate.Signature(
            signatureAlgorithm: signatureAlgorithm,
            signatureBytes: ASN1BitString(bytes: Array(signature.derRepresentation)[...]))
    }

    static func == (a: Self, b: Self) -> Bool { a.publicKey == b.publicKey }

    func hash(into hasher: inout Hasher) { hasher.combine(self.publicKey) }

    static var defaultPEMDiscriminator: String { "PRIVATE KEY" }

    func serialize(into coder: inout DER.Serializer) throws {
        throw PKIError(.signing, "a hardware key cannot be exported")
    }
}
