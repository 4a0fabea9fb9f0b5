import Connections
import Foundation
import Identity
import MQTT
import MQTTBroker
import NIOCore
import NIOSSL
import PKI
import TestSupport
import Testing

/// The listeners beside plain TLS, over real sockets, with peers that know nothing of our codecs for them.
struct ListenerTests {
    let pki: TestPKI
    let directory: TemporaryDirectory

    init() throws {
        self.pki = try TestPKI()
        self.directory = try TemporaryDirectory()
    }

    private func tls() throws -> BrokerTLS {
        try BrokerTLS(chainPEM: self.pki.broker.chainPEM, keyPEM: self.pki.broker.keyPEM, rootsPEM: self.pki.rootPEM)
    }

    private func withBroker(
        _ listener: BrokerConfiguration.Listener, gate: PeerGate? = nil, limits: BrokerLimits = BrokerLimits(),
        _ body: (TestBroker) async throws -> Void
    ) async throws {
        let gate = try gate ?? self.pki.gate()
        try await TestBroker.with(
            BrokerConfiguration(
                listeners: [listener], tls: try self.tls(),
                admission: PeerAdmission(gate: gate, now: { TestPKI.currentTime() }), limits: limits), body)
    }

    private func context(_ party: TestPKI.Party) throws -> NIOSSLContext {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(self.pki.rootPEM.utf8)))
        configuration.certificateChain = try NIOSSLCertificate.fromPEMBytes(Array(party.chainPEM.utf8))
            .map { .certificate($0) }
        configuration.privateKey = .privateKey(try NIOSSLPrivateKey(bytes: Array(party.keyPEM.utf8), format: .pem))
        return try NIOSSLContext(configuration: configuration)
    }

    private func bytes(_ packets: Packet...) throws -> [UInt8] {
        var buffer = ByteBuffer()
        for packet in packets { try packet.encode(into: &buffer, version: .v5_0) }
        return Array(buffer.readableBytesView)
    }

    private var connect: Packet { .connect(Connect(version: .v5_0, clientID: "c")) }

    // MARK: WebSocket (RFC 6455)

    private static func request(_ path: String = "/mqtt", _ more: String = "") -> [UInt8] {
        Array(
            """
            GET \(path) HTTP/1.1\r
            Host: localhost\r
            Upgrade: websocket\r
            Connection: Upgrade\r
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
            Sec-WebSocket-Version: 13\r
            Sec-WebSocket-Protocol: mqtt\r
            \(more)\r

            """.utf8)
    }

    /// Section 5.2, of a client: masked.
    private static func frame(
        _ opcode: UInt8, _ payload: [UInt8], isFinal: Bool = true, isMasked: Bool = true
    ) -> [UInt8] {
        let mask: [UInt8] = [0x11, 0x22, 0x33, 0x44]
        var frame: [UInt8] = [(isFinal ? 0x80 : 0) | opcode]
        let bit: UInt8 = isMasked ? 0x80 : 0
        if payload.count < 126 {
            frame.append(bit | UInt8(payload.count))
        } else if payload.count < 65_536 {
            frame += [bit | 126, UInt8(payload.count >> 8), UInt8(payload.count & 0xFF)]
        } else {
            frame.append(bit | 127)
            frame += (0..<8).map { UInt8(truncatingIfNeeded: payload.count >> (56 - 8 * $0)) }
        }
        return isMasked ? frame + mask + payload.enumerated().map { $1 ^ mask[$0 % 4] } : frame + payload
    }

    /// The next frame of the server, of fewer than 126 bytes: opcode and payload.
    private func nextFrame(_ client: ByteClient) async throws -> (UInt8, [UInt8]) {
        let frame = try await client.read("a frame") { bytes in
            guard bytes.count >= 2 else { return nil }
            let size = 2 + Int(bytes[1] & 0x7F)
            return bytes.count >= size ? size : nil
        }
        guard frame.count >= 2 else { throw UnexpectedPacket() }
        return (frame[0] & 0x0F, Array(frame[2...]))
    }

    private func response(_ client: ByteClient) async throws -> String {
        let end = Array("\r\n\r\n".utf8)
        let bytes = try await client.read("an HTTP response") { bytes in
            guard bytes.count >= 4 else { return nil }
            return (4...bytes.count).first { Array(bytes[($0 - 4)..<$0]) == end }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private func openWebSocket(_ broker: TestBroker, _ party: TestPKI.Party? = nil) async throws -> ByteClient {
        let client = try await ByteClient.connect(
            port: broker.port, tls: try self.context(try party ?? self.pki.auditor("auditor-1")))
        try await client.send(Self.request())
        let response = try await self.response(client)
        #expect(response.hasPrefix("HTTP/1.1 101"))
        // The example of section 1.3.
        #expect(response.lowercased().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="))
        #expect(response.lowercased().contains("sec-websocket-protocol: mqtt"))
        return client
    }

    @Test("MQTT over WebSocket: packets across frames and many in one, pings answered, close answered")
    func webSocket() async throws {
        try await self.withBroker(.webSocket(host: "127.0.0.1", port: 0)) { broker in
            let client = try await self.openWebSocket(broker)
            let connect = try self.bytes(self.connect)
            try await client.send(Self.frame(0x2, Array(connect[..<3])))
            try await client.send(Self.frame(0x2, Array(connect[3..<5]), isFinal: false))
            // A control frame between fragments.
            try await client.send(Self.frame(0x9, Array("are you there".utf8)))
            try await client.send(Self.frame(0x0, Array(connect[5...])))
            var answer = try await self.nextFrame(client)
            #expect(answer.0 == 0xA)
            #expect(answer.1 == Array("are you there".utf8))
            answer = try await self.nextFrame(client)
            #expect(answer.0 == 0x2)
            #expect(answer.1.first == 0x20)
            let topic = try TopicName("audits/measures/auditor-1")
            let publishes = (1...3).map {
                Packet.publish(Publish(topic: topic, payload: ByteBuffer(), qos: .atLeastOnce, packetID: $0))
            }
            try await client.send(
                Self.frame(0x2, try self.bytes(publishes[0], publishes[1], publishes[2], .pingReq)))
            answer = try await self.nextFrame(client)
            #expect(answer.1 == [0x40, 2, 0, 1, 0x40, 2, 0, 2, 0x40, 2, 0, 3, 0xD0, 0])
            #expect(
                broker.events.all.contains {
                    if case .connected(let peer, _, _) = $0 { peer.spiffeID.id.rawValue == "auditor-1" } else { false }
                })
            try await client.send(Self.frame(0x8, [0x03, 0xE8]))
            answer = try await self.nextFrame(client)
            #expect(answer.0 == 0x8)
            #expect(try await client.readToEnd("the end").isEmpty)
        }
    }

    @Test("A handshake of HTTP that is wrong is answered, and the connection ends")
    func webSocketRefusals() async throws {
        try await self.withBroker(.webSocket(host: "127.0.0.1", port: 0)) { broker in
            for (request, status) in [
                (Self.request("/other"), "404"), (Self.request("/mqtt", "Origin: https://evil.example\r\n"), "403"),
                (Array("GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8), "426"),
                (Array("no HTTP at all\r\n\r\n".utf8), "400"),
            ] {
                let client = try await ByteClient.connect(
                    port: broker.port, tls: try self.context(try self.pki.auditor("auditor-1")))
                try await client.send(request)
                let answer = try await client.readToEnd("the refusal")
                #expect(String(decoding: answer, as: UTF8.self).hasPrefix("HTTP/1.1 \(status)"))
            }
            #expect(try await broker.broker.statistics().connectionsRefused[.webSocket] == 3)
            // Headers without end.
            let client = try await ByteClient.connect(
                port: broker.port, tls: try self.context(try self.pki.auditor("auditor-1")))
            try await client.send(Array("GET /mqtt HTTP/1.1\r\nX: \(String(repeating: "x", count: 100_000))".utf8))
            let answer = try await client.readToEnd("the refusal")
            #expect(!String(decoding: answer, as: UTF8.self).contains("101"))
        }
    }

    @Test(
        "Frames that MQTT or RFC 6455 forbid end the connection, with the code for it",
        arguments: [
            (frame(0x1, Array("text".utf8)), 1_003), (frame(0x2, [0xC0, 0], isMasked: false), 1_002),
            (frame(0x0, [0xC0, 0]), 1_002), (frame(0x3, []), 1_002), (frame(0x9, [], isFinal: false), 1_002),
            (frame(0x2, [UInt8](repeating: 0, count: 70_000)), 1_009),
        ] as [([UInt8], Int)])
    func badFrames(frame: [UInt8], code: Int) async throws {
        var limits = BrokerLimits()
        limits.maximumPacketSize = 65_536
        try await self.withBroker(.webSocket(host: "127.0.0.1", port: 0), limits: limits) { broker in
            let client = try await self.openWebSocket(broker)
            try await client.send(frame)
            let answer = try await self.nextFrame(client)
            #expect(answer.0 == 0x8)
            #expect(answer.1.prefix(2) == [UInt8(code >> 8), UInt8(code & 0xFF)])
            #expect(try await client.readToEnd("the end").isEmpty)
        }
    }

    @Test("Who is revoked gets no WebSocket")
    func webSocketGate() async throws {
        let party = try self.pki.auditor("auditor-1")
        try await self.withBroker(
            .webSocket(host: "127.0.0.1", port: 0), gate: try self.pki.gate(revoking: [party])
        ) { broker in
            let client = try await ByteClient.connect(port: broker.port, tls: try self.context(party))
            try? await client.send(Self.request())
            #expect(try await client.readToEnd("the end").isEmpty)
            try await broker.events.wait("the refusal") {
                if case .handshakeRefused(_, let reason) = $0 { reason.contains("revoked") } else { false }
            }
            #expect(try await broker.broker.statistics().handshakesRefused[RefusalReason("revoked")] == 1)
        }
    }

    // MARK: Unix sockets

    private func unix(
        _ path: String, mode: UInt32 = 0o600, user: UInt32 = getuid()
    ) -> BrokerConfiguration.Listener {
        .unix(path: path, mode: mode) { local in
            local.userID == user ? try? peer(.operator, "mona") : nil
        }
    }

    private func connack(_ path: String) async throws -> UInt8? {
        let client = try await ByteClient.connect(path: path)
        try await client.send(try self.bytes(self.connect))
        let answer = try await client.read(4, "CONNACK")
        return answer.count >= 4 ? answer[3] : nil
    }

    @Test(
        "Over a Unix socket a process is who its user is; the socket has its mode and goes with the broker",
        arguments: [UInt32(0o600), 0o660])
    func unixSocket(mode: UInt32) async throws {
        let path = self.directory.path("s")
        try await self.withBroker(self.unix(path, mode: mode)) { broker in
            let attributes = try FileManager.default.attributesOfItem(atPath: path)
            #expect((attributes[.posixPermissions] as? Int).map { UInt32($0) } == mode)
            let code1 = try await self.connack(path)
            #expect(code1 == ReasonCode.success.rawValue)
            #expect(
                broker.events.all.contains {
                    if case .connected(let peer, _, _) = $0 { peer.spiffeID.role == .operator } else { false }
                })
        }
        #expect(!FileManager.default.fileExists(atPath: path))
        #expect(try FileManager.default.contentsOfDirectory(atPath: self.directory.path).isEmpty)
    }

    @Test("A user whom nobody knows is refused")
    func unknownUser() async throws {
        let path = self.directory.path("s")
        try await self.withBroker(self.unix(path, user: getuid() + 1)) { _ in
            let code2 = try await self.connack(path)
            #expect(code2 == ReasonCode.notAuthorized.rawValue)
        }
    }

    @Test("A stale socket is replaced; one that answers, and a file that is none, are not")
    func staleSocket() async throws {
        let path = self.directory.path("s")
        let stale = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        try SocketAddress(unixDomainSocketPath: path).withSockAddr { address, size in
            #expect(bind(stale, address, socklen_t(size)) == 0)
        }
        close(stale)
        #expect(FileManager.default.fileExists(atPath: path))
        try await self.withBroker(self.unix(path)) { _ in
            let code3 = try await self.connack(path)
            #expect(code3 == ReasonCode.success.rawValue)
            await #expect(throws: BrokerError(.listen, "")) { try await self.withBroker(self.unix(path)) { _ in } }
            // The one that lost has not taken the socket with it.
            let code4 = try await self.connack(path)
            #expect(code4 == ReasonCode.success.rawValue)
        }
        try Data("precious".utf8).write(to: URL(fileURLWithPath: path))
        await #expect(throws: BrokerError(.listen, "")) { try await self.withBroker(self.unix(path)) { _ in } }
        #expect(FileManager.default.fileExists(atPath: path))
    }

    // MARK: Load balancers

    private func listener(_ balancers: String) throws -> BrokerConfiguration.Listener {
        .tls(host: "127.0.0.1", port: 0).behindBalancers(at: [try AddressRange(balancers)])
    }

    @Test("Behind a load balancer the address is the client's, for logs and for limits")
    func proxied() async throws {
        var limits = BrokerLimits()
        limits.maximumConnectionsPerAddress = 1
        try await self.withBroker(try self.listener("127.0.0.0/8"), limits: limits) { broker in
            let tls = try self.context(try self.pki.auditor("auditor-1"))
            let header = TransportValueTests.header(0x21, 0x11, TransportValueTests.v4)
            let first = try await ByteClient.connect(port: broker.port, tls: tls, preamble: header)
            try await first.send(try self.bytes(self.connect))
            #expect(try await first.read(4, "CONNACK").first == 0x20)
            // The same client again: refused. Another one: not.
            let second = try await ByteClient.connect(port: broker.port, tls: tls, preamble: header)
            #expect(try await second.readToEnd("the end").isEmpty)
            try await broker.events.wait("the refusal") {
                if case .connectRefused(_, _, let reason) = $0 { reason.contains("203.0.113.9") } else { false }
            }
            let third = try await ByteClient.connect(
                port: broker.port, tls: tls,
                preamble: TransportValueTests.header(0x21, 0x21, TransportValueTests.v6))
            try await third.send(try self.bytes(.connect(Connect(version: .v5_0, clientID: "d"))))
            #expect(try await third.read(4, "CONNACK").first == 0x20)
            #expect(try await broker.broker.statistics().connectionsRefused[.tooManyOfAddress] == 1)
        }
    }

    @Test("A header that is malformed, missing, or from elsewhere ends the connection")
    func notProxied() async throws {
        let tls = try self.context(try self.pki.auditor("auditor-1"))
        let header = TransportValueTests.header(0x21, 0x11, TransportValueTests.v4)
        try await self.withBroker(try self.listener("127.0.0.1")) { broker in
            for preamble in [[], TransportValueTests.header(0x22, 0x11, TransportValueTests.v4)] {
                let client = try await ByteClient.connect(port: broker.port, tls: tls, preamble: preamble)
                #expect(try await client.readToEnd("the end").isEmpty)
            }
            #expect(try await broker.broker.statistics().connectionsRefused[.proxyHeader] == 2)
        }
        try await self.withBroker(try self.listener("192.0.2.0/24")) { broker in
            let forger = try await ByteClient.connect(port: broker.port, tls: tls, preamble: header)
            // An alert may come before our own TLS is there to take it.
            let alert = try await forger.readToEnd("the end")
            #expect(alert.isEmpty || alert.first == 0x15)
            try await broker.events.wait("the refusal") {
                if case .handshakeRefused(let address, _) = $0 { address.hasPrefix("127.0.0.1") } else { false }
            }
            let direct = try await ByteClient.connect(port: broker.port, tls: tls)
            try await direct.send(try self.bytes(self.connect))
            #expect(try await direct.read(4, "CONNACK").first == 0x20)
        }
    }

    // MARK: Limits

    @Test("One identity may have so many connections, whatever its client identifiers are")
    func connectionsOfIdentity() async throws {
        var limits = BrokerLimits()
        limits.maximumConnectionsPerIdentity = 2
        try await self.withBroker(.tls(host: "127.0.0.1", port: 0), limits: limits) { broker in
            let tls = try self.context(try self.pki.auditor("auditor-1"))
            var clients: [RawClient] = []
            for name in ["a", "b"] {
                let client = try await RawClient.connect(port: broker.port, tls: tls)
                try await client.send(.connect(Connect(version: .v5_0, clientID: name)))
                #expect(try await client.expectConnAck().reasonCode == .success)
                clients.append(client)
            }
            let third = try await RawClient.connect(port: broker.port, tls: tls)
            #expect(try await third.expectEnd())
            #expect(try await broker.broker.statistics().handshakesRefused[.tooManyOfIdentity] == 1)
            // Another identity is not concerned, and one that left makes room.
            let other = try await RawClient.connect(
                port: broker.port, tls: try self.context(try self.pki.auditor("auditor-2")))
            try await other.send(.connect(Connect(version: .v5_0, clientID: "a")))
            #expect(try await other.expectConnAck().reasonCode == .success)
            try await clients[0].send(.disconnect(Disconnect()))
            #expect(try await clients[0].expectEnd())
            let fourth = try await RawClient.connect(port: broker.port, tls: tls)
            try await fourth.send(.connect(Connect(version: .v5_0, clientID: "d")))
            #expect(try await fourth.expectConnAck().reasonCode == .success)
        }
    }

    @Test("Who comes too often from one address is refused before TLS begins")
    func connectionRate() async throws {
        var limits = BrokerLimits()
        limits.connectionRatePerAddress = Rate(perSecond: 1, burst: 3)
        try await self.withBroker(.tls(host: "127.0.0.1", port: 0), limits: limits) { broker in
            for _ in 0..<20 { await (try await ByteClient.connect(port: broker.port)).drop() }
            try await broker.events.wait("the refusal") {
                if case .connectRefused(_, _, let reason) = $0 { reason.contains("too many new") } else { false }
            }
        }
    }

    @Test("Slow handshakes are ended at their deadline: TLS, HTTP, and CONNECT byte by byte")
    func slowHandshakes() async throws {
        var limits = BrokerLimits()
        limits.connectDeadline = 1
        let tls = try self.context(try self.pki.auditor("auditor-1"))
        let connect = try self.bytes(self.connect)
        try await self.withBroker(.tls(host: "127.0.0.1", port: 0), limits: limits) { broker in
            let silent = try await ByteClient.connect(port: broker.port)
            let hello = try await ByteClient.connect(port: broker.port, preamble: [0x16, 0x03, 0x01])
            let slow = try await ByteClient.connect(port: broker.port, tls: tls)
            let feeding = Task {
                for byte in connect.dropLast() {
                    try await slow.send([byte])
                    try await Task.sleep(for: .milliseconds(100))
                }
            }
            for client in [silent, hello, slow] { #expect(try await client.readToEnd("the end").isEmpty) }
            feeding.cancel()
            let statistics = try await broker.broker.statistics()
            #expect(statistics.handshakesRefused[.deadline] == 2)
            #expect(statistics.connectionsRefused[.deadline] == 1)
        }
        try await self.withBroker(.webSocket(host: "127.0.0.1", port: 0), limits: limits) { broker in
            let half = try await ByteClient.connect(port: broker.port, tls: tls)
            try await half.send(Array(Self.request().dropLast(4)))
            let upgraded = try await self.openWebSocket(broker)
            try await upgraded.send(Self.frame(0x2, Array(connect.dropLast())))
            #expect(try await half.readToEnd("the end").isEmpty)
            #expect(try await self.nextFrame(upgraded).0 == 0x8)
            #expect(try await broker.broker.statistics().connectionsRefused[.deadline] == 2)
        }
    }

    @Test("Bytes that never become a packet keep no connection alive")
    func keepAlive() async throws {
        try await TestBroker.withPlaintext { broker in
            let (client, _) = try await broker.connect("auditor-1", keepAlive: 1)
            let feeding = Task {
                // A PUBLISH of 100,000 bytes, one at a time.
                try await client.send(bytes: [0x30, 0xA0, 0x8D, 0x06])
                while true {
                    try await client.send(bytes: [0])
                    try await Task.sleep(for: .milliseconds(100))
                }
            }
            #expect(try await client.expectDisconnect() == .keepAliveTimeout)
            feeding.cancel()
        }
    }

    @Test("Above its rate a connection is read more slowly, and loses nothing; turns keep the order")
    func packetRate() async throws {
        var limits = BrokerLimits()
        limits.packetRatePerConnection = Rate(perSecond: 400, burst: 20)
        limits.byteRatePerConnection = Rate(perSecond: 40_000, burst: 2_000)
        limits.packetsPerTurn = 7
        limits.connectDeadline = 60
        try await TestBroker.withPlaintext(limits: limits) { broker in
            let (client, _) = try await broker.connect("auditor-1")
            var many = ByteBuffer()
            for number in 1...300 {
                try Publish(
                    topic: try TopicName("audits/measures/auditor-1"), payload: ByteBuffer(), qos: .atLeastOnce,
                    packetID: UInt16(number)
                ).encode(into: &many, version: .v5_0)
            }
            try await client.send(bytes: Array(many.readableBytesView))
            for number in 1...300 { #expect(try await client.expectPubAck().packetID == UInt16(number)) }
            try await client.ping()
        }
    }
}
