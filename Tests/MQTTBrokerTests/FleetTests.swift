import Foundation
import Identity
import LiCore
import MQTT
import MQTTBroker
import MessageBus
import NIOCore
import NIOSSL
import PKI
import Telemetry
import TestSupport
import Testing

/// The original's clients at the broker: let in by a pinned certificate alone.
@Suite("The original's clients", .enabled(if: OpenSSL.isInstalled))
struct FleetTests {
    let pki: TestPKI
    let original: OriginalAuthority
    let directory: TemporaryDirectory

    init() async throws {
        self.pki = try TestPKI(auditors: ["auditor-1", "ours"])
        self.original = try await OriginalAuthority(clients: ["mona", "database_licore", "stranger"])
        self.directory = try TemporaryDirectory()
        try self.pki.writeTrust(to: self.directory.path)
    }

    private func member(
        _ id: String, kind: FleetMember.Kind = .auditor, certificate: String? = nil, until: String = "2099-12-31"
    ) throws -> FleetMember {
        try FleetMember(
            id: Identifier(id), kind: kind,
            certificate: CertificateFile.read(self.original.certificateFile(certificate ?? id))[0],
            controller: kind == .auditor ? Identifier("database_licore") : nil, until: until)
    }

    private func fleet() throws -> Fleet {
        try Fleet([try self.member("mona"), try self.member("database_licore", kind: .databaseClient)])
    }

    private func withBroker(
        _ register: FleetRegister, threads: [Int] = TestBroker.threads, _ body: (TestBroker) async throws -> Void
    ) async throws {
        let now: @Sendable () -> UnixTime = { TestPKI.currentTime() }
        let verifier = try IdentityVerifier(
            trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate],
            intermediates: [self.pki.intermediate.certificate])
        try await TestBroker.with(
            BrokerConfiguration(
                listeners: [.tls(host: "127.0.0.1", port: 0)],
                tls: try BrokerTLS(
                    chainPEM: self.pki.broker.chainPEM, keyPEM: self.pki.broker.keyPEM, rootsPEM: self.pki.rootPEM),
                admission: PeerAdmission(gate: try self.pki.gate(), fleet: register, now: now),
                verification: PeerVerification(
                    trustDomain: verifier.trustDomain, fleet: register, verifier: { verifier }, now: now),
                authorizer: FleetAuthorizer(register, now: now)), threads: threads, body)
    }

    private func connect(
        _ broker: TestBroker, chain: String, key: String, clientID: String = "c", version: ProtocolVersion = .v5_0
    ) async throws -> RawClient {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(self.pki.rootPEM.utf8)))
        configuration.certificateChain = try NIOSSLCertificate.fromPEMBytes(Array(chain.utf8)).map { .certificate($0) }
        configuration.privateKey = .privateKey(try NIOSSLPrivateKey(bytes: Array(key.utf8), format: .pem))
        let client = try await RawClient.connect(
            port: broker.port, version: version, tls: try NIOSSLContext(configuration: configuration))
        try? await client.send(.connect(Connect(version: version, clientID: clientID, cleanStart: true)))
        return client
    }

    private func connect(_ broker: TestBroker, original name: String, clientID: String = "c") async throws -> RawClient
    {
        try await self.connect(
            broker, chain: String(contentsOfFile: self.original.certificateFile(name), encoding: .utf8),
            key: String(contentsOfFile: self.original.keyFile(name), encoding: .utf8), clientID: clientID)
    }

    private func connect(_ broker: TestBroker, _ party: TestPKI.Party) async throws -> RawClient {
        try await self.connect(broker, chain: party.chainPEM, key: party.keyPEM)
    }

    private func waitForRefusal(_ broker: TestBroker) async throws {
        try await broker.events.wait("a handshake is refused") {
            if case .handshakeRefused = $0 { true } else { false }
        }
    }

    @Test("are not let in while nobody is pinned, or somebody else", arguments: [false, true])
    func off(someoneElse: Bool) async throws {
        let register = FleetRegister(someoneElse ? try self.fleet() : .none)
        try await self.withBroker(register) { broker in
            let client = try await self.connect(broker, original: someoneElse ? "stranger" : "mona")
            #expect(try await client.expectEnd())
            try await self.waitForRefusal(broker)
        }
    }

    @Test("are let in by the pinned certificate, for their own topics and no other")
    func pinned() async throws {
        try await self.withBroker(FleetRegister(try self.fleet())) { broker in
            let mona = try await self.connect(broker, original: "mona")
            #expect(try await mona.expectConnAck().reasonCode == .success)
            #expect(
                broker.events.texts.contains { $0.contains("spiffe://energy.example/auditor/mona") },
                "\(broker.events.texts)")
            var id: UInt16 = 0
            for (topic, code) in [
                ("audits/measures/mona", ReasonCode.success), ("audits/hello/mona", .notAuthorized),
                ("audits/alerts/mona", .notAuthorized), ("audits/measures/auditor-1", .notAuthorized),
                ("control_center/keys", .notAuthorized),
            ] {
                id += 1
                try await mona.publish(topic, id: id)
                let answer = try await mona.expectPubAck().reasonCode
                #expect(answer == code, "\(topic)")
            }
            #expect(try await mona.subscribe("control_center/updates/mona/#") == [.grantedQoS1])
            #expect(try await mona.subscribe("control_center/updates/#") == [.grantedQoS1])
            #expect(try await mona.subscribe("control_center/#") == [.notAuthorized])
            #expect(try await mona.subscribe("audits/measures/mona") == [.notAuthorized])

            // Our own come in as ever, and what is not ours does not.
            let own = try await self.connect(broker, try self.pki.auditor("auditor-1"))
            #expect(try await own.expectConnAck().reasonCode == .success)
            for refused in [try self.pki.foreign().auditor("auditor-1"), try self.pki.expired(.auditor, "late")] {
                let client = try await self.connect(broker, refused)
                #expect(try await client.expectEnd())
            }
        }
    }

    @Test("the database client reads LiCore auditors' topics alone, whatever it subscribes to")
    func filteredDelivery() async throws {
        try await self.withBroker(FleetRegister(try self.fleet())) { broker in
            let database = try await self.connect(broker, original: "database_licore")
            _ = try await database.expectConnAck()
            #expect(try await database.subscribe("#") == [.notAuthorized])
            #expect(try await database.subscribe("audits/#") == [.grantedQoS1])
            #expect(try await database.subscribe("audits/measures/#") == [.grantedQoS1])
            let own = try await self.connect(broker, try self.pki.auditor("auditor-1"))
            _ = try await own.expectConnAck()
            try await own.publish("audits/measures/auditor-1", id: 1)
            #expect(try await own.expectPubAck().reasonCode == .success)
            let mona = try await self.connect(broker, original: "mona")
            _ = try await mona.expectConnAck()
            try await mona.publish("audits/measures/mona", id: 1)
            #expect(try await mona.expectPubAck().reasonCode == .success)
            // Had the other been delivered, it would have come first.
            #expect(try await database.expectPublish().topic.rawValue == "audits/measures/mona")
        }
    }

    @Test("the database client publishes its update on a second connection with an empty client id, retained")
    func secondConnection() async throws {
        try await self.withBroker(FleetRegister(try self.fleet())) { broker in
            let database = try await self.connect(broker, original: "database_licore", clientID: "database_licore")
            _ = try await database.expectConnAck()
            #expect(try await database.subscribe("audits/measures/#") == [.grantedQoS1])
            let second = try await self.connect(broker, original: "database_licore", clientID: "")
            _ = try await second.expectConnAck()
            let update = Publish(
                topic: try TopicName("control_center/updates/mona/database_licore/SAMPLE_RATE"),
                payload: ByteBuffer(string: "0.2||00"), qos: .atLeastOnce, retain: true, packetID: 1)
            try await second.send(.publish(update))
            #expect(try await second.expectPubAck().reasonCode == .success)
            for topic in [
                "control_center/updates/mona/center-1/P",
                "audits/measures/mona", "control_center/receipts/mona",
            ] {
                try await second.publish(topic, id: 2)
                #expect(try await second.expectPubAck().reasonCode == .notAuthorized)
            }
            // The original's program repeats a refused one for ever: it does not learn of it.
            let old = try await self.connect(
                broker,
                chain: String(contentsOfFile: self.original.certificateFile("database_licore"), encoding: .utf8),
                key: String(contentsOfFile: self.original.keyFile("database_licore"), encoding: .utf8), clientID: "",
                version: .v3_1_1)
            _ = try await old.expectConnAck()
            try await old.publish("control_center/updates/auditor-1/database_licore/P", id: 3)
            #expect(try await old.expectPubAck().packetID == 3)
            try await old.ping()
            // Who comes later finds it; the first connection lives.
            let mona = try await self.connect(broker, original: "mona")
            _ = try await mona.expectConnAck()
            #expect(try await mona.subscribe("control_center/updates/mona/#") == [.grantedQoS1])
            #expect(try await mona.expectPublish().payload == ByteBuffer(string: "0.2||00"))
            try await database.ping()
        }
    }

    @Test(
        "nobody but the pinned certificate publishes on a LiCore auditor's topic, not even its namesake of ours",
        arguments: TestBroker.threads)
    func namesake(threads: Int) async throws {
        let fleet = try Fleet([try self.member("ours", certificate: "mona")])
        let register = FleetRegister(fleet)
        try await self.withBroker(register, threads: [threads]) { broker in
            let own = try await self.connect(broker, try self.pki.auditor("ours"))
            _ = try await own.expectConnAck()
            try await own.publish("audits/measures/ours", id: 1)
            #expect(try await own.expectPubAck().reasonCode == .notAuthorized)
            // Under the same client identifier: neither takes the other's session.
            let pinned = try await self.connect(broker, original: "mona")
            _ = try await pinned.expectConnAck()
            try await pinned.publish("audits/measures/ours", id: 1)
            #expect(try await pinned.expectPubAck().reasonCode == .success)

            // The device was moved: the pin ends, its connection too, and its successor is heard.
            let changed = register.replace(with: .none)
            let closed = try await broker.broker.disconnect(reason: "changed") {
                changed.certificates.contains($0.certificateHash)
            }
            #expect(closed == 1)
            #expect(try await pinned.expectDisconnect() == .administrativeAction)
            try await own.publish("audits/measures/ours", id: 2)
            #expect(try await own.expectPubAck().reasonCode == .success)
        }
    }

    @Test(
        "a live connection ends with its pin; a resumed TLS session does not bring it back",
        arguments: TestBroker.threads)
    func endsAndResumes(threads: Int) async throws {
        let register = FleetRegister(try self.fleet())
        try await self.withBroker(register, threads: [threads]) { broker in
            var input = ByteBuffer()
            try Packet.connect(Connect(version: .v5_0, clientID: "c")).encode(into: &input, version: .v5_0)
            try Packet.disconnect(Disconnect()).encode(into: &input, version: .v5_0)
            let bytes = Array(input.readableBytesView)
            let session = self.directory.path("session.pem")
            let arguments = [
                "s_client", "-connect", "127.0.0.1:\(broker.port)", "-tls1_3", "-ign_eof", "-CAfile",
                self.directory.path("root.pem"), "-cert", self.original.certificateFile("mona"), "-key",
                self.original.keyFile("mona"),
            ]
            func run(_ more: String...) async throws -> OpenSSL.Result {
                try await OpenSSL.run(arguments + more, input: bytes, directory: self.directory.path)
            }
            func connections() -> Int {
                broker.events.all.filter { if case .connected = $0 { true } else { false } }.count
            }
            let first = try await run("-sess_out", session)
            #expect(first.output.contains("New, TLSv1.3"), "\(first.output) \(first.errorOutput)")
            let second = try await run("-sess_in", session)
            #expect(second.output.contains("Reused, TLSv1.3"))
            #expect(connections() == 2)

            let mona = try await self.connect(broker, original: "mona")
            _ = try await mona.expectConnAck()
            // Somebody else stays pinned, so that verification stays ours.
            _ = register.replace(with: try Fleet([try self.member("database_licore", kind: .databaseClient)]))
            #expect(try await broker.broker.recheckPeers() == 1)
            #expect(try await mona.expectEnd(orDisconnect: true))
            let third = try await run("-sess_in", session)
            #expect(third.output.contains("Reused, TLSv1.3"))
            try await self.waitForRefusal(broker)
            #expect(connections() == 3)
        }
    }

    @Test("the end date is enforced within the handshake")
    func endDate() async throws {
        let register = FleetRegister(
            try Fleet([
                try self.member("mona", until: "2020-01-01"), try self.member("database_licore", kind: .databaseClient),
            ]))
        try await self.withBroker(register) { broker in
            let client = try await self.connect(broker, original: "mona")
            #expect(try await client.expectEnd())
            try await self.waitForRefusal(broker)
        }
    }

    @Test("Mosquitto gives the fleet a listener of its own, and the database client the fleet's topics")
    func mosquitto() throws {
        let ours = try self.pki.auditor("ours")
        var mosquitto = MosquittoConfiguration(
            files: .init(
                certificateAuthorities: "/m/root.pem", certificateChain: "/m/broker.pem", privateKey: "/m/broker.key",
                revocationLists: "/m/crl.pem", accessControlList: "/m/acl", persistenceDirectory: "/m/sessions"),
            controlCenters: [try Identifier("center-1")])
        mosquitto.trustDomain = self.pki.trustDomain
        mosquitto.fleet = try self.fleet().adding(
            FleetMember(
                id: ours.id, kind: .auditor, certificate: ours.certificate, controller: Identifier("center-1"),
                until: "2099-12-31"))
        #expect(!mosquitto.configurationText.contains("licore"))
        mosquitto.licoreListener = .init(
            port: 8_884, certificateAuthority: "/m/licore-ca.pem", accessControlList: "/m/licore-acl")
        let lines = mosquitto.configurationText.split(separator: "\n").map(String.init)
        #expect(lines.filter { $0.hasPrefix("listener ") } == ["listener 8883", "listener 8884"])
        #expect(lines.contains("per_listener_settings true"))
        #expect(
            mosquitto.licoreAccessControlText.split(separator: "\n").dropFirst().map(String.init) == [
                "user database_licore", "topic read audits/measures/mona", "topic read audits/measures/ours",
                "topic write control_center/updates/mona/database_licore/+",
                "user mona", "topic write audits/measures/mona", "topic read control_center/updates/mona/#",
            ])
        // At our own listener nobody writes where only the fleet may.
        #expect(mosquitto.accessControlText.contains("user mona\ntopic deny audits/measures/mona\n"))
        #expect(mosquitto.accessControlText.contains("user ours\ntopic deny audits/hello/ours\n"))
        #expect(!mosquitto.accessControlText.contains("topic deny audits/measures/ours"))
    }
}

extension RawClient {
    fileprivate func expectEnd(orDisconnect: Bool) async throws -> Bool {
        while let packet = try await self.next() {
            guard case .disconnect = packet else { return false }
        }
        return true
    }
}
