import MQTT
import NIOCore
import NIOPosix
import TestSupport

/// A server that does nothing by itself: the test says what it sends, and sees what it gets.
final class ScriptedServer: Sendable {
    let port: Int
    private let channel: any Channel
    private let accepted: AsyncStream<ScriptedConnection>

    init(version: ProtocolVersion = .v5_0) async throws {
        let (stream, continuation) = AsyncStream<ScriptedConnection>.makeStream()
        self.accepted = stream
        self.channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let (packets, feed) = AsyncStream<Packet>.makeStream()
                    try channel.pipeline.syncOperations.addHandler(ScriptedHandler(feed))
                    continuation.yield(ScriptedConnection(channel: channel, version: version, packets: packets))
                }
            }
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .bind(host: "127.0.0.1", port: 0).get()
        self.port = self.channel.localAddress?.port ?? 0
    }

    deinit { self.channel.close(promise: nil) }

    /// The next client that connects.
    func accept() async throws -> ScriptedConnection {
        try await withDeadline(.seconds(30), "a client connects") { [accepted] in
            for await connection in accepted { return connection }
            throw CancellationError()
        }
    }

    /// The next client that connects, let in, without subscriptions.
    func acceptAndConnect(
        sessionPresent: Bool = false, properties: Properties = []
    ) async throws -> (ScriptedConnection, Connect) {
        let connection = try await self.accept()
        let connect = try await connection.nextConnect()
        connection.send(
            .connAck(ConnAck(sessionPresent: sessionPresent, reasonCode: .success, properties: properties)))
        return (connection, connect)
    }

    /// The next client that connects, let in, with whatever it subscribes to granted.
    func acceptAndLetIn(
        sessionPresent: Bool = false, properties: Properties = []
    ) async throws -> (ScriptedConnection, Connect) {
        let connection = try await self.accept()
        guard case .connect(let connect) = try await connection.next() else {
            throw Unexpected(description: "no CONNECT")
        }
        connection.send(
            .connAck(ConnAck(sessionPresent: sessionPresent, reasonCode: .success, properties: properties)))
        guard case .subscribe(let subscribe) = try await connection.next() else {
            throw Unexpected(description: "no SUBSCRIBE")
        }
        connection.send(
            .subAck(
                SubAck(
                    packetID: subscribe.packetID,
                    reasonCodes: subscribe.subscriptions.map { ReasonCode(rawValue: $0.maximumQoS.rawValue) })))
        return (connection, connect)
    }
}

/// The other side did not what the script says.
struct Unexpected: Error, CustomStringConvertible {
    let description: String
}

/// A client's connection, seen from the server.
struct ScriptedConnection: Sendable {
    let channel: any Channel
    let version: ProtocolVersion
    private let packets: AsyncStream<Packet>

    init(channel: any Channel, version: ProtocolVersion, packets: AsyncStream<Packet>) {
        self.channel = channel
        self.version = version
        self.packets = packets
    }

    /// The client's next packet; `nil` when it has closed the connection.
    func next() async throws -> Packet? {
        try await withDeadline(.seconds(30), "the client sends a packet or closes") { [packets] in
            for await packet in packets { return packet }
            return nil
        }
    }

    func nextConnect() async throws -> Connect {
        guard case .connect(let packet) = try await self.next() else { throw Unexpected(description: "no CONNECT") }
        return packet
    }

    func nextPublish() async throws -> Publish {
        guard case .publish(let packet) = try await self.next() else { throw Unexpected(description: "no PUBLISH") }
        return packet
    }

    /// The client's AUTH.
    func nextAuthPacket() async throws -> Packet {
        guard let packet = try await self.next(), case .auth = packet else {
            throw Unexpected(description: "no AUTH")
        }
        return packet
    }

    /// The client's SUBSCRIBE, granted as asked.
    func grantSubscribe() async throws -> Subscribe {
        guard case .subscribe(let packet) = try await self.next() else { throw Unexpected(description: "no SUBSCRIBE") }
        self.send(
            .subAck(
                SubAck(
                    packetID: packet.packetID,
                    reasonCodes: packet.subscriptions.map { ReasonCode(rawValue: $0.maximumQoS.rawValue) })))
        return packet
    }

    /// The client's UNSUBSCRIBE, done.
    func grantUnsubscribe() async throws -> Unsubscribe {
        guard case .unsubscribe(let packet) = try await self.next() else {
            throw Unexpected(description: "no UNSUBSCRIBE")
        }
        self.send(
            .unsubAck(
                UnsubAck(
                    packetID: packet.packetID,
                    reasonCodes: self.version == .v5_0 ? packet.filters.map { _ in .success } : [])))
        return packet
    }

    /// Packets in one write.
    func send(_ packets: Packet...) { self.send(packets) }

    func send(_ packets: [Packet]) {
        self.send(bytes: packets.flatMap { (try? encoded($0, self.version)) ?? [] })
    }

    func send(bytes: [UInt8]) {
        self.channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil)
    }

    func close() { self.channel.close(promise: nil) }
}

func encoded(_ packet: Packet, _ version: ProtocolVersion) throws -> [UInt8] {
    var buffer = ByteBuffer()
    try packet.encode(into: &buffer, version: version)
    return Array(buffer.readableBytesView)
}

private final class ScriptedHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private var decoder = PacketDecoder(sender: .client, maximumPacketSize: 1 << 20)
    private let feed: AsyncStream<Packet>.Continuation

    init(_ feed: AsyncStream<Packet>.Continuation) {
        self.feed = feed
        self.decoder.topicAliasMaximum = 10
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.decoder.append(self.unwrapInboundIn(data))
        do {
            while let packet = try self.decoder.next() {
                self.feed.yield(packet)
                // The one thing it does by itself, as every server must (MQTT-3.14.4-3).
                if case .disconnect = packet { context.close(promise: nil) }
            }
        } catch {
            context.close(promise: nil)
        }
    }

    func channelInactive(context: ChannelHandlerContext) { self.feed.finish() }
}
