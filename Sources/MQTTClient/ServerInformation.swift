public import MQTT
import NIOCore

/// What the server said of itself and of our session in its CONNACK (MQTT 5.0 section 3.2.2.3). In 3.1.1 only
/// ``sessionPresent`` is said; the rest is as if nothing were limited.
public struct ServerInformation: Hashable, Sendable {
    /// Whether the server had kept our session.
    public var sessionPresent = false
    /// The identifier the server gave us, if we came without one.
    public var assignedClientID: String?
    /// How often we have to be heard; our own wish, if the server said nothing. Zero: never.
    public var keepAlive: Duration = .zero
    /// How long the server keeps our session while we are away; our own wish, if the server said nothing.
    public var sessionExpiry: Duration?
    /// How many of our messages above QoS 0 may be unacknowledged.
    public var receiveMaximum = UInt16.max
    /// The highest QoS of our messages.
    public var maximumQoS = QoS.exactlyOnce
    /// Whether the server keeps retained messages.
    public var retainAvailable = true
    /// Bytes of the largest packet that the server takes; `nil`: no limit but MQTT's own.
    public var maximumPacketSize: UInt32?
    /// How many topic aliases we may use.
    public var topicAliasMaximum: UInt16 = 0
    /// Whether subscriptions may have wildcards.
    public var wildcardSubscriptionAvailable = true
    /// Whether subscriptions may have identifiers.
    public var subscriptionIdentifiersAvailable = true
    /// Whether there are shared subscriptions.
    public var sharedSubscriptionAvailable = true
    /// On what to base response topics, if the server says so and we asked
    /// (``MQTTClientConfiguration/requestsResponseInformation``).
    public var responseInformation: String?
    /// What the server says for people to read.
    public var reasonString: String?
    public var userProperties: [UserProperty] = []

    package init() {}

    init(_ packet: ConnAck, keepAlive: Int64, version: ProtocolVersion) {
        self.sessionPresent = packet.sessionPresent
        self.keepAlive = .seconds(keepAlive)
        if version == .v3_1_1 {
            // Optional there, and nobody can say so.
            self.subscriptionIdentifiersAvailable = false
        }
        for property in packet.properties.all {
            switch property {
            case .assignedClientIdentifier(let value): self.assignedClientID = value
            case .serverKeepAlive(let value): self.keepAlive = .seconds(Int64(value))
            case .sessionExpiryInterval(let value): self.sessionExpiry = .seconds(Int64(value))
            case .receiveMaximum(let value): self.receiveMaximum = value
            case .maximumQoS(let value): self.maximumQoS = value
            case .retainAvailable(let value): self.retainAvailable = value
            case .maximumPacketSize(let value): self.maximumPacketSize = value
            case .topicAliasMaximum(let value): self.topicAliasMaximum = value
            case .wildcardSubscriptionAvailable(let value): self.wildcardSubscriptionAvailable = value
            case .subscriptionIdentifiersAvailable(let value): self.subscriptionIdentifiersAvailable = value
            case .sharedSubscriptionAvailable(let value): self.sharedSubscriptionAvailable = value
            case .responseInformation(let value): self.responseInformation = value
            case .reasonString(let value): self.reasonString = value
            case .userProperty(let name, let value): self.userProperties.append(UserProperty(name, value))
            default: break
            }
        }
    }

    /// Why the server would not grant it; `nil` if it might.
    func refusal(of subscription: Subscription) -> MQTTClientError? {
        let filter = subscription.filter
        if filter.hasWildcard, !self.wildcardSubscriptionAvailable {
            return MQTTClientError(
                .notOffered, "\(filter): the server offers no wildcard subscriptions",
                reasonCode: .wildcardSubscriptionsNotSupported)
        }
        if filter.shareName != nil, !self.sharedSubscriptionAvailable {
            return MQTTClientError(
                .notOffered, "\(filter): the server offers no shared subscriptions",
                reasonCode: .sharedSubscriptionsNotSupported)
        }
        if filter.shareName != nil, subscription.noLocal {
            return MQTTClientError(
                .invalidRequest, "\(filter): a shared subscription cannot leave out what we published (MQTT-3.8.3-4)")
        }
        return nil
    }

    /// Why the server would not take it; `nil` if it should.
    func refusal(of publish: Publish, version: ProtocolVersion) -> MQTTClientError? {
        guard publish.qos <= self.maximumQoS else {
            return MQTTClientError(
                .notOffered, "the server takes no QoS above \(self.maximumQoS.rawValue)", reasonCode: .qosNotSupported)
        }
        guard !publish.retain || self.retainAvailable else {
            return MQTTClientError(
                .notOffered, "the server keeps no retained messages", reasonCode: .retainNotSupported)
        }
        guard version == .v5_0 || publish.properties.isEmpty else {
            return MQTTClientError(.notInThisVersion, "MQTT 3.1.1 has no place for a message's properties")
        }
        let header: Int
        do {
            header = try publish.encodedHeaderSize(version: version)
        } catch {
            return MQTTClientError(.messageTooLarge, error.reason)
        }
        let size = header + publish.payload.readableBytes
        guard size <= self.maximumPacketSize ?? .max else {
            return MQTTClientError(
                .messageTooLarge,
                "\(size) bytes; the server takes packets of at most \(self.maximumPacketSize ?? .max)")
        }
        return nil
    }
}
