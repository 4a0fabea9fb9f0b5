import MQTT
import NIOCore
import NIOSSL
import NIOTLS

/// The last handler of a socket: brings its ``Connection`` what comes, onto the event loop of the sessions.
final class ConnectionHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = Never

    private let connection: NIOLoopBound<Connection>
    private let socket: Socket
    private let tls: NIOSSLServerHandler?

    /// - Parameter tls: the handler before this one.
    init(_ connection: NIOLoopBound<Connection>, socket: Socket, tls: NIOSSLServerHandler?) {
        self.connection = connection
        self.socket = socket
        self.tls = tls
    }

    private func tell(_ body: @escaping @Sendable (Connection) -> Void) {
        let connection = self.connection
        if self.socket.isNear { return body(connection.value) }
        connection.eventLoop.execute { body(connection.value) }
    }

    func handlerAdded(context: ChannelHandlerContext) { self.tell { $0.begin() } }

    func handlerRemoved(context: ChannelHandlerContext) { self.tell { $0.finish() } }

    func channelInactive(context: ChannelHandlerContext) {
        self.tell { $0.finish() }
        context.fireChannelInactive()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted? = event as? TLSUserEvent {
            do {
                let certificate = try self.tls?.peerCertificate?.toDERBytes()
                self.tell { $0.handshakeCompleted(certificate) }
            } catch {
                self.tell { $0.failed(.certificate, "the client's certificate cannot be read: \(error)") }
            }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        if self.socket.isNear { return self.connection.value.received(bytes) }
        self.socket.arrived(bytes.readableBytes)
        let (connection, socket) = (self.connection, self.socket)
        connection.eventLoop.execute {
            connection.value.received(bytes)
            socket.dealtWith(bytes.readableBytes)
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.tell { $0.writabilityChanged() }
        context.fireChannelWritabilityChanged()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        let (reason, words) = Self.words(for: error)
        self.tell { $0.failed(reason, words) }
    }

    /// BoringSSL's errors are long; the frequent ones in one line.
    private static func words(for error: any Error) -> (RefusalReason, String) {
        let text = "\(error)"
        if text.contains("PEER_DID_NOT_RETURN_A_CERTIFICATE") { return (.noCertificate, "no client certificate") }
        if text.contains("CERTIFICATE_VERIFY_FAILED") {
            return (.untrusted, "the client's certificate does not lead to a trusted root, or is not valid now")
        }
        if text.contains("UNSUPPORTED_PROTOCOL") { return (.tlsVersion, "the client does not speak TLS 1.3") }
        if text.contains("uncleanShutdown") || text.contains("EOF during handshake") {
            return (.aborted, "the client closed the connection without a word")
        }
        if text.contains("WRONG_VERSION_NUMBER") || text.contains("HTTP_REQUEST") {
            return (.tls, "the client does not speak TLS")
        }
        return (.tls, "the connection failed: \((error as? IOError)?.words ?? text.ofTLS)")
    }

    // MARK: For the handlers before this one

    /// What a load balancer says of where the client is.
    ///
    /// - Returns: `false` if the client is refused for it. From another loop that comes later, as the end of the
    ///   connection.
    func comes(from origin: Origin) -> Bool {
        if self.socket.isNear { return self.connection.value.comes(from: origin) }
        self.tell { $0.comes(from: origin) }
        return true
    }

    func refuse(_ reason: RefusalReason, _ words: String) { self.tell { $0.refuse(reason, words) } }

    /// Whether it was let in, and has no session yet.
    func isWaiting(_ eventLoop: any EventLoop) -> EventLoopFuture<Bool> {
        let connection = self.connection
        if self.socket.isNear { return eventLoop.makeSucceededFuture(connection.value.isWaiting) }
        return connection.eventLoop.submit { connection.value.isWaiting }.hop(to: eventLoop)
    }
}
