import COSE

/// What an auditor says at each connect, before anything leaves its outbox: where its stream stands, and a
/// nonce that receipts must echo. Not part of a stream; always carries the certificate chain.
public struct Hello: Hashable, Sendable {
    /// The auditor's current stream.
    public var stream: StreamID

    /// The sequence number signed last in this stream; 0 if none was.
    public var lastSequence: Int64

    /// The id of that message; if none was signed, the `prev` that the first one will name.
    public var lastID: MessageID

    public var nonce: Nonce

    /// The log's state that the auditor has seen, if there is one.
    public var remembered: RememberedLog?

    public var clock: ClockQuality

    /// A log's state: its origin, its number of leaves, and its root hash.
    public struct RememberedLog: Hashable, Sendable {
        /// The longest name, in bytes.
        public static let maximumNameLength = 255

        public var log: String
        /// 0 ... 2^53-1.
        public var size: Int64
        public var root: MessageID

        public init(log: String, size: Int64, root: MessageID) {
            self.log = log
            self.size = size
            self.root = root
        }
    }

    public init(
        stream: StreamID, lastSequence: Int64, lastID: MessageID, nonce: Nonce, remembered: RememberedLog? = nil,
        clock: ClockQuality
    ) {
        self.stream = stream
        self.lastSequence = lastSequence
        self.lastID = lastID
        self.nonce = nonce
        self.remembered = remembered
        self.clock = clock
    }

    /// {1: stream, 2: last seq, 3: its id, 4: nonce, ? 5: [log, size, root], 6: clock}
    func encoded() -> [UInt8] {
        var writer = CBORWriter(capacity: 128)
        writer.map(self.remembered == nil ? 5 : 6)
        writer.unsigned(1)
        writer.byteString(self.stream.bytes)
        writer.unsigned(2)
        writer.integer(self.lastSequence)
        writer.unsigned(3)
        writer.byteString(self.lastID.bytes)
        writer.unsigned(4)
        writer.byteString(self.nonce.bytes)
        if let remembered = self.remembered {
            writer.unsigned(5)
            writer.array(3)
            writer.text(remembered.log)
            writer.integer(remembered.size)
            writer.byteString(remembered.root.bytes)
        }
        writer.unsigned(6)
        writer.text(self.clock.description)
        return writer.bytes
    }

    init(reading reader: inout CBORReader) throws(COSEError) {
        let start = reader.position
        var stream: StreamID?
        var lastSequence: Int64?
        var lastID: MessageID?
        var nonce: Nonce?
        var clock: ClockQuality?
        var labels = PayloadLabels(count: try reader.mapCount())
        while let label = try labels.next(&reader) {
            switch label {
            case 1:
                let position = reader.position
                stream = StreamID(reader.bytes[try reader.byteString()])
                guard stream != nil else {
                    throw COSEError(.unexpected, "a stream must have 8 bytes", at: position)
                }
            case 2: lastSequence = try reader.number(in: 0...StreamPosition.maximumSequence, "the last number")
            case 3: lastID = try reader.messageID()
            case 4: nonce = try reader.nonce()
            case 5:
                try reader.array(of: 3, "the remembered log")
                self.remembered = RememberedLog(
                    log: try reader.string(upTo: RememberedLog.maximumNameLength, "the log's name"),
                    size: try reader.number(in: 0...StreamPosition.maximumSequence, "the log's size"),
                    root: try reader.messageID())
            case 6: clock = try reader.clockQuality()
            default: throw labels.unknown(reader)
            }
        }
        guard let stream, let lastSequence, let lastID, let nonce, let clock else {
            throw COSEError(.unexpected, "a hello needs labels 1, 2, 3, 4 and 6", at: start)
        }
        self.stream = stream
        self.lastSequence = lastSequence
        self.lastID = lastID
        self.nonce = nonce
        self.clock = clock
        try reader.finish()
    }
}
