import Identity
import MQTT
import MQTTBroker
import NIOCore
import TestSupport
import Testing

/// The router among clients that come, go, stall and acknowledge as a seed says; its promises are checked at
/// every step.
struct RouterSimulationTests {
    /// A subscriber with a session that is kept, as it sees the world.
    private struct Subscriber {
        let peer: PeerIdentity
        var connection: ConnectionID?
        /// Numbers that came, each once, in the order of their first coming.
        var seen: [String: [Int]] = [:]
        var unacknowledged: [UInt16] = []
        var window = 0
    }

    private struct Publisher {
        let peer: PeerIdentity
        let version: ProtocolVersion
        var connection: ConnectionID?
        var next = 1
        /// Packet identifiers in the order of their publishes, those not acknowledged.
        var waiting: [(packetID: UInt16, number: Int)] = []
        var nextPacketID: UInt16 = 1
        /// Numbers that were acknowledged: they must reach everybody.
        var acknowledged: [Int] = []
        var isHeld = false
    }

    @Test(
        "Whatever happens, what was acknowledged arrives, in order, and acknowledgements keep theirs",
        arguments: 0..<20 as Range<UInt64>)
    func promises(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        var limits = BrokerLimits()
        limits.receiveMaximum = 8
        limits.maximumInflight = 5
        var router = Router(limits: limits, authorizer: Permissive())
        let filter = Subscription(filter: try TopicFilter("t/#"), maximumQoS: .atLeastOnce)
        #expect(
            router.openInProcess(1, peer: try peer(.controlCenter, "center"), clientID: "c", subscriptions: [filter])
                == nil)
        var subscribers = try (0..<3).map { Subscriber(peer: try peer(.operator, "s\($0)")) }
        var publishers = try (0..<3).map {
            Publisher(peer: try auditor("p\($0)"), version: $0 == 0 ? .v3_1_1 : .v5_0)
        }
        var tokens: [UInt64] = []
        var center: [String: Set<Int>] = [:]

        func owner(_ id: ConnectionID) -> (subscriber: Int?, publisher: Int?) {
            (subscribers.firstIndex { $0.connection == id }, publishers.firstIndex { $0.connection == id })
        }

        func perform() {
            for action in router.actions {
                switch action {
                case .deliver(let id, let message, let header):
                    guard let index = owner(id).subscriber, let number = Int(String(buffer: message.payload)) else {
                        continue
                    }
                    let topic = message.topic.rawValue
                    let newest = subscribers[index].seen[topic]?.last ?? 0
                    if number > newest {
                        // A gap would be a loss, for every number is published once or more, in order.
                        #expect(number == newest + 1, "seed \(seed): \(topic) \(number) after \(newest)")
                        subscribers[index].seen[topic, default: []].append(number)
                    }
                    #expect(!subscribers[index].unacknowledged.contains(header.packetID), "seed \(seed)")
                    subscribers[index].unacknowledged.append(header.packetID)
                    #expect(subscribers[index].unacknowledged.count <= subscribers[index].window, "seed \(seed)")
                case .deliverInProcess(_, let message, _, _, let token):
                    if let number = Int(String(buffer: message.payload)) {
                        center[message.topic.rawValue, default: []].insert(number)
                    }
                    if let token { tokens.append(token) }
                case .acknowledge(let id, let packetID, let code):
                    guard let index = owner(id).publisher else { continue }
                    let first = publishers[index].waiting.removeFirst()
                    #expect(first.packetID == packetID && code == .success, "seed \(seed): out of order")
                    publishers[index].acknowledged.append(first.number)
                case .hold(let id):
                    if let index = owner(id).publisher { publishers[index].isHeld = true }
                case .resume(let id):
                    if let index = owner(id).publisher { publishers[index].isHeld = false }
                case .close(let id, let code, let reason):
                    Issue.record("seed \(seed): closed \(id) \(code) \(reason)")
                case .send, .event, .persist, .pumpLater, .wantFigures:
                    continue
                }
            }
            router.actions.removeAll()
        }

        func connectSubscriber(_ index: Int) {
            subscribers[index].unacknowledged = []
            let window = Int.random(in: 1...7, using: &random)
            subscribers[index].window = min(window, limits.maximumInflight)
            let outcome = router.connect(
                Connect(
                    version: .v5_0, clientID: "s", cleanStart: false,
                    properties: [.sessionExpiryInterval(1_000), .receiveMaximum(UInt16(window))]),
                peer: subscribers[index].peer
            ) { "" }
            guard case .accepted(let id, let connAck, _) = outcome else {
                Issue.record("refused")
                return
            }
            subscribers[index].connection = id
            router.start(id)
            if !connAck.sessionPresent { router.subscribe(Subscribe(packetID: 1, subscriptions: [filter]), from: id) }
            perform()
        }

        func publish(_ index: Int) throws {
            guard let id = publishers[index].connection, !publishers[index].isHeld,
                publishers[index].waiting.count < Int(limits.receiveMaximum)
            else { return }
            let number = publishers[index].next
            publishers[index].next += 1
            let packetID = publishers[index].nextPacketID
            publishers[index].nextPacketID = packetID == .max ? 1 : packetID + 1
            publishers[index].waiting.append((packetID, number))
            router.publish(
                Publish(
                    topic: try TopicName("t/\(index)"), payload: ByteBuffer(string: "\(number)"), qos: .atLeastOnce,
                    packetID: packetID), from: id)
            perform()
        }

        func connectPublisher(_ index: Int) throws {
            let outcome = router.connect(
                Connect(version: publishers[index].version, clientID: "p"), peer: publishers[index].peer
            ) { "" }
            guard case .accepted(let id, _, _) = outcome else {
                Issue.record("refused")
                return
            }
            publishers[index].connection = id
            publishers[index].isHeld = false
            router.start(id)
            // As an outbox does: what was not acknowledged is published again, first.
            if let oldest = publishers[index].waiting.first?.number { publishers[index].next = oldest }
            publishers[index].waiting = []
            perform()
        }

        func acknowledge(_ index: Int) {
            guard let id = subscribers[index].connection, let packetID = subscribers[index].unacknowledged.first else {
                return
            }
            subscribers[index].unacknowledged.removeFirst()
            router.acknowledged(packetID, from: id)
            perform()
        }

        for index in subscribers.indices { connectSubscriber(index) }
        for _ in 0..<4_000 {
            let who = Int.random(in: 0..<3, using: &random)
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<3:
                if let id = subscribers[who].connection {
                    subscribers[who].connection = nil
                    router.connectionLost(id, reason: "")
                    perform()
                }
            case 3..<10:
                if subscribers[who].connection == nil { connectSubscriber(who) }
            case 10..<12:
                if let id = publishers[who].connection {
                    publishers[who].connection = nil
                    router.connectionLost(id, reason: "")
                    perform()
                }
            case 12..<20:
                if publishers[who].connection == nil { try connectPublisher(who) }
            case 20..<25:
                if let id = subscribers[who].connection {
                    router.setWritable(id, Bool.random(using: &random))
                    perform()
                }
            case 25..<50:
                acknowledge(who)
            case 50..<70:
                if let index = tokens.indices.randomElement(using: &random) {
                    router.settle(tokens.remove(at: index))
                    perform()
                }
            default:
                try publish(who)
            }
        }

        // The storm is over: everybody comes, takes and acknowledges.
        for index in subscribers.indices {
            if let id = subscribers[index].connection {
                router.setWritable(id, true)
                perform()
            } else {
                connectSubscriber(index)
            }
        }
        for token in tokens { router.settle(token) }
        perform()
        for _ in 0..<20_000 {
            for index in subscribers.indices { acknowledge(index) }
            if subscribers.allSatisfy({ $0.unacknowledged.isEmpty }) { break }
        }
        for (index, publisher) in publishers.enumerated() {
            let topic = "t/\(index)"
            let acknowledged = Set(publisher.acknowledged)
            #expect(!acknowledged.isEmpty, "seed \(seed)")
            #expect(acknowledged.isSubset(of: center[topic] ?? []), "seed \(seed)")
            for subscriber in subscribers {
                #expect(acknowledged.isSubset(of: Set(subscriber.seen[topic] ?? [])), "seed \(seed)")
            }
            #expect(publisher.connection == nil || publisher.waiting.isEmpty, "seed \(seed)")
        }
    }
}
