import Auditor
import Crypto
import Identity
import PKI
import Telemetry
import TestSupport
import Testing

@Suite("Auditor: signing and committing") struct AuditorSigningTests {
    @Test("a statement carries the readings, is linked, and one transaction has number, bytes and position")
    func linked() throws {
        var desk = try Desk()
        try desk.read(1...3)
        let entries = desk.outbox.entries
        #expect(entries.map(\.sequence) == [1, 2, 3])
        let envelopes = try entries.map { try Envelope.decode($0.bytes) }
        #expect(envelopes.map(\.position?.previous) == [.zero, entries[0].id, entries[1].id])
        #expect(envelopes.map { $0.readings.map(\.value?.mantissa) } == [[1, 1], [2, 2], [3, 3]])
        #expect(desk.outbox.state?.source == SourcePosition(bytes: [0, 3]))
        #expect(desk.outbox.state?.lastID == entries[2].id)
        #expect(desk.machine.statistics.readings == 6)
    }

    @Test("readings of one interval of the source's time share a statement, whatever the speed")
    func grouped() throws {
        var desk = try Desk { $0.statementInterval = 3_600_000_000_000 }
        desk.step(.readings(try (0..<8).map { try Desk.batch($0) }))
        desk.step(.sourceEnded)
        let counts = desk.outbox.entries.map(\.readings)
        #expect(counts.reduce(0, +) == 16)
        #expect(counts.dropFirst().dropLast().allSatisfy { $0 == 8 })
    }

    @Test("a group that waits closes after the interval")
    func closes() throws {
        var desk = try Desk { $0.statementInterval = 60_000_000_000 }
        desk.step(.readings([try Desk.batch(1)]))
        #expect(desk.outbox.entries.isEmpty)
        #expect(desk.machine.nextDeadline == desk.now.advanced(byNanoseconds: 60_000_000_000))
        desk.wait(seconds: 60)
        #expect(desk.outbox.entries.map(\.readings) == [2])
    }

    @Test("a group of more than 1,024 readings is divided, the position comes with all of it")
    func divided() throws {
        var desk = try Desk { $0.statementInterval = Int64.max / 4 }
        desk.step(.readings(try (0..<600).map { try Desk.batch($0) }))
        desk.step(.sourceEnded)
        #expect(desk.outbox.entries.map(\.readings) == [1_024, 176])
        #expect(desk.outbox.state?.source == (try Desk.batch(599)).position)
    }

    @Test("many statements are one transaction")
    func groupCommit() throws {
        var desk = try Desk()
        desk.step(.readings(try (0..<64).map { try Desk.batch($0) }))
        #expect(desk.outbox.entries.count == 64)
        // The first one opens the stream.
        #expect(desk.commits == 2)
    }

    @Test("a restart goes on behind what is committed")
    func restart() throws {
        var desk = try Desk()
        try desk.read(1...3)
        let stream = desk.machine.stream
        try desk.restart()
        #expect(desk.machine.stream == stream)
        #expect(desk.machine.sourcePosition == SourcePosition(bytes: [0, 3]))
        try desk.read(4...4)
        #expect(desk.outbox.entries.map(\.sequence) == [1, 2, 3, 4])
    }

    @Test("a commit that fails publishes nothing, raises an alarm, and is tried again with the same bytes")
    func commitFails() throws {
        var desk = try Desk()
        var center = try Center(desk)
        desk.step(.tick)
        try desk.connect(&center)
        desk.failure = OutboxError(.full, "the disk is full")
        try desk.read(1...1)
        #expect(desk.sent.isEmpty)
        #expect(desk.outbox.entries.isEmpty)
        #expect(desk.outbox.state?.source == nil)
        #expect(desk.alarms.map(\.kind) == [.outboxWrite])
        #expect(!desk.machine.wantsReadings(desk.outbox))
        desk.wait(seconds: 1)
        desk.wait(seconds: 2)
        #expect(desk.alarms.count == 1)
        desk.failure = nil
        desk.wait(seconds: 10)
        #expect(desk.cleared == [.outboxWrite])
        #expect(try desk.takeSent().map(\.kind) == [.statement])
        #expect(desk.outbox.state?.source == SourcePosition(bytes: [0, 1]))
        #expect(desk.machine.wantsReadings(desk.outbox))
    }

    @Test("a heartbeat comes after a quarter of an hour without a statement, and tells how it stands")
    func heartbeat() throws {
        var desk = try Desk()
        try desk.read(1...2)
        desk.wait(seconds: 899)
        #expect(desk.outbox.entries.count == 2)
        desk.wait(seconds: 1)
        let envelope = try Envelope.decode(try #require(desk.outbox.entries.last).bytes)
        #expect(envelope.kind == .heartbeat)
        #expect(envelope.position?.sequence == 3)
        let heartbeat = try #require(envelope.heartbeat)
        #expect(heartbeat.outboxCount == 2)
        #expect(heartbeat.meters.map(\.meter.rawValue) == ["main"])
        #expect(heartbeat.meters.first?.lastReading == (try Desk.batch(2)).readings[0].time)
        desk.wait(seconds: 900)
        #expect(desk.outbox.entries.count == 4)
    }

    @Test("an orderly shutdown signs what was read, and a heartbeat")
    func stops() throws {
        var desk = try Desk { $0.statementInterval = 60_000_000_000 }
        desk.step(.readings([try Desk.batch(1)]))
        desk.step(.stop)
        #expect(try desk.outbox.entries.map { try Envelope.decode($0.bytes).kind } == [.statement, .heartbeat])
        #expect(desk.machine.isReadyToStop)
    }

    @Test("an outbox that is full stops the source with an alarm, drops nothing, and goes on when there is room")
    func full() throws {
        var desk = try Desk { $0.maximumOutboxBytes = 2_000 }
        var center = try Center(desk)
        var number = 0
        while desk.machine.wantsReadings(desk.outbox), number < 1_000 {
            number += 1
            try desk.read(number...number)
        }
        #expect(number < 10)
        #expect(desk.alarms.map(\.kind) == [.outboxFull])
        // What was handed in all the same waits, and is not signed.
        try desk.read(number + 1...number + 1)
        #expect(desk.outbox.entries.count == number)
        try desk.connect(&center)
        try desk.converse(&center)
        #expect(desk.cleared.contains(.outboxFull))
        #expect(desk.machine.wantsReadings(desk.outbox))
        #expect(center.numbers == (1...Int64(number + 1)).map { $0 })
    }

    @Test("a source that gives what cannot be told is stopped")
    func flawed() throws {
        var desk = try Desk()
        var batch = try Desk.batch(1)
        batch.readings[0].interval = nil
        desk.step(.readings([batch]))
        #expect(desk.alarms.map(\.kind) == [.source])
        #expect(desk.outbox.entries.isEmpty)
        #expect(!desk.machine.wantsReadings(desk.outbox))
    }
}

@Suite("Auditor: hello and sending") struct AuditorSendingTests {
    @Test("nothing leaves before the hello is answered, then everything in order")
    func helloFirst() throws {
        var desk = try Desk()
        let center = try Center(desk)
        try desk.read(1...5)
        desk.step(.connected)
        let sent = try desk.takeSent()
        #expect(sent.map(\.kind) == [.hello])
        let hello = try #require(sent[0].hello)
        #expect(hello.stream == desk.machine.stream)
        #expect(hello.lastSequence == 5)
        #expect(hello.lastID == desk.outbox.entries.last?.id)
        #expect(sent[0].certificateChain == desk.party.chainDER)
        desk.step(.receipts(try center.answer(hello)))
        #expect(try desk.takeSent().map { $0.position?.sequence } == [1, 2, 3, 4, 5])
        #expect(try center.answer(hello).isEmpty == false)
    }

    @Test("a hello without an answer is said again after 30 s with a new nonce, and the former's answer means nothing")
    func helloAgain() throws {
        var desk = try Desk()
        let center = try Center(desk)
        try desk.read(1...1)
        desk.step(.connected)
        let first = try desk.takeHello()
        desk.wait(seconds: 29)
        #expect(desk.sent.isEmpty)
        desk.wait(seconds: 1)
        let second = try desk.takeHello()
        #expect(first.nonce != second.nonce)
        desk.step(.receipts(try center.answer(first)))
        #expect(desk.sent.isEmpty)
        desk.step(.receipts(try center.answer(second)))
        #expect(desk.sent.count == 1)
    }

    @Test("before the stream is on disk there is no hello")
    func noStateNoHello() throws {
        var desk = try Desk()
        desk.failure = OutboxError(.io, "no")
        desk.step(.connected)
        #expect(desk.sent.isEmpty)
        desk.failure = nil
        desk.wait(seconds: 1)
        #expect(try desk.takeSent().map(\.kind) == [.hello])
    }

    @Test("a window limits what is sent and not receipted; a PUBACK opens nothing")
    func window() throws {
        var desk = try Desk { $0.window = 4 }
        var center = try Center(desk)
        try desk.read(1...10)
        try desk.connect(&center)
        #expect(desk.sent.count == 4)
        for publication in desk.sent { desk.step(.published(publication.token)) }
        #expect(desk.sent.count == 4)
        let envelope = try Envelope.decode(desk.sent[1].bytes)
        desk.sent = []
        // The second receipted, and by the chain the first with it.
        desk.step(
            .receipts(
                try center.sign(
                    Receipts(stored: [.init(first: 1, last: 2, lastID: envelope.id)]), about: desk.machine.stream)))
        #expect(try desk.takeSent().map { $0.position?.sequence } == [5, 6])
        #expect(desk.outbox.summary.unreceipted == 8)
        #expect(desk.outbox.summary.ring == 2)
    }

    @Test("what has no receipt after 30 s is sent again, byte for byte")
    func resend() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...2)
        try desk.connect(&center)
        let first = desk.sent.map(\.bytes)
        for publication in desk.sent { desk.step(.published(publication.token)) }
        desk.sent = []
        desk.wait(seconds: 29)
        #expect(desk.sent.isEmpty)
        desk.wait(seconds: 1)
        #expect(desk.sent.map(\.bytes) == first)
        #expect(desk.machine.statistics.resent == 2)
        desk.wait(seconds: 29)
        #expect(desk.sent.count == 2)
    }

    @Test("a publication that fails is sent again after 30 s, a refusal for its size is told")
    func publishFails() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...1)
        try desk.connect(&center)
        desk.step(.publishFailed(desk.sent[0].token, isTooLarge: true))
        desk.sent = []
        #expect(desk.alarms.map(\.kind) == [.refusedByBroker])
        desk.wait(seconds: 30)
        #expect(desk.sent.count == 1)
        desk.step(.published(desk.sent[0].token))
        #expect(desk.cleared == [.refusedByBroker])
        #expect(desk.outbox.summary.unreceipted == 1)
    }

    @Test("after a lost connection everything without a receipt is sent again, behind a new hello")
    func reconnect() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...3)
        try desk.connect(&center)
        let late = desk.sent[0].token
        desk.sent = []
        desk.step(.disconnected)
        try desk.read(4...4)
        #expect(desk.sent.isEmpty)
        // A PUBACK of the former connection means nothing.
        desk.step(.published(late))
        try desk.connect(&center)
        #expect(try desk.takeSent().map { $0.position?.sequence } == [1, 2, 3, 4])
    }

    @Test("a whole conversation ends with everything receipted, in the ring")
    func drained() throws {
        var desk = try Desk()
        var center = try Center(desk)
        desk.step(.connected)
        try desk.converse(&center)
        for number in 1...200 { try desk.read(number...number) }
        desk.step(.sourceEnded)
        #expect(!desk.machine.isFinished(desk.outbox))
        try desk.converse(&center)
        #expect(desk.machine.isFinished(desk.outbox))
        #expect(center.numbers == Array(1...200))
        #expect(desk.outbox.summary.ring == 200)
        #expect(desk.machine.statistics.receipted == 200)
    }
}

@Suite("Auditor: receipts") struct AuditorReceiptTests {
    /// A desk with three statements sent.
    private func desk(knowsCenter: Bool = true) throws -> (Desk, Center) {
        var desk = try Desk(knowsCenter: knowsCenter)
        var center = try Center(desk)
        try desk.read(1...3)
        try desk.connect(&center)
        return (desk, center)
    }

    @Test("an id that is not its own covers nothing and is counted")
    func foreignID() throws {
        var (desk, center) = try self.desk()
        desk.step(
            .receipts(
                try center.sign(
                    Receipts(
                        stored: [.init(first: 1, last: 3, lastID: MessageID(hashing: [1]))],
                        refused: [.init(sequence: 2, id: MessageID(hashing: [2]), reason: .signature)]),
                    about: desk.machine.stream)))
        #expect(desk.outbox.summary.unreceipted == 3)
        #expect(desk.outbox.summary.deadLetters == 0)
        #expect(desk.machine.statistics.foreignIDs == 2)
        center.open = nil
    }

    @Test(
        "receipts that do not verify are counted and change nothing",
        arguments: ["tampered", "other key", "auditor's key", "other auditor", "issuer", "not receipts", "garbage"])
    func unverified(_ kind: String) throws {
        var (desk, center) = try self.desk()
        let before = desk.machine.statistics.receiptsRefused
        let last = try #require(desk.outbox.entries.last)
        let receipts = Receipts(stored: [.init(first: 1, last: 3, lastID: last.id)])
        var bytes: [UInt8]
        switch kind {
        case "other key":
            let other = try desk.pki.foreign()
            let identity = try other.verifier().verify(chain: other.controlCenter.chain, at: other.now)
            center.signer = try CertificateSigner(identity, key: other.controlCenter.key)
            bytes = try center.sign(receipts, about: desk.machine.stream)
        case "auditor's key":
            let party = try desk.pki.auditor("home-2")
            let identity = try desk.pki.verifier().verify(chain: party.chain, at: desk.pki.now)
            center.signer = try CertificateSigner(identity, key: party.key)
            bytes = try center.sign(receipts, about: desk.machine.stream)
        case "issuer":
            center.signer = Renamed(
                center.signer,
                as: SPIFFEID(
                    trustDomain: desk.pki.trustDomain, role: .controlCenter, id: try Identifier("center-2")))
            bytes = try center.sign(receipts, about: desk.machine.stream)
        case "other auditor":
            center.auditor = try desk.pki.auditor("home-2").spiffeID
            bytes = try center.sign(receipts, about: desk.machine.stream)
        case "not receipts": bytes = last.bytes
        case "garbage": bytes = [1, 2, 3]
        default:
            bytes = try center.sign(receipts, about: desk.machine.stream)
            bytes[bytes.count - 70] ^= 1
        }
        desk.step(.receipts(bytes))
        #expect(desk.machine.statistics.receiptsRefused == before + 1)
        #expect(desk.outbox.summary.unreceipted == 3)
    }

    @Test("a control center is known by its retained chain, and only by one that verifies")
    func keys() throws {
        var desk = try Desk(knowsCenter: false)
        let center = try Center(desk)
        try desk.read(1...1)
        desk.step(.connected)
        let hello = try desk.takeHello()
        desk.step(.receipts(try center.answer(hello)))
        #expect(desk.machine.statistics.receiptsRefused == 1)
        desk.step(
            .controlCenterKeys(
                try ControlCenterKeys(certificates: try desk.pki.foreign().controlCenter.chainDER).encoded))
        desk.step(
            .controlCenterKeys(try ControlCenterKeys(certificates: try desk.pki.auditor("home-2").chainDER).encoded))
        desk.step(.controlCenterKeys([0x80]))
        #expect(desk.alarms.map(\.kind) == [.controlCenterCertificate])
        desk.step(.receipts(try center.answer(hello)))
        #expect(desk.machine.statistics.receiptsRefused == 2)
        desk.step(.controlCenterKeys(try ControlCenterKeys(certificates: desk.pki.controlCenter.chainDER).encoded))
        #expect(desk.cleared == [.controlCenterCertificate])
        // An answer came too early to be verified: the hello is said again at once.
        let second = try desk.takeHello()
        desk.step(.receipts(try center.answer(second)))
        #expect(desk.sent.count == 1)
    }

    @Test("a revoked control center is not believed any more")
    func revoked() throws {
        var (desk, center) = try self.desk()
        let last = try #require(desk.outbox.entries.last)
        for list in try desk.pki.revocationLists(revoking: [desk.pki.controlCenter], number: 2) {
            desk.step(.revocationList(list.der))
        }
        desk.step(
            .receipts(
                try center.sign(
                    Receipts(stored: [.init(first: 1, last: 3, lastID: last.id)]), about: desk.machine.stream)))
        #expect(desk.machine.statistics.receiptsRefused == 1)
        #expect(desk.outbox.summary.unreceipted == 3)
        center.open = nil
    }

    @Test("receipts without the nonce settle, but do not open")
    func withoutNonce() throws {
        var desk = try Desk()
        let center = try Center(desk)
        try desk.read(1...3)
        desk.step(.connected)
        desk.sent = []
        let last = try #require(desk.outbox.entries.last)
        desk.step(
            .receipts(
                try center.sign(
                    Receipts(stored: [.init(first: 1, last: 2, lastID: desk.outbox.entries[1].id)]),
                    about: desk.machine.stream)))
        #expect(desk.outbox.summary.unreceipted == 1)
        #expect(desk.sent.isEmpty)
        #expect(!desk.machine.isOpen)
        #expect(last.sequence == 3)
    }

    @Test(
        "what is refused for good becomes a dead letter, is told, and does not block",
        arguments: Reason.all.filter { $0.isForGood && ![.fork, .streamClosed, .revoked].contains($0) })
    func deadLetters(_ reason: Reason) throws {
        var (desk, center) = try self.desk()
        center.refusals[2] = reason
        try desk.converse(&center)
        #expect(desk.alarms.map(\.kind) == [.deadLetter])
        let letters = try desk.outbox.deadLetters(limit: 10)
        #expect(letters.map(\.entry.sequence) == [2])
        #expect(letters.map(\.reason) == [reason])
        #expect(desk.outbox.summary.unreceipted == 0)
        #expect(desk.outbox.summary.ring == 2)
        try desk.read(4...4)
        try desk.converse(&center)
        #expect(center.numbers == [1, 3, 4])
    }

    @Test("what is only held is kept and sent again", arguments: [Reason.certificateUnknown, .busy, .duplicate])
    func held(_ reason: Reason) throws {
        var (desk, center) = try self.desk()
        center.refusals[2] = reason
        try desk.converse(&center)
        #expect(desk.outbox.summary.deadLetters == 0)
        #expect(desk.outbox.summary.unreceipted == 1)
        center.refusals = [:]
        desk.wait(seconds: 30)
        try desk.converse(&center)
        #expect(desk.outbox.summary.unreceipted == 0)
    }

    @Test("dead letters have a bound: beyond it nothing is sent, nothing is dropped")
    func deadLetterBound() throws {
        var desk = try Desk { $0.maximumDeadLetterBytes = 500 }
        var center = try Center(desk)
        for number in 1...6 { center.refusals[Int64(number)] = .topic }
        try desk.read(1...6)
        try desk.connect(&center)
        try desk.converse(&center)
        #expect(desk.alarms.contains { $0.kind == .deadLettersFull })
        #expect(desk.outbox.summary.deadLetters + desk.outbox.summary.unreceipted == 6)
        #expect(desk.outbox.summary.deadLetters < 6)
        let unreceipted = desk.outbox.summary.unreceipted
        desk.wait(seconds: 60)
        #expect(desk.sent.isEmpty)
        #expect(desk.outbox.summary.unreceipted == unreceipted)
    }

    @Test("the ring is bounded in bytes and in age")
    func ring() throws {
        var desk = try Desk {
            $0.maximumRingBytes = 1_000
            $0.ringAge = 86_400_000_000_000
        }
        var center = try Center(desk)
        try desk.connect(&center)
        for number in 1...20 {
            try desk.read(number...number)
            try desk.converse(&center)
        }
        #expect((1...1_400).contains(desk.outbox.summary.ringBytes))
        let kept = desk.outbox.summary.ring
        desk.now = desk.now.advanced(byNanoseconds: 86_400_000_000_001)
        try desk.connect(&center)
        try desk.read(21...21)
        try desk.converse(&center)
        try desk.read(22...22)
        try desk.converse(&center)
        #expect(kept > 0)
        // The old ones are gone; heartbeats and new statements remain.
        let oldest = try #require(try desk.outbox.oldestReceipt())
        #expect(oldest.nanoseconds > desk.now.nanoseconds - 86_400_000_000_000)
    }
}

@Suite("Auditor: streams") struct AuditorStreamTests {
    @Test("an old image is recognised: a new stream behind the control center's newest")
    func rolledBack() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...5)
        let image = desk.outbox
        try desk.connect(&center)
        try desk.read(6...8)
        try desk.converse(&center)
        let former = desk.machine.stream
        let head = try #require(center.newest(former))
        #expect(head.sequence == 8)
        try desk.restart(with: image)
        try desk.connect(&center)
        #expect(desk.alarms.map(\.kind) == [.rolledBack, .streamRestart])
        #expect(desk.machine.stream != former)
        // The answer ends a run where the hello says that this image ends: 1...5 are receipted.
        #expect(desk.outbox.summary.unreceipted == 0)
        try desk.read(60...61)
        let sent = try desk.sent.map { try Envelope.decode($0.bytes) }
        #expect(sent.map(\.position?.sequence) == [1, 2])
        #expect(sent.first?.position?.previous == head.id)
        try desk.converse(&center)
        #expect(desk.outbox.summary.unreceipted == 0)
        #expect(center.numbers == [1, 2, 3, 4, 5, 6, 7, 8, 60, 61])
        #expect(desk.machine.statistics.restarts == 1)
    }

    @Test("an old image that signed on before it connected signs anew all that it has no receipt for")
    func rolledBackAndSignedOn() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...5)
        try desk.connect(&center)
        try desk.converse(&center)
        let image = desk.outbox
        try desk.read(6...8)
        try desk.converse(&center)
        let head = try #require(center.newest(desk.machine.stream))
        try desk.restart(with: image)
        try desk.read(60...61)
        try desk.connect(&center)
        #expect(desk.alarms.map(\.kind) == [.rolledBack, .streamRestart])
        #expect(try Envelope.decode(desk.sent[0].bytes).position?.previous == head.id)
        #expect(desk.machine.statistics.signedAnew == 2)
        try desk.converse(&center)
        #expect(center.numbers == [1, 2, 3, 4, 5, 6, 7, 8, 60, 61])
        #expect(desk.outbox.summary.unreceipted == 0)
    }

    @Test("a state directory that was lost goes on behind the control center's newest")
    func lost() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...3)
        try desk.connect(&center)
        try desk.converse(&center)
        let head = try #require(center.newest(desk.machine.stream))
        try desk.restart(with: MemoryOutbox())
        try desk.read(4...4)
        try desk.connect(&center)
        let first = try #require(desk.sent.first)
        #expect(try Envelope.decode(first.bytes).position?.previous == head.id)
        try desk.converse(&center)
        #expect(center.numbers == [1, 2, 3, 4])
    }

    @Test("a crash between a new stream and its first receipt is no second one")
    func restartTwice() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...2)
        try desk.connect(&center)
        try desk.converse(&center)
        try desk.restart(with: MemoryOutbox())
        try desk.read(3...4)
        try desk.connect(&center)
        let stream = desk.machine.stream
        // Nothing of it arrives; then a crash.
        try desk.restart()
        try desk.connect(&center)
        #expect(desk.machine.stream == stream)
        try desk.converse(&center)
        #expect(center.numbers == [1, 2, 3, 4])
        #expect(desk.outbox.summary.unreceipted == 0)
    }

    @Test(
        "signing anew takes many transactions, and a crash in between loses nothing and doubles nothing",
        arguments: 1...6)
    func signsAnew(_ crashAt: Int) throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...1)
        try desk.connect(&center)
        try desk.converse(&center)
        // The control center has gone on without this image.
        let stranger = MessageID(hashing: [9])
        center.held[desk.machine.stream, default: [:]][77] = stranger
        desk.step(.disconnected)
        try desk.read(2...300)
        desk.step(.connected)
        let hello = try desk.takeHello()
        let answer = try center.answer(hello)
        // The crash: from a certain commit on, nothing reaches the disk.
        var inputs: [AuditorMachine.Input] = [.receipts(answer)]
        var commits = 0
        while !inputs.isEmpty {
            for action in desk.machine.handle(
                inputs.removeFirst(), now: desk.now, outbox: desk.outbox, random: &desk.random)
            {
                guard case .commit(let transaction) = action else { continue }
                commits += 1
                guard commits <= crashAt else { continue }
                try desk.outbox.commit(transaction)
                inputs.append(.committed)
            }
        }
        try desk.restart()
        try desk.connect(&center)
        try desk.converse(&center)
        #expect(desk.outbox.summary.unreceipted == 0)
        #expect(center.numbers.sorted() == Array(1...300))
    }

    @Test(
        "a refusal as fork or stream-closed opens a new stream and loses nothing",
        arguments: [Reason.fork, .streamClosed])
    func refusedStream(_ reason: Reason) throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...2)
        try desk.connect(&center)
        try desk.converse(&center)
        let former = desk.machine.stream
        for number in 3...5 { center.refusals[Int64(number)] = reason }
        try desk.read(3...5)
        let head = try #require(center.newest(former))
        // All three are refused; then the hello, whose answer says where the control center stands.
        let publications = desk.sent
        desk.sent = []
        for publication in publications {
            for answer in try center.receive(publication.bytes) { desk.step(.receipts(answer)) }
        }
        center.refusals = [:]
        let hello = try desk.takeHello()
        desk.step(.receipts(try center.answer(hello)))
        #expect(desk.machine.stream != former)
        #expect(try Envelope.decode(desk.sent[0].bytes).position?.previous == head.id)
        try desk.converse(&center)
        #expect(center.numbers == [1, 2, 3, 4, 5])
        #expect(desk.outbox.summary.deadLetters == 0)
        #expect(desk.outbox.summary.unreceipted == 0)
        #expect(desk.alarms.map(\.kind) == [.streamRestart])
    }

    @Test("a copy that runs twice is held up after so many streams")
    func twin() throws {
        var desk = try Desk { $0.streamsPerHour = 3 }
        var center = try Center(desk)
        try desk.read(1...1)
        try desk.connect(&center)
        try desk.converse(&center)
        for round in 1...5 {
            // The twin has gone on: its head is unknown here.
            center.held[center.open ?? desk.machine.stream, default: [:]][Int64(1_000 + round)] = MessageID(
                hashing: [UInt8(round)])
            desk.step(.disconnected)
            try desk.connect(&center)
            try desk.converse(&center)
            try desk.read(round + 1...round + 1)
            if round <= 3 { try desk.converse(&center) }
        }
        #expect(desk.machine.statistics.restarts == 3)
        #expect(desk.alarms.contains { $0.kind == .twin })
        #expect(!desk.machine.isOpen)
        desk.wait(seconds: 3_601)
        try desk.converse(&center)
        #expect(desk.machine.statistics.restarts == 4)
        #expect(desk.machine.isOpen)
    }

    @Test("a control center that was restored is offered again what it lost, from the ring")
    func restored() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...4)
        try desk.connect(&center)
        try desk.converse(&center)
        let image = center
        try desk.read(5...9)
        try desk.converse(&center)
        #expect(desk.outbox.summary.unreceipted == 0)
        center = image
        try desk.connect(&center)
        #expect(desk.alarms.map(\.kind) == [.controlCenterRestored])
        try desk.converse(&center)
        #expect(center.numbers == Array(1...9))
        #expect(desk.outbox.summary.unreceipted == 0)
        #expect(desk.machine.statistics.restarts == 0)
        // And once is enough.
        try desk.connect(&center)
        #expect(desk.alarms.count == 1)
    }

    @Test("a control center that lost everything, or a hole, gets it back")
    func restoredEmpty() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...9)
        try desk.connect(&center)
        try desk.converse(&center)
        center = try Center(desk)
        try desk.connect(&center)
        try desk.converse(&center)
        #expect(center.numbers == Array(1...9))
        center.held[desk.machine.stream]?[4] = nil
        center.held[desk.machine.stream]?[5] = nil
        center.stored = []
        try desk.connect(&center)
        try desk.converse(&center)
        #expect(center.numbers == [4, 5])
    }

    @Test("receipts from before a restore are not believed behind it")
    func staleReceipts() throws {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...1)
        try desk.connect(&center)
        try desk.converse(&center)
        let image = center
        try desk.read(2...3)
        var stale: [[UInt8]] = []
        for publication in desk.sent { stale += try center.receive(publication.bytes) }
        desk.sent = []
        for receipts in stale { desk.step(.receipts(receipts)) }
        #expect(desk.outbox.summary.unreceipted == 0)
        center = image
        center.issuedAt = desk.now.advanced(byNanoseconds: 5_000_000_000)
        try desk.connect(&center)
        #expect(desk.outbox.summary.unreceipted == 2)
        for receipts in stale { desk.step(.receipts(receipts)) }
        #expect(desk.outbox.summary.unreceipted == 2)
        try desk.converse(&center)
        #expect(center.numbers == [1, 2, 3])
    }

    @Test("a crash at any step of a conversation loses nothing and doubles nothing", arguments: 0..<60)
    func crashes(_ seed: Int) throws {
        var desk = try Desk(seed: UInt64(seed) + 100)
        var center = try Center(desk)
        var dice = SplitMix64(seed: UInt64(seed))
        var next = 1
        desk.step(.connected)
        for _ in 0..<300 {
            switch dice.next() % 10 {
            case 0, 1, 2:
                // The source goes on where the last committed statement ended.
                let position = desk.machine.sourcePosition.map { Int($0.bytes[0]) << 8 | Int($0.bytes[1]) } ?? 0
                next = position + 1
                if next <= 100, desk.machine.wantsReadings(desk.outbox) { try desk.read(next...next) }
            case 3, 4, 5, 6:
                if !desk.sent.isEmpty {
                    let publication = desk.sent.remove(at: Int(dice.next() % UInt64(desk.sent.count)))
                    if dice.next() % 5 == 0 { continue }
                    desk.step(.published(publication.token))
                    for answer in try center.receive(publication.bytes) where dice.next() % 4 != 0 {
                        desk.step(.receipts(answer))
                    }
                }
            case 7: desk.wait(seconds: Int64(dice.next() % 40))
            case 8:
                desk.step(.disconnected)
                desk.sent = []
                desk.step(.connected)
            default:
                if dice.next() % 3 == 0 {
                    try desk.restart()
                    desk.step(.connected)
                }
            }
        }
        desk.sent = []
        desk.step(.disconnected)
        desk.step(.connected)
        try desk.converse(&center)
        let last = desk.machine.sourcePosition.map { Int($0.bytes[0]) << 8 | Int($0.bytes[1]) } ?? 0
        #expect(last > 0)
        #expect(center.numbers.sorted() == (1...Int64(last)).map { $0 })
        #expect(desk.outbox.summary.unreceipted == 0)
        #expect(desk.machine.statistics.restarts == 0)
    }
}

/// A signer that says to be someone else.
struct Renamed: Signer {
    let base: any Signer
    let issuer: SPIFFEID

    init(_ base: any Signer, as issuer: SPIFFEID) {
        self.base = base
        self.issuer = issuer
    }

    var certificateHash: CertificateHash { self.base.certificateHash }

    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature {
        try self.base.signature(for: digest)
    }
}
