import Foundation
import Identity
import Logging
import MQTT
import MQTTBroker
import NIOCore
import NIOPosix
import NIOSSL
import PKI
import TestSupport
import Testing

/// A crowd that misbehaves, all at once, and good clients that must not notice much. Loopback only.
///
/// Compared are ratios within one run, generously: machines and their other loads differ.
@Suite(.serialized) struct AbuseTests {
    /// Round trips of a good client: QoS 1 publishes to itself through the broker.
    private static func roundTrips(_ client: RawClient, _ count: Int) async throws -> [Duration] {
        var times: [Duration] = []
        for number in 1...count {
            let start = ContinuousClock.now
            try await client.publish("audits/measures/good", id: UInt16(number))
            var isAcknowledged = false
            var isDelivered = false
            while !(isAcknowledged && isDelivered) {
                switch try await client.next() {
                case .pubAck: isAcknowledged = true
                case .publish(let publish):
                    isDelivered = true
                    try await client.send(.pubAck(PubAck(packetID: publish.packetID)))
                case nil: throw UnexpectedPacket()
                default: break
                }
            }
            times.append(ContinuousClock.now - start)
        }
        return times.sorted()
    }

    private static func percentile99(_ times: [Duration]) -> Duration { times[times.count * 99 / 100] }

    private static var residentKilobytes: Int {
        let text = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = text.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
        return line?.split(separator: " ").compactMap { Int($0) }.first ?? 0
    }

    private static let loops = MultiThreadedEventLoopGroup(numberOfThreads: 1)

    /// A broker on a loop of its own, so that its crowd's work is not taken for its own.
    private func withBroker(
        _ listener: BrokerConfiguration.Listener, limits: BrokerLimits, tls: BrokerTLS? = nil, gate: PeerGate? = nil,
        _ body: (TestBroker) async throws -> Void
    ) async throws {
        try await TestBroker.with(
            BrokerConfiguration(
                listeners: [listener], tls: tls,
                admission: gate.map { PeerAdmission(gate: $0, now: { TestPKI.currentTime() }) },
                authorizer: Permissive(), limits: limits, eventLoop: Self.loops.next()), body)
    }

    private let plaintext = BrokerConfiguration.Listener.plaintextOnLoopback(port: 0) { connect in
        connect.username.flatMap { try? peer(.auditor, $0) }
    }

    private func limits() -> BrokerLimits {
        var limits = BrokerLimits()
        limits.maximumConnectionsPerIdentity = 10_000
        limits.maximumSessionsPerIdentity = 10_000
        limits.connectionRatePerIdentity = nil
        limits.maximumQueuedBytes = 8 << 20
        return limits
    }

    @Test("A flood, a deaf subscriber, slow starters and garbage: good clients go on, and memory stays bounded")
    func crowd() async throws {
        var limits = self.limits()
        limits.connectDeadline = 2
        try await self.withBroker(self.plaintext, limits: limits) { broker in
            let (good, _) = try await broker.connect("good")
            try await good.subscribe("audits/measures/good")
            _ = try await Self.roundTrips(good, 200)
            let calm = try await Self.roundTrips(good, 500)
            let before = Self.residentKilobytes

            let (deaf, _) = try await broker.connect("deaf", keepAlive: 0)
            try await deaf.subscribe("flood")
            try await deaf.setAutoRead(false)
            let port = broker.port
            let stressed = try await withThrowingTaskGroup(of: Void.self) { group in
                // 100 MB to a subscriber that reads nothing.
                group.addTask {
                    let (loud, _) = try await broker.connect("loud")
                    let payload = String(repeating: "x", count: 100_000)
                    for number in 1...1_000 {
                        try await loud.publish("flood", payload, id: UInt16(number))
                        _ = try await loud.expectPubAck()
                    }
                }
                // 200 slow starters, each with a byte now and then.
                group.addTask {
                    var clients: [ByteClient] = []
                    for _ in 0..<200 { clients.append(try await ByteClient.connect(port: port, preamble: [0x10])) }
                    for client in clients { _ = try await client.readToEnd("the deadline") }
                }
                // A flood of CONNECTs.
                group.addTask {
                    for number in 0..<1_000 {
                        let (client, _) = try await broker.connect("flood", clientID: "f\(number)")
                        try await client.drop()
                    }
                }
                // 10,000 random and mutated packets.
                group.addTask { try await Self.sendGarbage(10_000, port: port) }
                // Answers that are never taken.
                group.addTask {
                    let (client, _) = try await broker.connect("asker")
                    try await client.setAutoRead(false)
                    let pings = (0..<1 << 20).map { UInt8($0 % 2 == 0 ? 0xC0 : 0) }
                    let asking = Task { for _ in 0..<32 { try await client.send(bytes: pings) } }
                    try await Task.sleep(for: .seconds(2))
                    asking.cancel()
                    try await client.drop()
                    _ = await asking.result
                }
                let times = try await Self.roundTrips(good, 500)
                try await group.waitForAll()
                return times
            }
            let grown = Self.residentKilobytes - before
            try await good.ping()
            let statistics = try await broker.broker.statistics()
            #expect(statistics.connectionsRefused[.deadline] == 200)
            #expect(statistics.connectionsRefused[.malformed] ?? 0 > 100)
            #expect(statistics.queuedBytes <= limits.maximumQueuedBytes)
            #expect(statistics.messagesDropped > 0)
            // The queue's 8 MB, socket buffers of the test's own clients, and what the allocator keeps.
            #expect(grown < 200_000 || Sanitizer.isOn, "\(grown) KB")
            // Five abusers share two cores with the broker and its clients.
            let ratio = Self.percentile99(stressed) / max(Self.percentile99(calm), .microseconds(500))
            print(
                "abuse: a good client's p99 is \(Self.percentile99(calm)) unloaded, \(Self.percentile99(stressed)) in the crowd"
            )
            #expect(ratio < 30, "p99 \(Self.percentile99(calm)) unloaded, \(Self.percentile99(stressed)) in the crowd")
            try await deaf.drop()
        }
    }

    private static func sendGarbage(_ count: Int, port: Int) async throws {
        var random = SplitMix64(seed: 4)
        var seeds: [[UInt8]] = []
        let topic = try TopicName("a/b")
        let packets: [Packet] = [
            .connect(Connect(version: .v5_0, clientID: "g", username: "garbage", properties: [.receiveMaximum(9)])),
            .publish(Publish(topic: topic, payload: ByteBuffer(string: "payload"), qos: .atLeastOnce, packetID: 1)),
            .subscribe(
                Subscribe(
                    packetID: 2, subscriptions: [Subscription(filter: try TopicFilter("a/#"), maximumQoS: .atLeastOnce)]
                )),
            .pubAck(PubAck(packetID: 1)), .pingReq, .disconnect(Disconnect()),
        ]
        for packet in packets {
            var buffer = ByteBuffer()
            try packet.encode(into: &buffer, version: .v5_0)
            seeds.append(Array(buffer.readableBytesView))
        }
        // Twenty on each connection, the first a good CONNECT every second time.
        for connection in 0..<count / 20 {
            var bytes = connection % 2 == 0 ? seeds[0] : []
            for _ in 0..<20 {
                var packet = seeds[Int.random(in: 0..<seeds.count, using: &random)]
                if Bool.random(using: &random) {
                    for _ in 0..<3 {
                        packet[Int.random(in: 0..<packet.count, using: &random)] = .random(in: 0...255, using: &random)
                    }
                } else if Bool.random(using: &random) {
                    packet = (0..<Int.random(in: 1...64, using: &random)).map { _ in
                        .random(in: 0...255, using: &random)
                    }
                }
                bytes += packet
            }
            let client = try await ByteClient.connect(port: port)
            try? await client.send(bytes)
            await client.drop()
        }
    }

    @Test("Two thousand idle TLS connections cost a bounded amount of memory each, and a good client little time")
    func idleCrowd() async throws {
        let pki = try TestPKI()
        let count = 2_000
        var limits = self.limits()
        limits.connectDeadline = 60
        let tls = try BrokerTLS(
            chainPEM: pki.broker.chainPEM, keyPEM: pki.broker.keyPEM, rootsPEM: pki.rootPEM)
        try await self.withBroker(
            .tls(host: "127.0.0.1", port: 0), limits: limits, tls: tls, gate: try pki.gate()
        ) { broker in
            var configuration = TLSConfiguration.makeClientConfiguration()
            configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(pki.rootPEM.utf8)))
            let party = try pki.auditor("auditor-1")
            configuration.certificateChain = try NIOSSLCertificate.fromPEMBytes(Array(party.chainPEM.utf8))
                .map { .certificate($0) }
            configuration.privateKey = .privateKey(
                try NIOSSLPrivateKey(bytes: Array(party.keyPEM.utf8), format: .pem))
            let context = try NIOSSLContext(configuration: configuration)
            let before = Self.residentKilobytes
            var clients: [RawClient] = []
            for number in 0..<count {
                let client = try await RawClient.connect(port: broker.port, tls: context)
                try await client.send(.connect(Connect(version: .v5_0, clientID: "i\(number)")))
                #expect(try await client.expectConnAck().reasonCode == .success)
                clients.append(client)
            }
            #expect(try await broker.broker.statistics().connections == count)
            // Both ends are in this process: the client's, which keeps larger buffers, is most of it.
            let each = (Self.residentKilobytes - before) / count
            #expect(each < 150 || Sanitizer.isOn, "\(each) KB for both ends of a connection")
            for client in clients { try await client.ping() }
        }
    }
}
