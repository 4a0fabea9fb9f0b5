import ControlCenter
import Telemetry
import TestSupport
import Testing

/// What was stored, kept beside the machine under test.
private struct Shelf: LinkSource {
    struct Place: Hashable {
        var stream: Int64
        var sequence: Int64
    }
    struct Absent: Error {}

    var links: [Place: StoredLink] = [:]

    func link(stream: Int64, sequence: Int64) throws -> StoredLink {
        guard let link = self.links[Place(stream: stream, sequence: sequence)] else { throw Absent() }
        return link
    }
}

/// An ``Order`` and its shelf.
private struct Bench {
    var order: Order
    var shelf = Shelf()
    var nextStream: Int64 = 1

    init(limits: Order.Limits = Order.Limits()) {
        self.order = Order(auditor: 1, limits: limits)
    }

    mutating func decide(
        _ link: Link, objection: Reason? = nil, onWord: Bool = false
    ) throws -> Order.Decision {
        let decision = try self.order.decide(
            link, objection: objection, onWord: onWord, newStream: self.nextStream, stored: self.shelf)
        if case .append(let appended) = decision {
            if appended.isNewStream { self.nextStream += 1 }
            self.shelf.links[Shelf.Place(stream: appended.stream, sequence: link.sequence)] =
                StoredLink(id: link.id, previous: link.previous)
        }
        return decision
    }
}

private func id(_ text: String) -> MessageID { MessageID(hashing: Array(text.utf8)) }

/// The statement `number` of a chain called `name`, which branches off another at its first own one.
private func link(_ name: String, _ number: Int64, stream: UInt64 = 1, after: MessageID? = nil) -> Link {
    Link(
        stream: StreamID(rawValue: stream), sequence: number, id: id("\(name)\(number)"),
        previous: after ?? (number == 1 ? .zero : id("\(name)\(number - 1)")))
}

extension Order.Decision {
    fileprivate var appended: Order.Appended? {
        if case .append(let appended) = self { appended } else { nil }
    }
    fileprivate var forked: Order.Forked? {
        if case .fork(let forked) = self { forked } else { nil }
    }
}

@Suite struct OrderTests {
    @Test func `an auditor's very first statement opens its stream without an alarm`() throws {
        var bench = Bench()
        let appended = try #require(try bench.decide(link("a", 1)).appended)
        #expect(appended.opens && appended.isNewStream && !appended.isRestart && appended.closes == nil)
        #expect(bench.order.open?.id == StreamID(rawValue: 1))
    }

    @Test func `a first statement that names a former stream we never saw is a restart`() throws {
        var bench = Bench()
        let appended = try #require(try bench.decide(link("b", 1, after: id("lost"))).appended)
        #expect(appended.isRestart)
    }

    @Test func `a new stream's first statement closes the former and is a restart`() throws {
        var bench = Bench()
        _ = try bench.decide(link("a", 1))
        _ = try bench.decide(link("a", 2))
        let appended = try #require(try bench.decide(link("b", 1, stream: 2, after: id("a2"))).appended)
        #expect(appended.opens && appended.isRestart && appended.closes == 1)
        #expect(bench.order.open?.id == StreamID(rawValue: 2))
        #expect(try bench.decide(link("a", 3)) == .refuse(.streamClosed, stream: 1))
        #expect(try bench.decide(link("a", 2)) == .duplicate(stream: 1))
    }

    @Test func `a gap is filled backwards and joins the runs`() throws {
        var bench = Bench()
        for number in [1, 5, 4, 3, 2] as [Int64] {
            #expect(try bench.decide(link("a", number)).appended != nil)
        }
        #expect(bench.order.open?.held.runs == [1...5])
        #expect(bench.order.open?.head == StreamLedger.Head(sequence: 5, id: id("a5")))
    }

    @Test func `a stream of which the first statement is missing waits and then opens`() throws {
        var bench = Bench()
        _ = try bench.decide(link("a", 1))
        let early = try #require(try bench.decide(link("b", 2, stream: 2)).appended)
        #expect(!early.opens && early.isNewStream)
        #expect(bench.order.open?.id == StreamID(rawValue: 1))
        #expect(bench.order.pendingStreams == 1)
        let first = try #require(try bench.decide(link("b", 1, stream: 2, after: id("a1"))).appended)
        #expect(first.opens && !first.isNewStream && first.closes == 1)
        #expect(bench.order.pendingStreams == 0)
    }

    @Test func `a late first statement of the former stream does not take the open one's place`() throws {
        var bench = Bench()
        _ = try bench.decide(link("b", 1, stream: 2, after: id("a1")))
        #expect(try bench.decide(link("a", 1)) == .refuse(.streamClosed, stream: nil))
        #expect(bench.order.open?.id == StreamID(rawValue: 2))
    }

    @Test func `another statement under a stored number is a fork, and the first stands`() throws {
        var bench = Bench()
        for number in 1...3 as ClosedRange<Int64> { _ = try bench.decide(link("a", number)) }
        for (number, from) in [(3, 3), (2, 2)] as [(Int64, Int64)] {
            let other = Link(
                stream: StreamID(rawValue: 1), sequence: number, id: id("x\(number)"), previous: id("a\(number - 1)"))
            let forked = try #require(try bench.decide(other).forked)
            #expect(forked.kind == .sameSequence)
            #expect(forked.stored == id("a\(number)"))
            #expect(forked.disputedFrom == from)
            #expect(bench.order.open?.disputedFrom == from)
        }
        #expect(try bench.decide(link("a", 3)) == .duplicate(stream: 1))
    }

    @Test(arguments: [1, 3] as [Int64])
    func `a statement that names another predecessor than the stored one is a fork`(_ behind: Int64) throws {
        var bench = Bench()
        _ = try bench.decide(link("a", 1))
        _ = try bench.decide(link("a", 2))
        // With 4 held too, 3 is not the head's successor: the predecessor is looked up.
        if behind == 3 { _ = try bench.decide(link("a", 5)) }
        let forked = try #require(try bench.decide(link("x", 3)).forked)
        #expect(forked.kind == .previous)
        #expect(forked.stored == id("a2"))
        #expect(bench.order.open?.disputedFrom == 2)
    }

    @Test func `a statement that is not what its successor names is a fork`() throws {
        var bench = Bench()
        _ = try bench.decide(link("a", 1))
        _ = try bench.decide(link("a", 4))
        let forked = try #require(try bench.decide(link("x", 3)).forked)
        #expect(forked.kind == .next)
        #expect(bench.order.open?.disputedFrom == 3)
        #expect(try bench.decide(link("a", 3)).appended != nil)
    }

    @Test func `a contradiction in a closed stream is a fork all the same`() throws {
        var bench = Bench()
        _ = try bench.decide(link("a", 1))
        _ = try bench.decide(link("b", 1, stream: 2, after: id("a1")))
        #expect(try bench.decide(link("x", 1)).forked != nil)
        #expect(try bench.decide(link("x", 2)).forked != nil)
    }

    @Test(arguments: [Reason.revoked, .expired])
    func `nothing new of a revoked or expired signer is taken, but a repeat stays a duplicate`(_ reason: Reason) throws
    {
        var bench = Bench()
        _ = try bench.decide(link("a", 1))
        #expect(try bench.decide(link("a", 2), objection: reason) == .refuse(reason, stream: 1))
        #expect(try bench.decide(link("x", 1), objection: reason) == .refuse(reason, stream: 1))
        #expect(try bench.decide(link("b", 1, stream: 2), objection: reason) == .refuse(reason, stream: nil))
        #expect(try bench.decide(link("a", 1), objection: reason) == .duplicate(stream: 1))
        #expect(bench.order.open?.disputedFrom == nil)
    }

    @Test func `more gaps than we keep are held, not refused`() throws {
        var limits = Order.Limits()
        limits.runs = 3
        var bench = Bench(limits: limits)
        for number in [1, 3, 5] as [Int64] { _ = try bench.decide(link("a", number)) }
        #expect(try bench.decide(link("a", 7)) == .hold(.busy))
        #expect(try bench.decide(link("a", 6)).appended != nil)
        #expect(try bench.decide(link("a", 2)).appended != nil)
        #expect(try bench.decide(link("a", 8)).appended != nil)
    }

    @Test func `more streams without a first statement than we keep are held`() throws {
        var limits = Order.Limits()
        limits.pendingStreams = 2
        var bench = Bench(limits: limits)
        _ = try bench.decide(link("a", 2, stream: 1))
        _ = try bench.decide(link("b", 2, stream: 2))
        #expect(try bench.decide(link("c", 2, stream: 3)) == .hold(.busy))
        #expect(try bench.decide(link("c", 1, stream: 3)).appended?.opens == true)
        #expect(try bench.decide(link("a", 1, stream: 1)).appended?.opens == true)
        #expect(try bench.decide(link("d", 2, stream: 4)).appended != nil)
    }

    /// A model that keeps every statement and says in plain words what each decision means.
    private struct Model {
        var stored: [UInt64: [Int64: Link]] = [:]
        var open: UInt64?
        var closed: Set<UInt64> = []

        mutating func expect(_ link: Link) -> String {
            let stream = link.stream.rawValue
            let held = self.stored[stream, default: [:]]
            if let same = held[link.sequence] { return same.id == link.id ? "duplicate" : "fork" }
            if let before = held[link.sequence - 1], before.id != link.previous { return "fork" }
            if let behind = held[link.sequence + 1], behind.previous != link.id { return "fork" }
            if self.closed.contains(stream) { return "stream-closed" }
            if link.sequence == 1, let open, self.stored[open]?[1]?.previous == link.id { return "stream-closed" }
            self.stored[stream, default: [:]][link.sequence] = link
            if link.sequence == 1 {
                if let open { self.closed.insert(open) }
                self.open = stream
            }
            return "append"
        }
    }

    @Test(arguments: 0..<40 as Range<UInt64>)
    func `random traffic is decided as a naive model decides it`(_ seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        var bench = Bench()
        var model = Model()
        for _ in 0..<400 {
            // Two branches of each stream agree up to the third statement.
            let stream = UInt64.random(in: 1...3, using: &random)
            let number = Int64.random(in: 1...12, using: &random)
            let branch = Bool.random(using: &random) || number <= 3 ? "s\(stream)-" : "x\(stream)-"
            let parent = number <= 4 ? "s\(stream)-" : branch
            let previous =
                number == 1
                ? (stream == 1 ? .zero : id("s\(stream - 1)-\(Int64.random(in: 1...2, using: &random))"))
                : id("\(parent)\(number - 1)")
            let link = Link(
                stream: StreamID(rawValue: stream), sequence: number, id: id("\(branch)\(number)"), previous: previous)
            let decided: String
            switch try bench.decide(link) {
            case .append: decided = "append"
            case .duplicate: decided = "duplicate"
            case .fork: decided = "fork"
            case .refuse(let reason, _): decided = reason.description
            case .hold(let reason): decided = reason.description
            }
            #expect(decided == model.expect(link), "seed \(seed)")
            #expect(bench.order.open?.id.rawValue == model.open)
            // What is in memory can be forgotten at any time, as long as the store brings it back.
            if Int.random(in: 0..<10, using: &random) == 0 {
                let all = bench.order.streams.values.map { $0 }
                bench.order.forgetStreams(beyond: 0)
                for ledger in all { bench.order.remember(ledger) }
            }
        }
        for (stream, links) in model.stored {
            let ledger = bench.order.streams[StreamID(rawValue: stream)]
            #expect(ledger?.held.runs.flatMap { Array($0) } == links.keys.sorted())
        }
    }

    @Test func `what is only on a hello's word is confirmed by what is trusted and leads to it, or marked`() throws {
        var random = SplitMix64(seed: 11)
        for _ in 0..<300 {
            var bench = Bench()
            let count = Int64.random(in: 1...14, using: &random)
            var isTrusted: [Int64: Bool] = [:]
            var held: Set<Int64> = []
            for number in (1...count).shuffled(using: &random) {
                let trusted = Int.random(in: 0..<4, using: &random) == 0
                isTrusted[number] = trusted
                held.insert(number)
                _ = try bench.decide(link("a", number), onWord: !trusted)
                let marked = bench.order.streams[StreamID(rawValue: 1)]?.unconfirmed
                var isConfirmed = false
                for probe in (1...count).reversed() {
                    guard held.contains(probe) else { isConfirmed = false; continue }
                    isConfirmed = isConfirmed || isTrusted[probe] == true
                    #expect(isConfirmed || marked?.contains(probe) == true, "\(probe) of \(held.sorted())")
                }
            }
            let marked = bench.order.streams[StreamID(rawValue: 1)]?.unconfirmed
            if isTrusted[count] == true { #expect(marked == nil) }
            // What follows and is trusted confirms all.
            _ = try bench.decide(link("a", count + 1))
            #expect(bench.order.streams[StreamID(rawValue: 1)]?.unconfirmed == nil)
        }
    }
}
