public import Crypto
public import Identity
import SwiftASN1
public import X509

/// A certificate authority: the offline root, or the issuing intermediate below it.
///
/// Whoever holds the value can issue; the key is read by one process only. Time and randomness are handed in.
public struct Authority: Sendable {
    /// Twenty years.
    public static let rootLifetime: UnixTime = 20 * 365 * 86_400 + 5 * 86_400
    /// Ten years.
    public static let intermediateLifetime: UnixTime = 10 * 365 * 86_400 + 2 * 86_400
    /// Validity begins ten minutes before the issue, for clocks that are behind.
    public static let backdating: UnixTime = 600

    public let certificate: Certificate
    public let key: SigningKey

    /// Where its lists and its responder are found, as what it issues says; nil if nothing is said.
    public var publication: PublicationPoints?

    /// An authority whose certificate and key exist.
    ///
    /// - Throws: ``PKIError`` with code `version`, `weak-key`, `algorithm`, `extension` or `key-usage` if the
    ///   certificate is not an authority's, and `signing` if the key is not the certificate's.
    public init(certificate: Certificate, key: SigningKey) throws(PKIError) {
        let rules = try AuthorityRules(certificate)
        guard rules.publicKey.x963Representation == key.publicKey.x963Representation else {
            throw PKIError(.signing, "the key does not belong to the certificate \(certificate.subject)")
        }
        self.init(unchecked: certificate, key)
    }

    private init(unchecked certificate: Certificate, _ key: SigningKey) {
        self.certificate = certificate
        self.key = key
    }

    /// Makes a self-signed root (`CN=<trust domain> Root CA`), valid for ``rootLifetime``. Its key belongs offline.
    ///
    /// - Throws: ``PKIError`` with code `signing`.
    public static func makeRoot(
        trustDomain: TrustDomain, key: SigningKey = SigningKey(), at now: UnixTime,
        lifetime: UnixTime = Self.rootLifetime
    ) throws(PKIError) -> Authority {
        var random = SystemRandomNumberGenerator()
        return try Self.makeRoot(trustDomain: trustDomain, key: key, at: now, lifetime: lifetime, using: &random)
    }

    /// As ``makeRoot(trustDomain:key:at:lifetime:)``, with the serial number's randomness handed in.
    public static func makeRoot(
        trustDomain: TrustDomain, key: SigningKey, at now: UnixTime, lifetime: UnixTime = Self.rootLifetime,
        using random: inout some RandomNumberGenerator
    ) throws(PKIError) -> Authority {
        do {
            let name = try DistinguishedName { CommonName("\(trustDomain) Root CA") }
            let publicKey = Certificate.PublicKey(key.publicKey)
            let certificate = try Certificate(
                version: .v3,
                serialNumber: Self.makeSerialNumber(using: &random),
                publicKey: publicKey,
                notValidBefore: .init(now - Self.backdating),
                notValidAfter: .init(now + lifetime),
                issuer: name,
                subject: name,
                signatureAlgorithm: .ecdsaWithSHA256,
                extensions: Certificate.Extensions {
                    Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 1))
                    Critical(KeyUsage(keyCertSign: true, cRLSign: true))
                    SubjectKeyIdentifier(hash: publicKey)
                },
                issuerPrivateKey: key.certificateKey)
            return Authority(unchecked: certificate, key)
        } catch {
            throw PKIError(.signing, "cannot make the root certificate: \(error)")
        }
    }

    /// Issues an intermediate (`CN=<trust domain> Issuing CA`, path length 0) under this root.
    ///
    /// - Throws: ``PKIError`` with code `signing`.
    public func makeIntermediate(
        trustDomain: TrustDomain, key: SigningKey = SigningKey(), at now: UnixTime,
        lifetime: UnixTime = Self.intermediateLifetime
    ) throws(PKIError) -> Authority {
        var random = SystemRandomNumberGenerator()
        return try self.makeIntermediate(
            trustDomain: trustDomain, key: key, at: now, lifetime: lifetime, using: &random)
    }

    /// As ``makeIntermediate(trustDomain:key:at:lifetime:)``, with the serial number's randomness handed in.
    public func makeIntermediate(
        trustDomain: TrustDomain, key: SigningKey, at now: UnixTime,
        lifetime: UnixTime = Self.intermediateLifetime, using random: inout some RandomNumberGenerator
    ) throws(PKIError) -> Authority {
        do {
            let publicKey = Certificate.PublicKey(key.publicKey)
            let certificate = try Certificate(
                version: .v3,
                serialNumber: Self.makeSerialNumber(using: &random),
                publicKey: publicKey,
                notValidBefore: .init(max(now - Self.backdating, self.certificate.notBefore)),
                notValidAfter: .init(min(now + lifetime, self.certificate.notAfter)),
                issuer: self.certificate.subject,
                subject: try DistinguishedName { CommonName("\(trustDomain) Issuing CA") },
                signatureAlgorithm: .ecdsaWithSHA256,
                extensions: Certificate.Extensions {
                    Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 0))
                    Critical(KeyUsage(keyCertSign: true, cRLSign: true))
                    SubjectKeyIdentifier(hash: publicKey)
                    AuthorityKeyIdentifier(keyIdentifier: self.keyIdentifier[...])
                    // Of URIs alone: constraints of DNS names would bind common names too, which are IDs, in OpenSSL.
                    Critical(NameConstraints(permittedURIDomains: [trustDomain.rawValue]))
                    if let publication { publication.rootListPoints }
                },
                issuerPrivateKey: self.key.certificateKey)
            return Authority(unchecked: certificate, key)
        } catch {
            throw PKIError(.signing, "cannot make the intermediate certificate: \(error)")
        }
    }

    /// Issues a certificate. The caller has proof that the subject holds the private key, and that the ID was not
    /// given out before.
    ///
    /// - Throws: ``PKIError`` with code `signing`.
    public func issue(
        _ profile: CertificateProfile, to publicKey: P256.Signing.PublicKey, at now: UnixTime
    ) throws(PKIError) -> Certificate {
        var random = SystemRandomNumberGenerator()
        return try self.issue(profile, to: publicKey, at: now, using: &random)
    }

    /// As ``issue(_:to:at:)``, with the serial number's randomness handed in.
    public func issue(
        _ profile: CertificateProfile, to publicKey: P256.Signing.PublicKey, at now: UnixTime,
        using random: inout some RandomNumberGenerator
    ) throws(PKIError) -> Certificate {
        do {
            let publicKey = Certificate.PublicKey(publicKey)
            return try Certificate(
                version: .v3,
                serialNumber: Self.makeSerialNumber(using: &random),
                publicKey: publicKey,
                notValidBefore: .init(max(now - Self.backdating, self.certificate.notBefore)),
                notValidAfter: .init(min(now + profile.lifetime, self.certificate.notAfter)),
                issuer: self.certificate.subject,
                subject: try DistinguishedName { CommonName(profile.spiffeID.id.rawValue) },
                signatureAlgorithm: .ecdsaWithSHA256,
                extensions: Certificate.Extensions {
                    Critical(BasicConstraints.notCertificateAuthority)
                    Critical(KeyUsage(digitalSignature: true))
                    try ExtendedKeyUsage([profile.extendedKeyUsage])
                    profile.subjectAlternativeNames
                    SubjectKeyIdentifier(hash: publicKey)
                    AuthorityKeyIdentifier(keyIdentifier: self.keyIdentifier[...])
                    if let publication {
                        publication.listPoints(of: self.keyIdentifier)
                        publication.responder
                    }
                },
                issuerPrivateKey: self.key.certificateKey)
        } catch {
            throw PKIError(.signing, "cannot issue a certificate for \(profile.spiffeID): \(error)")
        }
    }

    /// Issues a certificate to an OCSP responder that answers for this authority (RFC 6960 section 4.2.2.2), with
    /// `id-pkix-ocsp-nocheck`: it lives so shortly that nobody asks whether it was revoked.
    ///
    /// - Throws: ``PKIError`` with code `signing`.
    public func issueResponder(
        name: String, to publicKey: P256.Signing.PublicKey, at now: UnixTime, lifetime: UnixTime
    ) throws(PKIError) -> Certificate {
        var random = SystemRandomNumberGenerator()
        do {
            let publicKey = Certificate.PublicKey(publicKey)
            return try Certificate(
                version: .v3,
                serialNumber: Self.makeSerialNumber(using: &random),
                publicKey: publicKey,
                notValidBefore: .init(max(now - Self.backdating, self.certificate.notBefore)),
                notValidAfter: .init(min(now + lifetime, self.certificate.notAfter)),
                issuer: self.certificate.subject,
                subject: try DistinguishedName { CommonName(name) },
                signatureAlgorithm: .ecdsaWithSHA256,
                extensions: Certificate.Extensions {
                    Critical(BasicConstraints.notCertificateAuthority)
                    Critical(KeyUsage(digitalSignature: true))
                    try ExtendedKeyUsage([.ocspSigning])
                    SubjectKeyIdentifier(hash: publicKey)
                    AuthorityKeyIdentifier(keyIdentifier: self.keyIdentifier[...])
                    Certificate.Extension(oid: [1, 3, 6, 1, 5, 5, 7, 48, 1, 5], critical: false, value: [0x05, 0x00])
                },
                issuerPrivateKey: self.key.certificateKey)
        } catch {
            throw PKIError(.signing, "cannot issue the certificate of the OCSP responder: \(error)")
        }
    }

    /// The subject key identifier of this authority, which everything that it issues repeats.
    ///
    /// In the certificates made here it is SHA-1 of the public key (RFC 5280 section 4.2.1.2, method 1): an
    /// identifier, not a safeguard.
    var keyIdentifier: [UInt8] { self.certificate.keyIdentifier }

    /// 20 bytes, positive, of which 158 bits are random (RFC 5280 section 4.1.2.2 allows no more than 20 bytes).
    private static func makeSerialNumber(
        using random: inout some RandomNumberGenerator
    ) -> Certificate.SerialNumber {
        var bytes = (0..<20).map { _ in UInt8.random(in: .min ... .max, using: &random) }
        bytes[0] = bytes[0] & 0x3F | 0x40
        return Certificate.SerialNumber(bytes: bytes)
    }
}
