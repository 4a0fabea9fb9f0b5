public import Connections
public import MQTT

/// What one broker holds for its clients. All bounds are per broker process.
public struct BrokerLimits: Sendable {
    /// The largest packet, in bytes with its fixed header; announced in 5.0.
    public var maximumPacketSize = 131_072
    /// Connections with a session at once. A CONNECT beyond is refused with 0x97, in 3.1.1 with 0x03; 64 more are let so
    /// far, all others end at once.
    public var maximumConnections = 10_000
    /// Sessions of one identity, connected or not.
    public var maximumSessionsPerIdentity = 16
    /// Subscriptions of one session.
    public var maximumSubscriptionsPerSession = 256
    /// The highest QoS: announced in 5.0, where a publish above it ends the connection with 0x9B; subscriptions
    /// are granted no more.
    public var maximumQoS = QoS.exactlyOnce
    /// Whether messages are retained: announced in 5.0; a retained publish ends the connection with 0x9A if not.
    public var isRetainAvailable = true
    /// Topic aliases that a client of 5.0 may use, and that it is sent if it takes them. At most this many topic
    /// names are kept for each direction of a connection. 0 is none.
    public var topicAliasMaximum: UInt16 = 32
    /// The largest payload, in bytes; a larger one is answered with 0x97. None beside that of the packet unless set.
    public var maximumPayloadSize = Int.max
    /// Filters that nobody may subscribe to, nor to any that they cover, whatever the authorizer says.
    public var deniedSubscriptions: [TopicFilter] = []
    /// Messages of QoS 1 and 2 that a client may have sent without PUBACK or PUBCOMP: our Receive Maximum. At a
    /// client of 3.1.1, which is not told, reading stops until one of those that wait for us is answered.
    public var receiveMaximum: UInt16 = 256
    /// Messages of QoS 1 and 2 sent to a client and not acknowledged; its own Receive Maximum may be lower.
    public var maximumInflight = 256
    /// Messages that wait for a client, beyond those in flight.
    public var maximumQueuedMessages = 100_000
    /// Their size in bytes: topic, properties, payload, and 64 for each.
    public var maximumQueuedBytes = 64 * 1_024 * 1_024
    /// Retained messages.
    public var maximumRetainedMessages = 10_000
    /// Their size in bytes, as ``maximumQueuedBytes``.
    public var maximumRetainedBytes = 64 * 1_024 * 1_024
    /// A session without a connection is kept this long, in seconds, whatever its client asks for.
    public var maximumSessionExpiry: UInt32 = 14 * 86_400
    /// From accepting a connection to its CONNECT, in seconds.
    public var connectDeadline: UInt32 = 10
    /// The longest keep-alive, in seconds: told to clients of 5.0 that ask for more or none.
    public var maximumKeepAlive: UInt16 = 3_600
    /// The longest client identifier, in bytes of UTF-8.
    public var maximumClientIDLength = 256
    /// Messages that wait to be received by an in-process session before its publishers are no longer read.
    public var maximumInProcessMessages = 8_192
    /// Their payloads, in bytes.
    public var maximumInProcessBytes = 32 * 1_024 * 1_024
    /// Bytes written but not taken by a client before it counts as slow: above, messages of QoS 0 to it are
    /// dropped, the others queued.
    public var slowConsumerBytes = 256 * 1_024
    /// What waits for clients, in bytes as ``maximumQueuedBytes``, over all sessions. Beyond, the session with the most
    /// of it loses the newer half of its queue, acknowledged messages among it, as if its queue were full.
    public var maximumTotalQueuedBytes = 1_024 * 1_024 * 1_024

    // MARK: Who connects how often

    /// Connections at once from one address (IPv6: one /64).
    public var maximumConnectionsPerAddress = 4_096
    /// New connections from one address, the refused ones included; `nil` is any. Refused before TLS begins.
    public var connectionRatePerAddress: Rate? = Rate(perSecond: 200, burst: 2_000)
    /// Connections at once of one identity.
    public var maximumConnectionsPerIdentity = 64
    /// New connections of one identity; `nil` is any.
    public var connectionRatePerIdentity: Rate? = Rate(perSecond: 20, burst: 400)

    // MARK: How much one connection may send

    /// Packets of one connection; `nil`, the default, is any. Who sends more is read more slowly: nothing is lost.
    public var packetRatePerConnection: Rate?
    /// Bytes of one connection, as ``packetRatePerConnection``.
    public var byteRatePerConnection: Rate?
    /// Packets that one connection has dealt with before the others have their turn.
    public var packetsPerTurn = 128

    public init() {}
}
