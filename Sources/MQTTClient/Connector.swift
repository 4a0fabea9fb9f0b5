import MQTT
import NIOCore
import NIOPosix
import NIOSSL

/// Makes connections as a configuration says.
struct Connector: Sendable {
    let configuration: MQTTClientConfiguration
    let group: any EventLoopGroup
    private let context: NIOSSLContext?
    private let owned: OwnedGroup?

    /// A thread for a client whose session store blocks it.
    private final class OwnedGroup: Sendable {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)

        deinit { self.group.shutdownGracefully { _ in } }
    }

    /// - Throws: ``MQTTClientError`` with code `invalid-configuration`.
    init(configuration: MQTTClientConfiguration, group: any EventLoopGroup) throws(MQTTClientError) {
        try configuration.validate()
        self.configuration = configuration
        self.owned = configuration.sessionStore == nil ? nil : OwnedGroup()
        self.group = self.owned?.group ?? group
        self.context = try configuration.transport.tls?.makeContext()
    }

    /// A connection that is under way.
    struct Attempt {
        /// What the server said, when every subscription is granted.
        var ready: EventLoopFuture<ServerInformation>
        /// Why it ended.
        var ended: EventLoopFuture<MQTTClientError>
    }

    /// Between the tasks and the connections that will be made here.
    ///
    /// - Throws: ``MQTTClientError`` with code `session-store`.
    func makeLink() throws(MQTTClientError) -> ClientLink {
        try ClientLink(configuration: self.configuration, home: self.owned?.group.next())
    }

    /// Connects, and gives the link's session to the connection.
    func connect(_ link: ClientLink) async throws(MQTTClientError) -> Attempt {
        let firstError = FirstError()
        link.beginAttempt()
        let channel: any Channel
        do {
            channel = try await self.bootstrap(link, firstError)
        } catch let error as ChannelError {
            if case .connectTimeout = error {
                throw MQTTClientError(.connectTimeout, "no connection to \(self.configuration.address)")
            }
            throw MQTTClientError(.connectFailed, "\(self.configuration.address): \(error)")
        } catch {
            throw MQTTClientError(.connectFailed, "\(self.configuration.address): \(Self.words(for: error))")
        }
        let ready = channel.eventLoop.makePromise(of: ServerInformation.self)
        let ended = channel.eventLoop.makePromise(of: MQTTClientError.self)
        channel.eventLoop.execute {
            do {
                let handler = try channel.pipeline.syncOperations.handler(type: ClientHandler.self)
                handler.begin(link: link, ready: ready, ended: ended)
            } catch {
                // The channel closed, and with it went the handler.
                ready.fail(firstError.value)
                ended.succeed(firstError.value)
            }
        }
        return Attempt(ready: ready.futureResult, ended: ended.futureResult)
    }

    /// What went wrong with each address that there is, said once.
    private static func words(for error: any Error) -> String {
        guard let error = error as? NIOConnectionError else { return (error as? IOError)?.words ?? "\(error)" }
        let failures = error.connectionErrors.map(\.error) + [error.dnsAError, error.dnsAAAAError].compactMap { $0 }
        let words = Set(failures.map { ($0 as? IOError)?.words ?? "\($0)" })
        return words.isEmpty ? "\(error)" : words.sorted().joined(separator: "; ")
    }

    private func bootstrap(_ link: ClientLink, _ firstError: FirstError) async throws -> any Channel {
        let configuration = self.configuration
        let context = self.context
        let bootstrap = ClientBootstrap(group: self.group)
            .connectTimeout(TimeAmount(configuration.connectTimeout))
            .channelInitializer { channel in
                // For a name with several addresses this runs once for each.
                link.isConnecting(channel)
                return channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    if let tls = configuration.transport.tls, let context {
                        try pipeline.addHandler(tls.makeHandler(context: context, host: configuration.host))
                    }
                    if let path = configuration.transport.webSocketPath {
                        try WebSocketHandshake(
                            host: "\(configuration.host):\(configuration.port)", path: path,
                            maximumFrameSize: max(configuration.maximumPacketSize, 1 << 16)
                        ).addTo(pipeline)
                    }
                    try pipeline.addHandler(ClientHandler(configuration: configuration, firstError: firstError))
                }
            }
        if case .unixSocket(let path) = configuration.transport {
            return try await bootstrap.connect(unixDomainSocketPath: path).get()
        }
        return try await bootstrap.channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .connect(host: configuration.host, port: configuration.port).get()
    }
}

extension MQTTClientConfiguration {
    /// Where it connects to, for people.
    var address: String {
        if case .unixSocket(let path) = self.transport { path } else { "\(self.host):\(self.port)" }
    }
}

extension MQTTClientConfiguration.Transport {
    var tls: MQTTClientConfiguration.TLS? {
        switch self {
        case .tls(let tls), .webSocket(let tls, _): tls
        case .plaintextLoopback, .webSocketLoopback, .unixSocket: nil
        }
    }

    var webSocketPath: String? {
        switch self {
        case .webSocket(_, let path), .webSocketLoopback(let path): path
        case .tls, .plaintextLoopback, .unixSocket: nil
        }
    }
}
