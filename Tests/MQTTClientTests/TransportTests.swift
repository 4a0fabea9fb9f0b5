import MQTT
import MQTTClient
import MessageBus
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import NIOWebSocket
import TestSupport
import Testing

/// A WebSocket server that answers each binary frame's bytes as an MQTT server would: CONNECT, SUBSCRIBE, PUBLISH.
private final class FramedServer: ChannelInboundHandler {
    typealias InboundIn = WebSocketFrame
    typealias OutboundOut = WebSocketFrame

    private var decoder = PacketDecoder(sender: .client, maximumPacketSize: 1 << 20)

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = self.unwrapInboundIn(data)
        guard frame.maskKey != nil, frame.opcode == .binary || frame.opcode == .pong else {
            context.close(promise: nil)
            return
        }
        guard frame.opcode == .binary else { return }
        self.decoder.append(frame.unmaskedData)
        do {
            while let packet = try self.decoder.next() {
                switch packet {
                case .connect: self.send(.connAck(ConnAck(sessionPresent: false, reasonCode: .success)), context)
                case .subscribe(let subscribe):
                    self.send(.subAck(SubAck(packetID: subscribe.packetID, reasonCodes: [.grantedQoS1])), context)
                case .publish(let publish):
                    self.send(.pubAck(PubAck(packetID: publish.packetID)), context)
                    self.send(.publish(publish), context)
                case .disconnect: context.close(promise: nil)
                default: break
                }
            }
        } catch {
            context.close(promise: nil)
        }
    }

    /// One packet, cut into a frame for each byte, with a ping between them (MQTT-6.0.0-2).
    private func send(_ packet: Packet, _ context: ChannelHandlerContext) {
        let bytes = (try? encoded(packet, .v5_0)) ?? []
        for byte in bytes {
            context.write(
                self.wrapOutboundOut(WebSocketFrame(fin: true, opcode: .binary, data: ByteBuffer(bytes: [byte]))),
                promise: nil)
        }
        context.writeAndFlush(
            self.wrapOutboundOut(WebSocketFrame(fin: true, opcode: .ping, data: ByteBuffer())), promise: nil)
    }
}

@Suite
struct WebSocketTests {
    /// Listens with TLS if there is a PKI, for the path /mqtt and the protocol mqtt.
    private func listen(_ pki: TestPKI?, subprotocol: String = "mqtt") async throws -> any Channel {
        let context: NIOSSLContext? = try pki.map { pki in
            var tls = try TLSConfiguration.makeServerConfigurationWithMTLS(
                certificateChain: NIOSSLCertificate.fromPEMBytes(Array(pki.broker.chainPEM.utf8))
                    .map { .certificate($0) },
                privateKey: .privateKey(NIOSSLPrivateKey(bytes: Array(pki.broker.keyPEM.utf8), format: .pem)),
                trustRoots: .certificates(NIOSSLCertificate.fromPEMBytes(Array(pki.rootPEM.utf8))))
            tls.minimumTLSVersion = .tlsv13
            return try NIOSSLContext(configuration: tls)
        }
        return try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    if let context { try pipeline.addHandler(NIOSSLServerHandler(context: context)) }
                    let upgrader = NIOWebSocketServerUpgrader(
                        maxFrameSize: 1 << 20,
                        shouldUpgrade: { channel, head in
                            channel.eventLoop.makeSucceededFuture(
                                head.uri == "/mqtt" && head.headers["Sec-WebSocket-Protocol"] == ["mqtt"]
                                    ? ["Sec-WebSocket-Protocol": subprotocol] : nil)
                        },
                        upgradePipelineHandler: { channel, _ in
                            channel.eventLoop.makeCompletedFuture {
                                try channel.pipeline.syncOperations.addHandler(FramedServer())
                            }
                        })
                    try pipeline.configureHTTPServerPipeline(
                        withServerUpgrade: (
                            upgraders: [upgrader],
                            completionHandler: { $0.pipeline.removeHandler(name: "not-found", promise: nil) }
                        ))
                    try pipeline.addHandler(NotFound(), name: "not-found")
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    /// What is no upgrade.
    private final class NotFound: ChannelInboundHandler, RemovableChannelHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            guard case .end = self.unwrapInboundIn(data) else { return }
            let head = HTTPResponseHead(version: .http1_1, status: .notFound, headers: ["Content-Length": "0"])
            context.write(self.wrapOutboundOut(.head(head)), promise: nil)
            context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
        }
    }

    private func configuration(
        _ server: any Channel, _ pki: TestPKI?, path: String = "/mqtt"
    ) throws -> MQTTClientConfiguration {
        var configuration = try MQTTClientConfiguration.plaintext(port: server.localAddress?.port ?? 0)
        configuration.transport = .webSocketLoopback(path: path)
        if let pki {
            let party = pki.auditors[0]
            configuration.transport = .webSocket(
                try .init(
                    certificateChainPEM: party.chainPEM.utf8, privateKeyPEM: party.keyPEM.utf8,
                    trustRootsPEM: pki.rootPEM.utf8), path: path)
        }
        return configuration
    }

    @Test(
        "MQTT goes through WebSocket frames, cut anywhere, with and without TLS (chapter 6)", arguments: [true, false])
    func thereAndBack(isSecure: Bool) async throws {
        let pki = isSecure ? try TestPKI() : nil
        let server = try await self.listen(pki)
        defer { server.close(promise: nil) }
        try await MQTTConnection.withConnection(self.configuration(server, pki)) { connection in
            for size in [0, 1_000, 30_000] {
                let text = String(repeating: "x", count: size)
                try await connection.publish("in/x", text)
                #expect(try await Events(connection).nextDelivery().text == text)
            }
        }
    }

    @Test("Where nobody speaks MQTT over WebSocket that is said", arguments: ["/other", "/mqtt"])
    func refused(path: String) async throws {
        let server = try await self.listen(nil, subprotocol: "chat")
        defer { server.close(promise: nil) }
        let configuration = try self.configuration(server, nil, path: path)
        await #expect(throws: error(.webSocketRefused)) {
            try await MQTTConnection.withConnection(configuration) { _ in }
        }
    }

    @Test("Our own check of the server's certificate comes before anything is asked of it")
    func verifyPeer() async throws {
        let pki = try TestPKI()
        let server = try await self.listen(pki)
        defer { server.close(promise: nil) }
        var configuration = try self.configuration(server, pki)
        guard case .webSocket(var tls, let path) = configuration.transport else { return }
        tls.verifyPeer = { _ in throw Unexpected(description: "revoked") }
        configuration.transport = .webSocket(tls, path: path)
        let frozen = configuration
        await #expect(throws: error(.peerRejected)) { try await MQTTConnection.withConnection(frozen) { _ in } }
    }
}

/// More of the real thing: exactly once, wills, passwords, sockets.
@Suite(.enabled(if: MosquittoServer.isInstalled, "mosquitto is not installed"))
struct MosquittoFeatureTests {
    @Test("QoS 2 goes there and back", arguments: ProtocolVersion.allCases)
    func exactlyOnce(version: ProtocolVersion) async throws {
        let mosquitto = try await MosquittoServer()
        var configuration = try MQTTClientConfiguration.plaintext(port: mosquitto.port, version: version)
        configuration.cleanStart = true
        configuration.subscriptions = [.init(try TopicFilter("in/#"), qos: .exactlyOnce)]
        try await MQTTConnection.withConnection(configuration) { connection in
            let events = Events(connection)
            for number in 0..<50 {
                try await connection.publish(OutgoingMessage(topic: "in/x", text: "\(number)", qos: .exactlyOnce))
            }
            for number in 0..<50 {
                let delivery = try await events.nextDelivery()
                #expect(delivery.text == "\(number)")
                #expect(delivery.qos == .exactlyOnce)
                delivery.settle()
            }
        }
    }

    @Test("Who says so in its goodbye has its will published, with its properties")
    func will() async throws {
        let mosquitto = try await MosquittoServer()
        let watching = try MQTTClientConfiguration.plaintext(port: mosquitto.port, clientID: "watcher")
        var mortal = try MQTTClientConfiguration.plaintext(port: mosquitto.port, clientID: "mortal")
        mortal.subscriptions = []
        mortal.will = .init(
            try OutgoingMessage(
                topic: "in/will", text: "gone",
                properties: MessageProperties(contentType: "text/plain", userProperties: [UserProperty("a", "b")])))
        let frozen = mortal
        try await MQTTConnection.withConnection(watching) { connection in
            let events = Events(connection)
            try await MQTTConnection.withConnection(frozen) { try $0.setGoodbye(publishingWill: true) }
            let delivery = try await events.nextDelivery()
            #expect(delivery.text == "gone")
            #expect(delivery.properties.contentType == "text/plain")
            #expect(delivery.properties.userProperties == [UserProperty("a", "b")])
        }
    }

    @Test("A user is let in with the right password only", .enabled(if: ChildProcess.find("mosquitto_passwd") != nil))
    func password() async throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write("", to: "passwords")
        let tool = try ChildProcess("mosquitto_passwd", ["-b", file, "mona", "right"], directory: directory.path)
        #expect(try await tool.wait() == .exited(0))
        let mosquitto = try await MosquittoServer(lines: ["allow_anonymous false", "password_file \(file)"])
        var configuration = try MQTTClientConfiguration.plaintext(port: mosquitto.port)
        configuration.userName = "mona"
        configuration.password = "right"
        try await MQTTConnection.withConnection(configuration) { _ in }
        configuration.password = "wrong"
        let wrong = configuration
        let thrown = await #expect(throws: error(.connectionRefused)) {
            try await MQTTConnection.withConnection(wrong) { _ in }
        }
        #expect(thrown?.reasonCode == .notAuthorized)
        #expect(thrown?.description.contains("wrong") == false)
    }

    @Test("A Unix socket serves as well")
    func unixSocket() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("socket")
        let mosquitto = try await MosquittoServer(lines: ["listener 0 \(path)"])
        var configuration = try MQTTClientConfiguration.plaintext(port: mosquitto.port)
        configuration.transport = .unixSocket(path: path)
        try await MQTTConnection.withConnection(configuration) { connection in
            try await connection.publish("in/x", "hello")
            #expect(try await Events(connection).nextDelivery().text == "hello")
        }
    }

    @Test("Of a shared subscription each message goes to one of its members")
    func shared() async throws {
        let mosquitto = try await MosquittoServer()
        let first = try MQTTClientConfiguration.plaintext(
            port: mosquitto.port, clientID: "first", subscribe: "$share/g/in/#")
        var second = first
        second.clientID = "second"
        let other = second
        try await MQTTConnection.withConnection(first) { first in
            try await MQTTConnection.withConnection(other) { second in
                for number in 0..<10 { try await first.publish("in/x", "\(number)") }
                var texts: Set<String> = []
                let (one, two) = (Events(first), Events(second))
                for _ in 0..<5 {
                    for events in [one, two] {
                        let delivery = try await events.nextDelivery()
                        texts.insert(delivery.text)
                        delivery.settle()
                    }
                }
                #expect(texts.count == 10)
            }
        }
    }

    @Test("Requests are answered through the real server")
    func requests() async throws {
        let mosquitto = try await MosquittoServer()
        var configuration = try MQTTClientConfiguration.plaintext(port: mosquitto.port, clientID: "")
        configuration.cleanStart = true
        configuration.subscriptions = []
        let frozen = configuration
        try await MQTTConnection.withConnection(frozen) { server in
            try await server.withSubscription(to: [.init(TopicFilter("ask"))]) { questions in
                try await withThrowingTaskGroup(of: Void.self) { group in
                    group.addTask {
                        for try await question in questions {
                            let topic = try #require(question.properties.responseTopic)
                            var answer = OutgoingMessage(
                                topic: topic, payload: ByteBuffer(string: question.text.uppercased()))
                            answer.properties.correlationData = question.properties.correlationData
                            try await server.publish(answer)
                        }
                    }
                    try await MQTTConnection.withConnection(frozen) { client in
                        for text in ["one", "two", "three"] {
                            let answer = try await client.request(
                                OutgoingMessage(topic: "ask", text: text), timeout: .seconds(30))
                            #expect(answer.text == text.uppercased())
                        }
                    }
                    group.cancelAll()
                }
            }
        }
    }
}
