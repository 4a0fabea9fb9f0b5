import MQTT

/// Where a client's session survives the end of its process (MQTT 5.0 section 4.1): messages on their way, with
/// their packet identifiers, and the identifiers of QoS 2 messages that we have received but that the server has
/// not released yet.
///
/// All calls come from one thread at a time, and block it: a client with a store has a thread of its own for that.
public protocol ClientSessionStore: Sendable {
    /// What is there. Called once, before the first connection.
    ///
    /// - Parameter clientID: Whose session it is.
    /// - Throws: Anything, with a description of one line: the client then fails with
    ///   ``MQTTClientError/Code/sessionStore``. That includes: another client's session is in it.
    func load(clientID: String) throws -> StoredSession

    /// Makes all changes or none. When it returns they are durable: only then is told or sent what depends on
    /// them.
    func commit(_ changes: [SessionChange]) throws
}

/// What a ``ClientSessionStore`` holds.
public struct StoredSession: Hashable, Sendable {
    /// A message that was accepted, and whose way to the server is not over.
    public struct Message: Hashable, Sendable {
        /// Its place in the order; larger than that of all before it.
        public var number: UInt64
        public var message: OutgoingMessage
        /// It was, or was about to be, sent under this identifier.
        public var packetID: UInt16?
        /// QoS 2: the server has it (PUBREC); what remains is PUBREL.
        public var isReleased: Bool

        public init(number: UInt64, message: OutgoingMessage, packetID: UInt16? = nil, isReleased: Bool = false) {
            self.number = number
            self.message = message
            self.packetID = packetID
            self.isReleased = isReleased
        }
    }

    /// Whether a session with the server has ever begun.
    public var hasBegun = false
    /// In the order of their numbers.
    public var messages: [Message] = []
    /// QoS 2 messages that were received and settled, and not yet released by the server.
    public var received: Set<UInt16> = []

    public init() {}

    /// What a change does to it. A store may keep a `StoredSession` and this is all there is to do.
    public mutating func apply(_ change: SessionChange) {
        switch change {
        case .began:
            self.hasBegun = true
            self.received.removeAll()
            for index in self.messages.indices { self.messages[index].packetID = nil }
        case .accepted(let number, let message):
            self.messages.append(Message(number: number, message: message))
        case .sending(let number, let packetID):
            self.change(number) { $0.packetID = packetID }
        case .released(let number):
            self.change(number) { $0.isReleased = true }
        case .finished(let number):
            self.messages.removeAll { $0.number == number }
        case .received(let packetID):
            self.received.insert(packetID)
        case .completed(let packetID):
            self.received.remove(packetID)
        }
    }

    private mutating func change(_ number: UInt64, _ body: (inout Message) -> Void) {
        // The newest ones change most.
        guard let index = self.messages.lastIndex(where: { $0.number == number }) else { return }
        body(&self.messages[index])
    }
}

/// A change of a ``StoredSession``.
public enum SessionChange: Hashable, Sendable {
    /// A session with the server has begun: it knows none of our packet identifiers, and we none of its.
    case began
    /// A message is to be delivered.
    case accepted(number: UInt64, OutgoingMessage)
    /// It is about to be sent for the first time, under this identifier.
    case sending(number: UInt64, packetID: UInt16)
    /// QoS 2: the server has it. Its payload is not needed any more.
    case released(number: UInt64)
    /// Its way is over: acknowledged, refused, or given up.
    case finished(number: UInt64)
    /// A QoS 2 message of the server is settled: it must not be delivered again.
    case received(packetID: UInt16)
    /// The server has released that identifier.
    case completed(packetID: UInt16)
}
