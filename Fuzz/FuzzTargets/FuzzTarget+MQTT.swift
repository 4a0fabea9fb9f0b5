public import MQTT
import NIOCore

extension FuzzTarget {
    /// Both ends' decoders of both versions, and the encoder behind them.
    public static let mqtt: [FuzzTarget] = {
        // Without a seed there is nothing to begin from, and the test that counts them says so.
        let seeds = (try? MQTTSamples.all().map { try $0.encoded() }) ?? []
        return [.watched("MQTT", seeds: seeds, run: fuzzMQTT)]
    }()
}

/// Feeds bytes to the MQTT decoders of both ends and versions, whole and in two pieces.
///
/// Traps if a decoder reads differently in pieces, keeps more than the limit allows, goes on after an
/// error, or reads a packet that does not come back the same after encoding it.
@Sendable
public func fuzzMQTT(_ bytes: [UInt8]) -> FuzzFeatures {
    var features = FuzzFeatures()
    let limit = 1_024
    let decoders = [
        PacketDecoder(sender: .client, maximumPacketSize: limit),
        PacketDecoder(sender: .client, version: .v3_1_1, maximumPacketSize: limit),
        PacketDecoder(sender: .client, version: .v5_0, maximumPacketSize: limit),
        PacketDecoder(sender: .server, version: .v3_1_1, maximumPacketSize: limit),
        PacketDecoder(sender: .server, version: .v5_0, maximumPacketSize: limit),
    ]
    for decoder in decoders {
        var decoder = decoder
        decoder.topicAliasMaximum = 4
        let whole = decode([bytes], with: decoder, limit: limit)
        let cut = bytes.count / 3
        let pieces = decode([Array(bytes[..<cut]), Array(bytes[cut...])], with: decoder, limit: limit)
        precondition(whole == pieces, "pieces are read differently")
        features.note("\(decoder.sender) \(decoder.version.map { "\($0 == .v5_0)" } ?? "any")")
        for packet in whole.packets {
            features.note(caseOf: packet)
            let version = whole.version ?? .v5_0
            var buffer = ByteBuffer()
            do {
                try packet.encode(into: &buffer, version: version)
                let size = try packet.encodedSize(version: version)
                precondition(size == buffer.readableBytes, "the size is computed wrongly")
            } catch {
                preconditionFailure("a decoded packet cannot be encoded: \(error)")
            }
            var again = PacketDecoder(
                sender: decoder.sender, version: isConnect(packet) ? nil : version, maximumPacketSize: 4 * limit)
            again.topicAliasMaximum = 4
            again.append(buffer)
            precondition((try? again.next()) == packet, "a packet comes back changed")
        }
        if let error = whole.error { features.note(error.reason) }
    }
    return features
}

private struct Decoded: Equatable {
    var packets: [Packet] = []
    var error: MQTTError?
    var version: ProtocolVersion?
}

private func decode(_ pieces: [[UInt8]], with decoder: PacketDecoder, limit: Int) -> Decoded {
    var decoder = decoder
    var result = Decoded()
    for piece in pieces where result.error == nil {
        decoder.append(ByteBuffer(bytes: piece))
        do {
            while let packet = try decoder.next() { result.packets.append(packet) }
            precondition(decoder.bufferedBytes <= limit, "more is kept than the limit allows")
        } catch {
            result.error = error
            precondition(decoder.bufferedBytes == 0, "bytes are kept after an error")
            precondition((try? decoder.next()) == nil, "a packet comes after an error")
        }
    }
    result.version = decoder.version
    return result
}

private func isConnect(_ packet: Packet) -> Bool {
    if case .connect = packet { true } else { false }
}

/// Packets of every kind, for round trips and as seeds to mutate.
public enum MQTTSamples {
    /// A packet, who sends it and in which version.
    public struct Sample: Sendable, CustomStringConvertible {
        public let sender: Endpoint
        public let version: ProtocolVersion
        public let packet: Packet

        public var description: String { "\(self.version) \(self.packet)" }

        /// The packet's bytes.
        public func encoded() throws -> [UInt8] {
            var buffer = ByteBuffer()
            try self.packet.encode(into: &buffer, version: self.version)
            return Array(buffer.readableBytesView)
        }
    }

    /// At least one of each packet in both versions, with every property where it may stand.
    public static func all() throws -> [Sample] {
        var samples: [Sample] = []
        for version in ProtocolVersion.allCases {
            let packets = try self.both(version) + (version == .v5_0 ? try self.onlyFive() : [])
            samples += packets.map { Sample(sender: $0, version: version, packet: $1) }
        }
        return samples
    }

    private static func both(_ version: ProtocolVersion) throws -> [(Endpoint, Packet)] {
        let topic = try TopicName("audits/measures/A-1")
        let payload = ByteBuffer(bytes: [0xD2, 0x84, 0x00, 0xFF])
        let will = Will(topic: try TopicName("audits/alerts/A-1"), payload: [1, 2, 3], qos: .atLeastOnce, retain: true)
        return [
            (.client, .connect(Connect(version: version, clientID: ""))),
            (.client, .connect(Connect(version: version, clientID: "A-1", cleanStart: false, keepAlive: 0))),
            (
                .client,
                .connect(
                    Connect(version: version, clientID: "é", will: will, username: "user", password: [0, 255]))
            ),
            (.server, .connAck(ConnAck(sessionPresent: true, reasonCode: .success))),
            (.server, .connAck(ConnAck(sessionPresent: false, reasonCode: .notAuthorized))),
            (.client, .publish(Publish(topic: topic, payload: ByteBuffer()))),
            (.server, .publish(Publish(topic: topic, payload: payload, retain: true))),
            (.client, .publish(Publish(topic: topic, payload: payload, qos: .atLeastOnce, packetID: 1))),
            (
                .server,
                .publish(
                    Publish(topic: topic, payload: payload, qos: .exactlyOnce, isDuplicate: true, packetID: 65_535))
            ),
            (.client, .pubAck(PubAck(packetID: 7))), (.server, .pubRec(PubRec(packetID: 8))),
            (.client, .pubRel(PubRel(packetID: 9))), (.server, .pubComp(PubComp(packetID: 10))),
            (
                .client,
                .subscribe(
                    Subscribe(
                        packetID: 11,
                        subscriptions: [
                            Subscription(filter: try TopicFilter("audits/+/A-1"), maximumQoS: .atLeastOnce),
                            Subscription(filter: try TopicFilter("#"), maximumQoS: .exactlyOnce),
                        ]))
            ),
            (.server, .subAck(SubAck(packetID: 11, reasonCodes: [.grantedQoS1, .unspecifiedError]))),
            (
                .client,
                .unsubscribe(Unsubscribe(packetID: 12, filters: [try TopicFilter("a"), try TopicFilter("b/#")]))
            ),
            (
                .server,
                .unsubAck(
                    UnsubAck(packetID: 12, reasonCodes: version == .v5_0 ? [.success, .noSubscriptionExisted] : []))
            ),
            (.client, .pingReq), (.server, .pingResp), (.client, .disconnect(Disconnect())),
        ]
    }

    private static func onlyFive() throws -> [(Endpoint, Packet)] {
        let topic = try TopicName("t")
        let user = Property.userProperty(name: "n", value: "é")
        let reason: Properties = [.reasonString("why"), user, user]
        let message: Properties = [
            .payloadFormatIndicator(true), .messageExpiryInterval(60), .contentType("application/cose"),
            .responseTopic(try TopicName("r")), .correlationData([1, 2]), user,
        ]
        let will = Will(
            topic: topic, payload: [], qos: .atMostOnce, retain: false,
            properties: Properties(message.all + [.willDelayInterval(5)]))
        let connect = Connect(
            version: .v5_0, clientID: "c", will: will, password: [1],
            properties: [
                .sessionExpiryInterval(.max), .receiveMaximum(10), .maximumPacketSize(131_072), .topicAliasMaximum(3),
                .requestResponseInformation(true), .requestProblemInformation(false), .authenticationMethod("m"),
                .authenticationData([9]), user,
            ])
        let connAck: Properties = [
            .sessionExpiryInterval(1), .receiveMaximum(2), .maximumQoS(.atLeastOnce), .retainAvailable(true),
            .maximumPacketSize(3), .assignedClientIdentifier("a"), .topicAliasMaximum(4), .reasonString("r"), user,
            .wildcardSubscriptionAvailable(true), .subscriptionIdentifiersAvailable(false),
            .sharedSubscriptionAvailable(true), .serverKeepAlive(5), .responseInformation("i"),
            .serverReference("s"), .authenticationMethod("m"), .authenticationData([1]),
        ]
        let subscription = Subscription(
            filter: try TopicFilter("$share/g/a/#"), maximumQoS: .atLeastOnce, retainAsPublished: true,
            retainHandling: .doNotSend)
        let local = Subscription(
            filter: try TopicFilter("b"), maximumQoS: .atMostOnce, noLocal: true, retainHandling: .sendIfNew)
        return [
            (.client, .connect(connect)),
            (.server, .connAck(ConnAck(sessionPresent: false, reasonCode: .success, properties: connAck))),
            (
                .server,
                .publish(
                    Publish(
                        topic: topic, payload: ByteBuffer(string: "x"), qos: .atLeastOnce, packetID: 3,
                        properties: Properties(
                            message.all + [.subscriptionIdentifier(1), .subscriptionIdentifier(268_435_455)])))
            ),
            (.client, .publish(Publish(topic: topic, payload: ByteBuffer(), properties: [.topicAlias(3)]))),
            (.client, .pubAck(PubAck(packetID: 1, reasonCode: .noMatchingSubscribers, properties: reason))),
            (.server, .pubRec(PubRec(packetID: 1, reasonCode: .quotaExceeded))),
            (.client, .pubRel(PubRel(packetID: 1, reasonCode: .packetIdentifierNotFound))),
            (.server, .pubComp(PubComp(packetID: 1, reasonCode: .success, properties: reason))),
            (
                .client,
                .subscribe(
                    Subscribe(
                        packetID: 1, subscriptions: [subscription, local],
                        properties: [.subscriptionIdentifier(7), user]
                    ))
            ),
            (.server, .subAck(SubAck(packetID: 1, reasonCodes: [.grantedQoS0, .notAuthorized], properties: reason))),
            (.client, .unsubscribe(Unsubscribe(packetID: 1, filters: [subscription.filter], properties: [user]))),
            (.server, .unsubAck(UnsubAck(packetID: 1, reasonCodes: [.success], properties: reason))),
            (
                .client,
                .disconnect(
                    Disconnect(
                        reasonCode: .disconnectWithWill, properties: [.sessionExpiryInterval(0), .reasonString("r")]))
            ),
            (
                .server,
                .disconnect(Disconnect(reasonCode: .serverMoved, properties: [.serverReference("other"), user]))
            ),
            (
                .client,
                .auth(
                    Auth(
                        reasonCode: .continueAuthentication,
                        properties: [.authenticationMethod("m"), .authenticationData([1])]))
            ),
            (.server, .auth(Auth())),
        ]
    }
}
