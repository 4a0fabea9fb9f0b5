import MQTT
import MQTTClient
import NIOCore

extension FuzzTarget {
    /// The client's session, fed what a broken or hostile server may say.
    public static let mqttClient: [FuzzTarget] = {
        var seeds: [[UInt8]] = []
        for version: UInt8 in [0, 1] {
            let packets = ((try? MQTTSamples.all()) ?? []).filter { sample in
                sample.sender == .server && (sample.version == .v5_0) == (version == 1)
            }
            let all = packets.flatMap { (try? $0.encoded()) ?? [] }
            if let connAck = packets.compactMap({ try? $0.encoded() }).first {
                seeds += packets.map { [version] + connAck + ((try? $0.encoded()) ?? []) }
                seeds.append([version] + connAck + all)
            }
        }
        return [.watched("MQTTClient", seeds: seeds, run: fuzzMQTTClient)]
    }()
}

/// Feeds bytes to a client's session that has every kind of request under way. The first byte chooses version, store
/// and authentication.
///
/// Traps if a waiter is told twice or never, if more publishes are under way than allowed, or if an identifier is
/// used twice at once.
@Sendable
public func fuzzMQTTClient(_ bytes: [UInt8]) -> FuzzFeatures {
    var features = FuzzFeatures()
    guard let mode = bytes.first, let topic = try? TopicName("t"), let filter = try? TopicFilter("t/#") else {
        return features
    }
    var configuration = MQTTClientConfiguration(
        host: "localhost", port: 1883, transport: .plaintextLoopback, version: mode & 1 == 1 ? .v5_0 : .v3_1_1,
        clientID: "fuzz")
    configuration.unacknowledged = mode & 2 == 2 ? .resend : .fail
    configuration.maximumInFlight = 3
    configuration.receiveMaximum = 4
    configuration.topicAliasMaximum = mode & 1 == 1 ? 2 : 0
    configuration.usesTopicAliases = mode & 1 == 1
    let stored = mode & 4 == 4 ? StoredSession() : nil
    var session = ClientSession<Int>(configuration: configuration, stored: stored)
    var told: Set<Int> = []
    var asked = 0
    var underWay: Set<UInt16> = []
    var actions: [ClientSession<Int>.Action] = []

    func perform() {
        for action in actions {
            features.note(caseOf: action)
            if case .send(let packet) = action { features.note(caseOf: packet) }
            switch action {
            case .complete(let waiter, _):
                precondition(told.insert(waiter).inserted, "a waiter is told twice")
            case .send(.publish(let publish)) where publish.qos != .atMostOnce:
                precondition(publish.isDuplicate || underWay.insert(publish.packetID).inserted, "an identifier twice")
            default:
                break
            }
        }
        actions.removeAll()
        _ = session.takeChanges()
    }

    for round in 0..<2 {
        session.connect(into: &actions)
        for (index, qos) in QoS.allCases.enumerated() {
            let message = OutgoingMessage(topic: topic, payload: ByteBuffer(string: "x"), qos: qos)
            session.publish(message, for: round * 10 + index, into: &actions)
        }
        perform()
        var decoder = PacketDecoder(
            sender: .server, version: configuration.version, maximumPacketSize: 1_024)
        decoder.topicAliasMaximum = configuration.topicAliasMaximum
        decoder.append(ByteBuffer(bytes: bytes.dropFirst()))
        do {
            while let packet = try decoder.next() {
                if case .pubAck(let packet) = packet { underWay.remove(packet.packetID) }
                if case .pubRec(let packet) = packet, packet.reasonCode.isFailure { underWay.remove(packet.packetID) }
                if case .pubComp(let packet) = packet { underWay.remove(packet.packetID) }
                if case .connAck(let packet) = packet, !packet.sessionPresent { underWay.removeAll() }
                try session.receive(packet, into: &actions)
                for case .deliver(_, let token?) in actions { session.settle(token, into: &actions) }
                perform()
                if session.isReady, round == 0 {
                    asked += 1
                    session.ask(
                        .subscribe([Subscription(filter: filter, maximumQoS: .exactlyOnce)], identifier: nil),
                        for: 100 + asked, into: &actions)
                    actions.removeAll { if case .complete = $0 { true } else { false } }
                }
            }
        } catch {
            // The connection ends.
            features.note((error as? MQTTError)?.reason ?? (error as? MQTTClientError)?.code.description ?? "?")
        }
        perform()
        session.disconnected(MQTTClientError(.connectionLost, ""), isFinal: round == 1, into: &actions)
        for case .complete(let waiter, _) in actions where waiter < 100 {
            precondition(told.insert(waiter).inserted, "a waiter is told twice")
        }
        actions.removeAll()
        if configuration.unacknowledged == .fail, stored == nil { underWay.removeAll() }
    }
    precondition(told.isSuperset(of: [0, 1, 2, 10, 11, 12]), "a waiter is never told")
    precondition(session.outstanding == 0, "something is left")
    return features
}
