public import Telemetry

/// The fifth step: where a verified statement stands among those of its auditor.
///
/// A value. The order comes from sequence numbers and hash links, never from clocks: a missing number is
/// a gap, a contradiction is a fork, and the first one stored stands. One `Order` is one auditor.
public struct Order: Sendable {
    /// Bounds on what one auditor can make us remember. What would pass them is held (`busy`), not refused.
    public struct Limits: Hashable, Sendable {
        /// Runs of one stream: one more than its gaps.
        public var runs = 4096
        /// Streams of which the first statement has not come.
        public var pendingStreams = 16

        public init() {}
    }

    /// What becomes of a statement.
    public enum Decision: Hashable, Sendable {
        /// It is stored.
        case append(Appended)
        /// These very bytes are stored already.
        case duplicate(stream: Int64)
        /// It is refused for good.
        case refuse(Reason, stream: Int64?)
        /// It is refused for good and kept as evidence.
        case fork(Forked)
        /// Not now: the auditor will send it again.
        case hold(Reason)
    }

    /// How a statement was stored.
    public struct Appended: Hashable, Sendable {
        /// The number of its stream.
        public var stream: Int64
        /// The stream was not known before.
        public var isNewStream: Bool
        /// What it did to the runs of the stream.
        public var change: RunSet.Change
        /// It is the first of its stream, which is now the open one.
        public var opens: Bool
        /// The stream that was open until now.
        public var closes: Int64?
        /// It opened a stream although the auditor had one before: somebody should know.
        public var isRestart: Bool
    }

    /// A contradiction between a statement and what is stored.
    public struct Forked: Hashable, Sendable {
        /// What contradicts.
        public enum Kind: String, Hashable, Sendable {
            /// Another statement is stored under this sequence number.
            case sameSequence = "same-sequence"
            /// Its `prev` is not the id of the one before it.
            case previous = "previous"
            /// It is not what the one behind it names as `prev`.
            case next = "next"
        }

        public var stream: Int64
        public var kind: Kind
        /// The id of the stored statement that it contradicts (`sameSequence`, `previous`), or that statement's
        /// `prev` (`next`).
        public var stored: MessageID
        /// From which sequence number on readings are disputed.
        public var disputedFrom: Int64
    }

    /// The auditor's number in the store.
    public let auditor: Int64
    /// The number of its open stream.
    public private(set) var openStream: Int64?
    /// How many of its streams wait for their first statement.
    public private(set) var pendingStreams: Int
    /// Its streams that are in memory.
    public private(set) var streams: [StreamID: StreamLedger]
    private let limits: Limits

    public init(
        auditor: Int64, openStream: StreamLedger? = nil, pendingStreams: Int = 0, limits: Limits = Limits()
    ) {
        self.auditor = auditor
        self.openStream = openStream?.number
        self.pendingStreams = pendingStreams
        self.streams = [:]
        self.limits = limits
        if let openStream { self.streams[openStream.id] = openStream }
    }

    /// The open stream, if the auditor has one. It is always in memory.
    public var open: StreamLedger? {
        guard let openStream else { return nil }
        return self.streams.values.first { $0.number == openStream }
    }

    /// Takes a stream that the store knows into memory.
    public mutating func remember(_ stream: StreamLedger) {
        self.streams[stream.id] = stream
    }

    /// Forgets streams beyond `count`, the open one never: the store has them.
    public mutating func forgetStreams(beyond count: Int) {
        guard self.streams.count > count else { return }
        for id in self.streams.keys where self.streams[id]?.number != self.openStream {
            self.streams[id] = nil
            if self.streams.count <= count { return }
        }
    }

    /// Decides about one statement whose signature was verified, and changes accordingly.
    ///
    /// Its stream must have been ``remember(_:)``ed if the store has it.
    ///
    /// - Parameters:
    ///   - link: the statement.
    ///   - objection: why nothing new by its signer is taken any more (`revoked`, `expired`), if so. What is
    ///     stored already stays a duplicate.
    ///   - onWord: its signature is not trusted by itself, and a hello's number speaks for it: see
    ///     ``StreamLedger/unconfirmed``.
    ///   - newStream: the number that a stream gets which is seen for the first time.
    ///   - stored: where to look up the statements that are held.
    /// - Throws: what a look-up throws; then nothing has changed.
    public mutating func decide(
        _ link: Link, objection: Reason? = nil, onWord: Bool = false, newStream: Int64,
        stored: borrowing some LinkSource
    ) throws -> Decision {
        let known = self.streams[link.stream]
        if let known, known.held.contains(link.sequence) {
            let held: MessageID
            if let head = known.head, head.sequence == link.sequence {
                held = head.id
            } else {
                held = try stored.link(stream: known.number, sequence: link.sequence).id
            }
            if held == link.id { return .duplicate(stream: known.number) }
            if let objection { return .refuse(objection, stream: known.number) }
            return self.fork(
                Forked(stream: known.number, kind: .sameSequence, stored: held, disputedFrom: link.sequence),
                in: link.stream)
        }
        if let objection { return .refuse(objection, stream: known?.number) }

        if let known {
            if let forked = try Self.contradiction(of: link, in: known, stored: stored) {
                return self.fork(forked, in: link.stream)
            }
            if known.state == .closed { return .refuse(.streamClosed, stream: known.number) }
            if known.held.runs.count >= self.limits.runs, known.held.needsNewRun(for: link.sequence) {
                return .hold(.busy)
            }
        } else if link.sequence != 1, self.pendingStreams >= self.limits.pendingStreams {
            return .hold(.busy)
        }
        // The open stream began as the continuation of this very statement: this one is older, and late.
        if link.sequence == 1, let open = self.open, open.origin == link.id {
            return .refuse(.streamClosed, stream: known?.number)
        }
        return .append(self.append(link, to: known, onWord: onWord, newStream: newStream))
    }

    /// The first contradiction between a statement that is not stored and its stored neighbours.
    private static func contradiction(
        of link: Link, in stream: StreamLedger, stored: borrowing some LinkSource
    ) throws -> Forked? {
        if let head = stream.head, head.sequence == link.sequence - 1 {
            guard head.id == link.previous else {
                return Forked(
                    stream: stream.number, kind: .previous, stored: head.id, disputedFrom: link.sequence - 1)
            }
            return nil
        }
        if stream.held.contains(link.sequence - 1) {
            let before = try stored.link(stream: stream.number, sequence: link.sequence - 1)
            guard before.id == link.previous else {
                return Forked(
                    stream: stream.number, kind: .previous, stored: before.id, disputedFrom: link.sequence - 1)
            }
        }
        if stream.held.contains(link.sequence + 1) {
            let behind = try stored.link(stream: stream.number, sequence: link.sequence + 1)
            guard behind.previous == link.id else {
                return Forked(
                    stream: stream.number, kind: .next, stored: behind.previous, disputedFrom: link.sequence)
            }
        }
        return nil
    }

    private mutating func fork(_ forked: Forked, in stream: StreamID) -> Decision {
        if let known = self.streams[stream]?.disputedFrom, known <= forked.disputedFrom { return .fork(forked) }
        self.streams[stream]?.disputedFrom = forked.disputedFrom
        return .fork(forked)
    }

    private mutating func append(
        _ link: Link, to known: StreamLedger?, onWord: Bool, newStream: Int64
    ) -> Appended {
        let opens = link.sequence == 1
        let former = opens ? self.openStream : nil
        // Its own history says whether this is the auditor's very first stream.
        let isRestart = opens && (former != nil || link.previous != .zero)
        let number = known?.number ?? newStream
        if opens {
            if known != nil { self.pendingStreams -= 1 }
            if let former, let id = self.streams.first(where: { $0.value.number == former })?.key {
                self.streams[id]?.state = .closed
            }
            self.openStream = number
        } else if known == nil {
            self.pendingStreams += 1
        }
        if known == nil {
            self.streams[link.stream] = StreamLedger(number: number, auditor: self.auditor, id: link.stream)
        }
        let change = self.update(link, opens: opens, onWord: onWord)
        return Appended(
            stream: number, isNewStream: known == nil, change: change, opens: opens, closes: former,
            isRestart: isRestart)
    }

    /// Changes the stream in place: a copy would copy its runs.
    private mutating func update(_ link: Link, opens: Bool, onWord: Bool) -> RunSet.Change {
        guard let index = self.streams.index(forKey: link.stream) else { return .none }
        let change = self.streams.values[index].hold(link.sequence, onWord: onWord)
        if self.streams.values[index].held.newest == link.sequence {
            self.streams.values[index].head = StreamLedger.Head(sequence: link.sequence, id: link.id)
        }
        if opens {
            self.streams.values[index].state = .open
            self.streams.values[index].origin = link.previous
        }
        return change
    }
}
