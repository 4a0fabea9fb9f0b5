import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

/// `ca` and what an operator does with it, as a person or a script meets them.
@Suite(.enabled(if: OpenSSL.isInstalled && ChildProcess.find("curl") != nil, "openssl or curl is not installed"))
struct CACommandTests {
    let directory: TemporaryDirectory

    init() throws { self.directory = try TemporaryDirectory() }

    @discardableResult
    func run(_ arguments: String..., environment: [String: String] = [:]) async throws -> CommandLineTool.Result {
        try await CommandLineTool.run(arguments, directory: self.directory.path, environment: environment)
    }

    /// An installation whose authority listens on free ports of loopback, under the passphrase of `passphrase`.
    func makeInstallation() async throws -> (port: Int, publicPort: Int) {
        try self.directory.write("correct horse\n", to: "passphrase")
        let result = try await self.run(
            "init", "energy", "--trust-domain", "energy.example", "--passphrase-file", "passphrase", "--host",
            "localhost", "--operator", "olga", "--control-center", "cc-1")
        try #require(result.status == 0, "\(result.errorOutput)")
        let (port, publicPort) = (try freePort(), try freePort())
        let path = self.directory.path("energy/secure-mqtt.yaml")
        let text = try String(contentsOfFile: path, encoding: .utf8)
            .replacing("  #port: 8443", with: "  port: \(port)")
            .replacing("  #public-port: 8080", with: "  public-port: \(publicPort)")
            .replacing("  #passphrase-file: /etc/secure-mqtt/ca-passphrase", with: "  passphrase-file: ../passphrase")
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return (port, publicPort)
    }

    func start() async throws -> ChildProcess {
        let process = try ChildProcess(
            CommandLineTool.secureMQTT,
            ["ca", "--config", "energy/secure-mqtt.yaml", "--set", "ca.listen=127.0.0.1"],
            directory: self.directory.path)
        try await process.waitForOutput("listening")
        return process
    }

    func expectFailure(
        _ result: CommandLineTool.Result, _ status: Int32, _ text: String,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(result.status == status, "\(result.errorOutput)", sourceLocation: sourceLocation)
        #expect(result.errorLines.count == 1, sourceLocation: sourceLocation)
        #expect(result.errorOutput.contains(text), "\(result.errorOutput)", sourceLocation: sourceLocation)
    }

    @Test("Without a passphrase, a terminal or --unencrypted nothing is made")
    func noPassphrase() async throws {
        for command in [["init"], ["pki", "init"]] {
            let result = try await CommandLineTool.run(
                command + ["x", "--trust-domain", "energy.example"], directory: self.directory.path)
            self.expectFailure(result, 64, "--passphrase-file")
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: self.directory.path).isEmpty)
    }

    @Test("The keys of an authority are encrypted, and open with the passphrase from each of its places")
    func passphrases() async throws {
        _ = try await self.makeInstallation()
        for key in ["root", "issuing"] {
            let text = try String(contentsOfFile: self.directory.path("energy/pki/\(key).key"), encoding: .utf8)
            #expect(text.hasPrefix("-----BEGIN ENCRYPTED PRIVATE KEY-----"))
        }
        self.expectFailure(
            try await self.run("pki", "issue", "auditor", "a", "--pki", "energy/pki"), 77, "--passphrase-file")
        try self.directory.write("wrong\n", to: "wrong")
        self.expectFailure(
            try await self.run("pki", "issue", "auditor", "a", "--pki", "energy/pki", "--passphrase-file", "wrong"), 77,
            "does not open")
        let option = try await self.run(
            "pki", "issue", "auditor", "a", "--pki", "energy/pki", "--passphrase-file", "passphrase")
        #expect(option.status == 0, "\(option.errorOutput)")
        let configured = try await self.run("pki", "issue", "auditor", "b", "--config", "energy/secure-mqtt.yaml")
        #expect(configured.status == 0, "\(configured.errorOutput)")
        try FileManager.default.createDirectory(
            atPath: self.directory.path("credentials"), withIntermediateDirectories: false)
        // As systemd makes it.
        try self.directory.write("correct horse", to: "credentials/ca-passphrase", permissions: 0o440)
        let credential = try await self.run(
            "pki", "issue", "auditor", "c", "--pki", "energy/pki",
            environment: ["CREDENTIALS_DIRECTORY": self.directory.path("credentials")])
        #expect(credential.status == 0, "\(credential.errorOutput)")
    }

    @Test("An operator invites over the API, a device enrols with curl and openssl, is listed, shown and revoked")
    func enrols() async throws {
        let (port, publicPort) = try await self.makeInstallation()
        let authority = try await self.start()
        defer { authority.kill() }
        let remote = [
            "--ca", "https://localhost:\(port)", "--as", "energy/operators/olga",
        ]
        let invited = try await CommandLineTool.run(
            ["pki", "invite", "mona", "--lifetime", "10m", "--json"] + remote, directory: self.directory.path)
        try #require(invited.status == 0, "\(invited.errorOutput)")
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(invited.output.utf8)) as? [String: Any])
        let token = try #require(object["token"] as? String)
        #expect(object["url"] as? String == "https://localhost:\(port)")

        // The session of docs/enrolment.md, by a shell.
        let session = """
            set -e
            CA=https://localhost:\(port)
            curl -sf --cacert energy/pki/root.pem $CA/.well-known/est/cacerts | openssl base64 -d \\
              | openssl pkcs7 -inform DER -print_certs -out cacerts.pem
            openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\
              -keyout mona.key -subj /CN=mona -outform DER -out mona.csr 2>/dev/null
            openssl base64 -in mona.csr -out mona.b64
            curl -sf --cacert energy/pki/root.pem --user mona:\(token) -H 'Content-Type: application/pkcs10' \\
              --data-binary @mona.b64 $CA/.well-known/est/simpleenroll | openssl base64 -d \\
              | openssl pkcs7 -inform DER -print_certs -out mona.pem
            openssl verify -CAfile energy/pki/root.pem -untrusted cacerts.pem mona.pem
            curl -sf --cacert energy/pki/root.pem --cert mona.pem --key mona.key -H 'Content-Type: application/pkcs10' \\
              --data-binary @mona.b64 $CA/.well-known/est/simplereenroll | openssl base64 -d \\
              | openssl pkcs7 -inform DER -print_certs -out renewed.pem
            openssl verify -CAfile energy/pki/root.pem -untrusted cacerts.pem renewed.pem
            """
        let shell = try ChildProcess("bash", ["-c", session], directory: self.directory.path)
        #expect(try await shell.wait() == .exited(0), "\(shell.errorOutput)")
        #expect(shell.output.contains("renewed.pem: OK"), "\(shell.output)\(shell.errorOutput)")

        let shown = try await self.run("pki", "show", "renewed.pem", "--config", "energy/secure-mqtt.yaml")
        #expect(shown.output.contains("sends and signs readings as mona of energy.example"), "\(shown.output)")
        let listed = try await CommandLineTool.run(
            ["pki", "list", "--role", "auditor", "--json"] + remote, directory: self.directory.path)
        #expect(listed.output.split(separator: "\n").count == 2, "\(listed.output)\(listed.errorOutput)")
        #expect(listed.output.contains(#""requester":"spiffe://energy.example/auditor/mona""#))

        let revoked = try await CommandLineTool.run(
            ["pki", "revoke", "mona", "--reason", "key-compromise"] + remote, directory: self.directory.path)
        #expect(revoked.status == 0, "\(revoked.errorOutput)")
        #expect(revoked.output.split(separator: "\n").count == 2)
        let list = try ChildProcess("curl", ["-sf", "http://localhost:\(publicPort)/crl/issuing.crl"])
        try await list.wait()
        #expect(try RevocationList(der: list.outputBytes).count == 2)
        let table = try await self.run("pki", "list", "--config", "energy/secure-mqtt.yaml")
        #expect(table.output.hasPrefix("ID\tROLE\tVALID UNTIL\tSTATUS\tSERIAL\tLAST SEEN"))
        #expect(table.output.contains("revoked"))

        let again = try await CommandLineTool.run(
            ["pki", "revoke", "mona"] + remote, directory: self.directory.path)
        self.expectFailure(again, 65, "name: mona has no certificate")
        authority.send(signal: SIGTERM)
        #expect(try await authority.wait() == .exited(0))
    }

    @Test("A control center keeps what the authority issued and revoked, and a restored authority is an alarm")
    func events() async throws {
        let (port, _) = try await self.makeInstallation()
        let record = self.directory.path("energy/pki/issued.jsonl")
        func serving(_ body: () async throws -> Void) async throws {
            let server = try ChildProcess(
                CommandLineTool.secureMQTT,
                [
                    "serve", "--config", "energy/secure-mqtt.yaml", "--set", "broker.listen=127.0.0.1", "--set",
                    "broker.port=\(try freePort())", "--set", "control-center.authority=https://localhost:\(port)",
                ], directory: self.directory.path)
            defer { server.kill() }
            try await server.waitForOutput("listening")
            try await body()
            server.send(signal: SIGTERM)
            #expect(try await server.wait() == .exited(0), "\(server.errorOutput)")
        }
        @Sendable func rows(_ sql: String) async throws -> String {
            let process = try ChildProcess(
                "sqlite3", ["-readonly", self.directory.path("energy/store/store.sqlite3"), sql])
            try await process.wait()
            return process.output.trimmingCharacters(in: .whitespacesAndNewlines)
        }
        func waitFor(_ text: String, _ sql: String) async throws {
            try await withDeadline(.seconds(60), "\(sql) is \(text)") {
                while try await rows(sql) != text { try await Task.sleep(for: .milliseconds(50)) }
            }
        }
        let issued = """
            SELECT group_concat(id, ' ') FROM
            (SELECT id FROM authority_events WHERE event = 'issued' AND known ORDER BY number)
            """
        let revoked = "SELECT id || ' ' || reason FROM authority_events WHERE event = 'revoked'"

        // Away at the start: said, and served all the same.
        try await serving {
            try await waitFor("", issued)
        }
        let authority = try await self.start()
        defer { authority.kill() }
        let backup = try Data(contentsOf: URL(fileURLWithPath: record))
        try await serving { try await waitFor("broker-1 cc-1 olga ca-1", issued) }
        #expect(
            try await self.run("pki", "revoke", "olga", "--reason", "superseded", "--config", "energy/secure-mqtt.yaml")
                .status == 0)
        try await serving { try await waitFor("olga superseded", revoked) }
        #expect(try await rows("SELECT count(*) FROM alarm") == "0")

        // The record as it was before: the revocation is known here, and not there.
        authority.send(signal: SIGTERM)
        #expect(try await authority.wait() == .exited(0))
        try backup.write(to: URL(fileURLWithPath: record))
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: record)
        let restored = try await self.start()
        defer { restored.kill() }
        try await serving {
            try await waitFor("authority-restored", "SELECT kind FROM alarm")
            try await waitFor("olga revoked", "SELECT id || ' ' || event FROM authority_events WHERE known = 0")
        }
    }

    @Test("A registry is invited at once, as CSV and as sheets whose QR codes say the same")
    func registry() async throws {
        _ = try await self.makeInstallation()
        let lines = (1...150).map { "home-\($0),Bavaria,Garching,\(85_000 + $0)" }
        try self.directory.write(
            "device,state,locality,postal_code\n" + lines.joined(separator: "\n") + "\n", to: "devices.csv")
        let csv = try await self.run(
            "pki", "invite", "--registry", "devices.csv", "--config", "energy/secure-mqtt.yaml")
        #expect(csv.status == 0, "\(csv.errorOutput)")
        let rows = csv.output.split(separator: "\n")
        #expect(rows.count == 151)
        #expect(rows.first == "device,place,expires,token,command")
        #expect(rows.last?.contains("--id home-150 --token ") == true)

        try self.directory.write("device\nshort-1\nshort-2\n", to: "two.csv")
        let html = try await self.run(
            "pki", "invite", "--registry", "two.csv", "--html", "--config", "energy/secure-mqtt.yaml")
        #expect(html.output.hasPrefix("<!DOCTYPE html>"))
        #expect(html.output.components(separatedBy: "<section>").count == 3)
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().path
        try #require(FileManager.default.isExecutableFile(atPath: "\(root)/.venv/bin/python"), "run scripts/setup")
        let page = try self.directory.write(html.output, to: "page.html")
        let decoder = try ChildProcess(
            "\(root)/.venv/bin/python", ["\(root)/Tests/Interop/python/qr_codes.py", page])
        #expect(try await decoder.wait() == .exited(0), "\(decoder.errorOutput)")
        let codes = decoder.output.split(separator: "\n")
        #expect(codes.count == 2)
        for (index, code) in codes.enumerated() {
            #expect(code.hasPrefix("secure-mqtt auditor join https://localhost:"))
            #expect(code.contains("--id short-\(index + 1) --token "))
            #expect(html.output.contains("<code>\(code)</code>"))
        }
    }

    @Test(
        "A registry's refused rows are listed with line and reason, and all others are invited",
        arguments: [false, true])
    func refusedRows(json: Bool) async throws {
        _ = try await self.makeInstallation()
        let config = ["--config", "energy/secure-mqtt.yaml"]
        #expect(try await self.run("pki", "invite", "taken", "--role", "operator", config[0], config[1]).status == 0)
        let long = "x" + String(repeating: "y", count: 1_100)
        try self.directory.write(
            "device,state\r\nhome-1,\"Bavaria, Upper\"\r\n\r\na/b,x\nHOME-1,x\ntaken,x\nshort\n\(long),x\nhome-2,Hesse\n",
            to: "devices.csv")
        let result = try await CommandLineTool.run(
            ["pki", "invite", "--registry", "devices.csv"] + config + (json ? ["--json"] : []),
            directory: self.directory.path)
        #expect(result.status == 65)
        let lines = result.errorLines
        let expected = [
            (4, "not an identifier"), (5, "HOME-1 is there twice"), (6, "taken is taken by operator taken"),
            (7, "1 fields where 2 are expected"), (8, "1103 bytes"),
        ]
        #expect(lines.count == expected.count + 1, "\(result.errorOutput)")
        for (line, (number, reason)) in zip(lines, expected) {
            #expect(line.hasPrefix("secure-mqtt: devices.csv, line \(number): "), "\(line)")
            #expect(line.contains(reason), "\(line)")
        }
        #expect(lines.last?.contains("5 of 7 rows were refused") == true)
        let rows = result.output.split(separator: "\n")
        #expect(rows.count == (json ? 2 : 3))
        #expect(rows.last?.contains("--id home-2 --token ") == true)
        if !json { #expect(rows[1].contains("\"Bavaria, Upper\"")) }
    }

    @Test(
        "A registry that is wrong invites nobody",
        arguments: [
            ("name\nx\n", "no column 'device'"), ("device\n", "devices"),
            ("device\n" + String(repeating: "a\n", count: 10_001), "10001 devices"),
            ("device\n" + String(repeating: " ", count: 4 << 20), "bytes"),
        ])
    func wrongRegistry(text: String, message: String) async throws {
        _ = try await self.makeInstallation()
        try self.directory.write(text, to: "devices.csv")
        let before = try Data(contentsOf: URL(fileURLWithPath: self.directory.path("energy/pki/issued.jsonl")))
        let result = try await self.run(
            "pki", "invite", "--registry", "devices.csv", "--config", "energy/secure-mqtt.yaml")
        #expect(result.status == 65 || result.status == 64)
        #expect(result.errorOutput.contains(message), "\(result.errorOutput)")
        #expect(try Data(contentsOf: URL(fileURLWithPath: self.directory.path("energy/pki/issued.jsonl"))) == before)
    }

    @Test("The root goes to a medium, comes back for an intermediate, and is not missed in between")
    func offlineRoot() async throws {
        _ = try await self.makeInstallation()
        try FileManager.default.createDirectory(
            atPath: self.directory.path("medium"), withIntermediateDirectories: false)
        let config = ["--config", "energy/secure-mqtt.yaml"]
        let moved = try await CommandLineTool.run(
            ["pki", "export-root", "medium", "--remove"] + config, directory: self.directory.path)
        #expect(moved.status == 0, "\(moved.errorOutput)")
        #expect(!FileManager.default.fileExists(atPath: self.directory.path("energy/pki/root.key")))
        #expect(try await self.run("pki", "issue", "auditor", "a", "--config", "energy/secure-mqtt.yaml").status == 0)
        self.expectFailure(
            try await self.run("pki", "intermediate", "--config", "energy/secure-mqtt.yaml"), 66, "--root-key")
        let made = try await self.run(
            "pki", "intermediate", "--root-key", "medium/root.key", "--config", "energy/secure-mqtt.yaml")
        #expect(made.status == 0, "\(made.errorOutput)")
        #expect(try await self.run("pki", "issue", "auditor", "b", "--config", "energy/secure-mqtt.yaml").status == 0)
        for id in ["a", "b"] {
            let verdict = try await OpenSSL.run(
                [
                    "verify", "-x509_strict", "-crl_check_all", "-CAfile", "energy/pki/root.pem", "-untrusted",
                    "energy/pki/issuing.pem", "-CRLfile", "energy/pki/crl.pem", "\(id)/auditor.pem",
                ], directory: self.directory.path)
            #expect(verdict.status == 0, "\(verdict.errorOutput)")
        }

        // The first intermediate is revoked, with the key from the medium again.
        let former = try #require(try CertificateFile.read(self.directory.path("energy/pki/issuing.pem")).last)
        let revoke = ["pki", "revoke", "--intermediate", former.keyIdentifier.hexadecimal, "--reason", "keyCompromise"]
        func run(_ more: String...) async throws -> CommandLineTool.Result {
            try await CommandLineTool.run(revoke + more + config, directory: self.directory.path)
        }
        self.expectFailure(try await run(), 66, "--root-key FILE")
        self.expectFailure(
            try await run("--root-key", "medium/root.key"), 65, "whose only valid certificate is of it")
        let revoked = try await run("--root-key", "medium/root.key", "--force")
        #expect(revoked.status == 0, "\(revoked.errorOutput)")
        #expect(revoked.output.contains("Revoked spiffe://energy.example/auditor/a, serial "))
        let shown = try await self.run("pki", "show", "a/auditor.pem", "--config", "energy/secure-mqtt.yaml")
        #expect(shown.output.contains("status:       revoked: "), "\(shown.output)")
        let issuers = try await self.run(
            "pki", "show", "energy/pki/issuing.pem", "--config", "energy/secure-mqtt.yaml")
        #expect(issuers.output.contains("status:       in use"), "\(issuers.output)")
        #expect(issuers.output.contains("status:       revoked: caCompromise, at "), "\(issuers.output)")
        let other = try await self.run("pki", "show", "b/auditor.pem", "--config", "energy/secure-mqtt.yaml")
        #expect(other.output.contains("status:       valid"), "\(other.output)")
        self.expectFailure(try await run("--root-key", "medium/root.key", "--force"), 65, "is revoked already")
        self.expectFailure(
            try await self.run("pki", "revoke", "--intermediate", "zz", "--config", "energy/secure-mqtt.yaml"), 64,
            "hexadecimal")
    }

    @Test("bench authority enrols every device, reads the list, and says how fast")
    func bench() async throws {
        let result = try await self.run("bench", "authority", "--devices", "40", "--entries", "2000", "--json")
        #expect(result.status == 0, "\(result.errorOutput)")
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(result.output.utf8)) as? [String: Any])
        #expect(object["devices"] as? Int == 40 && object["entries"] as? Int == 2_000)
        #expect(
            (object["enrolments_per_minute"] as? Double ?? 0) > 0 && (object["ms_to_read_list"] as? Double ?? 0) > 0)
    }

    @Test("A request of openssl's is signed; one for another ID is not")
    func signs() async throws {
        _ = try await self.makeInstallation()
        let made = try await OpenSSL.run(
            [
                "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "anna.key",
                "-subj", "/CN=anna", "-out", "anna.csr",
            ], directory: self.directory.path)
        #expect(made.status == 0)
        self.expectFailure(
            try await self.run("pki", "sign", "anna.csr", "--id", "lena", "--config", "energy/secure-mqtt.yaml"), 65,
            "common name is not lena")
        #expect(try await self.run("pki", "sign", "anna.csr", "--config", "energy/secure-mqtt.yaml").status == 0)
        #expect(try CertificateFile.read(self.directory.path("anna.pem")).count == 2)
    }
}
