public import Telemetry

/// What the control center knows of one stream.
public struct StreamLedger: Hashable, Sendable {
    /// Where a stream is in its life.
    public enum State: UInt8, Hashable, Sendable {
        /// Statements of it are stored, but its first one has not come.
        case pending = 0
        /// The one stream of its auditor that goes on.
        case open = 1
        /// Another stream took its place: nothing new is stored in it.
        case closed = 2
    }

    /// The newest statement held.
    public struct Head: Hashable, Sendable {
        public var sequence: Int64
        public var id: MessageID

        public init(sequence: Int64, id: MessageID) {
            self.sequence = sequence
            self.id = id
        }
    }

    /// Its number in the store.
    public let number: Int64
    public let auditor: Int64
    public let id: StreamID
    public var state: State
    /// Which sequence numbers are held.
    public var held: RunSet
    public var head: Head?
    /// The `prev` of its first statement: the newest one of the former stream that the auditor knew of.
    /// Absent until that statement has come.
    public var origin: MessageID?
    /// From this sequence number on, readings are disputed: there is an open fork.
    public var disputedFrom: Int64?
    /// Within these numbers are statements that an expired certificate signed, and that nothing trusted is known to
    /// name yet (``hold(_:onWord:)``). Their readings count as disputed.
    public var unconfirmed: ClosedRange<Int64>?

    public init(
        number: Int64, auditor: Int64, id: StreamID, state: State = .pending, held: RunSet = RunSet(),
        head: Head? = nil,
        origin: MessageID? = nil, disputedFrom: Int64? = nil, unconfirmed: ClosedRange<Int64>? = nil
    ) {
        self.number = number
        self.auditor = auditor
        self.id = id
        self.state = state
        self.held = held
        self.head = head
        self.origin = origin
        self.disputedFrom = disputedFrom
        self.unconfirmed = unconfirmed
    }

    /// Holds a statement of which the links to its stored neighbours were compared.
    ///
    /// In a run without a hole each statement names the one before it. So whatever lies below a trusted one in its
    /// run is confirmed by it, whoever signed it: it cannot be another without breaking SHA-256. Trusted are
    /// those that a certificate in force signed, the one that a hello names with its id, and what these confirm.
    ///
    /// - Parameter onWord: only a hello's number speaks for it, not its own signature and not its id.
    mutating func hold(_ sequence: Int64, onWord: Bool) -> RunSet.Change {
        let change = self.held.insert(sequence)
        let isNamed =
            self.held.contains(sequence + 1) && self.unconfirmed?.contains(sequence + 1) != true
        if onWord, !isNamed {
            let range = self.unconfirmed ?? sequence...sequence
            self.unconfirmed = min(range.lowerBound, sequence)...max(range.upperBound, sequence)
        }
        // What stands beyond the range is trusted.
        guard let range = self.unconfirmed, let run = self.held.run(containing: range.upperBound),
            run.contains(range.upperBound + 1)
        else { return change }
        let below = self.held.newest(below: run.lowerBound)
        self.unconfirmed = below.flatMap { $0 < range.lowerBound ? nil : range.lowerBound...$0 }
        return change
    }
}

/// A statement as a link of its stream's chain: all that ``Order`` looks at.
public struct Link: Hashable, Sendable {
    public var stream: StreamID
    public var sequence: Int64
    public var id: MessageID
    public var previous: MessageID

    public init(stream: StreamID, sequence: Int64, id: MessageID, previous: MessageID) {
        self.stream = stream
        self.sequence = sequence
        self.id = id
        self.previous = previous
    }
}

/// The two hashes of a stored statement that tie it to its neighbours.
public struct StoredLink: Hashable, Sendable {
    public var id: MessageID
    public var previous: MessageID

    public init(id: MessageID, previous: MessageID) {
        self.id = id
        self.previous = previous
    }
}

/// Where stored statements are looked up.
public protocol LinkSource {
    /// The statement at a place that is held.
    ///
    /// - Throws: an error of the store, also if there is none although it is held.
    func link(stream: Int64, sequence: Int64) throws -> StoredLink
}
