public import Telemetry

/// What the auditor's state machine reads of the outbox: only what is committed.
public protocol OutboxReader {
    /// The state of the last committed transaction; `nil` before the first.
    var state: OutboxState? { get }

    var summary: OutboxSummary { get }

    /// What control centers have told.
    var memory: ControlMemory { get }

    /// Messages without a receipt, in order.
    ///
    /// - Parameters:
    ///   - after: Only those of a higher order.
    ///   - before: Only those of a lower order.
    ///   - limit: At most so many.
    func unreceipted(after: Int64, before: Int64, limit: Int) throws(OutboxError) -> [OutboxEntry]

    /// One message, with or without a receipt.
    func entry(order: Int64) throws(OutboxError) -> OutboxEntry?

    /// What is known of a message with or without a receipt.
    func record(_ stream: StreamID, _ sequence: Int64) throws(OutboxError) -> OutboxRecord?

    /// How many messages in a range of a stream's numbers have no receipt.
    func unreceiptedCount(_ stream: StreamID, _ range: ClosedRange<Int64>) throws(OutboxError) -> Int

    /// How many messages in a range of a stream's numbers have a receipt and are still kept.
    func ringCount(_ stream: StreamID, _ range: ClosedRange<Int64>) throws(OutboxError) -> Int

    /// How many messages above an order have a receipt and are still kept.
    func ringCount(after order: Int64) throws(OutboxError) -> Int

    /// When the oldest message without a receipt was signed.
    func oldestUnreceipted() throws(OutboxError) -> Timestamp?

    /// When the oldest message of the ring was receipted.
    func oldestReceipt() throws(OutboxError) -> Timestamp?

    /// The newest dead letters first.
    func deadLetters(limit: Int) throws(OutboxError) -> [DeadLetter]
}

/// Where the auditor's state is kept. A commit is durable when it returns, or did not happen when it throws.
public protocol OutboxStore: OutboxReader {
    mutating func commit(_ transaction: OutboxTransaction) throws(OutboxError)
}

/// Why an outbox could not be read or written. Two errors are equal when their codes are.
public struct OutboxError: Error, Hashable, Sendable, CustomStringConvertible {
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        /// The disk, or the room given to the outbox, is full.
        public static let full = Code(description: "full")
        /// The disk does not do what it should.
        public static let io = Code(description: "io")
        /// What is stored is not what was written.
        public static let corrupt = Code(description: "corrupt")
        /// Another process uses the state directory.
        public static let locked = Code(description: "locked")
        /// A transaction that contradicts what is stored.
        public static let conflict = Code(description: "conflict")
        /// Written by a newer version of this program.
        public static let version = Code(description: "version")
        /// Belongs to another auditor.
        public static let owner = Code(description: "owner")
    }

    public let code: Code
    /// One line: what happened and what to do.
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { self.reason }

    public static func == (a: OutboxError, b: OutboxError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
