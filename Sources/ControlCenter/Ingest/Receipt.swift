import Identity
public import Telemetry

/// The last step: what an auditor is told after the commit, not yet signed.
public struct ReceiptDraft: Hashable, Sendable {
    /// The stream that it is about, and whose.
    public var subject: StreamName
    public var receipts: Receipts

    /// Signs.
    ///
    /// - Throws: what the signer throws; `Refusal` `header` if the clock is out of range.
    public func signed(by signer: some Signer, at now: Timestamp) throws -> Outgoing {
        let message = try self.receipts.signed(about: self.subject, issuedAt: now, by: signer)
        return Outgoing(topic: .receipts(self.subject.auditor.id), bytes: message.bytes, isRetained: false)
    }
}

/// A message to publish.
public struct Outgoing: Hashable, Sendable {
    public var topic: Topic
    public var bytes: [UInt8]
    public var isRetained: Bool
}

/// What one commit decided about the messages of one stream.
struct DecidedStream {
    var stored: [Receipts.StreamHead] = []
    var refused: [Receipts.RefusedMessage] = []

    /// As receipts: ranges of consecutive numbers, and as many messages as the limit of entries asks for.
    func drafts(for subject: StreamName, newest: StreamLedger.Head?) -> [ReceiptDraft] {
        var ranges: [Receipts.StoredRange] = []
        // Numbers nearly always come in order; one that comes twice is one.
        for place in self.stored.sorted(by: { $0.sequence < $1.sequence }) {
            if let last = ranges.last, place.sequence <= last.last + 1 {
                ranges[ranges.count - 1] = Receipts.StoredRange(
                    first: last.first, last: place.sequence, lastID: place.id)
            } else {
                ranges.append(
                    Receipts.StoredRange(first: place.sequence, last: place.sequence, lastID: place.id))
            }
        }
        let newest = newest.map { Receipts.StreamHead(sequence: $0.sequence, id: $0.id) }
        let limit = Receipts.maximumEntries
        let count = max(1, max((ranges.count + limit - 1) / limit, (self.refused.count + limit - 1) / limit))
        return (0..<count).map { part in
            ReceiptDraft(
                subject: subject,
                receipts: Receipts(
                    stored: Array(ranges.dropFirst(part * limit).prefix(limit)),
                    refused: Array(self.refused.dropFirst(part * limit).prefix(limit)), newest: newest))
        }
    }
}

/// At most so many refusals a second are told to one auditor; the rest it learns when it asks again.
struct TokenBucket: Sendable {
    private let perSecond: Int64
    private var tokens: Int64
    private var filled: Timestamp

    init(perSecond: Int, at now: Timestamp) {
        self.perSecond = Int64(perSecond)
        self.tokens = Int64(perSecond)
        self.filled = now
    }

    /// Whether there is one more for now.
    mutating func take(at now: Timestamp) -> Bool {
        let elapsed = now.nanoseconds - self.filled.nanoseconds
        if elapsed < 0 {
            self.filled = now
        } else if elapsed >= 1_000_000_000 {
            self.tokens = self.perSecond
            self.filled = now
        }
        guard self.tokens > 0 else { return false }
        self.tokens -= 1
        return true
    }
}
