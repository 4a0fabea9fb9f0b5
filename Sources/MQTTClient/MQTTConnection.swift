public import MQTT
public import MessageBus
public import NIOCore
public import NIOPosix

/// One connection to an MQTT server, for as long as a closure runs. It does not come back by itself: that is
/// ``MQTTClientBus``.
///
///     try await MQTTConnection.withConnection(configuration) { connection in
///         try await connection.publish(OutgoingMessage(topic: "greetings", text: "hello", qos: .exactlyOnce))
///         try await connection.withSubscription(to: [.init(TopicFilter("answers/#"))]) { messages in
///             for try await message in messages { print(message.topic) }
///         }
///     }
///
/// Messages of the subscriptions in the configuration, of ``subscribe(to:)`` and of a resumed session come by
/// ``receive()``, those of ``withSubscription(to:acknowledgement:_:)`` there.
public struct MQTTConnection: MessageBus {
    private let link: ClientLink

    /// What the server said of itself and of our session.
    public let server: ServerInformation

    /// Whether the server had kept our session.
    public var sessionPresent: Bool { self.server.sessionPresent }

    /// Connects, runs `body`, waits for outstanding acknowledgements
    /// (``MQTTClientConfiguration/shutdownTimeout``), disconnects.
    ///
    /// - Throws: ``MQTTClientError`` if no connection comes about, else what `body` throws.
    public static func withConnection<Value>(
        _ configuration: MQTTClientConfiguration,
        eventLoopGroup: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
        _ body: (MQTTConnection) async throws -> Value
    ) async throws -> Value {
        let connector = try Connector(configuration: configuration, group: eventLoopGroup)
        let link = try connector.makeLink()
        // It owns the thread of a client with a session store.
        defer { withExtendedLifetime(connector) { link.close(MQTTClientError(.closed, "the connection is closed")) } }
        return try await withTaskCancellationHandler {
            let attempt = try await connector.connect(link)
            // Deliveries and errors are told in this order: first what came, then that it is over.
            attempt.ended.whenSuccess { error in
                _ = link.events.push([.disconnected(error.busError)], deliveries: 0, bytes: 0)
                link.close(error)
            }
            let server = try await attempt.ready.get()
            let result: Result<Value, any Error>
            do {
                result = .success(try await body(MQTTConnection(link: link, server: server)))
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
        do {
            try await self.link.publish(OutgoingMessage(topic: topic, payload: payload, qos: qos, retain: retain))
        } catch let error as MQTTClientError {
            throw error.busError
        }
    }

    /// As ``MQTTClientBus/publish(_:)``.
    public func publish(_ message: OutgoingMessage) async throws { try await self.link.publish(message) }

    /// As ``MQTTClientBus/enqueue(_:)``.
    public func enqueue(_ message: OutgoingMessage) async throws { try await self.link.enqueue(message) }

    /// As ``MQTTClientBus/publish(batch:)``.
    public func publish(batch messages: [OutgoingMessage]) async throws -> [BusError?] {
        try await self.link.publish(batch: messages)
    }

    // MARK: Subscribing

    /// Subscribes; the messages come by ``receive()``.
    ///
    /// - Returns: The QoS that the server grants for each, which may be lower than asked.
    /// - Throws: ``MQTTClientError``: `subscription-refused` if one of them is refused (the others are then
    ///   subscribed to), `not-offered`, `not-in-this-version`, `invalid-request`, or why the connection ended;
    ///   `CancellationError`.
    @discardableResult
    public func subscribe(to topics: [MQTTClientConfiguration.Topic]) async throws -> [QoS] {
        try await self.subscribe(to: topics, identifier: nil)
    }

    private func subscribe(to topics: [MQTTClientConfiguration.Topic], identifier: UInt32?) async throws -> [QoS] {
        try Self.granted(topics, try await self.ask(topics, identifier))
    }

    private func ask(
        _ topics: [MQTTClientConfiguration.Topic], _ identifier: UInt32?
    ) async throws -> [ReasonCode] {
        try await self.link.ask(.subscribe(topics.map { $0.subscription }, identifier: identifier))
    }

    private static func granted(
        _ topics: [MQTTClientConfiguration.Topic], _ codes: [ReasonCode]
    ) throws -> [QoS] {
        try zip(topics, codes).map { topic, code in
            guard let qos = QoS(rawValue: code.rawValue) else {
                throw MQTTClientError(.subscriptionRefused, "\(topic.filter): \(code)", reasonCode: code)
            }
            return qos
        }
    }

    /// Ends subscriptions. That there was none is no error.
    ///
    /// - Throws: ``MQTTClientError``: `subscription-refused` if the server refuses, `invalid-request`, or why the
    ///   connection ended; `CancellationError`.
    public func unsubscribe(from filters: [TopicFilter]) async throws {
        let codes = try await self.link.ask(.unsubscribe(filters))
        for (filter, code) in zip(filters, codes) where code.isFailure {
            throw MQTTClientError(.subscriptionRefused, "\(filter): \(code)", reasonCode: code)
        }
    }

    /// Subscribes, lets `body` read the messages, and unsubscribes.
    ///
    /// Each message that matches goes to every such subscription that wants it, and not to ``receive()``. What
    /// `body` has not read when it returns is dropped and acknowledged. While a subscription is not read, and its
    /// bound is reached, nothing is read from the network. In 3.1.1, which has no subscription identifiers, a
    /// server may send a message once for each of several subscriptions that overlap, and each gets it as often.
    ///
    /// - Parameters:
    ///   - topics: Each must be granted with at least its QoS.
    ///   - acknowledgement: When a message counts as dealt with.
    /// - Throws: What `body` throws; ``MQTTClientError`` as ``subscribe(to:)``, also for a lower QoS than asked.
    ///   Reading the messages throws why the connection ended.
    public func withSubscription<Value>(
        to topics: [MQTTClientConfiguration.Topic], acknowledgement: MQTTMessages.Acknowledgement = .automatic,
        _ body: (MQTTMessages) async throws -> Value
    ) async throws -> Value {
        let link = self.link
        let queue = SubscriptionQueue(
            identifier: link.nextIdentifier(self.server), filters: topics.map { $0.filter },
            configuration: link.configuration, madeRoom: { link.routeMadeRoom() })
        link.add(queue)
        defer {
            link.remove(queue)
            queue.discard()
        }
        let result: Result<Value, any Error>
        // What there is to end.
        var subscribed: [TopicFilter] = []
        do {
            let codes: [ReasonCode]
            do {
                codes = try await self.ask(topics, queue.identifier)
            } catch {
                // It may have come there all the same.
                if (error as? MQTTClientError)?.wasNotSent != true { subscribed = queue.filters }
                throw error
            }
            subscribed = zip(queue.filters, codes).filter { !$1.isFailure }.map(\.0)
            for (topic, qos) in zip(topics, try Self.granted(topics, codes)) {
                if let error = topic.refusal(ReasonCode(rawValue: qos.rawValue)) { throw error }
            }
            result = .success(try await body(MQTTMessages(queue: queue, acknowledgement: acknowledgement)))
            queue.settleLast()
        } catch {
            result = .failure(error)
        }
        // Also when we are cancelled, but then without waiting. What it throws says less than `result`: the
        // connection's end, mostly.
        guard !subscribed.isEmpty else { return try result.get() }
        let filters = subscribed
        let unsubscribing = Task { try await self.unsubscribe(from: filters) }
        if !Task.isCancelled {
            _ = await withTaskCancellationHandler {
                await unsubscribing.result
            } onCancel: {
                unsubscribing.cancel()
            }
        }
        return try result.get()
    }

    // MARK: Requests

    /// Publishes a request and waits for the answer (MQTT 5.0 section 4.10). Only 5.0.
    ///
    /// The request carries a response topic and correlation data of ours in place of its own. The response topic
    /// is `<base>/<random>`, where the base is the server's
    /// ``ServerInformation/responseInformation`` if there is one, else `responses`; it is subscribed to once for a
    /// connection.
    ///
    /// - Parameter timeout: How long to wait, from the call on.
    /// - Throws: ``MQTTClientError``: `request-timeout`, `not-in-this-version`, all that
    ///   ``MQTTClientBus/publish(_:)`` and ``subscribe(to:)`` throw; `CancellationError`.
    public func request(_ message: OutgoingMessage, timeout: Duration) async throws -> Delivery {
        guard self.link.configuration.version == .v5_0 else {
            throw MQTTClientError(.notInThisVersion, "MQTT 3.1.1 has no response topics")
        }
        return try await withThrowingTaskGroup(of: Delivery?.self) { group in
            group.addTask { try await self.exchange(message) }
            group.addTask {
                try await Task.sleep(for: timeout)
                return nil
            }
            defer { group.cancelAll() }
            guard case .some(.some(let response)) = try await group.next() else {
                throw MQTTClientError(.requestTimeout, "no answer to \(message.topic) within \(timeout)")
            }
            return response
        }
    }

    private func exchange(_ message: OutgoingMessage) async throws -> Delivery {
        let responses = try await self.link.responses { try await self.subscribeToResponses() }
        let correlation = responses.nextCorrelation()
        var message = message
        message.properties.responseTopic = responses.topic
        message.properties.correlationData = correlation
        async let response = responses.response(to: correlation)
        try await self.publish(message)
        return try await response
    }

    private func subscribeToResponses() async throws -> PendingResponses {
        let base = self.server.responseInformation ?? "responses"
        var random = SystemRandomNumberGenerator()
        let topic = try TopicName("\(base)/\(String(random.next() as UInt64, radix: 36))")
        let filter = try TopicFilter(topic)
        let responses = PendingResponses(
            identifier: self.link.nextIdentifier(self.server), topic: topic, filter: filter)
        self.link.add(responses)
        do {
            _ = try await self.subscribe(to: [.init(filter)], identifier: responses.identifier)
        } catch {
            self.link.remove(responses)
            throw error
        }
        return responses
    }

    // MARK: Authentication and the end

    /// Goes through the authentication once more on this connection (MQTT 5.0 section 4.12.1).
    ///
    /// - Throws: ``MQTTClientError``: `authentication-failed`, `invalid-request` without a
    ///   ``MQTTClientConfiguration/authenticator`` or while another is under way, `not-in-this-version`, or why the
    ///   connection ended; `CancellationError`.
    public func reauthenticate() async throws {
        let data: [UInt8]?
        do {
            data = try await self.link.configuration.authenticator?.begin()
        } catch {
            throw MQTTClientError(.authenticationFailed, "\(error)")
        }
        _ = try await self.link.ask(.reauthenticate(data))
    }

    /// What the server is told when the connection ends in good order (MQTT 5.0 section 3.14). Only 5.0.
    ///
    /// - Parameters:
    ///   - publishingWill: Whether the server shall publish the will all the same (reason code 0x04).
    ///   - sessionExpiry: How long it shall keep the session, if not as long as was said at connect. It cannot be
    ///     made longer than zero if it was zero then (MQTT-3.1.2-23); that is ignored.
    /// - Throws: ``MQTTClientError`` with code `not-in-this-version`.
    public func setGoodbye(
        publishingWill: Bool = false, sessionExpiry: Duration? = nil
    ) throws(MQTTClientError) {
        let configuration = self.link.configuration
        guard configuration.version == .v5_0 else {
            throw MQTTClientError(.notInThisVersion, "in MQTT 3.1.1 DISCONNECT says nothing")
        }
        var farewell = Disconnect(reasonCode: publishingWill ? .disconnectWithWill : .normalDisconnection)
        if let sessionExpiry, MQTTClientConfiguration.seconds(configuration.sessionExpiry, limit: 1) > 0 {
            let seconds = MQTTClientConfiguration.seconds(sessionExpiry, limit: Int64(UInt32.max))
            farewell.properties.append(.sessionExpiryInterval(UInt32(seconds)))
        }
        self.link.setFarewell(farewell)
    }
}
