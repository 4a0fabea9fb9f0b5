import Identity
public import PKI
import X509

/// How a device exchanges its certificate for the next one, by the present one.
public struct Renewing: Sendable {
    public let address: AuthorityAddress
    public let trust: IdentityVerifier
    public let gate: PeerGate
    public var timeout = Duration.seconds(20)

    /// - Parameters:
    ///   - trust: checks what comes; the authority's server must be under one of its roots.
    ///   - gate: checks that server.
    public init(address: AuthorityAddress, trust: IdentityVerifier, gate: PeerGate) {
        self.address = address
        self.trust = trust
        self.gate = gate
    }

    private var client: ESTClient {
        var client = ESTClient(self.address, roots: self.trust.rootCertificates, gate: self.gate)
        client.timeout = self.timeout
        return client
    }

    /// Whom to trust from now on: beside those of before, the roots and intermediates that the authority shows over
    /// TLS that a trusted root vouches for (RFC 7030 section 4.1.3). So a fleet learns of a new root without a visit.
    ///
    /// - Throws: ``EnrolmentError``.
    public func newestTrust() async throws(EnrolmentError) -> IdentityVerifier {
        let certificates = try await self.client.authorities().certificates
        let roots = certificates.filter { $0.subject == $0.issuer }
        do throws(PKIError) {
            let trust = try self.trust.adding(roots: roots, intermediates: [])
            return try trust.adding(
                roots: [],
                intermediates: trust.rootCertificates.flatMap { Joining.intermediates(certificates, under: $0) })
        } catch {
            throw EnrolmentError(.format, "\(self.address) shows an authority that cannot be one: \(error.reason)")
        }
    }

    /// - Parameters:
    ///   - credentials: the present certificate and key.
    ///   - key: of the next one; may be the same.
    ///   - evenIfExpired: whether to ask with an expired certificate, which an operator may have allowed.
    /// - Throws: ``EnrolmentError``.
    public func renew(
        _ current: VerifiedIdentity, by credentials: ESTClient.Credentials, key: SigningKey,
        evenIfExpired: Bool = false, clock now: @Sendable () -> UnixTime
    ) async throws(EnrolmentError) -> EnrolledIdentity {
        if !evenIfExpired { try Self.requireValid(current, at: now()) }
        let certificates: [Certificate]
        do throws(EnrolmentError) {
            certificates = try await self.client.renew(
                try .make(for: current.spiffeID.id, key: key), by: credentials)
        } catch {
            guard error.code == .forbidden, !current.validity.contains(now()) else { throw error }
            throw EnrolmentError(
                error.code, "\(error.reason); or ask for a new invitation, then secure-mqtt auditor join --renew",
                word: error.word)
        }
        return try EnrolledIdentity(
            certificates, for: current.spiffeID.id, role: current.spiffeID.role, key: key, trust: self.trust,
            at: now())
    }

    /// - Throws: ``EnrolmentError`` with code `identity` for a certificate that cannot renew itself any more.
    public static func requireValid(_ current: VerifiedIdentity, at now: UnixTime) throws(EnrolmentError) {
        guard !current.validity.contains(now) else { return }
        throw EnrolmentError(
            .identity,
            "the certificate of \(current.spiffeID.id) expired at \(CivilTime(current.validity.upperBound).iso8601) and cannot renew itself any more: ask the operator for a new invitation, then secure-mqtt auditor join --renew"
        )
    }

    /// The newest revocation lists of all authorities that are trusted; their signatures are checked by whoever takes
    /// them.
    public func revocationLists() async throws(EnrolmentError) -> [RevocationList] {
        try await self.client.revocationLists(
            of: self.trust.rootCertificates + self.trust.intermediateCertificates)
    }
}
