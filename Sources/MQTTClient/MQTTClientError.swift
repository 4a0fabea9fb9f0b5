public import MQTT
public import MessageBus

/// Why there is no connection, why it ended, or why a request was not done. Two errors are equal when their codes
/// are.
public struct MQTTClientError: Error, Hashable, Sendable, CustomStringConvertible {
    /// One for each way to fail.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        // Before there is a connection.

        /// The configuration contradicts itself or names what cannot be, such as plaintext to another machine.
        public static let invalidConfiguration = Code(description: "invalid-configuration")
        /// No TCP connection: name not found, refused, unreachable.
        public static let connectFailed = Code(description: "connect-failed")
        /// Not connected, authenticated and subscribed within ``MQTTClientConfiguration/connectTimeout``.
        public static let connectTimeout = Code(description: "connect-timeout")
        /// The TLS handshake failed, or the connection was broken by TLS: we don't trust the server, its name
        /// is another, or it doesn't want our certificate.
        public static let tls = Code(description: "tls")
        /// The server closed the connection because of our certificate (a TLS alert that says so).
        public static let certificateRefused = Code(description: "certificate-refused")
        /// TLS is satisfied, but ``MQTTClientConfiguration/TLS/verifyPeer`` is not.
        public static let peerRejected = Code(description: "peer-rejected")
        /// The server does not speak MQTT over WebSocket there (RFC 6455 section 4.1).
        public static let webSocketRefused = Code(description: "websocket-refused")
        /// CONNACK says no; ``MQTTClientError/reasonCode`` says why, ``MQTTClientError/serverReference`` where to
        /// go instead, if the server says so.
        public static let connectionRefused = Code(description: "connection-refused")
        /// The ``MQTTAuthenticator`` gave up, or does not believe the server.
        public static let authenticationFailed = Code(description: "authentication-failed")
        /// A subscription was not granted, or with a lower QoS than asked; or an unsubscription was refused.
        public static let subscriptionRefused = Code(description: "subscription-refused")

        // Ends of a connection.

        /// The server gave no sign of life (MQTT 5.0 section 3.1.2.10).
        public static let keepAliveTimeout = Code(description: "keep-alive-timeout")
        /// The server sent bytes that are no packet.
        public static let malformedPacket = Code(description: "malformed-packet")
        /// The server sent a packet that may not come, or not then.
        public static let protocolError = Code(description: "protocol-error")
        /// The server used a topic alias that we did not allow (MQTT-3.3.2-9).
        public static let topicAliasInvalid = Code(description: "topic-alias-invalid")
        /// The server sent a packet above ``MQTTClientConfiguration/maximumPacketSize``.
        public static let packetTooLarge = Code(description: "packet-too-large")
        /// The server sent more unacknowledged messages than ``MQTTClientConfiguration/receiveMaximum``.
        public static let receiveMaximumExceeded = Code(description: "receive-maximum-exceeded")
        /// The server said goodbye (5.0); ``MQTTClientError/reasonCode`` says why,
        /// ``MQTTClientError/serverReference`` where to go instead, if the server says so.
        public static let disconnectedByServer = Code(description: "disconnected-by-server")
        /// The connection broke without a word.
        public static let connectionLost = Code(description: "connection-lost")
        /// We closed the connection, or it was already closed when something was asked of it.
        public static let closed = Code(description: "closed")
        /// The ``ClientSessionStore`` could not be opened, read or written. The client has stopped: what the
        /// store accepted before is still in it.
        public static let sessionStore = Code(description: "session-store")

        // Requests.

        /// There is no connection at the moment.
        public static let notConnected = Code(description: "not-connected")
        /// The server refused this message (PUBACK, PUBREC); ``MQTTClientError/reasonCode`` says why.
        public static let publishRefused = Code(description: "publish-refused")
        /// The message is larger than the server takes, or than MQTT has room for. Not sent.
        public static let messageTooLarge = Code(description: "message-too-large")
        /// The server said in its CONNACK that it does not offer this: a QoS, retained messages, wildcard or
        /// shared subscriptions, subscription identifiers. ``MQTTClientError/reasonCode`` says which. Not sent.
        public static let notOffered = Code(description: "not-offered")
        /// MQTT 3.1.1 has no such thing: properties, subscription options, re-authentication, requests. Not sent.
        public static let notInThisVersion = Code(description: "not-in-this-version")
        /// The request contradicts itself or the standard, such as a subscription to nothing. Not sent.
        public static let invalidRequest = Code(description: "invalid-request")
        /// The server resumed a session that this process knows nothing of: a packet identifier may still be in
        /// use there, and a QoS 2 message under it would be taken for another. Not sent. Use a
        /// ``ClientSessionStore``, or begin with ``MQTTClientConfiguration/cleanStart``.
        public static let sessionUnknown = Code(description: "session-unknown")
        /// No answer to a request came in time.
        public static let requestTimeout = Code(description: "request-timeout")
    }

    public let code: Code
    /// One line: what happened.
    public let reason: String
    /// What the server said, where it said something.
    public let reasonCode: ReasonCode?
    /// Another server to go to, where this one named one (MQTT 5.0 section 4.11).
    public let serverReference: String?

    public init(_ code: Code, _ reason: String, reasonCode: ReasonCode? = nil, serverReference: String? = nil) {
        self.code = code
        self.reason = reason
        self.reasonCode = reasonCode
        self.serverReference = serverReference
    }

    public var description: String { "\(self.code): \(self.reason)" }

    public static func == (a: MQTTClientError, b: MQTTClientError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }

    /// What a ``MessageBus`` tells of it.
    public var busError: BusError {
        switch self.code {
        case .closed:
            BusError(.closed, self.reason)
        case .certificateRefused, .subscriptionRefused, .authenticationFailed:
            BusError(.notAuthorized, self.description)
        case .connectionRefused, .disconnectedByServer:
            BusError(self.reasonCode.map(Self.isAboutRights) == true ? .notAuthorized : .disconnected, self.description)
        case .publishRefused:
            BusError(
                self.reasonCode == .notAuthorized
                    ? .notAuthorized : self.reasonCode == .packetTooLarge ? .tooLarge : .refused, self.reason)
        case .messageTooLarge:
            BusError(.tooLarge, self.reason)
        case .notOffered, .notInThisVersion, .invalidRequest, .sessionUnknown, .requestTimeout:
            BusError(.refused, self.reason)
        default:
            BusError(.disconnected, self.description)
        }
    }

    /// What is worth telling the server before closing (MQTT 5.0 section 4.13); `nil`: nothing.
    var farewell: ReasonCode? {
        switch self.code {
        case .malformedPacket: .malformedPacket
        case .protocolError: .protocolError
        case .topicAliasInvalid: .topicAliasInvalid
        case .packetTooLarge: .packetTooLarge
        case .receiveMaximumExceeded: .receiveMaximumExceeded
        case .sessionStore: .implementationSpecificError
        case .closed, .subscriptionRefused, .notOffered: .normalDisconnection
        default: nil
        }
    }

    /// The request never left us.
    var wasNotSent: Bool {
        switch self.code {
        case .notOffered, .notInThisVersion, .invalidRequest, .messageTooLarge: true
        default: false
        }
    }

    private static func isAboutRights(_ reasonCode: ReasonCode) -> Bool {
        switch reasonCode {
        case .notAuthorized, .badUserNameOrPassword, .banned, .badAuthenticationMethod, .clientIdentifierNotValid: true
        default: false
        }
    }
}

extension MQTTClientError {
    /// What the decoder found in the server's bytes.
    init(_ error: MQTTError) {
        switch error.code {
        case .packetTooLarge: self.init(.packetTooLarge, error.reason)
        case .malformedPacket, .topicNameInvalid: self.init(.malformedPacket, error.reason)
        case .topicAliasInvalid: self.init(.topicAliasInvalid, error.reason)
        case .protocolError: self.init(.protocolError, error.reason)
        default: self.init(.protocolError, error.description)
        }
    }

    /// What the server answered: its code, its reason string, and where it sends us.
    init(_ code: Code, _ what: String = "", answer: ReasonCode, properties: Properties) {
        let text = properties.reasonString.map { ": \($0.withoutControls)" } ?? ""
        self.init(
            code, "\(what)\(answer)\(text)", reasonCode: answer,
            serverReference: properties.serverReference)
    }
}

extension Properties {
    /// Another server to go to (section 4.11).
    var serverReference: String? {
        for case .serverReference(let value) in self.all { return value }
        return nil
    }
}
