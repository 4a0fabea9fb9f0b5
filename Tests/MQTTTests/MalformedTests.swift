import FuzzTargets
import MQTT
import NIOCore
import Testing

/// Bytes that the standards forbid, who would send them, and what is wrong with them.
struct Malformed: Sendable, CustomStringConvertible {
    let description: String
    let bytes: [UInt8]
    let sender: Endpoint
    let version: ProtocolVersion?
    let code: MQTTError.Code

    init(
        _ description: String, _ bytes: String, _ sender: Endpoint, _ version: ProtocolVersion?,
        _ code: MQTTError.Code = .malformedPacket
    ) {
        self.description = description
        self.bytes = hex(bytes)
        self.sender = sender
        self.version = version
        self.code = code
    }

    static let fixedHeaders: [Malformed] = [
        Malformed("packet type 0", "00 00", .client, .v5_0),
        Malformed("a length of 5 bytes", "30 FFFFFFFF01", .client, .v5_0),
        Malformed("a length of 4 bytes that goes on", "30 80808080", .client, .v5_0),
        Malformed("a length with a byte too many", "C0 8000", .client, .v5_0),
        Malformed("reserved flags of CONNECT", "11 0D 0004 4D515454 04 02 000A 0001 61", .client, nil),
        Malformed("reserved flags of PINGREQ", "C1 00", .client, .v5_0),
        Malformed("reserved flags of PUBACK", "42 02 0001", .client, .v5_0),
        Malformed("PUBREL without its flag", "60 02 0001", .client, .v5_0),
        Malformed("SUBSCRIBE without its flag", "80 06 0001 0001 61 00", .client, .v3_1_1),
        Malformed("UNSUBSCRIBE without its flag", "A0 05 0001 0001 61", .client, .v3_1_1),
        Malformed("PINGREQ with a body", "C0 01 00", .client, .v5_0),
        Malformed("DISCONNECT with a body in 3.1.1", "E0 01 00", .client, .v3_1_1),
        Malformed("CONNACK from a client", "20 02 00 00", .client, .v3_1_1, .protocolError),
        Malformed("SUBACK from a client", "90 03 0001 00", .client, .v3_1_1, .protocolError),
        Malformed("UNSUBACK from a client", "B0 02 0001", .client, .v3_1_1, .protocolError),
        Malformed("PINGRESP from a client", "D0 00", .client, .v5_0, .protocolError),
        Malformed("CONNECT from a server", "10 0D 0004 4D515454 04 02 000A 0001 61", .server, .v3_1_1, .protocolError),
        Malformed("SUBSCRIBE from a server", "82 06 0001 0001 61 00", .server, .v3_1_1, .protocolError),
        Malformed("UNSUBSCRIBE from a server", "A2 05 0001 0001 61", .server, .v3_1_1, .protocolError),
        Malformed("PINGREQ from a server", "C0 00", .server, .v5_0, .protocolError),
        Malformed("DISCONNECT from a 3.1.1 server", "E0 00", .server, .v3_1_1, .protocolError),
        Malformed("AUTH in 3.1.1", "F0 00", .client, .v3_1_1, .protocolError),
        Malformed("PUBLISH before CONNECT", "30 03 0001 61", .client, nil, .protocolError),
        Malformed("PINGREQ before CONNECT", "C0 00", .client, nil, .protocolError),
        Malformed("a second CONNECT", "10 0D 0004 4D515454 04 02 000A 0001 61", .client, .v3_1_1, .protocolError),
    ]

    static let connects: [Malformed] = [
        Malformed("another protocol", "10 0D 0004 4D515455 04 02 000A 0001 61", .client, nil, .unsupportedVersion),
        Malformed("MQTT 3.1", "10 0F 0006 4D5149736470 03 02 000A 0001 61", .client, nil, .unsupportedVersion),
        Malformed("version 6", "10 0D 0004 4D515454 06 02 000A 0001 61", .client, nil, .unsupportedVersion),
        Malformed("the reserved flag", "10 0D 0004 4D515454 04 03 000A 0001 61", .client, nil),
        Malformed("will QoS 3", "10 13 0004 4D515454 04 1E 000A 0001 61 0001 62 0001 63", .client, nil),
        Malformed("will QoS without will", "10 0D 0004 4D515454 04 0A 000A 0001 61", .client, nil),
        Malformed("will retain without will", "10 0D 0004 4D515454 04 22 000A 0001 61", .client, nil),
        Malformed("a password alone in 3.1.1", "10 10 0004 4D515454 04 42 000A 0001 61 0001 62", .client, nil),
        Malformed("a missing user name", "10 0D 0004 4D515454 04 82 000A 0001 61", .client, nil),
        Malformed("bytes left over", "10 0E 0004 4D515454 04 02 000A 0001 61 00", .client, nil),
        Malformed("a client id longer than the packet", "10 0D 0004 4D515454 04 02 000A 0002 61", .client, nil),
        Malformed("a client id with U+0000", "10 0D 0004 4D515454 04 02 000A 0001 00", .client, nil),
        Malformed("a client id with a surrogate", "10 0F 0004 4D515454 04 02 000A 0003 EDA080", .client, nil),
        Malformed("a client id in overlong UTF-8", "10 0E 0004 4D515454 04 02 000A 0002 C0AF", .client, nil),
        Malformed("a client id above U+10FFFF", "10 10 0004 4D515454 04 02 000A 0004 F4908080", .client, nil),
        Malformed(
            "a will topic with a wildcard", "10 13 0004 4D515454 04 06 000A 0001 61 0001 23 0001 63", .client, nil,
            .topicNameInvalid),
        Malformed(
            "Receive Maximum 0", "10 11 0004 4D515454 05 02 000A 03 210000 0001 61", .client, nil, .protocolError),
        Malformed(
            "Maximum Packet Size 0", "10 13 0004 4D515454 05 02 000A 05 2700000000 0001 61", .client, nil,
            .protocolError),
        Malformed(
            "a property twice", "10 14 0004 4D515454 05 02 000A 06 210001 210001 0001 61", .client, nil, .protocolError),
        Malformed(
            "a property of another packet", "10 11 0004 4D515454 05 02 000A 03 230001 0001 61", .client, nil),
        Malformed("a property that is none", "10 10 0004 4D515454 05 02 000A 02 0400 0001 61", .client, nil),
        Malformed("property 255", "10 10 0004 4D515454 05 02 000A 02 FF00 0001 61", .client, nil),
        Malformed("a flag of 2", "10 10 0004 4D515454 05 02 000A 02 1702 0001 61", .client, nil, .protocolError),
        Malformed("properties longer than the packet", "10 0E 0004 4D515454 05 02 000A 20 0001 61", .client, nil),
        Malformed(
            "a property cut by the properties' end", "10 10 0004 4D515454 05 02 000A 02 2100 0001 61", .client, nil),
        Malformed(
            "authentication data without a method", "10 12 0004 4D515454 05 02 000A 04 160001AA 0001 61", .client, nil,
            .protocolError),
        Malformed("a long length of the properties", "10 0F 0004 4D515454 05 02 000A 8000 0001 61", .client, nil),
    ]

    static let publishes: [Malformed] = [
        Malformed("QoS 3", "36 05 0001 61 0001", .client, .v3_1_1),
        Malformed("DUP with QoS 0", "38 03 0001 61", .client, .v3_1_1),
        Malformed("packet identifier 0", "32 05 0001 61 0000", .client, .v3_1_1, .protocolError),
        Malformed("no packet identifier", "32 03 0001 61", .client, .v3_1_1),
        Malformed("an empty topic", "30 02 0000", .client, .v3_1_1, .protocolError),
        Malformed("an empty topic without alias", "30 03 0000 00", .client, .v5_0, .protocolError),
        Malformed("a wildcard", "30 05 0003 612F2B", .client, .v3_1_1, .topicNameInvalid),
        Malformed("U+0000 in the topic", "30 04 0002 6100", .client, .v3_1_1),
        Malformed("a surrogate in the topic", "30 05 0003 EDA080", .client, .v3_1_1),
        Malformed("a topic longer than the packet", "30 03 0002 61", .client, .v3_1_1),
        Malformed("nothing", "30 00", .client, .v3_1_1),
        Malformed("an alias above the maximum", "30 07 0001 61 03 230005", .client, .v5_0, .topicAliasInvalid),
        Malformed("alias 0", "30 07 0001 61 03 230000", .client, .v5_0, .topicAliasInvalid),
        Malformed("an alias where none are allowed", "30 06 0000 03 230001", .client, .v5_0, .topicAliasInvalid),
        Malformed("a subscription identifier from a client", "30 06 0001 61 02 0B01", .client, .v5_0, .protocolError),
        Malformed("subscription identifier 0", "30 06 0001 61 02 0B00", .server, .v5_0, .protocolError),
        Malformed("a content type twice", "30 0C 0001 61 08 03000161 03000162", .client, .v5_0, .protocolError),
        Malformed("a response topic with a wildcard", "30 08 0001 61 04 08000123", .client, .v5_0, .topicNameInvalid),
        Malformed("no properties at all in 5.0", "30 03 0001 61", .client, .v5_0),
        Malformed("a varint cut off in the properties", "30 06 0001 61 02 0B80", .server, .v5_0),
    ]

    static let others: [Malformed] = [
        Malformed("CONNACK flags", "20 02 02 00", .server, .v3_1_1),
        Malformed("CONNACK code 6 in 3.1.1", "20 02 00 06", .server, .v3_1_1),
        Malformed("CONNACK code 1 in 5.0", "20 03 00 01 00", .server, .v5_0),
        Malformed("CONNACK refuses with session", "20 02 01 05", .server, .v3_1_1, .protocolError),
        Malformed("CONNACK Maximum QoS 2", "20 05 00 00 02 2402", .server, .v5_0, .protocolError),
        Malformed("PUBACK 0", "40 02 0000", .client, .v5_0, .protocolError),
        Malformed("PUBACK cut off", "40 01 00", .client, .v5_0),
        Malformed("PUBACK with a reason in 3.1.1", "40 03 0001 00", .client, .v3_1_1),
        Malformed("PUBACK with a wrong reason", "40 03 0001 92", .client, .v5_0),
        Malformed("PUBREL with a wrong reason", "62 03 0001 10", .client, .v5_0),
        Malformed("PUBACK with bytes left over", "40 05 0001 00 00 00", .client, .v5_0),
        Malformed("PUBACK with a foreign property", "40 07 0001 00 03 210001", .client, .v5_0),
        Malformed("SUBSCRIBE 0", "82 06 0000 0001 61 00", .client, .v3_1_1, .protocolError),
        Malformed("SUBSCRIBE for nothing", "82 02 0001", .client, .v3_1_1, .protocolError),
        Malformed("SUBSCRIBE without options", "82 05 0001 0001 61", .client, .v3_1_1),
        Malformed("SUBSCRIBE QoS 3", "82 06 0001 0001 61 03", .client, .v3_1_1, .protocolError),
        Malformed("SUBSCRIBE options of 5.0 in 3.1.1", "82 06 0001 0001 61 04", .client, .v3_1_1),
        Malformed("SUBSCRIBE reserved options", "82 07 0001 00 0001 61 40", .client, .v5_0),
        Malformed("SUBSCRIBE retain handling 3", "82 07 0001 00 0001 61 30", .client, .v5_0, .protocolError),
        Malformed("SUBSCRIBE to an empty filter", "82 05 0001 0000 00", .client, .v3_1_1, .topicFilterInvalid),
        Malformed("SUBSCRIBE to a wrong filter", "82 07 0001 0002 6123 00", .client, .v3_1_1, .topicFilterInvalid),
        Malformed(
            "No Local on a share", "82 11 0001 00 000B 247368617265 2F67 2F6162 04", .client, .v5_0, .protocolError),
        Malformed("two subscription identifiers", "82 0B 0001 04 0B01 0B02 0001 61 00", .client, .v5_0, .protocolError),
        Malformed("SUBACK without codes", "90 02 0001", .server, .v3_1_1),
        Malformed("SUBACK with code 3", "90 03 0001 03", .server, .v3_1_1),
        Malformed("UNSUBSCRIBE from nothing", "A2 02 0001", .client, .v3_1_1, .protocolError),
        Malformed("UNSUBSCRIBE 0", "A2 05 0000 0001 61", .client, .v3_1_1, .protocolError),
        Malformed("UNSUBACK without codes in 5.0", "B0 03 0001 00", .server, .v5_0),
        Malformed("UNSUBACK with bytes left over in 3.1.1", "B0 03 0001 00", .server, .v3_1_1),
        Malformed("DISCONNECT with a server's reason", "E0 01 8B", .client, .v5_0),
        Malformed("DISCONNECT with a client's reason", "E0 01 04", .server, .v5_0),
        Malformed("a server's session expiry", "E0 07 00 05 1100000001", .server, .v5_0, .protocolError),
        Malformed("a client's server reference", "E0 06 00 04 1C000161", .client, .v5_0, .protocolError),
        Malformed("DISCONNECT with bytes left over", "E0 03 00 00 00", .client, .v5_0),
        Malformed("AUTH with a wrong reason", "F0 02 01 00", .client, .v5_0),
    ]
}

struct MalformedTests {
    @Test(
        "What the standards forbid is refused, with the reason to answer",
        arguments: Malformed.fixedHeaders + Malformed.connects + Malformed.publishes + Malformed.others)
    func refused(example: Malformed) {
        let error = #expect(throws: MQTTError.self) {
            try decode(example.bytes, from: example.sender, example.version)
        }
        #expect(error?.code == example.code, "\(String(describing: error))")
    }

    @Test("After an error nothing more comes, whatever is fed")
    func errorIsFinal() throws {
        var decoder = PacketDecoder(sender: .client, version: .v5_0, maximumPacketSize: 100)
        decoder.append(ByteBuffer(bytes: hex("C1 00")))
        #expect(throws: MQTTError(.malformedPacket, "")) { try decoder.next() }
        decoder.append(ByteBuffer(bytes: hex("C0 00")))
        #expect(throws: MQTTError(.malformedPacket, "")) { try decoder.next() }
    }

    @Test("A packet above the limit is refused from its fixed header, before its body comes")
    func tooLarge() throws {
        var decoder = PacketDecoder(sender: .client, version: .v5_0, maximumPacketSize: 100)
        decoder.append(ByteBuffer(bytes: hex("30 63")))
        #expect(throws: MQTTError(.packetTooLarge, "")) { try decoder.next() }
        #expect(decoder.bufferedBytes == 0)

        var exact = PacketDecoder(sender: .client, version: .v3_1_1, maximumPacketSize: 100)
        let publish = Publish(topic: try TopicName("t"), payload: ByteBuffer(repeating: 0, count: 95))
        var buffer = ByteBuffer()
        try publish.encode(into: &buffer, version: .v3_1_1)
        #expect(buffer.readableBytes == 100)
        exact.append(buffer)
        #expect(try exact.next() == .publish(publish))
    }

    @Test("A wrong first byte is refused before the second comes")
    func firstByte() {
        var decoder = PacketDecoder(sender: .client, maximumPacketSize: 100)
        decoder.append(ByteBuffer(bytes: [0x30]))
        #expect(throws: MQTTError(.protocolError, "")) { try decoder.next() }
    }

    @Test("A topic alias stands for the topic it came with")
    func topicAlias() throws {
        let packets = try decode(
            hex("30 07 0001 61 03 230001  30 06 0000 03 230001  30 07 0001 62 03 230001  30 06 0000 03 230001"),
            from: .client, .v5_0, aliases: 1)
        let topics = packets.map { if case .publish(let packet) = $0 { packet.topic.rawValue } else { "" } }
        #expect(topics == ["a", "a", "b", "b"])
        #expect(throws: MQTTError(.protocolError, "")) {
            try decode(hex("30 06 0000 03 230001"), from: .client, .v5_0, aliases: 1)
        }
    }

    @Test("Many packets in one read come out in order, the last half stays")
    func manyInOneRead() throws {
        var buffer = ByteBuffer()
        for number in 1...100 {
            try Packet.pubAck(PubAck(packetID: UInt16(number))).encode(into: &buffer, version: .v3_1_1)
        }
        var decoder = PacketDecoder(sender: .server, version: .v3_1_1, maximumPacketSize: 100)
        decoder.append(buffer.getSlice(at: 0, length: buffer.readableBytes - 1) ?? ByteBuffer())
        var ids: [UInt16] = []
        while case .pubAck(let packet) = try decoder.next() { ids.append(packet.packetID) }
        #expect(ids == Array(1...99))
        #expect(decoder.bufferedBytes == 3)
        decoder.append(ByteBuffer(bytes: [100]))
        #expect(try decoder.next() == .pubAck(PubAck(packetID: 100)))
    }

    @Test("A packet has at most 1,024 user properties or filters; what a server adds comes on top")
    func many() throws {
        func outcome(_ buffer: ByteBuffer, from sender: Endpoint = .client) -> Result<Packet?, MQTTError> {
            var decoder = PacketDecoder(sender: sender, version: .v5_0, maximumPacketSize: 1 << 20)
            decoder.append(buffer)
            return Result { () throws(MQTTError) in try decoder.next() }
        }
        func bytes(_ packet: Packet) throws -> ByteBuffer {
            var buffer = ByteBuffer()
            try packet.encode(into: &buffer, version: .v5_0)
            return buffer
        }
        let user = Array(repeating: Property.userProperty(name: "", value: ""), count: 1_024)
        let topic = try TopicName("t")
        let filter = try TopicFilter("t")
        let added: [Property] = [.subscriptionIdentifier(1), .contentType("x"), .messageExpiryInterval(1)]
        let full = Packet.publish(Publish(topic: topic, payload: ByteBuffer(), properties: Properties(user + added)))
        #expect(outcome(try bytes(full), from: .server) == .success(full))
        // Nor is more written.
        let more = Publish(topic: topic, payload: ByteBuffer(), properties: Properties(user + [user[0]]))
        #expect(throws: MQTTError(.notEncodable, "")) { try bytes(.publish(more)) }
        #expect(throws: MQTTError(.notEncodable, "")) { try more.encodedHeaderSize(version: .v5_0) }
        // 0x30, 5 * 1,025 + 5 bytes: topic, length, properties.
        var raw: [UInt8] = [0x30, 0x8A, 0x28, 0, 1, 0x74, 0x85, 0x28]
        for _ in 0..<1_025 { raw += [0x26, 0, 0, 0, 0] }
        #expect(outcome(ByteBuffer(bytes: raw)) == .failure(MQTTError(.packetTooLarge, "")))

        for (count, isRead) in [(1_024, true), (1_025, false)] {
            let subscriptions = Array(repeating: Subscription(filter: filter, maximumQoS: .atMostOnce), count: count)
            for packet: Packet in [
                .subscribe(Subscribe(packetID: 1, subscriptions: subscriptions)),
                .unsubscribe(Unsubscribe(packetID: 1, filters: Array(repeating: filter, count: count))),
            ] {
                #expect(
                    outcome(try bytes(packet)) == (isRead ? .success(packet) : .failure(MQTTError(.packetTooLarge, "")))
                )
            }
        }
    }

    @Test("Mutated packets never crash a decoder, and what is read can be written", arguments: 0..<8 as Range<UInt64>)
    func mutations(seed: UInt64) throws {
        let target = try #require(FuzzTarget.mqtt.first)
        #expect(target.seeds.count > 50)
        try target.fuzz(count: 2_000, seed: seed, maximumSize: 2_048)
    }
}
