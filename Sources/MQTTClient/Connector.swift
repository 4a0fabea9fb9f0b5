import MQTT
import NIOCore
import NIOPosix
import NIOSSL

/// Makes connections as a configuration says.
struct Connector: Sendable {
    let configuration: MQTTClientConfiguration
    let group: any EventLoopGroup
    private let context: NIOSSLContext?

    /// - Throws: ``MQTTClientError`` with code `invalid-configuration`.
    init(configuration: MQTTClientConfiguration, group: any EventLoopGroup) throws(MQTTClientError) {
        try configuration.validate()
        self.configuration = configuration
        self.group = group
        if case .tls(let tls) = configuration.transport {
            self.context = try tls.makeContext()
        } else {
            self.context = nil
        }
    }

    /// A connection that is under way.
    struct Attempt {
        /// "Session present", when every subscription is granted.
        var ready: EventLoopFuture<Bool>
        /// Why it ended.
        var ended: EventLoopFuture<MQTTClientError>
    }

    /// Connects, and gives the link's session to the connection.
    func connect(_ link: ClientLink) async throws(MQTTClientError) -> Attempt {
        let configuration = self.configuration
        let context = self.context
        let firstError = FirstError()
        link.beginAttempt()
        let channel: any Channel
        do {
            channel = try await ClientBootstrap(group: self.group)
                .connectTimeout(TimeAmount(configuration.connectTimeout))
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelInitializer { channel in
                    // For a name with several addresses this runs once for each.
                    link.isConnecting(channel)
                    return channel.eventLoop.makeCompletedFuture {
                        if case .tls(let tls) = configuration.transport, let context {
                            try channel.pipeline.syncOperations.addHandler(
                                tls.makeHandler(context: context, host: configuration.host))
                        }
                        try channel.pipeline.syncOperations.addHandler(
                            ClientHandler(configuration: configuration, firstError: firstError))
                    }
                }
                .connect(host: configuration.host, port: configuration.port).get()
        } catch let error as ChannelError {
            if case .connectTimeout = error {
                throw MQTTClientError(
                    .connectTimeout, "no TCP connection to \(configuration.host):\(configuration.port)")
            }
            throw MQTTClientError(.connectFailed, "\(configuration.host):\(configuration.port): \(error)")
        } catch {
            throw MQTTClientError(.connectFailed, "\(configuration.host):\(configuration.port): \(error)")
        }
        let ready = channel.eventLoop.makePromise(of: Bool.self)
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
}
