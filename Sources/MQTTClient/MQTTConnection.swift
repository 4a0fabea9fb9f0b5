public import MQTT
public import MessageBus
public import NIOCore
public import NIOPosix

/// One connection to an MQTT server, for as long as a closure runs. It does not come back by itself: that is
/// ``MQTTClientBus``.
///
///     try await MQTTConnection.withConnection(configuration) { connection in
///         try await connection.publish(topic: topic, payload: payload, qos: .atLeastOnce, retain: false)
///     }
public struct MQTTConnection: MessageBus {
    private let link: ClientLink

    /// Whether the server had kept our session.
    public let sessionPresent: Bool

    /// Connects, runs `body`, disconnects.
    ///
    /// - Throws: ``MQTTClientError`` if no connection comes about, else what `body` throws.
    public static func withConnection<Value>(
        _ configuration: MQTTClientConfiguration,
        eventLoopGroup: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
        _ body: (MQTTConnection) async throws -> Value
    ) async throws -> Value {
        let connector = try Connector(configuration: configuration, group: eventLoopGroup)
        let link = ClientLink(configuration: configuration)
        defer { link.close(BusError(.closed, "the connection is closed")) }
        return try await withTaskCancellationHandler {
            let attempt = try await connector.connect(link)
            // Deliveries and errors are told in this order: first what came, then that it is over.
            attempt.ended.whenSuccess { error in
                _ = link.events.push([.disconnected(error.busError)], deliveries: 0, bytes: 0)
                link.close(error.busError)
            }
            let sessionPresent = try await attempt.ready.get()
            let result: Result<Value, any Error>
            do {
                result = .success(try await body(MQTTConnection(link: link, sessionPresent: sessionPresent)))
            } catch {
                result = .failure(error)
            }
            link.shutDown()
            _ = try await attempt.ended.get()
            return try result.get()
        } onCancel: {
            link.abort()
        }
    }

    public func receive() async throws -> [BusEvent]? { try await self.link.receive() }

    public func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws {
        try await self.link.publish(OutgoingMessage(topic: topic, payload: payload, qos: qos, retain: retain))
    }

    /// As ``MQTTClientBus/publish(batch:)``.
    public func publish(batch messages: [OutgoingMessage]) async throws -> [BusError?] {
        try await self.link.publish(batch: messages)
    }
}
