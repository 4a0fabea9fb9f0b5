import Dispatch
public import Identity
public import Logging
public import MQTT
import NIOCore
import NIOPosix
import NIOSSL
public import ServiceLifecycle
import Synchronization

/// An MQTT 3.1.1 and 5.0 broker inside this process.
///
///     let broker = try Broker(configuration: configuration, logger: logger)
///     let session = try await broker.openInProcessSession(
///         identity: me, clientID: "control-center", subscriptions: [...])
///     // broker is a Service: run it in a ServiceGroup.
///
/// What it does: mutual TLS 1.3, sessions owned by (TLS identity, client identifier), all QoS levels, retained
/// messages, wills, shared subscriptions, takeover, keep-alive, limits on everything that a client can make grow:
/// both standards to the letter. Extended authentication is refused, for the certificate says who it is. Sessions
/// are in memory, and with ``BrokerConfiguration/store`` on disk too. All sessions live on one event loop; sockets and
/// TLS on that too, or on others (``BrokerConfiguration/threads``).
///
/// **Slow consumers**: a client that does not take what it is sent gets no messages of QoS 0 meanwhile (they
/// are dropped and counted), and the others are queued. When the queue is full, new ones are dropped and
/// counted, ``BrokerEvent/queueFull(peer:clientID:)`` says so once, and the client is disconnected (reason
/// 0x97) if it is there; its session stays. Nobody else waits for it. In-process sessions lose nothing: when
/// they lag, their publishers are read no further.
public final class Broker: Service {
    private let configuration: BrokerConfiguration
    private let logger: Logger
    private let eventLoop: any EventLoop
    private let core: NIOLoopBoundBox<BrokerCore>
    private let context: Mutex<Context>
    private let bound: EventLoopPromise<[Int]>
    private let store: SQLiteSessionStore?
    /// Succeeds when the broker is to end, fails when it has to.
    private let end: EventLoopPromise<Void>

    /// What TLS begins with; one more each time that it is exchanged.
    private struct Context {
        var tls: NIOSSLContext?
        var generation: UInt64 = 0
    }

    /// Opens and reads the store of sessions, if there is to be one: blocks as long.
    ///
    /// - Throws: ``BrokerError`` with code `configuration`, `store-in-use`, `store-unusable`, `store-damaged`, or an
    ///   error of NIOSSL about certificates and keys.
    public init(configuration: BrokerConfiguration, logger: Logger) throws {
        guard !configuration.listeners.isEmpty else {
            throw BrokerError(.configuration, "the broker has no listener: give it one")
        }
        for kind in configuration.listeners.map(\.kind) {
            switch kind {
            case .tls, .webSocket:
                guard configuration.tls != nil, configuration.admission != nil else { throw Self.withoutTLS }
            case .unix, .plaintext: break
            }
        }
        self.configuration = configuration
        self.logger = logger
        let eventLoop = configuration.eventLoop ?? MultiThreadedEventLoopGroup.singleton.next()
        self.eventLoop = eventLoop
        self.context = Mutex(Context(tls: try configuration.tls?.makeContext()))
        let store = try configuration.store.map {
            try SQLiteSessionStore(directory: $0.directory, logger: logger)
        }
        let restoring = try store?.load()
        self.store = store
        self.bound = eventLoop.makePromise()
        let end = eventLoop.makePromise(of: Void.self)
        self.end = end
        // Made here, and from here on only touched on the loop.
        self.core = NIOLoopBoundBox.makeBoxSendingValue(
            BrokerCore(
                eventLoop: eventLoop, configuration: configuration, store: store, restoring: restoring, end: end,
                logger: logger), eventLoop: eventLoop)
    }

    /// ``BrokerConfiguration/threads`` that suit this machine: all cores but one, and at most 4.
    public static var defaultThreads: Int { max(1, min(4, System.coreCount - 1)) }

    deinit {
        self.bound.fail(BrokerError(.closed, "the broker was never run"))
        self.end.succeed(())
    }

    /// The ports, one for each listener in its order; waits until they are bound.
    ///
    /// - Throws: ``BrokerError`` if they cannot be.
    public func boundPorts() async throws -> [Int] { try await self.bound.futureResult.get() }

    /// Listens and serves until graceful shutdown or cancellation, then says goodbye to everybody.
    ///
    /// - Throws: ``BrokerError`` with code `listen`, or `store-failed` if what was changed cannot be stored any more:
    ///   it then has ended by itself.
    public func run() async throws {
        let eventLoop = self.eventLoop
        let core = self.core
        let threads = self.configuration.threads
        let others = threads > 1 ? MultiThreadedEventLoopGroup(numberOfThreads: threads - 1) : nil
        var servers: [any Channel] = []
        do {
            for listener in self.configuration.listeners {
                servers.append(try await self.listen(listener, others ?? eventLoop))
            }
        } catch {
            for server in servers { try? await server.close().get() }
            try? await others?.shutdownGracefully()
            self.bound.fail(error)
            throw error
        }
        try? await eventLoop.submit { core.value.begin() }.get()
        self.bound.succeed(servers.map { $0.localAddress?.port ?? 0 })
        let sockets = self.configuration.listeners.compactMap { listener -> (UnixSocket, UnixSocket.FileIdentity?)? in
            guard case .unix(let socket, _) = listener.kind else { return nil }
            return (socket, UnixSocket.FileIdentity(socket.path))
        }

        let ticker = eventLoop.scheduleRepeatedTask(initialDelay: .milliseconds(500), delay: .milliseconds(500)) { _ in
            core.value.tick()
        }
        // Ends by shutdown or by cancellation, which mean the same here, or because the store has failed.
        let ended: Result<Void, any Error>
        do {
            try await withTaskCancellationOrGracefulShutdownHandler {
                try await self.end.futureResult.get()
            } onCancelOrGracefulShutdown: {
                self.end.succeed(())
            }
            ended = .success(())
        } catch {
            ended = .failure(error)
        }

        ticker.cancel()
        for server in servers { try? await server.close().get() }
        for (socket, identity) in sockets { socket.remove(identity) }
        try? await eventLoop.submit { core.value.shutDown() }.get()
        // So that they hear why. What is stored does not wait for them.
        async let left: Void? = try? eventLoop.flatSubmit { core.value.waitUntilEmpty(atMost: .seconds(1)) }.get()
        await self.closeStore()
        _ = await left
        try? await others?.shutdownGracefully()
        try ended.get()
    }

    /// When all that was changed is on disk.
    private func closeStore() async {
        guard let store = self.store else { return }
        await withCheckedContinuation { continuation in
            DispatchQueue.global().async {
                store.close()
                continuation.resume()
            }
        }
    }

    private static let withoutTLS = BrokerError(
        .configuration, "a TLS listener needs certificates and somebody who admits peers")

    /// - Parameter loops: of the sockets.
    private func listen(
        _ listener: BrokerConfiguration.Listener, _ loops: any EventLoopGroup
    ) async throws -> any Channel {
        let slow = self.configuration.limits.slowConsumerBytes
        var bootstrap = ServerBootstrap(group: self.eventLoop, childGroup: loops)
            .serverChannelOption(.backlog, value: 1_024)
            // One read a turn: what is left is read when everybody else has been.
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelOption(.writeBufferWaterMark, value: .init(low: slow / 4, high: slow))
            .childChannelInitializer { [self] channel in self.initialize(channel, listener) }
        let (host, port): (String, Int)
        switch listener.kind {
        case .unix(let socket, _): return try await socket.bind(bootstrap)
        case .tls(let listenHost, let listenPort), .webSocket(let listenHost, let listenPort, _):
            (host, port) = (listenHost, listenPort)
        case .plaintext(let listenPort, _): (host, port) = ("127.0.0.1", listenPort)
        }
        bootstrap =
            bootstrap
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.socketOption(.so_keepalive), value: 1)
        do {
            return try await bootstrap.bind(host: host, port: port).get()
        } catch {
            throw BrokerError(
                .listen, "cannot listen on \(host):\(port): \((error as? IOError)?.words ?? "\(error)")")
        }
    }

    private func initialize(
        _ channel: any Channel, _ listener: BrokerConfiguration.Listener
    ) -> EventLoopFuture<Void> {
        switch listener.kind {
        case .tls:
            return self.secure(channel, listener) { _ in }
        case .webSocket(_, _, let policy):
            return self.secure(channel, listener) { connection in
                try WebSocketUpgrade.install(
                    in: channel.pipeline.syncOperations, before: connection, policy: policy,
                    maximumFrame: self.configuration.limits.maximumPacketSize, eventLoop: channel.eventLoop)
            }
        case .plaintext(_, let identify):
            return self.connect(channel, origin: Origin(channel.remoteAddress), identify: identify) {
                try channel.pipeline.syncOperations.addHandler($0(nil))
            }
        case .unix(_, let identify):
            return UnixSocket.peer(of: channel).flatMap { local in
                let peer = local.flatMap(identify)
                let origin = local.map(Origin.init(local:)) ?? Origin(nil)
                return self.connect(channel, origin: origin, identify: { _ in peer }) {
                    try channel.pipeline.syncOperations.addHandler($0(nil))
                }
            }
        }
    }

    /// TLS, before it a load balancer's header where one is due, and behind it the connection.
    private func secure(
        _ channel: any Channel, _ listener: BrokerConfiguration.Listener,
        then install: @escaping @Sendable (ConnectionHandler) throws -> Void
    ) -> EventLoopFuture<Void> {
        let context = self.context.withLock { $0 }
        guard let tls = context.tls, let admission = self.configuration.admission else {
            return channel.eventLoop.makeFailedFuture(Self.withoutTLS)
        }
        let origin = Origin(channel.remoteAddress)
        let balancer = origin.address.flatMap { address in
            listener.balancers.contains { $0.contains(address) } ? address : nil
        }
        return self.connect(
            channel, origin: balancer == nil ? origin : nil, admission: admission, generation: context.generation
        ) { makeHandler in
            let pipeline = channel.pipeline.syncOperations
            let verification = self.configuration.verification.flatMap { $0.isNeeded() ? $0 : nil }
            let tls = NIOSSLServerHandler(
                context: tls,
                customVerificationCallback: verification?.callback { [logger = self.logger] error in
                    logger.notice(
                        "client certificate refused", metadata: ["at": "\(origin)", "reason": "\(error)"])
                },
                configuration: NIOSSLServerHandler.Configuration())
            let handler = makeHandler(tls)
            if let balancer { try pipeline.addHandler(ProxyHeaderHandler(connection: handler, balancer: balancer)) }
            try pipeline.addHandler(tls)
            try pipeline.addHandler(handler)
            try install(handler)
        }
    }

    /// Makes a connection on the loop of the sessions, and then its handlers on the channel's.
    ///
    /// - Parameter install: is given what makes the connection's own handler, behind TLS if there is to be TLS.
    private func connect(
        _ channel: any Channel, origin: Origin?, admission: PeerAdmission? = nil, generation: UInt64 = 0,
        identify: (@Sendable (Connect) -> PeerIdentity?)? = nil,
        install: @escaping @Sendable (_ makeHandler: (NIOSSLServerHandler?) -> ConnectionHandler) throws -> Void
    ) -> EventLoopFuture<Void> {
        let (core, eventLoop) = (self.core, self.eventLoop)
        let socket = Socket(
            channel, eventLoop: eventLoop, capacity: self.configuration.limits.slowConsumerBytes)
        let make: @Sendable () -> NIOLoopBound<Connection> = {
            let connection = Connection(
                core: core.value, socket: socket, origin: origin, admission: admission, generation: generation,
                identify: identify)
            return NIOLoopBound(connection, eventLoop: eventLoop)
        }
        let made = socket.isNear ? eventLoop.makeSucceededFuture(make()) : eventLoop.submit(make)
        return made.hop(to: channel.eventLoop).flatMapThrowing { connection in
            try install { ConnectionHandler(connection, socket: socket, tls: $0) }
        }
    }

    /// Opens a session of this process, with its subscriptions. Before or after ``run()`` has begun.
    ///
    /// - Parameters:
    ///   - identity: who publishes and subscribes; the authorizer is asked as for anybody.
    ///   - clientID: must not be in use by another in-process session of that identity.
    /// - Throws: ``BrokerError`` with code `not-authorized` or `closed`.
    public func openInProcessSession(
        identity: PeerIdentity, clientID: String, subscriptions: [Subscription]
    ) async throws -> InProcessSession {
        let core = self.core
        let session = InProcessSession(core: core, eventLoop: self.eventLoop)
        let (local, refusal) = try await self.eventLoop.submit {
            core.value.openInProcess(session, peer: identity, clientID: clientID, subscriptions: subscriptions)
        }.get()
        guard let local else {
            throw BrokerError(.notAuthorized, "no session for \(identity): \(refusal ?? "refused")")
        }
        session.opened(as: local)
        return session
    }

    /// Exchanges certificate, key and roots for the connections that come; tickets for resumption become
    /// worthless. Live connections stay (see ``recheckPeers()``); handshakes that are under way are ended.
    ///
    /// When it returns, no handshake under the former roots lets anybody in any more.
    ///
    /// - Throws: an error of NIOSSL; then nothing has changed.
    public func reload(tls: BrokerTLS) async throws {
        let new = try tls.makeContext()
        let generation = self.context.withLock { context in
            context = Context(tls: new, generation: context.generation + 1)
            return context.generation
        }
        let core = self.core
        try await self.eventLoop.submit { core.value.endHandshakes(before: generation) }.get()
    }

    /// Disconnects everybody for whom the closure holds.
    ///
    /// - Parameter endingSessions: also forgets their sessions and what waits in them.
    /// - Returns: how many connections were closed.
    @discardableResult
    public func disconnect(
        reason: String = "disconnected by an operator", endingSessions: Bool = false,
        where isUnwanted: @escaping @Sendable (PeerIdentity) -> Bool
    ) async throws -> Int {
        let core = self.core
        return try await self.eventLoop.submit {
            core.value.disconnect(.administrativeAction, reason, endingSessions: endingSessions, where: isUnwanted)
        }.get()
    }

    /// Asks ``PeerAdmission`` again for each live connection and disconnects who may not stay. To be called when
    /// revocation lists have changed.
    ///
    /// - Returns: how many connections were closed.
    @discardableResult
    public func recheckPeers() async throws -> Int {
        let core = self.core
        return try await self.eventLoop.submit { core.value.recheckPeers() }.get()
    }

    /// For tests that fill its disk.
    package var sessionStore: SQLiteSessionStore? { self.store }

    /// Counts since the start.
    public func statistics() async throws -> BrokerStatistics {
        let core = self.core
        return try await self.eventLoop.submit { core.value.statistics }.get()
    }
}
