import FuzzTargets
import MQTT
import NIOCore
import Testing

/// Hexadecimal text to bytes; blanks are ignored.
func hex(_ text: String) -> [UInt8] {
    let digits = text.filter { !$0.isWhitespace }
    return stride(from: 0, to: digits.count, by: 2).compactMap { offset in
        let start = digits.index(digits.startIndex, offsetBy: offset)
        return UInt8(digits[start..<digits.index(start, offsetBy: 2)], radix: 16)
    }
}

func decode(
    _ bytes: [UInt8], from sender: Endpoint, _ version: ProtocolVersion?, limit: Int = 131_072, aliases: UInt16 = 0
) throws(MQTTError) -> [Packet] {
    var decoder = PacketDecoder(sender: sender, version: version, maximumPacketSize: limit)
    decoder.topicAliasMaximum = aliases
    decoder.append(ByteBuffer(bytes: bytes))
    var packets: [Packet] = []
    while let packet = try decoder.next() { packets.append(packet) }
    return packets
}

struct CodecTests {
    @Test("Every packet comes back as it was, in both versions", arguments: try MQTTSamples.all())
    func roundTrip(sample: MQTTSamples.Sample) throws {
        let bytes = try sample.encoded()
        let isConnect = bytes[0] == 0x10
        let decoded = try decode(bytes, from: sample.sender, isConnect ? nil : sample.version, aliases: 10)
        #expect(decoded == [sample.packet])
        #expect(try sample.packet.encodedSize(version: sample.version) == bytes.count)
    }

    @Test("Fed byte by byte, a packet comes out with its last byte", arguments: try MQTTSamples.all())
    func byteByByte(sample: MQTTSamples.Sample) throws {
        let bytes = try sample.encoded()
        var decoder = PacketDecoder(
            sender: sample.sender, version: bytes[0] == 0x10 ? nil : sample.version, maximumPacketSize: 131_072)
        decoder.topicAliasMaximum = 10
        for byte in bytes.dropLast() {
            decoder.append(ByteBuffer(bytes: [byte]))
            #expect(try decoder.next() == nil)
        }
        decoder.append(ByteBuffer(bytes: bytes.suffix(1)))
        #expect(try decoder.next() == sample.packet)
        #expect(try decoder.next() == nil)
        #expect(decoder.bufferedBytes == 0)
    }

    @Test("Cut short inside, no packet is taken for a whole one", arguments: try MQTTSamples.all())
    func truncatedInside(sample: MQTTSamples.Sample) throws {
        let bytes = try sample.encoded()
        guard bytes.count > 3, bytes[1] < 0x7F else { return }
        // One byte less, and a fixed header that agrees: a field must end early, or fewer fields be there.
        for count in 2..<bytes.count {
            var cut = Array(bytes[..<count])
            cut[1] = UInt8(count - 2)
            let version = bytes[0] == 0x10 ? nil : Optional(sample.version)
            if let packets = try? decode(cut, from: sample.sender, version, aliases: 10) {
                #expect(packets.count == 1)
                #expect(packets.first != sample.packet)
            }
        }
    }

    @Test("Bytes left over behind the last field are refused", arguments: try MQTTSamples.all())
    func trailingBytes(sample: MQTTSamples.Sample) throws {
        var bytes = try sample.encoded()
        switch sample.packet {
        case .publish, .subscribe, .unsubscribe, .subAck, .unsubAck: return  // Their last field may be longer.
        default: break
        }
        guard bytes[1] < 0x7F else { return }
        // 0xFF is no reason code and no length, so that it cannot be a legal next field.
        bytes.append(0xFF)
        bytes[1] += 1
        let version = bytes[0] == 0x10 ? nil : Optional(sample.version)
        #expect(throws: MQTTError(.malformedPacket, "")) { try decode(bytes, from: sample.sender, version) }
    }

    @Test("The bytes are those of the standards")
    func knownBytes() throws {
        let cases: [(Packet, ProtocolVersion, String)] = [
            (
                .connect(Connect(version: .v3_1_1, clientID: "a", keepAlive: 10)), .v3_1_1,
                "10 0D 0004 4D515454 04 02 000A 0001 61"
            ),
            (
                .connect(
                    Connect(
                        version: .v5_0, clientID: "", cleanStart: false, keepAlive: 0,
                        properties: [.sessionExpiryInterval(10)])), .v5_0,
                "10 12 0004 4D515454 05 00 0000 05 11 0000000A 0000"
            ),
            (.connAck(ConnAck(sessionPresent: true, reasonCode: .success)), .v3_1_1, "20 02 01 00"),
            (.connAck(ConnAck(sessionPresent: false, reasonCode: .serverBusy)), .v3_1_1, "20 02 00 03"),
            (.connAck(ConnAck(sessionPresent: false, reasonCode: .notAuthorized)), .v5_0, "20 03 00 87 00"),
            (
                .publish(
                    Publish(
                        topic: try TopicName("a/b"), payload: ByteBuffer(string: "x"), qos: .atLeastOnce, packetID: 10)),
                .v3_1_1, "32 08 0003 612F62 000A 78"
            ),
            (
                .publish(
                    Publish(
                        topic: try TopicName("a/b"), payload: ByteBuffer(), qos: .atLeastOnce, retain: true,
                        isDuplicate: true, packetID: 10)),
                .v5_0, "3B 08 0003 612F62 000A 00"
            ),
            (.pubAck(PubAck(packetID: 1)), .v5_0, "40 02 0001"),
            (.pubAck(PubAck(packetID: 1, reasonCode: .notAuthorized)), .v5_0, "40 03 0001 87"),
            (.pubAck(PubAck(packetID: 1, reasonCode: .notAuthorized)), .v3_1_1, "40 02 0001"),
            (.pubRel(PubRel(packetID: 1)), .v3_1_1, "62 02 0001"),
            (
                .subscribe(
                    Subscribe(
                        packetID: 10,
                        subscriptions: [Subscription(filter: try TopicFilter("a/b"), maximumQoS: .atLeastOnce)])),
                .v3_1_1, "82 08 000A 0003 612F62 01"
            ),
            (.subAck(SubAck(packetID: 1, reasonCodes: [.grantedQoS1, .notAuthorized])), .v3_1_1, "90 04 0001 01 80"),
            (.unsubAck(UnsubAck(packetID: 1, reasonCodes: [.success])), .v3_1_1, "B0 02 0001"),
            (.pingReq, .v3_1_1, "C0 00"), (.pingResp, .v5_0, "D0 00"),
            (.disconnect(Disconnect()), .v5_0, "E0 00"),
            (.disconnect(Disconnect(reasonCode: .qosNotSupported)), .v5_0, "E0 01 9B"),
            (.auth(Auth()), .v5_0, "F0 00"),
        ]
        for (packet, version, expected) in cases {
            var buffer = ByteBuffer()
            try packet.encode(into: &buffer, version: version)
            #expect(Array(buffer.readableBytesView) == hex(expected), "\(packet)")
        }
    }

    @Test("A PUBLISH header written apart is the packet without its payload", arguments: ProtocolVersion.allCases)
    func headerApart(version: ProtocolVersion) throws {
        for size in [0, 1, 120, 127, 128, 16_383, 16_384] {
            let publish = Publish(
                topic: try TopicName("a/b"), payload: ByteBuffer(repeating: 7, count: size), qos: .atLeastOnce,
                packetID: 9)
            var whole = ByteBuffer()
            try Packet.publish(publish).encode(into: &whole, version: version)
            var direct = ByteBuffer()
            try publish.encode(into: &direct, version: version)
            var header = ByteBuffer()
            try publish.encodeHeader(into: &header, version: version)
            #expect(try publish.encodedHeaderSize(version: version) == header.readableBytes)
            header.writeImmutableBuffer(publish.payload)
            #expect(header == whole)
            #expect(direct == whole)
        }
    }

    @Test(
        "Lengths have 1 to 4 bytes at the standard's borders",
        arguments: [127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
    func lengthBorders(remaining: Int) throws {
        let publish = Publish(topic: try TopicName("t"), payload: ByteBuffer(repeating: 1, count: remaining - 3))
        var buffer = ByteBuffer()
        try publish.encode(into: &buffer, version: .v3_1_1)
        let headerSize = remaining < 128 ? 2 : remaining < 16_384 ? 3 : remaining < 2_097_152 ? 4 : 5
        #expect(buffer.readableBytes == headerSize + remaining)
        #expect(
            try decode(Array(buffer.readableBytesView), from: .client, .v3_1_1, limit: .max) == [.publish(publish)])
    }

    @Test("What has no encoding is an error, and nothing is written")
    func notEncodable() throws {
        let long = String(repeating: "x", count: 65_536)
        let topic = try TopicName("t")
        let cases: [(Packet, ProtocolVersion)] = [
            (.connect(Connect(version: .v5_0, clientID: long)), .v5_0),
            (.connect(Connect(version: .v5_0, clientID: "a\0")), .v5_0),
            (.connect(Connect(version: .v5_0, clientID: "a")), .v3_1_1),
            (.connect(Connect(version: .v3_1_1, clientID: "a", password: [1])), .v3_1_1),
            (.publish(Publish(topic: topic, payload: ByteBuffer(), qos: .atLeastOnce)), .v5_0),
            (.publish(Publish(topic: topic, payload: ByteBuffer(), packetID: 1)), .v5_0),
            (.publish(Publish(topic: topic, payload: ByteBuffer(), isDuplicate: true)), .v5_0),
            (.publish(Publish(topic: topic, payload: ByteBuffer(), properties: [.contentType(long)])), .v5_0),
            (.pubAck(PubAck(packetID: 0)), .v3_1_1), (.auth(Auth()), .v3_1_1),
            (.subscribe(Subscribe(packetID: 1, subscriptions: [])), .v5_0),
            (.unsubscribe(Unsubscribe(packetID: 1, filters: [])), .v5_0),
        ]
        for (packet, version) in cases {
            var buffer = ByteBuffer()
            #expect(throws: MQTTError(.notEncodable, "")) { try packet.encode(into: &buffer, version: version) }
            #expect(buffer.readableBytes == 0)
        }
    }
}
