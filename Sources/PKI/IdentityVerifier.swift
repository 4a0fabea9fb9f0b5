public import Identity
public import X509

/// Verifies who a certificate chain names, at a given time.
///
/// The shape is fixed: a leaf, an issuing intermediate, a trusted root. That makes path validation (RFC 5280
/// section 6.1) a short walk, all of which is here and in `CertificateRules`, in this order: each certificate's own
/// rules; leaf named and signed by the intermediate, the intermediate by a root; path lengths; extended key usage
/// nested; name constraints; validity of all three at the given time; revocation of leaf and intermediate; role.
///
/// Name constraints are understood for URIs, which bind an authority to its trust domain; a chain that carries others,
/// or policies in a way that binds, is refused.
public struct IdentityVerifier: Sendable {
    public let trustDomain: TrustDomain
    public let demand: RevocationDemand

    private let roots: [AuthorityRules]
    private let intermediates: [AuthorityRules]
    private var revocations: RevocationIndex

    /// - Parameters:
    ///   - roots: at least one; each self-signed.
    ///   - intermediates: known issuing authorities; a chain may bring its own beside them.
    ///   - revocationLists: lists of the roots and of the intermediates given here.
    /// - Throws: ``PKIError`` with code `chain` without a root, those of a certificate that may not be an authority
    ///   (`version`, `weak-key`, `algorithm`, `extension`, `key-usage`), `signature` for a root or a list with a
    ///   broken one, `unknown-issuer` for a list of an authority that is not given.
    public init(
        trustDomain: TrustDomain, roots: [Certificate], intermediates: [Certificate] = [],
        revocationLists: [RevocationList] = [], demand: RevocationDemand = .lastKnown
    ) throws(PKIError) {
        guard !roots.isEmpty else { throw PKIError(.chain, "there is no root certificate to trust") }
        self.trustDomain = trustDomain
        self.demand = demand
        var rootRules: [AuthorityRules] = []
        for root in roots {
            let rules = try AuthorityRules(root)
            guard try rules.issued(root, naming: nil) else {
                throw PKIError(.signature, "the root certificate \(root.subject) is not self-signed")
            }
            rootRules.append(rules)
        }
        var intermediateRules: [AuthorityRules] = []
        for intermediate in intermediates {
            intermediateRules.append(try AuthorityRules(intermediate))
        }
        self.roots = rootRules
        self.intermediates = intermediateRules
        self.revocations = RevocationIndex()
        try self.revocations.add(revocationLists, authorities: rootRules + intermediateRules, strict: false)
    }

    /// Takes newer revocation lists.
    ///
    /// - Throws: ``PKIError`` with code `unknown-issuer`, `signature`, or `crl-outdated` if a newer list is held; then
    ///   nothing has changed.
    public mutating func update(_ lists: [RevocationList]) throws(PKIError) {
        var updated = self.revocations
        try updated.add(lists, authorities: self.roots + self.intermediates, strict: true)
        self.revocations = updated
    }

    /// The same, which trusts further roots and knows further intermediates too.
    ///
    /// - Throws: as ``init(trustDomain:roots:intermediates:revocationLists:demand:)``.
    public func adding(roots: [Certificate], intermediates: [Certificate]) throws(PKIError) -> IdentityVerifier {
        let heldRoots = self.roots.map(\.certificate)
        let heldIntermediates = self.intermediates.map(\.certificate)
        return try IdentityVerifier(
            trustDomain: self.trustDomain, roots: heldRoots + roots.filter { !heldRoots.contains($0) },
            intermediates: heldIntermediates + intermediates.filter { !heldIntermediates.contains($0) },
            revocationLists: self.revocationLists, demand: self.demand)
    }

    /// The roots that are trusted.
    public var rootCertificates: [Certificate] { self.roots.map(\.certificate) }

    /// The intermediates that are known.
    public var intermediateCertificates: [Certificate] { self.intermediates.map(\.certificate) }

    /// The revocation lists in force.
    public var revocationLists: [RevocationList] { self.revocations.all }

    /// As ``verify(chain:at:roles:)``, from DER.
    public func verify(
        der chain: [[UInt8]], at now: UnixTime, roles: Set<Role>? = nil
    ) throws(PKIError) -> VerifiedIdentity {
        guard (1...2).contains(chain.count) else { throw Self.wrongLength(chain.count) }
        var certificates: [Certificate] = []
        for bytes in chain {
            certificates.append(try Certificate(der: bytes))
        }
        return try self.verify(chain: certificates, at: now, roles: roles)
    }

    /// Verifies a chain.
    ///
    /// - Parameters:
    ///   - chain: the leaf, then at most its intermediate.
    ///   - now: the time at which all of the chain must be valid.
    ///   - roles: those that are accepted; nil for every role.
    /// - Throws: ``PKIError``: `chain`, `too-large`, `format`, `version`, `weak-key`, `algorithm`, `extension`,
    ///   `name`, `trust-domain`, `key-usage`, `unknown-issuer`, `signature`, `not-yet-valid`, `expired`, `revoked`,
    ///   `crl-missing`, `crl-expired`, `role`.
    public func verify(
        chain: [Certificate], at now: UnixTime, roles: Set<Role>? = nil
    ) throws(PKIError) -> VerifiedIdentity {
        guard let leaf = chain.first, chain.count <= 2 else { throw Self.wrongLength(chain.count) }
        let rules = try LeafRules(leaf, trustDomain: self.trustDomain)

        var candidates = self.intermediates
        if let brought = chain.dropFirst().first {
            candidates.append(try AuthorityRules(brought))
        }
        let intermediate = try Self.issuer(of: leaf, naming: rules.issuerKeyIdentifier, among: candidates)
        let rootIdentifier = try CommonRules.parsed(intermediate.certificate, "authority key identifier") {
            try intermediate.certificate.extensions.authorityKeyIdentifier
        }
        let root = try Self.issuer(
            of: intermediate.certificate, naming: rootIdentifier?.keyIdentifier.map { Array($0) }, among: self.roots)

        // One intermediate lies between the root and the leaf, none below it.
        guard root.maximumPathLength ?? .max >= 1 else {
            throw PKIError(.keyUsage, "the root \(root.certificate.subject) may not have intermediates")
        }
        let usage = LeafRules.extendedKeyUsage(rules.spiffeID.role)
        for authority in [intermediate, root] {
            guard let allowed = authority.extendedKeyUsage else { continue }
            guard allowed.contains(usage) || allowed.contains(.any) else {
                throw PKIError(.keyUsage, "\(authority.certificate.subject) may not issue for \(usage)")
            }
        }

        for authority in [intermediate, root] where !authority.mayName(rules.spiffeID.trustDomain) {
            throw PKIError(
                .name, "\(authority.certificate.subject) may not name parties of \(rules.spiffeID.trustDomain)")
        }

        try CommonRules.requireValidity(rules.validity, of: rules.spiffeID, at: now)
        try CommonRules.requireValidity(intermediate.validity, of: intermediate.certificate.subject, at: now)
        try CommonRules.requireValidity(root.validity, of: root.certificate.subject, at: now)
        // Not empty: all three contain `now`.
        let validity = rules.validity.clamped(to: intermediate.validity).clamped(to: root.validity)

        let identity = VerifiedIdentity(
            spiffeID: rules.spiffeID, certificate: leaf, intermediate: intermediate.certificate,
            publicKey: rules.publicKey, certificateHash: leaf.sha256, validity: validity,
            serialNumber: rules.serialNumber, issuerKeyIdentifier: intermediate.keyIdentifier,
            intermediateSerialNumber: intermediate.certificate.serialBytes, rootKeyIdentifier: root.keyIdentifier)
        try self.requireNotRevoked(identity, at: now)

        if let roles, !roles.contains(rules.spiffeID.role) {
            throw PKIError(.role, "\(rules.spiffeID) has a role that is not accepted here")
        }
        return identity
    }

    /// Whether an identity that was verified before still stands: validity and revocation, at the cost of two look-ups.
    ///
    /// - Throws: ``PKIError`` with code `not-yet-valid`, `expired`, `revoked`, `crl-missing` or `crl-expired`.
    public func requireStanding(_ identity: VerifiedIdentity, at now: UnixTime) throws(PKIError) {
        try CommonRules.requireValidity(identity.validity, of: identity.spiffeID, at: now)
        try self.requireNotRevoked(identity, at: now)
    }

    /// Whether leaf and intermediate are on no revocation list, whatever the time says about their validity.
    ///
    /// - Throws: ``PKIError`` with code `revoked`, `crl-missing` or `crl-expired`.
    public func requireNotRevoked(_ identity: VerifiedIdentity, at now: UnixTime) throws(PKIError) {
        try self.revocations.requireGood(
            identity.serialNumber, issuer: identity.issuerKeyIdentifier, subject: identity.spiffeID.rawValue,
            at: now, demand: self.demand)
        try self.revocations.requireGood(
            identity.intermediateSerialNumber, issuer: identity.rootKeyIdentifier,
            subject: "\(identity.intermediate.subject)", at: now, demand: self.demand)
    }

    private static func issuer(
        of certificate: Certificate, naming identifier: [UInt8]?, among candidates: [AuthorityRules]
    ) throws(PKIError) -> AuthorityRules {
        var broken: PKIError?
        for candidate in candidates {
            do throws(PKIError) {
                if try candidate.issued(certificate, naming: identifier) { return candidate }
            } catch {
                broken = error
            }
        }
        throw broken
            ?? PKIError(.unknownIssuer, "the issuer of \(certificate.subject), \(certificate.issuer), is not trusted")
    }

    private static func wrongLength(_ count: Int) -> PKIError {
        PKIError(.chain, "a chain of \(count) certificates; a leaf and at most its intermediate are expected")
    }
}
