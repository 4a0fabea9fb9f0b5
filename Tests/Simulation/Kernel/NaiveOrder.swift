/// What the control center should decide about an auditor's statements, written for clarity alone: it
/// looks through everything each time, and shares no code and no data structure with the real thing.
struct NaiveOrder<Stream: Hashable, ID: Hashable> {
    struct Statement {
        var stream: Stream
        var sequence: Int64
        var id: ID
        var previous: ID
    }

    enum Verdict: Equatable {
        case stored, duplicate, fork, streamClosed, held
    }

    /// Streams without their first statement that are taken at most.
    var pendingLimit = 16
    private(set) var stored: [Stream: [Statement]] = [:]
    private(set) var open: Stream?
    private(set) var closed: Set<Stream> = []
    /// Streams opened although there was one before: each is a restart.
    private(set) var restarts = 0

    /// Decides, and keeps what is to be stored.
    mutating func decide(_ statement: Statement, none: ID) -> Verdict {
        let verdict = self.verdict(on: statement)
        guard verdict == .stored else { return verdict }
        self.stored[statement.stream, default: []].append(statement)
        if statement.sequence == 1 {
            if let former = self.open { self.closed.insert(former) }
            if self.open != nil || statement.previous != none { self.restarts += 1 }
            self.open = statement.stream
        }
        return verdict
    }

    func verdict(on statement: Statement) -> Verdict {
        let stream = self.stored[statement.stream] ?? []
        if stream.contains(where: { $0.id == statement.id }) { return .duplicate }
        if stream.contains(where: { $0.sequence == statement.sequence }) { return .fork }
        if stream.contains(where: { $0.sequence == statement.sequence - 1 && $0.id != statement.previous }) {
            return .fork
        }
        if stream.contains(where: { $0.sequence == statement.sequence + 1 && $0.previous != statement.id }) {
            return .fork
        }
        if self.closed.contains(statement.stream) { return .streamClosed }
        if stream.isEmpty, statement.sequence != 1, self.pending.count >= self.pendingLimit { return .held }
        // The open stream says that it began behind this one, which would close it.
        if statement.sequence == 1, let open = self.open,
            self.stored[open]?.first(where: { $0.sequence == 1 })?.previous == statement.id
        {
            return .streamClosed
        }
        return .stored
    }

    private var pending: [Stream] {
        self.stored.compactMap { stream, statements in
            statements.contains { $0.sequence == 1 } ? nil : stream
        }
    }

    /// Every number below the newest that is not held, one by one, then drawn together.
    func gaps(of stream: Stream) -> [ClosedRange<Int64>] {
        let held = Set((self.stored[stream] ?? []).map(\.sequence))
        guard let newest = held.max() else { return [] }
        var gaps: [ClosedRange<Int64>] = []
        for number in 1...newest where !held.contains(number) {
            if let last = gaps.last, last.upperBound == number - 1 {
                gaps[gaps.count - 1] = last.lowerBound...number
            } else {
                gaps.append(number...number)
            }
        }
        return gaps
    }
}
