/// Counts since the broker started; ``connections`` and ``sessions`` are those of now.
public struct BrokerStatistics: Hashable, Sendable {
    /// Connections with a session.
    public internal(set) var connections = 0
    /// Sessions, with and without a connection, the in-process ones included.
    public internal(set) var sessions = 0
    /// PUBLISH packets that came, the refused ones included.
    public internal(set) var messagesReceived: UInt64 = 0
    /// Deliveries, repeated ones included.
    public internal(set) var messagesSent: UInt64 = 0
    /// Deliveries that were dropped: QoS 0 to a slow or absent client, what is beyond a queue's limit, or
    /// larger than the client takes.
    public internal(set) var messagesDropped: UInt64 = 0
    /// PUBLISH packets that were refused.
    public internal(set) var publishesRefused: UInt64 = 0
    /// Subscriptions that were refused.
    public internal(set) var subscriptionsRefused: UInt64 = 0

    package init() {}
}
