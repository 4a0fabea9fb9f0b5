import Identity
import Logging
import MQTT
import MQTTBroker
import NIOCore
import NIOPosix
import NIOSSL
import Synchronization
import TestSupport

func auditor(_ id: String) throws -> PeerIdentity { try peer(.auditor, id) }

func peer(_ role: Role, _ id: String) throws -> PeerIdentity {
    PeerIdentity(
        spiffeID: SPIFFEID(trustDomain: try TrustDomain("energy.example"), role: role, id: try Identifier(id)),
        certificateHash: Array(repeating: 7, count: 32))
}

/// Lets everybody do everything but what is named.
struct Permissive: Authorizer {
    var deniedTopic: String?

    func refusalToPublish(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
        topic.rawValue == self.deniedTopic ? "topic" : nil
    }

    func refusalToSubscribe(_ filter: TopicFilter, by peer: PeerIdentity) -> String? {
        filter.rawValue == self.deniedTopic ? "topic" : nil
    }

    func refusalToConnect(_ peer: PeerIdentity) -> String? { peer.spiffeID.role == .broker ? "role" : nil }
}

/// What a broker reported, and a way to wait for it.
final class EventLog: Sendable {
    private struct Waiter {
        let id: Int
        let isWanted: @Sendable (BrokerEvent) -> Bool
        let continuation: CheckedContinuation<Void, Never>
    }

    private struct State {
        var events: [BrokerEvent] = []
        var waiters: [Waiter] = []
        var nextID = 0
    }

    private let state = Mutex(State())

    func append(_ event: BrokerEvent) {
        let woken = self.state.withLock { state in
            state.events.append(event)
            let woken = state.waiters.filter { $0.isWanted(event) }
            state.waiters.removeAll { $0.isWanted(event) }
            return woken
        }
        for waiter in woken { waiter.continuation.resume() }
    }

    var all: [BrokerEvent] { self.state.withLock { $0.events } }

    var texts: [String] { self.all.map(\.description) }

    func wait(_ what: String, for isWanted: @escaping @Sendable (BrokerEvent) -> Bool) async throws {
        let id = self.state.withLock { state in
            state.nextID += 1
            return state.nextID
        }
        try await withDeadline(.seconds(20), what) {
            await withTaskCancellationHandler {
                await withCheckedContinuation { continuation in
                    let isDone = self.state.withLock { state in
                        if Task.isCancelled || state.events.contains(where: isWanted) { return true }
                        state.waiters.append(Waiter(id: id, isWanted: isWanted, continuation: continuation))
                        return false
                    }
                    if isDone { continuation.resume() }
                }
            } onCancel: {
                let waiter = self.state.withLock { state in
                    let waiter = state.waiters.first { $0.id == id }
                    state.waiters.removeAll { $0.id == id }
                    return waiter
                }
                waiter?.continuation.resume()
            }
        }
    }
}

/// A broker that runs for the time of a test.
struct TestBroker {
    let broker: Broker
    let port: Int
    let events: EventLog

    /// Plaintext; the user name of CONNECT says who it is: `auditor-1`, `center-1`, `operator-1`...
    static func withPlaintext(
        authorizer: any Authorizer = TopicTableAuthorizer(), limits: BrokerLimits = BrokerLimits(),
        _ body: (TestBroker) async throws -> Void
    ) async throws {
        let identify: @Sendable (Connect) -> PeerIdentity? = { connect in
            guard let name = connect.username else { return nil }
            let role: Role =
                name.hasPrefix("center")
                ? .controlCenter
                : name.hasPrefix("operator") ? .operator : name.hasPrefix("broker") ? .broker : .auditor
            return try? peer(role, name)
        }
        try await self.with(
            BrokerConfiguration(
                listeners: [.plaintextOnLoopback(port: 0, identify: identify)], authorizer: authorizer, limits: limits),
            body)
    }

    /// All on one event loop, and sockets on two others.
    static let threads = [1, 3]

    /// Runs `body` with each number of threads in turn: what must be new each time is made in it.
    static func with(
        _ configuration: BrokerConfiguration, threads: [Int] = Self.threads, _ body: (TestBroker) async throws -> Void
    ) async throws {
        for count in threads {
            var configuration = configuration
            configuration.threads = count
            try await self.with(one: configuration, body)
        }
    }

    private static func with(
        one configuration: BrokerConfiguration, _ body: (TestBroker) async throws -> Void
    ) async throws {
        let events = EventLog()
        var configuration = configuration
        configuration.observer = { events.append($0) }
        var logger = Logger(label: "broker")
        logger.logLevel = .critical
        let broker = try Broker(configuration: configuration, logger: logger)
        let running = Task { try await broker.run() }
        do {
            let ports = try await broker.boundPorts()
            try await body(TestBroker(broker: broker, port: ports[0], events: events))
        } catch {
            running.cancel()
            _ = await running.result
            throw error
        }
        running.cancel()
        try await running.value
    }

    func connect(
        _ name: String, clientID: String? = nil, version: ProtocolVersion = .v5_0, cleanStart: Bool = true,
        keepAlive: UInt16 = 60, properties: Properties = []
    ) async throws -> (RawClient, ConnAck) {
        let client = try await RawClient.connect(port: self.port, version: version)
        try await client.send(
            .connect(
                Connect(
                    version: version, clientID: clientID ?? name, cleanStart: cleanStart, keepAlive: keepAlive,
                    username: name, properties: properties)))
        guard case .connAck(let connAck) = try await client.next() else { throw UnexpectedPacket() }
        return (client, connAck)
    }
}

struct UnexpectedPacket: Error {}

/// Speaks packets, or any bytes, and says what came back.
final class RawClient: Sendable {
    private let channel: any Channel
    private let version: ProtocolVersion
    private let inbox: Inbox

    private init(channel: any Channel, version: ProtocolVersion, inbox: Inbox) {
        self.channel = channel
        self.version = version
        self.inbox = inbox
    }

    static func connect(
        port: Int, version: ProtocolVersion = .v5_0, tls: NIOSSLContext? = nil
    ) async throws -> RawClient {
        let inbox = Inbox()
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let tls {
                        try channel.pipeline.syncOperations.addHandler(
                            try NIOSSLClientHandler(context: tls, serverHostname: "localhost"))
                    }
                    try channel.pipeline.syncOperations.addHandler(Receiver(inbox: inbox, version: version))
                }
            }
            .connect(host: "127.0.0.1", port: port).get()
        return RawClient(channel: channel, version: version, inbox: inbox)
    }

    func send(_ packet: Packet) async throws {
        var buffer = ByteBuffer()
        try packet.encode(into: &buffer, version: self.version)
        try await self.channel.writeAndFlush(buffer)
    }

    func send(bytes: [UInt8]) async throws {
        try await self.channel.writeAndFlush(ByteBuffer(bytes: bytes))
    }

    /// - Returns: `nil` when the connection has ended.
    func next() async throws -> Packet? {
        try await withDeadline(.seconds(20), "a packet comes") { await self.inbox.next() }
    }

    func expect<Value>(_ match: (Packet) -> Value?) async throws -> Value {
        guard let packet = try await self.next(), let value = match(packet) else { throw UnexpectedPacket() }
        return value
    }

    func expectConnAck() async throws -> ConnAck {
        try await self.expect { if case .connAck(let packet) = $0 { packet } else { nil } }
    }

    func expectPublish() async throws -> Publish {
        try await self.expect { if case .publish(let packet) = $0 { packet } else { nil } }
    }

    func expectPubAck() async throws -> PubAck {
        try await self.expect { if case .pubAck(let packet) = $0 { packet } else { nil } }
    }

    func expectDisconnect() async throws -> ReasonCode {
        try await self.expect { if case .disconnect(let packet) = $0 { packet.reasonCode } else { nil } }
    }

    func expectEnd() async throws -> Bool { try await self.next() == nil }

    /// Everything sent before has been dealt with.
    func ping() async throws {
        try await self.send(.pingReq)
        guard case .pingResp = try await self.next() else { throw UnexpectedPacket() }
    }

    func publish(
        _ topic: String, _ payload: String = "x", qos: QoS = .atLeastOnce, id: UInt16 = 1, retain: Bool = false,
        properties: Properties = []
    ) async throws {
        try await self.send(
            .publish(
                Publish(
                    topic: try TopicName(topic), payload: ByteBuffer(string: payload), qos: qos, retain: retain,
                    packetID: qos == .atMostOnce ? 0 : id, properties: properties)))
    }

    @discardableResult
    func subscribe(_ filters: String..., qos: QoS = .atLeastOnce) async throws -> [ReasonCode] {
        try await self.send(
            .subscribe(
                Subscribe(
                    packetID: 1,
                    subscriptions: try filters.map { Subscription(filter: try TopicFilter($0), maximumQoS: qos) })))
        return try await self.expect { if case .subAck(let packet) = $0 { packet.reasonCodes } else { nil } }
    }

    /// In one write: `count` messages of QoS 0 and DISCONNECT. Then closes.
    func publishAndLeave(_ topic: String, _ count: Int) async throws {
        var bytes = ByteBuffer()
        for number in 1...count {
            try Packet.publish(Publish(topic: try TopicName(topic), payload: ByteBuffer(string: "\(number)")))
                .encode(into: &bytes, version: self.version)
        }
        try Packet.disconnect(Disconnect()).encode(into: &bytes, version: self.version)
        try await self.channel.writeAndFlush(bytes)
        try await self.drop()
    }

    /// Closes without DISCONNECT.
    func drop() async throws { try? await self.channel.close() }

    func setAutoRead(_ isOn: Bool) async throws { try await self.channel.setOption(.autoRead, value: isOn).get() }

    fileprivate final class Inbox: Sendable {
        private struct State {
            var packets: [Packet] = []
            var hasEnded = false
            var waiter: CheckedContinuation<Packet?, Never>?
        }

        private let state = Mutex(State())

        func append(_ packet: Packet) {
            let waiter = self.state.withLock { state in
                guard let waiter = state.waiter else {
                    state.packets.append(packet)
                    return nil as CheckedContinuation<Packet?, Never>?
                }
                state.waiter = nil
                return waiter
            }
            waiter?.resume(returning: packet)
        }

        func end() {
            let waiter = self.state.withLock { state in
                defer { state.waiter = nil }
                state.hasEnded = true
                return state.waiter
            }
            waiter?.resume(returning: nil)
        }

        func next() async -> Packet? {
            await withTaskCancellationHandler {
                await withCheckedContinuation { continuation in
                    let ready: Packet?? = self.state.withLock { state in
                        if !state.packets.isEmpty { return .some(state.packets.removeFirst()) }
                        if state.hasEnded || Task.isCancelled { return .some(nil) }
                        state.waiter = continuation
                        return nil
                    }
                    if let ready { continuation.resume(returning: ready) }
                }
            } onCancel: {
                self.end()
            }
        }
    }

    private final class Receiver: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private let inbox: Inbox
        private var decoder: PacketDecoder

        init(inbox: Inbox, version: ProtocolVersion) {
            self.inbox = inbox
            self.decoder = PacketDecoder(sender: .server, version: version, maximumPacketSize: 1_048_576)
            self.decoder.topicAliasMaximum = .max
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.decoder.append(self.unwrapInboundIn(data))
            do {
                while let packet = try self.decoder.next() { self.inbox.append(packet) }
            } catch {
                context.close(promise: nil)
            }
        }

        func channelInactive(context: ChannelHandlerContext) { self.inbox.end() }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
