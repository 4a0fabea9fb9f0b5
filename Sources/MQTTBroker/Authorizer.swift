public import Identity
public import MQTT
import Telemetry

/// Says who may publish and subscribe to what. Asked for each new topic of a connection, not for each
/// message: an answer must not change while a connection lives. Synchronous, called on the event loop.
public protocol Authorizer: Sendable {
    /// - Returns: `nil` if the peer may publish so; else one word that says why not.
    func refusalToPublish(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String?

    /// - Returns: `nil` if the peer may read every topic that the filter can match; else one word.
    func refusalToSubscribe(_ filter: TopicFilter, by peer: PeerIdentity) -> String?

    /// - Returns: `nil` if the peer may have a session; else one word.
    func refusalToConnect(_ peer: PeerIdentity) -> String?

    /// Whether the broker may publish this for the peer when its connection ends without a word. Asked when it
    /// connects.
    ///
    /// - Returns: `nil` if so; else one word. Whoever may publish may have a will, unless implemented otherwise.
    func refusalOfWill(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String?

    /// Whether a message that is refused is taken and thrown away, so that the sender does not learn of it. For clients
    /// that cannot live with a refusal: one of 3.1.1 is disconnected by it, and many send the same again for ever.
    /// No, unless an authorizer says otherwise.
    func discards(_ topic: TopicName, by peer: PeerIdentity) -> Bool

    /// Whose sessions a peer's are: two peers with the same client identifier take each other's session if this is
    /// the same. The peer's SPIFFE ID, unless an authorizer says otherwise.
    func sessionOwner(_ peer: PeerIdentity) -> String

    /// Whether messages of a topic are delivered to a peer that subscribed to a filter which matches it. Always,
    /// unless an authorizer says otherwise.
    func mayReceive(_ topic: TopicName, by peer: PeerIdentity) -> Bool
}

extension Authorizer {
    public func mayReceive(_ topic: TopicName, by peer: PeerIdentity) -> Bool { true }

    public func discards(_ topic: TopicName, by peer: PeerIdentity) -> Bool { false }

    public func sessionOwner(_ peer: PeerIdentity) -> String { peer.spiffeID.rawValue }

    public func refusalOfWill(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
        self.refusalToPublish(topic, isRetained: isRetained, by: peer)
    }
}

/// The topic table of the design: each auditor on its own topics, the control center on its own, operators
/// read, a broker's certificate opens no session, only the three topics of the control center that are meant
/// for it are retained, and wills are for auditors, on their own alerts.
public struct TopicTableAuthorizer: Authorizer {
    public init() {}

    public func refusalToPublish(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
        TopicTable.refusalToPublish(
            topic.rawValue, isRetained: isRetained, by: peer.spiffeID.role, peer.spiffeID.id)?.rawValue
    }

    public func refusalToSubscribe(_ filter: TopicFilter, by peer: PeerIdentity) -> String? {
        TopicTable.maySubscribe(filter.rawValue, peer.spiffeID.role, peer.spiffeID.id) ? nil : "topic"
    }

    public func refusalToConnect(_ peer: PeerIdentity) -> String? {
        peer.spiffeID.role == .broker ? "role" : nil
    }

    public func refusalOfWill(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
        TopicTable.refusalOfWill(
            topic.rawValue, isRetained: isRetained, by: peer.spiffeID.role, peer.spiffeID.id)?.rawValue
    }
}
