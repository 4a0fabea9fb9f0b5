public import MQTT

/// How a client connects, and what it asks for. The defaults suit a session that must lose nothing.
public struct MQTTClientConfiguration: Sendable {
    /// How bytes travel.
    public enum Transport: Sendable {
        /// Mutual TLS.
        case tls(TLS)
        /// No encryption, no authentication: only to this very machine, refused for any other host.
        case plaintextLoopback
    }

    /// What to subscribe to at each connect.
    public struct Topic: Hashable, Sendable {
        public var filter: TopicFilter
        /// At least this QoS must be granted. QoS 2 is not offered.
        public var qos: QoS

        public init(_ filter: TopicFilter, qos: QoS = .atLeastOnce) {
            self.filter = filter
            self.qos = qos
        }
    }

    /// A DNS name or an IP address.
    public var host: String
    public var port: Int
    public var transport: Transport
    public var version: ProtocolVersion
    /// Empty: the server assigns one (then ``cleanStart`` must be set).
    public var clientID: String
    public var subscriptions: [Topic]
    /// Whether to begin with a fresh session. `false` resumes: what came while we were away is delivered.
    public var cleanStart = false
    /// How long the server keeps our session while we are away; whole seconds, at most `UInt32.max` of them,
    /// which means for ever. Only 5.0: in 3.1.1 a session without ``cleanStart`` has no end.
    public var sessionExpiry: Duration = .seconds(14 * 86_400)
    /// Silence after which each side asks the other for a sign of life; whole seconds 0 ... 65,535, 0 for never.
    public var keepAlive: Duration = .seconds(60)
    /// How long the server may take to answer that.
    public var pingTimeout: Duration = .seconds(15)
    /// For everything until all subscriptions are granted.
    public var connectTimeout: Duration = .seconds(15)
    /// How many QoS 1 deliveries may be unsettled. 5.0: announced, the server must not exceed it. 3.1.1: at so
    /// many, nothing more is read.
    public var receiveMaximum: UInt16 = 1024
    /// The largest packet we take, in bytes; announced in 5.0. A larger one ends the connection.
    public var maximumPacketSize = 131_072
    /// Deliveries waiting for ``MessageBus/receive()`` beyond which nothing more is read.
    public var maximumBufferedDeliveries = 4096
    /// The same, in bytes of payload and topic.
    public var maximumBufferedBytes = 16 << 20
    /// At most so many QoS 1 publishes travel unacknowledged, fewer if the server says so; the rest waits.
    public var maximumInFlight: UInt16 = 4096
    /// How long a graceful shutdown waits for outstanding PUBACKs.
    public var shutdownTimeout: Duration = .seconds(5)
    /// The waits between attempts to connect.
    public var backoff = Backoff()
    /// What a lost connection means for publishes that wait for their acknowledgement.
    public var unacknowledged = UnacknowledgedPolicy.fail

    public init(
        host: String, port: Int, transport: Transport, version: ProtocolVersion = .v5_0, clientID: String,
        subscriptions: [Topic] = []
    ) {
        self.host = host
        self.port = port
        self.transport = transport
        self.version = version
        self.clientID = clientID
        self.subscriptions = subscriptions
    }

    /// What a lost connection means for publishes that wait for their acknowledgement.
    public enum UnacknowledgedPolicy: Hashable, Sendable {
        /// They fail at once with ``BusError/Code/disconnected`` and are forgotten: resending is the
        /// caller's, whose own store outlives this process.
        case fail
        /// They go on waiting; the next connection sends them again, in order, marked as duplicates if the
        /// server still has our session (MQTT 5.0 section 4.4), anew if not.
        case resend
    }

    /// Whole seconds, held to 0 ... `limit`.
    static func seconds(_ duration: Duration, limit: Int64) -> Int64 {
        min(max(duration.components.seconds, 0), limit)
    }

    /// - Throws: ``MQTTClientError`` with code `invalid-configuration`.
    func validate() throws(MQTTClientError) {
        func check(_ condition: Bool, _ reason: String) throws(MQTTClientError) {
            guard condition else { throw MQTTClientError(.invalidConfiguration, reason) }
        }
        try check((1...65_535).contains(self.port), "the port must be 1 ... 65,535")
        try check(self.clientID.utf8.count <= 65_535, "the client ID has more than 65,535 bytes")
        try check(!self.clientID.isEmpty || self.cleanStart, "without a client ID there is no session to resume")
        try check(self.receiveMaximum > 0, "receiveMaximum must be at least 1")
        try check(self.maximumInFlight > 0, "maximumInFlight must be at least 1")
        try check(
            (16...268_435_460).contains(self.maximumPacketSize), "maximumPacketSize must be 16 ... 268,435,460 bytes")
        try check(self.subscriptions.allSatisfy { $0.qos < .exactlyOnce }, "subscriptions of QoS 2 are not offered")
        if case .plaintextLoopback = self.transport {
            try check(
                ["localhost", "127.0.0.1", "::1"].contains(self.host),
                "without TLS only this machine is allowed (localhost, 127.0.0.1, ::1), not \(self.host)")
        }
    }
}
