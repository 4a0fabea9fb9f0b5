// The original's clients at the embedded broker: who is let in by a pinned certificate, what they may publish and read,
// and that they are delivered nothing that they cannot read.

public import Identity
public import LiCore
public import MQTT
public import PKI
import Telemetry

/// The topic table of the design, and beside it the rights of those who still speak the original's format.
///
/// - A LiCore auditor publishes readings on `audits/measures/<ID>` and reads its updates, no more.
/// - The original's database client reads `audits/measures/#`, of which it is delivered the topics of LiCore auditors
///   only: it dies on a payload that is not its text. It publishes updates to the auditors whose controller it is,
///   retained too; one to anybody else is thrown away, since it would repeat a refused one for ever.
/// - The control center may publish updates to LiCore auditors under the name of the controller that is pinned.
/// - Nobody but the certificate that is pinned publishes on a LiCore auditor's `audits/measures/<ID>`.
public struct FleetAuthorizer: Authorizer {
    private let base: any Authorizer
    private let register: FleetRegister
    private let now: @Sendable () -> UnixTime

    /// - Parameter now: the time, in Unix seconds.
    public init(
        _ register: FleetRegister, base: any Authorizer = TopicTableAuthorizer(),
        now: @escaping @Sendable () -> UnixTime
    ) {
        self.register = register
        self.base = base
        self.now = now
    }

    /// What a peer is in the fleet.
    private enum Place {
        case none
        case member(FleetMember)
        /// It may no longer use the original's format, and has no certificate of ours with which it could use another.
        case ended
    }

    private func place(of peer: PeerIdentity, in fleet: Fleet) -> Place {
        guard let member = fleet[certificateHash: peer.certificateHash] else { return .none }
        if (try? member.requireStanding(at: self.now())) != nil { return .member(member) }
        return member.isOurs(in: peer.spiffeID.trustDomain) ? .none : .ended
    }

    /// The auditor of this ID, while it may use the original's format.
    private func auditor(_ id: Identifier, in fleet: Fleet) -> FleetMember? {
        guard let member = fleet.auditor(id), (try? member.requireStanding(at: self.now())) != nil else { return nil }
        return member
    }

    public func refusalToPublish(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
        let fleet = self.register.current
        guard !fleet.isEmpty else { return self.base.refusalToPublish(topic, isRetained: isRetained, by: peer) }
        let parsed = Topic(topic.rawValue)
        switch self.place(of: peer, in: fleet) {
        case .none: break
        case .ended: return Reason.expired.rawValue
        case .member(let member):
            switch (member.kind, parsed) {
            case (.auditor, .measures(member.id)): return isRetained ? Reason.retained.rawValue : nil
            case (.databaseClient, .update(let target, member.id, _)):
                return self.auditor(target, in: fleet)?.controller == member.id ? nil : Reason.topic.rawValue
            default: return Reason.topic.rawValue
            }
        }
        switch parsed {
        case .measures(let id) where self.auditor(id, in: fleet) != nil: return Reason.format.rawValue
        case .update(let target, let controller, _) where peer.spiffeID.role == .controlCenter:
            guard let member = self.auditor(target, in: fleet) else { break }
            return member.controller == controller ? nil : Reason.topic.rawValue
        default: break
        }
        return self.base.refusalToPublish(topic, isRetained: isRetained, by: peer)
    }

    public func refusalToSubscribe(_ filter: TopicFilter, by peer: PeerIdentity) -> String? {
        let readable: String
        switch self.place(of: peer, in: self.register.current) {
        case .none: return self.base.refusalToSubscribe(filter, by: peer)
        case .ended: return Reason.expired.rawValue
        // More than they may read: they are delivered only that, and old programs do not heed a refusal.
        case .member(let member) where member.kind == .auditor: readable = "control_center/updates/#"
        case .member: readable = "audits/#"
        }
        return TopicTable.filter(readable, covers: filter.rawValue) ? nil : Reason.topic.rawValue
    }

    public func discards(_ topic: TopicName, by peer: PeerIdentity) -> Bool {
        guard case .member(let member) = self.place(of: peer, in: self.register.current),
            member.kind == .databaseClient, case .update(_, member.id, _) = Topic(topic.rawValue)
        else { return false }
        return true
    }

    /// A device of the original's and the one that replaces it may have one ID and one client identifier at the same
    /// time: neither shall throw the other out.
    public func sessionOwner(_ peer: PeerIdentity) -> String {
        guard let member = self.register.current[certificateHash: peer.certificateHash],
            !member.isOurs(in: peer.spiffeID.trustDomain)
        else { return self.base.sessionOwner(peer) }
        return "\(peer.spiffeID.rawValue) \(peer.certificateHash.hexadecimal)"
    }

    public func refusalOfWill(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
        switch self.place(of: peer, in: self.register.current) {
        case .none: self.base.refusalOfWill(topic, isRetained: isRetained, by: peer)
        case .ended: Reason.expired.rawValue
        case .member: Reason.topic.rawValue
        }
    }

    public func refusalToConnect(_ peer: PeerIdentity) -> String? { self.base.refusalToConnect(peer) }

    public func mayReceive(_ topic: TopicName, by peer: PeerIdentity) -> Bool {
        let fleet = self.register.current
        switch self.place(of: peer, in: fleet) {
        case .none: return self.base.mayReceive(topic, by: peer)
        case .ended: return false
        case .member(let member) where member.kind == .auditor:
            guard case .update(member.id, _, _) = Topic(topic.rawValue) else { return false }
            return true
        case .member:
            guard case .measures(let id) = Topic(topic.rawValue) else { return false }
            return self.auditor(id, in: fleet) != nil
        }
    }
}

extension PeerAdmission {
    /// By the rules of the installation's PKI; and, by its pinned certificate alone, who still uses the original's
    /// format and has none of our authority's.
    ///
    /// - Parameter now: the time, in Unix seconds.
    public init(gate: PeerGate, fleet: FleetRegister, now: @escaping @Sendable () -> UnixTime) {
        self.init { certificate in
            let hash = certificate.sha256
            guard let member = fleet.current[certificateHash: hash], !member.isOurs(in: gate.trustDomain) else {
                let peer = try gate.admit(leaf: certificate, at: now())
                return Peer(identity: peer.identity) { try gate.requireStanding(peer, at: now()) }
            }
            try member.requireStanding(at: now())
            let identity = PeerIdentity(spiffeID: member.spiffeID(in: gate.trustDomain), certificateHash: hash)
            return Peer(identity: identity) {
                guard let member = fleet.current[certificateHash: hash] else {
                    throw LiCoreError(.notAllowed, "\(identity.spiffeID.id) is no longer in the fleet")
                }
                try member.requireStanding(at: now())
            }
        }
    }
}

extension PeerVerification {
    /// A chain to our root, or a pinned leaf. While nobody is pinned that is not our authority's, the TLS library's
    /// own verification stays in place.
    ///
    /// - Parameters:
    ///   - verifier: the one in force; without revocation lists: the gate behind the handshake has them.
    ///   - now: the time, in Unix seconds.
    public init(
        trustDomain: TrustDomain, fleet: FleetRegister, verifier: @escaping @Sendable () -> IdentityVerifier,
        now: @escaping @Sendable () -> UnixTime
    ) {
        self.init(
            isNeeded: { fleet.current.members.contains { !$0.isOurs(in: trustDomain) } },
            verify: { chain in
                guard let leaf = chain.first else { throw PKIError(.chain, "no certificate") }
                if let member = fleet.current[certificateHash: leaf.sha256], !member.isOurs(in: trustDomain) {
                    return try member.requireStanding(at: now())
                }
                _ = try verifier().verify(der: Array(chain.prefix(2)), at: now())
            })
    }
}
