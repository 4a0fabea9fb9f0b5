import NIOCore
import NIOHTTP1
import NIOWebSocket

/// From an HTTP request to MQTT in WebSocket frames, for one connection.
enum WebSocketUpgrade {
    /// Headers of the handshake, in bytes.
    private static let maximumHeaderBytes = 8_192

    /// Puts the handlers before the connection's, which is the last.
    ///
    /// - Parameter maximumFrame: bytes of one frame's payload.
    static func install(
        in pipeline: ChannelPipeline.SynchronousOperations, before connection: ConnectionHandler,
        policy: WebSocketPolicy, maximumFrame: Int, eventLoop: any EventLoop
    ) throws {
        let position = ChannelPipeline.SynchronousOperations.Position.before(connection)
        let encoder = HTTPResponseEncoder()
        var limits = NIOHTTPDecoderLimitConfiguration()
        limits.maxHeaderFieldSize = 2_048
        limits.maxHeaderListSize = self.maximumHeaderBytes
        limits.maxHeaderFieldCount = 64
        let decoder = ByteToMessageHandler(
            HTTPRequestDecoder(leftOverBytesStrategy: .forwardBytes, limitConfiguration: limits))
        let errors = HTTPServerProtocolErrorHandler()
        let refuser = WebSocketRefuser(policy: policy, connection: connection)
        let upgrader = Upgrader(
            policy: policy, connection: NIOLoopBound(connection, eventLoop: eventLoop),
            refuser: NIOLoopBound(refuser, eventLoop: eventLoop), maximumFrame: maximumFrame)
        try pipeline.addHandler(encoder, position: position)
        try pipeline.addHandler(decoder, position: position)
        try pipeline.addHandler(errors, position: position)
        try pipeline.addHandler(
            HTTPServerUpgradeHandler(
                upgraders: [upgrader], httpEncoder: encoder, extraHTTPHandlers: [decoder, errors],
                upgradeCompletionHandler: { _ in }), position: position)
        try pipeline.addHandler(refuser, position: position)
    }

    /// NIO's upgrader answers the handshake; ours puts the handlers of the frames where they belong.
    private struct Upgrader: HTTPServerProtocolUpgrader, Sendable {
        let supportedProtocol = "websocket"
        let requiredUpgradeHeaders: [String] = []

        private let handshake: NIOWebSocketServerUpgrader
        private let connection: NIOLoopBound<ConnectionHandler>
        private let refuser: NIOLoopBound<WebSocketRefuser>
        private let maximumFrame: Int

        init(
            policy: WebSocketPolicy, connection: NIOLoopBound<ConnectionHandler>,
            refuser: NIOLoopBound<WebSocketRefuser>, maximumFrame: Int
        ) {
            self.connection = connection
            self.refuser = refuser
            self.maximumFrame = maximumFrame
            self.handshake = NIOWebSocketServerUpgrader(
                shouldUpgrade: { channel, request in
                    // Who was refused behind TLS may still have sent this.
                    guard (try? policy.check(request)) != nil else {
                        return channel.eventLoop.makeSucceededFuture(nil)
                    }
                    return connection.value.isWaiting(channel.eventLoop).map {
                        $0 ? ["Sec-WebSocket-Protocol": "mqtt"] : nil
                    }
                },
                upgradePipelineHandler: { channel, _ in channel.eventLoop.makeSucceededVoidFuture() })
        }

        func buildUpgradeResponse(
            channel: any Channel, upgradeRequest: HTTPRequestHead, initialResponseHeaders: HTTPHeaders
        ) -> EventLoopFuture<HTTPHeaders> {
            self.handshake.buildUpgradeResponse(
                channel: channel, upgradeRequest: upgradeRequest, initialResponseHeaders: initialResponseHeaders)
        }

        func upgrade(context: ChannelHandlerContext, upgradeRequest: HTTPRequestHead) -> EventLoopFuture<Void> {
            context.eventLoop.makeCompletedFuture {
                let pipeline = context.pipeline.syncOperations
                let position = ChannelPipeline.SynchronousOperations.Position.before(self.connection.value)
                try pipeline.addHandler(WebSocketFrameEncoder(), position: position)
                try pipeline.addHandler(
                    ByteToMessageHandler(WebSocketFrameDecoder(maxFrameSize: self.maximumFrame)), position: position)
                try pipeline.addHandler(WebSocketProtocolErrorHandler(), position: position)
                try pipeline.addHandler(WebSocketFrames(), position: position)
                pipeline.removeHandler(self.refuser.value, promise: nil)
            }
        }
    }
}

/// Answers what does not become a WebSocket, and closes.
private final class WebSocketRefuser: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let policy: WebSocketPolicy
    private let connection: ConnectionHandler
    private var isDone = false

    init(policy: WebSocketPolicy, connection: ConnectionHandler) {
        self.policy = policy
        self.connection = connection
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone, case .head(let request) = self.unwrapInboundIn(data) else { return }
        self.isDone = true
        var refusal = WebSocketPolicy.Refusal(status: .badRequest, reason: "the WebSocket handshake is malformed")
        do throws(WebSocketPolicy.Refusal) {
            try self.policy.check(request)
        } catch {
            refusal = error
        }
        var headers: HTTPHeaders = ["content-length": "0", "connection": "close"]
        if refusal.status == .upgradeRequired { headers.add(name: "upgrade", value: "websocket") }
        context.write(
            self.wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: refusal.status, headers: headers))),
            promise: nil)
        context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
        self.connection.refuse(.webSocket, "no WebSocket: \(refusal.reason)")
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // The upgrader says so of every request that it does not take; the request itself comes next.
        if error is NIOWebSocketUpgradeError { return }
        context.fireErrorCaught(error)
    }
}

/// Frames to bytes and back (RFC 6455 section 5). MQTT takes no notice of frames: a packet may lie across several,
/// and one frame may hold several packets (MQTT-6.0.0-2).
private final class WebSocketFrames: ChannelDuplexHandler {
    typealias InboundIn = WebSocketFrame
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = WebSocketFrame

    /// Between a first frame without FIN and the one with it.
    private var isFragmented = false
    private var hasSentClose = false
    private var isDone = false

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone else { return }
        let frame = self.unwrapInboundIn(data)
        guard frame.maskKey != nil, !frame.rsv1, !frame.rsv2, !frame.rsv3 else {
            self.end(context, .protocolError)
            return
        }
        switch frame.opcode {
        case .binary where !self.isFragmented, .continuation where self.isFragmented:
            self.isFragmented = !frame.fin
            let bytes = frame.unmaskedData
            if bytes.readableBytes > 0 { context.fireChannelRead(self.wrapInboundOut(bytes)) }
        case .ping:
            // Who does not take what it is sent is owed no answers.
            guard context.channel.isWritable else { return }
            let pong = WebSocketFrame(fin: true, opcode: .pong, data: frame.unmaskedData)
            context.writeAndFlush(self.wrapOutboundOut(pong), promise: nil)
        case .pong:
            return
        case .connectionClose:
            self.end(context, .normalClosure)
        case .text:
            // MQTT-6.0.0-1.
            self.end(context, .unacceptableData)
        default:
            self.end(context, .protocolError)
        }
    }

    private func end(_ context: ChannelHandlerContext, _ code: WebSocketErrorCode) {
        self.isDone = true
        self.sendClose(context, code)
        context.close(promise: nil)
    }

    private func sendClose(_ context: ChannelHandlerContext, _ code: WebSocketErrorCode) {
        guard !self.hasSentClose else { return }
        self.hasSentClose = true
        var data = ByteBuffer()
        data.write(webSocketErrorCode: code)
        let frame = WebSocketFrame(fin: true, opcode: .connectionClose, data: data)
        context.writeAndFlush(self.wrapOutboundOut(frame), promise: nil)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let bytes = self.unwrapOutboundIn(data)
        context.write(self.wrapOutboundOut(WebSocketFrame(fin: true, opcode: .binary, data: bytes)), promise: promise)
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        self.isDone = true
        self.sendClose(context, .normalClosure)
        context.close(mode: mode, promise: promise)
    }
}
