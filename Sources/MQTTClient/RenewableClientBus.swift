public import Logging
public import MQTT
public import MessageBus
public import NIOCore
public import ServiceLifecycle
import Synchronization

/// An ``MQTTClientBus`` whose configuration can be exchanged while it runs: another certificate, another broker.
///
/// ``replace(_:)`` ends the present connection in good order, with its outstanding acknowledgements, and begins
/// another one. Who receives sees a `disconnected` and then a `connected`, as after any lost connection.
public final class RenewableClientBus: MessageBus, Service {
    private let current: Mutex<MQTTClientBus>
    private let logger: Logger

    /// - Throws: ``MQTTClientError`` with code `invalid-configuration`.
    public init(
        _ configuration: MQTTClientConfiguration, logger: Logger = Logger(label: "mqtt-client")
    ) throws(MQTTClientError) {
        self.current = Mutex(try MQTTClientBus(configuration, logger: logger))
        self.logger = logger
    }

    /// Goes on with another configuration.
    ///
    /// - Throws: ``MQTTClientError`` with code `invalid-configuration`; then nothing has changed.
    public func replace(_ configuration: MQTTClientConfiguration) throws(MQTTClientError) {
        let next = try MQTTClientBus(configuration, logger: self.logger)
        let former = self.current.withLock { current in
            defer { current = next }
            return current
        }
        former.shutDown()
    }

    private var bus: MQTTClientBus { self.current.withLock { $0 } }

    /// Connects, and connects again, until a graceful shutdown.
    ///
    /// - Throws: `CancellationError` when cancelled.
    public func run() async throws {
        while true {
            let bus = self.bus
            try await bus.run()
            // Its end is ours, unless another one has taken its place. That one learns of a shutdown by itself.
            if self.bus === bus { return }
        }
    }

    public func receive() async throws -> [BusEvent]? {
        let bus = self.bus
        if let events = try await bus.receive() { return events }
        guard self.bus !== bus else { return nil }
        return [.disconnected(BusError(.disconnected, "the connection is made anew with another configuration"))]
    }

    public func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws {
        try await self.bus.publish(topic: topic, payload: payload, qos: qos, retain: retain)
    }
}
