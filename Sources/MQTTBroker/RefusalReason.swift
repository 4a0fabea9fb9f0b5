/// Why a connection was refused before it had a session: one word for statistics. Open: those of the PKI's gate
/// (`revoked`, `expired`, ...) come in by their own words.
public struct RefusalReason: Hashable, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ word: String) { self.description = word }

    // Within or right behind the TLS handshake.

    /// The client ended the connection within the handshake.
    public static let aborted = RefusalReason("aborted")
    /// No client certificate.
    public static let noCertificate = RefusalReason("no-certificate")
    /// It does not lead to a trusted root, or is not valid now.
    public static let untrusted = RefusalReason("untrusted")
    /// The client does not speak a version of TLS that is allowed.
    public static let tlsVersion = RefusalReason("tls-version")
    /// Anything else that is no TLS.
    public static let tls = RefusalReason("tls")
    /// The gate refused the certificate and gave no word of its own.
    public static let certificate = RefusalReason("certificate")

    // Before or instead of CONNECT.

    /// Not finished in time: ``BrokerLimits/connectDeadline``.
    public static let deadline = RefusalReason("deadline")
    /// ``BrokerLimits/maximumConnections``.
    public static let tooMany = RefusalReason("too-many")
    /// ``BrokerLimits/maximumConnectionsPerAddress``.
    public static let tooManyOfAddress = RefusalReason("too-many-of-address")
    /// ``BrokerLimits/connectionRatePerAddress``.
    public static let tooFastOfAddress = RefusalReason("too-fast-of-address")
    /// ``BrokerLimits/maximumConnectionsPerIdentity``.
    public static let tooManyOfIdentity = RefusalReason("too-many-of-identity")
    /// ``BrokerLimits/connectionRatePerIdentity``.
    public static let tooFastOfIdentity = RefusalReason("too-fast-of-identity")
    /// A PROXY header that is none.
    public static let proxyHeader = RefusalReason("proxy-header")
    /// An HTTP request that does not become a WebSocket.
    public static let webSocket = RefusalReason("websocket")
    /// CONNECT was refused, or its sender is nobody known.
    public static let connect = RefusalReason("connect")
    /// What came is no MQTT.
    public static let malformed = RefusalReason("malformed")
}
