import Foundation
public import Identity
public import PKI
public import X509

/// A whole PKI made in code, for tests: root, issuing intermediate, and parties of every role.
///
///     let pki = try TestPKI(auditors: ["home-1", "home-2"])
///     let verifier = try pki.verifier()
///     let auditor = try pki.auditor("home-1")
///
/// Certificates are issued at ``now``, by default the time of the machine, because TLS libraries compare with that.
public struct TestPKI: Sendable {
    /// A party with its certificate and key.
    public struct Party: Sendable {
        public let spiffeID: SPIFFEID
        public let certificate: Certificate
        public let key: SigningKey
        public let intermediate: Certificate

        public var id: Identifier { self.spiffeID.id }

        /// Leaf and intermediate.
        public var chain: [Certificate] { [self.certificate, self.intermediate] }

        /// Leaf and intermediate in DER, as a hello's x5chain carries them.
        public var chainDER: [[UInt8]] { self.chain.map(\.der) }

        /// Leaf and intermediate, as a TLS library wants them.
        public var chainPEM: String { self.chain.map(\.pemText).joined() }

        /// PKCS#8.
        public var keyPEM: String { self.key.pemRepresentation ?? "" }

        /// The name behind a TLS connection with this certificate.
        public var peer: PeerIdentity {
            PeerIdentity(spiffeID: self.spiffeID, certificateHash: self.certificate.sha256)
        }
    }

    /// Where ``write(_:to:)`` put a party's files.
    public struct Files: Sendable {
        public let chain: String
        public let key: String
    }

    public let trustDomain: TrustDomain
    public let now: UnixTime
    public let root: Authority
    public let intermediate: Authority

    /// `broker-1`, reached as `localhost`, `127.0.0.1` and `::1`.
    public let broker: Party
    /// `center-1`.
    public let controlCenter: Party
    public let auditors: [Party]
    public let operators: [Party]

    public init(
        trustDomain: String = "energy.example",
        now: UnixTime = TestPKI.currentTime(),
        auditors: [String] = ["auditor-1", "auditor-2"],
        operators: [String] = ["operator-1"]
    ) throws {
        self.trustDomain = try TrustDomain(trustDomain)
        self.now = now
        self.root = try Authority.makeRoot(trustDomain: self.trustDomain, at: now)
        self.intermediate = try self.root.makeIntermediate(trustDomain: self.trustDomain, at: now)
        let issuer = Issuer(trustDomain: self.trustDomain, intermediate: self.intermediate)
        self.broker = try issuer.issue(.broker, "broker-1", at: now)
        self.controlCenter = try issuer.issue(.controlCenter, "center-1", at: now)
        self.auditors = try auditors.map { try issuer.issue(.auditor, $0, at: now) }
        self.operators = try operators.map { try issuer.issue(.operator, $0, at: now) }
    }

    /// The time of the machine.
    public static func currentTime() -> UnixTime { UnixTime(Date().timeIntervalSince1970) }

    /// Another PKI that says the same of itself: same trust domain and names, other keys.
    public func foreign() throws -> TestPKI {
        try TestPKI(
            trustDomain: self.trustDomain.rawValue, now: self.now, auditors: self.auditors.map(\.id.rawValue),
            operators: self.operators.map(\.id.rawValue))
    }

    /// The auditor of that name, made by the initialiser.
    public func auditor(_ id: String) throws -> Party {
        guard let party = self.auditors.first(where: { $0.id.rawValue == id }) else {
            throw PKIError(.missing, "the test PKI has no auditor \(id)")
        }
        return party
    }

    /// Issues a further certificate.
    ///
    /// - Parameters:
    ///   - key: a new one unless given.
    ///   - time: of issue; ``now`` unless given.
    ///   - lifetime: in seconds; the profile's unless given.
    public func issue(
        _ role: Role, _ id: String, key: SigningKey = SigningKey(), at time: UnixTime? = nil,
        lifetime: UnixTime? = nil
    ) throws -> Party {
        try Issuer(trustDomain: self.trustDomain, intermediate: self.intermediate)
            .issue(role, id, key: key, at: time ?? self.now, lifetime: lifetime)
    }

    /// A certificate that expired a minute before ``now``.
    public func expired(_ role: Role, _ id: String, key: SigningKey = SigningKey()) throws -> Party {
        try self.issue(role, id, key: key, lifetime: -60)
    }

    /// A certificate that becomes valid an hour after ``now``.
    public func notYetValid(_ role: Role, _ id: String, key: SigningKey = SigningKey()) throws -> Party {
        try self.issue(role, id, key: key, at: self.now + 3_600 + Authority.backdating)
    }

    /// The revocation lists of root and intermediate, the latter with these parties.
    public func revocationLists(
        revoking parties: [Party] = [], number: UInt64 = 1, lifetime: UnixTime = Authority.revocationListLifetime
    ) throws -> [RevocationList] {
        let entries = parties.map {
            RevocationList.Entry($0.certificate, revokedAt: self.now, reason: .keyCompromise)
        }
        return [
            try self.root.makeRevocationList(number: number, at: self.now, lifetime: lifetime),
            try self.intermediate.makeRevocationList(
                number: number, entries: entries, at: self.now, lifetime: lifetime),
        ]
    }

    /// A verifier that trusts ``root`` and knows ``intermediate``.
    public func verifier(
        revoking parties: [Party] = [], demand: RevocationDemand = .lastKnown
    ) throws -> IdentityVerifier {
        try IdentityVerifier(
            trustDomain: self.trustDomain, roots: [self.root.certificate],
            intermediates: [self.intermediate.certificate],
            revocationLists: try self.revocationLists(revoking: parties), demand: demand)
    }

    /// A gate that trusts this PKI.
    public func gate(revoking parties: [Party] = [], demand: RevocationDemand = .lastKnown) throws -> PeerGate {
        try PeerGate(
            trustDomain: self.trustDomain, authorities: [self.root.certificate, self.intermediate.certificate],
            revocationLists: try self.revocationLists(revoking: parties), demand: demand)
    }

    /// The root certificate, as a TLS library's trust anchor.
    public var rootPEM: String { self.root.certificate.pemText }

    /// Writes `root.pem`, `intermediate.pem`, `crls.pem` (both lists) into a folder that exists.
    public func writeTrust(to directory: String, revoking parties: [Party] = []) throws {
        try CertificateFile.create("\(directory)/root.pem", [self.root.certificate])
        try CertificateFile.create("\(directory)/intermediate.pem", [self.intermediate.certificate])
        let lists = try self.revocationLists(revoking: parties).map(\.pemText).joined()
        try Data(lists.utf8).write(to: URL(fileURLWithPath: "\(directory)/crls.pem"))
    }

    /// Writes `<name>.pem` (leaf and intermediate) and `<name>.key` (0600) into a folder that exists.
    ///
    /// - Parameter name: the party's ID unless given.
    @discardableResult
    public func write(_ party: Party, to directory: String, name: String? = nil) throws -> Files {
        let name = name ?? party.id.rawValue
        let files = Files(chain: "\(directory)/\(name).pem", key: "\(directory)/\(name).key")
        try CertificateFile.create(files.chain, party.chain)
        try KeyFile.create(files.key, party.key)
        return files
    }
}

private struct Issuer {
    let trustDomain: TrustDomain
    let intermediate: Authority

    func issue(
        _ role: Role, _ id: String, key: SigningKey = SigningKey(), at time: UnixTime, lifetime: UnixTime? = nil
    ) throws -> TestPKI.Party {
        let hosts =
            try [.broker, .authority].contains(role) ? ["localhost", "127.0.0.1", "::1"].map { try HostName($0) } : []
        var profile = CertificateProfile.role(role, try Identifier(id), in: self.trustDomain, hosts: hosts)
        if let lifetime { profile.lifetime = lifetime }
        return TestPKI.Party(
            spiffeID: profile.spiffeID,
            certificate: try self.intermediate.issue(profile, to: key.publicKey, at: time),
            key: key, intermediate: self.intermediate.certificate)
    }
}
