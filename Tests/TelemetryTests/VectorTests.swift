import Identity
import Telemetry
import Testing

@Suite("The published vectors")
struct VectorTests {
    @Test("are all there")
    func areThere() {
        #expect(Vectors.parties.count == 6)
        #expect(Vectors.accepted.count == 19)
        #expect(Vectors.refused.count == 190)
        #expect(Vectors.streams.count == 9)
    }

    @Test("that are to be taken are taken, under the id they say", arguments: Vectors.accepted)
    func accepted(_ vector: Vectors.Accepted) throws {
        let bytes = try #require(hexBytes(vector.message))
        #expect(Vectors.verdict(bytes, topic: vector.topic) == nil)
        #expect(try Envelope.decode(bytes).id.description == vector.id)
    }

    @Test("that are to be refused are refused for the reason they say", arguments: Vectors.refused)
    func refused(_ vector: Vectors.Refused) {
        let verdict = Vectors.verdict(
            vector.bytes, topic: vector.topic, isRetained: vector.retained ?? false, sender: vector.sender)
        #expect(verdict?.reason.rawValue == vector.reason, "\(verdict?.description ?? "taken")")
    }

    @Test("cover every reason that can be found in one message")
    func coverReasons() {
        let found = Set(Vectors.refused.map(\.reason))
        let elsewhere: Set<Reason> = [.revoked, .expired, .duplicate, .conflict, .fork, .streamClosed, .busy]
        #expect(found == Set(Reason.all.filter { !elsewhere.contains($0) }.map(\.rawValue)))
    }

    @Test("of streams verify one by one")
    func streams() throws {
        for step in Vectors.streams {
            let bytes = try #require(hexBytes(step.message))
            #expect(Vectors.verdict(bytes, topic: "audits/measures/home-1") == nil)
            #expect(try Envelope.decode(bytes).id.description == step.id)
        }
    }

    @Test("say what they were made from: header")
    func header() throws {
        let envelope = try Envelope.decode(Vectors.message("statement-everything"))
        #expect(envelope.kind == .statement)
        #expect(envelope.issuer.rawValue == "spiffe://energy.example/auditor/home-1")
        #expect(envelope.issuerRole == .auditor)
        #expect(envelope.isIssuer(try Identifier("home-1")))
        #expect(envelope.issuedAt == Timestamp(seconds: 1_767_225_600))
        #expect(envelope.clock == .informative)
        #expect(envelope.position?.sequence == 2)
        #expect(envelope.position?.stream.description == "0123456789abcdef")
        #expect(envelope.position?.previous == MessageID(hashing: Vectors.message("statement")))
        #expect(envelope.subject?.description == "spiffe://energy.example/auditor/home-1/stream/0123456789abcdef")
        #expect(envelope.certificateHash == CertificateHash(hashing: Vectors.certificate("home-1")))
        #expect(envelope.certificateChain.isEmpty)
    }

    @Test("say what they were made from: readings, with every digit")
    func readings() throws {
        let envelope = try Envelope.decode(Vectors.message("statement-everything"))
        let told = envelope.readings.map { reading in
            let name = reading.part == .whole ? "\(reading.quantity)" : "\(reading.quantity)/\(reading.part)"
            return "\(reading.meter) \(name) \(reading.value?.description ?? "-") \(reading.unit) "
                + "\(reading.time) \(reading.interval ?? 0) \(reading.quality)"
        }
        #expect(
            told == [
                "m1 consumption_total 12345678.123456789 kWh 2026-01-01T00:00:00Z 0 good",
                "m1 consumption_total/t1 100 Wh 2026-01-01T00:00:00Z 0 good",
                "m1 production_total/t12 0.0 kWh 2026-01-01T00:00:00Z 0 r",
                "inverter.2 power_produced/l1 -0.5 W 2026-01-01T00:00:01Z 0 good",
                "inverter.2 power_produced/l2 1.50 kW 2026-01-01T00:00:01.25Z 60000000000 e",
                "m1 power -9223372036854775807 W 2026-01-01T00:00:02.000000001Z 0 good",
                "m1 power_consumed - W 2026-01-01T00:00:03Z 0 m",
                "m1 voltage/l3 231.4 V 2026-01-01T00:00:03Z 500000000 good",
                "m1 current 9.223372036854775807 A 2026-01-01T00:00:04Z 0 good",
                "m1 power_factor 0.000000000000000001 / 2026-01-01T00:00:05Z 0 good",
                "m1 frequency 50.02 Hz 2026-01-01T00:00:06Z 0 x",
            ])
        #expect(envelope.readingCount == 11)
    }

    @Test("say what they were made from: the other kinds")
    func otherKinds() throws {
        let heartbeat = try #require(try Envelope.decode(Vectors.message("heartbeat")).heartbeat)
        #expect(heartbeat.outboxCount == 3)
        #expect(heartbeat.oldestUnsent == Timestamp(seconds: 1_767_225_540))
        #expect(heartbeat.meters.map(\.failedReads) == [0, 7])
        #expect(heartbeat.meters.last?.lastReading == nil)

        let result = try #require(try Envelope.decode(Vectors.message("result")).result)
        #expect(result.isApplied)
        #expect(result.value == ExactDecimal("1.50").map { .number($0) })

        let hello = try Envelope.decode(Vectors.message("hello-remembered"))
        #expect(hello.certificateChain == [Vectors.certificate("home-1"), Vectors.certificate("vector-intermediate")])
        #expect(hello.hello?.remembered?.size == 7)
        #expect(hello.hello?.nonce.bytes == Array(0..<16))
        #expect(hello.position == nil)
        #expect(hello.formerCertificates.isEmpty)

        let envelope = try Envelope.decode(Vectors.message("receipts"))
        let receipts = try #require(envelope.receipts)
        #expect(envelope.subject?.auditor.rawValue == "spiffe://energy.example/auditor/home-1")
        #expect(receipts.stored.map(\.first) == [1, 5])
        #expect(receipts.stored.first?.lastID == MessageID(hashing: Vectors.message("statement")))
        #expect(receipts.refused.map(\.reason) == [.signature])
        #expect(receipts.newest?.sequence == 9)
        #expect(receipts.nonce == hello.hello?.nonce)
    }

    @Test("a hello may bring certificates that its signer has had before, at most 8", arguments: [0, 1, 2, 8, 9])
    func formerCertificates(_ count: Int) throws {
        let vector = try Envelope.decode(Vectors.message("hello-remembered"))
        let hello = try #require(vector.hello)
        let former = Array(repeating: Vectors.certificate("center-1"), count: count)
        func sign() throws -> SignedMessage {
            try hello.signed(
                issuedAt: vector.issuedAt, chain: vector.certificateChain, former: former,
                by: try Vectors.signer("home-1"))
        }
        guard count <= 8 else {
            #expect(throws: Refusal(.header, "")) { try sign() }
            return
        }
        let decoded = try Envelope.decode(sign().bytes)
        #expect(decoded.formerCertificates == former)
        #expect(decoded.certificateChain == vector.certificateChain)
    }

    @Test("say what they were made from: updates and alerts")
    func updatesAndAlerts() throws {
        let envelope = try Envelope.decode(Vectors.message("update"))
        let update = try #require(envelope.update)
        #expect(update.parameter == .sampleRate)
        #expect(update.value == ExactDecimal("0.2").map { .number($0) })
        #expect(update.unit == "s")
        #expect(update.nonce.bytes == Array(0..<16))
        #expect(update.batch?.bytes == Array(16..<32))
        #expect(envelope.sequence == 7)
        #expect(envelope.position == nil)
        #expect(envelope.expires == Timestamp(seconds: 1_767_225_600 + 3_600))
        #expect(envelope.audience?.rawValue == "spiffe://energy.example/auditor/home-1")
        #expect(envelope.isFor(try SPIFFEID("spiffe://energy.example/auditor/home-1")))
        #expect(!envelope.isFor(try SPIFFEID("spiffe://energy.example/auditor/home-2")))
        #expect(
            envelope.certificateChain == [Vectors.certificate("center-1"), Vectors.certificate("vector-intermediate")])
        #expect(try Envelope.decode(Vectors.message("update-texts")).update?.value == .texts(["m1", "inverter.2"]))

        let toAll = try Envelope.decode(Vectors.message("alert-to-all"))
        #expect(toAll.audience == nil)
        #expect(toAll.alert?.word.rawValue == "maintenance")
        #expect(toAll.alert?.isRaised == true)
        let over = try Envelope.decode(Vectors.message("alert-of-auditor"))
        #expect(over.issuerRole == .auditor)
        #expect(over.alert?.isRaised == false)
        #expect(over.alert?.text == "m1 is read again")
    }

    @Test("come out of our own encoder, byte for byte but the signature", arguments: Vectors.accepted)
    func encoder(_ vector: Vectors.Accepted) throws {
        // Labels that we never write.
        guard !["statement-unknown-labels", "statement-esp256", "receipts-log-proof"].contains(vector.name) else {
            return
        }
        let envelope = try Envelope.decode(hexBytes(vector.message) ?? [])
        let signer = try Vectors.signer(envelope.issuerRole == .controlCenter ? "center-1" : "home-1")
        let message: SignedMessage
        if let position = envelope.position, let clock = envelope.clock {
            let payload: Payload =
                switch envelope.kind {
                case .heartbeat: try .heartbeat(try #require(envelope.heartbeat), of: envelope.issuer.id)
                case .result: try .result(try #require(envelope.result), of: envelope.issuer.id)
                default: try .statement(Array(envelope.readings), of: envelope.issuer.id)
                }
            message = try payload.signed(at: position, clock: clock, issuedAt: envelope.issuedAt, by: signer)
        } else if let hello = envelope.hello {
            message = try hello.signed(
                issuedAt: envelope.issuedAt, chain: envelope.certificateChain, by: signer)
        } else if let update = envelope.update {
            message = try update.signed(
                for: try #require(envelope.audience), sequence: try #require(envelope.sequence),
                expires: try #require(envelope.expires), issuedAt: envelope.issuedAt,
                chain: envelope.certificateChain, by: signer)
        } else if let alert = envelope.alert {
            message = try alert.signed(
                for: envelope.audience, sequence: try #require(envelope.sequence),
                expires: try #require(envelope.expires), issuedAt: envelope.issuedAt, by: signer)
        } else {
            message = try #require(envelope.receipts).signed(
                about: try #require(envelope.subject), issuedAt: envelope.issuedAt, by: signer)
        }
        #expect(hexText(message.bytes.dropLast(64)) == String(vector.message.dropLast(128)))
        #expect(Vectors.verdict(message.bytes, topic: vector.topic) == nil)
    }
}

private func hexText(_ bytes: ArraySlice<UInt8>) -> String { TelemetryTests.hexText(Array(bytes)) }
