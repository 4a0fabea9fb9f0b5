import Auditor
import Crypto
import Foundation
import Identity
import MQTT
import MQTTClient
import MessageBus
import NIOCore
import PKI
import Telemetry
import TestSupport
import Testing
import X509

/// A real Mosquitto with the configuration that `pki export-mosquitto` writes. Its own clients attack it.
@Suite(.enabled(if: Plant.Shape.mosquitto.isPossible && ChildProcess.find("mosquitto_pub") != nil))
struct MosquittoTests {
    /// What one of Mosquitto's clients shows for itself.
    private static func credentials(_ plant: Plant, _ auditor: String, of site: String? = nil) -> [String] {
        let folder = "\(site ?? plant.site)/auditors/\(auditor)"
        return [
            "--cafile", "\(plant.site)/pki/root.pem", "--cert", "\(folder)/auditor.pem", "--key",
            "\(folder)/auditor.key",
        ]
    }

    /// Runs `mosquitto_pub` or `mosquitto_sub` to its end.
    private static func client(
        _ program: String, _ plant: Plant, _ credentials: [String], _ arguments: [String]
    ) async throws -> (exit: ChildProcess.Exit, says: String) {
        let process = try ChildProcess(
            program, ["-h", "127.0.0.1", "-p", "\(plant.port)", "-V", "5"] + credentials + arguments)
        let exit = try await process.wait(within: .seconds(30))
        return (exit, process.output + process.errorOutput)
    }

    @Test("What applies of the attacks is refused") func appliesAttacksRefused() async throws {
        let plant = try await Plant(.mosquitto, file: "")
        try await plant.start(.broker)
        try await plant.start(.controlCenter)
        let intruder = Self.credentials(plant, Plant.intruder)
        let publish = ["-q", "1", "-m", "x"]

        let onOther = try await Self.client(
            "mosquitto_pub", plant, intruder, publish + ["-t", "audits/measures/\(Plant.auditor)"])
        #expect(onOther.says.contains("Not authorized"), "\(onOther)")
        let asCenter = try await Self.client(
            "mosquitto_pub", plant, intruder, publish + ["-r", "-t", "control_center/keys"])
        #expect(asCenter.says.contains("Not authorized"), "\(asCenter)")
        let anonymous = try await Self.client(
            "mosquitto_pub", plant, ["--cafile", "\(plant.site)/pki/root.pem"],
            publish + ["-t", "audits/measures/\(Plant.intruder)"])
        #expect(anonymous.exit != .exited(0), "\(anonymous)")
        for filter in ["audits/#", "control_center/receipts/\(Plant.auditor)", "#"] {
            // Mosquitto grants the subscription and delivers nothing, or denies it.
            let spy = try await Self.client(
                "mosquitto_sub", plant, intruder, ["-t", filter, "-W", "1", "-q", "1"])
            #expect(!spy.says.contains("COSE"), "\(spy)")
        }

        // The same names under another root.
        let foreign = plant.folder.path("foreign")
        let made = try await Program.run([
            "init", foreign, "--unencrypted", "--trust-domain", "test.example", "--auditor", Plant.intruder,
        ])
        #expect(made.status == 0, "\(made.errorOutput)")
        let stranger = try await Self.client(
            "mosquitto_pub", plant, Self.credentials(plant, Plant.intruder, of: foreign),
            publish + ["-t", "audits/measures/\(Plant.intruder)"])
        #expect(stranger.exit != .exited(0), "\(stranger)")

        // What the broker lets through, the control center refuses and keeps.
        let garbage = try await Self.client(
            "mosquitto_pub", plant, intruder, publish + ["-t", "audits/measures/\(Plant.intruder)"])
        #expect(garbage.exit == .exited(0), "\(garbage)")
        let quarantined = "SELECT count(*) FROM quarantine WHERE reason = 'format'"
        try await plant.waitFor(1, quarantined)
        #expect(try plant.query("SELECT count(*) FROM quarantine", as: Int.self) == 1)

        // Names are unique over all roles without case: nobody gets a certificate with the control center's CN.
        for name in ["center-1", "CENTER-1"] {
            let collision = try await Program.run([
                "pki", "issue", "operator", name, "--config", "\(plant.site)/secure-mqtt.yaml",
            ])
            #expect(collision.status != 0)
            #expect(collision.errorOutput.contains(name) || collision.errorOutput.contains("center-1"))
        }
        #expect(try await plant.stop(), "\(plant.logs)")
    }

    @Test("Nobody hears what is meant for another") func nobodyHearsMeant() async throws {
        let readings = Readings(instants: 50, seed: 2)
        let plant = try await Plant(.mosquitto, file: readings.file)
        try await plant.start(.broker)
        try await plant.start(.controlCenter)
        let spy = try ChildProcess(
            "mosquitto_sub",
            ["-h", "127.0.0.1", "-p", "\(plant.port)", "-V", "5", "-t", "#", "-F", "%t", "-W", "6"]
                + Self.credentials(plant, Plant.intruder))
        try await plant.start(.auditor)
        #expect(try await plant.process(.auditor)?.wait() == .exited(0), "\(plant.logs)")
        #expect(try plant.stored() == readings.expected)
        try await spy.wait()
        let heard = Set(spy.output.split(separator: "\n").map(String.init))
        #expect(heard.isSubset(of: ["control_center/keys", "control_center/crl"]), "\(heard)")
        #expect(try await plant.stop(), "\(plant.logs)")
    }

    @Test("A backlog of 5,000 waits for the control center, whoever takes its client ID") func backlog5000()
        async throws
    {
        let plant = try await Plant(.mosquitto, file: "")
        try await plant.start(.broker)
        // Once, so that its session exists.
        try await plant.start(.controlCenter)
        let center = try #require(plant.process(.controlCenter))
        center.send(signal: SIGTERM)
        #expect(try await center.wait() == .exited(0), "\(plant.logs)")

        try await Self.publish(5_000, plant)
        let thief = try await Self.client(
            "mosquitto_sub", plant, Self.credentials(plant, Plant.intruder),
            ["-i", "center-1", "-t", "control_center/keys", "-C", "1", "-W", "5"])
        #expect(thief.exit == .exited(0), "\(thief)")

        try await plant.start(.controlCenter)
        try await plant.waitFor(5_000, "SELECT count(*) FROM statement")
        #expect(try plant.query("SELECT count(*) FROM statement", as: Int.self) == 5_000)
        #expect(try plant.query("SELECT count(*) FROM readings", as: Int.self) == 5_000)
        #expect(try plant.query("SELECT count(*) FROM gaps", as: Int.self) == 0)
        #expect(try await plant.stop(), "\(plant.logs)")
    }

    @Test("A revoked auditor's live session at Mosquitto ends for good, and others stay") func revokedAuditorS()
        async throws
    {
        let plant = try await Plant(.mosquitto, file: "")
        try await plant.start(.broker)
        let broker = try #require(plant.process(.broker))
        try await plant.start(.controlCenter)
        var homes: [ChildProcess] = []
        for id in [Plant.auditor, Plant.intruder] {
            homes.append(
                try Program.start([
                    "auditor", "run", "--config", "\(plant.site)/auditors/\(id)/secure-mqtt.yaml", "--simulate",
                    "--set", "auditor.statement-interval=1",
                ]))
            try await plant.waitFor(
                1,
                "SELECT count(*) FROM statement WHERE auditor = (SELECT number FROM auditor WHERE id = '\(id)')")
        }
        let revoked = try await Program.run([
            "pki", "revoke", Plant.auditor, "--config", "\(plant.site)/secure-mqtt.yaml", "--mosquitto",
            "\(plant.site)/mosquitto",
        ])
        #expect(revoked.status == 0, "\(revoked.errorOutput)")
        #expect(revoked.output.contains("Ended the session of \(Plant.auditor)"))
        try await broker.waitForOutput("Client \(Plant.auditor) already connected, closing old connection")
        // It tries to come back, and its certificate is on the list.
        try await broker.waitForOutput("certificate verify failed")
        #expect(!broker.errorOutput.contains("Client \(Plant.intruder) closed"))
        #expect(!broker.errorOutput.contains("Client \(Plant.intruder) already"))
        for home in homes { home.kill() }
        #expect(try await plant.stop(), "\(plant.logs)")
    }

    @Test("A Mosquitto that does not run cannot be told, and that is said") func mosquittoDoesNot() async throws {
        let plant = try await Plant(.mosquitto, file: "")
        let revoked = try await Program.run([
            "pki", "revoke", Plant.auditor, "--config", "\(plant.site)/secure-mqtt.yaml", "--mosquitto",
            "\(plant.site)/mosquitto",
        ])
        #expect(revoked.status == 69, "\(revoked.errorOutput)")
        #expect(revoked.errorOutput.contains("SIGHUP"))
        // The lists are in their place for its next start.
        let lists = try CertificateFile.readRevocationLists("\(plant.site)/mosquitto/crl.pem")
        #expect(lists.contains { $0.count == 1 })
    }

    /// Publishes a hello and so many statements as the auditor, without waiting for an answer of the control center.
    private static func publish(_ count: Int, _ plant: Plant) async throws {
        let folder = "\(plant.site)/auditors/\(Plant.auditor)"
        let chain = try CertificateFile.read("\(folder)/auditor.pem")
        let key = try KeyFile.read("\(folder)/auditor.key")
        let issuer = try SPIFFEID("spiffe://test.example/auditor/\(Plant.auditor)")
        let signer = PartySigner(issuer: issuer, certificateHash: CertificateHash(hashing: chain[0].der), key: key)
        let tls = try MQTTClientConfiguration.TLS(
            certificateChainPEM: chain.map(\.pemText).joined().utf8, privateKeyPEM: (key.pemRepresentation ?? "").utf8,
            trustRootsPEM: Data(contentsOf: URL(fileURLWithPath: "\(folder)/root.pem")))
        var configuration = MQTTClientConfiguration(
            host: "127.0.0.1", port: plant.port, transport: .tls(tls), clientID: Plant.auditor)
        configuration.cleanStart = true
        let bus = try MQTTClientBus(configuration)

        var random = SplitMix64(seed: 5)
        let stream = StreamID(using: &random)
        let now = Timestamp.now
        let hello = try Hello(
            stream: stream, lastSequence: 0, lastID: .zero, nonce: Nonce(using: &random), clock: .informative
        ).signed(issuedAt: now, chain: chain.map(\.der), by: signer)
        var messages = [
            OutgoingMessage(
                topic: try TopicName("audits/hello/\(issuer.id)"), payload: ByteBuffer(bytes: hello.bytes),
                qos: .atLeastOnce, retain: false)
        ]
        let topic = try TopicName("audits/measures/\(issuer.id)")
        let meter = try MeterName("main")
        var previous = MessageID.zero
        for number in 1...count {
            let reading = Reading(
                meter: meter, quantity: .consumptionTotal, unit: .kilowattHour,
                time: Timestamp(seconds: 1_700_000_000 + Int64(number)),
                value: ExactDecimal(mantissa: Int64(number), exponent: -3))
            let message = try Payload.statement([reading], of: issuer.id).signed(
                at: StreamPosition(stream: stream, sequence: Int64(number), previous: previous), clock: .informative,
                issuedAt: now, by: signer)
            previous = message.id
            messages.append(
                OutgoingMessage(
                    topic: topic, payload: ByteBuffer(bytes: message.bytes), qos: .atLeastOnce, retain: false))
        }
        let outgoing = messages
        try await withDeadline(.seconds(60), "\(count) statements are acknowledged") {
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await bus.run() }
                connecting: while let events = try await bus.receive() {
                    for case .connected in events { break connecting }
                }
                let failures = try await bus.publish(batch: outgoing).compactMap(\.self)
                #expect(failures.isEmpty)
                bus.shutDown()
                try await group.next()
            }
        }
    }
}

/// Signs with a key of a file.
private struct PartySigner: Signer {
    let issuer: SPIFFEID
    let certificateHash: CertificateHash
    let key: SigningKey

    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature { try self.key.sign(digest) }
}
