import COSE
public import Identity

/// That an auditor is alive, and how it fares. Sent after 15 minutes without a statement and at orderly
/// shutdown, in the stream of its statements.
public struct Heartbeat: Hashable, Sendable {
    /// The most meters that one heartbeat tells about.
    public static let maximumMeters = 256

    /// Messages in the outbox without a receipt, 0 ... 2^53-1.
    public var outboxCount: Int64

    /// When the oldest message that was never sent was signed, in whole seconds; nil if all were sent.
    public var oldestUnsent: Timestamp?

    /// Messages refused for good, 0 ... 2^53-1.
    public var deadLetters: Int64

    public var meters: [MeterState]

    public struct MeterState: Hashable, Sendable {
        public var meter: MeterName
        /// When it was last read, in whole seconds; nil if never.
        public var lastReading: Timestamp?
        /// Failed attempts to read it since the auditor's start, 0 ... 2^53-1.
        public var failedReads: Int64

        public init(meter: MeterName, lastReading: Timestamp?, failedReads: Int64) {
            self.meter = meter
            self.lastReading = lastReading
            self.failedReads = failedReads
        }
    }

    public init(outboxCount: Int64, oldestUnsent: Timestamp?, deadLetters: Int64, meters: [MeterState]) {
        self.outboxCount = outboxCount
        self.oldestUnsent = oldestUnsent
        self.deadLetters = deadLetters
        self.meters = meters
    }

    /// {1: outbox count, ? 2: oldest unsent, 3: dead letters, ? 4: [[meter, last reading / null, failed reads] …]}
    func encoded() -> [UInt8] {
        var writer = CBORWriter(capacity: 64 + self.meters.count * 48)
        writer.map(2 + (self.oldestUnsent == nil ? 0 : 1) + (self.meters.isEmpty ? 0 : 1))
        writer.unsigned(1)
        writer.integer(self.outboxCount)
        if let oldestUnsent = self.oldestUnsent {
            writer.unsigned(2)
            writer.integer(oldestUnsent.seconds)
        }
        writer.unsigned(3)
        writer.integer(self.deadLetters)
        if !self.meters.isEmpty {
            writer.unsigned(4)
            writer.array(self.meters.count)
            for state in self.meters {
                writer.array(3)
                writer.text(state.meter.rawValue)
                if let lastReading = state.lastReading {
                    writer.integer(lastReading.seconds)
                } else {
                    writer.null()
                }
                writer.integer(state.failedReads)
            }
        }
        return writer.bytes
    }

    init(reading reader: inout CBORReader) throws(COSEError) {
        let start = reader.position
        var outboxCount: Int64?
        var deadLetters: Int64?
        self.meters = []
        var labels = PayloadLabels(count: try reader.mapCount())
        while let label = try labels.next(&reader) {
            switch label {
            case 1: outboxCount = try reader.number(in: 0...StreamPosition.maximumSequence, "the outbox count")
            case 2: self.oldestUnsent = try reader.wireTime()
            case 3: deadLetters = try reader.number(in: 0...StreamPosition.maximumSequence, "dead letters")
            case 4:
                let count = try reader.listCount(upTo: Self.maximumMeters, "the list of meters")
                self.meters.reserveCapacity(count)
                for _ in 0..<count {
                    try reader.array(of: 3, "a meter's state")
                    let meter = try reader.meterName()
                    let lastReading = reader.takeNull() ? nil : try reader.wireTime()
                    let failedReads = try reader.number(in: 0...StreamPosition.maximumSequence, "failed reads")
                    self.meters.append(
                        MeterState(meter: meter, lastReading: lastReading, failedReads: failedReads))
                }
            default: throw labels.unknown(reader)
            }
        }
        guard let outboxCount, let deadLetters else {
            throw COSEError(.unexpected, "a heartbeat needs labels 1 and 3", at: start)
        }
        self.outboxCount = outboxCount
        self.deadLetters = deadLetters
        try reader.finish()
    }
}

/// Goes through the labels of a payload's map: unsigned integers in ascending order.
struct PayloadLabels {
    private var remaining: Int
    private var last: Int64 = -1
    private var position = 0

    init(count: Int) { self.remaining = count }

    /// The next label; nil behind the last pair.
    mutating func next(_ reader: inout CBORReader) throws(COSEError) -> Int64? {
        guard self.remaining > 0 else { return nil }
        self.remaining -= 1
        self.position = reader.position
        let label = try reader.number(in: 0...255, "a label")
        guard label > self.last else {
            throw label == self.last
                ? COSEError(.malformed, "a map key twice", at: self.position)
                : COSEError(.notCanonical, "map keys out of order", at: self.position)
        }
        self.last = label
        return label
    }

    func unknown(_ reader: CBORReader) -> COSEError {
        COSEError(.unexpected, "label \(self.last) is not one of this kind of message", at: self.position)
    }
}
