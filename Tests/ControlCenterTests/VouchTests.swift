import ControlCenter
import Identity
import PKI
import Telemetry
import TestSupport
import Testing

/// What an expired certificate signed, and a hello under the next one stands for.
@Suite struct VouchTests {
    private let pki: TestPKI
    private var center: TestCenter<MemoryLedger>
    /// Signs with a certificate that expires an hour after the start.
    private var home: TestAuditor
    private let next: TestPKI.Party

    init() throws {
        self.pki = try TestPKI(auditors: ["home-2"])
        self.center = try TestCenter(pki: self.pki)
        self.home = TestAuditor(try self.pki.issue(.auditor, "home-1", lifetime: 3_600), at: self.center.now)
        self.next = try self.pki.issue(.auditor, "home-1", lifetime: 86_400)
        try self.center.process(self.home.arrivalOfHello(), self.home.arrival(try self.home.next()))
        self.center.now = Timestamp(seconds: self.pki.now + 7_200)
    }

    /// A hello under another certificate of the auditor.
    private func hello(
        by party: TestPKI.Party? = nil, last: (Int64, MessageID)? = nil, stream: StreamID? = nil, seed: UInt64 = 7,
        former: [[UInt8]] = []
    ) throws -> Arrival {
        let party = party ?? self.next
        let message = try Hello(
            stream: stream ?? self.home.stream, lastSequence: last?.0 ?? self.home.sequence,
            lastID: last?.1 ?? self.home.last, nonce: self.home.nonce(seed), clock: .synchronised
        ).signed(issuedAt: self.center.now, chain: party.chainDER, former: former, by: PartySigner(party))
        return Arrival(topic: "audits/hello/home-1", bytes: message.bytes)
    }

    private var numbers: [Int64] { self.center.ledger.statements.map(\.sequence) }

    @Test mutating func `a backlog of an expired certificate is stored behind the hello, in its order`() throws {
        let backlog = try self.home.next(5).map { self.home.arrival($0) }
        // Without the hello it is held, and nobody is told to give it up.
        #expect(try self.center.process(backlog).isEmpty)
        #expect(self.center.count(.expired) == 5)
        #expect(self.center.ledger.quarantined.isEmpty)
        let answers = try self.center.process([self.hello()] + backlog)
        #expect(answers.flatMap(\.receipts.refused).isEmpty)
        #expect(self.numbers == [1, 2, 3, 4, 5, 6])
        // Stored under the certificate that signed it.
        #expect(Set(self.center.ledger.statements.map(\.certificate)).count == 1)
        // What comes next is signed by the new one, in the same stream.
        self.home.signer = PartySigner(self.next)
        try self.center.process(self.home.arrival(try self.home.next()))
        #expect(self.numbers == [1, 2, 3, 4, 5, 6, 7])
        #expect(self.center.ledger.alarms.isEmpty)
    }

    @Test mutating func `the new certificate's statements may come before the hello reaches back`() throws {
        let backlog = try self.home.next(3).map { self.home.arrival($0) }
        try self.center.process(self.hello())
        self.home.signer = PartySigner(self.next)
        let new = self.home.arrival(try self.home.next())
        try self.center.process(new)
        try self.center.process(backlog[2], backlog[0])
        try self.center.process(backlog[1])
        #expect(self.center.ledger.allStreams.first?.held.gaps == [])
        #expect(self.numbers.sorted() == [1, 2, 3, 4, 5])
    }

    @Test mutating func `beyond what the hello names nothing is covered, until a later one names it`() throws {
        let covered = self.home.arrival(try self.home.next())
        let hello = try self.hello()
        let beyond = self.home.arrival(try self.home.next())
        #expect(try self.center.process(hello, covered, beyond).flatMap(\.receipts.refused).isEmpty)
        #expect(self.numbers == [1, 2])
        #expect(self.center.count(.expired) == 1)
        try self.center.process(self.hello(seed: 8), beyond)
        #expect(self.numbers == [1, 2, 3])
    }

    @Test mutating func `another statement in the place that the hello names is refused for good`() throws {
        let first = try self.home.next()
        let place = self.home.sequence + 1
        let forged = try self.home.statement(place, previous: first.id, values: ["9.999"])
        _ = try self.home.next()
        let answers = try self.center.process(
            self.hello(), self.home.arrival(first), self.home.arrival(forged))
        #expect(self.numbers == [1, 2])
        #expect(answers.flatMap(\.receipts.refused).map(\.reason) == [.expired])
        #expect(answers.flatMap(\.receipts.refused).map(\.id) == [forged.id])
        #expect(self.center.ledger.quarantined.map(\.reason) == [.expired])
        // Somebody has the key: people are told, once for a hello.
        try self.center.process(self.home.arrival(try self.home.statement(place, previous: first.id, values: ["8.8"])))
        #expect(self.center.ledger.alarms.map(\.kind) == [.fork])
        #expect(self.center.ledger.alarms[0].detail.hasPrefix("expired-key: "))
    }

    @Test mutating func `one that is not what its neighbour names is a fork, covered or not`() throws {
        let first = try self.home.next()
        let second = try self.home.next()
        let forged = try self.home.statement(2, previous: second.id, values: ["9.999"])
        try self.center.process(self.hello(), self.home.arrival(second), self.home.arrival(forged))
        try self.center.process(self.home.arrival(first))
        #expect(self.numbers.sorted() == [1, 2, 3])
        #expect(self.center.count(.fork) == 1)
        #expect(self.center.ledger.alarms.map(\.kind) == [.fork])
    }

    private var unconfirmed: ClosedRange<Int64>? { self.center.ledger.allStreams.first?.unconfirmed }

    @Test(arguments: [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
    mutating func `a backlog is marked until its chain reaches what the hello names`(_ order: [Int]) throws {
        let backlog = try self.home.next(5).map { self.home.arrival($0) }
        try self.center.process(self.hello())
        for place in order.dropLast() { try self.center.process(backlog[place]) }
        if order.first == 0 { #expect(self.unconfirmed == 2...5) }
        if order.first == 4 { #expect(self.unconfirmed == nil) }
        if order.first == 2 { #expect(self.unconfirmed == 2...4) }
        try self.center.process(backlog[order[4]])
        #expect(self.unconfirmed == nil)
        #expect(self.numbers.sorted() == [1, 2, 3, 4, 5, 6])
    }

    @Test mutating func `what the next certificate signs confirms all that leads to it, and nothing behind a hole`()
        throws
    {
        let backlog = try self.home.next(4).map { self.home.arrival($0) }
        self.home.signer = PartySigner(self.next)
        let new = try self.home.next(2).map { self.home.arrival($0) }
        try self.center.process(self.hello(), backlog[0], backlog[2], backlog[3])
        #expect(self.unconfirmed == 2...5)
        try self.center.process(new[0])
        #expect(self.unconfirmed == 2...2)
        try self.center.process(new[1])
        #expect(self.unconfirmed == 2...2)
        try self.center.process(backlog[1])
        #expect(self.unconfirmed == nil)
    }

    @Test mutating func `who has the expired key alone stores nothing that is not marked, for ever`() throws {
        let backlog = try self.home.next(4)
        var previous = backlog[0].id
        var forged: [SignedMessage] = []
        for number in Int64(3)...4 {
            forged.append(try self.home.statement(number, previous: previous, values: ["9.999"]))
            previous = forged[forged.count - 1].id
        }
        try self.center.process(self.hello(), self.home.arrival(backlog[0]))
        try self.center.process(forged.map { self.home.arrival($0) })
        #expect(self.numbers == [1, 2, 3, 4])
        #expect(self.unconfirmed == 2...4)
        // The head that the hello names does not lead there; nor does what comes behind it.
        try self.center.process(self.home.arrival(backlog[3]))
        self.home.signer = PartySigner(self.next)
        try self.center.process(self.home.arrival(try self.home.next()))
        #expect(self.unconfirmed == 2...4)
        #expect(self.center.ledger.alarms.map(\.kind) == [.fork])
        #expect(self.center.ledger.forks.map(\.sequence) == [5])
    }

    @Test mutating func `the mark is stored, and the view calls its readings disputed`() throws {
        let folder = try TemporaryDirectory()
        var center = try TestCenter(ControlCenterStore(directory: folder.path), pki: self.pki)
        center.now = Timestamp(seconds: self.pki.now)
        let first = try #require(self.center.ledger.statements.first)
        try center.process(
            self.home.arrivalOfHello(), Arrival(topic: "audits/measures/home-1", bytes: first.bytes))
        center.now = self.center.now
        let backlog = try self.home.next(3).map { self.home.arrival($0) }
        func disputed() throws -> [Bool] {
            var rows: [Bool] = []
            try center.core.store.forEachReading(ReadingsQuery(auditor: "home-1")) { rows.append($0.isDisputed) }
            return rows
        }
        try center.process(self.hello(), backlog[0], backlog[1])
        #expect(try disputed() == [false, true, true])
        // A control center that starts anew goes on where it was.
        var again = try TestCenter(center.core.store, pki: self.pki)
        again.now = center.now
        try again.process(self.hello(seed: 8), backlog[2])
        #expect(try disputed() == [false, false, false, false])
    }

    @Test mutating func `a hello about another stream covers nothing of this one`() throws {
        let backlog = self.home.arrival(try self.home.next())
        try self.center.process(self.hello(stream: StreamID(rawValue: 0xB1)), backlog)
        #expect(self.numbers == [1])
        #expect(self.center.count(.expired) == 1)
    }

    @Test mutating func `another auditor's hello covers nothing`() throws {
        let backlog = self.home.arrival(try self.home.next())
        var other = TestAuditor(try self.pki.auditor("home-2"), at: self.center.now)
        other.stream = self.home.stream
        other.sequence = self.home.sequence
        other.last = self.home.last
        try self.center.process(other.arrivalOfHello(), backlog)
        #expect(self.numbers == [1])
        #expect(self.center.count(.expired) == 1)
    }

    @Test mutating func `a hello under the expired certificate itself covers nothing`() throws {
        let backlog = self.home.arrival(try self.home.next())
        try self.center.process(self.hello(by: self.home.party), backlog)
        #expect(self.numbers == [1])
        #expect(self.center.count(.expired) == 2)
    }

    @Test mutating func `what a revoked certificate signed is refused, expired and vouched for or not`() throws {
        let backlog = try self.home.next(2).map { self.home.arrival($0) }
        try self.center.core.update(self.pki.revocationLists(revoking: [self.home.party], number: 2))
        let answers = try self.center.process([self.hello()] + backlog)
        #expect(self.numbers == [1])
        #expect(answers.flatMap(\.receipts.refused).map(\.reason) == [.revoked, .revoked])
        // Also for a control center that starts anew, and reads the certificate from its store.
        var again = try TestCenter(self.center.ledger, pki: self.pki)
        again.now = self.center.now
        try again.core.update(self.pki.revocationLists(revoking: [self.home.party], number: 2))
        let later = try again.process([self.hello(seed: 9)] + backlog)
        #expect(later.flatMap(\.receipts.refused).map(\.reason) == [.revoked, .revoked])
        #expect(again.ledger.statements.count == 1)
    }

    @Test mutating func `a hello whose certificate is revoked since covers nothing more`() throws {
        let backlog = try self.home.next(2).map { self.home.arrival($0) }
        try self.center.process(self.hello(), backlog[0])
        #expect(self.numbers == [1, 2])
        try self.center.core.update(self.pki.revocationLists(revoking: [self.next], number: 2))
        try self.center.process(backlog[1])
        #expect(self.numbers == [1, 2])
        #expect(self.center.count(.expired) == 1)
    }

    @Test mutating func `a control center that starts anew holds the backlog until it hears a hello again`() throws {
        let backlog = try self.home.next(2).map { self.home.arrival($0) }
        try self.center.process(self.hello(), backlog[0])
        var again = try TestCenter(self.center.ledger, pki: self.pki)
        again.now = self.center.now
        #expect(try again.process(backlog[1]).flatMap(\.receipts.refused).isEmpty)
        #expect(again.ledger.statements.count == 2)
        // What is stored already is recognised all the same.
        #expect(try again.process(backlog[0]).first?.receipts.stored.map(\.last) == [2])
        try again.process(self.hello(seed: 8), backlog[1])
        #expect(again.ledger.statements.map(\.sequence) == [1, 2, 3])
    }

    /// A backlog under a certificate of which the control center never heard while it was valid.
    private mutating func lost() throws -> (TestPKI.Party, [Arrival]) {
        let party = try self.pki.issue(.auditor, "home-1", lifetime: 3_600)
        self.home.signer = PartySigner(party)
        return (party, try self.home.next(2).map { self.home.arrival($0) })
    }

    @Test mutating func `a certificate that no hello ever brought comes with a hello under the next`() throws {
        let (party, backlog) = try self.lost()
        try self.center.process([self.hello()] + backlog)
        #expect(self.center.count(.certificateUnknown) == 2)
        // Another's, a stranger's of that name, and garbage bring nothing.
        let stranger = try self.pki.foreign().issue(.auditor, "home-1")
        let others = [self.pki.auditors[0].certificate.der, stranger.certificate.der, [0x30, 0x00]]
        try self.center.process([self.hello(seed: 8, former: others)] + backlog)
        #expect(self.numbers == [1])
        #expect(self.center.count(.certificateUnknown) == 4)
        try self.center.process([self.hello(seed: 9, former: [party.certificate.der])] + backlog)
        #expect(self.numbers == [1, 2, 3])
        #expect(self.center.ledger.alarms.isEmpty)
    }

    @Test mutating func `such a certificate that is revoked is told as revoked`() throws {
        let (party, backlog) = try self.lost()
        try self.center.core.update(self.pki.revocationLists(revoking: [party], number: 2))
        let answers = try self.center.process([self.hello(former: [party.certificate.der])] + backlog)
        #expect(answers.flatMap(\.receipts.refused).map(\.reason) == [.revoked, .revoked])
        #expect(self.numbers == [1])
    }
}
