import MQTT

/// Counts since the broker started; what is named of now is of now.
public struct BrokerStatistics: Hashable, Sendable {
    /// Connections with a session, now.
    public internal(set) var connections = 0
    /// Connections, those without a session included, now.
    public internal(set) var sockets = 0
    /// Sessions, with and without a connection, the in-process ones included, now.
    public internal(set) var sessions = 0
    /// PUBLISH packets that came, the refused ones included.
    public internal(set) var messagesReceived: UInt64 = 0
    /// Of them, those of QoS 0, 1 and 2 over the network.
    public internal(set) var messagesReceivedByQoS = ByQoS()
    /// Deliveries, repeated ones included.
    public internal(set) var messagesSent: UInt64 = 0
    /// Of them, those of QoS 0, 1 and 2 over the network.
    public internal(set) var messagesSentByQoS = ByQoS()
    /// Deliveries that were dropped.
    public var messagesDropped: UInt64 { self.messagesDroppedByReason.values.reduce(0, +) }
    /// Deliveries that were dropped, by reason.
    public internal(set) var messagesDroppedByReason: [DropReason: UInt64] = [:]
    /// PUBLISH packets that were refused.
    public internal(set) var publishesRefused: UInt64 = 0
    /// Subscriptions that were refused.
    public internal(set) var subscriptionsRefused: UInt64 = 0
    /// MQTT in bytes, without TLS and WebSocket, from the network.
    public internal(set) var bytesReceived: UInt64 = 0
    /// As ``bytesReceived``, to the network.
    public internal(set) var bytesSent: UInt64 = 0
    /// Connections that got a session.
    public internal(set) var connectionsAccepted: UInt64 = 0
    /// Refused within or right behind the TLS handshake, by reason.
    public internal(set) var handshakesRefused: [RefusalReason: UInt64] = [:]
    /// Refused elsewhere before a session, by reason.
    public internal(set) var connectionsRefused: [RefusalReason: UInt64] = [:]
    /// Messages of QoS 1 and 2 that wait for clients, now.
    public internal(set) var queuedMessages = 0
    /// Their size, in bytes as ``BrokerLimits/maximumQueuedBytes``, now.
    public internal(set) var queuedBytes = 0
    /// Sessions for which any wait, now.
    public internal(set) var queues = 0
    /// Messages in the longest of these queues, now.
    public internal(set) var longestQueue = 0
    /// The size of the largest of these queues, in bytes, now.
    public internal(set) var largestQueueBytes = 0

    /// Why a message was not delivered to a session, or not retained.
    public enum DropReason: String, Hashable, Sendable, CaseIterable {
        /// QoS 0, and the client takes too slowly.
        case slow
        /// QoS 0, and nobody of the session, or of the shared subscription, is connected.
        case absent
        /// The session's queue is full.
        case queueFull = "queue-full"
        /// All queues together are full, and this is the largest.
        case allQueuesFull = "all-queues-full"
        /// Its expiry interval has passed (section 3.3.2.3.3).
        case expired
        /// Larger than the client takes (section 3.1.2.11.4).
        case tooLarge = "too-large"
        /// As many messages are retained as may be. A will was delivered all the same.
        case retainedFull = "retained-full"
    }

    mutating func drop(_ reason: DropReason) { self.messagesDroppedByReason[reason, default: 0] += 1 }

    /// A count for each QoS.
    public struct ByQoS: Hashable, Sendable {
        public internal(set) var zero: UInt64 = 0
        public internal(set) var one: UInt64 = 0
        public internal(set) var two: UInt64 = 0

        package init() {}

        mutating func add(_ qos: QoS) {
            switch qos {
            case .atMostOnce: self.zero &+= 1
            case .atLeastOnce: self.one &+= 1
            case .exactlyOnce: self.two &+= 1
            }
        }
    }

    package init() {}

    /// Takes over what the router counts.
    mutating func include(_ router: BrokerStatistics) {
        self.connections = router.connections
        self.sessions = router.sessions
        self.messagesReceived = router.messagesReceived
        self.messagesSent = router.messagesSent
        self.messagesDroppedByReason = router.messagesDroppedByReason
        self.publishesRefused = router.publishesRefused
        self.subscriptionsRefused = router.subscriptionsRefused
    }
}
