import MQTT
import NIOCore
import NIOPosix
import NIOSSL

/// One TLS connection to the broker that speaks MQTT 5.0 packet by packet and keeps to no rule: what an attacker
/// would use. For the demo's attacks.
struct DemoPeer {
    /// What a peer may show for itself.
    struct Credentials {
        /// Leaf first; empty: no certificate at all.
        var chain: [NIOSSLCertificate] = []
        var key: NIOSSLPrivateKeySource?
    }

    /// How an exchange with the broker ended before its answer came.
    enum Failure: Error, CustomStringConvertible {
        /// TLS refused us; the alert or error in words.
        case handshake(String)
        /// Closed without a word.
        case closed

        var description: String {
            switch self {
            case .handshake(let reason): reason
            case .closed: "connection closed"
            }
        }
    }

    /// The largest packet that we take of a broker, in bytes.
    private static let maximumPacketSize = 1 << 20

    private var inbound: NIOAsyncChannelInboundStream<ByteBuffer>.AsyncIterator
    private let outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    private var decoder = PacketDecoder(sender: .server, version: .v5_0, maximumPacketSize: Self.maximumPacketSize)
    private var nextPacketID: UInt16 = 0

    /// Connects, runs `body`, disconnects.
    static func withConnection<Value>(
        host: String, port: Int, credentials: Credentials, trusting roots: [NIOSSLCertificate],
        _ body: (inout DemoPeer) async throws -> Value
    ) async throws -> Value {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.trustRoots = .certificates(roots)
        configuration.minimumTLSVersion = .tlsv13
        configuration.certificateChain = credentials.chain.map { .certificate($0) }
        configuration.privateKey = credentials.key
        // The demo's broker is on loopback; who it is has been checked by the honest parties.
        configuration.certificateVerification = .noHostnameVerification
        let context = try NIOSSLContext(configuration: configuration)
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connectTimeout(.seconds(10))
            .connect(host: host, port: port) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        NIOSSLClientHandler(context: context, serverHostname: nil))
                    return try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                }
            }
        do {
            return try await channel.executeThenClose { inbound, outbound in
                var peer = DemoPeer(inbound: inbound.makeAsyncIterator(), outbound: outbound)
                return try await body(&peer)
            }
        } catch let error as NIOSSLError {
            throw Failure.handshake(Self.words(for: error))
        } catch let error as BoringSSLError {
            throw Failure.handshake(Self.words(for: error))
        }
    }

    private init(
        inbound: NIOAsyncChannelInboundStream<ByteBuffer>.AsyncIterator,
        outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    ) {
        self.inbound = inbound
        self.outbound = outbound
    }

    /// Sends CONNECT and waits for the answer.
    mutating func connect(clientID: String) async throws -> ConnAck {
        try await self.send(.connect(Connect(version: .v5_0, clientID: clientID)))
        while true {
            if case .connAck(let answer) = try await self.receive() { return answer }
        }
    }

    /// Publishes with QoS 1 and waits for the answer: PUBACK's reason, or that of a DISCONNECT.
    mutating func publish(_ payload: [UInt8], to topic: TopicName, retain: Bool = false) async throws -> ReasonCode {
        self.nextPacketID += 1
        let id = self.nextPacketID
        try await self.send(
            .publish(
                Publish(
                    topic: topic, payload: ByteBuffer(bytes: payload), qos: .atLeastOnce, retain: retain,
                    packetID: id)))
        while true {
            switch try await self.receive() {
            case .pubAck(let answer) where answer.packetID == id: return answer.reasonCode
            case .disconnect(let disconnect): return disconnect.reasonCode
            default: continue
            }
        }
    }

    /// Subscribes and waits for the answer, one reason for each filter.
    mutating func subscribe(_ filters: [TopicFilter]) async throws -> [ReasonCode] {
        self.nextPacketID += 1
        let id = self.nextPacketID
        try await self.send(
            .subscribe(
                Subscribe(
                    packetID: id, subscriptions: filters.map { Subscription(filter: $0, maximumQoS: .atLeastOnce) })))
        while true {
            switch try await self.receive() {
            case .subAck(let answer) where answer.packetID == id: return answer.reasonCodes
            case .disconnect(let disconnect): return [disconnect.reasonCode]
            default: continue
            }
        }
    }

    /// Waits for the next message that was published to us, and acknowledges it.
    mutating func nextMessage() async throws -> Publish {
        while true {
            guard case .publish(let message) = try await self.receive() else { continue }
            if message.packetID != 0 { try await self.send(.pubAck(PubAck(packetID: message.packetID))) }
            return message
        }
    }

    mutating func send(_ packet: Packet) async throws {
        var buffer = ByteBuffer()
        try packet.encode(into: &buffer, version: .v5_0)
        do {
            try await self.outbound.write(buffer)
        } catch is ChannelError {
            // The broker has hung up, and may have said why: that is read next.
        }
    }

    /// - Throws: ``Failure/closed`` when the broker has hung up; errors of TLS.
    mutating func receive() async throws -> Packet {
        while true {
            if let packet = try self.decoder.next() { return packet }
            guard let bytes = try await self.inbound.next(isolation: #isolation) else { throw Failure.closed }
            self.decoder.append(bytes)
        }
    }

    /// The alert that the other end sent, in the words of RFC 8446 section 6.2, if there is one in an error's text.
    private static func words(for error: any Error) -> String {
        let text = String(describing: error)
        for (mark, words) in Self.alerts where text.contains(mark) { return "TLS alert: \(words)" }
        return "TLS: \(text.prefix(120))"
    }

    private static let alerts = [
        ("CERTIFICATE_REQUIRED", "certificate required"), ("UNKNOWN_CA", "unknown ca"),
        ("BAD_CERTIFICATE", "bad certificate"), ("CERTIFICATE_UNKNOWN", "certificate unknown"),
        ("CERTIFICATE_EXPIRED", "certificate expired"), ("CERTIFICATE_REVOKED", "certificate revoked"),
        ("HANDSHAKE_FAILURE", "handshake failure"), ("ACCESS_DENIED", "access denied"),
        ("DECRYPT_ERROR", "decrypt error"), ("UNSUPPORTED_CERTIFICATE", "unsupported certificate"),
    ]
}
