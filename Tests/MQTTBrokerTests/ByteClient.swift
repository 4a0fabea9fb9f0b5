import NIOCore
import NIOPosix
import NIOSSL
import Synchronization
import TestSupport

/// Speaks any bytes over TCP, TLS or a Unix socket.
final class ByteClient: Sendable {
    private let channel: any Channel
    private let stream: AsyncStream<ByteBuffer>
    private let received = Mutex<[UInt8]>([])

    private init(channel: any Channel, stream: AsyncStream<ByteBuffer>) {
        self.channel = channel
        self.stream = stream
    }

    private final class Receiver: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private let continuation: AsyncStream<ByteBuffer>.Continuation

        init(_ continuation: AsyncStream<ByteBuffer>.Continuation) { self.continuation = continuation }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.continuation.yield(self.unwrapInboundIn(data))
        }

        func channelInactive(context: ChannelHandlerContext) { self.continuation.finish() }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }

    /// - Parameter preamble: sent before TLS begins.
    static func connect(
        port: Int = 0, path: String? = nil, tls: NIOSSLContext? = nil, preamble: [UInt8] = []
    ) async throws -> ByteClient {
        let (stream, continuation) = AsyncStream.makeStream(of: ByteBuffer.self)
        let bootstrap = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Receiver(continuation))
                }
            }
        let channel =
            if let path {
                try await bootstrap.connect(unixDomainSocketPath: path).get()
            } else {
                try await bootstrap.connect(host: "127.0.0.1", port: port).get()
            }
        if !preamble.isEmpty { try await channel.writeAndFlush(ByteBuffer(bytes: preamble)) }
        if let tls {
            // Who did not like the preamble may have closed by now: then what follows reads nothing.
            try? await channel.eventLoop.submit {
                try channel.pipeline.syncOperations.addHandler(
                    try NIOSSLClientHandler(context: tls, serverHostname: "localhost"), position: .first)
            }.get()
        }
        return ByteClient(channel: channel, stream: stream)
    }

    func send(_ bytes: [UInt8]) async throws { try await self.channel.writeAndFlush(ByteBuffer(bytes: bytes)) }

    func drop() async { try? await self.channel.close() }

    /// Waits until enough has come, and takes it.
    ///
    /// - Parameter take: how much of what has come is wanted; `nil` for more.
    /// - Returns: what was taken; all that is left if the connection has ended.
    func read(_ what: String, _ take: @escaping @Sendable ([UInt8]) -> Int?) async throws -> [UInt8] {
        try await withDeadline(.seconds(20), what) {
            while true {
                let taken = self.received.withLock { received -> [UInt8]? in
                    guard let count = take(received) else { return nil }
                    defer { received.removeFirst(count) }
                    return Array(received[..<count])
                }
                if let taken { return taken }
                var iterator = self.stream.makeAsyncIterator()
                guard let buffer = await iterator.next() else {
                    return self.received.withLock { received in
                        defer { received = [] }
                        return received
                    }
                }
                self.received.withLock { $0 += Array(buffer.readableBytesView) }
            }
        }
    }

    func read(_ count: Int, _ what: String) async throws -> [UInt8] {
        try await self.read(what) { $0.count >= count ? count : nil }
    }

    func readToEnd(_ what: String) async throws -> [UInt8] { try await self.read(what) { _ in nil } }
}
