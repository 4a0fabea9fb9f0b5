import COSE
import ControlCenter
import Identity
import PKI
import Telemetry
import TestSupport
import Testing

/// Each reason word: what brings it about, that nothing is stored, and what is kept and told instead.
@Suite struct ReasonTests {
    private let pki: TestPKI
    private var center: TestCenter<MemoryLedger>
    private var home: TestAuditor

    init() throws {
        self.pki = try TestPKI(auditors: ["home-1", "home-2"])
        self.center = try TestCenter(pki: self.pki)
        self.home = TestAuditor(try self.pki.auditor("home-1"), at: self.center.now)
        try self.center.process(self.home.arrivalOfHello())
    }

    /// Sends one message and expects that it is refused, kept in quarantine, and nothing is stored or told.
    private mutating func expectRefused(_ arrival: Arrival, _ reason: Reason, claimed: String = "home-1") throws {
        let stored = self.center.ledger.statements.count
        let answers = try self.center.process(arrival)
        #expect(self.center.ledger.counts[CommitBatch.Count(claimed: claimed, reason: reason)] == 1)
        #expect(self.center.ledger.statements.count == stored)
        let row = try #require(self.center.ledger.quarantined.last)
        #expect(row.reason == reason)
        #expect(row.claimed == claimed)
        #expect(row.bytes == Array(arrival.bytes.prefix(Envelope.maximumSize)))
        #expect(!row.detail.isEmpty)
        #expect(answers.isEmpty)
    }

    @Test mutating func `a message that is too large is not even parsed`() throws {
        let bytes = try self.home.next().bytes + [UInt8](repeating: 0, count: Envelope.maximumSize)
        try self.expectRefused(Arrival(topic: self.home.measures, bytes: bytes), .tooLarge)
    }

    @Test(arguments: [[], [0x00], [0xD2], Array("home-1/2020-01-01/0/5||ab".utf8)] as [[UInt8]])
    mutating func `what is not a message of ours is refused as format`(_ bytes: [UInt8]) throws {
        try self.expectRefused(Arrival(topic: self.home.measures, bytes: bytes), .format)
    }

    @Test mutating func `a second encoding of a good statement is not canonical`() throws {
        let bytes = try self.home.next().bytes
        let header = try Sign1(bytes).protected.upperBound
        try #require(bytes[header] == 0xA0)
        // The empty unprotected header with its length in a byte of its own.
        var longer = bytes
        longer.replaceSubrange(header...header, with: [0xB8, 0x00])
        try self.expectRefused(Arrival(topic: self.home.measures, bytes: longer), .notCanonical)
    }

    @Test mutating func `the same signature with the high s is not canonical`() throws {
        let bytes = try self.home.next().bytes
        let high = bytes.dropLast(32) + Self.negated(Array(bytes.suffix(32)))
        try self.expectRefused(Arrival(topic: self.home.measures, bytes: Array(high)), .notCanonical)
    }

    /// n - s, n being the order of P-256.
    private static func negated(_ s: [UInt8]) -> [UInt8] {
        let order: [UInt8] = [
            0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xBC, 0xE6,
            0xFA, 0xAD, 0xA7, 0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
        ]
        var result = [UInt8](repeating: 0, count: 32)
        var borrow = 0
        for index in (0..<32).reversed() {
            var digit = Int(order[index]) - Int(s[index]) - borrow
            borrow = digit < 0 ? 1 : 0
            if digit < 0 { digit += 256 }
            result[index] = UInt8(digit)
        }
        return result
    }

    @Test mutating func `a header that says what none can say is refused`() throws {
        var bytes = try self.home.next().bytes
        let label = Array("clock".utf8)
        let at = try #require(bytes.indices.first { bytes[$0...].starts(with: label) })
        bytes[at + label.count + 1] = UInt8(ascii: "Z")
        try self.expectRefused(Arrival(topic: self.home.measures, bytes: bytes), .header)
    }

    @Test(arguments: [
        "audits/measures/home-2", "audits/hello/home-1", "audits/alerts/home-1", "audits/other/home-1",
        "control_center/receipts/home-1", "",
    ])
    mutating func `a statement on a topic where it does not belong is refused`(_ topic: String) throws {
        let bytes = try self.home.next().bytes
        // An ID that no auditor has, or none at all, is counted under one name.
        let claimed =
            topic.hasPrefix("audits/") && !topic.contains("other") && topic.hasSuffix("home-1")
            ? "home-1" : Quarantine.unknown
        try self.expectRefused(Arrival(topic: topic, bytes: bytes), .topic, claimed: claimed)
    }

    @Test mutating func `the control center's own receipts are not for itself`() throws {
        let receipts = try Receipts().signed(
            about: StreamName(auditor: self.home.party.spiffeID, stream: self.home.stream), issuedAt: self.center.now,
            by: PartySigner(self.pki.controlCenter))
        try self.expectRefused(
            Arrival(topic: "control_center/receipts/home-1", bytes: receipts.bytes), .topic,
            claimed: Quarantine.unknown)
    }

    @Test mutating func `a retained statement is refused, and its auditor is not told to give it up`() throws {
        let bytes = try self.home.next().bytes
        try self.expectRefused(
            Arrival(topic: self.home.measures, bytes: bytes, isRetained: true), .retained)
        #expect(try self.center.process(Arrival(topic: self.home.measures, bytes: bytes)).count == 1)
    }

    @Test mutating func `a statement from another's connection is refused`() throws {
        let bytes = try self.home.next().bytes
        let other = try self.pki.auditor("home-2").peer
        try self.expectRefused(Arrival(topic: self.home.measures, bytes: bytes, sender: other), .sender)
        let own = Arrival(topic: self.home.measures, bytes: bytes, sender: self.home.party.peer)
        #expect(try self.center.process(own).count == 1)
    }

    @Test mutating func `a statement whose certificate nobody has shown is held, and taken after the hello`() throws {
        var other = TestAuditor(try self.pki.auditor("home-2"), at: self.center.now)
        let statement = other.arrival(try other.next())
        #expect(try self.center.process(statement).isEmpty)
        #expect(self.center.count(.certificateUnknown) == 1)
        #expect(self.center.ledger.quarantined.isEmpty)
        #expect(self.center.ledger.statements.isEmpty)
        // In one batch the hello before is enough.
        #expect(try self.center.process(other.arrivalOfHello(), statement).count == 2)
        #expect(self.center.ledger.statements.count == 1)
    }

    @Test mutating func `a hello with a chain of another authority is refused`() throws {
        let foreign = TestAuditor(try self.pki.foreign().auditor("home-1"), at: self.center.now)
        try self.expectRefused(foreign.arrivalOfHello(), .certificateUnknown)
    }

    @Test mutating func `with another authority trusted, its holders are taken, and those of the former are held`()
        throws
    {
        let other = try self.pki.foreign()
        var newcomer = TestAuditor(try other.auditor("home-2"), at: self.center.now)
        self.center.core.replaceTrust(try other.verifier(), at: self.center.now)
        #expect(try self.center.process(newcomer.arrivalOfHello(), newcomer.arrival(try newcomer.next())).count == 2)
        #expect(self.center.ledger.statements.count == 1)
        // Its lists are known too, and bite.
        try self.center.core.update(other.revocationLists(revoking: [newcomer.party], number: 9))
        let answer = try self.center.process(newcomer.arrival(try newcomer.next()))
        #expect(answer.first?.receipts.refused.map(\.reason) == [.revoked])
        // Known once, trusted no more.
        let former = self.home.arrival(try self.home.next())
        #expect(try self.center.process(former).isEmpty)
        #expect(self.center.ledger.statements.count == 1)
    }

    @Test mutating func `a statement signed by another auditor with its own certificate is refused`() throws {
        let other = try self.pki.auditor("home-2")
        try self.center.process(TestAuditor(other, at: self.center.now).arrivalOfHello())
        self.home.signer = PartySigner(other, as: self.home.party.spiffeID)
        try self.expectRefused(self.home.arrival(try self.home.next()), .issuer)
    }

    @Test mutating func `a hello by another's certificate is refused`() throws {
        let other = try self.pki.auditor("home-2")
        var impostor = TestAuditor(other, at: self.center.now)
        impostor.signer = PartySigner(other, as: self.home.party.spiffeID)
        try self.expectRefused(
            Arrival(topic: "audits/hello/home-1", bytes: try impostor.hello().bytes), .issuer)
    }

    @Test mutating func `what is not an auditor cannot say hello`() throws {
        let impostor = TestAuditor(try self.pki.issue(.operator, "home-1"), at: self.center.now)
        try self.expectRefused(impostor.arrivalOfHello(), .role)
    }

    @Test mutating func `a statement of which a bit was changed is refused`() throws {
        var bytes = try self.home.next(values: ["0.250"]).bytes
        // The last digit of the value, which comes before the signature's head of two bytes.
        bytes[bytes.count - 64 - 3] ^= 1
        try self.expectRefused(Arrival(topic: self.home.measures, bytes: bytes), .signature)
    }

    @Test mutating func `a hello whose signature does not verify is refused`() throws {
        var bytes = try self.home.hello(7).bytes
        bytes[bytes.count - 1] ^= 1
        try self.expectRefused(Arrival(topic: "audits/hello/home-1", bytes: bytes), .signature)
    }

    @Test mutating func `nothing new by a revoked certificate is stored, and its holder is told`() throws {
        let before = self.home.arrival(try self.home.next())
        try self.center.process(before)
        try self.center.core.update(self.pki.revocationLists(revoking: [self.home.party], number: 2))
        let message = try self.home.next()
        let answers = try self.center.process(self.home.arrival(message))
        #expect(self.center.count(.revoked) == 1)
        #expect(self.center.ledger.statements.count == 1)
        #expect(answers.first?.receipts.refused.map(\.reason) == [.revoked])
        #expect(answers.first?.receipts.refused.map(\.id) == [message.id])
        // What is stored already stays a duplicate.
        #expect(try self.center.process(before).first?.receipts.stored.map(\.last) == [1])
        #expect(self.center.count(.duplicate) == 1)
        // Also for a control center that starts anew and reads the certificate from its store.
        var again = try TestCenter(self.center.ledger, pki: self.pki)
        try again.core.update(self.pki.revocationLists(revoking: [self.home.party], number: 2))
        #expect(try again.process(before).first?.receipts.stored.map(\.last) == [1])
        #expect(try again.process(self.home.arrival(message)).first?.receipts.refused.map(\.reason) == [.revoked])
    }

    @Test mutating func `a hello by a revoked certificate is refused without an answer`() throws {
        try self.center.core.update(self.pki.revocationLists(revoking: [self.home.party], number: 2))
        try self.expectRefused(self.home.arrivalOfHello(2), .revoked)
        var forged = try self.home.hello(3).bytes
        forged[forged.count - 1] ^= 1
        try self.expectRefused(Arrival(topic: "audits/hello/home-1", bytes: forged), .signature)
    }

    @Test mutating func `nothing new is stored once the certificate has expired`() throws {
        let party = try self.pki.issue(.auditor, "home-3", lifetime: 3_600)
        var home = TestAuditor(party, at: self.center.now)
        let first = home.arrival(try home.next())
        try self.center.process(home.arrivalOfHello(), first)
        self.center.now = Timestamp(seconds: self.pki.now + 3_601)
        let answers = try self.center.process(home.arrival(try home.next()), first)
        #expect(self.center.count(.expired) == 1)
        #expect(self.center.count(.duplicate) == 1)
        #expect(answers.first?.receipts.refused.map(\.reason) == [.expired])
        #expect(answers.first?.receipts.stored.map(\.last) == [1])
        #expect(try self.center.process(home.arrivalOfHello(2)).isEmpty)
        #expect(self.center.count(.expired) == 2)
    }

    @Test mutating func `a certificate that is both revoked and expired is revoked`() throws {
        let party = try self.pki.issue(.auditor, "home-3", lifetime: 3_600)
        var home = TestAuditor(party, at: self.center.now)
        try self.center.process(home.arrivalOfHello(), home.arrival(try home.next()))
        self.center.now = Timestamp(seconds: self.pki.now + 3_601)
        try self.center.core.update(self.pki.revocationLists(revoking: [party], number: 2))
        try self.center.process(home.arrival(try home.next()))
        #expect(self.center.count(.revoked) == 1)
        #expect(self.center.count(.expired) == 0)
    }

    @Test mutating func `a byte-identical repeat is counted, stored once and receipted again`() throws {
        let messages = try self.home.next(3).map { self.home.arrival($0) }
        try self.center.process(messages)
        let answers = try self.center.process(messages)
        #expect(self.center.count(.duplicate) == 3)
        #expect(self.center.ledger.statements.count == 3)
        #expect(self.center.ledger.readings.count == 3)
        #expect(self.center.ledger.quarantined.isEmpty)
        #expect(answers.map(\.receipts.stored) == [[Receipts.StoredRange(first: 1, last: 3, lastID: self.home.last)]])
    }

    @Test mutating func `a repeat within one batch is a duplicate too`() throws {
        let message = self.home.arrival(try self.home.next())
        #expect(try self.center.process(message, message).first?.receipts.stored.count == 1)
        #expect(self.center.count(.duplicate) == 1)
        #expect(self.center.ledger.statements.count == 1)
    }

    @Test mutating func `a fork is kept as evidence with an alarm, the first stands, and the auditor is told`() throws {
        let first = try self.home.next()
        let second = try self.home.next()
        try self.center.process(self.home.arrival(first), self.home.arrival(second))
        let other = try self.home.statement(2, previous: first.id, values: ["9.999"])
        for _ in 0..<2 {
            let answers = try self.center.process(self.home.arrival(other))
            #expect(answers.first?.receipts.refused.map(\.reason) == [.fork])
            #expect(answers.first?.receipts.newest == Receipts.StreamHead(sequence: 2, id: second.id))
        }
        #expect(self.center.count(.fork) == 2)
        #expect(self.center.ledger.statements.map(\.id) == [first.id, second.id])
        #expect(self.center.ledger.forks.map(\.bytes) == [other.bytes])
        #expect(self.center.ledger.alarms.map(\.kind) == [.fork])
        #expect(self.center.ledger.allStreams.first?.disputedFrom == 2)
    }

    @Test mutating func `evidence of forks is bounded, counting goes on`() throws {
        var configuration = IngestConfiguration()
        configuration.forksPerStream = 3
        self.center = try TestCenter(pki: self.pki, configuration: configuration)
        try self.center.process(self.home.arrivalOfHello(), self.home.arrival(try self.home.next()))
        for part in 0..<2 {
            let forks = try (0..<4).map {
                self.home.arrival(try self.home.statement(1, previous: .zero, values: ["\(part).\($0)"]))
            }
            try self.center.process(forks)
        }
        #expect(self.center.ledger.forks.count == 3)
        #expect(self.center.count(.fork) == 8)
        // All dispute the same readings: one alarm says so.
        #expect(self.center.ledger.alarms.map(\.kind) == [.fork])
    }

    @Test mutating func `a closed stream takes nothing new`() throws {
        try self.center.process(self.home.next(2).map { self.home.arrival($0) })
        let late = self.home.arrival(try self.home.statement(3, previous: self.home.last))
        self.home.restart(0xA2)
        try self.center.process(self.home.arrival(try self.home.next()))
        let answers = try self.center.process(late)
        #expect(self.center.count(.streamClosed) == 1)
        #expect(answers.first?.receipts.refused.map(\.reason) == [.streamClosed])
        #expect(answers.first?.subject.stream == StreamID(rawValue: 0xA1))
        #expect(self.center.ledger.alarms.map(\.kind) == [.streamRestart])
        #expect(self.center.ledger.statements.count == 3)
    }

    @Test mutating func `what there is no room for now is held and not answered`() throws {
        var configuration = IngestConfiguration()
        configuration.order.runs = 2
        self.center = try TestCenter(pki: self.pki, configuration: configuration)
        let all = try self.home.next(7)
        try self.center.process(self.home.arrivalOfHello(), self.home.arrival(all[0]), self.home.arrival(all[2]))
        #expect(try self.center.process(self.home.arrival(all[4])).isEmpty)
        #expect(self.center.count(.busy) == 1)
        #expect(self.center.ledger.quarantined.isEmpty)
        try self.center.process(self.home.arrival(all[1]), self.home.arrival(all[4]))
        #expect(self.center.ledger.statements.count == 4)
    }

    @Test mutating func `without the revocation list that is demanded nothing is refused, but held`() throws {
        self.center.core = IngestCore(
            store: self.center.ledger,
            verifier: try IdentityVerifier(
                trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate],
                intermediates: [self.pki.intermediate.certificate], demand: .current))
        #expect(try self.center.process(self.home.arrivalOfHello(9)).isEmpty)
        #expect(self.center.count(.busy) == 1)
    }

    @Test func `every reason of the list has been met by these tests, the order's or LiCore's`() {
        // Written out, so that a new word makes somebody think of its test.
        let met: Set<Reason> = [
            .tooLarge, .format, .notCanonical, .header, .topic, .retained, .sender, .certificateUnknown, .issuer,
            .role, .signature, .revoked, .expired, .duplicate, .conflict, .fork, .streamClosed, .busy,
        ]
        #expect(met == Set(Reason.all))
    }
}
