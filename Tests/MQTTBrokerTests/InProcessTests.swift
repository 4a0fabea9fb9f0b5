import Identity
import MQTT
import MQTTBroker
import MessageBus
import NIOCore
import TestSupport
import Testing

/// The control center's session in the broker's own process.
struct InProcessTests {
    private func open(_ broker: TestBroker) async throws -> InProcessSession {
        try await broker.broker.openInProcessSession(
            identity: try peer(.controlCenter, "center-1"), clientID: "center",
            subscriptions: [Subscription(filter: try TopicFilter("audits/#"), maximumQoS: .atLeastOnce)])
    }

    private func deliveries(_ session: InProcessSession, count: Int) async throws -> [Delivery] {
        var found: [Delivery] = []
        while found.count < count {
            let events = try await withDeadline(.seconds(20), "a delivery comes") { try await session.receive() }
            guard let events else { break }
            for case .delivery(let delivery) in events { found.append(delivery) }
        }
        return found
    }

    @Test("It is connected at once, and deliveries tell their sender")
    func sender() async throws {
        try await TestBroker.withPlaintext { broker in
            let session = try await self.open(broker)
            guard case .connected? = try await session.receive()?.first else { throw UnexpectedPacket() }
            let (publisher, _) = try await broker.connect("auditor-1")
            try await publisher.publish("audits/measures/auditor-1", "m")
            let delivery = try await self.deliveries(session, count: 1)[0]
            #expect(delivery.sender == (try auditor("auditor-1")))
            #expect(delivery.topic == (try TopicName("audits/measures/auditor-1")))
            #expect(String(buffer: delivery.payload) == "m")
            delivery.settle()
            #expect(try await publisher.expectPubAck().packetID == 1)
        }
    }

    @Test("PUBACKs wait for settlement and go out in order, whatever the order of settling")
    func order() async throws {
        try await TestBroker.withPlaintext { broker in
            let session = try await self.open(broker)
            let (publisher, _) = try await broker.connect("auditor-1")
            for number in 1...20 {
                try await publisher.publish("audits/measures/auditor-1", "\(number)", id: UInt16(number))
            }
            let deliveries = try await self.deliveries(session, count: 20)
            #expect(deliveries.map { String(buffer: $0.payload) } == (1...20).map { "\($0)" })
            // Nothing was acknowledged yet: the answer to a ping comes first.
            try await publisher.ping()
            for delivery in deliveries.reversed() { delivery.settle() }
            for number in 1...20 { #expect(try await publisher.expectPubAck().packetID == UInt16(number)) }
        }
    }

    @Test("What a publisher sent before it left is received, though it was held when it left; its will is not")
    func leftWhileHeld() async throws {
        var limits = BrokerLimits()
        limits.maximumInProcessMessages = 100
        try await TestBroker.withPlaintext(limits: limits) { broker in
            let session = try await self.open(broker)
            let publisher = try await RawClient.connect(port: broker.port)
            let will = Will(
                topic: try TopicName("audits/alerts/auditor-1"), payload: [1], qos: .atLeastOnce, retain: false)
            try await publisher.send(
                .connect(Connect(version: .v5_0, clientID: "c", will: will, username: "auditor-1")))
            _ = try await publisher.expectConnAck()
            try await publisher.publishAndLeave("audits/measures/auditor-1", 5_000)
            let deliveries = try await self.deliveries(session, count: 5_000)
            #expect(deliveries.map { String(buffer: $0.payload) } == (1...5_000).map { "\($0)" })
            try await broker.events.wait("it has left") { if case .disconnected = $0 { true } else { false } }
            let (other, _) = try await broker.connect("auditor-2")
            try await other.publish("audits/measures/auditor-2", "last")
            #expect(String(buffer: try await self.deliveries(session, count: 1)[0].payload) == "last")
            #expect(try await broker.broker.statistics().sockets == 1)
        }
    }

    @Test(
        "A control center that does not receive loses nothing: its publishers wait", arguments: ProtocolVersion.allCases
    )
    func backPressure(version: ProtocolVersion) async throws {
        var limits = BrokerLimits()
        limits.maximumInProcessMessages = 100
        limits.receiveMaximum = 65_535
        try await TestBroker.withPlaintext(limits: limits) { broker in
            let session = try await self.open(broker)
            let (publisher, _) = try await broker.connect("auditor-1", version: version)
            let count = 3_000
            let sending = Task {
                for number in 1...count {
                    try await publisher.publish(
                        "audits/measures/auditor-1", String(repeating: "x", count: 2_000), id: UInt16(number))
                }
            }
            var received = 0
            while received < count {
                let deliveries = try await self.deliveries(session, count: 1)
                received += deliveries.count
                for delivery in deliveries { delivery.settle() }
            }
            try await sending.value
            for number in 1...count { #expect(try await publisher.expectPubAck().packetID == UInt16(number)) }
            #expect(received == count)
        }
    }

    @Test("What it publishes reaches subscribers; what it may not is refused")
    func publishes() async throws {
        try await TestBroker.withPlaintext { broker in
            let session = try await self.open(broker)
            let (subscriber, _) = try await broker.connect("auditor-1", version: .v3_1_1)
            try await subscriber.subscribe("control_center/receipts/auditor-1")
            try await session.publish(
                topic: try TopicName("control_center/receipts/auditor-1"), payload: ByteBuffer(string: "r"),
                qos: .atLeastOnce, retain: false)
            #expect(String(buffer: try await subscriber.expectPublish().payload) == "r")
            let topic = try TopicName("audits/measures/auditor-1")
            await #expect(throws: BusError(.refused, "")) {
                try await session.publish(topic: topic, payload: ByteBuffer(), qos: .atLeastOnce, retain: false)
            }
        }
    }

    @Test("It may not subscribe to what its identity may not read")
    func notAuthorized() async throws {
        try await TestBroker.withPlaintext { broker in
            let subscription = Subscription(filter: try TopicFilter("audits/#"), maximumQoS: .atLeastOnce)
            let identity = try auditor("auditor-1")
            await #expect(throws: BrokerError(.notAuthorized, "")) {
                _ = try await broker.broker.openInProcessSession(
                    identity: identity, clientID: "c", subscriptions: [subscription])
            }
        }
    }

    @Test("Cancelled, receive throws; closed, it returns nil, and publishing is an error")
    func ends() async throws {
        try await TestBroker.withPlaintext { broker in
            let session = try await self.open(broker)
            _ = try await session.receive()
            let waiting = Task { try await session.receive() }
            waiting.cancel()
            await #expect(throws: CancellationError.self) { _ = try await waiting.value }
            let (publisher, _) = try await broker.connect("auditor-1")
            try await publisher.publish("audits/measures/auditor-1")
            _ = try await self.deliveries(session, count: 1)
            await session.close()
            #expect(try await session.receive() == nil ? true : false)
            // It was never settled: the publisher is sent away to publish it again.
            #expect(try await publisher.expectDisconnect() == .serverShuttingDown)
            let topic = try TopicName("control_center/receipts/auditor-1")
            await #expect(throws: BusError(.closed, "")) {
                try await session.publish(topic: topic, payload: ByteBuffer(), qos: .atLeastOnce, retain: false)
            }
        }
    }

    @Test("The broker's end ends the session")
    func brokerEnds() async throws {
        var session: InProcessSession?
        try await TestBroker.withPlaintext { broker in
            session = try await self.open(broker)
            _ = try await session?.receive()
        }
        let events = try await session?.receive()
        #expect(events == nil ? true : false)
    }
}
