import MQTT
import MQTTClient
import MessageBus
import NIOCore
import Synchronization
import TestSupport
import Testing

/// Against a server that does what the script says, over loopback.
struct MQTTClientBusTests {
    private func message(_ packetID: UInt16, _ text: String, qos: QoS = .atLeastOnce) throws -> Packet {
        .publish(
            Publish(
                topic: try TopicName("in/x"), payload: ByteBuffer(string: text), qos: qos,
                packetID: qos == .atMostOnce ? 0 : packetID))
    }

    @Test("Connects, subscribes, delivers, and says DISCONNECT at the end", arguments: ProtocolVersion.allCases)
    func life(version: ProtocolVersion) async throws {
        let server = try await ScriptedServer(version: version)
        let bus = try MQTTClientBus(quiet: .plaintext(port: server.port, version: version))
        let connection = try await withBus(bus) { bus, events in
            let (connection, connect) = try await server.acceptAndLetIn()
            #expect(connect.version == version)
            #expect(connect.clientID == "me")
            try await events.untilConnected()
            connection.send(try message(1, "hello"))
            let delivery = try await events.nextDelivery()
            #expect(delivery.text == "hello")
            #expect(delivery.topic.rawValue == "in/x")
            #expect(delivery.qos == .atLeastOnce)
            delivery.settle()
            #expect(try await connection.next() == acknowledge(1))
            return connection
        }
        #expect(try await connection.next() == .disconnect(Disconnect()))
        #expect(try await connection.next() == nil)
        #expect(try await bus.receive() == nil)
        await #expect(throws: BusError(.closed, "")) { try await bus.publish("out") }
    }

    @Test("A packet may come byte by byte")
    func partialFrames() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { _, events in
            let (connection, _) = try await server.acceptAndLetIn()
            let bytes = try encoded(message(1, "slow"), .v5_0) + encoded(message(2, "rest"), .v5_0)
            for byte in bytes { try await connection.channel.writeAndFlush(ByteBuffer(bytes: [byte])).get() }
            #expect(try await events.nextDelivery().text == "slow")
            #expect(try await events.nextDelivery().text == "rest")
        }
    }

    @Test("Deliveries settled from many tasks in any order are acknowledged in the order they came")
    func settlingOrder() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { _, events in
            let (connection, _) = try await server.acceptAndLetIn()
            let ids = Array(UInt16(1)...200)
            connection.send(try ids.map { try message($0, "\($0)") })
            var deliveries: [Delivery] = []
            for _ in ids { deliveries.append(try await events.nextDelivery()) }
            var randomness = SplitMix64(seed: 1)
            let shuffled = deliveries.shuffled(using: &randomness)
            await withTaskGroup(of: Void.self) { group in
                for delivery in shuffled { group.addTask { delivery.settle() } }
            }
            for id in ids { #expect(try await connection.next() == acknowledge(id)) }
        }
    }

    @Test("A publish returns at its PUBACK; a refused one throws")
    func publish() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { bus, events in
            let (connection, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            async let first: Void = bus.publish("out/1", "one")
            guard case .publish(let publish) = try await connection.next() else {
                throw Unexpected(description: "no PUBLISH")
            }
            #expect(publish.topic.rawValue == "out/1")
            #expect(String(buffer: publish.payload) == "one")
            connection.send(acknowledge(publish.packetID))
            try await first
            let second = Task { try await bus.publish("out/2", "two") }
            guard case .publish(let refused) = try await connection.next() else {
                throw Unexpected(description: "no PUBLISH")
            }
            connection.send(acknowledge(refused.packetID, .notAuthorized))
            await #expect(throws: BusError(.notAuthorized, "")) { try await second.value }
        }
    }

    @Test("A batch has an outcome for each message, in their order, within the server's Receive Maximum")
    func batch() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { bus, events in
            let (connection, _) = try await server.acceptAndLetIn(properties: [.receiveMaximum(2)])
            try await events.untilConnected()
            let messages = try (0..<5).map { OutgoingMessage(topic: try TopicName("out/\($0)"), payload: ByteBuffer()) }
            async let outcomes = bus.publish(batch: messages)
            for round in 0..<3 {
                var ids: [UInt16] = []
                for _ in 0..<(round == 2 ? 1 : 2) {
                    guard case .publish(let publish) = try await connection.next() else {
                        throw Unexpected(description: "no PUBLISH")
                    }
                    ids.append(publish.packetID)
                }
                connection.send(ids.map { acknowledge($0, round == 1 ? .quotaExceeded : .success) })
            }
            let refused = BusError(.refused, "")
            #expect(try await outcomes == [nil, nil, refused, refused, nil])
            #expect(try await bus.publish(batch: []).isEmpty)
        }
    }

    @Test("A publish that nobody waits for any more throws, and its PUBACK is still expected")
    func cancelPublish() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { bus, events in
            let (connection, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            let task = Task { try await bus.publish("out/1") }
            guard case .publish(let publish) = try await connection.next() else {
                throw Unexpected(description: "no PUBLISH")
            }
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            connection.send(acknowledge(publish.packetID), try message(1, "still here"))
            #expect(try await events.nextDelivery().text == "still here")
        }
    }

    @Test("A task that waits for events can be cancelled")
    func cancelReceive() async throws {
        let bus = try MQTTClientBus(quiet: .plaintext(port: 1))
        let task = Task { try await bus.receive() }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
    }

    @Test("A lost connection fails its publishes, comes back, and sends none of them again")
    func reconnect() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { bus, events in
            let (first, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            let lost = Task { try await bus.publish("out/lost") }
            _ = try await first.next()
            first.close()
            await #expect(throws: BusError(.disconnected, "")) { try await lost.value }
            #expect(try await events.untilDisconnected() == BusError(.disconnected, ""))
            let (second, connect) = try await server.acceptAndLetIn(sessionPresent: true)
            #expect(!connect.cleanStart)
            #expect(connect.properties.sessionExpiryInterval == UInt32(1_209_600))
            try await events.untilConnected()
            async let kept: Void = bus.publish("out/kept")
            guard case .publish(let publish) = try await second.next() else {
                throw Unexpected(description: "no PUBLISH")
            }
            #expect(publish.topic.rawValue == "out/kept")
            second.send(acknowledge(publish.packetID))
            try await kept
        }
    }

    @Test("Told to resend, publishes outlive the connection and go again as duplicates")
    func resend() async throws {
        let server = try await ScriptedServer()
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port)
        configuration.unacknowledged = .resend
        try await withBus(MQTTClientBus(quiet: configuration)) { bus, events in
            let (first, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            async let publish: Void = bus.publish("out/again")
            guard case .publish(let sent) = try await first.next() else {
                throw Unexpected(description: "no PUBLISH")
            }
            first.close()
            let (second, _) = try await server.acceptAndLetIn(sessionPresent: true)
            guard case .publish(let repeated) = try await second.next() else {
                throw Unexpected(description: "no PUBLISH")
            }
            #expect(repeated.isDuplicate)
            #expect(repeated.packetID == sent.packetID)
            second.send(acknowledge(repeated.packetID))
            try await publish
        }
    }

    @Test("The waits between attempts grow, and are asked of the clock that was handed in")
    func waits() async throws {
        let port = try freePort()
        var configuration = try MQTTClientConfiguration.plaintext(port: port)
        configuration.backoff = Backoff(base: .seconds(1000), maximum: .seconds(4000))
        let clock = RecordingClock(limit: 4)
        let bus = try MQTTClientBus(quiet: configuration, clock: clock, randomness: Largest())
        try await withBus(bus) { _, events in
            let error = try await events.untilDisconnected()
            #expect(error == BusError(.disconnected, ""))
            try await withDeadline(.seconds(30), "four waits") { await clock.reached() }
        }
        #expect(clock.waits.prefix(4) == [1000, 2000, 4000, 4000].map { .seconds($0) }[...])
    }

    @Test("A shutdown does not wait for the next attempt")
    func shutDownWhileWaiting() async throws {
        var configuration = try MQTTClientConfiguration.plaintext(port: freePort())
        configuration.backoff = Backoff(base: .seconds(100_000), maximum: .seconds(100_000))
        let bus = try MQTTClientBus(quiet: configuration, randomness: Largest())
        try await withDeadline(.seconds(30), "the bus ends") {
            try await withBus(bus) { _, events in _ = try await events.untilDisconnected() }
        }
        #expect(try await bus.receive() == nil)
    }

    @Test("A graceful shutdown waits for the PUBACKs under way")
    func gracefulShutDown() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { bus, events in
            let (connection, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            async let publish: Void = bus.publish("out")
            guard case .publish(let sent) = try await connection.next() else {
                throw Unexpected(description: "no PUBLISH")
            }
            bus.shutDown()
            connection.send(acknowledge(sent.packetID))
            try await publish
            #expect(try await connection.next() == .disconnect(Disconnect()))
        }
    }

    @Test("A graceful shutdown waits no longer than it may")
    func shutDownTimeout() async throws {
        let server = try await ScriptedServer()
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port)
        configuration.shutdownTimeout = .milliseconds(20)
        try await withBus(MQTTClientBus(quiet: configuration)) { bus, events in
            let (connection, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            let publish = Task { try await bus.publish("out") }
            _ = try await connection.next()
            bus.shutDown()
            await #expect(throws: BusError(.closed, "")) { try await publish.value }
        }
    }

    @Test("Cancelling ends the bus at once")
    func cancel() async throws {
        let server = try await ScriptedServer()
        let bus = try MQTTClientBus(quiet: .plaintext(port: server.port))
        let task = Task { try await bus.run() }
        let (connection, _) = try await server.acceptAndLetIn()
        try await Events(bus).untilConnected()
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        #expect(try await connection.next() == .disconnect(Disconnect()))
    }

    struct Misdeed: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let bytes: [UInt8]
        let farewell: ReasonCode
    }

    static let misdeeds = [
        Misdeed(testDescription: "PUBACK that nobody asked for", bytes: [0x40, 2, 0, 9], farewell: .protocolError),
        Misdeed(testDescription: "PUBCOMP that nobody asked for", bytes: [0x70, 2, 0, 9], farewell: .protocolError),
        Misdeed(testDescription: "CONNECT", bytes: [0x10, 0], farewell: .protocolError),
        Misdeed(testDescription: "PINGREQ", bytes: [0xC0, 0], farewell: .protocolError),
        Misdeed(testDescription: "SUBSCRIBE", bytes: [0x82, 0], farewell: .protocolError),
        Misdeed(testDescription: "packet type 0", bytes: [0x00, 0], farewell: .malformedPacket),
        Misdeed(
            testDescription: "length of five bytes", bytes: [0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1],
            farewell: .malformedPacket),
        Misdeed(
            testDescription: "packet above the maximum, of which only the header came",
            bytes: [0x30, 0xFF, 0xFF, 0xFF, 0x7F], farewell: .packetTooLarge),
        Misdeed(
            testDescription: "topic alias without agreement", bytes: [0x30, 7, 0, 1, 0x61, 3, 0x23, 0, 1],
            farewell: .topicAliasInvalid),
        Misdeed(testDescription: "both QoS bits", bytes: [0x36, 6, 0, 1, 0x61, 0, 1, 0], farewell: .malformedPacket),
    ]

    @Test("A server that breaks the rules is told so and left; the bus comes back", arguments: misdeeds)
    func misbehaviour(misdeed: Misdeed) async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { _, events in
            let (connection, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            connection.send(bytes: misdeed.bytes)
            #expect(try await events.untilDisconnected() == BusError(.disconnected, ""))
            #expect(try await connection.next() == .disconnect(Disconnect(reasonCode: misdeed.farewell)))
            #expect(try await connection.next() == nil)
            _ = try await server.acceptAndLetIn()
            try await events.untilConnected()
        }
    }

    @Test("Messages beyond the announced Receive Maximum end the connection")
    func receiveMaximum() async throws {
        let server = try await ScriptedServer()
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port)
        configuration.receiveMaximum = 3
        try await withBus(MQTTClientBus(quiet: configuration)) { _, events in
            let (connection, connect) = try await server.acceptAndLetIn()
            #expect(connect.properties.receiveMaximum == 3)
            connection.send(try (UInt16(1)...4).map { try message($0, "") })
            _ = try await events.untilDisconnected()
            #expect(try await connection.next() == .disconnect(Disconnect(reasonCode: .receiveMaximumExceeded)))
        }
    }

    @Test("Refused by CONNACK or SUBACK, the bus says that it has no rights")
    func refused() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { _, events in
            let first = try await server.accept()
            _ = try await first.next()
            first.send(.connAck(ConnAck(sessionPresent: false, reasonCode: .notAuthorized)))
            #expect(try await events.untilDisconnected() == BusError(.notAuthorized, ""))
            let second = try await server.accept()
            _ = try await second.next()
            second.send(.connAck(ConnAck(sessionPresent: false, reasonCode: .success)))
            guard case .subscribe(let subscribe) = try await second.next() else {
                throw Unexpected(description: "no SUBSCRIBE")
            }
            second.send(.subAck(SubAck(packetID: subscribe.packetID, reasonCodes: [.notAuthorized])))
            #expect(try await events.untilDisconnected() == BusError(.notAuthorized, ""))
            #expect(try await second.next() == .disconnect(Disconnect()))
        }
    }

    @Test("A server that never answers CONNECT is given up")
    func connectTimeout() async throws {
        let server = try await ScriptedServer()
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port)
        configuration.connectTimeout = .milliseconds(50)
        let frozen = configuration
        await #expect(throws: error(.connectTimeout)) { try await MQTTConnection.withConnection(frozen) { _ in } }
    }

    @Test("A server that no longer answers is asked, then given up")
    func keepAliveTimeout() async throws {
        let server = try await ScriptedServer()
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port)
        configuration.keepAlive = .seconds(1)
        configuration.pingTimeout = .milliseconds(20)
        try await withBus(MQTTClientBus(quiet: configuration)) { _, events in
            let (connection, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            let lost = try await events.untilDisconnected()
            #expect(lost.code == .disconnected)
            #expect(lost.reason.hasPrefix("keep-alive-timeout"))
            #expect(try await connection.next() == .pingReq)
        }
    }

    @Test(
        "What is not received is not read: the server is held up, kept alive, and nothing is lost",
        arguments: ProtocolVersion.allCases)
    func backpressure(version: ProtocolVersion) async throws {
        let server = try await ScriptedServer(version: version)
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port, version: version)
        configuration.maximumBufferedDeliveries = 100
        configuration.keepAlive = .seconds(1)
        configuration.pingTimeout = .seconds(2)
        try await withBus(MQTTClientBus(quiet: configuration)) { _, events in
            let (connection, _) = try await server.acceptAndLetIn()
            try await events.untilConnected()
            // More than loopback's buffers hold: while nobody receives, the server's writing must come to a halt.
            let count = 4000
            let payload = ByteBuffer(repeating: 7, count: 10_000)
            let packet = try encoded(.publish(Publish(topic: try TopicName("in/x"), payload: payload)), version)
            let written = Counter()
            for _ in 0..<count {
                connection.channel.writeAndFlush(ByteBuffer(bytes: packet)).whenSuccess { written.increment() }
            }
            // Five questions, 0.75 s apart: longer than an answer may take, and time enough to read everything,
            // if it were read. The answers stand behind the messages.
            for _ in 0..<5 {
                try #require(try await connection.next() == .pingReq)
                connection.send(.pingResp)
            }
            #expect(written.value < count)
            for _ in 0..<count { #expect(try await events.nextDelivery().payload == payload) }
        }
    }

    @Test("3.1.1: unsettled deliveries at the maximum hold the server up until they are settled")
    func unsettledBackpressure() async throws {
        let server = try await ScriptedServer(version: .v3_1_1)
        var configuration = try MQTTClientConfiguration.plaintext(port: server.port, version: .v3_1_1)
        configuration.receiveMaximum = 10
        try await withBus(MQTTClientBus(quiet: configuration)) { bus, events in
            let (connection, _) = try await server.acceptAndLetIn()
            connection.send(try (UInt16(1)...10).map { try message($0, "") })
            var deliveries: [Delivery] = []
            for _ in 0..<10 { deliveries.append(try await events.nextDelivery()) }
            // The answer to this publish is not read: it stands behind the brake.
            let publish = Task { try await bus.publish("out") }
            guard case .publish(let sent) = try await connection.next() else {
                throw Unexpected(description: "no PUBLISH")
            }
            connection.send(acknowledge(sent.packetID))
            for delivery in deliveries { delivery.settle() }
            for id in UInt16(1)...10 { #expect(try await connection.next() == acknowledge(id)) }
            try await publish.value
        }
    }

    @Test("While nobody receives, a server that comes and goes fills no memory: only the last is told")
    func flapping() async throws {
        let server = try await ScriptedServer()
        try await withBus(MQTTClientBus(quiet: .plaintext(port: server.port))) { bus, _ in
            for _ in 0..<20 {
                let (connection, _) = try await server.acceptAndLetIn()
                connection.close()
            }
            let (connection, _) = try await server.acceptAndLetIn()
            connection.send(try message(1, "end"))
            var told = 0
            let events = Events(bus)
            while let event = try await events.next() {
                if case .delivery = event { break }
                told += 1
            }
            #expect(told <= 2)
        }
    }
}

/// Counts on any thread.
private final class Counter: Sendable {
    private let count = Atomic<Int>(0)
    var value: Int { self.count.load(ordering: .relaxed) }
    func increment() { self.count.add(1, ordering: .relaxed) }
}

/// A clock whose sleeps end at once, all but the first few: those are recorded, later ones last.
private final class RecordingClock: Clock, Sendable {
    struct Instant: InstantProtocol {
        var offset: Duration
        func advanced(by duration: Duration) -> Instant { Instant(offset: self.offset + duration) }
        func duration(to other: Instant) -> Duration { other.offset - self.offset }
        static func < (a: Instant, b: Instant) -> Bool { a.offset < b.offset }
    }

    private let state = Mutex<[Duration]>([])
    private let limit: Int
    private let signal = AsyncStream<Void>.makeStream()

    init(limit: Int) { self.limit = limit }

    var now: Instant { Instant(offset: .zero) }
    var minimumResolution: Duration { .zero }
    var waits: [Duration] { self.state.withLock { $0 } }

    func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        let count = self.state.withLock { waits in
            waits.append(deadline.offset)
            return waits.count
        }
        guard count >= self.limit else { return }
        self.signal.continuation.finish()
        try await Task.sleep(for: .seconds(3600))
    }

    /// Waits until there were so many sleeps.
    func reached() async { for await _ in self.signal.stream {} }
}

/// Always the largest number.
struct Largest: RandomNumberGenerator, Sendable {
    mutating func next() -> UInt64 { .max }
}
