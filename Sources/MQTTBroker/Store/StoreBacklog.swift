import NIOCore

/// What the router has changed and the store has not yet made durable: gathered over a tick of the event loop, and
/// measured, so that publishers wait when the disk does not keep up or is full.
struct StoreBacklog {
    /// Above, publishers are held; they go on below half of it.
    static let maximumChanges = 65_536
    /// Payloads and a bit for each change.
    static let maximumBytes = 32 * 1_024 * 1_024

    struct Batch {
        var changes: [StoreChange] = []
        var bytes = 0
        /// All changes up to this one, counted from 1, are in this batch or in one before it.
        var last: UInt64 = 0
    }

    private var gathered = Batch()
    private var changes = 0
    private var bytes = 0
    private(set) var isFull = false

    mutating func add(_ change: StoreChange) {
        var size = 128
        switch change {
        case .enqueue(_, _, let delivery): size += delivery.message.payload.readableBytes
        case .retain(let message, _): size += message.payload.readableBytes
        default: break
        }
        self.gathered.changes.append(change)
        self.gathered.bytes += size
        self.gathered.last += 1
        self.changes += 1
        self.bytes += size
    }

    /// What was gathered since the last time; `nil` if nothing was.
    mutating func take() -> Batch? {
        guard !self.gathered.changes.isEmpty else { return nil }
        defer { self.gathered = Batch(last: self.gathered.last) }
        return self.gathered
    }

    mutating func remove(changes: Int, bytes: Int) {
        self.changes -= changes
        self.bytes -= bytes
    }

    /// - Returns: whether ``isFull`` has changed.
    mutating func measure() -> Bool {
        let wasFull = self.isFull
        let share = wasFull ? 2 : 1
        self.isFull = self.changes > Self.maximumChanges / share || self.bytes > Self.maximumBytes / share
        return self.isFull != wasFull
    }
}
