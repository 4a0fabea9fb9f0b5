import COSE
import Crypto
import Identity
import Telemetry

/// Reads bytes as one item of CBOR, and as a COSE_Sign1.
///
/// Traps if the strict reader takes what the lenient one does not, or reads past the end.
public func fuzzCBOR(_ bytes: [UInt8]) {
    var reader = CBORReader(bytes)
    if (try? reader.skip()) != nil {
        precondition(reader.position <= bytes.count, "read past the end")
        precondition(
            CBORReader.isWellFormed(bytes, in: 0..<reader.position), "taken strictly, but not well-formed")
    }
    if let message = try? Sign1(bytes) {
        precondition(message.bytes == bytes && message.payload.upperBound + 66 == bytes.count, "bytes left over")
        let remade = Sign1.withLowS(Array(bytes[message.signature]))
        precondition(remade == Array(bytes[message.signature]), "a high s was taken")
    }
}

/// Decodes bytes as a message of ours and reads all that it says.
///
/// Traps if something that decoding has checked cannot be read afterwards.
public func fuzzEnvelope(_ bytes: [UInt8]) {
    guard let envelope = try? Envelope.decode(bytes) else { return }
    precondition(envelope.bytes == bytes && envelope.id == MessageID(hashing: bytes), "other bytes")
    precondition(envelope.isIssued(by: envelope.issuer), "the issuer reads differently")
    switch envelope.kind {
    case .statement: precondition(Array(envelope.readings).count == envelope.readingCount, "readings are lost")
    case .heartbeat: precondition(envelope.heartbeat != nil, "no heartbeat")
    case .result: precondition(envelope.result != nil, "no result")
    case .hello: precondition(envelope.hello != nil && envelope.certificateChain.count >= 2, "no hello")
    case .receipts: precondition(envelope.receipts != nil && envelope.subject != nil, "no receipts")
    case .update:
        precondition(envelope.update != nil && envelope.certificateChain.count >= 2, "no update")
        precondition(envelope.audience.map(envelope.isFor) == true, "an update for nobody")
    case .alert: precondition(envelope.alert != nil, "no alert")
    }
    let isNumbered = envelope.kind != .hello && envelope.kind != .receipts
    precondition(isNumbered == (envelope.sequence != nil), "no number")
    precondition((envelope.expires != nil) == (envelope.kind == .update || envelope.kind == .alert), "no end")
    if let value = envelope.update?.value {
        precondition(ParameterValue(encoded: value.encoded) == value, "a value reads differently")
        if let parameter = envelope.update?.parameter, let definition = ParameterDefinition.named(parameter) {
            try? definition.check(value, unit: envelope.update?.unit)
        }
    }
    precondition(envelope.kind.isInStream == (envelope.position != nil), "no position")
    precondition((envelope.payload != nil) == envelope.kind.isInStream, "no payload")
}

/// Reads bytes as the payload of a statement of `home-1`.
///
/// Traps if readings that were taken cannot be encoded again, or come back changed.
public func fuzzSenML(_ bytes: [UInt8]) {
    guard let auditor = try? Identifier("home-1"),
        let payload = try? Payload(kind: .statement, checking: bytes, auditor: auditor)
    else { return }
    let readings = Array(payload.readings)
    guard let again = try? Payload.statement(readings, of: auditor) else {
        preconditionFailure("readings cannot be encoded again")
    }
    precondition(Array(again.readings) == readings, "readings come back changed")
}

extension FuzzTarget {
    /// CBOR and COSE_Sign1, messages, packs of readings.
    public static let telemetry: [FuzzTarget] = {
        // Without samples there is nothing to begin from, and the test that counts seeds says so.
        guard let samples = try? TelemetrySamples() else { return [] }
        return [
            FuzzTarget("CBOR", seeds: samples.messages + [samples.pack], run: fuzzCBOR),
            FuzzTarget("Envelope", seeds: samples.messages, run: fuzzEnvelope),
            FuzzTarget("SenML", seeds: [samples.pack], run: fuzzSenML),
        ]
    }()
}

/// A message of every kind.
private struct TelemetrySamples {
    let messages: [[UInt8]]
    let pack: [UInt8]

    init() throws {
        let home = try SPIFFEID("spiffe://energy.example/auditor/home-1")
        let center = try SPIFFEID("spiffe://energy.example/control-center/center-1")
        let certificate: [UInt8] = Array("not really a certificate".utf8)
        let key = P256.Signing.PrivateKey(compactRepresentable: false)
        let auditor = KeySigner(issuer: home, certificateHash: CertificateHash(hashing: certificate), key: key)
        let controlCenter = KeySigner(
            issuer: center, certificateHash: CertificateHash(hashing: certificate), key: key)
        let now = Timestamp(seconds: 1_767_225_600)
        let stream = StreamID(rawValue: 0x0123_4567_89AB_CDEF)
        let position = StreamPosition(stream: stream, sequence: 1, previous: .zero)
        var generator = SystemRandomNumberGenerator()
        let nonce = Nonce(using: &generator)
        let meters = [try MeterName("m1"), try MeterName("inverter.2")]
        let readings = meters.flatMap { meter in
            Quantity.allCases.enumerated().map { index, quantity in
                Reading(
                    meter: meter, quantity: quantity, part: index == 7 ? .line2 : .whole,
                    unit: Unit.allCases.first { quantity.allows($0) } ?? .watt,
                    time: now.advanced(byNanoseconds: meter == meters[0] ? 0 : 1_500_000_000),
                    interval: quantity.kind == .energy ? 900_000_000_000 : nil,
                    value: index == 9 ? nil : ExactDecimal(mantissa: 48_200, exponent: -index),
                    quality: index == 9 ? .missing : .good)
            }
        }
        let statement = try Payload.statement(readings, of: home.id)
        self.pack = statement.bytes
        let heartbeat = Heartbeat(
            outboxCount: 3, oldestUnsent: now, deadLetters: 1,
            meters: meters.map { Heartbeat.MeterState(meter: $0, lastReading: now, failedReads: 2) })
        let result = UpdateResult(
            update: MessageID(hashing: []), isApplied: false, reason: "out of bounds", value: .texts(["a", "b"]))
        let hello = Hello(
            stream: stream, lastSequence: 1, lastID: MessageID(hashing: [1]), nonce: nonce,
            remembered: Hello.RememberedLog(log: "log.energy.example", size: 7, root: MessageID(hashing: [2])),
            clock: .synchronised)
        let receipts = Receipts(
            stored: [Receipts.StoredRange(first: 1, last: 300, lastID: MessageID(hashing: [3]))],
            refused: [Receipts.RefusedMessage(sequence: 301, id: MessageID(hashing: [4]), reason: .fork)],
            newest: Receipts.StreamHead(sequence: 300, id: MessageID(hashing: [3])), nonce: nonce)
        var messages = try [
            statement, Payload.heartbeat(heartbeat, of: home.id), Payload.result(result, of: home.id),
        ].map { try $0.signed(at: position, clock: .relative, issuedAt: now, by: auditor).bytes }
        messages.append(try hello.signed(issuedAt: now, chain: [certificate, certificate], by: auditor).bytes)
        messages.append(
            try receipts.signed(
                about: StreamName(auditor: home, stream: stream), issuedAt: now, by: controlCenter
            ).bytes)
        let update = Update(
            parameter: .sampleRate, value: .texts(["0.2", "x"]), unit: "s", nonce: nonce,
            batch: Nonce(using: &generator))
        messages.append(
            try update.signed(
                for: home, sequence: 7, expires: now, issuedAt: now, chain: [certificate, certificate],
                by: controlCenter
            ).bytes)
        let alert = Alert(.busy, "the disk is filling")
        messages.append(try alert.signed(sequence: 8, expires: now, issuedAt: now, by: auditor).bytes)
        self.messages = messages
    }
}
