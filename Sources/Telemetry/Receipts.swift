import COSE

/// What the control center has decided about the messages of one stream: only what this covers, or refuses
/// for good, may the auditor forget.
public struct Receipts: Hashable, Sendable {
    /// The most entries of ``stored`` and of ``refused``.
    public static let maximumEntries = 512

    /// The most ranges with which a hello is answered: a stream's newest. Below the first of as many, an answer says
    /// nothing; fewer are all.
    public static let maximumAnswerRuns = 64

    /// Stored without a hole.
    public var stored: [StoredRange]

    /// Refused for good.
    public var refused: [RefusedMessage]

    /// The newest message held of this stream; nil if none is.
    public var newest: StreamHead?

    /// The nonce of the hello that this answers.
    public var nonce: Nonce?

    /// Messages `first` ... `last` are stored; `lastID` is the id of the last, and by the chain of `prev` it
    /// stands for all of them.
    public struct StoredRange: Hashable, Sendable {
        public var first: Int64
        public var last: Int64
        public var lastID: MessageID

        /// - Precondition: 1 ≤ first ≤ last ≤ 2^53-1.
        public init(first: Int64, last: Int64, lastID: MessageID) {
            precondition(first >= 1 && first <= last && last <= StreamPosition.maximumSequence)
            self.first = first
            self.last = last
            self.lastID = lastID
        }
    }

    /// A message that will never be stored.
    public struct RefusedMessage: Hashable, Sendable {
        public var sequence: Int64
        public var id: MessageID
        public var reason: Reason

        /// - Precondition: `sequence` in 1 ... 2^53-1.
        public init(sequence: Int64, id: MessageID, reason: Reason) {
            precondition((1...StreamPosition.maximumSequence).contains(sequence))
            self.sequence = sequence
            self.id = id
            self.reason = reason
        }
    }

    /// The end of a stream as far as it is held.
    public struct StreamHead: Hashable, Sendable {
        public var sequence: Int64
        public var id: MessageID

        /// - Precondition: `sequence` in 1 ... 2^53-1.
        public init(sequence: Int64, id: MessageID) {
            precondition((1...StreamPosition.maximumSequence).contains(sequence))
            self.sequence = sequence
            self.id = id
        }
    }

    public init(
        stored: [StoredRange] = [], refused: [RefusedMessage] = [], newest: StreamHead? = nil, nonce: Nonce? = nil
    ) {
        self.stored = stored
        self.refused = refused
        self.newest = newest
        self.nonce = nonce
    }

    /// {? 1: [[first, last, id] …], ? 2: [[seq, id, reason] …], ? 3: [seq, id], ? 5: nonce}
    func encoded() -> [UInt8] {
        var writer = CBORWriter(capacity: 64 + self.stored.count * 48 + self.refused.count * 64)
        writer.map(
            (self.stored.isEmpty ? 0 : 1) + (self.refused.isEmpty ? 0 : 1) + (self.newest == nil ? 0 : 1)
                + (self.nonce == nil ? 0 : 1))
        if !self.stored.isEmpty {
            writer.unsigned(1)
            writer.array(self.stored.count)
            for range in self.stored {
                writer.array(3)
                writer.integer(range.first)
                writer.integer(range.last)
                writer.byteString(range.lastID.bytes)
            }
        }
        if !self.refused.isEmpty {
            writer.unsigned(2)
            writer.array(self.refused.count)
            for message in self.refused {
                writer.array(3)
                writer.integer(message.sequence)
                writer.byteString(message.id.bytes)
                writer.text(message.reason.rawValue)
            }
        }
        if let newest = self.newest {
            writer.unsigned(3)
            writer.array(2)
            writer.integer(newest.sequence)
            writer.byteString(newest.id.bytes)
        }
        if let nonce = self.nonce {
            writer.unsigned(5)
            writer.byteString(nonce.bytes)
        }
        return writer.bytes
    }

    init(reading reader: inout CBORReader) throws(COSEError) {
        self.init()
        var labels = PayloadLabels(count: try reader.mapCount())
        while let label = try labels.next(&reader) {
            switch label {
            case 1:
                let count = try reader.listCount(upTo: Self.maximumEntries, "the list of stored ranges")
                self.stored.reserveCapacity(count)
                for _ in 0..<count {
                    try reader.array(of: 3, "a stored range")
                    let first = try reader.sequence()
                    let last = try reader.number(
                        in: first...StreamPosition.maximumSequence, "the last number of a range")
                    self.stored.append(StoredRange(first: first, last: last, lastID: try reader.messageID()))
                }
            case 2:
                let count = try reader.listCount(upTo: Self.maximumEntries, "the list of refused messages")
                self.refused.reserveCapacity(count)
                for _ in 0..<count {
                    try reader.array(of: 3, "a refused message")
                    let sequence = try reader.sequence()
                    let id = try reader.messageID()
                    let position = reader.position
                    guard let reason = Reason(try reader.string(upTo: Reason.maximumLength, "a reason")) else {
                        throw COSEError(.unexpected, "not a reason word", at: position)
                    }
                    self.refused.append(RefusedMessage(sequence: sequence, id: id, reason: reason))
                }
            case 3:
                try reader.array(of: 2, "the newest message")
                self.newest = StreamHead(sequence: try reader.sequence(), id: try reader.messageID())
            case 4:
                // The log proof: an array, for whoever knows logs.
                guard reader.nextMajorType == 4 else { throw reader.fail("a log proof must be an array") }
                try reader.skip()
            case 5: self.nonce = try reader.nonce()
            default: throw labels.unknown(reader)
            }
        }
        try reader.finish()
    }
}
