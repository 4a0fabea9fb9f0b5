// What a certificate must be by itself, whoever issued it: RFC 5280 section 4, narrowed to the profiles of
// `CertificateProfile` and `Authority`.

import Crypto
import Identity
import SwiftASN1
import X509

/// Rules of leaf and authority alike: version 3, P-256, ecdsa-with-SHA256 in both places, no critical extension that
/// is not understood.
struct CommonRules: Sendable {
    let publicKey: P256.Signing.PublicKey

    init(_ certificate: Certificate) throws(PKIError) {
        guard certificate.version == .v3 else {
            throw PKIError(.version, "the certificate of \(certificate.subject) is not of version 3")
        }
        guard let publicKey = P256.Signing.PublicKey(certificate.publicKey) else {
            throw PKIError(.weakKey, "the certificate of \(certificate.subject) does not hold a P-256 key")
        }
        guard certificate.signatureAlgorithm == .ecdsaWithSHA256, Self.signedAlgorithmAgrees(certificate) else {
            throw PKIError(
                .algorithm, "the certificate of \(certificate.subject) is not signed with ecdsa-with-SHA256")
        }
        guard Self.isCanonical(certificate) else {
            throw PKIError(.format, "the certificate of \(certificate.subject) is not in the one canonical encoding")
        }
        for item in certificate.extensions where !Self.isUnderstood(item) {
            throw PKIError(
                .extension,
                "the certificate of \(certificate.subject) has the extension \(item.oid), which is not understood")
        }
        self.publicKey = publicKey
    }

    /// Name constraints bind even where they are (wrongly) not critical. Those that are evaluated here are an
    /// authority's, critical, and of URIs alone: see ``AuthorityRules``.
    private static func isUnderstood(_ item: Certificate.Extension) -> Bool {
        switch item.oid {
        case .X509ExtensionID.basicConstraints, .X509ExtensionID.keyUsage, .X509ExtensionID.extendedKeyUsage,
            .X509ExtensionID.subjectAlternativeName, .X509ExtensionID.subjectKeyIdentifier,
            .X509ExtensionID.authorityKeyIdentifier:
            true
        case .X509ExtensionID.nameConstraints: Self.isOfURIs(item)
        default: !item.critical
        }
    }

    private static func isOfURIs(_ item: Certificate.Extension) -> Bool {
        guard item.critical, let constraints = try? NameConstraints(item), constraints.excludedSubtrees.isEmpty
        else { return false }
        return constraints.permittedSubtrees.allSatisfy {
            if case .uniformResourceIdentifier = $0 { true } else { false }
        }
    }

    /// RFC 5280 section 4.1.1.2: the algorithm inside the signed part must be the one outside, which no signature
    /// covers. swift-certificates shows only the outer one.
    private static func signedAlgorithmAgrees(_ certificate: Certificate) -> Bool {
        guard let body = try? DER.parse(certificate.tbsCertificateBytes), case .constructed(let nodes) = body.content
        else { return false }
        // version [0], serial number, signature
        var iterator = nodes.makeIterator()
        _ = iterator.next()
        _ = iterator.next()
        return iterator.next()?.encodedBytes.elementsEqual(Self.ecdsaWithSHA256) ?? false
    }

    /// Whether what no signature covers, algorithm and signature themselves, is encoded in the only way: a bit string
    /// that claims unused bits would be a second certificate, of another hash, under the same signature.
    private static func isCanonical(_ certificate: Certificate) -> Bool {
        var serializer = DER.Serializer()
        do {
            try serializer.appendConstructedNode(identifier: .sequence) { node in
                node.serializeRawBytes(certificate.tbsCertificateBytes)
                node.serializeRawBytes(Self.ecdsaWithSHA256)
                try node.serialize(ASN1BitString(bytes: certificate.signature.rawRepresentation[...]))
            }
        } catch {
            return false
        }
        return serializer.serializedBytes == certificate.der
    }

    /// AlgorithmIdentifier of 1.2.840.10045.4.3.2, no parameters (RFC 5758 section 3.2).
    static let ecdsaWithSHA256: [UInt8] = [
        0x30, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02,
    ]

    /// Runs a parser of swift-certificates, whose errors carry no more than this.
    static func parsed<T>(
        _ certificate: Certificate, _ name: String, _ parse: () throws -> T?
    ) throws(PKIError) -> T? {
        do {
            return try parse()
        } catch {
            throw PKIError(.extension, "the \(name) of the certificate of \(certificate.subject) is malformed")
        }
    }

    /// `notBefore` and `notAfter` are both part of the validity (RFC 5280 section 4.1.2.5).
    static func requireValidity(
        _ validity: ClosedRange<UnixTime>, of subject: some CustomStringConvertible, at now: UnixTime
    ) throws(PKIError) {
        guard now >= validity.lowerBound else {
            throw PKIError(
                .notYetValid,
                "the certificate of \(subject) is not valid before \(CivilTime(validity.lowerBound).iso8601)")
        }
        guard now <= validity.upperBound else {
            throw PKIError(
                .expired, "the certificate of \(subject) expired at \(CivilTime(validity.upperBound).iso8601)")
        }
    }

    static func validity(_ certificate: Certificate) throws(PKIError) -> ClosedRange<UnixTime> {
        let (first, last) = (certificate.notBefore, certificate.notAfter)
        guard first <= last else {
            throw PKIError(.expired, "the certificate of \(certificate.subject) ends before it begins")
        }
        return first...last
    }
}

/// Rules of a root or intermediate.
struct AuthorityRules: Sendable {
    let certificate: Certificate
    let publicKey: P256.Signing.PublicKey
    let keyIdentifier: [UInt8]
    let validity: ClosedRange<UnixTime>
    /// Nil: no limit.
    let maximumPathLength: Int?
    /// Key usage `cRLSign`.
    let mayRevoke: Bool
    let extendedKeyUsage: ExtendedKeyUsage?
    /// Hosts of the URIs that it may name (RFC 5280 section 4.2.1.10); nil: any.
    let permittedURIDomains: [String]?

    init(_ certificate: Certificate) throws(PKIError) {
        self.certificate = certificate
        self.publicKey = try CommonRules(certificate).publicKey
        self.validity = try CommonRules.validity(certificate)
        let extensions = certificate.extensions
        let constraints = try CommonRules.parsed(certificate, "basic constraints") { try extensions.basicConstraints }
        guard case .isCertificateAuthority(let maximumPathLength) = constraints,
            extensions[oid: .X509ExtensionID.basicConstraints]?.critical == true
        else {
            throw PKIError(.keyUsage, "the certificate of \(certificate.subject) is not an authority's")
        }
        self.maximumPathLength = maximumPathLength
        let usage = try CommonRules.parsed(certificate, "key usage") { try extensions.keyUsage }
        guard let usage, usage.keyCertSign else {
            throw PKIError(.keyUsage, "the certificate of \(certificate.subject) may not sign certificates")
        }
        self.mayRevoke = usage.cRLSign
        self.extendedKeyUsage = try CommonRules.parsed(certificate, "extended key usage") {
            try extensions.extendedKeyUsage
        }
        self.permittedURIDomains = try CommonRules.parsed(certificate, "name constraints") {
            try extensions.nameConstraints.map { Array($0.permittedURIDomains) }
        }
        let identifier = try CommonRules.parsed(certificate, "subject key identifier") {
            try extensions.subjectKeyIdentifier
        }
        guard let identifier, (1...64).contains(identifier.keyIdentifier.count) else {
            throw PKIError(.extension, "the certificate of \(certificate.subject) has no subject key identifier")
        }
        self.keyIdentifier = Array(identifier.keyIdentifier)
    }

    /// Whether its name constraints let it name parties of this trust domain: the very host, or one below a domain
    /// that begins with a point.
    func mayName(_ trustDomain: TrustDomain) -> Bool {
        guard let permittedURIDomains else { return true }
        return permittedURIDomains.contains { domain in
            let domain = domain.lowercased()
            return domain.hasPrefix(".")
                ? trustDomain.rawValue.hasSuffix(domain) : trustDomain.rawValue == domain
        }
    }

    /// Whether this authority's name, key identifier and key stand behind the certificate.
    ///
    /// - Returns: false if it is another's.
    /// - Throws: `signature` if it names this authority but is not signed by it.
    func issued(_ certificate: Certificate, naming issuerKeyIdentifier: [UInt8]?) throws(PKIError) -> Bool {
        guard certificate.issuer == self.certificate.subject,
            issuerKeyIdentifier == nil || issuerKeyIdentifier == self.keyIdentifier
        else { return false }
        guard self.certificate.publicKey.isValidSignature(certificate.signature, for: certificate) else {
            throw PKIError(
                .signature, "the certificate of \(certificate.subject) is not signed by \(self.certificate.subject)")
        }
        return true
    }
}

/// Rules of a party's certificate.
struct LeafRules: Sendable {
    let spiffeID: SPIFFEID
    let publicKey: P256.Signing.PublicKey
    let validity: ClosedRange<UnixTime>
    let serialNumber: [UInt8]
    let issuerKeyIdentifier: [UInt8]

    init(_ certificate: Certificate, trustDomain: TrustDomain) throws(PKIError) {
        self.publicKey = try CommonRules(certificate).publicKey
        self.validity = try CommonRules.validity(certificate)
        self.serialNumber = certificate.serialBytes
        let extensions = certificate.extensions

        let identifier = try CommonRules.parsed(certificate, "authority key identifier") {
            try extensions.authorityKeyIdentifier
        }
        guard let identifier = identifier?.keyIdentifier, (1...64).contains(identifier.count) else {
            throw PKIError(.extension, "the certificate of \(certificate.subject) has no authority key identifier")
        }
        self.issuerKeyIdentifier = Array(identifier)

        guard extensions[oid: .X509ExtensionID.nameConstraints] == nil else {
            throw PKIError(
                .extension, "the certificate of \(certificate.subject) constrains names, as only authorities do")
        }
        self.spiffeID = try Self.name(certificate)
        guard self.spiffeID.trustDomain == trustDomain else {
            throw PKIError(.trustDomain, "\(self.spiffeID) is not of the trust domain \(trustDomain)")
        }
        try Self.requireUsage(certificate, self.spiffeID)
    }

    /// The SPIFFE ID; common name and alternative names agree with it.
    private static func name(_ certificate: Certificate) throws(PKIError) -> SPIFFEID {
        let names = try CommonRules.parsed(certificate, "alternative names") {
            try certificate.extensions.subjectAlternativeNames
        }
        var uris: [String] = []
        var hosts = 0
        for name in names ?? SubjectAlternativeNames() {
            switch name {
            case .uniformResourceIdentifier(let uri): uris.append(uri)
            case .dnsName, .ipAddress: hosts += 1
            default:
                throw PKIError(
                    .name, "the certificate of \(certificate.subject) has an alternative name of another kind")
            }
        }
        guard uris.count == 1 else {
            throw PKIError(
                .name, "the certificate of \(certificate.subject) has \(uris.count) URI names; exactly one is expected")
        }
        let spiffeID: SPIFFEID
        do {
            spiffeID = try SPIFFEID(uris[0])
        } catch {
            throw PKIError(.name, error.reason)
        }
        guard spiffeID.role.isServer || hosts == 0 else {
            throw PKIError(.name, "\(spiffeID) has host names, which only a broker or an authority may have")
        }
        let commonNames = certificate.subject.lazy.flatMap { $0 }.filter { $0.type == .RDNAttributeType.commonName }
        guard commonNames.count == 1, let value = commonNames.first?.value,
            // By their bytes: for Swift a Kelvin sign is a K.
            let commonName = String(value), commonName.utf8.elementsEqual(spiffeID.id.rawValue.utf8)
        else {
            throw PKIError(.name, "the common name of \(spiffeID) is not \(spiffeID.id)")
        }
        return spiffeID
    }

    private static func requireUsage(_ certificate: Certificate, _ spiffeID: SPIFFEID) throws(PKIError) {
        let extensions = certificate.extensions
        if case .isCertificateAuthority = try CommonRules.parsed(
            certificate, "basic constraints", { try extensions.basicConstraints })
        {
            throw PKIError(.keyUsage, "the certificate of \(spiffeID) is an authority's")
        }
        guard let usage = try CommonRules.parsed(certificate, "key usage", { try extensions.keyUsage }),
            usage.digitalSignature, !usage.keyCertSign, !usage.cRLSign
        else {
            throw PKIError(.keyUsage, "the key usage of \(spiffeID) is not digitalSignature")
        }
        let extended = try CommonRules.parsed(certificate, "extended key usage") { try extensions.extendedKeyUsage }
        let required = Self.extendedKeyUsage(spiffeID.role)
        let forbidden: ExtendedKeyUsage.Usage = required == .serverAuth ? .clientAuth : .serverAuth
        guard let extended, extended.contains(required), !extended.contains(forbidden), !extended.contains(.any)
        else {
            throw PKIError(.keyUsage, "the extended key usage of \(spiffeID) is not \(required) alone")
        }
    }

    static func extendedKeyUsage(_ role: Role) -> ExtendedKeyUsage.Usage {
        role.isServer ? .serverAuth : .clientAuth
    }
}
