public import Identity
import Logging
public import MQTT

/// Something that an operator of the broker should see: above all whatever is refused, and why.
public enum BrokerEvent: Sendable, CustomStringConvertible {
    /// A TLS handshake failed, or its certificate was refused behind it. Nothing was let in.
    case handshakeRefused(address: String, reason: String)
    /// A CONNECT was refused. `peer` is known if TLS was.
    case connectRefused(peer: PeerIdentity?, clientID: String, reason: String)
    /// A session is open.
    case connected(peer: PeerIdentity, clientID: String, version: ProtocolVersion)
    /// Its connection is gone.
    case disconnected(peer: PeerIdentity, clientID: String, reason: String)
    /// A PUBLISH was refused. `reason` is one word: `topic`, `retained`, `qos`, `size`, `format`,
    /// `quota`.
    case publishRefused(peer: PeerIdentity, topic: TopicName, reason: String)
    /// A subscription was refused. `reason` is one word: `topic`, `denied`, `levels`, `quota`.
    case subscribeRefused(peer: PeerIdentity, filter: TopicFilter, reason: String)
    /// A packet above the limit; the connection was closed. `peer` is `nil` before CONNECT on a plain listener.
    case packetTooLarge(peer: PeerIdentity?, address: String, reason: String)
    /// Bytes that are no MQTT, or not at this point; the connection was closed.
    case malformed(peer: PeerIdentity?, address: String, error: MQTTError)
    /// A subscriber's queue is full: it begins to lose messages, and is disconnected if it was there.
    case queueFull(peer: PeerIdentity, clientID: String)

    public var description: String {
        switch self {
        case .handshakeRefused(let address, let reason): "refused the handshake of \(address): \(reason)"
        case .connectRefused(let peer, let clientID, let reason):
            "refused the connection of \(peer?.description ?? "nobody known") as \(clientID.debugDescription): \(reason)"
        case .connected(let peer, let clientID, let version):
            "\(peer) connected as \(clientID.debugDescription) with MQTT \(version)"
        case .disconnected(let peer, let clientID, let reason):
            "\(peer) disconnected as \(clientID.debugDescription): \(reason)"
        case .publishRefused(let peer, let topic, let reason):
            "refused a message of \(peer) on \(topic.rawValue.debugDescription): \(reason)"
        case .subscribeRefused(let peer, let filter, let reason):
            "refused \(peer) the subscription to \(filter.rawValue.debugDescription): \(reason)"
        case .packetTooLarge(let peer, let address, let reason):
            "closed the connection of \(peer?.description ?? address): \(reason)"
        case .malformed(let peer, let address, let error):
            "closed the connection of \(peer?.description ?? address): \(error)"
        case .queueFull(let peer, let clientID):
            "the queue of \(peer) as \(clientID.debugDescription) is full: it loses messages"
        }
    }

    /// Of somebody whose certificate is known.
    var isOfPeer: Bool {
        switch self {
        case .handshakeRefused: false
        case .connectRefused(let peer, _, _), .packetTooLarge(let peer, _, _), .malformed(let peer, _, _): peer != nil
        case .connected, .disconnected, .publishRefused, .subscribeRefused, .queueFull: true
        }
    }

    /// The same as fields, for logs that are read by programs. Never a payload or a secret.
    var metadata: Logger.Metadata {
        switch self {
        case .handshakeRefused(let address, _):
            ["event": "handshake-refused", "address": "\(address)"]
        case .connectRefused(let peer, let clientID, _):
            Self.fields("connect-refused", peer, ["client": "\(clientID)"])
        case .connected(let peer, let clientID, let version):
            Self.fields("connected", peer, ["client": "\(clientID)", "version": "\(version)"])
        case .disconnected(let peer, let clientID, _):
            Self.fields("disconnected", peer, ["client": "\(clientID)"])
        case .publishRefused(let peer, let topic, let reason):
            Self.fields("publish-refused", peer, ["topic": "\(topic.rawValue)", "reason": "\(reason)"])
        case .subscribeRefused(let peer, let filter, let reason):
            Self.fields("subscribe-refused", peer, ["filter": "\(filter.rawValue)", "reason": "\(reason)"])
        case .packetTooLarge(let peer, let address, _):
            Self.fields("packet-too-large", peer, ["address": "\(address)"])
        case .malformed(let peer, let address, _):
            Self.fields("malformed", peer, ["address": "\(address)"])
        case .queueFull(let peer, let clientID):
            Self.fields("queue-full", peer, ["client": "\(clientID)"])
        }
    }

    private static func fields(
        _ event: String, _ peer: PeerIdentity?, _ others: Logger.Metadata
    ) -> Logger.Metadata {
        var fields = others
        fields["event"] = "\(event)"
        if let peer { fields["peer"] = "\(peer)" }
        return fields
    }
}
