import ControlCenter
import GRDB
import Identity
import PKI
import Telemetry
import TestSupport
import Testing

@Suite("The queue of updates") struct UpdateQueueTests {
    private let pki: TestPKI
    private let center: TestPKI.Party
    private let mona: SPIFFEID
    private let lena: SPIFFEID
    private let now: Timestamp

    init() throws {
        self.pki = try TestPKI(auditors: ["mona", "lena"])
        self.center = self.pki.controlCenter
        self.mona = try self.pki.auditor("mona").spiffeID
        self.lena = try self.pki.auditor("lena").spiffeID
        self.now = Timestamp(seconds: self.pki.now)
    }

    private func nonce(_ seed: UInt64) -> Nonce {
        var random = SplitMix64(seed: seed)
        return Nonce(using: &random)
    }

    private func update(_ number: Int64, _ auditor: SPIFFEID? = nil, expires: Int64 = 3_600) throws -> PendingUpdate {
        PendingUpdate(
            number: number, auditor: auditor ?? self.mona, parameter: .sampleRate,
            value: .number(try #require(ExactDecimal(number))), unit: "s", batch: self.nonce(7),
            expires: self.now.advanced(byNanoseconds: expires * 1_000_000_000))
    }

    private func work<Store: UpdateStore>(
        _ dispatcher: inout UpdateDispatcher<Store>, after seconds: Int64 = 0
    ) throws -> [(topic: Topic, envelope: Envelope, update: Update)] {
        try dispatcher.work(
            at: self.now.advanced(byNanoseconds: seconds * 1_000_000_000), signer: PartySigner(self.center),
            chain: self.center.chainDER
        ).map { message in
            let envelope = try Envelope.decode(message.bytes)
            try envelope.checkTopic(message.topic, isRetained: message.isRetained)
            #expect(envelope.isSigned(by: self.center.key.publicKey))
            return (message.topic, envelope, try #require(envelope.update))
        }
    }

    private func result(_ id: MessageID, _ reason: String? = nil) -> UpdateResult {
        UpdateResult(update: id, isApplied: reason == nil, reason: reason)
    }

    @Test("waits for the hello, and is signed with its nonce, in the order of asking")
    func waits() throws {
        var updates = MemoryUpdates()
        for number in 1...3 as ClosedRange<Int64> { updates.ask(try self.update(number)) }
        updates.ask(try self.update(4, self.lena))
        var dispatcher = UpdateDispatcher(store: updates)
        #expect(try self.work(&dispatcher).isEmpty)
        dispatcher.heard(self.nonce(1), of: self.mona)
        let sent = try self.work(&dispatcher)
        #expect(sent.map { $0.update.value.description } == ["1", "2", "3"])
        #expect(sent.allSatisfy { $0.update.nonce == self.nonce(1) && $0.envelope.isFor(self.mona) })
        let numbers = sent.compactMap(\.envelope.sequence)
        #expect(numbers == numbers.sorted() && Set(numbers).count == 3)
        #expect(dispatcher.store.states[4] == .queued)
        #expect(dispatcher.store.states[1] == .sent)
    }

    @Test("sends the same bytes again within a connection, and another form on the next")
    func repeats() throws {
        var updates = MemoryUpdates()
        updates.ask(try self.update(1))
        var dispatcher = UpdateDispatcher(store: updates)
        dispatcher.heard(self.nonce(1), of: self.mona)
        let first = try #require(try self.work(&dispatcher).first)
        dispatcher.heard(self.nonce(1), of: self.mona)
        #expect(try self.work(&dispatcher, after: 59).isEmpty)
        #expect(try self.work(&dispatcher, after: 60).map(\.envelope.bytes) == [first.envelope.bytes])
        dispatcher.heard(self.nonce(2), of: self.mona)
        let second = try #require(try self.work(&dispatcher, after: 61).first)
        #expect(second.update.nonce == self.nonce(2))
        #expect(second.update.batch == first.update.batch)
        let (former, later) = (try #require(first.envelope.sequence), try #require(second.envelope.sequence))
        #expect(later > former)
    }

    @Test("is settled by the auditor's own result, for whichever form")
    func results() throws {
        var updates = MemoryUpdates()
        updates.ask(try self.update(1))
        updates.ask(try self.update(2))
        var dispatcher = UpdateDispatcher(store: updates)
        dispatcher.heard(self.nonce(1), of: self.mona)
        let sent = try self.work(&dispatcher)
        var store = dispatcher.store
        store.link(self.result(sent[0].envelope.id), of: self.lena)
        store.link(self.result(sent[0].envelope.id, "nonce: older"), of: self.mona)
        store.link(self.result(MessageID(hashing: [])), of: self.mona)
        #expect(store.states[1] == .sent)
        store.link(self.result(sent[0].envelope.id), of: self.mona)
        store.link(self.result(sent[0].envelope.id, "value: no"), of: self.mona)
        #expect(store.states[1] == .applied)
        store.link(self.result(sent[1].envelope.id, "value: no"), of: self.mona)
        #expect(store.states[2] == .refused("value: no"))
        #expect(store.auditorsWithPendingUpdates().isEmpty)
    }

    @Test("is not sent after its time")
    func expires() throws {
        var updates = MemoryUpdates()
        updates.ask(try self.update(1, expires: 10))
        var dispatcher = UpdateDispatcher(store: updates)
        dispatcher.heard(self.nonce(1), of: self.mona)
        #expect(try self.work(&dispatcher, after: 10).isEmpty)
        #expect(dispatcher.store.states[1] == .expired)
    }

    @Test("is in the store: asked for by an operator's process, with who asked, and durable")
    func store() throws {
        let folder = try TemporaryDirectory()
        defer { folder.remove() }
        let home = TestAuditor(try self.pki.auditor("mona"), at: self.now)
        var numbers: [Int64] = []
        let path = folder.path("control-center.sqlite3")
        do {
            let store = try ControlCenterStore(directory: folder.path)
            var center = try TestCenter(store, pki: self.pki)
            try center.process(try home.arrivalOfHello())
            let desk = try OperatorDesk(path: path)
            #expect(desk.isControlCenterRunning)
            #expect(try desk.auditors() == [self.mona])
            var random = SplitMix64(seed: 1)
            let definition = try #require(ParameterDefinition.named(.sampleRate))
            let value = try definition.parse("0.2")
            numbers = try desk.ask(
                .sampleRate, value, unit: "s", of: [self.mona, self.lena], name: "fast",
                expires: self.now.advanced(byNanoseconds: 1_000_000_000_000), by: "olga", at: self.now, random: &random)
            #expect(numbers.count == 2)
            var dispatcher = UpdateDispatcher(store: store)
            dispatcher.heard(self.nonce(1), of: self.mona)
            let sent = try self.work(&dispatcher)
            #expect(sent.map { $0.update.value.description } == ["0.2"])
            #expect(try store.lastUpdateSequence(for: self.mona) == sent[0].envelope.sequence)
        }
        let desk = try OperatorDesk(path: path)
        #expect(!desk.isControlCenterRunning)
        let updates = try desk.updates(limit: 10)
        #expect(updates.map(\.state) == ["sent", "queued"])
        #expect(updates.map(\.askedBy) == ["olga", "olga"])
        #expect(Set(updates.map(\.batch)).count == 1)
        #expect(updates.map(\.name) == ["fast", "fast"])
        // Time goes on, also for a control center that was away.
        let store = try ControlCenterStore(directory: folder.path)
        try store.expireUpdates(at: self.now.advanced(byNanoseconds: 1_000_000_000_000))
        #expect(try desk.updates(limit: 10).map(\.state) == ["expired", "expired"])
    }

    /// A store, and operators at it.
    private func withStore(_ body: (ControlCenterStore, OperatorDesk, String) throws -> Void) throws {
        let folder = try TemporaryDirectory()
        defer { folder.remove() }
        let store = try ControlCenterStore(directory: folder.path)
        let path = folder.path("control-center.sqlite3")
        try body(store, try OperatorDesk(path: path), path)
    }

    private func ask(_ desk: OperatorDesk, _ parameter: Topic.Parameter, _ value: ParameterValue) throws -> Int64 {
        var random = SplitMix64(seed: 1)
        return try #require(
            try desk.ask(
                parameter, value, unit: nil, of: [self.mona],
                expires: self.now.advanced(byNanoseconds: 1_000_000_000_000),
                by: "olga", at: self.now, random: &random
            ).first)
    }

    @Test("a value that no message can carry is refused before it is queued")
    func tooMany() throws {
        let names = (1...65).map { "a\($0)" }
        let definition = try #require(ParameterDefinition.named(.metersEnabled))
        #expect(throws: Refusal(.value, "")) { _ = try definition.parse(names.joined(separator: ",")) }
        _ = try definition.parse(names.prefix(64).joined(separator: ","))
        try self.withStore { _, desk, _ in
            #expect(throws: ControlCenterError.self) { _ = try self.ask(desk, .metersEnabled, .texts(names)) }
            let queued = try desk.updates(limit: 9)
            #expect(queued.isEmpty)
        }
    }

    @Test("a row that cannot be read is refused, and holds up nobody")
    func unreadable() throws {
        try self.withStore { store, desk, path in
            _ = try self.ask(desk, .logLevel, .text("info"))
            try DatabaseQueue(path: path).write { db in
                try db.execute(sql: "UPDATE update_request SET value = x'ff'")
            }
            _ = try self.ask(desk, .metersEnabled, .texts(["main"]))
            var dispatcher = UpdateDispatcher(store: store)
            dispatcher.heard(self.nonce(1), of: self.mona)
            #expect(try self.work(&dispatcher).map(\.update.parameter) == [.metersEnabled])
            let updates = try desk.updates(limit: 9)
            #expect(updates.map(\.state) == ["refused", "sent"])
            #expect(updates.first?.reason?.hasPrefix("format: ") == true)
        }
    }

    @Test("a newer order ends older ones of the same parameter; one can be taken back until it is answered")
    func superseded() throws {
        try self.withStore { store, desk, _ in
            _ = try self.ask(desk, .logLevel, .text("debug"))
            let other = try self.ask(desk, .metersEnabled, .texts([]))
            let newest = try self.ask(desk, .logLevel, .text("info"))
            #expect(try desk.updates(limit: 9).map(\.state) == ["superseded", "queued", "queued"])
            #expect(try desk.updates(limit: 9).first?.reason == "superseded by \(newest)")
            #expect(try desk.cancel(other, by: "olga", at: self.now))
            #expect(try !desk.cancel(other, by: "olga", at: self.now))
            #expect(try desk.updates(limit: 9).map(\.state) == ["superseded", "cancelled", "queued"])
            var dispatcher = UpdateDispatcher(store: store)
            dispatcher.heard(self.nonce(1), of: self.mona)
            #expect(try self.work(&dispatcher).map(\.update.value) == [.text("info")])
        }
    }

    @Test("a form that was refused for its number only is not repeated: another is signed")
    func late() throws {
        var updates = MemoryUpdates()
        updates.ask(try self.update(1))
        var dispatcher = UpdateDispatcher(store: updates)
        dispatcher.heard(self.nonce(1), of: self.mona)
        let first = try #require(try self.work(&dispatcher).first)
        dispatcher.refusedAsLate(first.envelope.id, by: self.lena)
        dispatcher.refusedAsLate(MessageID(hashing: []), by: self.mona)
        #expect(try self.work(&dispatcher, after: 60).map(\.envelope.id) == [first.envelope.id])
        dispatcher.refusedAsLate(first.envelope.id, by: self.mona)
        let second = try #require(try self.work(&dispatcher, after: 120).first)
        #expect(second.envelope.id != first.envelope.id)
        #expect(second.update.nonce == first.update.nonce)
        #expect(try self.work(&dispatcher, after: 180).map(\.envelope.id) == [second.envelope.id])
    }

    @Test("A store that is not there, or another's, is told of in one line")
    func otherStores() throws {
        let folder = try TemporaryDirectory()
        defer { folder.remove() }
        #expect(throws: ControlCenterError.self) { _ = try OperatorDesk(path: folder.path("none")) }
        let path = try folder.write("not a database, but long enough to be looked at as one", to: "other.sqlite3")
        #expect(throws: ControlCenterError(.storeDamaged, "")) { _ = try OperatorDesk(path: path) }
    }

    @Test("An auditor's alert is verified and stored once; what is wrong with it is refused")
    func auditorAlerts() throws {
        let home = TestAuditor(try self.pki.auditor("mona"), at: self.now)
        var center = try TestCenter(pki: self.pki)
        let word = try #require(Reason("meter-silent"))
        func alert(_ sequence: Int64, expires: Int64 = 60, by signer: PartySigner? = nil) throws -> [UInt8] {
            try Alert(word, "m1 is silent").signed(
                sequence: sequence, expires: self.now.advanced(byNanoseconds: expires * 1_000_000_000),
                issuedAt: self.now, by: signer ?? home.signer
            ).bytes
        }
        let topic = "audits/alerts/mona"
        try center.process(Arrival(topic: topic, bytes: try alert(1)))
        #expect(center.count(.certificateUnknown) == 1)
        try center.process(try home.arrivalOfHello())
        let good = Arrival(topic: topic, bytes: try alert(2))
        try center.process(good, good)
        try center.process(good)
        #expect(center.ledger.auditorAlerts.map(\.alert.text) == ["m1 is silent"])
        try center.process(
            Arrival(topic: topic, bytes: try alert(3, expires: 0)),
            Arrival(topic: "audits/alerts/lena", bytes: try alert(4)),
            Arrival(topic: topic, bytes: try alert(5), isRetained: true),
            Arrival(topic: topic, bytes: try alert(6).map { $0 } + [0]),
            Arrival(topic: topic, bytes: Array("gone".utf8)))
        let thief = try self.pki.auditor("lena")
        var signer = PartySigner(thief, as: self.mona)
        signer.certificateHash = home.signer.certificateHash
        try center.process(Arrival(topic: topic, bytes: try alert(7, by: signer)))
        for reason: Reason in [.expired, .topic, .retained, .notCanonical, .format, .signature] {
            #expect(center.count(reason) == 1, "\(reason)")
        }
        #expect(center.ledger.auditorAlerts.count == 1)
        // Ten a second are stored; what is more is held.
        try center.process((10..<60).map { Arrival(topic: topic, bytes: try alert($0)) })
        #expect(center.ledger.auditorAlerts.count <= 11)
        #expect(center.count(.busy) >= 40)
    }
}
