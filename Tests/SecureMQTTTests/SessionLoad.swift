import Foundation
import MQTT
import NIOCore
import NIOPosix
import TestSupport

/// Many MQTT clients that lose nothing of what MQTT asks them to keep, against a broker that is killed.
///
/// All of them live on one event loop, and speak without TLS to the listener for tests. What they have seen outlives
/// their connections, as it would in a client with a store of its own.
final class SessionLoad: Sendable {
    static let trustDomain = "test.example"

    private let group: MultiThreadedEventLoopGroup
    let loop: any EventLoop
    private let port: Int
    private let world: NIOLoopBoundBox<World>

    /// - Parameter subscribers: `home-0`, `home-1` and so on.
    init(port: Int, subscribers: Int, seed: UInt64) {
        self.group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        self.loop = self.group.next()
        self.port = port
        self.world = NIOLoopBoundBox.makeBoxSendingValue(
            World(subscribers: subscribers, random: SplitMix64(seed: seed)), eventLoop: self.loop)
    }

    func shutDown() async { try? await self.group.shutdownGracefully() }

    /// Runs on the loop.
    func access<Value: Sendable>(_ body: @escaping @Sendable (World) throws -> Value) async throws -> Value {
        let world = self.world
        return try await self.loop.submit { try body(world.value) }.get()
    }

    /// Connects a client and waits until it is ready: subscribed, and all that it has to send again is sent.
    func connect(_ name: String) async throws {
        let world = self.world
        let ready = self.loop.makePromise(of: Void.self)
        let bootstrap = ClientBootstrap(group: self.loop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        LoadConnection(client: world.value.client(name), world: world.value, ready: ready))
                }
            }
        do {
            _ = try await bootstrap.connect(host: "127.0.0.1", port: self.port).get()
        } catch {
            ready.fail(error)
        }
        try await self.result(of: ready, "\(name) is connected", within: .seconds(30))
    }

    /// Says goodbye and waits until the connection has ended.
    func disconnect(_ name: String) async throws {
        let ended = try await self.access { world in world.client(name).connection?.sayGoodbye() }
        guard let ended else { return }
        try await self.result(of: ended, "\(name) is gone", within: .seconds(30))
    }

    /// Waits until a condition holds that is asked again with every packet.
    func wait(_ what: String, within limit: TimeAmount = .seconds(60), _ condition: @escaping @Sendable (World) -> Bool)
        async throws
    {
        let world = self.world
        let done = self.loop.makePromise(of: Void.self)
        self.loop.execute {
            world.value.waiters.append((condition, done))
            world.value.wake()
        }
        try await self.result(of: done, what, within: limit)
    }

    /// The promise fails in time: nobody can cancel the wait for a future.
    private func result(of promise: EventLoopPromise<Void>, _ what: String, within limit: TimeAmount) async throws {
        let deadline = self.loop.scheduleTask(in: limit) {
            promise.fail(LateError(description: "\(what): not within \(limit.nanoseconds / 1_000_000_000) s"))
        }
        defer { deadline.cancel() }
        try await promise.futureResult.get()
    }

    private struct LateError: Error, CustomStringConvertible {
        let description: String
    }

    /// Everything that the clients know. Stays on the loop.
    final class World {
        let subscribers: Int
        var clients: [String: LoadClient] = [:]
        var random: SplitMix64
        var waiters: [(condition: @Sendable (World) -> Bool, done: EventLoopPromise<Void>)] = []
        /// Messages that were acknowledged: PUBACK at QoS 1, PUBREC at QoS 2.
        var acknowledged = 0
        var published = 0
        var isPublishing = false
        /// The number of the newest retained message that was acknowledged.
        var retained = 0
        /// What must not happen, and did.
        var violations: [String] = []

        init(subscribers: Int, random: SplitMix64) {
            self.subscribers = subscribers
            self.random = random
        }

        func client(_ name: String) -> LoadClient {
            if let client = self.clients[name] { return client }
            let client = LoadClient(name: name)
            self.clients[name] = client
            return client
        }

        func wake() {
            let waiters = self.waiters
            self.waiters = []
            for waiter in waiters {
                if waiter.condition(self) { waiter.done.succeed(()) } else { self.waiters.append(waiter) }
            }
        }

        /// What subscribers lack of what was acknowledged.
        var missing: [String] {
            var missing: [String] = []
            for publisher in self.clients.values {
                for (payload, target) in publisher.acknowledged {
                    let names = target.map { [$0] } ?? (0..<self.subscribers).map { "home-\($0)" }
                    for name in names where self.clients[name]?.received[payload] == nil {
                        missing.append("\(name) lacks \(payload)")
                    }
                }
            }
            return missing
        }
    }
}

/// One client's memory.
final class LoadClient {
    enum State { case published, released }

    struct Outgoing {
        var publish: Publish
        var payload: String
        var target: String?
        /// Of a retained message, of which only the newest counts.
        var retained: Int?
        var state = State.published
    }

    let name: String
    var isPublisher: Bool { self.name.hasPrefix("cc") }
    /// `cc-1` publishes with QoS 1, `cc-2` with 2.
    var qos: QoS { self.name.hasSuffix("1") ? .atLeastOnce : .exactlyOnce }
    var connection: LoadConnection?
    var hasSession = false
    /// How often each message came, repeated deliveries that MQTT allows not counted.
    var received: [String: Int] = [:]
    /// QoS 2: between PUBLISH and PUBREL.
    var open: Set<UInt16> = []
    var outgoing: [UInt16: Outgoing] = [:]
    var nextID: UInt16 = 1
    var count = 0
    /// By payload: for whom; `nil` is everybody.
    var acknowledged: [String: String?] = [:]

    init(name: String) { self.name = name }
}

/// One connection of a client.
final class LoadConnection: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// Publishes of one client that wait for their end.
    private static let window = 64

    private let client: LoadClient
    private let world: SessionLoad.World
    private let ready: EventLoopPromise<Void>
    private var ended: EventLoopPromise<Void>?
    private var decoder = PacketDecoder(sender: .server, version: .v5_0, maximumPacketSize: 1 << 20)
    private var context: ChannelHandlerContext?
    private var out = ByteBuffer()

    init(client: LoadClient, world: SessionLoad.World, ready: EventLoopPromise<Void>) {
        self.client = client
        self.world = world
        self.ready = ready
    }

    func channelActive(context: ChannelHandlerContext) {
        self.context = context
        self.client.connection = self
        let role = self.client.isPublisher ? "control-center" : "auditor"
        self.write(
            .connect(
                Connect(
                    version: .v5_0, clientID: self.client.name, cleanStart: false, keepAlive: 0,
                    username: "spiffe://\(SessionLoad.trustDomain)/\(role)/\(self.client.name)",
                    properties: [.sessionExpiryInterval(.max), .receiveMaximum(200)])))
        self.flush()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.decoder.append(self.unwrapInboundIn(data))
        do {
            while let packet = try self.decoder.next() { try self.take(packet) }
        } catch {
            self.world.violations.append("\(self.client.name): \(error)")
            context.close(promise: nil)
        }
        self.publish()
        self.flush()
        self.world.wake()
    }

    func channelInactive(context: ChannelHandlerContext) {
        if self.client.connection === self { self.client.connection = nil }
        self.context = nil
        self.ready.fail(ChannelError.eof)
        self.ended?.succeed(())
        self.world.wake()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    func sayGoodbye() -> EventLoopPromise<Void>? {
        guard let context = self.context else { return nil }
        let ended = context.eventLoop.makePromise(of: Void.self)
        self.ended = ended
        self.write(.disconnect(Disconnect()))
        self.flush()
        context.close(mode: .output, promise: nil)
        return ended
    }

    private func write(_ packet: Packet) {
        do {
            try packet.encode(into: &self.out, version: .v5_0)
        } catch {
            self.world.violations.append("\(self.client.name): \(error)")
        }
    }

    private func flush() {
        guard self.out.readableBytes > 0, let context = self.context else { return }
        context.writeAndFlush(self.wrapOutboundOut(self.out), promise: nil)
        self.out = ByteBuffer()
    }

    private func take(_ packet: Packet) throws {
        switch packet {
        case .connAck(let connAck):
            guard connAck.reasonCode == .success else {
                return self.world.violations.append("\(self.client.name): refused with \(connAck.reasonCode)")
            }
            if self.client.hasSession, !connAck.sessionPresent {
                self.world.violations.append("\(self.client.name): its session is lost")
            }
            if self.client.isPublisher {
                self.client.hasSession = true
                self.sendAgain()
                self.ready.succeed(())
            } else if self.client.hasSession {
                // The subscriptions are the session's.
                self.ready.succeed(())
            } else {
                let filters =
                    self.client.name == "viewer"
                    ? ["control_center/keys", "control_center/crl"]
                    : ["control_center/alerts/\(self.client.name)", "control_center/alerts/all"]
                self.write(
                    .subscribe(
                        Subscribe(
                            packetID: 1,
                            subscriptions: try filters.map {
                                Subscription(filter: try TopicFilter($0), maximumQoS: .exactlyOnce)
                            })))
            }
        case .subAck(let subAck):
            guard subAck.reasonCodes == [.grantedQoS2, .grantedQoS2] else {
                return self.world.violations.append("\(self.client.name): granted \(subAck.reasonCodes)")
            }
            self.client.hasSession = true
            self.ready.succeed(())
        case .publish(let publish):
            let payload = String(buffer: publish.payload)
            switch publish.qos {
            case .atMostOnce: self.world.violations.append("\(self.client.name): \(payload) with QoS 0")
            case .atLeastOnce:
                self.client.received[payload, default: 0] += 1
                self.write(.pubAck(PubAck(packetID: publish.packetID)))
            case .exactlyOnce:
                if self.client.open.insert(publish.packetID).inserted {
                    self.client.received[payload, default: 0] += 1
                    if self.client.received[payload] != 1 {
                        self.world.violations.append("\(self.client.name): \(payload) twice")
                    }
                }
                self.write(.pubRec(PubRec(packetID: publish.packetID)))
            }
        case .pubRel(let pubRel):
            self.client.open.remove(pubRel.packetID)
            self.write(.pubComp(PubComp(packetID: pubRel.packetID)))
        case .pubAck(let pubAck):
            guard let outgoing = self.client.outgoing.removeValue(forKey: pubAck.packetID) else { return }
            self.acknowledged(outgoing, pubAck.reasonCode)
        case .pubRec(let pubRec):
            guard let outgoing = self.client.outgoing[pubRec.packetID] else { return }
            if outgoing.state == .published { self.acknowledged(outgoing, pubRec.reasonCode) }
            self.client.outgoing[pubRec.packetID]?.state = .released
            self.write(.pubRel(PubRel(packetID: pubRec.packetID)))
        case .pubComp(let pubComp): self.client.outgoing[pubComp.packetID] = nil
        default: break
        }
    }

    private func acknowledged(_ outgoing: LoadClient.Outgoing, _ code: ReasonCode) {
        guard !code.isFailure else {
            return self.world.violations.append("\(self.client.name): \(outgoing.payload) refused with \(code)")
        }
        self.world.acknowledged += 1
        if let retained = outgoing.retained {
            self.world.retained = max(self.world.retained, retained)
            return
        }
        self.client.acknowledged[outgoing.payload] = .some(outgoing.target)
    }

    /// What was not finished on the former connection (MQTT-4.4.0-1).
    private func sendAgain() {
        for (id, outgoing) in self.client.outgoing.sorted(by: { $0.key < $1.key }) {
            switch outgoing.state {
            case .published:
                var publish = outgoing.publish
                publish.isDuplicate = true
                self.write(.publish(publish))
            case .released: self.write(.pubRel(PubRel(packetID: id)))
            }
        }
    }

    private func publish() {
        guard self.client.isPublisher, self.client.hasSession, self.world.isPublishing else { return }
        while self.client.outgoing.count < Self.window {
            self.client.count += 1
            // Everybody's only now and then: it is a thousand deliveries.
            let isForAll = self.client.count.isMultiple(of: 2_000)
            let isRetained = self.client.qos == .atLeastOnce && self.client.count.isMultiple(of: 50)
            let target =
                isForAll ? nil : "home-\(Int.random(in: 0..<self.world.subscribers, using: &self.world.random))"
            let payload = "\(self.client.name) \(self.client.count)"
            var id = self.client.nextID
            while self.client.outgoing[id] != nil || id == 0 { id = id == .max ? 1 : id + 1 }
            self.client.nextID = id == .max ? 1 : id + 1
            let name = isRetained ? "control_center/keys" : "control_center/alerts/\(target ?? "all")"
            guard let topic = try? TopicName(name) else { return }
            let publish = Publish(
                topic: topic, payload: ByteBuffer(string: payload), qos: self.client.qos, retain: isRetained,
                packetID: id)
            self.client.outgoing[id] = LoadClient.Outgoing(
                publish: publish, payload: payload, target: target, retained: isRetained ? self.client.count : nil)
            self.world.published += 1
            self.write(.publish(publish))
        }
    }

    /// Begins to publish; from then on each acknowledgement makes the next one.
    func begin() {
        self.publish()
        self.flush()
    }
}
