import Identity
import MQTT
import MQTTBroker
import NIOCore

/// A router and what it asked for, without sockets.
struct Harness {
    var router: Router
    private var assigned = 0

    init(
        limits: BrokerLimits = BrokerLimits(), denying topic: String? = nil, restoring: StoredState? = nil,
        waitsForStore: Bool = true, now: UInt64 = 0
    ) {
        self.router = Router(
            limits: limits, authorizer: Permissive(deniedTopic: topic), restoring: restoring,
            waitsForStore: waitsForStore, now: now)
    }

    mutating func connect(
        _ peer: PeerIdentity, _ clientID: String = "c", version: ProtocolVersion = .v5_0, cleanStart: Bool = true,
        expiry: UInt32 = 0, will: Will? = nil, properties: [Property] = []
    ) throws -> ConnectionID {
        guard
            case .accepted(let id, _, _) = self.outcome(
                peer, clientID, version: version, cleanStart: cleanStart, expiry: expiry, will: will,
                properties: properties)
        else { throw UnexpectedPacket() }
        self.router.start(id)
        return id
    }

    mutating func outcome(
        _ peer: PeerIdentity, _ clientID: String = "c", version: ProtocolVersion = .v5_0, cleanStart: Bool = true,
        expiry: UInt32 = 0, will: Will? = nil, properties: [Property] = []
    ) -> Router.ConnectOutcome {
        let all = version == .v5_0 ? [.sessionExpiryInterval(expiry)] + properties : []
        return self.router.connect(
            Connect(
                version: version, clientID: clientID, cleanStart: cleanStart, will: will, properties: Properties(all)),
            peer: peer
        ) { "assigned" }
    }

    mutating func subscribe(
        _ id: ConnectionID, _ filter: String, qos: QoS = .atLeastOnce, identifier: UInt32? = nil,
        noLocal: Bool = false, retainAsPublished: Bool = false,
        retainHandling: Subscription.RetainHandling = .send
    ) throws {
        self.router.subscribe(
            Subscribe(
                packetID: 1,
                subscriptions: [
                    Subscription(
                        filter: try TopicFilter(filter), maximumQoS: qos, noLocal: noLocal,
                        retainAsPublished: retainAsPublished, retainHandling: retainHandling)
                ], properties: Properties(identifier.map { [.subscriptionIdentifier($0)] } ?? [])), from: id)
    }

    mutating func publish(
        _ id: ConnectionID, _ topic: String = "t", _ payload: String = "x", qos: QoS = .atLeastOnce,
        packetID: UInt16 = 1, retain: Bool = false, properties: Properties = []
    ) throws {
        self.router.publish(
            Publish(
                topic: try TopicName(topic), payload: ByteBuffer(string: payload), qos: qos, retain: retain,
                packetID: qos == .atMostOnce ? 0 : packetID, properties: properties), from: id)
    }

    /// What was asked for since the last time, in short words.
    mutating func take() -> [String] {
        defer { self.router.actions.removeAll() }
        return self.router.actions.compactMap { action in
            switch action {
            case .send(_, .subAck(let packet)): "suback \(packet.reasonCodes.map(\.rawValue))"
            case .send(_, .unsubAck(let packet)): "unsuback \(packet.reasonCodes.map(\.rawValue))"
            case .send(let id, .pubRec(let packet)): Self.words("pubrec", id, packet)
            case .send(let id, .pubRel(let packet)): Self.words("pubrel", id, packet)
            case .send(let id, .pubComp(let packet)): Self.words("pubcomp", id, packet)
            case .send: "send"
            case .persist(let change): Self.words(change)
            case .acknowledge(let id, let packetID, let code): "puback \(id.index) \(packetID) \(code.rawValue)"
            case .deliver(let id, let message, let header):
                "deliver \(id.index) \(String(buffer: message.payload)) q\(header.qos.rawValue)"
                    + (header.qos == .atMostOnce ? "" : " #\(header.packetID)") + (header.isDuplicate ? " dup" : "")
                    + (header.retain ? " retain" : "")
                    + (header.subscriptionIDs.isEmpty ? "" : " \(header.subscriptionIDs)")
            case .deliverInProcess(let local, let message, let qos, let retain, let token):
                "local \(local) \(String(buffer: message.payload)) q\(qos.rawValue)" + (retain ? " retain" : "")
                    + (token.map { " token \($0)" } ?? "")
            case .close(let id, let code, _): "close \(id.index) \(code.rawValue)"
            case .hold(let id): "hold \(id.index)"
            case .resume(let id): "resume \(id.index)"
            case .event(.publishRefused(_, _, let reason)): "refused \(reason)"
            case .event(.subscribeRefused(_, _, let reason)): "refused \(reason)"
            case .event(.queueFull): "full"
            case .pumpLater(let id): "later \(id.index)"
            case .wantFigures: nil
            case .event: nil
            }
        }
    }

    private static func words(_ name: String, _ id: ConnectionID, _ packet: Acknowledgement) -> String {
        "\(name) \(id.index) \(packet.packetID)"
            + (packet.reasonCode == .success ? "" : " \(packet.reasonCode.rawValue)")
    }

    static func words(_ change: StoreChange) -> String {
        switch change {
        case .openSession(let session):
            "+open \(session.number) for \(session.expiry)" + (session.leftAt.map { " left \($0)" } ?? "")
                + (session.will == nil ? "" : " will")
        case .leaveSession(let number, let time): "+leave \(number) at \(time)"
        case .removeSession(let number): "+remove \(number)"
        case .subscribe(let number, let subscription, _): "+subscribe \(number) \(subscription.filter)"
        case .unsubscribe(let number, let filter): "+unsubscribe \(number) \(filter)"
        case .enqueue(let number, let place, let delivery):
            "+enqueue \(number)/\(place) \(String(buffer: delivery.message.payload)) q\(delivery.qos.rawValue)"
        case .send(let number, let place, let packetID): "+send \(number)/\(place) #\(packetID)"
        case .release(let number, let place): "+release \(number)/\(place)"
        case .complete(let number, let place): "+complete \(number)/\(place)"
        case .receive(let number, let packetID): "+receive \(number) #\(packetID)"
        case .forget(let number, let packetID): "+forget \(number) #\(packetID)"
        case .retain(let message, _): "+retain \(message.topic)"
        case .removeRetained(let topic): "+removeRetained \(topic)"
        }
    }
}
