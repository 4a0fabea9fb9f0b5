public import MQTT
public import MessageBus

/// Why a connection could not be made, or ended. Two errors are equal when their codes are.
public struct MQTTClientError: Error, Hashable, Sendable, CustomStringConvertible {
    /// One for each way to fail.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

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
        /// CONNACK says no; ``MQTTClientError/reasonCode`` says why.
        public static let connectionRefused = Code(description: "connection-refused")
        /// A subscription was not granted, or with a lower QoS than asked.
        public static let subscriptionRefused = Code(description: "subscription-refused")
        /// The server gave no sign of life (MQTT 5.0 section 3.1.2.10).
        public static let keepAliveTimeout = Code(description: "keep-alive-timeout")
        /// The server sent bytes that are no packet.
        public static let malformedPacket = Code(description: "malformed-packet")
        /// The server sent a packet that may not come, or not then.
        public static let protocolError = Code(description: "protocol-error")
        /// The server sent a packet above ``MQTTClientConfiguration/maximumPacketSize``.
        public static let packetTooLarge = Code(description: "packet-too-large")
        /// The server sent more unacknowledged messages than ``MQTTClientConfiguration/receiveMaximum``.
        public static let receiveMaximumExceeded = Code(description: "receive-maximum-exceeded")
        /// The server said goodbye (5.0); ``MQTTClientError/reasonCode`` says why.
        public static let disconnectedByServer = Code(description: "disconnected-by-server")
        /// The connection broke without a word.
        public static let connectionLost = Code(description: "connection-lost")
        /// We closed the connection.
        public static let closed = Code(description: "closed")
    }

    public let code: Code
    /// One line: what happened.
    public let reason: String
    /// What the server said, where it said something.
    public let reasonCode: ReasonCode?

    public init(_ code: Code, _ reason: String, reasonCode: ReasonCode? = nil) {
        self.code = code
        self.reason = reason
        self.reasonCode = reasonCode
    }

    public var description: String { "\(self.code): \(self.reason)" }

    public static func == (a: MQTTClientError, b: MQTTClientError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }

    /// What a ``MessageBus`` tells of it.
    public var busError: BusError {
        switch self.code {
        case .closed:
            BusError(.closed, self.reason)
        case .certificateRefused, .subscriptionRefused:
            BusError(.notAuthorized, self.description)
        case .connectionRefused, .disconnectedByServer:
            BusError(self.reasonCode.map(Self.isAboutRights) == true ? .notAuthorized : .disconnected, self.description)
        default:
            BusError(.disconnected, self.description)
        }
    }

    /// What is worth telling the server before closing (MQTT 5.0 section 4.13); `nil`: nothing.
    var farewell: ReasonCode? {
        switch self.code {
        case .malformedPacket: .malformedPacket
        case .protocolError: .protocolError
        case .packetTooLarge: .packetTooLarge
        case .receiveMaximumExceeded: .receiveMaximumExceeded
        case .closed, .subscriptionRefused: .normalDisconnection
        default: nil
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
        default: self.init(.protocolError, error.description)
        }
    }
}
