import Foundation
import GRDB
import Identity
import PKI
import TestSupport
import Testing

/// A device from its invitation to its revocation, with `ca`, an operator and a broker as their users run them.
@Suite struct IdentityStoryTests {
    /// An installation whose authority runs: `mona` and `lena` are to join.
    private final class Site: Sendable {
        let folder: TemporaryDirectory
        let path: String
        let port: Int
        let authorityPort: Int
        let authority: ChildProcess

        init(mosquitto: Bool = false) async throws {
            let folder = try TemporaryDirectory()
            self.folder = folder
            self.path = folder.path("energy")
            self.port = try freePort()
            self.authorityPort = try freePort()
            let passphrase = try folder.write("correct horse battery staple\n", to: "passphrase")
            try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: passphrase)
            let made = try await Program.run([
                "init", self.path, "--passphrase-file", passphrase, "--trust-domain", "test.example", "--host",
                "127.0.0.1", "--port", "\(self.port)", "--operator", "olga",
            ])
            guard made.status == 0 else { throw PlantError(description: made.errorOutput) }
            let file = "\(self.path)/secure-mqtt.yaml"
            try String(contentsOfFile: file, encoding: .utf8)
                .replacing("  #port: 8443", with: "  port: \(self.authorityPort)")
                .replacing(
                    "  #passphrase-file: /etc/secure-mqtt/ca-passphrase", with: "  passphrase-file: ../passphrase"
                )
                .write(toFile: file, atomically: true, encoding: .utf8)
            if mosquitto {
                let exported = try await Program.run([
                    "pki", "export-mosquitto", "--config", file, "--user", "root", "\(self.path)/mosquitto",
                ])
                guard exported.status == 0 else { throw PlantError(description: exported.errorOutput) }
            }
            self.authority = try Program.start(
                ["ca", "--config", file, "--set", "ca.listen=127.0.0.1"]
                    + (mosquitto ? ["--set", "ca.mosquitto=\(self.path)/mosquitto"] : []))
            try await self.authority.waitForOutput("listening")
        }

        deinit { self.authority.kill() }

        /// What an operator does from elsewhere.
        var remote: [String] {
            [
                "--ca", "https://127.0.0.1:\(self.authorityPort)", "--as", "\(self.path)/operators/olga", "--ca-root",
                "\(self.path)/pki/root.pem",
            ]
        }

        /// Invites a device, and types on it what the invitation says.
        func join(_ id: String, more: [String] = []) async throws {
            let invited = try await Program.run(["pki", "invite", id, "--json"] + self.remote)
            guard invited.status == 0 else { throw PlantError(description: invited.errorOutput) }
            let object = try JSONSerialization.jsonObject(with: Data(invited.lastLine.utf8)) as? [String: Any]
            let line = (object?["command"] as? String ?? "").split(separator: " ").map(String.init)
            guard line.first == "secure-mqtt" else { throw PlantError(description: invited.output) }
            let joined = try await Program.run(line.dropFirst() + ["--directory", self.device(id)] + more)
            guard joined.status == 0 else { throw PlantError(description: joined.errorOutput) }
        }

        func revoke(_ id: String) async throws {
            let revoked = try await Program.run(["pki", "revoke", id, "--reason", "key-compromise"] + self.remote)
            guard revoked.status == 0 else { throw PlantError(description: revoked.errorOutput) }
        }

        func device(_ id: String) -> String { self.folder.path("devices/\(id)") }

        /// An auditor that lives: a reading and a statement a second.
        ///
        /// - Parameter state: another outbox than that of its configuration: what replayed a file goes on with that file.
        func live(_ id: String, state: String? = nil) throws -> ChildProcess {
            try Program.start(
                [
                    "auditor", "run", "--config", "\(self.device(id))/secure-mqtt.yaml", "--simulate", "--speed",
                    "900", "--set", "auditor.statement-interval=1", "--log-level", "info",
                ] + (state.map { ["--state", $0] } ?? []))
        }

        func query<Value: DatabaseValueConvertible>(_ sql: String, as _: Value.Type = Value.self) throws -> Value? {
            var configuration = Configuration()
            configuration.readonly = true
            return try DatabaseQueue(path: "\(self.path)/store/store.sqlite3", configuration: configuration)
                .read { try Value.fetchOne($0, sql: sql) }
        }

        /// Waits until the control center's database says at least a number to a question.
        func waitFor(_ number: Int, _ sql: String) async throws {
            try await withDeadline(.seconds(60), "\(sql) is \(number)") {
                while try self.query(sql, as: Int.self) ?? 0 < number { try await Task.sleep(for: .milliseconds(10)) }
            }
        }

        func statements(_ id: String) -> String {
            "SELECT count(*) FROM statement WHERE auditor = (SELECT number FROM auditor WHERE id = '\(id)')"
        }
    }

    @Test(
        "Invited, joined, renewed under load without a loss, revoked: cut and refused; others do not notice",
        .timeLimit(.minutes(4)))
    func embedded() async throws {
        let site = try await Site()
        let serve = try Program.start(["serve", "--config", "\(site.path)/secure-mqtt.yaml"])
        defer { serve.kill() }
        try await serve.waitForOutput("listening")
        try await site.join("mona")
        try await site.join("lena")
        let lena = try site.live("lena")
        defer { lena.kill() }
        try await site.waitFor(1, site.statements("lena"))

        // 2,000 readings in some seconds, and three renewals meanwhile.
        let readings = Readings(instants: 1_000, seed: 3)
        let input = try site.folder.write(
            readings.file.replacing("\n\(Plant.auditor),", with: "\nmona,"), to: "readings.csv")
        let config = "\(site.device("mona"))/secure-mqtt.yaml"
        let loaded = try Program.start([
            "auditor", "run", "--config", config, "--input", input, "--exit", "--json", "--speed", "45000",
        ])
        defer { loaded.kill() }
        try await serve.waitForOutput("/auditor/mona connected")
        for number in 1...3 {
            let renewed = try await Program.run(["auditor", "renew", "--config", config])
            #expect(renewed.status == 0, "\(renewed.errorOutput)")
            try await site.waitFor(number + 1, "SELECT count(*) FROM certificate WHERE spiffe LIKE '%/mona'")
        }
        #expect(try await loaded.wait(within: .seconds(120)) == .exited(0), "\(loaded.errorOutput.suffix(3_000))")
        #expect(
            try site.query("SELECT count(*) FROM readings WHERE auditor = 'mona'", as: Int.self)
                == readings.expected.count)
        for table in ["gaps", "fork", "quarantine"] {
            #expect(try site.query("SELECT count(*) FROM \(table)", as: Int.self) == 0)
        }
        let record = try AuthorityDirectory.open("\(site.path)/pki").issued().filter {
            $0.spiffeID.id.rawValue == "mona"
        }
        #expect(record.count == 4)
        #expect(record.dropFirst().allSatisfy { $0.requester == "spiffe://test.example/auditor/mona" })

        // Revoked by an operator while it lives.
        let before = try site.query(site.statements("mona"), as: Int.self) ?? 0
        let mona = try site.live("mona", state: site.folder.path("live"))
        defer { mona.kill() }
        try await site.waitFor(before + 2, site.statements("mona"))
        // From before the command, with its start; the server looks at its files twice a second.
        let clock = ContinuousClock()
        let start = clock.now
        try await site.revoke("mona")
        try await serve.waitForOutput("disconnected=1")
        let cut = start.duration(to: clock.now)
        try await serve.waitForOutput("refused the handshake")
        print("revoked by an operator: cut \(cut) after the command began, \(start.duration(to: clock.now)) refused")
        // Several times what it takes on a machine that has other work too.
        #expect(cut < .seconds(5))
        let after = try site.query(site.statements("mona"), as: Int.self)
        // It learns why, keeps what it reads, and none of it is stored.
        try await mona.waitForOutput("revoked")
        let seen = try site.query(site.statements("lena"), as: Int.self) ?? 0
        try await site.waitFor(seen + 3, site.statements("lena"))
        #expect(try site.query(site.statements("mona"), as: Int.self) == after)
        #expect(!serve.errorOutput.contains("/auditor/lena disconnected"))
        for process in [lena, serve, site.authority] {
            process.send(signal: SIGTERM)
            #expect(try await process.wait() == .exited(0), "\(process.errorOutput.suffix(2_000))")
        }
    }

    @Test(
        "Through Mosquitto: joined, renewed, revoked by an operator; the session ends for good, and others stay",
        .enabled(if: Plant.Shape.mosquitto.isPossible, "Mosquitto is not installed"), .timeLimit(.minutes(4)))
    func mosquitto() async throws {
        let site = try await Site(mosquitto: true)
        let broker = try ChildProcess("mosquitto", ["-c", "\(site.path)/mosquitto/mosquitto.conf"])
        defer { broker.kill() }
        try await withDeadline(.seconds(20), "mosquitto listens") { [port = site.port] in
            while !isListening(port: port) { try await Task.sleep(for: .milliseconds(5)) }
        }
        let center = try Program.start(["control-center", "--config", "\(site.path)/secure-mqtt.yaml"])
        defer { center.kill() }
        try await center.waitForOutput("session-present")
        var homes: [ChildProcess] = []
        defer { for home in homes { home.kill() } }
        for id in ["mona", "lena"] {
            try await site.join(id)
            homes.append(try site.live(id))
            try await site.waitFor(1, site.statements(id))
        }
        let renewed = try await Program.run(
            ["auditor", "renew", "--config", "\(site.device("mona"))/secure-mqtt.yaml"])
        #expect(renewed.status == 0, "\(renewed.errorOutput)")
        try await site.waitFor(2, "SELECT count(*) FROM certificate WHERE spiffe LIKE '%/mona'")
        let count = try site.query(site.statements("mona"), as: Int.self) ?? 0
        try await site.waitFor(count + 1, site.statements("mona"))
        #expect(try site.query("SELECT count(*) FROM gaps", as: Int.self) == 0)

        let clock = ContinuousClock()
        let start = clock.now
        try await site.revoke("mona")
        let cut = start.duration(to: clock.now)
        print("Mosquitto: revoked and its session ended after \(cut)")
        #expect(cut < .seconds(5))
        #expect(site.authority.errorOutput.contains("Ended the session of mona"), "\(site.authority.errorOutput)")
        // It tries to come back, and its certificates are on the list.
        try await broker.waitForOutput("certificate verify failed")
        let seen = try site.query(site.statements("lena"), as: Int.self) ?? 0
        try await site.waitFor(seen + 3, site.statements("lena"))
        #expect(!broker.errorOutput.contains("Client lena closed"))
        let record = try String(contentsOfFile: "\(site.path)/pki/issued.jsonl", encoding: .utf8)
        #expect(record.contains(#""event":"takeover""#))
    }

    @Test("A fleet changes over to a new root and a new intermediate without a visit", .timeLimit(.minutes(4)))
    func rollover() async throws {
        let site = try await Site()
        try await site.join("mona")
        let config = ["--config", "\(site.path)/secure-mqtt.yaml"]
        let device = site.device("mona")
        let secret = ["--passphrase-file", site.folder.path("passphrase")]
        let root = try await Program.run(["pki", "rollover-root"] + config + secret)
        #expect(root.status == 0, "\(root.errorOutput)")
        // The running authority notices, and tells the device at its next renewal.
        try await site.authority.waitForOutput("certificates of the authority read again", within: .seconds(60))
        let first = try await Program.run(["auditor", "renew", "--config", "\(device)/secure-mqtt.yaml"])
        #expect(first.status == 0, "\(first.errorOutput)")
        #expect(try CertificateFile.read("\(device)/root.pem").count == 2)
        let intermediate = try await Program.run(["pki", "intermediate"] + config + secret)
        #expect(intermediate.status == 0, "\(intermediate.errorOutput)")
        try await withDeadline(.seconds(60), "the authority issues under the new intermediate") {
            while site.authority.errorOutput.components(separatedBy: "read again").count < 3 {
                try await Task.sleep(for: .milliseconds(50))
            }
        }
        let second = try await Program.run(["auditor", "renew", "--config", "\(device)/secure-mqtt.yaml"])
        #expect(second.status == 0, "\(second.errorOutput)")
        let directory = try AuthorityDirectory.open("\(site.path)/pki")
        #expect(try CertificateFile.read("\(device)/auditor.pem")[1] == directory.issuing)
        #expect(try CertificateFile.read("\(device)/issuing.pem").count == 2)

        // Readings flow under it, to a control center of the old one.
        let serve = try Program.start(["serve"] + config)
        defer { serve.kill() }
        try await serve.waitForOutput("listening")
        let mona = try site.live("mona")
        defer { mona.kill() }
        try await site.waitFor(2, site.statements("mona"))
    }

    @Test(
        "When an intermediate is revoked, who was renewed before goes on, and who was not is cut and invited anew",
        .timeLimit(.minutes(4)))
    func revokedIntermediate() async throws {
        let site = try await Site()
        for id in ["mona", "lena"] { try await site.join(id) }
        let config = ["--config", "\(site.path)/secure-mqtt.yaml"]
        let secret = ["--passphrase-file", site.folder.path("passphrase")]
        let passphrase = try Passphrase.read(site.folder.path("passphrase"))
        let old = try AuthorityDirectory.open("\(site.path)/pki").issuing.keyIdentifier.hexadecimal
        let made = try await Program.run(["pki", "intermediate"] + config + secret)
        #expect(made.status == 0, "\(made.errorOutput)")
        try await site.authority.waitForOutput("certificates of the authority read again", within: .seconds(60))

        // Servers, the operator and one of the two auditors get certificates of the new one.
        let authority = try AuthorityDirectory.open("\(site.path)/pki", passphrase: passphrase.source)
        for (role, id, file) in [
            (Role.broker, "broker-1", "broker/broker"), (.controlCenter, "center-1", "control-center/control-center"),
            (.operator, "olga", "operators/olga/operator"),
        ] {
            let hosts = role == .broker ? [try HostName("127.0.0.1")] : []
            let key = try KeyFile.read("\(site.path)/\(file).key")
            let certificate = try authority.issue(
                .role(role, try Identifier(id), in: try authority.trustDomain, hosts: hosts), to: key.publicKey,
                at: UnixTime(Date().timeIntervalSince1970), renewing: true, requester: "test")
            try Data((certificate.pemText + authority.issuing.pemText).utf8)
                .write(to: URL(fileURLWithPath: "\(site.path)/\(file).pem"))
        }
        let renewed = try await Program.run(
            ["auditor", "renew", "--config", "\(site.device("mona"))/secure-mqtt.yaml"])
        #expect(renewed.status == 0, "\(renewed.errorOutput)")
        let serve = try Program.start(["serve"] + config)
        defer { serve.kill() }
        try await serve.waitForOutput("listening")
        let mona = try site.live("mona")
        defer { mona.kill() }
        let lena = try site.live("lena")
        defer { lena.kill() }
        for id in ["mona", "lena"] { try await site.waitFor(1, site.statements(id)) }

        let revoke = ["pki", "revoke", "--intermediate", old, "--reason", "keyCompromise"] + config + secret
        let warned = try await Program.run(revoke)
        #expect(warned.status == 65, "\(warned.errorOutput)")
        #expect(
            warned.errorOutput.contains(
                "it locks out 1 whose only valid certificate is of it, first spiffe://test.example/auditor/lena"),
            "\(warned.errorOutput)")
        let revoked = try await Program.run(revoke + ["--force"])
        #expect(revoked.status == 0, "\(revoked.errorOutput)")
        #expect(revoked.output.contains("Revoked spiffe://test.example/auditor/lena, serial "))
        try await serve.waitForOutput("disconnected=1")
        try await serve.waitForOutput("refused the handshake")
        let list = try ChildProcess(
            "curl",
            ["-sf", "--cacert", "\(site.path)/pki/root.pem", "https://127.0.0.1:\(site.authorityPort)/crl/root.crl"])
        #expect(try await list.wait() == .exited(0), "\(list.errorOutput)")
        #expect(try RevocationList(der: list.outputBytes).entries.map(\.reason) == [.caCompromise])
        let seen = try site.query(site.statements("mona"), as: Int.self) ?? 0
        try await site.waitFor(seen + 3, site.statements("mona"))
        #expect(!serve.errorOutput.contains("/auditor/mona disconnected"))

        // She is refused by the authority too, and comes back by an invitation, with all that she has kept.
        let refused = try await Program.run(
            ["auditor", "renew", "--config", "\(site.device("lena"))/secure-mqtt.yaml"])
        #expect(refused.status == 77, "\(refused.errorOutput)")
        let stored = try site.query(site.statements("lena"), as: Int.self) ?? 0
        try await site.join("lena", more: ["--renew"])
        try await site.waitFor(stored + 2, site.statements("lena"))
        #expect(try site.query("SELECT count(*) FROM fork", as: Int.self) == 0)
    }

    @Test("An expired certificate renews on an operator's word, once")
    func expired() async throws {
        let site = try await Site()
        try await site.join("mona")
        let passphrase = try Passphrase.read(site.folder.path("passphrase"))
        let authority = try AuthorityDirectory.open("\(site.path)/pki", passphrase: passphrase.source)
        let device = site.device("mona")
        var profile = CertificateProfile.auditor(try Identifier("mona"), in: try authority.trustDomain)
        profile.lifetime = 0
        let key = try KeyFile.read("\(device)/auditor.key")
        let old = try authority.issue(
            profile, to: key.publicKey, at: UnixTime(Date().timeIntervalSince1970) - 1, renewing: true,
            requester: "test")
        try Data((old.pemText + authority.issuing.pemText).utf8)
            .write(to: URL(fileURLWithPath: "\(device)/auditor.pem"))
        let renew = ["auditor", "renew", "--config", "\(device)/secure-mqtt.yaml"]
        let refused = try await Program.run(renew)
        #expect(refused.status == 77, "\(refused.errorOutput)")
        #expect(refused.errorOutput.contains("pki renew-allow mona"), "\(refused.errorOutput)")
        let allowed = try await Program.run(["pki", "renew-allow", "mona", "--note", "barn"] + site.remote)
        #expect(allowed.status == 0, "\(allowed.errorOutput)")
        let renewed = try await Program.run(renew)
        #expect(renewed.status == 0, "\(renewed.errorOutput)")
        let record = try String(contentsOfFile: "\(site.path)/pki/issued.jsonl", encoding: .utf8)
        #expect(record.contains(#""note":"barn""#) && record.contains("spiffe://test.example/operator/olga"))
    }

    /// Who answers at the broker's address.
    enum Impostor: String, CaseIterable, CustomTestStringConvertible {
        case authority, revoked, expired

        var testDescription: String { self.rawValue }

        /// What the device says.
        var words: String {
            switch self {
            case .authority: "is not a broker"
            case .revoked: "was revoked"
            case .expired: "CERTIFICATE_VERIFY_FAILED"
            }
        }
    }

    @Test(
        "A server of another role, or a broker that is revoked or expired, gets nothing", arguments: Impostor.allCases)
    func impostor(impostor: Impostor) async throws {
        let site = try await Site()
        let folder = site.folder
        let passphrase = try Passphrase.read(folder.path("passphrase"))
        let authority = try AuthorityDirectory.open("\(site.path)/pki", passphrase: passphrase.source)
        let (domain, id) = (try authority.trustDomain, try Identifier("impostor"))
        let hosts = [try HostName("127.0.0.1")]
        let now = UnixTime(Date().timeIntervalSince1970)
        var profile: CertificateProfile =
            impostor == .authority ? .authority(id, in: domain, hosts: hosts) : .broker(id, in: domain, hosts: hosts)
        if impostor == .expired { profile.lifetime = 0 }
        let key = SigningKey()
        let certificate = try authority.issue(
            profile, to: key.publicKey, at: impostor == .expired ? now - 1 : now, requester: "test")
        if impostor == .revoked { _ = try authority.revoke(id, reason: .keyCompromise, at: now) }
        // The lists come with the invitation.
        try await site.join("mona")
        let chain = try folder.write(certificate.pemText + authority.issuing.pemText, to: "impostor.pem")
        try KeyFile.create(folder.path("impostor.key"), key)
        let server = try ChildProcess(
            "openssl",
            [
                "s_server", "-accept", "127.0.0.1:\(site.port)", "-cert", chain, "-key", folder.path("impostor.key"),
                "-cert_chain", "\(site.path)/pki/issuing.pem", "-Verify", "1", "-CAfile", "\(site.path)/pki/root.pem",
                "-tls1_3", "-quiet",
            ])
        defer { server.kill() }
        try await withDeadline(.seconds(20), "openssl listens") { [port = site.port] in
            while !isListening(port: port) { try await Task.sleep(for: .milliseconds(5)) }
        }
        let mona = try site.live("mona")
        defer { mona.kill() }
        let said = try await mona.waitForOutput(impostor.words)
        #expect(said.contains("impostor") || impostor == .expired, "\(said.suffix(1_000))")
        // Not one byte of MQTT: its ID would be in the first packet.
        #expect(!server.output.contains("mona"))
    }
}
