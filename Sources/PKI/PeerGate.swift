import Crypto
public import Identity
import Synchronization
public import X509

/// A peer that ``PeerGate`` let in: what is needed to ask again, without its certificate, whether it may stay.
public struct AdmittedPeer: Hashable, Sendable {
    public let identity: PeerIdentity

    /// When the peer's certificate is valid, both ends included.
    public let validity: ClosedRange<UnixTime>

    let serialNumber: [UInt8]
    let issuerKeyIdentifier: [UInt8]

    /// How often the gate's trust had been replaced when it was let in.
    fileprivate(set) var epoch = 0
}

/// The check behind every TLS handshake, resumed ones included: who is the peer, and may it be here now?
///
/// BoringSSL has verified the chain and the signatures of this connection or, for a resumed session, of the one
/// before; it calls no verification callback when it resumes and knows no revocation lists. So this is called after
/// each handshake with the peer's leaf certificate, and again for live sessions whenever revocation lists change.
///
/// It checks the leaf's own rules (version, key, algorithm, names, usage, trust domain), validity at the given time,
/// and revocation: of the leaf, and of the intermediate that issued it if that is one of the authorities given. It does
/// not verify signatures. Synchronous, fast enough for an event loop, safe from any thread.
public final class PeerGate: Sendable {
    /// The most certificates whose contents are remembered.
    public static let cacheCapacity = 4_096

    public let trustDomain: TrustDomain
    public let demand: RevocationDemand

    /// A known intermediate's own certificate, as revocation lists name it.
    private struct Intermediate: Sendable {
        let subject: String
        let serialNumber: [UInt8]
        let issuerKeyIdentifier: [UInt8]
    }

    private struct Trust {
        var authorities: [AuthorityRules]
        /// By their key identifiers. A key may have been certified more than once.
        var intermediates: [[UInt8]: [Intermediate]] = [:]
        var revocations: RevocationIndex
        /// Counts ``replaceTrust(roots:intermediates:revocationLists:)``.
        var epoch = 0
        /// Key identifiers of those behind which peers of an earlier epoch may stay.
        var issuers: Set<[UInt8]> = []

        init(
            _ authorities: [AuthorityRules], _ revocations: RevocationIndex, epoch: Int = 0,
            issuers: Set<[UInt8]> = []
        ) throws(PKIError) {
            self.authorities = authorities
            self.revocations = revocations
            self.epoch = epoch
            self.issuers = issuers
            for authority in authorities where authority.certificate.issuer != authority.certificate.subject {
                let issuer = try CommonRules.parsed(authority.certificate, "authority key identifier") {
                    try authority.certificate.extensions.authorityKeyIdentifier
                }
                guard let identifier = issuer?.keyIdentifier else { continue }
                self.intermediates[authority.keyIdentifier, default: []].append(
                    Intermediate(
                        subject: "\(authority.certificate.subject)", serialNumber: authority.certificate.serialBytes,
                        issuerKeyIdentifier: Array(identifier)))
            }
        }
    }

    private let trust: Mutex<Trust>
    private let cache: Mutex<Generations>

    /// - Parameters:
    ///   - authorities: roots and intermediates, to verify revocation lists.
    /// - Throws: ``PKIError`` for a certificate that may not be an authority, or a list with a broken signature or of
    ///   an authority that is not given.
    public init(
        trustDomain: TrustDomain, authorities: [Certificate], revocationLists: [RevocationList] = [],
        demand: RevocationDemand = .lastKnown
    ) throws(PKIError) {
        self.trustDomain = trustDomain
        self.demand = demand
        var rules: [AuthorityRules] = []
        for authority in authorities {
            rules.append(try AuthorityRules(authority))
        }
        var index = RevocationIndex()
        try index.add(revocationLists, authorities: rules, strict: false)
        self.trust = Mutex(try Trust(rules, index))
        self.cache = Mutex(Generations(capacity: Self.cacheCapacity))
    }

    /// Takes newer revocation lists, in one step for all threads. Ask ``requireStanding(_:at:)`` for live sessions
    /// afterwards.
    ///
    /// - Throws: ``PKIError`` with code `unknown-issuer`, `signature`, or `crl-outdated` if a newer list is held; then
    ///   nothing has changed.
    public func update(_ lists: [RevocationList]) throws(PKIError) {
        try self.trust.withLock { (trust) throws(PKIError) in
            var updated = trust.revocations
            try updated.add(lists, authorities: trust.authorities, strict: true)
            trust.revocations = updated
        }
    }

    /// Exchanges the authorities, in one step for all threads. Peers that were let in before may stay only if their
    /// issuer is one of these intermediates, signed by one of these roots, or such a root itself: ask
    /// ``requireStanding(_:at:)`` for live sessions afterwards. That peers which come later lead to the new roots is
    /// for TLS to verify, as always.
    ///
    /// - Throws: as ``init(trustDomain:authorities:revocationLists:demand:)``; then nothing has changed.
    public func replaceTrust(
        roots: [Certificate], intermediates: [Certificate], revocationLists: [RevocationList]
    ) throws(PKIError) {
        var rootRules: [AuthorityRules] = []
        for root in roots { rootRules.append(try AuthorityRules(root)) }
        var rules = rootRules
        var issuers = Set(rootRules.map(\.keyIdentifier))
        for intermediate in intermediates {
            let authority = try AuthorityRules(intermediate)
            rules.append(authority)
            // One that no root has signed is of no use, and no error: TLS will not believe it either.
            let isTrusted = rootRules.contains { root in
                root.certificate.subject == intermediate.issuer
                    && root.certificate.publicKey.isValidSignature(intermediate.signature, for: intermediate)
            }
            if isTrusted { issuers.insert(authority.keyIdentifier) }
        }
        var index = RevocationIndex()
        try index.add(revocationLists, authorities: rules, strict: false)
        try self.trust.withLock { (trust) throws(PKIError) in
            trust = try Trust(rules, index, epoch: trust.epoch + 1, issuers: issuers)
        }
    }

    /// Checks the peer's certificate after a handshake.
    ///
    /// - Throws: ``PKIError``: `too-large`, `format`, `version`, `weak-key`, `algorithm`, `extension`, `name`,
    ///   `trust-domain`, `key-usage`, `not-yet-valid`, `expired`, `revoked`, `crl-missing`, `crl-expired`.
    public func admit(leaf der: [UInt8], at now: UnixTime) throws(PKIError) -> AdmittedPeer {
        guard der.count <= Certificate.maximumSize else {
            throw PKIError(
                .tooLarge, "a certificate of \(der.count) bytes; at most \(Certificate.maximumSize) are accepted")
        }
        let hash = Array(SHA256.hash(data: der))
        var peer: AdmittedPeer
        if let known = self.cache.withLock({ $0.find(hash) }) {
            peer = known
        } else {
            let rules = try LeafRules(try Certificate(der: der), trustDomain: self.trustDomain)
            peer = AdmittedPeer(
                identity: PeerIdentity(spiffeID: rules.spiffeID, certificateHash: hash), validity: rules.validity,
                serialNumber: rules.serialNumber, issuerKeyIdentifier: rules.issuerKeyIdentifier)
            self.cache.withLock { $0.insert(peer, for: hash) }
        }
        peer.epoch = self.trust.withLock { $0.epoch }
        try self.requireStanding(peer, at: now)
        return peer
    }

    /// Whether a peer that was let in may stay: validity, revocation, also of its intermediate, and an issuer that is
    /// still trusted.
    ///
    /// - Throws: ``PKIError`` with code `not-yet-valid`, `expired`, `revoked`, `crl-missing`, `crl-expired` or
    ///   `unknown-issuer`.
    public func requireStanding(_ peer: AdmittedPeer, at now: UnixTime) throws(PKIError) {
        try CommonRules.requireValidity(peer.validity, of: peer.identity, at: now)
        try self.trust.withLock { (trust) throws(PKIError) in
            guard peer.epoch == trust.epoch || trust.issuers.contains(peer.issuerKeyIdentifier) else {
                throw PKIError(.unknownIssuer, "the issuer of \(peer.identity) is no longer trusted")
            }
            try trust.revocations.requireGood(
                peer.serialNumber, issuer: peer.issuerKeyIdentifier, subject: peer.identity.description, at: now,
                demand: self.demand)
            // One certificate of the intermediate's key that stands is enough.
            var objection: PKIError?
            for intermediate in trust.intermediates[peer.issuerKeyIdentifier] ?? [] {
                do throws(PKIError) {
                    try trust.revocations.requireGood(
                        intermediate.serialNumber, issuer: intermediate.issuerKeyIdentifier,
                        subject: intermediate.subject, at: now, demand: self.demand)
                    return
                } catch {
                    objection = error
                }
            }
            if let objection { throw objection }
        }
    }
}

/// A bounded cache: what is used stays, by two generations; when the young one is half the capacity, it becomes the
/// old one and the old one goes.
private struct Generations {
    private let half: Int
    private var young: [[UInt8]: AdmittedPeer] = [:]
    private var old: [[UInt8]: AdmittedPeer] = [:]

    init(capacity: Int) {
        self.half = capacity / 2
    }

    mutating func find(_ hash: [UInt8]) -> AdmittedPeer? {
        if let peer = self.young[hash] { return peer }
        guard let peer = self.old[hash] else { return nil }
        self.insert(peer, for: hash)
        return peer
    }

    mutating func insert(_ peer: AdmittedPeer, for hash: [UInt8]) {
        if self.young.count >= self.half {
            self.old = self.young
            self.young = [:]
        }
        self.young[hash] = peer
    }
}
