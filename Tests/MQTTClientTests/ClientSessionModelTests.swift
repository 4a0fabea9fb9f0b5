import MQTT
import MQTTClient
import TestSupport
import Testing

struct ClientSessionModelTests {
    /// What a correct server remembers of one connection.
    private struct Server {
        var receiveMaximum: Int
        var unacknowledged: [UInt16] = []
        var delivered: [UInt16] = []
        var nextID: UInt16 = 1
    }

    @Test(
        "Whatever happens in whatever order: windows hold, PUBACKs keep their order, each waiter is told once",
        arguments: [MQTTClientConfiguration.UnacknowledgedPolicy.fail, .resend], UInt64(1)...20)
    func anyOrder(policy: MQTTClientConfiguration.UnacknowledgedPolicy, seed: UInt64) throws {
        var randomness = SplitMix64(seed: seed)
        let version: ProtocolVersion = seed.isMultiple(of: 2) ? .v5_0 : .v3_1_1
        var driver = Driver {
            $0.version = version
            $0.unacknowledged = policy
            $0.maximumInFlight = 7
            $0.receiveMaximum = 20
        }
        var waiters = 0
        var server: Server?
        var tokens: [UInt64] = []
        var seen = 0
        for _ in 0..<2000 {
            switch Int.random(in: 0..<100, using: &randomness) {
            case 0..<3:
                driver.lose()
                server = nil
                tokens = tokens.suffix(5)
            case 3..<10 where server == nil:
                let window = Int.random(in: 1...10, using: &randomness)
                server = Server(receiveMaximum: version == .v5_0 ? window : 7)
                try driver.connect(
                    sessionPresent: Bool.random(using: &randomness),
                    properties: version == .v5_0 ? [.receiveMaximum(UInt16(window))] : [])
            case 10..<45:
                waiters += 1
                try driver.publish(waiters, qos: Bool.random(using: &randomness) ? .atLeastOnce : .atMostOnce)
            case 45..<70:
                guard let place = server?.unacknowledged.indices.randomElement(using: &randomness),
                    let packetID = server?.unacknowledged.remove(at: place)
                else { continue }
                try driver.receive(acknowledge(packetID, Bool.random(using: &randomness) ? .success : .quotaExceeded))
            case 70..<80:
                guard let packetID = server?.nextID, server?.delivered.count ?? 20 < 20 else { continue }
                server?.nextID += 1
                server?.delivered.append(packetID)
                try driver.receive(message(packetID))
            case 80..<92:
                driver.settle(tokens.randomElement(using: &randomness))
            case 92..<95:
                let unlucky = Int.random(in: 0...waiters, using: &randomness)
                driver.perform { session, actions in session.cancel(where: { $0 == unlucky }, into: &actions) }
            default:
                let isWritable = Bool.random(using: &randomness)
                driver.perform { session, actions in session.setWritable(isWritable, into: &actions) }
            }
            for delivery in driver.delivered[seen...] { tokens.append(try #require(delivery.token)) }
            seen = driver.delivered.count
            for packet in driver.takeSent() {
                switch packet {
                case .publish(let publish) where publish.qos == .atLeastOnce:
                    #expect(publish.packetID != 0)
                    #expect(server?.unacknowledged.contains(publish.packetID) == false)
                    server?.unacknowledged.append(publish.packetID)
                    #expect(server?.unacknowledged.count ?? .max <= min(server?.receiveMaximum ?? 0, 7))
                case .pubAck(let acknowledgement):
                    #expect(acknowledgement.packetID == server?.delivered.first)
                    server?.delivered.removeFirst()
                default:
                    break
                }
            }
        }
        driver.lose(isFinal: true)
        #expect(driver.outcomes.map(\.waiter).sorted() == Array(1..<(waiters + 1)))
        #expect(driver.session.outstanding == 0)
    }
}
