// MQTT 5.0 chapter 6, MQTT over WebSocket (RFC 6455): one MQTT byte stream in binary frames.

import MQTT
import NIOCore
import NIOHTTP1
import NIOWebSocket

/// Asks an HTTP server to speak WebSocket, and then makes way for the frames.
///
/// It begins when it is told to (``Begin``), once the server's certificate is checked, and says
/// ``Completed`` when MQTT may be spoken.
final class WebSocketHandshake: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = HTTPClientRequestPart

    /// Outbound user event: the peer is who it should be.
    struct Begin {}
    /// Inbound user event: frames may be sent.
    struct Completed {}

    private let host: String
    private let path: String
    private let maximumFrameSize: Int
    private let upgrader: NIOWebSocketClientUpgrader
    private let codec: [any RemovableChannelHandler]
    private var isAccepted = false

    /// - Parameter maximumFrameSize: The largest frame taken, in bytes.
    init(host: String, path: String, maximumFrameSize: Int) {
        self.host = host
        self.path = path
        self.maximumFrameSize = maximumFrameSize
        // Only for its key and its check of the answer.
        self.upgrader = NIOWebSocketClientUpgrader { channel, _ in channel.eventLoop.makeSucceededVoidFuture() }
        self.codec = [
            HTTPRequestEncoder(),
            ByteToMessageHandler(HTTPResponseDecoder(leftOverBytesStrategy: .forwardBytes)),
        ]
    }

    /// Adds itself and what it needs at the end of the pipeline.
    func addTo(_ pipeline: ChannelPipeline.SynchronousOperations) throws {
        for handler in self.codec { try pipeline.addHandler(handler) }
        try pipeline.addHandler(self)
    }

    func triggerUserOutboundEvent(context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?) {
        guard event is Begin else {
            context.triggerUserOutboundEvent(event, promise: promise)
            return
        }
        var headers = HTTPHeaders([("Host", self.host), ("Connection", "Upgrade"), ("Upgrade", "websocket")])
        self.upgrader.addCustom(upgradeRequestHeaders: &headers)
        headers.add(name: "Sec-WebSocket-Protocol", value: "mqtt")
        let head = HTTPRequestHead(version: .http1_1, method: .GET, uri: self.path, headers: headers)
        context.write(self.wrapOutboundOut(.head(head)), promise: nil)
        context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: promise)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.unwrapInboundIn(data) {
        case .head(let head):
            self.isAccepted =
                head.status == .switchingProtocols && self.upgrader.shouldAllowUpgrade(upgradeResponse: head)
                && head.headers["Sec-WebSocket-Protocol"] == ["mqtt"]
            guard !self.isAccepted else { return }
            context.fireErrorCaught(
                MQTTClientError(
                    .webSocketRefused,
                    "\(self.path) answered \(head.status.code) \(head.status.reasonPhrase): no MQTT over WebSocket there"
                )
            )
        case .body:
            break
        case .end:
            if self.isAccepted { self.makeWay(context) }
        }
    }

    /// The answer has ended: frames follow.
    private func makeWay(_ context: ChannelHandlerContext) {
        let pipeline = context.pipeline.syncOperations
        do {
            try pipeline.addHandlers(
                [
                    WebSocketFrameEncoder(),
                    ByteToMessageHandler(WebSocketFrameDecoder(maxFrameSize: self.maximumFrameSize)),
                    WebSocketFraming(),
                ], position: .after(self))
        } catch {
            context.fireErrorCaught(error)
            return
        }
        pipeline.removeHandler(self, promise: nil)
        // Bytes behind the answer go through the frames' decoder when the HTTP decoder lets go of them. Only then is
        // nothing of HTTP in the way of what MQTT sends.
        let removals = self.codec.map { pipeline.removeHandler($0) }
        EventLoopFuture.andAllComplete(removals, on: context.eventLoop).assumeIsolated().whenComplete { _ in
            pipeline.fireUserInboundEventTriggered(Completed())
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard error is HTTPParserError else {
            context.fireErrorCaught(error)
            return
        }
        context.fireErrorCaught(
            MQTTClientError(.webSocketRefused, "\(self.path) did not answer in HTTP: \(error)"))
    }
}

/// Binary frames to bytes and back. A control packet may be cut into frames anywhere (MQTT-6.0.0-2).
final class WebSocketFraming: ChannelDuplexHandler {
    typealias InboundIn = WebSocketFrame
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = WebSocketFrame

    private var randomness = SystemRandomNumberGenerator()

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = self.unwrapInboundIn(data)
        switch frame.opcode {
        case .binary, .continuation:
            context.fireChannelRead(self.wrapInboundOut(frame.unmaskedData))
        case .ping:
            self.send(.pong, frame.unmaskedData, context: context)
        case .connectionClose:
            self.send(.connectionClose, frame.unmaskedData, context: context)
            context.close(promise: nil)
        case .pong:
            break
        default:
            context.fireErrorCaught(
                MQTTClientError(.protocolError, "a WebSocket frame that is not binary (MQTT-6.0.0-1)"))
        }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let frame = WebSocketFrame(
            fin: true, opcode: .binary, maskKey: .random(using: &self.randomness), data: self.unwrapOutboundIn(data))
        context.write(self.wrapOutboundOut(frame), promise: promise)
    }

    private func send(_ opcode: WebSocketOpcode, _ data: ByteBuffer, context: ChannelHandlerContext) {
        let frame = WebSocketFrame(fin: true, opcode: opcode, maskKey: .random(using: &self.randomness), data: data)
        context.writeAndFlush(self.wrapOutboundOut(frame), promise: nil)
    }
}
