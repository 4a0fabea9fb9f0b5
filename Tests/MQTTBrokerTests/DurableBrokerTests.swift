import Foundation
import Logging
import MQTT
import MQTTBroker
import NIOCore
import TestSupport
import Testing

/// A broker with a store, over sockets.
@Suite struct DurableBrokerTests {
    private let folder: TemporaryDirectory

    init() throws { self.folder = try TemporaryDirectory() }

    private func configuration(_ durability: BrokerDurability = .safe) -> BrokerConfiguration {
        var configuration = BrokerConfiguration(
            listeners: [
                .plaintextOnLoopback(port: 0) { connect in connect.username.flatMap { try? auditor($0) } }
            ], authorizer: Permissive())
        configuration.store = BrokerConfiguration.Store(
            directory: self.folder.path("store"), durability: durability)
        return configuration
    }

    private static let keeps: Properties = [.sessionExpiryInterval(1_000)]

    @Test(
        "A session, its subscriptions, what waits in it and retained messages are there after a restart",
        arguments: BrokerDurability.allCases, TestBroker.threads)
    func restart(durability: BrokerDurability, threads: Int) async throws {
        try await TestBroker.with(self.configuration(durability), threads: [threads]) { broker in
            let (subscriber, connAck) = try await broker.connect("s", cleanStart: false, properties: Self.keeps)
            #expect(!connAck.sessionPresent)
            #expect(try await subscriber.subscribe("t/#", qos: .exactlyOnce) == [.grantedQoS2])
            try await subscriber.drop()
            let (publisher, _) = try await broker.connect("p")
            try await publisher.publish("t/1", "waiting", id: 1)
            #expect(try await publisher.expectPubAck().packetID == 1)
            try await publisher.publish("r/1", "retained", id: 2, retain: true)
            #expect(try await publisher.expectPubAck().packetID == 2)
        }
        try await TestBroker.with(self.configuration(durability), threads: [threads]) { broker in
            let (publisher, _) = try await broker.connect("p")
            try await publisher.publish("t/2", "later", id: 1)
            #expect(try await publisher.expectPubAck().packetID == 1)
            let (subscriber, connAck) = try await broker.connect("s", cleanStart: false, properties: Self.keeps)
            #expect(connAck.sessionPresent)
            for expected in ["waiting", "later"] {
                let publish = try await subscriber.expectPublish()
                #expect(String(buffer: publish.payload) == expected)
                try await subscriber.send(.pubAck(PubAck(packetID: publish.packetID)))
            }
            let (other, _) = try await broker.connect("o")
            try await other.subscribe("r/#")
            #expect(String(buffer: try await other.expectPublish().payload) == "retained")
        }
    }

    @Test(
        "On a full disk acknowledgements and publishers wait, and go on when there is room",
        arguments: TestBroker.threads)
    func fullDisk(threads: Int) async throws {
        try await TestBroker.with(self.configuration(), threads: [threads]) { broker in
            let store = try #require(broker.broker.sessionStore)
            let (subscriber, _) = try await broker.connect("s", cleanStart: false, properties: Self.keeps)
            try await subscriber.subscribe("t")
            try await subscriber.drop()
            try store.limitSize(pages: 40)
            // More than may wait for the disk.
            let payload = String(repeating: "x", count: 100_000)
            let publishers = [try await broker.connect("p-1").0, try await broker.connect("p-2").0]
            let sending = Task {
                for id in 1...220 as ClosedRange<UInt16> {
                    for publisher in publishers { try await publisher.publish("t", payload, id: id) }
                }
            }
            // Somebody else is served meanwhile.
            let (other, _) = try await broker.connect("o")
            try await other.ping()
            try store.limitSize(pages: 1 << 30)
            try await sending.value
            for publisher in publishers {
                for id in 1...220 as ClosedRange<UInt16> { #expect(try await publisher.expectPubAck().packetID == id) }
            }
            #expect(try await broker.broker.statistics().messagesDropped == 0)
        }
    }

    @Test("One store is for one broker")
    func lock() async throws {
        let configuration = self.configuration()
        try await TestBroker.with(configuration) { _ in
            #expect(throws: BrokerError(.storeInUse, "")) {
                try Broker(configuration: configuration, logger: Logger(label: "second"))
            }
        }
    }

    @Test("A broker whose store has given up ends, and says so")
    func failure() async throws {
        var logger = Logger(label: "broker")
        logger.logLevel = .critical
        let broker = try Broker(configuration: self.configuration(), logger: logger)
        let running = Task { try await broker.run() }
        let port = try await broker.boundPorts()[0]
        broker.sessionStore?.close()
        let client = try await RawClient.connect(port: port)
        try await client.send(
            .connect(
                Connect(
                    version: .v5_0, clientID: "c", cleanStart: true, keepAlive: 0, username: "c",
                    properties: Self.keeps)))
        let result = try await withDeadline(.seconds(20), "the broker ends") { await running.result }
        #expect(throws: BrokerError(.closed, "")) { try result.get() }
    }
}
