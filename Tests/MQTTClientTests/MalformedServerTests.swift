import FuzzTargets
import MQTT
import MQTTClient
import MessageBus
import NIOCore
import TestSupport
import Testing

/// What a broken or hostile server may send to a client that has let it in.
struct MalformedServerTests {
    struct Example: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var bytes: String
        var code: MQTTClientError.Code
        var version = ProtocolVersion.v5_0

        init(
            _ description: String, _ bytes: String, _ code: MQTTClientError.Code = .malformedPacket,
            _ version: ProtocolVersion = .v5_0
        ) {
            self.testDescription = description
            self.bytes = bytes
            self.code = code
            self.version = version
        }
    }

    private static let examples = [
        Example("packet type 0", "00 00"),
        Example("a length of 5 bytes", "30 FFFFFFFF01"),
        Example("a packet beyond our maximum", "30 FFFF7F", .packetTooLarge),
        Example("PINGREQ", "C0 00", .protocolError),
        Example("CONNECT", "10 0D 0004 4D515454 04 02 000A 0001 61", .protocolError),
        Example("a second CONNACK", "20 03 00 00 00", .protocolError),
        Example("PUBACK for nothing", "40 02 0001", .protocolError),
        Example("PUBACK for nothing in 3.1.1", "40 02 0001", .protocolError, .v3_1_1),
        Example("PUBREC for nothing in 3.1.1", "50 02 0001", .protocolError, .v3_1_1),
        Example("PUBCOMP for nothing", "70 02 0001", .protocolError),
        Example("SUBACK for nothing", "90 04 0001 00 00", .protocolError),
        Example("UNSUBACK for nothing", "B0 04 0001 00 00", .protocolError),
        Example("AUTH without a method", "F0 00", .protocolError),
        Example("AUTH in 3.1.1", "F0 00", .protocolError, .v3_1_1),
        Example("DISCONNECT in 3.1.1", "E0 00", .protocolError, .v3_1_1),
        Example("QoS 3", "36 06 0001 61 0001 00"),
        Example("a topic with a wildcard", "30 04 0001 23 00"),
        Example("a topic alias that was not allowed", "30 06 0000 03 230001", .topicAliasInvalid),
        Example("subscription identifier 0", "30 06 0001 61 02 0B00", .protocolError),
        Example("a content type twice", "30 0C 0001 61 08 03000161 03000162", .protocolError),
        Example("an identifier twice, unsettled", "34 06 0001 61 0001 00 3C 06 0001 61 0001 00", .protocolError),
        Example("PUBREL for an unsettled message", "34 06 0001 61 0001 00 62 02 0001", .protocolError),
        Example("DISCONNECT with a client's code", "E0 01 04"),
    ]

    @Test("It is left, and told why where the version has words for it", arguments: examples)
    func left(example: Example) async throws {
        let server = try await ScriptedServer(version: example.version)
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port, version: example.version)
        configuration.subscriptions = []
        configuration.cleanStart = true
        let frozen = configuration
        try await withDeadline(.seconds(60), "the client has left") {
            async let told: BusError = MQTTConnection.withConnection(frozen) { connection in
                try await Events(connection).untilDisconnected()
            }
            let (connection, _) = try await server.acceptAndConnect()
            connection.send(bytes: bytes(example.bytes))
            var last: Packet?
            while let packet = try await connection.next() { last = packet }
            let reason = try await told.reason
            #expect(reason.hasPrefix(example.code.description), "\(reason)")
            if example.version == .v5_0 {
                guard case .disconnect(let packet) = last else {
                    Issue.record("no DISCONNECT")
                    return
                }
                #expect(packet.reasonCode.isFailure)
            } else {
                #expect(last == nil)
            }
        }
    }

    @Test("Mutated packets end a session or are taken; each request is told once", arguments: UInt64(1)...4)
    func mutations(seed: UInt64) throws {
        let target = try #require(FuzzTarget.mqttClient.first)
        #expect(target.seeds.count > 25)
        try target.fuzz(count: 1_000, seed: seed, maximumSize: 2_048)
    }
}

private func bytes(_ hex: String) -> [UInt8] {
    let digits = hex.filter { $0 != " " }
    return stride(from: 0, to: digits.count, by: 2).compactMap { offset in
        let start = digits.index(digits.startIndex, offsetBy: offset)
        return UInt8(digits[start..<digits.index(start, offsetBy: 2)], radix: 16)
    }
}
