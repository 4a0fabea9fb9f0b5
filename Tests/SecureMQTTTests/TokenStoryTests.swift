import Foundation
import GRDB
import PKI
import TestSupport
import Testing
import X509

/// Installations whose private keys are in tokens: SoftHSM in the place of a TPM or a smart card.
@Suite(.enabled(if: SoftHSM.isInstalled, "\(SoftHSM.absence)"))
struct TokenStoryTests {
    let folder: TemporaryDirectory

    init() throws { self.folder = try TemporaryDirectory() }

    private func run(
        _ arguments: [String], _ softHSM: SoftHSM, directory: String? = nil
    ) async throws -> Program.Result {
        try await Program.run(arguments, environment: softHSM.environment, directory: directory)
    }

    @discardableResult
    private func succeed(
        _ arguments: [String], _ softHSM: SoftHSM, sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> Program.Result {
        let result = try await self.run(arguments, softHSM)
        try #require(result.status == 0, "\(result.errorOutput)", sourceLocation: sourceLocation)
        return result
    }

    private func query<Value: DatabaseValueConvertible>(_ sql: String, as _: Value.Type = Value.self) throws -> Value? {
        var configuration = Configuration()
        configuration.readonly = true
        return try DatabaseQueue(
            path: self.folder.path("energy/store/store.sqlite3"), configuration: configuration
        )
        .read { try Value.fetchOne($0, sql: sql) }
    }

    private func waitFor(_ number: Int, _ sql: String) async throws {
        try await withDeadline(.seconds(60), "\(sql) is \(number)") {
            while try self.query(sql, as: Int.self) ?? 0 < number { try await Task.sleep(for: .milliseconds(10)) }
        }
    }

    private static let statements =
        "SELECT count(*) FROM statement WHERE auditor = (SELECT number FROM auditor WHERE id = 'mona')"

    @Test(
        "Every key of an installation in a token: joined, read, token away and back, renewed, revoked, joined again",
        .timeLimit(.minutes(4)))
    func story() async throws {
        let (server, device) = (try SoftHSM(), try SoftHSM())
        for token in ["ca", "server"] { try await server.makeToken(token) }
        try await device.makeToken("home")
        let (port, authorityPort) = (try freePort(), try freePort())
        let energy = self.folder.path("energy")
        let made = try await self.succeed(
            [
                "init", energy, "--trust-domain", "test.example", "--host", "127.0.0.1", "--port", "\(port)",
                "--operator", "olga", "--issuing-key", server.uri("ca", "issuing"), "--root-key",
                server.uri("ca", "root"),
            ], server)
        #expect(made.output.contains("Take the token with the root's key away"), "\(made.output)")
        #expect(
            try String(contentsOfFile: "\(energy)/pki/issuing.key", encoding: .utf8)
                == server.uri("ca", "issuing") + "\n")
        let exported = try await self.run(["pki", "export-root", self.folder.path, "--pki", "\(energy)/pki"], server)
        #expect(exported.status == 65 && exported.errorOutput.contains("cannot be copied"), "\(exported.errorOutput)")

        // Broker and control center, too.
        let config = "\(energy)/secure-mqtt.yaml"
        var yaml = try String(contentsOfFile: config, encoding: .utf8)
            .replacing("  #port: 8443", with: "  port: \(authorityPort)")
        for (name, id) in [("broker", "01"), ("control-center", "02")] {
            let path = "\(energy)/\(name)/\(name).key"
            try await server.importKey(path, into: "server", label: name, id: id)
            try FileManager.default.removeItem(atPath: path)
            yaml.replace("  key: \(name)/\(name).key", with: "  key: \"\(server.uri("server", name))\"")
        }
        try yaml.write(toFile: config, atomically: true, encoding: .utf8)
        let authority = try Program.start(
            ["ca", "--config", config, "--set", "ca.listen=127.0.0.1"], environment: server.environment)
        defer { authority.kill() }
        try await authority.waitForOutput("listening")
        let serve = try Program.start(["serve", "--config", config], environment: server.environment)
        defer { serve.kill() }
        try await serve.waitForOutput("listening")

        func invite() async throws -> [String] {
            let invited = try await self.succeed(
                [
                    "pki", "invite", "mona", "--json", "--ca", "https://127.0.0.1:\(authorityPort)", "--as",
                    "\(energy)/operators/olga", "--ca-root", "\(energy)/pki/root.pem",
                ], server)
            let object = try JSONSerialization.jsonObject(with: Data(invited.lastLine.utf8)) as? [String: Any]
            let line = (object?["command"] as? String ?? "").split(separator: " ").map(String.init)
            return line.dropFirst() + ["--directory", self.folder.path("mona")]
        }
        try await self.succeed(try await invite() + ["--key", device.uri("home", "mona")], device)
        let pem = self.folder.path("mona/auditor.pem")
        let first = try CertificateFile.read(pem)[0]
        for name in try FileManager.default.contentsOfDirectory(atPath: self.folder.path("mona")) {
            let text = try String(contentsOfFile: self.folder.path("mona/\(name)"), encoding: .utf8)
            #expect(!text.contains("PRIVATE KEY"), "\(name)")
        }

        let mona = self.folder.path("mona/secure-mqtt.yaml")
        let auditor = try Program.start(
            [
                "auditor", "run", "--config", mona, "--simulate", "--speed", "900", "--set",
                "auditor.statement-interval=1", "--log-level", "info",
            ], environment: device.environment)
        defer { auditor.kill() }
        try await self.waitFor(2, Self.statements)

        // The token is taken away: nothing is signed, nothing is lost; it is back, and signing goes on.
        try device.plug(false)
        try await auditor.waitForOutput("there is no such token")
        try device.plug(true)
        let before = try self.query(Self.statements, as: Int.self) ?? 0
        try await self.waitFor(before + 2, Self.statements)

        let renewed = try await self.succeed(["auditor", "renew", "--config", mona], device)
        #expect(renewed.output.contains("Renewed spiffe://test.example/auditor/mona"))
        let second = try CertificateFile.read(pem)[0]
        #expect(second != first && second.publicKey == first.publicKey)
        try await auditor.waitForOutput("the certificate was renewed")
        try await self.waitFor(2, "SELECT count(*) FROM certificate WHERE spiffe LIKE '%/mona'")
        let after = try self.query(Self.statements, as: Int.self) ?? 0
        try await self.waitFor(after + 2, Self.statements)
        for table in ["gaps", "fork", "quarantine"] {
            #expect(try self.query("SELECT count(*) FROM \(table)", as: Int.self) == 0)
        }
        auditor.send(signal: SIGTERM)
        #expect(try await auditor.wait() == .exited(0), "\(auditor.errorOutput.suffix(2_000))")
        #expect(!(auditor.errorOutput + serve.errorOutput + authority.errorOutput).contains("1234"))

        // Revoked, and invited again: with the key that it has.
        try await self.succeed(["pki", "revoke", "mona", "--config", config], server)
        let misplaced = try await self.run(
            try await invite() + ["--renew", "--key", device.uri("home", "other")], device)
        #expect(misplaced.status == 64, "\(misplaced.errorOutput)")
        try await self.succeed(try await invite() + ["--renew"], device)
        let third = try CertificateFile.read(pem)[0]
        #expect(third != second && third.publicKey == first.publicKey)

        // A new intermediate, its key and the root's in the token.
        try await self.succeed(
            ["pki", "intermediate", "--config", config, "--issuing-key", server.uri("ca", "issuing-2")], server)
        let authorities = try AuthorityDirectory.open("\(energy)/pki")
        #expect(authorities.issuers.count == 2)
        for process in [serve, authority] {
            process.send(signal: SIGTERM)
            #expect(try await process.wait() == .exited(0), "\(process.errorOutput.suffix(2_000))")
        }
    }

    @Test("A request by a key in a token is openssl's to verify, and its file holds the URI alone")
    func request() async throws {
        let softHSM = try SoftHSM()
        try await softHSM.makeToken("home")
        try self.folder.write("1234\n", to: "pin")
        // Relative to where it is said; the file says it in full.
        let uri = "pkcs11:token=home;object=anna?module-path=\(SoftHSM.module ?? "")&pin-source=file:pin"
        let made = try await self.run(
            ["pki", "request", "anna", "--key", uri], softHSM, directory: self.folder.path)
        #expect(made.status == 0, "\(made.errorOutput)")
        let text = try String(contentsOfFile: self.folder.path("anna.key"), encoding: .utf8)
        #expect(text.hasPrefix("pkcs11:") && !text.contains("1234") && text.split(separator: "\n").count == 1)
        let verified = try await OpenSSL.run(["req", "-verify", "-noout", "-in", self.folder.path("anna.csr")])
        #expect((verified.output + verified.errorOutput).contains("verify OK"), "\(verified.errorOutput)")

        // By hand: issued, and used under the file's name.
        let pki = self.folder.path("pki")
        try await self.succeed(["pki", "init", pki, "--trust-domain", "test.example", "--unencrypted"], softHSM)
        let issued = try await self.run(
            ["pki", "issue", "auditor", "anna", "--csr", "anna.csr", "--pki", pki, "--out", "anna"], softHSM,
            directory: self.folder.path)
        #expect(issued.status == 0, "\(issued.errorOutput)")
    }

    @Test(
        "What is wrong with a key in a token is one line, with an exit code, wherever it is named",
        arguments: [
            ("token=home;object=a?module-path=/nowhere.so", 66, "module /nowhere.so does not exist"),
            ("token=away;object=a?module-path=MODULE&pin-source=PIN", 69, "there is no such token"),
            ("token=home;object=a?module-path=MODULE&pin-source=WRONG", 77, "is wrong"),
            ("token=home;object=a?module-path=MODULE&pin-source=/nowhere", 66, "/nowhere does not exist"),
            ("token=home;object=a?module-path=MODULE", 77, "add pin-source=file:PATH"),
            ("token=home;object=a?module-path=MODULE&pin-source=PIN", 66, "no such private key"),
            ("token=home;object=a?module-path=MODULE&pin-value=1234", 78, "auditor.key: pkcs11:token=home;object=a"),
            ("object=a", 78, "say which module"),
        ])
    func wrong(uri: String, status: Int, words: String) async throws {
        let softHSM = try SoftHSM()
        try await softHSM.makeToken("home")
        try softHSM.folder.write("4321\n", to: "wrong")
        let energy = self.folder.path("energy")
        try await self.succeed(
            ["init", energy, "--trust-domain", "test.example", "--unencrypted", "--auditor", "mona"], softHSM)
        let uri =
            "pkcs11:"
            + uri.replacing("MODULE", with: SoftHSM.module ?? "").replacing("PIN", with: softHSM.folder.path("pin"))
            .replacing("WRONG", with: softHSM.folder.path("wrong"))
        let file = "\(energy)/auditors/mona/secure-mqtt.yaml"
        try String(contentsOfFile: file, encoding: .utf8)
            .replacing("  key: auditor.key", with: "  key: \"\(uri)\"")
            .write(toFile: file, atomically: true, encoding: .utf8)
        let result = try await self.run(["auditor", "run", "--config", file, "--exit"], softHSM)
        #expect(Int(result.status) == status, "\(result.errorOutput)")
        #expect(result.errorOutput.contains(words), "\(result.errorOutput)")
        #expect(result.errorOutput.split(separator: "\n").count == 1, "\(result.errorOutput)")
        #expect(!result.errorOutput.contains("4321") && !result.errorOutput.contains("1234"))
    }

    @Test("Flags for keys in tokens take nothing else, and one key serves one authority")
    func flags() async throws {
        let softHSM = try SoftHSM()
        try await softHSM.makeToken("ca")
        let pki = self.folder.path("pki")
        let initialise = ["pki", "init", pki, "--trust-domain", "test.example", "--unencrypted"]
        let file = try await self.run(initialise + ["--issuing-key", "issuing.key"], softHSM)
        #expect(file.status == 65 && file.errorOutput.contains("is no URI of a key in a token"), "\(file.errorOutput)")
        let uri = softHSM.uri("ca", "one")
        let same = try await self.run(initialise + ["--issuing-key", uri, "--root-key", uri], softHSM)
        #expect(same.status == 73 && same.errorOutput.contains("need a key each"), "\(same.errorOutput)")
        // Nothing was made by that.
        try await self.succeed(initialise + ["--issuing-key", uri], softHSM)
        // With the token away, what needs the key says so, and what does not works.
        try softHSM.plug(false)
        let issued = try await self.run(
            ["pki", "issue", "auditor", "a", "--pki", pki, "--out", self.folder.path("a")], softHSM)
        #expect(issued.status == 69 && issued.errorOutput.contains("there is no such token"), "\(issued.errorOutput)")
        try await self.succeed(["pki", "list", "--pki", pki], softHSM)
    }
}
