import Crypto
import Foundation
import GRDB
import Identity
import PKI
import TestSupport
import Testing
import X509

/// The life of a device's identity with the real command: invited, joined, renewed under load, revoked. The authority
/// is a small one in Python.
@Suite(.enabled(if: ESTServer.isPossible, "no Python environment: run make setup"))
struct JoinTests {
    /// An installation without auditors, and the authority that invites them.
    private struct Site: Sendable {
        let folder: TemporaryDirectory
        let path: String
        let port: Int
        let directory: AuthorityDirectory
        let issuing: Authority
        let server: ESTServer
        var fingerprint: String

        init(tokens: [String: String], lifetime: Int = 86_400) async throws {
            let folder = try TemporaryDirectory()
            self.folder = folder
            self.path = folder.path("site")
            self.port = try freePort()
            let made = try await Program.run([
                "init", self.path, "--unencrypted", "--trust-domain", "test.example", "--host", "127.0.0.1", "--port",
                "\(self.port)", "--auditor", "other",
            ])
            guard made.status == 0 else { throw PlantError(description: made.errorOutput) }
            let directory = try AuthorityDirectory.open("\(self.path)/pki")
            self.directory = directory
            self.issuing = try Authority(
                certificate: directory.issuing,
                key: try KeyFile.read(AuthorityDirectory.issuingKeyPath(in: directory.path)))
            let key = SigningKey()
            let certificate = try self.issuing.issue(
                .authority(
                    try Identifier("ca-1"), in: try TrustDomain("test.example"), hosts: [try HostName("127.0.0.1")]),
                to: key.publicKey, at: TestPKI.currentTime())
            var state = ESTServer.State(trustDomain: "test.example")
            state.brokerPort = self.port
            state.tokens = tokens
            state.lifetime = lifetime
            self.server = try await ESTServer(
                root: directory.root, issuing: self.issuing, state: state,
                serverChain: certificate.pemText + directory.issuing.pemText, serverKey: key.pemRepresentation ?? "",
                lists: try CertificateFile.readRevocationLists(
                    AuthorityDirectory.revocationListsPath(in: directory.path)))
            self.fingerprint =
                "SHA256:"
                + directory.root.sha256.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        }

        func join(
            _ id: String = "mona", token: String = "secret", fingerprint: String? = nil, url: String? = nil,
            more: [String] = [], environment: [String: String] = [:]
        ) async throws -> Program.Result {
            try await Program.run(
                [
                    "auditor", "join", url ?? self.server.url, "--id", id, "--token", token, "--ca-fingerprint",
                    fingerprint ?? self.fingerprint, "--directory", self.device(id),
                ] + more, environment: environment)
        }

        func device(_ id: String = "mona") -> String { self.folder.path("devices/\(id)") }

        /// What `pki revoke` does, for certificates that it has not issued.
        func revoke(_ id: String) throws {
            let lists = try CertificateFile.readRevocationLists(
                AuthorityDirectory.revocationListsPath(in: self.directory.path))
            let certificates = try CertificateFile.read("\(self.device(id))/auditor.pem")
            let next = try self.issuing.makeRevocationList(
                number: lists[1].number + 1,
                entries: lists[1].entries
                    + [.init(certificates[0], revokedAt: TestPKI.currentTime(), reason: .keyCompromise)],
                at: TestPKI.currentTime())
            try DurableFile.replace(
                AuthorityDirectory.revocationListsPath(in: self.directory.path),
                Array((lists[0].pemText + next.pemText).utf8), mode: 0o644)
        }

        func query<Value: DatabaseValueConvertible>(_ sql: String, as _: Value.Type = Value.self) throws -> Value? {
            var configuration = Configuration()
            configuration.readonly = true
            return try DatabaseQueue(path: "\(self.path)/store/store.sqlite3", configuration: configuration)
                .read { try Value.fetchOne($0, sql: sql) }
        }
    }

    private static func names(_ folder: String) -> Set<String> {
        Set((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [])
    }

    @Test("An invitation makes a folder with all that an auditor needs") func invitationMakesFolder() async throws {
        let site = try await Site(tokens: ["secret": "mona"])
        let joined = try await site.join(more: ["--meter", "cellar"])
        #expect(joined.status == 0, "\(joined.errorOutput)")
        #expect(joined.output.contains("secure-mqtt auditor run --config \(site.device())/secure-mqtt.yaml"))
        #expect(
            Self.names(site.device())
                == ["auditor.pem", "auditor.key", "root.pem", "issuing.pem", "crl.pem", "secure-mqtt.yaml"])
        #expect(Self.names(site.folder.path("devices")) == ["mona"])
        let mode = try FileManager.default.attributesOfItem(atPath: "\(site.device())/auditor.key")[.posixPermissions]
        #expect(mode as? Int == 0o600)
        let yaml = try String(contentsOfFile: "\(site.device())/secure-mqtt.yaml", encoding: .utf8)
        #expect(yaml.contains("  port: \(site.port)\n"))
        #expect(yaml.contains("  meter: cellar\n"))
        #expect(yaml.contains("  authority: \(site.server.url)\n"))

        // The key that was certified is the one that is here, and it was in no request but as public key.
        let issued = try #require(site.server.issued.first)
        let key = try KeyFile.read("\(site.device())/auditor.key")
        let name = SHA256.hash(data: key.publicKey.x963Representation).map {
            String($0 >> 4, radix: 16) + String($0 & 15, radix: 16)
        }.joined()
        #expect(issued == ["secret", "mona", issued[2], name])

        let status = try await Program.run(["auditor", "status", "--config", "\(site.device())/secure-mqtt.yaml"])
        #expect(status.status == 0, "\(status.errorOutput)")
        #expect(status.output.contains("valid until"))

        let again = try await site.join()
        #expect(again.status == 73, "\(again.errorOutput)")
        #expect(again.errorOutput.contains("exists and is not an empty folder"))
    }

    @Test(
        "What is wrong with an invitation is said in one line, and nothing is left to run",
        arguments: [
            ("another root", 65, "fingerprint"), ("a wrong token", 77, "token-unknown"),
            ("another's token", 77, "token-other"),
            ("nobody there", 69, "cannot be reached"), ("no address", 64, "https://HOST:PORT"),
            ("no fingerprint", 65, "64 hexadecimal digits"), ("no ID", 64, "not an identifier"),
        ])
    func wrongInvitationSaid(
        _ name: String, _ status: Int, _ words: String
    ) async throws {
        let site = try await Site(tokens: ["secret": "mona", "hers": "lena"])
        let result =
            switch name {
            case "another root": try await site.join(fingerprint: "SHA256:" + String(repeating: "ab", count: 32))
            case "a wrong token": try await site.join(token: "wrong")
            case "another's token": try await site.join(token: "hers")
            case "nobody there": try await site.join(url: "https://127.0.0.1:\(freePort())")
            case "no address": try await site.join(url: "http://127.0.0.1")
            case "no fingerprint": try await site.join(fingerprint: "SHA256:abc")
            default: try await site.join("not an id")
            }
        #expect(Int(result.status) == status, "\(result.errorOutput)")
        #expect(result.errorOutput.contains(words), "\(result.errorOutput)")
        #expect(result.errorOutput.split(separator: "\n").count == 1, "\(result.errorOutput)")
        #expect(!FileManager.default.fileExists(atPath: site.device()))
    }

    @Test("A second try goes on with the key of the first") func secondTryGoes() async throws {
        let site = try await Site(tokens: ["secret": "mona"])
        var state = ESTServer.State(trustDomain: "test.example")
        state.tokens = ["secret": "mona"]
        state.mode = "busy"
        try site.server.set(state)
        let busy = try await site.join()
        #expect(busy.status == 69, "\(busy.errorOutput)")
        #expect(!FileManager.default.fileExists(atPath: site.device()))
        let key = try KeyFile.read(site.folder.path("devices/.mona.joining/auditor.key"))
        state.mode = ""
        try site.server.set(state)
        let joined = try await site.join()
        #expect(joined.status == 0, "\(joined.errorOutput)")
        let kept = try KeyFile.read("\(site.device())/auditor.key")
        #expect(kept.publicKey.rawRepresentation == key.publicKey.rawRepresentation)
    }

    @Test("A try that was cut off before its last step needs no authority any more") func tryWasCut() async throws {
        let site = try await Site(tokens: ["secret": "mona"])
        #expect(try await site.join().status == 0)
        try FileManager.default.moveItem(atPath: site.device(), toPath: site.folder.path("devices/.mona.joining"))
        site.server.stop()
        let joined = try await site.join()
        #expect(joined.status == 0, "\(joined.errorOutput)")
        #expect(FileManager.default.fileExists(atPath: "\(site.device())/secure-mqtt.yaml"))
        // Another invitation has nothing to do with what lies there.
        try FileManager.default.moveItem(atPath: site.device(), toPath: site.folder.path("devices/.mona.joining"))
        let other = try await site.join(fingerprint: "SHA256:" + String(repeating: "ab", count: 32))
        #expect(other.status == 69, "\(other.errorOutput)")
    }

    @Test(
        "Invited, joined, renewed under load without a loss, revoked; others do not notice", .timeLimit(.minutes(4)))
    func invitedJoinedRenewed() async throws {
        let site = try await Site(tokens: ["secret": "mona", "hers": "lena"])
        let serve = try Program.start(["serve", "--config", "\(site.path)/secure-mqtt.yaml"])
        try await serve.waitForOutput("listening")
        for (id, token) in [("mona", "secret"), ("lena", "hers")] {
            let joined = try await site.join(id, token: token)
            #expect(joined.status == 0, "\(joined.errorOutput)")
        }
        let lena = try Program.start([
            "auditor", "run", "--config", "\(site.device("lena"))/secure-mqtt.yaml", "--simulate",
        ])
        try await serve.waitForOutput("/auditor/lena connected")

        // 2,000 readings in some seconds, and three renewals meanwhile.
        let readings = Readings(instants: 1_000, seed: 3)
        let input = try site.folder.write(
            readings.file.replacing("\n\(Plant.auditor),", with: "\nmona,"), to: "readings.csv")
        let config = "\(site.device())/secure-mqtt.yaml"
        let mona = try Program.start([
            "auditor", "run", "--config", config, "--input", input, "--exit", "--json", "--speed", "45000",
        ])
        try await serve.waitForOutput("/auditor/mona connected")
        for number in 1...3 {
            let renewed = try await Program.run(
                ["auditor", "renew", "--config", config] + (number == 2 ? ["--keep-key"] : []))
            #expect(renewed.status == 0, "\(renewed.errorOutput)")
            let told = "SELECT count(*) FROM certificate WHERE spiffe LIKE '%/mona'"
            try await withDeadline(.seconds(60), "the control center knows certificate \(number + 1)") {
                while try (site.query(told, as: Int.self) ?? 0) < number + 1 {
                    try await Task.sleep(for: .milliseconds(20))
                }
            }
        }
        #expect(try await mona.wait(within: .seconds(120)) == .exited(0), "\(mona.errorOutput.suffix(3_000))")
        #expect(
            try site.query("SELECT count(*) FROM readings WHERE auditor = 'mona'", as: Int.self)
                == readings.expected.count)
        #expect(try site.query("SELECT count(*) FROM gaps", as: Int.self) == 0)
        #expect(try site.query("SELECT count(*) FROM fork", as: Int.self) == 0)
        #expect(
            try site.query(
                "SELECT count(*) FROM stream JOIN auditor ON auditor.number = stream.auditor WHERE auditor.id = 'mona'",
                as: Int.self) == 1)
        #expect(site.server.issued.filter { $0[1] == "mona" }.map(\.[0]) == ["secret", "renew", "renew", "renew"])

        // Revoked while it lives.
        let live = try Program.start([
            "auditor", "run", "--config", config, "--simulate", "--state", site.folder.path("live"),
        ])
        let connections: @Sendable () -> Int = {
            serve.errorOutput.components(separatedBy: "/auditor/mona connected").count
        }
        let before = connections()
        try await withDeadline(.seconds(60), "mona lives") {
            while connections() == before { try await Task.sleep(for: .milliseconds(5)) }
        }
        let clock = ContinuousClock()
        let start = clock.now
        try site.revoke("mona")
        try await serve.waitForOutput("disconnected=1")
        let cut = start.duration(to: clock.now)
        try await serve.waitForOutput("refused the handshake")
        print("revocation: connection cut after \(cut), refused after \(start.duration(to: clock.now))")
        #expect(!serve.errorOutput.contains("/auditor/lena disconnected"))
        #expect(lena.isRunning)
        live.kill()
        lena.send(signal: SIGTERM)
        #expect(try await lena.wait() == .exited(0), "\(lena.errorOutput.suffix(2_000))")
        serve.send(signal: SIGTERM)
        #expect(try await serve.wait() == .exited(0))
    }

    @Test(
        "A key in a token is made once, and a renewal that comes by itself keeps it",
        .enabled(if: SoftHSM.isInstalled, "\(SoftHSM.absence)"), .timeLimit(.minutes(3)))
    func keyInToken() async throws {
        let softHSM = try SoftHSM()
        try await softHSM.makeToken("home")
        let site = try await Site(tokens: ["secret": "mona"])
        var state = ESTServer.State(trustDomain: "test.example")
        state.tokens = ["secret": "mona"]
        // A try that ends before the certificate comes leaves the key, which the next one takes; but not that of a try
        // without --key.
        state.mode = "busy"
        try site.server.set(state)
        let key = ["--key", softHSM.uri("home", "mona")]
        #expect(try await site.join().status == 69)
        let other = try await site.join(more: key, environment: softHSM.environment)
        #expect(other.status == 73 && other.errorOutput.contains("is another key"), "\(other.errorOutput)")
        try FileManager.default.removeItem(atPath: site.folder.path("devices/.mona.joining"))
        #expect(try await site.join(more: key, environment: softHSM.environment).status == 69)
        // Due at once.
        state.mode = ""
        state.backdating = 20_000
        state.lifetime = 300
        try site.server.set(state)
        let joined = try await site.join(more: key, environment: softHSM.environment)
        #expect(joined.status == 0, "\(joined.errorOutput)")
        let pem = "\(site.device())/auditor.pem"
        let first = try CertificateFile.read(pem)[0]
        state.backdating = 600
        state.lifetime = 86_400
        try site.server.set(state)
        let mona = try Program.start(
            [
                "auditor", "run", "--config", "\(site.device())/secure-mqtt.yaml", "--simulate", "--log-level", "info",
            ], environment: softHSM.environment)
        defer { mona.kill() }
        try await mona.waitForOutput("the certificate was renewed")
        let second = try CertificateFile.read(pem)[0]
        #expect(second != first && second.publicKey == first.publicKey)
        #expect(
            Self.names(site.device()).isSuperset(of: ["auditor.pem", "auditor.key"])
                && !Self.names(site.device()).contains("auditor.key.next"))
        mona.send(signal: SIGTERM)
        #expect(try await mona.wait() == .exited(0), "\(mona.errorOutput.suffix(2_000))")
    }

    @Test(
        "A certificate that has expired is replaced by a new invitation, and the outbox is told under the new one",
        .timeLimit(.minutes(3)))
    func certificateHasExpired()
        async throws
    {
        let site = try await Site(tokens: ["secret": "mona", "again": "mona"], lifetime: 3)
        #expect(try await site.join().status == 0)
        var state = ESTServer.State(trustDomain: "test.example")
        state.brokerPort = site.port
        state.tokens = ["again": "mona"]
        state.mode = "down"
        try site.server.set(state)
        let config = "\(site.device())/secure-mqtt.yaml"
        let readings = Readings(instants: 20, seed: 4)
        let input = try site.folder.write(
            readings.file.replacing("\n\(Plant.auditor),", with: "\nmona,"), to: "readings.csv")
        // Nobody is there: what it reads is signed and kept.
        let mona = try Program.start([
            "auditor", "run", "--config", config, "--input", input, "--exit", "--json", "--log-level", "info",
        ])
        try await mona.waitForOutput("the certificate ended")
        let renewed = try await Program.run(["auditor", "renew", "--config", config])
        #expect(renewed.status == 77, "\(renewed.errorOutput)")
        #expect(renewed.errorOutput.contains("join --renew"))
        let status = try await Program.run(["auditor", "status", "--config", config])
        #expect(status.output.contains("expired"), "\(status.output)")

        let serve = try Program.start(["serve", "--config", "\(site.path)/secure-mqtt.yaml"])
        try await serve.waitForOutput("listening")
        let rejoined = try await site.join(token: "again", more: ["--renew"])
        #expect(rejoined.status == 0, "\(rejoined.errorOutput)")
        #expect(try await mona.wait(within: .seconds(90)) == .exited(0), "\(mona.errorOutput.suffix(3_000))")
        #expect(
            try site.query("SELECT count(*) FROM readings WHERE auditor = 'mona'", as: Int.self)
                == readings.expected.count)
        #expect(try site.query("SELECT count(*) FROM quarantine", as: Int.self) == 0)
        serve.send(signal: SIGTERM)
        #expect(try await serve.wait() == .exited(0))
    }
}
