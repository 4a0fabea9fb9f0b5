import Logging
import MQTT
import MessageBus
import NIOCore
import NIOSSL
import NIOTLS
import NIOWebSocket
import Synchronization

/// Why a connection failed, known beyond its end.
final class FirstError: Sendable {
    private let error = Mutex<MQTTClientError?>(nil)

    var value: MQTTClientError {
        self.error.withLock { $0 } ?? MQTTClientError(.connectionLost, "the connection ended before it began")
    }

    func set(_ error: MQTTClientError) {
        self.error.withLock { if $0 == nil { $0 = error } }
    }
}

/// One connection on its event loop: bytes to packets, packets through the session, actions to bytes. All
/// that one read or one batch of requests causes leaves in one buffer with one flush.
final class ClientHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// Unsent bytes beyond which a server that does not read is not read either.
    private static let maximumUnsentBytes = 1 << 20
    /// Bytes after which output is handed to the network without waiting for the rest of the batch.
    private static let chunkSize = 1 << 16

    /// How long a server may take to close after DISCONNECT.
    private static let closeTimeout = TimeAmount.seconds(1)

    private let configuration: MQTTClientConfiguration
    private let firstError: FirstError
    private var context: ChannelHandlerContext?
    private var decoder: PacketDecoder
    private var output = ByteBuffer()
    private var actions: [ClientLink.Session.Action] = []
    private var isPerforming = false

    // While attached:
    private var link: ClientLink?
    private var session: ClientLink.Session?
    private var work = ClientLink.Work()
    private var ready: EventLoopPromise<ServerInformation>?
    private var ended: EventLoopPromise<MQTTClientError>?
    private var routes: [any MessageRoute] = []
    private var farewell = Disconnect()

    private var isTransportReady = false
    private var hasSentConnect = false
    private var error: MQTTClientError?
    private var events: [BusEvent] = []
    private var deliveredCount = 0
    private var deliveredBytes = 0
    private var queueHasRoom = true
    private var isReading = true
    private var isShuttingDown = false
    private var keepAlive: KeepAlive?
    private var timers: [Scheduled<Void>] = []
    private var keepAliveTimer: Scheduled<Void>?

    /// - Parameter firstError: Told of an error, for it may come before ``begin(link:ready:ended:)``.
    init(configuration: MQTTClientConfiguration, firstError: FirstError) {
        self.configuration = configuration
        self.firstError = firstError
        self.decoder = PacketDecoder(
            sender: .server, version: configuration.version, maximumPacketSize: configuration.maximumPacketSize)
        self.decoder.topicAliasMaximum = configuration.topicAliasMaximum
    }

    // MARK: Life

    /// Takes the session and uses it as soon as the transport is ready.
    ///
    /// - Parameters:
    ///   - ready: Succeeds with what the server said when every subscription is granted.
    ///   - ended: Succeeds with the reason when the connection is no more and the session is given back.
    func begin(
        link: ClientLink, ready: EventLoopPromise<ServerInformation>?, ended: EventLoopPromise<MQTTClientError>
    ) {
        guard let context = self.context, context.channel.isActive,
            let session = link.attach(NIOLoopBound(self, eventLoop: context.eventLoop))
        else {
            let error = self.firstError.value
            ready?.fail(error)
            ended.succeed(error)
            self.context?.close(promise: nil)
            return
        }
        self.link = link
        self.session = session
        self.routes = link.routes
        self.ready = ready
        self.ended = ended
        let limit = TimeAmount(self.configuration.connectTimeout)
        self.schedule(in: limit) { handler in
            guard handler.session?.isReady == false else { return }
            handler.fail(MQTTClientError(.connectTimeout, "not connected and subscribed within \(limit)"))
        }
        if let error = self.error {
            self.error = nil
            self.fail(error)
        } else {
            self.connectIfReady()
            self.drain()
        }
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { self.transportIsActive() }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.end()
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        self.transportIsActive()
        context.fireChannelActive()
    }

    private func transportIsActive() {
        if self.configuration.transport.tls == nil { self.peerIsRight() }
    }

    /// The other end is who it should be: MQTT begins, or WebSocket before it.
    private func peerIsRight() {
        if self.configuration.transport.webSocketPath == nil {
            self.isTransportReady = true
            self.connectIfReady()
        } else {
            self.context?.triggerUserOutboundEvent(WebSocketHandshake.Begin(), promise: nil)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted = event as? TLSUserEvent { self.handshakeCompleted(context) }
        if event is WebSocketHandshake.Completed {
            self.isTransportReady = true
            self.connectIfReady()
        }
        context.fireUserInboundEventTriggered(event)
    }

    private func handshakeCompleted(_ context: ChannelHandlerContext) {
        guard let tls = self.configuration.transport.tls, self.error == nil else { return }
        if let verifyPeer = tls.verifyPeer {
            do {
                let handler = try context.pipeline.syncOperations.handler(type: NIOSSLHandler.self)
                guard let certificate = handler.peerCertificate else {
                    throw MQTTClientError(.peerRejected, "the server showed no certificate")
                }
                try verifyPeer(certificate.toDERBytes())
            } catch {
                self.fail(MQTTClientError(.peerRejected, "\(error)"))
                return
            }
        }
        self.peerIsRight()
    }

    private func connectIfReady() {
        guard self.isTransportReady, self.session != nil, !self.hasSentConnect, self.error == nil else { return }
        self.hasSentConnect = true
        guard let authenticator = self.configuration.authenticator else {
            self.connect(authentication: nil)
            return
        }
        self.askAuthenticator {
            try await authenticator.begin()
        } then: { handler, data in
            handler.connect(authentication: data)
        }
    }

    private func connect(authentication: [UInt8]?) {
        self.session?.connect(authentication: authentication, into: &self.actions)
        self.perform()
        self.flush()
    }

    /// Asks the authentication method, away from the event loop, and goes on here.
    private func askAuthenticator<Value: Sendable>(
        _ ask: @escaping @Sendable () async throws -> Value,
        then goOn: @escaping @Sendable (ClientHandler, Value) -> Void
    ) {
        guard let context = self.context else { return }
        let handler = NIOLoopBound(self, eventLoop: context.eventLoop)
        Task {
            let result: Result<Value, any Error>
            do {
                result = .success(try await ask())
            } catch {
                result = .failure(error)
            }
            handler.eventLoop.execute {
                guard handler.value.error == nil, handler.value.session != nil else { return }
                switch result {
                case .success(let value): goOn(handler.value, value)
                case .failure(let error): handler.value.fail(MQTTClientError(.authenticationFailed, "\(error)"))
                }
            }
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        if self.error == nil {
            self.error = MQTTClientError(.connectionLost, "the server closed the connection")
        }
        self.end()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.fail(Self.translate(error))
    }

    /// - Returns: The nearest of our own words for what network or TLS says.
    private static func translate(_ error: any Error) -> MQTTClientError {
        switch error {
        case let error as MQTTClientError:
            return error
        case NIOSSLError.uncleanShutdown:
            return MQTTClientError(.connectionLost, "the connection ended without a TLS goodbye")
        case is NIOWebSocketError:
            return MQTTClientError(.protocolError, "the server broke the rules of WebSocket: \(error)")
        case is NIOSSLError, is BoringSSLError, is NIOSSLExtraError:
            let text = "\(error)"
            // BoringSSL has no other way to tell the alert than its name.
            let isAboutUs =
                text.contains("ALERT")
                && (text.contains("CERTIFICATE") || text.contains("UNKNOWN_CA") || text.contains("ACCESS_DENIED"))
            return MQTTClientError(isAboutUs ? .certificateRefused : .tls, text.ofTLS)
        case let error as IOError:
            return MQTTClientError(.connectionLost, error.words)
        default:
            return MQTTClientError(.connectionLost, "\(error)")
        }
    }

    /// Closes the connection; in 5.0 the server is told why.
    private func fail(_ error: MQTTClientError) {
        guard self.error == nil else { return }
        self.error = error
        self.firstError.set(error)
        if self.hasSentConnect, let reasonCode = error.farewell,
            self.configuration.version == .v5_0 || reasonCode == .normalDisconnection
        {
            self.write(
                .disconnect(reasonCode == .normalDisconnection ? self.farewell : Disconnect(reasonCode: reasonCode)))
        }
        self.flush()
        if self.isShuttingDown, error == MQTTClientError(.closed, ""), self.hasSentConnect {
            self.awaitServersClose()
        } else {
            self.context?.close(promise: nil)
        }
    }

    /// The server closes after our DISCONNECT, and so after all that we sent before it. Were we to close first
    /// and come back, it might see the new connection before the last PUBACKs of this one, and forget them.
    private func awaitServersClose() {
        try? self.context?.channel.syncOptions?.setOption(.autoRead, value: true)
        self.schedule(in: Self.closeTimeout) { $0.context?.close(promise: nil) }
    }

    private func end() {
        for timer in self.timers { timer.cancel() }
        self.timers = []
        self.keepAliveTimer?.cancel()
        guard let link = self.link, let session = self.session else { return }
        self.link = nil
        self.session = nil
        let error = self.error ?? MQTTClientError(.connectionLost, "the connection is gone")
        self.pushEvents(to: link)
        link.detach(session, error: error)
        self.ready?.fail(error)
        self.ended?.succeed(error)
    }

    // MARK: In

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.error == nil, self.session != nil else { return }
        self.decoder.append(self.unwrapInboundIn(data))
        do {
            while let packet = try self.decoder.next() {
                try self.session?.receive(packet, into: &self.actions)
                // With a store all that came in one read is made durable at once.
                if !self.isDurable { self.perform() }
                guard self.error == nil else { return }
            }
            self.perform()
        } catch {
            self.perform()
            self.fail(
                (error as? MQTTClientError) ?? (error as? MQTTError).map(MQTTClientError.init)
                    ?? .init(
                        .protocolError, "\(error)"))
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.keepAlive?.received(now: context.eventLoop.now)
        self.finishBatch()
        context.fireChannelReadComplete()
    }

    // MARK: Requests

    /// Does what the tasks have asked for.
    func drain() {
        guard let link = self.link else { return }
        link.take(&self.work)
        self.farewell = self.work.farewell
        if let routes = self.work.routes { self.setRoutes(routes, link) }
        for (message, waiter) in self.work.messages {
            self.session?.publish(message, for: waiter, into: &self.actions)
            if !self.isDurable { self.perform() }
        }
        for (message, waiter) in self.work.enqueued {
            self.session?.enqueue(message, for: waiter, into: &self.actions)
        }
        for token in self.work.settled { self.session?.settle(token, into: &self.actions) }
        for (request, waiter) in self.work.requests { self.session?.ask(request, for: waiter, into: &self.actions) }
        for id in self.work.cancelled { self.session?.cancel(where: { $0.id == id }, into: &self.actions) }
        self.perform()
        if self.work.madeRoom {
            self.queueHasRoom = link.events.hasRoom && self.routes.allSatisfy { $0.hasRoom }
        }
        self.work.removeAll()
        if self.work.aborts {
            self.isShuttingDown = false
            self.fail(MQTTClientError(.closed, "cancelled"))
            self.context?.close(promise: nil)
        } else if self.work.shutsDown {
            self.shutDown()
        }
        self.finishBatch()
    }

    private func shutDown() {
        guard !self.isShuttingDown else { return }
        self.isShuttingDown = true
        self.session?.shutDown()
        self.schedule(in: TimeAmount(self.configuration.shutdownTimeout)) { handler in
            handler.fail(MQTTClientError(.closed, "shut down with publishes unacknowledged"))
        }
    }

    // MARK: Out

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.session?.setWritable(context.channel.isWritable, into: &self.actions)
        // Within `perform` this is a consequence of its own writing, and it goes on by itself.
        if !self.isPerforming {
            self.perform()
            self.finishBatch()
        }
        context.fireChannelWritabilityChanged()
    }

    private var isDurable: Bool { self.configuration.sessionStore != nil }

    private func perform() {
        guard !self.isPerforming else { return }
        self.isPerforming = true
        defer { self.isPerforming = false }
        var next = 0
        while next < self.actions.count {
            // Before anything is sent or told, what it depends on is on disk.
            if self.session?.hasChanges == true, !self.commit(from: next) { return }
            switch self.actions[next] {
            case .send(let packet):
                self.write(packet)
                if self.output.readableBytes >= Self.chunkSize { self.flush() }
            case .deliver(let publish, let token):
                self.deliver(publish, token: token)
            case .complete(let waiter, let outcome):
                waiter.resume(outcome)
            case .ready(let server):
                self.isReady(server)
            case .challenge(let data):
                self.answer(data)
            case .authenticated(let data, let waiter):
                self.authenticated(data, waiter)
            case .undeliverable(let message, let error):
                self.configuration.undeliverable?(message, error)
            }
            next += 1
        }
        self.actions.removeAll(keepingCapacity: true)
        if self.session?.hasChanges == true { _ = self.commit(from: 0) }
    }

    /// - Returns: `false` if the store failed: then the actions from `next` on are void, and who waits is told.
    private func commit(from next: Int) -> Bool {
        guard let link = self.link, let changes = self.session?.takeChanges() else { return false }
        guard let error = link.commit(changes) else { return true }
        let void = Array(self.actions[next...])
        self.actions.removeAll()
        ClientLink.complete(void, error: error)
        self.fail(error)
        return false
    }

    private func answer(_ challenge: [UInt8]) {
        guard let authenticator = self.configuration.authenticator else { return }
        self.askAuthenticator {
            try await authenticator.respond(to: challenge)
        } then: { handler, answer in
            handler.session?.authenticate(with: answer, into: &handler.actions)
            handler.perform()
            handler.finishBatch()
        }
    }

    private func authenticated(_ data: [UInt8]?, _ waiter: PublishWaiter?) {
        guard let authenticator = self.configuration.authenticator else { return }
        // At connect this goes on beside what follows CONNACK; a server that is not believed is left all the same.
        let handler = self.context.map { NIOLoopBound(self, eventLoop: $0.eventLoop) }
        Task {
            do {
                try await authenticator.finish(data)
                waiter?.resume(.done)
            } catch {
                let error = MQTTClientError(.authenticationFailed, "\(error)")
                waiter?.resume(.failed(error))
                handler?.eventLoop.execute { handler?.value.fail(error) }
            }
        }
    }

    private func write(_ packet: Packet) {
        do throws(MQTTError) {
            try packet.encode(into: &self.output, version: self.configuration.version)
        } catch {
            self.fail(MQTTClientError(.invalidConfiguration, error.description))
        }
    }

    private func deliver(_ publish: Publish, token: UInt64?) {
        guard let link = self.link else { return }
        let delivery = Delivery(
            topic: publish.topic,
            // A copy: the original keeps the whole buffer that was read from the network.
            payload: ByteBuffer(bytes: publish.payload.readableBytesView),
            qos: publish.qos, isRetained: publish.retain, properties: MessageProperties(wire: publish.properties),
            settlement: token.map { Delivery.Settlement(target: link, token: $0) })
        if !self.routes.isEmpty, self.route(delivery) { return }
        self.events.append(.delivery(delivery))
        self.deliveredCount += 1
        self.deliveredBytes += delivery.size
    }

    /// - Returns: Whether a dynamic subscription wanted it.
    private func route(_ delivery: Delivery) -> Bool {
        let wanting = self.routes.filter { $0.wants(delivery) }
        guard let first = wanting.first else { return false }
        if wanting.count == 1 {
            if !first.push(delivery) { self.queueHasRoom = false }
        } else {
            let shared = SharedSettlement(delivery, count: wanting.count)
            for (index, route) in wanting.enumerated() where !route.push(shared.share(index)) {
                self.queueHasRoom = false
            }
        }
        return true
    }

    /// New routes get what came for them before they were there, such as a resumed session's messages.
    private func setRoutes(_ routes: [any MessageRoute], _ link: ClientLink) {
        self.routes = routes
        self.pushEvents(to: link)
        guard !routes.isEmpty else { return }
        for delivery in link.events.extract(where: { delivery in routes.contains { $0.wants(delivery) } }) {
            _ = self.route(delivery)
        }
        self.queueHasRoom = link.events.hasRoom && routes.allSatisfy { $0.hasRoom }
    }

    private func isReady(_ server: ServerInformation) {
        self.events.append(.connected)
        self.ready?.succeed(server)
        self.ready = nil
        if let context = self.context, let seconds = self.session?.keepAlive, seconds > 0 {
            self.keepAlive = KeepAlive(
                interval: .seconds(seconds), timeout: TimeAmount(self.configuration.pingTimeout),
                now: context.eventLoop.now)
            self.checkKeepAlive()
        }
    }

    /// What every turn ends with.
    private func finishBatch() {
        if let link = self.link { self.pushEvents(to: link) }
        self.flush()
        self.updateReading()
        if self.isShuttingDown, self.session?.isFinished == true {
            self.fail(MQTTClientError(.closed, "shut down"))
        }
    }

    private func pushEvents(to link: ClientLink) {
        guard !self.events.isEmpty else { return }
        let hasRoom = link.events.push(
            self.events, deliveries: self.deliveredCount, bytes: self.deliveredBytes)
        self.queueHasRoom = hasRoom && self.routes.allSatisfy { $0.hasRoom }
        self.events.removeAll(keepingCapacity: true)
        self.deliveredCount = 0
        self.deliveredBytes = 0
    }

    private func flush() {
        guard let context = self.context, self.output.readableBytes > 0 else { return }
        let output = self.output
        // Not `clear`: while the network holds the buffer that would copy it.
        self.output = ByteBuffer()
        self.keepAlive?.sent(now: context.eventLoop.now)
        context.writeAndFlush(self.wrapOutboundOut(output), promise: nil)
    }

    /// Deliveries that nobody receives or settles, and a server that does not read, hold up the network.
    private func updateReading() {
        guard let context = self.context, let session = self.session else { return }
        var shouldRead = self.queueHasRoom && !session.isInboundFull
        if shouldRead, !context.channel.isWritable {
            let unsent = try? context.channel.syncOptions?.getOption(.bufferedWritableBytes)
            shouldRead = (unsent ?? 0) < Self.maximumUnsentBytes
        }
        guard shouldRead != self.isReading else { return }
        self.isReading = shouldRead
        try? context.channel.syncOptions?.setOption(.autoRead, value: shouldRead)
    }

    // MARK: Time

    private func schedule(in time: TimeAmount, _ body: @escaping (ClientHandler) -> Void) {
        guard let context = self.context else { return }
        self.timers.append(
            context.eventLoop.assumeIsolated().scheduleTask(in: time) { [weak self] in
                if let self { body(self) }
            })
    }

    private func checkKeepAlive() {
        guard let context = self.context, self.error == nil, var keepAlive = self.keepAlive else { return }
        // Not reading because the server doesn't read either: then its silence counts.
        let canBeAnswered = self.isReading || !context.channel.isWritable
        var verdict = keepAlive.check(now: context.eventLoop.now, isReading: canBeAnswered)
        if verdict == .ping {
            self.write(.pingReq)
            self.flush()
            verdict = keepAlive.check(now: context.eventLoop.now, isReading: canBeAnswered)
        }
        self.keepAlive = keepAlive
        switch verdict {
        case .wait(let deadline):
            self.keepAliveTimer = context.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { [weak self] in
                self?.checkKeepAlive()
            }
        case .timedOut, .ping:
            self.fail(
                MQTTClientError(
                    .keepAliveTimeout, "no sign of life from the server within \(self.configuration.pingTimeout)"))
        }
    }
}
