import Auditor
import Crypto
import Identity
import PKI
import Telemetry
import TestSupport
import Testing

/// An update as a test wants it, right unless it says otherwise.
struct Order {
    var parameter = "SAMPLE_RATE"
    var value: ParameterValue
    var unit: String? = "s"
    var nonce: Nonce
    var batch: Nonce?
    var sequence: Int64 = 1
    var target: SPIFFEID
    /// On the topic; the target's and the signer's if not said.
    var topicAuditor: Identifier?
    var topicController: Identifier?
    var topicParameter: String?
    var isRetained = false
    var expires: Timestamp
    var signer: TestPKI.Party

    func topic() throws -> String {
        "control_center/updates/\(self.topicAuditor ?? self.target.id)/\(self.topicController ?? self.signer.id)/"
            + (self.topicParameter ?? self.parameter)
    }

    func bytes(at now: Timestamp) throws -> [UInt8] {
        try Update(
            parameter: try #require(Topic.Parameter(self.parameter)), value: self.value, unit: self.unit,
            nonce: self.nonce, batch: self.batch
        ).signed(
            for: self.target, sequence: self.sequence, expires: self.expires, issuedAt: now,
            chain: self.signer.chainDER, by: DeskSigner(party: self.signer)
        ).bytes
    }
}

struct DeskSigner: Signer {
    let party: TestPKI.Party
    var issuer: SPIFFEID { self.party.spiffeID }
    var certificateHash: CertificateHash { CertificateHash(hashing: self.party.certificate.der) }

    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature { try self.party.key.sign(digest) }
}

@Suite("Auditor: updates and alerts") struct UpdateTests {
    private func connected(_ change: (inout AuditorConfiguration) -> Void = { _ in }) throws -> (Desk, Nonce) {
        var desk = try Desk(MemoryOutbox(), change)
        let nonce = try Self.connect(&desk)
        return (desk, nonce)
    }

    private static func connect(_ desk: inout Desk) throws -> Nonce {
        var center = try Center(desk)
        desk.step(.connected)
        let hello = try desk.takeHello()
        desk.step(.receipts(try center.answer(hello)))
        center.open = nil
        return hello.nonce
    }

    private func order(_ desk: Desk, _ nonce: Nonce) throws -> Order {
        Order(
            value: .number(try #require(ExactDecimal("0.2"))), nonce: nonce, target: desk.party.spiffeID,
            expires: desk.now.advanced(byNanoseconds: 3_600_000_000_000),
            signer: desk.pki.controlCenter)
    }

    private func tell(_ desk: inout Desk, _ order: Order, _ change: (inout [UInt8]) -> Void = { _ in }) throws {
        var bytes = try order.bytes(at: desk.now)
        change(&bytes)
        desk.step(.told(topic: try order.topic(), bytes, isRetained: order.isRetained))
    }

    private func results(_ desk: Desk) throws -> [UpdateResult] {
        try desk.outbox.entries.compactMap { try Envelope.decode($0.bytes).result }
    }

    @Test("An update is applied once it is on disk, answered by a signed result, and kept over a restart")
    func applies() throws {
        var (desk, nonce) = try self.connected()
        var order = try self.order(desk, nonce)
        order.batch = nonce
        try self.tell(&desk, order)
        let value = try #require(ExactDecimal("0.2"))
        #expect(desk.settings["SAMPLE_RATE"] == .number(value))
        let result = try #require(try self.results(desk).first)
        #expect(result.isApplied)
        #expect(result.value == .number(value))
        #expect(desk.outbox.memory.settings["SAMPLE_RATE"]?.value == "0.2")
        #expect(desk.outbox.memory.lastSequences[desk.pki.controlCenter.spiffeID.rawValue] == 1)
        #expect(desk.alarms.last?.kind == .updateApplied)
        try desk.restart()
        #expect(desk.machine.parameters.map(\.0) == [.sampleRate])
    }

    @Test("A commit that fails changes nothing until it succeeds")
    func fullDisk() throws {
        var (desk, nonce) = try self.connected()
        desk.failure = OutboxError(.full, "the disk is full")
        try self.tell(&desk, try self.order(desk, nonce))
        #expect(desk.settings.isEmpty)
        #expect(desk.outbox.memory.settings.isEmpty)
        desk.failure = nil
        desk.wait(seconds: 5)
        #expect(desk.settings["SAMPLE_RATE"] != nil)
        #expect(desk.machine.statistics.updatesApplied == 1)
    }

    /// What is wrong with an update, and the word for it.
    enum Flaw: String, CaseIterable {
        case expired, otherAuditorsTopic, otherAudience, otherController, otherParameter, retained, tooSmall, tooLarge
        case negative, wrongUnit, noUnit, wrongType, unknownParameter, oldNonce, auditorSigns, operatorSigns
        case otherName, changedByte, tooManyDigits
    }

    @Test("What is wrong changes nothing, and is reported", arguments: Flaw.allCases)
    func refuses(_ flaw: Flaw) throws {
        var (desk, nonce) = try self.connected { $0.clockQuality = .synchronised }
        var order = try self.order(desk, nonce)
        var isAnswered = true
        var word: Reason?
        switch flaw {
        case .expired: (order.expires, word) = (desk.now, .expired)
        case .otherAuditorsTopic: (order.topicAuditor, word, isAnswered) = (try Identifier("home-2"), .topic, false)
        case .otherAudience:
            (order.target, word, isAnswered) = (try desk.pki.auditor("home-2").spiffeID, .audience, false)
        case .otherController: (order.topicController, word, isAnswered) = (try Identifier("center-9"), .topic, false)
        case .otherParameter: (order.topicParameter, word, isAnswered) = ("LOG_LEVEL", .topic, false)
        case .retained: (order.isRetained, word, isAnswered) = (true, .retained, false)
        case .tooSmall: (order.value, word) = (.number(try #require(ExactDecimal("0.049"))), .value)
        case .tooLarge: (order.value, word) = (.number(try #require(ExactDecimal("9223372036854775807"))), .value)
        case .negative: (order.value, word) = (.number(try #require(ExactDecimal("-0.2"))), .value)
        case .tooManyDigits: (order.value, word) = (.number(try #require(ExactDecimal("0.1000000001"))), .value)
        case .wrongUnit: (order.unit, word) = ("ms", .value)
        case .noUnit: (order.unit, word) = (nil, .value)
        case .wrongType: (order.value, word) = (.text("0.2"), .value)
        case .unknownParameter: (order.parameter, word) = ("MAX_POWER", .parameter)
        case .oldNonce: (order.nonce, word) = (Nonce(using: &desk.random), .nonce)
        case .auditorSigns: (order.signer, word, isAnswered) = (try desk.pki.auditor("home-2"), .role, false)
        case .operatorSigns: (order.signer, word, isAnswered) = (desk.pki.operators[0], .role, false)
        case .otherName, .changedByte: (word, isAnswered) = (.signature, false)
        }
        if flaw == .otherName {
            // The control center's certificate, another's key.
            let thief = try desk.pki.auditor("home-2")
            let signer = ThiefSigner(claims: desk.pki.controlCenter, key: thief)
            let bytes = try Update(
                parameter: .sampleRate, value: order.value, unit: "s", nonce: nonce
            ).signed(
                for: order.target, sequence: 1, expires: order.expires, issuedAt: desk.now,
                chain: desk.pki.controlCenter.chainDER, by: signer
            ).bytes
            desk.step(.told(topic: try order.topic(), bytes, isRetained: false))
        } else {
            try self.tell(&desk, order) { bytes in
                // A byte of the nonce, in the payload.
                if flaw == .changedByte { bytes[bytes.count - 66 - 8] ^= 1 }
            }
        }
        #expect(desk.settings.isEmpty)
        #expect(desk.outbox.memory.settings.isEmpty)
        #expect(desk.machine.statistics.updatesRefused == 1)
        let alarm = try #require(desk.alarms.last)
        #expect(alarm.kind == .updateRefused)
        if let word { #expect(alarm.text.contains("\(word): "), "\(alarm)") }
        let results = try self.results(desk)
        #expect(results.count == (isAnswered ? 1 : 0))
        if isAnswered, let word {
            #expect(results.first?.isApplied == false)
            #expect(results.first?.reason?.hasPrefix("\(word): ") == true)
        }
        // A right one is applied afterwards.
        var right = try self.order(desk, nonce)
        right.sequence = 2
        try self.tell(&desk, right)
        #expect(desk.settings["SAMPLE_RATE"] != nil)
    }

    @Test("Bytes that are no update at all change nothing")
    func garbage() throws {
        var (desk, nonce) = try self.connected()
        let topic = try self.order(desk, nonce).topic()
        for bytes in [[], [0xD2], Array("0.2||3045".utf8), [UInt8](repeating: 0xD2, count: 70_000)] {
            desk.step(.told(topic: topic, bytes, isRetained: false))
        }
        desk.step(.told(topic: "nonsense", try self.order(desk, nonce).bytes(at: desk.now), isRetained: false))
        #expect(desk.settings.isEmpty)
        #expect(desk.machine.statistics.updatesRefused == 5)
    }

    @Test(
        "Floating point is no value: not a number, 1e300, -1e300",
        arguments: [
            (Int64(1_000), [0x19, 0x03, 0xE8] as [UInt8], [0xF9, 0x7E, 0x00] as [UInt8]),
            (1 << 40, [0x1B, 0, 0, 1, 0, 0, 0, 0, 0], [0xFB, 0x7E, 0x37, 0xE4, 0x3C, 0x88, 0x00, 0x75, 0x9C]),
            (1 << 40, [0x1B, 0, 0, 1, 0, 0, 0, 0, 0], [0xFB, 0xFE, 0x37, 0xE4, 0x3C, 0x88, 0x00, 0x75, 0x9C]),
        ])
    func floatingPoint(_ integer: Int64, _ encoded: [UInt8], _ float: [UInt8]) throws {
        var (desk, nonce) = try self.connected()
        var order = try self.order(desk, nonce)
        order.value = .number(try #require(ExactDecimal(integer)))
        try self.tell(&desk, order) { bytes in
            // As many bytes, in the place of the value.
            let start = bytes.indices.dropLast(encoded.count).last { bytes[$0..<($0 + encoded.count)] == encoded[...] }
            if let start { bytes.replaceSubrange(start..<(start + encoded.count), with: float) }
        }
        #expect(desk.settings.isEmpty)
        #expect(desk.outbox.memory.settings.isEmpty)
        #expect(desk.machine.statistics.updatesRefused == 1)
        #expect(desk.alarms.last?.text.contains("format: ") == true, "\(desk.alarms)")
    }

    @Test("A replayed update is applied once, a lower number never")
    func replays() throws {
        var (desk, nonce) = try self.connected()
        var order = try self.order(desk, nonce)
        order.sequence = 5
        let bytes = try order.bytes(at: desk.now)
        for _ in 0..<3 { desk.step(.told(topic: try order.topic(), bytes, isRetained: false)) }
        #expect(desk.machine.statistics.updatesApplied == 1)
        #expect(try self.results(desk).count == 1)
        order.value = .number(try #require(ExactDecimal("3")))
        for sequence: Int64 in [5, 4, 1] {
            order.sequence = sequence
            try self.tell(&desk, order)
        }
        #expect(desk.outbox.memory.settings["SAMPLE_RATE"]?.value == "0.2")
        #expect(try self.results(desk).dropFirst().allSatisfy { $0.reason?.hasPrefix("sequence: ") == true })
    }

    @Test("An auditor restored from an old image takes nothing that was signed for its former connection")
    func oldImage() throws {
        var (desk, nonce) = try self.connected()
        let image = desk.outbox
        let order = try self.order(desk, nonce)
        let bytes = try order.bytes(at: desk.now)
        desk.step(.told(topic: try order.topic(), bytes, isRetained: false))
        #expect(desk.machine.statistics.updatesApplied == 1)
        try desk.restart(with: image)
        _ = try Self.connect(&desk)
        desk.step(.told(topic: try order.topic(), bytes, isRetained: false))
        #expect(desk.settings.isEmpty)
        #expect(desk.outbox.memory.settings.isEmpty)
        #expect(try self.results(desk).last?.reason?.hasPrefix("nonce: ") == true)
    }

    @Test("The same update signed again for a new connection is answered, and not applied again")
    func signedAgain() throws {
        var (desk, nonce) = try self.connected()
        var order = try self.order(desk, nonce)
        order.batch = nonce
        try self.tell(&desk, order)
        order.nonce = try Self.connect(&desk)
        order.sequence = 2
        desk.settings = [:]
        try self.tell(&desk, order)
        #expect(desk.settings.isEmpty)
        #expect(desk.machine.statistics.updatesApplied == 1)
        #expect(try self.results(desk).map(\.isApplied) == [true, true])
    }

    @Test("Whoever replays old updates without end cannot fill the stream")
    func flood() throws {
        var (desk, _) = try self.connected()
        for sequence in 1...200 as ClosedRange<Int64> {
            var order = try self.order(desk, Nonce(using: &desk.random))
            order.sequence = sequence
            try self.tell(&desk, order)
        }
        #expect(try self.results(desk).count == 10)
        #expect(desk.machine.statistics.updatesRefused == 200)
    }

    @Test("Meters that are not enabled are read and not told of; the source goes on behind them")
    func meters() throws {
        var (desk, nonce) = try self.connected()
        var order = try self.order(desk, nonce)
        order.parameter = "METERS_ENABLED"
        order.value = .texts(["roof"])
        order.unit = nil
        try self.tell(&desk, order)
        try desk.read(1...3)
        #expect(desk.machine.statistics.readings == 0)
        #expect(desk.machine.sourcePosition == (try Desk.batch(3)).position)
        desk.step(.readings([try Desk.batch(4, meter: "roof")]))
        #expect(desk.machine.statistics.readings == 2)
    }

    @Test("STATEMENT_INTERVAL and OUTBOX_LIMIT are the machine's own")
    func machineParameters() throws {
        var (desk, nonce) = try self.connected()
        var order = try self.order(desk, nonce)
        order.parameter = "STATEMENT_INTERVAL"
        order.value = .number(try #require(ExactDecimal("300")))
        try self.tell(&desk, order)
        #expect(desk.machine.configuration.statementInterval == 300_000_000_000)
        order = try self.order(desk, nonce)
        order.sequence = 2
        order.parameter = "OUTBOX_LIMIT"
        order.value = .number(try #require(ExactDecimal("100")))
        order.unit = nil
        try self.tell(&desk, order)
        #expect(desk.machine.configuration.maximumOutboxMessages == 100)
    }

    @Test("An alert of the control center is shown once, acknowledged, and remembered")
    func alerts() throws {
        var (desk, _) = try self.connected()
        let center = DeskSigner(party: desk.pki.controlCenter)
        let expires = desk.now.advanced(byNanoseconds: 1_000_000_000_000)
        let word = try #require(Reason("maintenance"))
        let personal = try Alert(word, "the grid is switched off").signed(
            for: desk.party.spiffeID, sequence: 7, expires: expires, issuedAt: desk.now, by: center)
        let toAll = try Alert(word, "for everybody").signed(
            sequence: 9, expires: expires, issuedAt: desk.now, by: center)
        for _ in 0..<2 {
            desk.step(.told(topic: "control_center/alerts/home-1", personal.bytes, isRetained: false))
            desk.step(.told(topic: "control_center/alerts/all", toAll.bytes, isRetained: false))
        }
        #expect(desk.outbox.memory.alerts.map(\.text) == ["the grid is switched off", "for everybody"])
        #expect(desk.machine.statistics.alertsShown == 2)
        #expect(try self.results(desk).map(\.update) == [personal.id, toAll.id])

        // On the wrong topic, for another, by another.
        desk.step(.told(topic: "control_center/alerts/all", personal.bytes, isRetained: false))
        let others = try Alert(word, "x").signed(
            for: try desk.pki.auditor("home-2").spiffeID, sequence: 10, expires: expires, issuedAt: desk.now, by: center
        )
        desk.step(.told(topic: "control_center/alerts/home-2", others.bytes, isRetained: false))
        let forged = try Alert(word, "x").signed(
            sequence: 11, expires: expires, issuedAt: desk.now, by: DeskSigner(party: try desk.pki.auditor("home-2")))
        desk.step(.told(topic: "control_center/alerts/all", forged.bytes, isRetained: false))
        #expect(desk.machine.statistics.alertsShown == 2)
    }

    @Test("Its own alarms go to the control center: raised, over, and again on the next connection while they last")
    func ownAlerts() throws {
        var (desk, _) = try self.connected {
            $0.sendsAlerts = true
            $0.meterSilentAfter = 60_000_000_000
        }
        func told() throws -> [Alert] { try desk.takeSent().compactMap(\.alert) }
        try desk.read(1...1)
        #expect(try told().isEmpty)
        desk.wait(seconds: 61)
        var alerts = try told()
        #expect(alerts.map(\.word.rawValue) == ["meter-silent"])
        #expect(alerts.first?.isRaised == true)
        desk.step(.disconnected)
        var center = try Center(desk)
        for entry in desk.outbox.entries { _ = try center.receive(entry.bytes) }
        desk.step(.connected)
        desk.step(.receipts(try center.answer(try desk.takeHello())))
        #expect(try told().map(\.word.rawValue).contains("meter-silent"))
        try desk.read(2...2)
        alerts = try told()
        #expect(alerts.map(\.word.rawValue) == ["meter-silent"])
        #expect(alerts.first?.isRaised == false)

        desk.step(.diskSpace(1 << 20))
        #expect(try told().map(\.word.rawValue) == ["disk-filling"])
        desk.step(.diskSpace((256 << 20) + 1))
        #expect(try told().isEmpty)
        desk.step(.diskSpace(1 << 40))
        #expect(try told().map(\.isRaised) == [false])
    }

    private func told(_ desk: inout Desk) throws -> [Alert] { try desk.takeSent().compactMap(\.alert) }

    /// Loses the connection and has another.
    private func connectAgain(_ desk: inout Desk) throws {
        desk.step(.disconnected)
        var center = try Center(desk)
        for entry in desk.outbox.entries { _ = try center.receive(entry.bytes) }
        desk.step(.connected)
        desk.step(.receipts(try center.answer(try desk.takeHello())))
    }

    @Test("What is over is said again on the next connection, once, and by an auditor that ran anew")
    func overAgain() throws {
        var (desk, _) = try self.connected {
            $0.sendsAlerts = true
            $0.meterSilentAfter = 60_000_000_000
        }
        try desk.read(1...1)
        desk.wait(seconds: 61)
        #expect(try self.told(&desk).map(\.isRaised) == [true])
        try desk.read(2...2)
        #expect(try self.told(&desk).map(\.isRaised) == [false])
        #expect(desk.outbox.memory.told == ["meter-silent"])
        try self.connectAgain(&desk)
        #expect(try self.told(&desk).map(\.isRaised) == [false])
        try self.connectAgain(&desk)
        #expect(try self.told(&desk).isEmpty)
        #expect(desk.outbox.memory.told == [])
    }

    @Test("A meter that is read seldom, or not at all, is not silent")
    func seldom() throws {
        var (desk, nonce) = try self.connected {
            $0.sendsAlerts = true
            $0.meterSilentAfter = 60_000_000_000
        }
        try desk.read(1...1)
        let update = try Update(
            parameter: .sampleRate, value: .number(try #require(ExactDecimal("3600"))), unit: "s", nonce: nonce
        ).signed(
            for: desk.party.spiffeID, sequence: 1, expires: desk.now.advanced(byNanoseconds: 1_000_000_000_000),
            issuedAt: desk.now, chain: desk.pki.controlCenter.chainDER, by: DeskSigner(party: desk.pki.controlCenter))
        desk.step(
            .told(topic: "control_center/updates/home-1/center-1/SAMPLE_RATE", update.bytes, isRetained: false))
        desk.wait(seconds: 7_200)
        #expect(!desk.machine.activeAlarms.contains(.meterSilent))
        desk.wait(seconds: 3_601)
        #expect(desk.machine.activeAlarms.contains(.meterSilent))
    }

    @Test("A clock that differs from the control center's raises an alarm")
    func clock() throws {
        var desk = try Desk()
        var center = try Center(desk)
        center.issuedAt = desk.now.advanced(byNanoseconds: 600_000_000_000)
        desk.step(.connected)
        desk.step(.receipts(try center.answer(try desk.takeHello())))
        #expect(desk.machine.activeAlarms == [.clockOff])
        desk.now = center.issuedAt
        desk.step(.connected)
        desk.step(.receipts(try center.answer(try desk.takeHello())))
        #expect(desk.machine.activeAlarms.isEmpty)
    }
}

/// Names one party's certificate and signs with another's key.
private struct ThiefSigner: Signer {
    let claims: TestPKI.Party
    let key: TestPKI.Party
    var issuer: SPIFFEID { self.claims.spiffeID }
    var certificateHash: CertificateHash { CertificateHash(hashing: self.claims.certificate.der) }

    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature { try self.key.key.sign(digest) }
}
