import Identity
import MQTT
import MQTTBroker
import NIOCore
import TestSupport
import Testing

/// Both standards' rules, byte by byte over a socket: what is sent, and what must come back.
struct ConformanceTests {
    enum Answer: Sendable {
        /// Exactly these bytes; the connection stays.
        case bytes(String)
        /// 5.0: a DISCONNECT with this code, then the end. 3.1.1: the end.
        case disconnect(UInt8)
        /// 5.0: a CONNACK with this code, then the end.
        case connAck(UInt8)
        /// These bytes, then the end.
        case last(String)
        /// Nothing, and the end.
        case end
    }

    /// One step of a conversation.
    struct Step: Sendable {
        let send: String
        let answer: Answer

        init(_ send: String, _ answer: Answer) {
            self.send = send
            self.answer = answer
        }
    }

    /// A conversation that begins with a good CONNECT, unless it is about CONNECT.
    struct Rule: Sendable, CustomTestStringConvertible {
        let name: String
        let version: ProtocolVersion?
        let steps: [Step]

        var testDescription: String { self.name }

        init(_ name: String, _ version: ProtocolVersion?, _ steps: Step...) {
            self.name = name
            self.version = version
            self.steps = steps
        }
    }

    private static let connect5 = Step(
        "10 0E 0004 4D515454 05 02 003C 00 0001 61",
        .bytes("20 0E 00 00 0B 21 0100 27 00020000 22 0020"))
    private static let connect3 = Step("10 0D 0004 4D515454 04 02 003C 0001 61", .bytes("20 02 00 00"))

    private static let violations: [Rule] = [
        Rule("reserved flags of PINGREQ", .v5_0, Step("C1 00", .disconnect(0x81))),
        Rule("reserved flags of PINGREQ, 3.1.1", .v3_1_1, Step("C1 00", .disconnect(0x81))),
        Rule("a second CONNECT", .v5_0, Step("10 0E 0004 4D515454 05 02 003C 00 0001 61", .disconnect(0x82))),
        Rule("a second CONNECT, 3.1.1", .v3_1_1, Step("10 0D 0004 4D515454 04 02 003C 0001 61", .disconnect(0x82))),
        Rule("PUBREL without its flag", .v5_0, Step("60 02 0001", .disconnect(0x81))),
        Rule("SUBSCRIBE without its flag", .v5_0, Step("80 07 0001 00 0001 61 00", .disconnect(0x81))),
        Rule("UNSUBSCRIBE without its flag", .v5_0, Step("A0 06 0001 00 0001 61", .disconnect(0x81))),
        Rule("DISCONNECT with flags", .v5_0, Step("E1 00", .disconnect(0x81))),
        Rule("DISCONNECT with flags, 3.1.1", .v3_1_1, Step("E1 00", .disconnect(0x81))),
        Rule("AUTH with flags", .v5_0, Step("F1 00", .disconnect(0x81))),
        Rule("AUTH without an authentication method", .v5_0, Step("F0 00", .disconnect(0x82))),
        Rule("AUTH in 3.1.1", .v3_1_1, Step("F0 00", .disconnect(0x82))),
        Rule("packet type 0", .v5_0, Step("00 00", .disconnect(0x81))),
        Rule("CONNACK from a client", .v5_0, Step("20 03 00 00 00", .disconnect(0x82))),
        Rule("SUBACK from a client", .v5_0, Step("90 04 0001 00 00", .disconnect(0x82))),
        Rule("PINGRESP from a client", .v5_0, Step("D0 00", .disconnect(0x82))),
        Rule("QoS 3", .v5_0, Step("36 06 0001 61 0001 00", .disconnect(0x81))),
        Rule("QoS 3, 3.1.1", .v3_1_1, Step("36 05 0001 61 0001", .disconnect(0x81))),
        Rule("DUP at QoS 0", .v5_0, Step("38 04 0001 61 00", .disconnect(0x81))),
        Rule("packet identifier 0", .v5_0, Step("32 06 0001 61 0000 00", .disconnect(0x82))),
        Rule("packet identifier 0 of SUBSCRIBE", .v5_0, Step("82 07 0000 00 0001 61 00", .disconnect(0x82))),
        Rule("an empty topic without alias", .v5_0, Step("30 03 0000 00", .disconnect(0x82))),
        Rule("an empty topic, 3.1.1", .v3_1_1, Step("30 02 0000", .disconnect(0x82))),
        Rule("a wildcard in a topic", .v5_0, Step("30 04 0001 23 00", .disconnect(0x90))),
        Rule("a wildcard in a topic, 3.1.1", .v3_1_1, Step("30 03 0001 2B", .disconnect(0x90))),
        Rule("a wildcard in a response topic", .v5_0, Step("30 08 0001 61 04 08 0001 2B", .disconnect(0x90))),
        Rule("topic alias 0", .v5_0, Step("30 07 0001 61 03 23 0000", .disconnect(0x94))),
        Rule("a topic alias above the maximum", .v5_0, Step("30 07 0001 61 03 23 0021", .disconnect(0x94))),
        Rule("a topic alias that stands for nothing", .v5_0, Step("30 06 0000 03 23 0001", .disconnect(0x82))),
        Rule("a subscription identifier in a PUBLISH", .v5_0, Step("30 06 0001 61 02 0B01", .disconnect(0x82))),
        Rule("a property twice", .v5_0, Step("30 08 0001 61 04 0101 0101", .disconnect(0x82))),
        Rule("a property that does not belong there", .v5_0, Step("30 07 0001 61 03 21 0001", .disconnect(0x81))),
        Rule("a property that does not exist", .v5_0, Step("30 06 0001 61 02 7F00", .disconnect(0x81))),
        Rule("a topic that is not UTF-8", .v5_0, Step("30 05 0002 C328 00", .disconnect(0x81))),
        Rule("a surrogate in a topic", .v5_0, Step("30 06 0003 EDA080 00", .disconnect(0x81))),
        Rule("U+0000 in a topic", .v5_0, Step("30 04 0001 00 00", .disconnect(0x81))),
        Rule("U+0000 in a topic, 3.1.1", .v3_1_1, Step("30 03 0001 00", .disconnect(0x81))),
        Rule("a length with a byte too many", .v5_0, Step("30 8400 0001 61 00", .disconnect(0x81))),
        Rule("a length of five bytes", .v5_0, Step("30 FFFFFFFF01", .disconnect(0x81))),
        Rule("a packet above the maximum", .v5_0, Step("30 FFFF7F", .disconnect(0x95))),
        Rule("SUBSCRIBE to nothing", .v5_0, Step("82 03 0001 00", .disconnect(0x82))),
        Rule("SUBSCRIBE to nothing, 3.1.1", .v3_1_1, Step("82 02 0001", .disconnect(0x82))),
        Rule("UNSUBSCRIBE from nothing", .v5_0, Step("A2 03 0001 00", .disconnect(0x82))),
        Rule("reserved bits of subscription options", .v5_0, Step("82 07 0001 00 0001 61 40", .disconnect(0x81))),
        Rule("reserved bits of subscription options, 3.1.1", .v3_1_1, Step("82 06 0001 0001 61 04", .disconnect(0x81))),
        Rule("a subscription of QoS 3", .v5_0, Step("82 07 0001 00 0001 61 03", .disconnect(0x82))),
        Rule("a subscription of QoS 3, 3.1.1", .v3_1_1, Step("82 06 0001 0001 61 03", .disconnect(0x82))),
        Rule("Retain Handling 3", .v5_0, Step("82 07 0001 00 0001 61 30", .disconnect(0x82))),
        Rule(
            "No Local on a shared subscription", .v5_0,
            Step("82 10 0001 00 000A 24736861726 52F672F61 04", .disconnect(0x82))),
        Rule("a share without a name", .v5_0, Step("82 0F 0001 00 0009 2473686172652F2F61 00", .disconnect(0x8F))),
        Rule("a share without a filter", .v5_0, Step("82 0E 0001 00 0008 2473686172652F67 00", .disconnect(0x8F))),
        Rule("'#' within a level", .v5_0, Step("82 08 0001 00 0002 6123 00", .disconnect(0x8F))),
        Rule("'#' before the end", .v5_0, Step("82 09 0001 00 0003 232F61 00", .disconnect(0x8F))),
        Rule("'+' within a level", .v5_0, Step("82 08 0001 00 0002 2B61 00", .disconnect(0x8F))),
        Rule("an empty filter", .v5_0, Step("82 06 0001 00 0000 00", .disconnect(0x8F))),
        Rule("subscription identifier 0", .v5_0, Step("82 09 0001 02 0B00 0001 61 00", .disconnect(0x82))),
        Rule("a reason code that PUBACK has not", .v5_0, Step("40 03 0001 05", .disconnect(0x81))),
        Rule("a reason code that DISCONNECT has not", .v5_0, Step("E0 01 8B", .disconnect(0x81))),
        Rule("a session that gets its expiry at the end", .v5_0, Step("E0 07 00 05 11 00000009", .disconnect(0x82))),
        Rule("a client's Server Reference", .v5_0, Step("E0 06 00 04 1C 0001 61", .disconnect(0x82))),
        Rule("bytes behind the end", .v5_0, Step("C0 01 00", .disconnect(0x81))),
    ]

    private static let exchanges: [Rule] = [
        Rule("PINGREQ", .v5_0, Step("C0 00", .bytes("D0 00"))),
        Rule("PINGREQ, 3.1.1", .v3_1_1, Step("C0 00", .bytes("D0 00"))),
        Rule("PUBACK carries no reason when it is success", .v5_0, Step("32 06 0001 61 0001 00", .bytes("40 02 0001"))),
        Rule("PUBACK, 3.1.1", .v3_1_1, Step("32 05 0001 61 0001", .bytes("40 02 0001"))),
        Rule(
            "QoS 2 goes its steps, and the identifier is free again behind them", .v5_0,
            Step("34 06 0001 61 0002 00", .bytes("50 02 0002")), Step("3C 06 0001 61 0002 00", .bytes("50 02 0002")),
            Step("62 02 0002", .bytes("70 02 0002")), Step("62 02 0002", .bytes("70 03 0002 92")),
            Step("34 06 0001 61 0002 00", .bytes("50 02 0002"))),
        Rule(
            "QoS 2, 3.1.1", .v3_1_1, Step("34 05 0001 61 0002", .bytes("50 02 0002")),
            Step("62 02 0002", .bytes("70 02 0002")), Step("62 02 0002", .bytes("70 02 0002"))),
        Rule("PUBREC for nothing", .v5_0, Step("50 02 0007", .bytes("62 03 0007 92"))),
        Rule("PUBREC for nothing, 3.1.1", .v3_1_1, Step("50 02 0007", .bytes("62 02 0007"))),
        Rule(
            "each filter has its code, in the order of the filters", .v5_0,
            Step("82 0F 0005 00 0001 61 02 0001 62 01 0001 63 00", .bytes("90 06 0005 00 02 01 00"))),
        Rule(
            "each filter has its code, 3.1.1", .v3_1_1,
            Step("82 0A 0005 0001 61 02 0001 62 00", .bytes("90 04 0005 02 00"))),
        Rule(
            "what is unsubscribed is told from what never was", .v5_0,
            Step("82 07 0001 00 0001 61 00", .bytes("90 04 0001 00 00")),
            Step("A2 09 0006 00 0001 61 0001 7A", .bytes("B0 05 0006 00 00 11"))),
        Rule("UNSUBACK, 3.1.1", .v3_1_1, Step("A2 05 0006 0001 7A", .bytes("B0 02 0006"))),
        Rule(
            "our packet identifiers count from 1", .v5_0,
            Step("82 07 0001 00 0001 61 01", .bytes("90 04 0001 00 01")),
            Step("32 07 0001 61 0009 00 78", .bytes("32 07 0001 61 0001 00 78 40 02 0009")),
            Step("40 02 0001", .bytes("")),
            Step("32 07 0001 61 0009 00 78", .bytes("32 07 0001 61 0002 00 78 40 02 0009"))),
        Rule(
            "PUBREC goes before the message to the same client", .v5_0,
            Step("82 07 0001 00 0001 61 02", .bytes("90 04 0001 00 02")),
            Step("34 07 0001 61 0009 00 78", .bytes("50 02 0009 34 07 0001 61 0001 00 78")),
            Step("50 02 0001", .bytes("62 02 0001")), Step("70 02 0001", .bytes("")), Step("C0 00", .bytes("D0 00"))),
        Rule(
            "SUBACK goes before what is retained, which has the RETAIN flag", .v5_0,
            Step("31 05 0001 61 00 6B", .bytes("")),
            Step("82 07 0001 00 0001 61 00", .bytes("90 04 0001 00 00 31 05 0001 61 00 6B"))),
        Rule(
            "what is forwarded has it not, unless Retain As Published", .v5_0,
            Step("82 07 0001 00 0001 61 00", .bytes("90 04 0001 00 00")),
            Step("31 05 0001 61 00 6B", .bytes("30 05 0001 61 00 6B")),
            Step("82 07 0001 00 0001 61 28", .bytes("90 04 0001 00 00")),
            Step("31 05 0001 61 00 6C", .bytes("31 05 0001 61 00 6C"))),
        Rule(
            "user properties keep their order, and the rest its values", .v5_0,
            Step("82 09 0001 02 0B07 0001 61 00", .bytes("90 04 0001 00 00")),
            Step(
                "30 22 0001 61 1D 0101 030001 74 080001 72 090002 0102 26000162000131 26000161000132 78",
                .bytes("30 24 0001 61 1F 0101 030001 74 080001 72 090002 0102 26000162000131 26000161000132 0B07 78"))),
        Rule(
            "a filter with a wildcard at its beginning matches no topic with '$'", .v5_0,
            Step("82 0B 0001 00 0001 23 00 0001 2B 00", .bytes("90 05 0001 00 00 00")),
            Step("30 06 0002 2461 00 78", .bytes("")), Step("30 05 0001 61 00 78", .bytes("30 05 0001 61 00 78"))),
        Rule(
            "U+FEFF stays where it is", .v5_0, Step("82 09 0001 00 0003 EFBBBF 00", .bytes("90 04 0001 00 00")),
            Step("30 07 0003 EFBBBF 00 78", .bytes("30 07 0003 EFBBBF 00 78"))),
        Rule("DISCONNECT", .v5_0, Step("E0 00", .end)),
        Rule("DISCONNECT, 3.1.1", .v3_1_1, Step("E0 00", .end)),
    ]

    private static let connects: [Rule] = [
        Rule("something before CONNECT", nil, Step("C0 00", .end)),
        Rule("AUTH before CONNECT", nil, Step("F0 00", .end)),
        Rule("protocol level 6", nil, Step("10 0D 0004 4D515454 06 02 003C 0001 61", .connAck(0x84))),
        Rule("a bridge of 3.1.1", nil, Step("10 0D 0004 4D515454 84 02 003C 0001 61", .last("20 02 00 01"))),
        Rule("MQTX of level 5", nil, Step("10 0D 0004 4D515458 05 02 003C 0001 61", .connAck(0x84))),
        Rule("MQIsdp", nil, Step("10 0F 0006 4D5149736470 03 02 003C 0001 61", .last("20 02 00 01"))),
        Rule("the reserved flag", nil, Step("10 0E 0004 4D515454 05 03 003C 00 0001 61", .connAck(0x81))),
        Rule("the reserved flag, 3.1.1", nil, Step("10 0D 0004 4D515454 04 03 003C 0001 61", .end)),
        Rule(
            "a will of QoS 3", nil, Step("10 15 0004 4D515454 05 1E 003C 00 0001 61 00 0001 77 0001 78", .connAck(0x81))
        ),
        Rule("a will's QoS without a will", nil, Step("10 0E 0004 4D515454 05 0A 003C 00 0001 61", .connAck(0x81))),
        Rule("a retained will without a will", nil, Step("10 0D 0004 4D515454 04 22 003C 0001 61", .end)),
        Rule("a will that is not there", nil, Step("10 0E 0004 4D515454 05 06 003C 00 0001 61", .connAck(0x81))),
        Rule(
            "a will's topic with a wildcard", nil,
            Step("10 15 0004 4D515454 05 06 003C 00 0001 61 00 0001 23 0001 78", .connAck(0x90))),
        Rule("a user name that is not there", nil, Step("10 0E 0004 4D515454 05 82 003C 00 0001 61", .connAck(0x81))),
        Rule("a password that is not there", nil, Step("10 0E 0004 4D515454 05 42 003C 00 0001 61", .connAck(0x81))),
        Rule("a password alone, 3.1.1", nil, Step("10 10 0004 4D515454 04 42 003C 0001 61 0001 70", .end)),
        Rule(
            "a password alone", nil,
            Step(
                "10 11 0004 4D515454 05 42 003C 00 0001 61 0001 70",
                .bytes("20 0E 00 00 0B 21 0100 27 00020000 22 0020"))),
        Rule("no client identifier", nil, Step("10 0B 0004 4D515454 05 02 003C 00", .connAck(0x81))),
        Rule(
            "a client identifier that is not UTF-8", nil,
            Step("10 0E 0004 4D515454 05 02 003C 00 0001 FF", .connAck(0x81))),
        Rule(
            "an empty client identifier without a clean session", nil,
            Step("10 0C 0004 4D515454 04 00 003C 0000", .last("20 02 00 02"))),
        Rule(
            "an empty client identifier, 3.1.1", nil, Step("10 0C 0004 4D515454 04 02 003C 0000", .bytes("20 02 00 00"))
        ),
        Rule("Receive Maximum 0", nil, Step("10 11 0004 4D515454 05 02 003C 03 21 0000 0001 61", .connAck(0x82))),
        Rule(
            "Maximum Packet Size 0", nil, Step("10 13 0004 4D515454 05 02 003C 05 27 00000000 0001 61", .connAck(0x82))),
        Rule(
            "an authentication method", nil,
            Step("10 12 0004 4D515454 05 02 003C 04 15 0001 6D 0001 61", .connAck(0x8C))),
        Rule(
            "authentication data without a method", nil,
            Step("10 12 0004 4D515454 05 02 003C 04 16 0001 6D 0001 61", .connAck(0x82))),
        Rule(
            "what comes behind a refused CONNECT is not looked at", nil,
            Step("10 0C 0004 4D515454 04 00 003C 0000 30 03 0001 61", .last("20 02 00 02"))),
    ]

    @Test(
        "A violation of the protocol ends the connection with the reason that the standard has for it",
        arguments: Self.violations)
    func violation(rule: Rule) async throws { try await Self.check(rule) }

    @Test("What is allowed is answered byte for byte", arguments: Self.exchanges)
    func exchange(rule: Rule) async throws { try await Self.check(rule) }

    @Test("CONNECT is accepted or refused as both standards say", arguments: Self.connects)
    func connect(rule: Rule) async throws { try await Self.check(rule) }

    private static func check(_ rule: Rule) async throws {
        let everybody = try peer(.operator, "everybody")
        let configuration = BrokerConfiguration(
            listeners: [.plaintextOnLoopback(port: 0) { _ in everybody }], authorizer: Permissive())
        try await TestBroker.with(configuration) { broker in
            let client = try await ByteClient.connect(port: broker.port)
            let greeting: [Step] =
                switch rule.version {
                case .v5_0?: [Self.connect5]
                case .v3_1_1?: [Self.connect3]
                case nil: []
                }
            for step in greeting + rule.steps {
                try await client.send(Self.bytes(step.send))
                switch step.answer {
                case .bytes(let expected):
                    let expected = Self.bytes(expected)
                    let got = try await client.read(expected.count, "an answer to \(step.send)")
                    #expect(got == expected, "\(step.send): \(Self.text(got))")
                case .last(let expected):
                    let got = try await client.readToEnd("the end behind \(step.send)")
                    #expect(got == Self.bytes(expected), "\(step.send): \(Self.text(got))")
                case .end:
                    let got = try await client.readToEnd("the end behind \(step.send)")
                    #expect(got == [], "\(step.send): \(Self.text(got))")
                case .disconnect(let code):
                    let got = try await client.readToEnd("the end behind \(step.send)")
                    if rule.version == .v3_1_1 {
                        #expect(got == [], "\(step.send): \(Self.text(got))")
                    } else {
                        #expect(got.first == 0xE0 && got.dropFirst(2).first == code, "\(step.send): \(Self.text(got))")
                    }
                case .connAck(let code):
                    let got = try await client.readToEnd("the end behind \(step.send)")
                    #expect(
                        got.first == 0x20 && got.dropFirst(2).prefix(2) == [0, code], "\(step.send): \(Self.text(got))")
                }
            }
        }
    }

    private static func bytes(_ hex: String) -> [UInt8] {
        let digits = hex.compactMap(\.hexDigitValue)
        return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }

    private static func text(_ bytes: [UInt8]) -> String {
        bytes.map { String($0, radix: 16) }.joined(separator: " ")
    }
}
