public import Telemetry

/// An outbox as a value: what a transaction means, in the fewest words.
///
/// Tests hold the SQLite outbox against it, and the simulation makes disks of it: a copy is an image of the disk.
public struct MemoryOutbox: OutboxStore, Hashable, Sendable {
    public private(set) var state: OutboxState?
    public private(set) var summary = OutboxSummary()
    public private(set) var memory = ControlMemory()
    /// In order.
    private var kept: [Kept] = []
    private var letters: [DeadLetter] = []

    private struct Kept: Hashable {
        var entry: OutboxEntry
        var receiptedAt: Timestamp?

        var size: Int64 { Int64(self.entry.bytes.count) }
    }

    public init() {}

    /// Every message, with or without a receipt, in order.
    public var entries: [OutboxEntry] { self.kept.map(\.entry) }

    public mutating func commit(_ transaction: OutboxTransaction) throws(OutboxError) {
        var last = self.kept.last?.entry.order ?? 0
        for entry in transaction.appended {
            guard entry.order > last,
                !self.kept.contains(where: {
                    $0.entry.stream == entry.stream && $0.entry.sequence == entry.sequence
                })
            else {
                throw OutboxError(.conflict, "message \(entry.sequence) of stream \(entry.stream) is there already")
            }
            last = entry.order
        }
        for change in transaction.changes { self.apply(change) }
        self.kept.append(contentsOf: transaction.appended.map { Kept(entry: $0) })
        self.state = transaction.state
        self.summarize()
    }

    private mutating func apply(_ change: OutboxChange) {
        switch change {
        case .receipted(let stream, let range, let time):
            for index in self.kept.indices
            where self.kept[index].entry.stream == stream && range.contains(self.kept[index].entry.sequence)
                && self.kept[index].receiptedAt == nil
            {
                self.kept[index].receiptedAt = time
            }
        case .deadLetter(let stream, let sequence, let reason, let time):
            for kept in self.kept
            where kept.entry.stream == stream && kept.entry.sequence == sequence && kept.receiptedAt == nil {
                self.letters.append(DeadLetter(entry: kept.entry, reason: reason, refusedAt: time))
                self.kept.removeAll { $0.entry.order == kept.entry.order }
            }
        case .replaced(let order):
            self.kept.removeAll { $0.entry.order == order }
        case .offerAgainAfter(let order):
            for index in self.kept.indices where self.kept[index].entry.order > order {
                self.kept[index].receiptedAt = nil
            }
        case .offerAgain(let stream, let range):
            for index in self.kept.indices
            where self.kept[index].entry.stream == stream && range.contains(self.kept[index].entry.sequence) {
                self.kept[index].receiptedAt = nil
            }
        case .trimRing(let limit, let maximum):
            self.kept.removeAll { $0.receiptedAt.map { $0 < limit } ?? false }
            var bytes = self.kept.reduce(0) { $0 + ($1.receiptedAt == nil ? 0 : $1.size) }
            self.kept.removeAll { kept in
                guard kept.receiptedAt != nil, bytes > maximum else { return false }
                bytes -= kept.size
                return true
            }
        case .remember(let memory):
            self.memory = memory
        }
    }

    private mutating func summarize() {
        var summary = OutboxSummary()
        for kept in self.kept {
            if kept.receiptedAt == nil {
                summary.unreceipted += 1
                summary.unreceiptedBytes += kept.size
            } else {
                summary.ring += 1
                summary.ringBytes += kept.size
            }
        }
        summary.deadLetters = self.letters.count
        summary.deadLetterBytes = self.letters.reduce(0) { $0 + Int64($1.entry.bytes.count) }
        self.summary = summary
    }

    // MARK: Reading

    public func unreceipted(after: Int64, before: Int64, limit: Int) throws(OutboxError) -> [OutboxEntry] {
        Array(
            self.kept.lazy.filter { $0.receiptedAt == nil && $0.entry.order > after && $0.entry.order < before }
                .prefix(limit).map(\.entry))
    }

    public func entry(order: Int64) throws(OutboxError) -> OutboxEntry? {
        self.kept.first { $0.entry.order == order }?.entry
    }

    public func record(_ stream: StreamID, _ sequence: Int64) throws(OutboxError) -> OutboxRecord? {
        self.kept.first { $0.entry.stream == stream && $0.entry.sequence == sequence }.map {
            OutboxRecord(order: $0.entry.order, id: $0.entry.id, isReceipted: $0.receiptedAt != nil)
        }
    }

    public func unreceiptedCount(_ stream: StreamID, _ range: ClosedRange<Int64>) throws(OutboxError) -> Int {
        self.kept.count {
            $0.receiptedAt == nil && $0.entry.stream == stream && range.contains($0.entry.sequence)
        }
    }

    public func ringCount(_ stream: StreamID, _ range: ClosedRange<Int64>) throws(OutboxError) -> Int {
        self.kept.count {
            $0.receiptedAt != nil && $0.entry.stream == stream && range.contains($0.entry.sequence)
        }
    }

    public func ringCount(after order: Int64) throws(OutboxError) -> Int {
        self.kept.count { $0.receiptedAt != nil && $0.entry.order > order }
    }

    public func oldestUnreceipted() throws(OutboxError) -> Timestamp? {
        self.kept.first { $0.receiptedAt == nil }?.entry.signedAt
    }

    public func oldestReceipt() throws(OutboxError) -> Timestamp? {
        self.kept.compactMap(\.receiptedAt).min()
    }

    public func deadLetters(limit: Int) throws(OutboxError) -> [DeadLetter] {
        Array(self.letters.reversed().prefix(limit))
    }
}
