public import MQTT
import NIOCore

/// How a client connects, and what it asks for. The defaults suit a session that must lose nothing.
public struct MQTTClientConfiguration: Sendable {
    /// How bytes travel.
    public enum Transport: Sendable {
        /// TLS, mutual if a certificate of ours is given.
        case tls(TLS)
        /// MQTT in WebSocket frames (MQTT 5.0 chapter 6) over TLS.
        case webSocket(TLS, path: String)
        /// No encryption, no authentication: only to this very machine, refused for any other host.
        case plaintextLoopback
        /// The same in WebSocket frames.
        case webSocketLoopback(path: String)
        /// A Unix socket of this machine, whose file rights say who may connect. `host` and `port` don't matter.
        case unixSocket(path: String)
    }

    /// What to subscribe to at each connect.
    public struct Topic: Hashable, Sendable {
        public var filter: TopicFilter
        /// At least this QoS must be granted.
        public var qos: QoS
        /// Not to us what we published ourselves. Only 5.0, and not for a shared subscription.
        public var noLocal = false
        /// ``Delivery/isRetained`` tells how the message was published, not only that the server had kept it.
        /// Only 5.0.
        public var retainAsPublished = false
        /// When the server sends what it keeps. Other than at each subscribing: only 5.0. (The default makes it
        /// come at each connect: the session may outlive the process that knew it.)
        public var retainHandling = Subscription.RetainHandling.send

        public init(_ filter: TopicFilter, qos: QoS = .atLeastOnce) {
            self.filter = filter
            self.qos = qos
        }

        var subscription: Subscription {
            Subscription(
                filter: self.filter, maximumQoS: self.qos, noLocal: self.noLocal,
                retainAsPublished: self.retainAsPublished, retainHandling: self.retainHandling)
        }

        /// What is wrong with the server's answer; `nil` if it is granted as asked.
        func refusal(_ reasonCode: ReasonCode) -> MQTTClientError? {
            guard !reasonCode.isFailure else {
                return MQTTClientError(
                    .subscriptionRefused, "\(self.filter): \(reasonCode)", reasonCode: reasonCode)
            }
            guard reasonCode.rawValue >= self.qos.rawValue else {
                return MQTTClientError(
                    .subscriptionRefused, "\(self.filter): granted only QoS \(reasonCode.rawValue)",
                    reasonCode: reasonCode)
            }
            return nil
        }
    }

    /// What the server publishes for us when we are gone without a word (MQTT 5.0 section 3.1.2.5).
    public struct LastWill: Hashable, Sendable {
        /// With its properties: only 5.0. The payload has at most 65,535 bytes.
        public var message: OutgoingMessage
        /// How long the server waits for us to come back first; whole seconds. Only 5.0.
        public var delay: Duration

        public init(_ message: OutgoingMessage, delay: Duration = .zero) {
            self.message = message
            self.delay = delay
        }

        var will: Will {
            var properties = self.message.properties.wire
            let seconds = MQTTClientConfiguration.seconds(self.delay, limit: Int64(UInt32.max))
            if seconds > 0 { properties.append(.willDelayInterval(UInt32(seconds))) }
            return Will(
                topic: self.message.topic, payload: Array(self.message.payload.readableBytesView),
                qos: self.message.qos, retain: self.message.retain, properties: properties)
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
    /// Whom the server may know us as, beside or instead of our certificate.
    public var userName: String?
    /// At most 65,535 bytes; 3.1.1 has none without a user name. Never shown anywhere.
    public var password: Secret?
    /// An authentication of several steps. Only 5.0.
    public var authenticator: (any MQTTAuthenticator)?
    /// What the server publishes if we are gone without a word.
    public var will: LastWill?
    /// What the server, or a proxy before it, may want to know of us. Only 5.0.
    public var userProperties: [UserProperty] = []
    /// Asks for ``ServerInformation/responseInformation``. Only 5.0.
    public var requestsResponseInformation = false
    /// Whether the server may add reason strings and user properties to everything. Only 5.0.
    public var requestsProblemInformation = true
    /// How many topic aliases the server may use towards us. Only 5.0.
    public var topicAliasMaximum: UInt16 = 0
    /// Whether we use topic aliases where the server allows them: the first topics of a connection then travel
    /// once and as 2 bytes after that. Only 5.0.
    public var usesTopicAliases = false
    /// Where the session survives this process; `nil`: nowhere. With it nothing that was accepted is lost, QoS 2
    /// arrives exactly once also across crashes, and ``unacknowledged`` is always
    /// ``UnacknowledgedPolicy/resend``. One client to a store.
    public var sessionStore: (any ClientSessionStore)?
    /// Told of a message that the server refuses when nobody waits for it any more: it was enqueued, or published
    /// by an earlier process. Called on the event loop; must not block.
    public var undeliverable: (@Sendable (OutgoingMessage, MQTTClientError) -> Void)?
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
    /// How many deliveries above QoS 0 may be unsettled. 5.0: announced, the server must not exceed it. 3.1.1: at so
    /// many, nothing more is read.
    public var receiveMaximum: UInt16 = 1024
    /// The largest packet we take, in bytes; announced in 5.0. A larger one ends the connection.
    public var maximumPacketSize = 131_072
    /// Deliveries waiting for ``MessageBus/receive()`` beyond which nothing more is read.
    public var maximumBufferedDeliveries = 4096
    /// The same, in bytes of payload and topic.
    public var maximumBufferedBytes = 16 << 20
    /// At most so many publishes above QoS 0 travel unacknowledged (never more than 65,000), fewer if the server
    /// says so; the rest waits.
    public var maximumInFlight: UInt16 = 4096
    /// How long a graceful shutdown waits for outstanding acknowledgements.
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
        /// caller's, whose own store outlives this process. Not so what was sent with QoS 2: it goes on waiting,
        /// since a handshake that one side forgets can lose another message.
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
        if case .unixSocket = self.transport {
        } else {
            try check((1...65_535).contains(self.port), "the port must be 1 ... 65,535")
        }
        try check(self.clientID.utf8.count <= 65_535, "the client ID has more than 65,535 bytes")
        try check(!self.clientID.isEmpty || self.cleanStart, "without a client ID there is no session to resume")
        try check(self.receiveMaximum > 0, "receiveMaximum must be at least 1")
        try check(self.maximumInFlight > 0, "maximumInFlight must be at least 1")
        try check(
            (16...268_435_460).contains(self.maximumPacketSize), "maximumPacketSize must be 16 ... 268,435,460 bytes")
        try check(
            self.subscriptions.allSatisfy { $0.filter.shareName == nil || !$0.noLocal },
            "a shared subscription cannot leave out what we published (MQTT-3.8.3-4)")
        try check((self.userName?.utf8.count ?? 0) <= 65_535, "the user name has more than 65,535 bytes")
        try check(self.userName?.utf8.contains(0) != true, "the user name contains U+0000 (MQTT-1.5.4-2)")
        try check(!self.clientID.utf8.contains(0), "the client ID contains U+0000 (MQTT-1.5.4-2)")
        try check((self.password?.bytes.count ?? 0) <= 65_535, "the password has more than 65,535 bytes")
        try check(
            self.sessionStore == nil || (!self.cleanStart && !self.clientID.isEmpty),
            "a session store is for a session that is resumed: not with cleanStart, and with a client ID")
        if let will = self.will {
            try check(will.message.payload.readableBytes <= 65_535, "the will's payload has more than 65,535 bytes")
        }
        if self.version == .v3_1_1 { try self.validateFor3(check) }
        try self.validateTransport(check)
        // Whatever else has no encoding.
        do {
            _ = try Packet.connect(self.connect(authentication: nil)).encodedSize(version: self.version)
        } catch {
            throw MQTTClientError(.invalidConfiguration, error.reason)
        }
    }

    private func validateFor3(
        _ check: (Bool, String) throws(MQTTClientError) -> Void
    ) throws(MQTTClientError) {
        try check(self.userName != nil || self.password == nil, "3.1.1 has no password without a user name")
        try check(self.authenticator == nil, "3.1.1 has no enhanced authentication")
        try check(
            self.userProperties.isEmpty && self.topicAliasMaximum == 0 && !self.usesTopicAliases
                && !self.requestsResponseInformation,
            "3.1.1 has no user properties, topic aliases or response information")
        try check(
            self.subscriptions.allSatisfy { !$0.subscription.usesOptions },
            "3.1.1 has no subscription options but the QoS")
        try check(
            self.will.map { $0.message.properties.isEmpty && $0.delay == .zero } ?? true,
            "3.1.1 has no properties and no delay of a will")
    }

    private func validateTransport(
        _ check: (Bool, String) throws(MQTTClientError) -> Void
    ) throws(MQTTClientError) {
        switch self.transport {
        case .plaintextLoopback, .webSocketLoopback:
            try check(
                ["localhost", "127.0.0.1", "::1"].contains(self.host),
                "without TLS only this machine is allowed (localhost, 127.0.0.1, ::1), not \(self.host)")
        case .tls, .webSocket:
            break
        case .unixSocket(let path):
            try check(!path.isEmpty && path.utf8.count < 108, "a Unix socket's path has 1 to 107 bytes")
        }
        switch self.transport {
        case .webSocket(_, let path), .webSocketLoopback(let path):
            try check(
                path.utf8.first == UInt8(ascii: "/") && path.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F },
                "a WebSocket path begins with / and is printable ASCII")
        default:
            break
        }
    }

    /// The packet that asks to be let in (section 3.1).
    func connect(authentication: [UInt8]?) -> Connect {
        var properties = Properties()
        if self.version == .v5_0 {
            properties.append(
                .sessionExpiryInterval(UInt32(Self.seconds(self.sessionExpiry, limit: Int64(UInt32.max)))))
            properties.append(.receiveMaximum(self.receiveMaximum))
            properties.append(.maximumPacketSize(UInt32(self.maximumPacketSize)))
            if self.topicAliasMaximum > 0 { properties.append(.topicAliasMaximum(self.topicAliasMaximum)) }
            if self.requestsResponseInformation { properties.append(.requestResponseInformation(true)) }
            if !self.requestsProblemInformation { properties.append(.requestProblemInformation(false)) }
            for property in self.userProperties {
                properties.append(.userProperty(name: property.name, value: property.value))
            }
            if let authenticator = self.authenticator {
                properties.append(.authenticationMethod(authenticator.method))
                if let authentication { properties.append(.authenticationData(authentication)) }
            }
        }
        return Connect(
            version: self.version, clientID: self.clientID, cleanStart: self.cleanStart,
            keepAlive: UInt16(Self.seconds(self.keepAlive, limit: 65_535)), will: self.will?.will,
            username: self.userName, password: self.password?.bytes, properties: properties)
    }

    /// A step of an authentication (section 3.15).
    func auth(_ reasonCode: ReasonCode, data: [UInt8]?) -> Auth {
        var properties: Properties = [.authenticationMethod(self.authenticator?.method ?? "")]
        if let data { properties.append(.authenticationData(data)) }
        return Auth(reasonCode: reasonCode, properties: properties)
    }
}
