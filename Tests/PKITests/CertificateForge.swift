import Crypto
import Foundation
import Identity
import PKI
import SwiftASN1
import X509

/// Issues certificates that are wrong in one way, under the keys of a good authority.
struct CertificateForge {
    var version: Certificate.Version = .v3
    var subject: DistinguishedName
    var issuer: DistinguishedName
    var publicKey: Certificate.PublicKey
    var notBefore: UnixTime
    var notAfter: UnixTime
    var basicConstraints: BasicConstraints? = .notCertificateAuthority
    var keyUsage: KeyUsage? = KeyUsage(digitalSignature: true)
    var extendedKeyUsage: [ExtendedKeyUsage.Usage]? = [.clientAuth]
    var names: [GeneralName]
    var authorityKeyIdentifier: [UInt8]?
    var subjectKeyIdentifier: [UInt8]?
    var further: [Certificate.Extension] = []
    var signatureAlgorithm: Certificate.SignatureAlgorithm = .ecdsaWithSHA256
    var issuerKey: Certificate.PrivateKey

    /// A good auditor's certificate, `auditor-1`, to begin with.
    init(_ issuer: Authority, at now: UnixTime) throws {
        self.init(
            issuer, subject: try DistinguishedName { CommonName("auditor-1") }, at: now,
            names: [.uniformResourceIdentifier("spiffe://energy.example/auditor/auditor-1")])
    }

    /// A good intermediate, to begin with.
    init(intermediateOf root: Authority, key: SigningKey, at now: UnixTime) throws {
        self.init(root, subject: try DistinguishedName { CommonName("Forged CA") }, at: now, names: [])
        self.publicKey = Certificate.PublicKey(key.publicKey)
        self.basicConstraints = .isCertificateAuthority(maxPathLength: 0)
        self.keyUsage = KeyUsage(keyCertSign: true, cRLSign: true)
        self.extendedKeyUsage = nil
        self.subjectKeyIdentifier = Array(SubjectKeyIdentifier(hash: self.publicKey).keyIdentifier)
    }

    private init(_ issuer: Authority, subject: DistinguishedName, at now: UnixTime, names: [GeneralName]) {
        self.subject = subject
        self.issuer = issuer.certificate.subject
        self.publicKey = Certificate.PublicKey(SigningKey().publicKey)
        self.notBefore = now - 60
        self.notAfter = now + 3_600
        self.names = names
        self.authorityKeyIdentifier = Array(
            SubjectKeyIdentifier(hash: issuer.certificate.publicKey).keyIdentifier)
        self.issuerKey = issuer.key.certificateKey
    }

    func make() throws -> Certificate {
        var extensions = Certificate.Extensions()
        if let basicConstraints { try extensions.append(Critical(basicConstraints).makeCertificateExtension()) }
        if let keyUsage { try extensions.append(Critical(keyUsage).makeCertificateExtension()) }
        if let extendedKeyUsage {
            try extensions.append(ExtendedKeyUsage(extendedKeyUsage).makeCertificateExtension())
        }
        if !names.isEmpty { try extensions.append(SubjectAlternativeNames(names).makeCertificateExtension()) }
        if let authorityKeyIdentifier {
            try extensions.append(
                AuthorityKeyIdentifier(keyIdentifier: authorityKeyIdentifier[...]).makeCertificateExtension())
        }
        if let subjectKeyIdentifier {
            try extensions.append(
                SubjectKeyIdentifier(keyIdentifier: subjectKeyIdentifier[...]).makeCertificateExtension())
        }
        for item in further { try extensions.append(item) }
        return try Certificate(
            version: self.version, serialNumber: Certificate.SerialNumber(), publicKey: self.publicKey,
            notValidBefore: Date(timeIntervalSince1970: Double(self.notBefore)),
            notValidAfter: Date(timeIntervalSince1970: Double(self.notAfter)), issuer: self.issuer,
            subject: self.subject, signatureAlgorithm: self.signatureAlgorithm, extensions: extensions,
            issuerPrivateKey: self.issuerKey)
    }
}
