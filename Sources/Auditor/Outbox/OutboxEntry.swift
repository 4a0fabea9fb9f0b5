public import Telemetry

/// One signed message of the stream, as the outbox keeps it.
public struct OutboxEntry: Hashable, Sendable {
    /// Its place in the outbox, 1 and up: the order of signing, over all streams.
    public var order: Int64
    public var stream: StreamID
    public var sequence: Int64
    public var id: MessageID
    /// How many readings it carries; 0 for a heartbeat.
    public var readings: Int
    public var signedAt: Timestamp
    /// The message: the same bytes are signed, stored and sent.
    public var bytes: [UInt8]

    public init(
        order: Int64, stream: StreamID, sequence: Int64, id: MessageID, readings: Int, signedAt: Timestamp,
        bytes: [UInt8]
    ) {
        self.order = order
        self.stream = stream
        self.sequence = sequence
        self.id = id
        self.readings = readings
        self.signedAt = signedAt
        self.bytes = bytes
    }
}

/// What the outbox knows of one of its messages, without the bytes.
public struct OutboxRecord: Hashable, Sendable {
    public var order: Int64
    public var id: MessageID
    /// Covered by a verified receipt: in the ring.
    public var isReceipted: Bool

    public init(order: Int64, id: MessageID, isReceipted: Bool) {
        self.order = order
        self.id = id
        self.isReceipted = isReceipted
    }
}

/// A message refused for good, kept to be looked at.
public struct DeadLetter: Hashable, Sendable {
    public var entry: OutboxEntry
    public var reason: Reason
    public var refusedAt: Timestamp

    public init(entry: OutboxEntry, reason: Reason, refusedAt: Timestamp) {
        self.entry = entry
        self.reason = reason
        self.refusedAt = refusedAt
    }
}

/// A place in one of the auditor's streams, and what stands there.
public struct StreamHead: Hashable, Sendable {
    public var stream: StreamID
    public var sequence: Int64
    public var id: MessageID
    /// Its place in the outbox.
    public var order: Int64

    public init(stream: StreamID, sequence: Int64, id: MessageID, order: Int64) {
        self.stream = stream
        self.sequence = sequence
        self.id = id
        self.order = order
    }
}

/// The part of the auditor's durable state that is not messages. Replaced as a whole by every transaction.
public struct OutboxState: Hashable, Sendable {
    /// The stream that new messages are signed into.
    public var stream: StreamID
    /// The number of its newest message; 0 before the first.
    public var lastSequence: Int64 = 0
    /// The id of its newest message; before the first, the same as ``firstPrevious``.
    public var lastID: MessageID
    /// What the first message of this stream names as the one before it.
    public var firstPrevious: MessageID
    /// The order of the first message of this stream.
    public var firstOrder: Int64
    /// The order of the next message.
    public var nextOrder: Int64
    /// Messages without a receipt below this order are to be signed anew into this stream; 0: none.
    public var resignBefore: Int64 = 0
    /// The newest message that has a receipt.
    public var receiptedHead: StreamHead?
    /// Where the source stands behind the newest reading that was signed.
    public var source: SourcePosition?
    /// When the last receipts were verified.
    public var lastReceiptAt: Timestamp?

    /// A stream of which nothing is signed yet.
    public init(stream: StreamID, previous: MessageID, nextOrder: Int64) {
        self.stream = stream
        self.lastID = previous
        self.firstPrevious = previous
        self.firstOrder = nextOrder
        self.nextOrder = nextOrder
    }
}

/// How full an outbox is.
public struct OutboxSummary: Hashable, Sendable {
    /// Messages without a receipt, and their bytes.
    public var unreceipted = 0
    public var unreceiptedBytes: Int64 = 0
    /// Messages with a receipt that are still kept, and their bytes.
    public var ring = 0
    public var ringBytes: Int64 = 0
    public var deadLetters = 0
    public var deadLetterBytes: Int64 = 0

    public init() {}
}

/// A change to messages that are in the outbox already.
public enum OutboxChange: Hashable, Sendable {
    /// A verified receipt covers these numbers of a stream: those without one move to the ring.
    case receipted(StreamID, ClosedRange<Int64>, at: Timestamp)
    /// Refused for good: moves to the dead letters.
    case deadLetter(StreamID, sequence: Int64, Reason, at: Timestamp)
    /// Signed anew in the same transaction: the old one goes.
    case replaced(order: Int64)
    /// The control center has lost what came behind this order: the ring from there is offered again.
    case offerAgainAfter(order: Int64)
    /// The control center has lost these numbers of a stream.
    case offerAgain(StreamID, ClosedRange<Int64>)
    /// Forgets messages of the ring: those with a receipt from before a time, then the oldest while there are
    /// more bytes than the limit.
    case trimRing(receiptedBefore: Timestamp, maximumBytes: Int64)
    /// What control centers have told, as it is now.
    case remember(ControlMemory)
}

/// Everything that becomes durable together, or not at all: changes first, in their order, then new messages,
/// then the state.
public struct OutboxTransaction: Hashable, Sendable {
    public var changes: [OutboxChange]
    public var appended: [OutboxEntry]
    public var state: OutboxState

    public init(changes: [OutboxChange] = [], appended: [OutboxEntry] = [], state: OutboxState) {
        self.changes = changes
        self.appended = appended
        self.state = state
    }
}
