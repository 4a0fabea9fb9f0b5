import Identity
import MQTT
import MQTTBroker
import NIOCore

extension FuzzTarget {
    /// The broker's sessions behind the decoder: whole conversations of two clients.
    public static let broker: [FuzzTarget] = {
        let seeds = (try? BrokerConversations.all()) ?? []
        return [.watched("Broker", seeds: seeds, run: fuzzBroker)]
    }()
}

/// Feeds the router conversations: each byte string is records of a head and up to 255 bytes. The head says which of
/// two clients sends them, or that time passes, a connection ends, a client becomes slow, or the store has caught up.
///
/// Traps if the router sends to a connection that it has closed or never accepted, sends a packet that cannot be
/// encoded, gives an identifier to two messages at once, sends more than a client's Receive Maximum, or says changes
/// of a session that it did not open.
@Sendable
public func fuzzBroker(_ bytes: [UInt8]) -> FuzzFeatures {
    guard var world = FuzzedBroker() else { return FuzzFeatures() }
    var rest = bytes[...]
    while let head = rest.popFirst() {
        let count = min(Int(rest.popFirst() ?? 0), rest.count)
        let body = Array(rest.prefix(count))
        rest = rest.dropFirst(count)
        world.step(head, body)
    }
    world.settle()
    return world.features
}

private struct FuzzedBroker {
    private struct Client {
        var decoder = PacketDecoder(sender: .client, maximumPacketSize: 1_024)
        var id: ConnectionID?
        var version = ProtocolVersion.v5_0
        var window = 65_535
        /// What it was sent and has not acknowledged.
        var open: Set<UInt16> = []

        mutating func reset() { self = Client() }
    }

    private(set) var features = FuzzFeatures()
    private var router: Router
    private let peer: PeerIdentity
    private var clients = [Client(), Client()]
    private var now: UInt64 = 1_000
    private var changes: UInt64 = 0
    private var sessions: Set<UInt64> = []

    init?() {
        guard let identity = try? SPIFFEID("spiffe://fuzz.example/operator/o") else { return nil }
        self.peer = PeerIdentity(spiffeID: identity, certificateHash: [UInt8](repeating: 0, count: 32))
        var limits = BrokerLimits()
        limits.receiveMaximum = 4
        limits.maximumInflight = 3
        limits.maximumQueuedMessages = 8
        limits.maximumRetainedMessages = 4
        limits.topicAliasMaximum = 2
        self.router = Router(
            limits: limits, authorizer: Everybody(), restoring: StoredState(), now: self.now)
    }

    mutating func step(_ head: UInt8, _ body: [UInt8]) {
        let index = Int(head & 1)
        switch head >> 1 & 7 {
        case 0...3:
            self.clients[index].decoder.topicAliasMaximum = 2
            self.clients[index].decoder.append(ByteBuffer(bytes: body))
            self.read(index)
        case 4:
            self.now += UInt64(body.first ?? 1)
            self.router.advance(to: self.now)
        case 5: self.end(index)
        case 6:
            if let id = self.clients[index].id { self.router.setWritable(id, (body.first ?? 0) & 1 == 0) }
        default: self.router.committed(through: self.changes)
        }
        self.perform()
    }

    /// Whatever happened, it can all be brought to an end.
    mutating func settle() {
        for index in self.clients.indices { self.end(index) }
        self.router.committed(through: self.changes)
        self.perform()
        self.router.advance(to: .max / 2)
        self.perform()
        precondition(self.router.statistics.connections == 0, "a connection is left")
        precondition(self.router.statistics.sessions == 0, "a session is left behind its time")
        precondition(self.sessions.isEmpty, "a session is left in the store")
    }

    private mutating func read(_ index: Int) {
        do throws(MQTTError) {
            while let packet = try self.clients[index].decoder.next() {
                self.handle(packet, index)
                self.perform()
            }
        } catch {
            self.end(index)
        }
    }

    private mutating func handle(_ packet: Packet, _ index: Int) {
        guard let id = self.clients[index].id else {
            guard case .connect(let connect) = packet else { return }
            let outcome = self.router.connect(connect, peer: self.peer) { "assigned" }
            guard case .accepted(let id, _, _) = outcome else { return }
            self.perform()
            self.clients[index].id = id
            self.clients[index].version = connect.version
            self.clients[index].window = Int(connect.properties.receiveMaximum ?? .max)
            self.clients[index].open = []
            self.router.start(id)
            return
        }
        switch packet {
        case .publish(let publish): self.router.publish(publish, from: id)
        case .pubAck(let answer):
            self.clients[index].open.remove(answer.packetID)
            self.router.acknowledged(answer.packetID, from: id)
        case .pubRec(let answer):
            if answer.reasonCode.isFailure { self.clients[index].open.remove(answer.packetID) }
            self.router.received(answer, from: id)
        case .pubRel(let answer): self.router.release(answer.packetID, from: id)
        case .pubComp(let answer):
            self.clients[index].open.remove(answer.packetID)
            self.router.completed(answer.packetID, from: id)
        case .subscribe(let subscribe): self.router.subscribe(subscribe, from: id)
        case .unsubscribe(let unsubscribe): self.router.unsubscribe(unsubscribe, from: id)
        case .disconnect(let disconnect):
            self.router.disconnect(disconnect, from: id)
            self.perform()
            self.end(index)
        default: return
        }
    }

    private mutating func end(_ index: Int) {
        let id = self.clients[index].id
        self.clients[index].reset()
        if let id { self.router.connectionLost(id, reason: "") }
    }

    private mutating func perform() {
        while !self.router.actions.isEmpty {
            let actions = self.router.actions
            self.router.actions.removeAll()
            for action in actions { self.carryOut(action) }
        }
    }

    private mutating func carryOut(_ action: Router.Action) {
        self.features.note(caseOf: action)
        switch action {
        case .send(let id, let packet):
            self.features.note(caseOf: packet)
            self.encode(packet, id)
        case .acknowledge(let id, let packetID, let code):
            self.encode(.pubAck(PubAck(packetID: packetID, reasonCode: code)), id)
        case .deliver(let id, let message, let header):
            guard let index = self.clients.firstIndex(where: { $0.id == id }) else { return }
            if header.qos != .atMostOnce {
                precondition(
                    self.clients[index].open.insert(header.packetID).inserted, "an identifier is used twice at once")
                precondition(
                    self.clients[index].open.count <= self.clients[index].window,
                    "more is sent than the client's Receive Maximum")
            }
            self.encode(
                .publish(
                    message.publish(
                        qos: header.qos, retain: header.retain, isDuplicate: header.isDuplicate,
                        packetID: header.packetID, subscriptionIDs: header.subscriptionIDs, now: self.now)), id)
        case .persist(let change):
            self.features.note(caseOf: change)
            self.changes += 1
            self.check(change)
        case .close(let id, _, let reason):
            self.features.note(reason)
            if let index = self.clients.firstIndex(where: { $0.id == id }) { self.end(index) }
        case .pumpLater(let id):
            self.router.pump(id)
        case .deliverInProcess, .hold, .resume, .wantFigures, .event:
            return
        }
    }

    private func encode(_ packet: Packet, _ id: ConnectionID) {
        guard let client = self.clients.first(where: { $0.id == id }) else { return }
        var buffer = ByteBuffer()
        do {
            try packet.encode(into: &buffer, version: client.version)
        } catch {
            preconditionFailure("the router sends what cannot be encoded: \(error)")
        }
    }

    private mutating func check(_ change: StoreChange) {
        let session: UInt64
        switch change {
        case .openSession(let opened):
            self.sessions.insert(opened.number)
            return
        case .removeSession(let number):
            precondition(self.sessions.remove(number) != nil, "a session is removed that is not there")
            return
        case .retain, .removeRetained: return
        case .leaveSession(let number, _), .subscribe(let number, _, _), .unsubscribe(let number, _),
            .enqueue(let number, _, _), .send(let number, _, _), .release(let number, _), .complete(let number, _),
            .receive(let number, _), .forget(let number, _):
            session = number
        }
        precondition(self.sessions.contains(session), "a change of a session that is not there")
    }

    private struct Everybody: Authorizer {
        func refusalToPublish(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
            topic.rawValue == "no" ? "topic" : nil
        }

        func refusalToSubscribe(_ filter: TopicFilter, by peer: PeerIdentity) -> String? {
            filter.rawValue == "no" ? "topic" : nil
        }

        func refusalToConnect(_ peer: PeerIdentity) -> String? { nil }
    }
}

/// Conversations to begin from: in each the clients do what the standard wants.
private enum BrokerConversations {
    private enum Move {
        case send(UInt8, Packet)
        case pass(UInt8)
        case lose(UInt8)
        case slow(UInt8, Bool)
        case commit
    }

    static func all() throws -> [[UInt8]] {
        let topic = try TopicName("t")
        let will = Will(
            topic: topic, payload: [1], qos: .atLeastOnce, retain: true, properties: [.willDelayInterval(3)])
        var conversations: [[UInt8]] = []
        for version in ProtocolVersion.allCases {
            let kept: Properties = version == .v5_0 ? [.sessionExpiryInterval(9), .receiveMaximum(2)] : []
            func connect(_ name: String, _ will: Will? = nil) -> Packet {
                .connect(
                    Connect(version: version, clientID: name, cleanStart: false, will: will, properties: kept))
            }
            func subscribe(_ filter: String) throws -> Packet {
                .subscribe(
                    Subscribe(
                        packetID: 1,
                        subscriptions: [Subscription(filter: try TopicFilter(filter), maximumQoS: .exactlyOnce)]))
            }
            func publish(_ qos: QoS, _ id: UInt16, retain: Bool = false) -> Packet {
                .publish(
                    Publish(
                        topic: topic, payload: ByteBuffer(bytes: [UInt8(id)]), qos: qos, retain: retain, packetID: id))
            }
            let moves: [[Move]] = [
                [
                    .send(0, connect("a")), .send(0, try subscribe("t")), .commit, .send(1, connect("b", will)),
                    .send(1, publish(.exactlyOnce, 1)), .send(1, publish(.atLeastOnce, 2)), .commit,
                    .send(0, .pubRec(PubRec(packetID: 1))), .commit, .send(0, .pubComp(PubComp(packetID: 1))),
                    .send(0, .pubAck(PubAck(packetID: 2))), .send(1, .pubRel(PubRel(packetID: 1))), .commit,
                    .lose(1), .pass(4), .lose(0), .send(0, connect("a")), .send(0, .disconnect(Disconnect())),
                ],
                [
                    .send(0, connect("a")), .send(0, try subscribe("$share/g/#")), .send(1, connect("b")),
                    .send(1, try subscribe("$share/g/#")), .slow(0, true), .send(1, publish(.atLeastOnce, 1)),
                    .send(1, publish(.exactlyOnce, 2, retain: true)), .lose(0), .send(0, connect("b")), .slow(0, false),
                    .commit, .pass(20),
                    .send(
                        1,
                        .unsubscribe(Unsubscribe(packetID: 1, filters: [try TopicFilter("$share/g/#")]))),
                ],
            ]
            for conversation in moves { conversations.append(try self.bytes(conversation, version)) }
        }
        return conversations
    }

    private static func bytes(_ moves: [Move], _ version: ProtocolVersion) throws -> [UInt8] {
        var bytes: [UInt8] = []
        for move in moves {
            switch move {
            case .send(let client, let packet):
                var buffer = ByteBuffer()
                try packet.encode(into: &buffer, version: version)
                bytes += [client, UInt8(buffer.readableBytes)] + Array(buffer.readableBytesView)
            case .pass(let seconds): bytes += [8, 1, seconds]
            case .lose(let client): bytes += [10 | client, 0]
            case .slow(let client, let isSlow): bytes += [12 | client, 1, isSlow ? 1 : 0]
            case .commit: bytes += [14, 0]
            }
        }
        return bytes
    }
}
