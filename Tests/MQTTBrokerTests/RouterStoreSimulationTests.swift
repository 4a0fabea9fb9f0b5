import Identity
import MQTT
import MQTTBroker
import NIOCore
import TestSupport
import Testing

/// A broker with a store that crashes: what was not committed is gone, and every promise still holds.
struct RouterStoreSimulationTests {
    /// A client as the standard wants it, that keeps its own state over everything.
    private struct Subscriber {
        let peer: PeerIdentity
        var connection: ConnectionID?
        /// Numbers in the order of their first coming, by topic.
        var seen: [String: [Int]] = [:]
        /// QoS 2: identifiers between PUBLISH and PUBREL.
        var taken: Set<UInt16> = []
        /// Answers that it has not given.
        var answers: [Packet] = []
    }

    private struct Publisher {
        let peer: PeerIdentity
        let qos: QoS
        var connection: ConnectionID?
        var next = 1
        var nextPacketID: UInt16 = 1
        /// In the order of their publishes.
        var open: [(packetID: UInt16, number: Int, isReleased: Bool)] = []
        var acknowledged: [Int] = []
    }

    private struct World {
        let seed: UInt64
        var random: SplitMix64
        var limits = BrokerLimits()
        var router: Router
        var disk = StoreModel()
        /// The changes of each call into the router, in order, those not on disk.
        var uncommitted: [[StoreChange]] = []
        var committed: UInt64 = 0
        var now: UInt64 = 1_000
        var subscribers: [Subscriber]
        var publishers: [Publisher]
        let filter: Subscription

        init(seed: UInt64) throws {
            self.seed = seed
            self.random = SplitMix64(seed: seed)
            self.limits.maximumInflight = 5
            self.limits.receiveMaximum = 10
            self.router = Router(limits: self.limits, authorizer: Permissive(), restoring: StoredState(), now: 1_000)
            self.filter = Subscription(filter: try TopicFilter("t/#"), maximumQoS: .exactlyOnce)
            self.subscribers = try (0..<2).map { Subscriber(peer: try peer(.operator, "s\($0)")) }
            self.publishers = try (0..<3).map {
                Publisher(peer: try auditor("p\($0)"), qos: $0 == 0 ? .atLeastOnce : .exactlyOnce)
            }
        }

        mutating func perform() {
            var changes: [StoreChange] = []
            while !self.router.actions.isEmpty {
                let actions = self.router.actions
                self.router.actions.removeAll()
                for action in actions { self.carryOut(action, &changes) }
            }
            if !changes.isEmpty { self.uncommitted.append(changes) }
        }

        private mutating func carryOut(_ action: Router.Action, _ changes: inout [StoreChange]) {
            switch action {
            case .persist(let change): changes.append(change)
            case .deliver(let id, let message, let header):
                guard let index = self.subscribers.firstIndex(where: { $0.connection == id }),
                    let number = Int(String(buffer: message.payload))
                else { return }
                let topic = message.topic.rawValue
                if header.qos == .exactlyOnce {
                    self.subscribers[index].answers.append(.pubRec(PubRec(packetID: header.packetID)))
                    guard self.subscribers[index].taken.insert(header.packetID).inserted else { return }
                    let newest = self.subscribers[index].seen[topic]?.last ?? 0
                    #expect(number == newest + 1, "seed \(self.seed): \(topic) \(number) after \(newest)")
                    self.subscribers[index].seen[topic, default: []].append(number)
                } else {
                    self.subscribers[index].answers.append(.pubAck(PubAck(packetID: header.packetID)))
                    let newest = self.subscribers[index].seen[topic]?.last ?? 0
                    guard number > newest else { return }
                    #expect(number == newest + 1, "seed \(self.seed): \(topic) \(number) after \(newest)")
                    self.subscribers[index].seen[topic, default: []].append(number)
                }
            case .send(let id, .pubRel(let packet)):
                guard let index = self.subscribers.firstIndex(where: { $0.connection == id }) else { return }
                self.subscribers[index].taken.remove(packet.packetID)
                self.subscribers[index].answers.append(.pubComp(PubComp(packetID: packet.packetID)))
            case .acknowledge(let id, let packetID, _):
                guard let index = self.publishers.firstIndex(where: { $0.connection == id }) else { return }
                let first = self.publishers[index].open.removeFirst()
                #expect(first.packetID == packetID, "seed \(self.seed)")
                self.publishers[index].acknowledged.append(first.number)
            case .send(let id, .pubRec(let packet)):
                guard let index = self.publishers.firstIndex(where: { $0.connection == id }),
                    let place = self.publishers[index].open.firstIndex(where: { $0.packetID == packet.packetID })
                else { return }
                self.publishers[index].open[place].isReleased = true
                self.router.release(packet.packetID, from: id)
            case .send(let id, .pubComp(let packet)):
                guard let index = self.publishers.firstIndex(where: { $0.connection == id }) else { return }
                guard let place = self.publishers[index].open.firstIndex(where: { $0.packetID == packet.packetID })
                else { return }
                self.publishers[index].acknowledged.append(self.publishers[index].open.remove(at: place).number)
            case .close(let id, let code, let reason):
                Issue.record("seed \(self.seed): closed \(id) \(code) \(reason)")
            case .send, .event, .hold, .resume, .deliverInProcess, .pumpLater, .wantFigures:
                return
            }
        }

        mutating func connectSubscriber(_ index: Int) {
            self.subscribers[index].answers = []
            let outcome = self.router.connect(
                Connect(
                    version: .v5_0, clientID: "s", cleanStart: false, properties: [.sessionExpiryInterval(100_000)]),
                peer: self.subscribers[index].peer
            ) { "" }
            guard case .accepted(let id, let connAck, _) = outcome else {
                Issue.record("refused")
                return
            }
            self.subscribers[index].connection = id
            self.router.start(id)
            if !connAck.sessionPresent {
                #expect(self.subscribers[index].seen.isEmpty, "seed \(self.seed): a session is lost")
                self.subscribers[index].taken = []
                self.router.subscribe(Subscribe(packetID: 1, subscriptions: [self.filter]), from: id)
            }
            self.perform()
        }

        mutating func connectPublisher(_ index: Int) throws {
            let outcome = self.router.connect(
                Connect(
                    version: .v5_0, clientID: "p", cleanStart: false, properties: [.sessionExpiryInterval(100_000)]),
                peer: self.publishers[index].peer
            ) { "" }
            guard case .accepted(let id, _, _) = outcome else {
                Issue.record("refused")
                return
            }
            self.publishers[index].connection = id
            self.router.start(id)
            self.perform()
            for open in self.publishers[index].open {
                if open.isReleased {
                    self.router.release(open.packetID, from: id)
                } else {
                    try self.send(open.number, open.packetID, isDuplicate: true, from: index)
                }
                self.perform()
            }
        }

        private mutating func send(_ number: Int, _ packetID: UInt16, isDuplicate: Bool, from index: Int) throws {
            guard let id = self.publishers[index].connection else { return }
            self.router.publish(
                Publish(
                    topic: try TopicName("t/\(index)"), payload: ByteBuffer(string: "\(number)"),
                    qos: self.publishers[index].qos, isDuplicate: isDuplicate, packetID: packetID), from: id)
        }

        mutating func publish(_ index: Int) throws {
            guard self.publishers[index].connection != nil, self.publishers[index].open.count < 8 else { return }
            let number = self.publishers[index].next
            let packetID = self.publishers[index].nextPacketID
            self.publishers[index].next += 1
            self.publishers[index].nextPacketID = packetID == .max ? 1 : packetID + 1
            self.publishers[index].open.append((packetID, number, false))
            try self.send(number, packetID, isDuplicate: false, from: index)
            self.perform()
        }

        mutating func answer(_ index: Int) {
            guard let id = self.subscribers[index].connection, !self.subscribers[index].answers.isEmpty else { return }
            switch self.subscribers[index].answers.removeFirst() {
            case .pubAck(let packet): self.router.acknowledged(packet.packetID, from: id)
            case .pubRec(let packet): self.router.received(packet, from: id)
            case .pubComp(let packet): self.router.completed(packet.packetID, from: id)
            default: return
            }
            self.perform()
        }

        mutating func commit(_ count: Int) {
            for batch in self.uncommitted.prefix(count) {
                for change in batch { self.disk.apply(change) }
                self.committed += UInt64(batch.count)
            }
            self.uncommitted.removeFirst(min(count, self.uncommitted.count))
            self.router.committed(through: self.committed)
            self.perform()
        }

        mutating func crash() {
            // Some of what was on its way may have reached the disk, without anybody having been told.
            let reached = Int.random(in: 0...self.uncommitted.count, using: &self.random)
            for change in self.uncommitted.prefix(reached).joined() { self.disk.apply(change) }
            self.uncommitted = []
            self.committed = 0
            self.now += 1
            self.router = Router(
                limits: self.limits, authorizer: Permissive(), restoring: self.disk.state, now: self.now)
            for index in self.subscribers.indices { self.subscribers[index].connection = nil }
            for index in self.publishers.indices { self.publishers[index].connection = nil }
            self.perform()
        }
    }

    @Test(
        "Over crashes no acknowledged message is lost, none of QoS 2 comes twice, and the order is kept",
        arguments: 0..<30 as Range<UInt64>)
    func promises(seed: UInt64) throws {
        var world = try World(seed: seed)
        for index in world.subscribers.indices { world.connectSubscriber(index) }
        world.commit(.max)
        for _ in 0..<3_000 {
            let who = Int.random(in: 0..<2, using: &world.random)
            let publisher = Int.random(in: 0..<3, using: &world.random)
            switch Int.random(in: 0..<1_000, using: &world.random) {
            case 0..<4: world.crash()
            case 4..<30:
                if let id = world.subscribers[who].connection {
                    world.subscribers[who].connection = nil
                    world.router.connectionLost(id, reason: "")
                    world.perform()
                }
            case 30..<120:
                if world.subscribers[who].connection == nil { world.connectSubscriber(who) }
            case 120..<140:
                if let id = world.publishers[publisher].connection {
                    world.publishers[publisher].connection = nil
                    world.router.connectionLost(id, reason: "")
                    world.perform()
                }
            case 140..<230:
                if world.publishers[publisher].connection == nil { try world.connectPublisher(publisher) }
            case 230..<500: world.commit(Int.random(in: 0...3, using: &world.random))
            case 500..<700: try world.publish(publisher)
            default: world.answer(who)
            }
        }

        // The storm is over.
        for index in world.subscribers.indices where world.subscribers[index].connection == nil {
            world.connectSubscriber(index)
        }
        for index in world.publishers.indices where world.publishers[index].connection == nil {
            try world.connectPublisher(index)
        }
        for _ in 0..<5_000 {
            world.commit(.max)
            for index in world.subscribers.indices { world.answer(index) }
        }
        for (index, publisher) in world.publishers.enumerated() {
            #expect(!publisher.acknowledged.isEmpty, "seed \(seed)")
            #expect(publisher.open.isEmpty, "seed \(seed)")
            for subscriber in world.subscribers {
                #expect(subscriber.seen["t/\(index)"]?.last == publisher.next - 1, "seed \(seed)")
            }
        }
    }
}
