public import Identity
public import MQTT
public import NIOCore

/// What the auditor and the control center need of a message transport.
///
/// Two things conform: an MQTT client (`MQTTClientBus`), for any broker, and the embedded broker's own
/// in-process session, so that one process can hold all parts without a socket between them.
///
/// One task calls ``receive()``; any may call ``publish(topic:payload:qos:retain:)``. Flow control is by
/// pulling: what is not received is not read from the network, and what is not settled keeps its place
/// in the sender's window.
public protocol MessageBus: Sendable {
    /// Waits until something has happened and returns all of it, in order, at least one event.
    ///
    /// - Returns: `nil` once the bus has shut down; then always `nil`.
    /// - Throws: `CancellationError` when the calling task is cancelled.
    func receive() async throws -> [BusEvent]?

    /// Publishes and waits until the next hop holds the message (QoS 1: its PUBACK). That says nothing
    /// about whoever is behind that hop.
    ///
    /// - Throws: ``BusError``. After an error the message may or may not have been delivered.
    func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws
}

/// One thing that happened on a ``MessageBus``.
public enum BusEvent: Sendable {
    /// Connected, authenticated, and every subscription granted. Comes again after each reconnect.
    case connected
    /// The connection is lost, or could not be made; the bus goes on trying by itself.
    case disconnected(BusError)
    /// A message for one of our subscriptions.
    case delivery(Delivery)
}

/// A message delivered to us.
public struct Delivery: Sendable {
    public var topic: TopicName
    public var payload: ByteBuffer
    public var qos: QoS
    /// Stored by the broker before we subscribed, or published as retained and passed on as such.
    public var isRetained: Bool
    /// The publisher's identity by its TLS session. Only the in-process session knows it.
    public var sender: PeerIdentity?
    /// What came beside the payload; empty in 3.1.1.
    public var properties: MessageProperties
    private let settlement: Settlement?

    public init(
        topic: TopicName, payload: ByteBuffer, qos: QoS, isRetained: Bool, sender: PeerIdentity? = nil,
        properties: MessageProperties = MessageProperties(), settlement: Settlement? = nil
    ) {
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.isRetained = isRetained
        self.sender = sender
        self.properties = properties
        self.settlement = settlement
    }

    /// Tells the sender that this message is dealt with for good: what was to be durable is durable.
    ///
    /// For QoS 1 it releases the PUBACK, for QoS 2 the PUBREC. Deliveries may be settled in any order: the bus
    /// sends acknowledgements in the order of delivery (MQTT-4.6.0-2, 4.6.0-3). Settling twice does nothing more.
    public func settle() {
        self.settlement?.target.settle(self.settlement?.token ?? 0)
    }

    /// Where a settled delivery is reported.
    public struct Settlement: Sendable {
        public let target: any SettlementTarget
        public let token: UInt64

        public init(target: any SettlementTarget, token: UInt64) {
            self.target = target
            self.token = token
        }
    }
}

/// A bus's own end of ``Delivery/settle()``.
public protocol SettlementTarget: Sendable {
    /// Called from any thread; must not block.
    func settle(_ token: UInt64)
}

/// Why a bus could not do what it was asked to. Two errors are equal when their codes are.
public struct BusError: Error, Hashable, Sendable, CustomStringConvertible {
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        /// No connection, or it was lost before the acknowledgement.
        public static let disconnected = Code(description: "disconnected")
        /// The broker refuses us: certificate, identity or rights.
        public static let notAuthorized = Code(description: "not-authorized")
        /// The next hop refused this one message.
        public static let refused = Code(description: "refused")
        /// The message is larger than the next hop takes.
        public static let tooLarge = Code(description: "too-large")
        /// The bus has shut down.
        public static let closed = Code(description: "closed")
    }

    public let code: Code
    /// One line: what happened and, where we know it, what to do.
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { self.reason }

    public static func == (a: BusError, b: BusError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
