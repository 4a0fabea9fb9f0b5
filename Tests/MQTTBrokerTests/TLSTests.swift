import Dispatch
import Foundation
import Identity
import Logging
import MQTT
import MQTTBroker
import MessageBus
import NIOCore
import NIOSSL
import PKI
import Synchronization
import TestSupport
import Testing

/// Mutual TLS with a PKI made for the test, and peers that are not ours.
struct TLSTests {
    let pki: TestPKI
    let directory: TemporaryDirectory

    init() throws {
        self.pki = try TestPKI()
        self.directory = try TemporaryDirectory()
        try self.pki.writeTrust(to: self.directory.path)
    }

    private func withBroker(
        gate: PeerGate? = nil, threads: [Int] = TestBroker.threads, _ body: (TestBroker) async throws -> Void
    ) async throws {
        let pki = self.pki
        let gate = try gate ?? pki.gate()
        let tls = try BrokerTLS(
            chainPEM: pki.broker.chainPEM, keyPEM: pki.broker.keyPEM, rootsPEM: pki.rootPEM)
        try await TestBroker.with(
            BrokerConfiguration(
                listeners: [.tls(host: "127.0.0.1", port: 0)], tls: tls,
                admission: PeerAdmission(gate: gate, now: { TestPKI.currentTime() })), threads: threads, body)
    }

    private func context(_ party: TestPKI.Party?) throws -> NIOSSLContext {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(self.pki.rootPEM.utf8)))
        if let party {
            configuration.certificateChain = try NIOSSLCertificate.fromPEMBytes(Array(party.chainPEM.utf8))
                .map { .certificate($0) }
            configuration.privateKey = .privateKey(
                try NIOSSLPrivateKey(bytes: Array(party.keyPEM.utf8), format: .pem))
        }
        return try NIOSSLContext(configuration: configuration)
    }

    private func connect(_ broker: TestBroker, _ party: TestPKI.Party?) async throws -> RawClient {
        let client = try await RawClient.connect(port: broker.port, tls: try self.context(party))
        try? await client.send(.connect(Connect(version: .v5_0, clientID: "c")))
        return client
    }

    private func waitForRefusedHandshake(_ broker: TestBroker, _ text: String? = nil) async throws {
        try await broker.events.wait("a handshake is refused: \(text ?? "")") {
            if case .handshakeRefused(_, let reason) = $0 { text.map { reason.contains($0) } ?? true } else { false }
        }
    }

    @Test("A client is who its certificate says, whatever its user name says")
    func identity() async throws {
        try await self.withBroker { broker in
            let client = try await self.connect(broker, try self.pki.auditor("auditor-1"))
            #expect(
                try await client.expectConnAck().reasonCode
                    == .success)
            try await client.publish("audits/measures/auditor-1", id: 1)
            #expect(try await client.expectPubAck().reasonCode == .success)
            try await client.publish("audits/measures/auditor-2", id: 2)
            #expect(try await client.expectPubAck().reasonCode == .notAuthorized)
            #expect(
                broker.events.all.contains {
                    if case .connected(let peer, _, _) = $0 {
                        peer.spiffeID.rawValue == "spiffe://energy.example/auditor/auditor-1"
                    } else {
                        false
                    }
                })
        }
    }

    @Test("When the loop of the sockets lags, messages do not pile up on the way to it")
    func laggingSockets() async throws {
        let isStalling = Atomic(false)
        let (stalled, resume) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
        var configuration = BrokerConfiguration(
            listeners: [.tls(host: "127.0.0.1", port: 0)],
            tls: try BrokerTLS(
                chainPEM: self.pki.broker.chainPEM, keyPEM: self.pki.broker.keyPEM, rootsPEM: self.pki.rootPEM),
            admission: PeerAdmission(gate: try self.pki.gate(), now: { TestPKI.currentTime() }),
            authorizer: Permissive())
        // Verification runs on the loop of the sockets, and stops it.
        configuration.verification = PeerVerification(
            isNeeded: { isStalling.load(ordering: .relaxed) },
            verify: { _ in
                stalled.signal()
                resume.wait()
            })
        try await TestBroker.with(configuration, threads: [2]) { broker in
            let subscriber = try await self.connect(broker, try self.pki.auditor("auditor-1"))
            _ = try await subscriber.expectConnAck()
            try await subscriber.subscribe("t", qos: .atMostOnce)
            let session = try await broker.broker.openInProcessSession(
                identity: try peer(.controlCenter, "center-1"), clientID: "center", subscriptions: [])
            isStalling.store(true, ordering: .relaxed)
            let other = Task { try? await self.connect(broker, try self.pki.auditor("auditor-2")) }
            await withCheckedContinuation { continuation in
                DispatchQueue.global().async {
                    stalled.wait()
                    continuation.resume()
                }
            }
            let payload = ByteBuffer(repeating: 0x78, count: 100_000)
            for _ in 0..<100 {
                try await session.publish(topic: try TopicName("t"), payload: payload, qos: .atMostOnce, retain: false)
            }
            let dropped = try await broker.broker.statistics().messagesDropped
            #expect(dropped > 80, "\(dropped) of 100 were not sent")
            isStalling.store(false, ordering: .relaxed)
            resume.signal()
            for _ in 0..<100 - Int(dropped) {
                #expect(try await subscriber.expectPublish().payload == payload)
            }
            try await session.publish(
                topic: try TopicName("t"), payload: ByteBuffer(string: "last"), qos: .atMostOnce, retain: false)
            #expect(String(buffer: try await subscriber.expectPublish().payload) == "last")
            try await other.value?.drop()
        }
    }

    @Test("Without a certificate nobody gets in")
    func noCertificate() async throws {
        try await self.withBroker { broker in
            let client = try await self.connect(broker, nil)
            #expect(try await client.expectEnd())
            try await self.waitForRefusedHandshake(broker, "no client certificate")
            #expect(broker.events.all.count == 1)
        }
    }

    @Test("A certificate of another authority that says the same names is refused")
    func foreignAuthority() async throws {
        let foreign = try self.pki.foreign()
        try await self.withBroker { broker in
            let client = try await self.connect(broker, try foreign.auditor("auditor-1"))
            #expect(try await client.expectEnd())
            try await self.waitForRefusedHandshake(broker, "trusted root")
        }
    }

    @Test("An expired or a revoked certificate is refused, and said so")
    func expiredAndRevoked() async throws {
        let revoked = try self.pki.auditor("auditor-2")
        try await self.withBroker(gate: try self.pki.gate(revoking: [revoked])) { broker in
            let one = try await self.connect(broker, revoked)
            #expect(try await one.expectEnd())
            try await self.waitForRefusedHandshake(broker, "revoked")
            let two = try await self.connect(broker, try self.pki.expired(.auditor, "late"))
            #expect(try await two.expectEnd())
            try await broker.events.wait("the expired one is refused") {
                if case .handshakeRefused(_, let reason) = $0 { !reason.contains("revoked") } else { false }
            }
        }
    }

    @Test("A broker's certificate opens no session")
    func brokerCertificate() async throws {
        try await self.withBroker { broker in
            let client = try await self.connect(broker, self.pki.broker)
            _ = try await client.next()
            #expect(try await client.expectEnd())
            #expect(!broker.events.all.contains { if case .connected = $0 { true } else { false } })
        }
    }

    @Test("TLS 1.2 is refused")
    func oldTLS() async throws {
        try await self.withBroker { broker in
            let result = try await OpenSSL.run(
                ["s_client", "-connect", "127.0.0.1:\(broker.port)", "-tls1_2"], directory: self.directory.path)
            #expect(result.status != 0)
            try await self.waitForRefusedHandshake(broker, "TLS 1.3")
        }
    }

    @Test("A live connection ends when its certificate is revoked; others stay", arguments: TestBroker.threads)
    func revokedLive(threads: Int) async throws {
        let gate = try self.pki.gate()
        try await self.withBroker(gate: gate, threads: [threads]) { broker in
            let victim = try await self.connect(broker, try self.pki.auditor("auditor-1"))
            _ = try await victim.next()
            let other = try await self.connect(broker, try self.pki.auditor("auditor-2"))
            _ = try await other.next()
            #expect(try await broker.broker.recheckPeers() == 0)
            try gate.update(try self.pki.revocationLists(revoking: [try self.pki.auditor("auditor-1")], number: 2))
            #expect(try await broker.broker.recheckPeers() == 1)
            #expect(try await victim.expectDisconnect() == .notAuthorized)
            #expect(try await victim.expectEnd())
            try await other.ping()
        }
    }

    @Test(
        "A resumed TLS session is checked like any other: revoked in between, it is refused",
        .enabled(if: OpenSSL.isInstalled), arguments: TestBroker.threads)
    func resumption(threads: Int) async throws {
        let gate = try self.pki.gate()
        let party = try self.pki.auditor("auditor-1")
        let files = try self.pki.write(party, to: self.directory.path)
        try await self.withBroker(gate: gate, threads: [threads]) { broker in
            // CONNECT, then DISCONNECT, upon which the broker closes: the client has read its tickets by then.
            var input = ByteBuffer()
            try Packet.connect(Connect(version: .v5_0, clientID: "c")).encode(into: &input, version: .v5_0)
            try Packet.disconnect(Disconnect()).encode(into: &input, version: .v5_0)
            let session = self.directory.path("session.pem")
            let arguments = [
                "s_client", "-connect", "127.0.0.1:\(broker.port)", "-tls1_3", "-ign_eof", "-CAfile",
                self.directory.path("root.pem"), "-cert", files.chain, "-cert_chain", files.chain, "-key", files.key,
            ]
            let bytes = Array(input.readableBytesView)
            let first = try await OpenSSL.run(
                arguments + ["-sess_out", session], input: bytes, directory: self.directory.path)
            #expect(first.output.contains("New, TLSv1.3"))
            let second = try await OpenSSL.run(
                arguments + ["-sess_in", session], input: bytes, directory: self.directory.path)
            #expect(second.output.contains("Reused, TLSv1.3"), "\(second.output) \(second.errorOutput)")
            func connections() -> Int {
                broker.events.all.filter { if case .connected = $0 { true } else { false } }.count
            }
            #expect(connections() == 2)

            try gate.update(try self.pki.revocationLists(revoking: [party], number: 2))
            let third = try await OpenSSL.run(
                arguments + ["-sess_in", session], input: bytes, directory: self.directory.path)
            #expect(third.output.contains("Reused, TLSv1.3"))
            try await self.waitForRefusedHandshake(broker, "revoked")
            #expect(connections() == 2)

            // New certificates and keys of TLS make old tickets worthless.
            try await broker.broker.reload(
                tls: try BrokerTLS(
                    chainPEM: self.pki.broker.chainPEM, keyPEM: self.pki.broker.keyPEM, rootsPEM: self.pki.rootPEM))
            let fourth = try await OpenSSL.run(
                arguments + ["-sess_in", session], input: bytes, directory: self.directory.path)
            #expect(fourth.output.contains("New, TLSv1.3"))
        }
    }

    @Test("New roots cut whoever no longer leads to one, and nobody else; new certificates cut nobody")
    func replacedTrust() async throws {
        let gate = try self.pki.gate()
        try await self.withBroker(gate: gate) { broker in
            let client = try await self.connect(broker, try self.pki.auditor("auditor-1"))
            #expect(try await client.expectConnAck().reasonCode == .success)
            let other = try self.pki.foreign()
            let same = (
                [self.pki.root.certificate, other.root.certificate],
                [self.pki.intermediate.certificate, other.intermediate.certificate]
            )
            // One root more: nobody goes.
            try gate.replaceTrust(roots: same.0, intermediates: same.1, revocationLists: [])
            try await broker.broker.reload(
                tls: try BrokerTLS(
                    chainPEM: self.pki.broker.chainPEM, keyPEM: self.pki.broker.keyPEM,
                    rootsPEM: self.pki.rootPEM + other.rootPEM))
            #expect(try await broker.broker.recheckPeers() == 0)
            try await client.ping()
            // The old one gone: its intermediate alone, which is still listed, is worth nothing.
            try gate.replaceTrust(
                roots: [other.root.certificate], intermediates: same.1, revocationLists: [])
            try await broker.broker.reload(
                tls: try BrokerTLS(
                    chainPEM: self.pki.broker.chainPEM, keyPEM: self.pki.broker.keyPEM, rootsPEM: other.rootPEM))
            #expect(try await broker.broker.recheckPeers() == 1)
            #expect(try await client.expectDisconnect() == .notAuthorized)
            let late = try await RawClient.connect(
                port: broker.port, tls: try self.context(try self.pki.auditor("auditor-1")))
            #expect(try await late.expectEnd())
        }
    }

    @Test("A handshake that began before certificates were exchanged begins anew")
    func handshakeAcrossReload() async throws {
        try await self.withBroker { broker in
            let client = try await ByteClient.connect(port: broker.port)
            var sockets = 0
            while sockets == 0 { sockets = try await broker.broker.statistics().sockets }
            try await broker.broker.reload(
                tls: try BrokerTLS(
                    chainPEM: self.pki.broker.chainPEM, keyPEM: self.pki.broker.keyPEM, rootsPEM: self.pki.rootPEM))
            #expect(try await client.readToEnd("the end").isEmpty)
            try await self.waitForRefusedHandshake(broker, "exchanged")
        }
    }

    // MARK: Mosquitto's clients

    private static let hasTools =
        ChildProcess.find("mosquitto_pub") != nil && ChildProcess.find("mosquitto_sub") != nil

    private func tool(
        _ name: String, _ broker: TestBroker, _ party: TestPKI.Party, _ arguments: [String]
    ) throws -> ChildProcess {
        let prefix = "\(party.id)-\(Int.random(in: 0 ..< .max))"
        let files = try self.pki.write(party, to: self.directory.path, name: prefix)
        // Line by line: else what it says is not seen before it ends.
        return try ChildProcess(
            "stdbuf",
            [
                "-oL", name,
                "-h", "localhost", "-p", "\(broker.port)", "--cafile", self.directory.path("root.pem"), "--cert",
                files.chain, "--key", files.key,
            ] + arguments)
    }

    @Test(
        "mosquitto_pub and mosquitto_sub work with the broker, in both versions",
        .enabled(if: hasTools), arguments: ["mqttv311", "mqttv5"])
    func mosquittoTools(version: String) async throws {
        try await self.withBroker { broker in
            let session = try await broker.broker.openInProcessSession(
                identity: self.pki.controlCenter.peer, clientID: "center",
                subscriptions: [Subscription(filter: try TopicFilter("audits/#"), maximumQoS: .atLeastOnce)])
            let operatorSide = try self.tool(
                "mosquitto_sub", broker, self.pki.operators[0],
                ["-V", version, "-d", "-i", "o", "-q", "1", "-t", "audits/#", "-C", "2", "-F", "got %t %q %l"])
            try await operatorSide.waitForOutput("SUBACK")
            let auditorSide = try self.tool(
                "mosquitto_sub", broker, try self.pki.auditor("auditor-1"),
                ["-V", version, "-d", "-i", "r", "-q", "1", "-t", "control_center/receipts/auditor-1", "-C", "1"])
            try await auditorSide.waitForOutput("SUBACK")

            for number in 1...2 {
                let publisher = try self.tool(
                    "mosquitto_pub", broker, try self.pki.auditor("auditor-1"),
                    [
                        "-V", version, "-i", "p", "-q", "1", "-t", "audits/measures/auditor-1", "-m",
                        String(repeating: "x", count: number == 1 ? 10 : 65_000),
                    ])
                var settled = false
                while !settled {
                    for case .delivery(let delivery) in try await session.receive() ?? [] {
                        #expect(delivery.sender?.spiffeID.id.rawValue == "auditor-1")
                        delivery.settle()
                        settled = true
                    }
                }
                #expect(try await publisher.wait(within: .seconds(20)) == .exited(0))
            }
            #expect(try await operatorSide.wait(within: .seconds(20)) == .exited(0))
            #expect(operatorSide.output.contains("got audits/measures/auditor-1 1 10"))
            #expect(operatorSide.output.contains("got audits/measures/auditor-1 1 65000"))

            try await session.publish(
                topic: try TopicName("control_center/receipts/auditor-1"), payload: ByteBuffer(string: "receipt"),
                qos: .atLeastOnce, retain: false)
            #expect(try await auditorSide.wait(within: .seconds(20)) == .exited(0))
            #expect(auditorSide.output.contains("receipt"))
        }
    }

    @Test(
        "mosquitto_pub is refused another auditor's topic", .enabled(if: hasTools), arguments: ["mqttv311", "mqttv5"])
    func mosquittoRefused(version: String) async throws {
        try await self.withBroker { broker in
            let publisher = try self.tool(
                "mosquitto_pub", broker, try self.pki.auditor("auditor-1"),
                ["-V", version, "-q", "1", "-t", "audits/measures/auditor-2", "-m", "x"])
            try await broker.events.wait("the publish is refused") {
                if case .publishRefused(let peer, _, "topic") = $0 {
                    peer.spiffeID.id.rawValue == "auditor-1"
                } else {
                    false
                }
            }
            publisher.kill()
        }
    }
}
