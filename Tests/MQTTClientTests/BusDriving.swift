import Logging
import MQTT
import MQTTClient
import MessageBus
import NIOCore
import Synchronization
import TestSupport

/// What a bus tells, one event at a time.
final class Events: Sendable {
    private let bus: any MessageBus
    private let pending = Mutex<[BusEvent]>([])

    init(_ bus: some MessageBus) { self.bus = bus }

    /// The next event; `nil` at the end.
    func next() async throws -> BusEvent? {
        if let event = self.pending.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { return event }
        let bus = self.bus
        guard let events = try await withDeadline(.seconds(30), "an event", { try await bus.receive() }) else {
            return nil
        }
        self.pending.withLock { $0 = events }
        return try await self.next()
    }

    func nextDelivery() async throws -> Delivery {
        try await self.until("a delivery") { if case .delivery(let delivery) = $0 { delivery } else { nil } }
    }

    func untilConnected() async throws {
        try await self.until("the bus is connected") { if case .connected = $0 { () } else { nil } }
    }

    /// Why the bus is, or will be, disconnected.
    func untilDisconnected() async throws -> BusError {
        try await self.until("the bus is disconnected") { if case .disconnected(let error) = $0 { error } else { nil } }
    }

    /// What is wanted of the first event that has it. Others in between don't prolong the deadline: a bus that only
    /// comes and goes is a failure.
    private func until<Value: Sendable>(
        _ what: String, _ wanted: @escaping @Sendable (BusEvent) -> Value?
    ) async throws -> Value {
        try await withDeadline(.seconds(30), what) {
            while let event = try await self.next() {
                if let value = wanted(event) { return value }
            }
            throw Unexpected(description: "the bus ended before: \(what)")
        }
    }
}

extension MQTTClientConfiguration {
    /// To a server of this machine, without TLS, subscribed to `in/#`, back at once after a loss.
    static func plaintext(
        port: Int, version: ProtocolVersion = .v5_0, clientID: String = "me", subscribe: String = "in/#"
    ) throws -> MQTTClientConfiguration {
        var configuration = MQTTClientConfiguration(
            host: "127.0.0.1", port: port, transport: .plaintextLoopback, version: version, clientID: clientID,
            subscriptions: [.init(try TopicFilter(subscribe))])
        configuration.backoff = Backoff(base: .milliseconds(1), maximum: .milliseconds(20))
        return configuration
    }
}

extension MQTTClientBus {
    /// One that logs nothing.
    convenience init(
        quiet configuration: MQTTClientConfiguration, clock: any Clock<Duration> = ContinuousClock(),
        randomness: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator()
    ) throws(MQTTClientError) {
        try self.init(
            configuration, clock: clock, randomness: randomness,
            logger: Logger(label: "quiet") { _ in SwiftLogNoOpLogHandler() })
    }
}

/// Runs a bus while `body` uses it, then shuts it down.
func withBus<Value: Sendable>(
    _ bus: MQTTClientBus, _ body: @escaping @Sendable (MQTTClientBus, Events) async throws -> Value
) async throws -> Value {
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await bus.run() }
        defer { group.cancelAll() }
        let value = try await body(bus, Events(bus))
        bus.shutDown()
        try await group.waitForAll()
        return value
    }
}

extension MessageBus {
    func publish(
        _ topic: String, _ text: String = "", qos: QoS = .atLeastOnce, retain: Bool = false
    ) async throws {
        try await self.publish(
            topic: try TopicName(topic), payload: ByteBuffer(string: text), qos: qos, retain: retain)
    }
}

extension Delivery {
    var text: String { String(buffer: self.payload) }
}
