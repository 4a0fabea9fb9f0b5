public import Logging
public import MQTT
public import MessageBus
public import NIOCore
public import NIOPosix
public import ServiceLifecycle

/// A ``MessageBus`` over an MQTT server, which comes back by itself.
///
/// ``run()`` keeps a connection as long as it runs. Each time, in this order: TCP, TLS with our checks, CONNECT,
/// subscriptions; when all are granted, ``BusEvent/connected``. Messages of a resumed session may be delivered
/// before that: the server sends them right behind its CONNACK.
///
/// **Deliveries** above QoS 0 are acknowledged when they are settled, in the order in which they came. What is
/// not settled when the connection is lost comes again at QoS 1; settling the former delivery then does nothing.
/// At QoS 2 it does not come again: the former delivery is the one to settle.
/// What is not received is not read from the network, beyond a bound: while a task that should receive does
/// something else for long, acknowledgements of publishes are not read either. So the task that receives must
/// not wait for a publish.
///
/// **Publishes** of QoS 1 return at their PUBACK, of QoS 2 at their PUBCOMP. They wait while the server's window or the network is full.
/// When the connection is lost before, they fail with ``BusError/Code/disconnected`` and are forgotten: the
/// bus resends nothing whose failure it has told, for resending belongs to who keeps the message durably.
/// (``MQTTClientConfiguration/unacknowledged`` can choose otherwise; what was sent with QoS 2 always goes on.)
///
/// With a ``MQTTClientConfiguration/sessionStore`` it is the other way round: see ``enqueue(_:)``.
public final class MQTTClientBus: MessageBus, Service {
    private let configuration: MQTTClientConfiguration
    private let connector: Connector
    private let clock: any Clock<Duration>
    private let randomness: any RandomNumberGenerator & Sendable
    private let logger: Logger
    private let link: ClientLink

    /// - Parameters:
    ///   - clock: For the waits between attempts.
    ///   - randomness: For their jitter.
    /// - Throws: ``MQTTClientError`` with code `invalid-configuration` or `session-store`.
    public init(
        _ configuration: MQTTClientConfiguration,
        eventLoopGroup: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
        clock: any Clock<Duration> = ContinuousClock(),
        randomness: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator(),
        logger: Logger = Logger(label: "mqtt-client")
    ) throws(MQTTClientError) {
        self.configuration = configuration
        self.connector = try Connector(configuration: configuration, group: eventLoopGroup)
        self.clock = clock
        self.randomness = randomness
        self.logger = logger
        self.link = try self.connector.makeLink()
    }

    /// Connects, and connects again, until a graceful shutdown or ``shutDown()``; then waits for outstanding
    /// PUBACKs, says DISCONNECT and closes. Run it once.
    ///
    /// - Throws: `CancellationError` when cancelled: then it closes without waiting. ``MQTTClientError`` with code
    ///   `session-store` when the store fails.
    public func run() async throws {
        defer { self.link.close(self.link.failure ?? MQTTClientError(.closed, "the client has shut down")) }
        try await withTaskCancellationHandler {
            try await withGracefulShutdownHandler {
                await self.keepConnected()
                if let failure = self.link.failure { throw failure }
                try Task.checkCancellation()
            } onGracefulShutdown: {
                self.link.shutDown()
            }
        } onCancel: {
            self.link.abort()
        }
    }

    /// Begins a graceful shutdown; ``run()`` returns when it is done.
    public func shutDown() { self.link.shutDown() }

    public func receive() async throws -> [BusEvent]? { try await self.link.receive() }

    public func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws {
        do {
            try await self.link.publish(OutgoingMessage(topic: topic, payload: payload, qos: qos, retain: retain))
        } catch let error as MQTTClientError {
            throw error.busError
        }
    }

    /// Publishes and waits until the server holds the message: QoS 1 its PUBACK, QoS 2 its PUBCOMP.
    ///
    /// - Throws: ``MQTTClientError``, `CancellationError`. After an error the message may or may not have been
    ///   delivered, except after `publish-refused`, `message-too-large`, `not-offered`, `not-in-this-version`,
    ///   `session-unknown` and `not-connected`: then it was not.
    public func publish(_ message: OutgoingMessage) async throws {
        try await self.link.publish(message)
    }

    /// Takes a message over: returns when it is in the ``MQTTClientConfiguration/sessionStore``, connected or not.
    /// From then on it is delivered also if this process ends at any moment, once it runs again.
    ///
    /// If the server refuses it in the end, ``MQTTClientConfiguration/undeliverable`` is told.
    ///
    /// - Throws: ``MQTTClientError``: `invalid-request` (QoS 0, or no store), `session-store`, `closed`;
    ///   `CancellationError`.
    public func enqueue(_ message: OutgoingMessage) async throws { try await self.link.enqueue(message) }

    /// Publishes many messages, in their order, and waits until all have an outcome: cheaper than a task each.
    ///
    /// - Returns: For each message `nil`, or why it failed.
    /// - Throws: `CancellationError` only.
    public func publish(batch messages: [OutgoingMessage]) async throws -> [BusError?] {
        try await self.link.publish(batch: messages)
    }

    private func keepConnected() async {
        var randomness = self.randomness
        var failures = 0
        while !self.link.isEnding {
            let (error, lasted) = await self.connectOnce()
            if self.link.isEnding { break }
            _ = self.link.events.push([.disconnected(error.busError)], deliveries: 0, bytes: 0)
            failures = lasted >= self.configuration.backoff.stableAfter ? 1 : failures + 1
            let wait = self.configuration.backoff.wait(afterFailures: failures, using: &randomness)
            self.logger.info(
                "disconnected",
                metadata: ["reason": "\(error)", "failures": "\(failures)", "wait": "\(wait)"])
            let clock = self.clock
            await self.link.pause { try? await clock.sleep(for: wait) }
            // Each connection reads a little before it is held up: none while nobody receives.
            await self.link.events.waitForRoom()
        }
    }

    /// - Returns: Why it ended, and how long it was connected and subscribed.
    private func connectOnce() async -> (MQTTClientError, Duration) {
        do {
            let attempt = try await self.connector.connect(self.link)
            do {
                let server = try await attempt.ready.get()
                self.logger.info(
                    "connected",
                    metadata: [
                        "server": "\(self.configuration.address)", "session-present": "\(server.sessionPresent)",
                    ])
            } catch {
                return (try await attempt.ended.get(), .zero)
            }
            var error = MQTTClientError(.connectionLost, "")
            let lasted = try await self.clock.measure { error = try await attempt.ended.get() }
            return (error, lasted)
        } catch {
            return ((error as? MQTTClientError) ?? MQTTClientError(.connectionLost, "\(error)"), .zero)
        }
    }
}
