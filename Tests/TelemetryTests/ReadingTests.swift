import Crypto
import Foundation
import Identity
import Telemetry
import Testing

@Suite("Digits are kept")
struct ExactDecimalTests {
    @Test(
        "A number comes back as it was written",
        arguments: [
            "0.48200000000000004", "0.098", "100", "-0.5", "12345678.123456789", "0", "0.0", "0.30", "-1", "1.000",
            "9223372036854775807", "-9223372036854775807", "9.223372036854775807", "0.000000000000000001",
        ])
    func keepsDigits(_ text: String) throws {
        let value = try #require(ExactDecimal(text))
        #expect(value.description == text)
        let reading = try makeReading("m1", .consumption, value.description)
        let payload = try Payload.statement([reading], of: try Identifier("home-1"))
        #expect(Array(payload.readings).first?.value?.description == text)
    }

    @Test("What is not kept does not change the value", arguments: [("+5", "5"), ("007.50", "7.50"), ("-0.0", "0.0")])
    func normalises(_ text: String, _ written: String) {
        #expect(ExactDecimal(text)?.description == written)
    }

    @Test(
        "What is no such number is refused",
        arguments: [
            "", "-", "+", ".", ".5", "5.", "1e3", "0x10", " 1", "1 ", "1,5", "1.2.3", "--1", "٣", "NaN", "inf",
            "9223372036854775808", "-9223372036854775808", "0.0000000000000000001", "99999999999999999999",
        ])
    func refuses(_ text: String) {
        #expect(ExactDecimal(text) == nil)
    }

    @Test("Mantissa and exponent are held to their ranges")
    func checksRanges() {
        #expect(ExactDecimal(mantissa: .min, exponent: 0) == nil)
        #expect(ExactDecimal(mantissa: 1, exponent: -19) == nil)
        #expect(ExactDecimal(mantissa: 1, exponent: 1) == nil)
        #expect(ExactDecimal(mantissa: -5, exponent: -2)?.description == "-0.05")
    }

    @Test("Digits tell numbers apart, values compare them")
    func compares() throws {
        let short = try #require(ExactDecimal("0.3"))
        let long = try #require(ExactDecimal("0.300"))
        #expect(short != long)
        #expect(short.isNumericallyEqual(to: long))
        #expect(long.approximation == 0.3)
    }
}

@Suite("Moments")
struct TimestampTests {
    @Test(
        "are written by RFC 3339",
        arguments: [
            (Int64(0), "1970-01-01T00:00:00Z"), (1_767_225_600_000_000_000, "2026-01-01T00:00:00Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"), (1_709_251_199_500_000_000, "2024-02-29T23:59:59.5Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"), (Int64.max, "2262-04-11T23:47:16.854775807Z"),
        ])
    func description(_ nanoseconds: Int64, _ text: String) {
        #expect(Timestamp(nanoseconds: nanoseconds).description == text)
    }

    @Test("round their seconds down")
    func seconds() {
        #expect(Timestamp(nanoseconds: -1).seconds == -1)
        #expect(Timestamp(nanoseconds: 1_999_999_999).seconds == 1)
    }
}

@Suite("Statements of readings")
struct PayloadTests {
    let home: Identifier

    init() throws { self.home = try Identifier("home-1") }

    @Test("Readings come back as they were, whatever their meters, times and qualities")
    func roundTrip() throws {
        let readings = [
            try makeReading("m1"),
            try makeReading("m2", .production, nanoseconds: 1, interval: 1, "0.098"),
            try makeReading("m1", .powerProduced, unit: .watt, nanoseconds: 123_456_789, interval: nil, "-3"),
            try makeReading(
                "m1", .consumptionTotal, part: Part(tariff: 99) ?? .whole, at: 1_767_225_601, interval: nil),
            try makeReading("m2", .voltage, part: .line3, unit: .volt, at: 1_767_225_601, nil, quality: .missing),
        ]
        let payload = try Payload.statement(readings, of: self.home)
        #expect(Array(payload.readings) == readings)
        #expect(payload.readings.count == 5)
        #expect(try Payload(kind: .statement, checking: payload.bytes, auditor: self.home) == payload)
    }

    @Test("Times before the base and with 9 digits are read")
    func relativeTimes() throws {
        // [{0: "power", 1: "W", 2: 1, 6: -10, -1: 26, -2: "home-1/m/", -3: 2^28 + 10}]
        let hex = "81a70065706f77657201615702010629" + "20181a" + "2169686f6d652d312f6d2f" + "221a1000000a"
        let payload = try Payload(kind: .statement, checking: hexBytes(hex) ?? [], auditor: self.home)
        #expect(Array(payload.readings).first?.time == Timestamp(seconds: 1 << 28))
        let below = hex.replacingOccurrences(of: "1a1000000a", with: "1a10000009")
        #expect(throws: Refusal(.format, "")) {
            _ = try Payload(kind: .statement, checking: hexBytes(below) ?? [], auditor: self.home)
        }
    }

    @Test("Another auditor's readings are not taken")
    func otherAuditor() throws {
        let payload = try Payload.statement([try makeReading()], of: try Identifier("home-2"))
        #expect(throws: Refusal(.format, "")) {
            _ = try Payload(kind: .statement, checking: payload.bytes, auditor: self.home)
        }
        let position = StreamPosition(stream: StreamID(rawValue: 1), sequence: 1, previous: .zero)
        #expect(throws: Refusal(.issuer, "")) {
            _ = try payload.signed(
                at: position, clock: .synchronised, issuedAt: Timestamp(seconds: 0), by: try Vectors.signer("home-1"))
        }
    }

    @Test("Readings that break a rule are not encoded")
    func flaws() throws {
        let flawed = [
            try makeReading(unit: .watt), try makeReading(interval: nil), try makeReading(interval: 0),
            try makeReading(interval: Reading.maximumInterval + 1), try makeReading(interval: -1),
            try makeReading("m1", .consumptionTotal), try makeReading("m1", .consumption, nil),
            try makeReading(quality: .missing),
            try makeReading("m1", .voltage, part: Part(tariff: 1) ?? .whole, unit: .volt),
            try makeReading(at: (1 << 28) - 1), try makeReading(at: 1 << 33),
        ]
        for reading in flawed {
            #expect(reading.flaw != nil)
            #expect(throws: Refusal(.format, "")) { _ = try Payload.statement([reading], of: self.home) }
        }
        #expect(throws: Refusal(.format, "")) { _ = try Payload.statement([Reading](), of: self.home) }
        #expect(throws: Refusal(.format, "")) {
            _ = try Payload.statement([try makeReading(at: 1_767_225_601), try makeReading()], of: self.home)
        }
    }

    @Test("Too many readings are split, in the order of time, and none is lost")
    func splits() throws {
        var readings: [Reading] = []
        for index in 0..<3_000 {
            readings.append(
                try makeReading(index.isMultiple(of: 2) ? "m1" : "m2", at: 1_767_225_600 + Int64(3_000 - index)))
        }
        let payloads = try Payload.statements(readings, of: self.home)
        #expect(payloads.count >= 3)
        #expect(payloads.allSatisfy { $0.bytes.count <= Payload.maximumSize })
        #expect(payloads.flatMap { Array($0.readings) } == readings.reversed())
        #expect(try Payload.statements([], of: self.home).isEmpty)
    }

    @Test("The largest statement fits into a message")
    func largest() throws {
        let long = try Identifier(String(repeating: "x", count: 64))
        let meters = ["a", "b"].map { $0 + String(repeating: "m", count: 31) }
        let readings: [Reading] = try (0..<1_024).map { index in
            try makeReading(
                meters[index % 2], .powerProduced, part: .line1, unit: .kilowatt,
                nanoseconds: Int64(index), interval: 999_999_999, "-0.48200000000000004", quality: .estimated)
        }
        let payloads = try Payload.statements(readings, of: long)
        #expect(payloads.count > 1)
        let domain = Array(repeating: String(repeating: "d", count: 62), count: 4).joined(separator: ".")
        let signer = KeySigner(
            issuer: try SPIFFEID("spiffe://\(domain)/auditor/\(long)"), certificateHash: CertificateHash(hashing: []),
            key: .init())
        let position = StreamPosition(
            stream: StreamID(rawValue: 1), sequence: StreamPosition.maximumSequence, previous: .zero)
        for payload in payloads {
            let message = try payload.signed(
                at: StreamPosition(stream: position.stream, sequence: 1, previous: .zero), clock: .unknown,
                issuedAt: Timestamp(seconds: 1 << 32), by: signer)
            #expect(message.bytes.count <= Envelope.maximumSize)
            #expect(try Envelope.decode(message.bytes).id == message.id)
        }
    }
}

@Suite("Names on the wire")
struct NameTests {
    @Test("Quantities and units are read as they are written", arguments: Quantity.allCases)
    func quantities(_ quantity: Quantity) {
        #expect(Quantity(quantity.description) == quantity)
        for unit in Telemetry.Unit.allCases { #expect(Telemetry.Unit(unit.description) == unit) }
    }

    @Test("Parts are read as they are written", arguments: ["", "l1", "l2", "l3", "t1", "t9", "t10", "t99"])
    func parts(_ suffix: String) throws {
        let part = try #require(Part(suffix))
        #expect(part.description == suffix)
        #expect(Part(rawValue: part.rawValue) == part)
    }

    @Test("Other parts are none", arguments: ["l0", "l4", "t0", "t100", "t01", "l", "t", "x1", "l1 ", "1"])
    func notParts(_ suffix: String) {
        #expect(Part(suffix) == nil)
    }

    @Test("Reason words are read as they are written", arguments: Reason.all)
    func reasons(_ reason: Reason) {
        #expect(Reason(reason.rawValue) == reason)
        #expect(reason.isForGood == ![Reason.duplicate, .busy, .certificateUnknown].contains(reason))
    }

    @Test("Ids are read as they are written")
    func ids() {
        let id = MessageID(hashing: [1, 2, 3])
        #expect(MessageID(hexadecimal: id.description) == id)
        #expect(MessageID(id.bytes) == id)
        #expect(MessageID(hexadecimal: "zz") == nil)
        #expect(MessageID([1]) == nil)
        #expect(MessageID.zero.bytes == [UInt8](repeating: 0, count: 32))
        // RFC 9162 section 2.1.1: the hash of a leaf without data.
        #expect(
            MessageID(hashing: []).description == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d")
        let stream = StreamID(rawValue: 0x0123_4567_89AB_CDEF)
        #expect(stream.description == "0123456789abcdef")
        #expect(StreamID(hexadecimal: "0123456789abcdef") == stream)
        #expect(StreamID(stream.bytes) == stream)
        #expect(StreamID(hexadecimal: "0123456789ABCDEF") == nil)
    }

    @Test(
        "SPIFFE IDs in messages are held to the rules of identities",
        arguments: [
            "spiffe://energy.example/auditor/home-1", "spiffe://a.b/auditor/x", "spiffe://a-b.c-d.e/operator/A.b_c-d",
            "spiffe://energy.example/auditor/", "spiffe://energy.example/auditor/-x",
            "spiffe://energy.example/auditor/x/y",
            "spiffe://energy/auditor/x", "spiffe://Energy.example/auditor/x", "spiffe://-a.b/auditor/x",
            "spiffe://a-.b/auditor/x", "spiffe://a..b/auditor/x", "spiffe://a.b./auditor/x", "spiffe:///auditor/x",
            "spiffe://a.b/auditors/x", "spiffe://a.b/auditor/all", "spiffe://a.b/auditor/All",
            "spiffe://a.b/auditor/allx", "spiffe://a.b", "http://a.b/auditor/x", "",
            "spiffe://a.b/auditor/" + String(repeating: "x", count: 64),
            "spiffe://a.b/auditor/" + String(repeating: "x", count: 65),
            "spiffe://" + String(repeating: "d", count: 63) + ".b/auditor/x",
            "spiffe://" + String(repeating: "d", count: 64) + ".b/auditor/x",
        ])
    func spiffeIDs(_ text: String) throws {
        // The issuer of a valid statement replaced; the payload's name follows, so that nothing else is wrong.
        let expected = try? SPIFFEID(text)
        let found: SPIFFEID?
        do throws(Refusal) {
            found = try Envelope.decode(statementClaiming(text)).issuer
        } catch {
            #expect(error.reason == .header, "\(error)")
            found = nil
        }
        #expect(found == expected)
    }
}
