public import Identity
public import PKI
public import X509

/// How a device that knows nothing but an invitation comes to an identity.
///
/// 1. The authority's certificates are fetched over TLS that nobody has verified. Among them must be the root whose
///    fingerprint the invitation names; everything else that is believed hangs on it.
/// 2. From here on TLS is verified under that root, and the server must be an `authority`; the certificates are
///    fetched again, with the revocation lists and where the broker is.
/// 3. A request for the device's own key is sent with the token; what comes is checked.
public struct Joining: Sendable {
    /// What a device gets to know.
    public struct Outcome: Sendable {
        public let enrolled: EnrolledIdentity
        /// The root of the invitation.
        public let root: Certificate
        /// The authority's intermediates under that root.
        public let intermediates: [Certificate]
        public let revocationLists: [RevocationList]
        public let trustDomain: TrustDomain
        public let installation: ESTClient.Installation
    }

    /// The most that two clocks may differ before we say that one is wrong, in seconds.
    static let clockTolerance: UnixTime = 300

    public let address: AuthorityAddress
    public let id: Identifier
    public let fingerprint: RootFingerprint
    public var timeout = Duration.seconds(20)

    public init(address: AuthorityAddress, id: Identifier, fingerprint: RootFingerprint) {
        self.address = address
        self.id = id
        self.fingerprint = fingerprint
    }

    /// - Parameters:
    ///   - key: made on this device, and stored before this is called: a second try uses the same.
    ///   - now: the device's clock.
    public func join(
        key: SigningKey, token: String, clock now: @Sendable () -> UnixTime
    ) async throws(EnrolmentError) -> Outcome {
        var client = ESTClient.untrusted(self.address)
        client.timeout = self.timeout
        let (offered, date) = try await client.authorities()
        let root = try self.root(among: offered)
        try Self.requireClock(now(), root: root)
        do {
            return try await self.join(root, key, token, now)
        } catch {
            // TLS cannot say that the clock is at fault; the difference to the authority's clock can.
            guard error.code == .untrusted, let date, abs(date - now()) > Self.clockTolerance else { throw error }
            throw Self.wrongClock(now(), "the authority's clock says \(CivilTime(date).iso8601)")
        }
    }

    private func join(
        _ root: Certificate, _ key: SigningKey, _ token: String, _ now: @Sendable () -> UnixTime
    ) async throws(EnrolmentError) -> Outcome {
        // The trust domain is not known before the verified connection tells it; the gate needs it to read names.
        var client = ESTClient.underRoot(self.address, root)
        client.timeout = self.timeout
        let installation = try await client.installation()
        let trustDomain: TrustDomain
        do {
            trustDomain = try TrustDomain(installation.trustDomain)
        } catch {
            throw EnrolmentError(.format, "\(self.address): \(error.reason)")
        }
        let intermediates = Self.intermediates(try await client.authorities().certificates, under: root)
        // Between the steps of a rollover there are lists of a root that the invitation does not name.
        let lists = try await client.revocationLists(of: [root] + intermediates)
            .split(among: [root] + intermediates).known
        let trust: IdentityVerifier
        let gate: PeerGate
        do throws(PKIError) {
            trust = try IdentityVerifier(
                trustDomain: trustDomain, roots: [root], intermediates: intermediates, revocationLists: lists)
            gate = try PeerGate(
                trustDomain: trustDomain, authorities: [root] + intermediates, revocationLists: lists)
        } catch {
            throw EnrolmentError(.untrusted, "\(self.address): \(error.reason)")
        }
        // Only now the token leaves: to a server of this installation, of role authority, that is not revoked.
        client = ESTClient(self.address, roots: [root], gate: gate)
        client.timeout = self.timeout
        let certificates = try await client.enrol(
            try .make(for: self.id, key: key), id: self.id, token: token)
        let enrolled = try EnrolledIdentity(
            certificates, for: self.id, role: .auditor, key: key, trust: trust, at: now())
        return Outcome(
            enrolled: enrolled, root: root, intermediates: intermediates, revocationLists: lists,
            trustDomain: trustDomain, installation: installation)
    }

    private func root(among certificates: [Certificate]) throws(EnrolmentError) -> Certificate {
        guard let root = certificates.first(where: { RootFingerprint($0) == self.fingerprint }) else {
            let roots = certificates.filter { $0.subject == $0.issuer }.map { RootFingerprint($0).description }
            throw EnrolmentError(
                .fingerprint,
                "\(self.address) has no root with the fingerprint of the invitation (it has \(roots.isEmpty ? "none" : roots.joined(separator: ", "))): ask the operator; do not go on if the invitation is right"
            )
        }
        return root
    }

    /// The certificates of authorities that this root has issued.
    public static func intermediates(_ certificates: [Certificate], under root: Certificate) -> [Certificate] {
        certificates.filter { certificate in
            certificate.subject != certificate.issuer && certificate.issuer == root.subject
                && root.publicKey.isValidSignature(certificate.signature, for: certificate)
        }
    }

    private static func requireClock(_ now: UnixTime, root: Certificate) throws(EnrolmentError) {
        guard now >= root.notBefore else {
            throw Self.wrongClock(now, "the root is valid from \(CivilTime(root.notBefore).iso8601)")
        }
        guard now <= root.notAfter else {
            throw Self.wrongClock(now, "the root is valid until \(CivilTime(root.notAfter).iso8601)")
        }
    }

    private static func wrongClock(_ now: UnixTime, _ against: String) -> EnrolmentError {
        EnrolmentError(
            .clock, "this device's clock says \(CivilTime(now).iso8601), \(against): set the clock first")
    }
}
