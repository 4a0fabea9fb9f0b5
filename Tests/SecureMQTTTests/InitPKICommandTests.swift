import Foundation
import PKI
import TestSupport
import Testing
import X509

/// `init` and `pki`, as a person or a script meets them.
@Suite struct InitPKICommandTests {
    let directory: TemporaryDirectory

    init() throws { self.directory = try TemporaryDirectory() }

    /// Runs the program in our folder.
    @discardableResult
    func run(_ arguments: String..., environment: [String: String] = [:]) async throws -> CommandLineTool.Result {
        try await CommandLineTool.run(arguments, directory: self.directory.path, environment: environment)
    }

    func makeInstallation() async throws {
        let result = try await self.run(
            "init", "energy", "--unencrypted", "--trust-domain", "energy.example", "--host", "broker.energy.example",
            "--host",
            "192.0.2.7", "--auditor", "mona", "--auditor", "lena", "--operator", "olga")
        try #require(result.status == 0, "\(result.errorOutput)")
    }

    func mode(_ path: String) throws -> Int? {
        try FileManager.default.attributesOfItem(atPath: self.directory.path(path))[.posixPermissions] as? Int
    }

    /// A failure is one line that begins with our name.
    func expectFailure(
        _ result: CommandLineTool.Result, _ status: Int32, _ text: String,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(result.status == status, "\(result.errorOutput)", sourceLocation: sourceLocation)
        #expect(result.errorLines.count == 1, sourceLocation: sourceLocation)
        #expect(result.errorOutput.hasPrefix("secure-mqtt: "), sourceLocation: sourceLocation)
        #expect(result.errorOutput.contains(text), "\(result.errorOutput)", sourceLocation: sourceLocation)
        #expect(result.output.isEmpty, sourceLocation: sourceLocation)
    }

    // MARK: init

    @Test("init makes everything for one server, with keys for their owner alone")
    func makes() async throws {
        try await self.makeInstallation()
        for key in [
            "pki/root.key", "pki/issuing.key", "broker/broker.key", "control-center/control-center.key",
            "auditors/mona/auditor.key", "auditors/lena/auditor.key", "operators/olga/operator.key",
        ] {
            #expect(try self.mode("energy/\(key)") == 0o600)
        }
        #expect(try self.mode("energy/auditors/mona") == 0o700)
        for file in [
            "secure-mqtt.yaml", "pki/root.pem", "pki/issuing.pem", "pki/crl.pem", "auditors/mona/secure-mqtt.yaml",
            "auditors/mona/root.pem", "auditors/mona/crl.pem", "auditors/mona/issuing.pem",
        ] {
            #expect(FileManager.default.fileExists(atPath: self.directory.path("energy/\(file)")))
        }
        let leftovers = try FileManager.default.contentsOfDirectory(atPath: self.directory.path)
        #expect(leftovers == ["energy"])
    }

    @Test("openssl verifies what init made", .enabled(if: OpenSSL.isInstalled, "openssl is not installed"))
    func openssl() async throws {
        try await self.makeInstallation()
        for (leaf, purpose) in [
            ("broker/broker.pem", "sslserver"), ("control-center/control-center.pem", "sslclient"),
            ("auditors/mona/auditor.pem", "sslclient"), ("operators/olga/operator.pem", "sslclient"),
        ] {
            let result = try await OpenSSL.run(
                [
                    "verify", "-x509_strict", "-crl_check_all", "-purpose", purpose, "-CAfile", "pki/root.pem",
                    "-untrusted", "pki/issuing.pem", "-CRLfile", "pki/crl.pem", leaf,
                ], directory: self.directory.path("energy"))
            #expect(result.status == 0, "\(result.errorOutput)")
        }
    }

    @Test("init says what to do next, and with --json what it made")
    func says() async throws {
        let text = try await self.run(
            "init", "a", "--unencrypted", "--trust-domain", "energy.example", "--auditor", "mona")
        for hint in ["export-root", "secure-mqtt serve --config a/secure-mqtt.yaml", "secure-mqtt auditor run"] {
            #expect(text.output.contains(hint))
        }
        #expect(!text.output.contains("\u{1B}"))
        let json = try await self.run(
            "init", "b", "--unencrypted", "--trust-domain", "energy.example", "--auditor", "mona", "--json")
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any])
        #expect(object["auditors"] as? [String] == ["mona"])
        #expect(object["configuration"] as? String == "b/secure-mqtt.yaml")
    }

    @Test("init overwrites nothing")
    func keeps() async throws {
        try await self.makeInstallation()
        let before = try Data(contentsOf: URL(fileURLWithPath: self.directory.path("energy/pki/root.pem")))
        self.expectFailure(
            try await self.run("init", "energy", "--unencrypted", "--trust-domain", "energy.example"), 73,
            "not an empty folder")
        #expect(try Data(contentsOf: URL(fileURLWithPath: self.directory.path("energy/pki/root.pem"))) == before)
        // An empty folder is fine.
        try FileManager.default.createDirectory(
            atPath: self.directory.path("empty"), withIntermediateDirectories: false)
        #expect(try await self.run("init", "empty", "--unencrypted", "--trust-domain", "energy.example").status == 0)
    }

    @Test(
        "init refuses wrong input in one line, and makes nothing",
        arguments: [
            (["--trust-domain", "energy"], Int32(64), "not a trust domain"),
            ([], 64, "--trust-domain"),
            (["--trust-domain", "energy.example", "--auditor", "all"], 64, "reserved"),
            (["--trust-domain", "energy.example", "--auditor", "a/b"], 64, "not an identifier"),
            (["--trust-domain", "energy.example", "--auditor", "Mona", "--operator", "mona"], 64, "twice"),
            (["--trust-domain", "energy.example", "--auditor", "CENTER-1"], 64, "twice"),
            (["--trust-domain", "energy.example", "--host", "a b"], 64, "neither a DNS name"),
            (["--trust-domain", "energy.example", "--port", "0"], 64, "port"),
            (["--trust-domain", "energy.example", "--port", "x"], 64, "--port"),
            (["--trust-domain", "energy.example", "--bogus"], 64, "--bogus"),
        ] as [([String], Int32, String)])
    func refuses(arguments: [String], status: Int32, text: String) async throws {
        let result = try await CommandLineTool.run(["init", "x"] + arguments, directory: self.directory.path)
        self.expectFailure(result, status, text)
        #expect(try FileManager.default.contentsOfDirectory(atPath: self.directory.path).isEmpty)
    }

    @Test(
        "Every command explains itself with examples",
        arguments: [
            ["init"], ["pki"], ["pki", "init"], ["pki", "issue"], ["pki", "request"], ["pki", "revoke"],
            ["pki", "list"],
            ["pki", "show"], ["pki", "export-mosquitto"], ["ca"], ["pki", "invite"], ["pki", "sign"],
            ["pki", "import"], ["pki", "renew-allow"], ["pki", "export-root"], ["pki", "intermediate"],
            ["pki", "rollover-root"], ["pki", "retire"],
        ])
    func help(command: [String]) async throws {
        let result = try await CommandLineTool.run(command + ["--help"])
        #expect(result.status == 0)
        #expect(result.output.contains("EXAMPLE"))
        #expect(result.output.contains("secure-mqtt \(command.joined(separator: " "))"))
    }

    // MARK: pki

    @Test("pki list is a table for pipes, one object a line with --json, and knows what was revoked")
    func list() async throws {
        try await self.makeInstallation()
        #expect(try await self.run("pki", "revoke", "lena", "--pki", "energy/pki").status == 0)
        let rows = try await self.run("pki", "list", "--config", "energy/secure-mqtt.yaml").output
            .split(separator: "\n").map { $0.split(separator: "\t").map(String.init) }
        #expect(rows.map { $0[0] } == ["ID", "broker-1", "center-1", "mona", "lena", "olga"])
        #expect(rows.map { $0[3] } == ["STATUS", "valid", "valid", "valid", "revoked", "valid"])
        let time = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/
        #expect(rows.dropFirst().allSatisfy { $0[2].wholeMatch(of: time) != nil })
        let json = try await self.run("pki", "list", "--role", "auditor", "--json", "--pki", "energy/pki").output
            .split(separator: "\n").map { try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] }
        #expect(json.map { $0?["id"] as? String } == ["mona", "lena"])
        #expect(json.map { $0?["status"] as? String } == ["valid", "revoked"])
        #expect(json[1]?["revoked"] != nil)
    }

    @Test("pki issue makes a device's folder that says where the broker is")
    func issue() async throws {
        try await self.makeInstallation()
        let result = try await self.run("pki", "issue", "auditor", "anna", "--config", "energy/secure-mqtt.yaml")
        #expect(result.status == 0)
        #expect(result.output.contains("spiffe://energy.example/auditor/anna"))
        #expect(try self.mode("anna/auditor.key") == 0o600)
        let text = try String(contentsOfFile: self.directory.path("anna/secure-mqtt.yaml"), encoding: .utf8)
        #expect(text.contains("host: broker.energy.example"))
        let shown = try await self.run("pki", "show", "anna/auditor.pem", "--pki", "energy/pki")
        #expect(shown.output.contains("status:       valid"))
    }

    @Test("An ID is given out once; --renew gives the same party another certificate")
    func once() async throws {
        try await self.makeInstallation()
        self.expectFailure(
            try await self.run("pki", "issue", "operator", "MONA", "--pki", "energy/pki"), 65, "taken by auditor mona")
        #expect(!FileManager.default.fileExists(atPath: self.directory.path("MONA")))
        #expect(try await self.run("pki", "issue", "auditor", "mona", "--renew", "--pki", "energy/pki").status == 0)
    }

    @Test("A key stays on its device: request there, issue by --csr here")
    func request() async throws {
        try await self.makeInstallation()
        #expect(try await self.run("pki", "request", "eve").status == 0)
        #expect(try self.mode("eve.key") == 0o600)
        let key = try Data(contentsOf: URL(fileURLWithPath: self.directory.path("eve.key")))
        self.expectFailure(try await self.run("pki", "request", "eve"), 73, "exists already")
        #expect(try Data(contentsOf: URL(fileURLWithPath: self.directory.path("eve.key"))) == key)
        #expect(
            try await self.run("pki", "issue", "auditor", "eve", "--csr", "eve.csr", "--pki", "energy/pki").status == 0)
        #expect(try await self.run("pki", "show", "eve.pem", "--pki", "energy/pki").output.contains("valid"))
        let certificate = try CertificateFile.read(self.directory.path("eve.pem"))[0]
        let mine = try KeyFile.read(self.directory.path("eve.key"))
        #expect(certificate.publicKey == .init(mine.publicKey))
    }

    @Test("A request by openssl is good; one with a broken signature or another curve is not")
    func requests() async throws {
        try await self.makeInstallation()
        for (name, curve) in [("good", "prime256v1"), ("big", "secp384r1"), ("other", "prime256v1")] {
            _ = try await OpenSSL.run(
                [
                    "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:\(curve)", "-nodes", "-subj",
                    "/CN=\(name == "other" ? "x" : name)",
                    "-keyout", "\(name).key", "-out", "\(name).csr",
                ], directory: self.directory.path)
        }
        let der = try await OpenSSL.run(
            ["req", "-in", "good.csr", "-outform", "DER"], directory: self.directory.path
        ).outputBytes
        var broken = der
        broken[broken.count - 3] ^= 1
        let pem =
            "-----BEGIN CERTIFICATE REQUEST-----\n" + Data(broken).base64EncodedString(options: .lineLength64Characters)
            + "\n-----END CERTIFICATE REQUEST-----\n"
        try self.directory.write(pem, to: "broken.csr")
        func issue(_ name: String) async throws -> CommandLineTool.Result {
            try await self.run("pki", "issue", "auditor", name, "--csr", "\(name).csr", "--pki", "energy/pki")
        }
        #expect(try await issue("good").status == 0)
        self.expectFailure(try await issue("big"), 65, "not a P-256 key")
        self.expectFailure(try await issue("other"), 65, "common name is not other")
        self.expectFailure(try await issue("broken"), 65, "possession")
        self.expectFailure(try await issue("absent"), 66, "does not exist")
    }

    @Test(
        "pki revoke writes a list that openssl believes", .enabled(if: OpenSSL.isInstalled, "openssl is not installed"))
    func revoke() async throws {
        try await self.makeInstallation()
        let result = try await self.run("pki", "revoke", "mona", "--reason", "keyCompromise", "--pki", "energy/pki")
        #expect(result.status == 0)
        let verdict = try await OpenSSL.run(
            [
                "verify", "-crl_check_all", "-CAfile", "pki/root.pem", "-untrusted", "pki/issuing.pem", "-CRLfile",
                "pki/crl.pem", "auditors/mona/auditor.pem",
            ], directory: self.directory.path("energy"))
        #expect(verdict.errorOutput.contains("certificate revoked"))
        let shown = try await self.run("pki", "show", "energy/auditors/mona/auditor.pem", "--pki", "energy/pki")
        #expect(shown.output.contains("status:       revoked"))
        self.expectFailure(try await self.run("pki", "revoke", "mona", "--pki", "energy/pki"), 65, "mona")
        self.expectFailure(try await self.run("pki", "revoke", "--pki", "energy/pki"), 64, "--lists-only")
    }

    @Test("Key files that others may read are refused with what to do")
    func permissions() async throws {
        try await self.makeInstallation()
        try FileManager.default.setAttributes(
            [.posixPermissions: 0o644], ofItemAtPath: self.directory.path("energy/pki/issuing.key"))
        self.expectFailure(
            try await self.run("pki", "issue", "auditor", "anna", "--pki", "energy/pki"), 77, "chmod 600")
        #expect(!FileManager.default.fileExists(atPath: self.directory.path("anna")))
    }

    @Test("Wrong uses of pki are one line and their own exit code")
    func wrongUses() async throws {
        try await self.makeInstallation()
        self.expectFailure(try await self.run("pki", "list"), 66, "--pki DIR or --config FILE")
        self.expectFailure(try await self.run("pki", "show", "nothing"), 66, "does not exist")
        self.expectFailure(try await self.run("pki", "show", "energy/pki/root.key"), 65, "PRIVATE KEY")
        self.expectFailure(try await self.run("pki", "issue", "admin", "x"), 64, "admin")
        self.expectFailure(try await self.run("pki", "issue", "broker", "b", "--pki", "energy/pki"), 64, "--host")
        self.expectFailure(
            try await self.run("pki", "issue", "auditor", "b", "--host", "h", "--pki", "energy/pki"), 64, "brokers only"
        )
        self.expectFailure(
            try await self.run("pki", "init", "energy", "--unencrypted", "--trust-domain", "a.b"), 73, "not an empty")
        self.expectFailure(try await self.run("bogus"), 64, "bogus")
    }

    // MARK: Mosquitto

    @Test(
        "Mosquitto starts with what is exported, lets an auditor in, and refuses it once it is revoked",
        .enabled(if: MosquittoServer.isInstalled, "mosquitto is not installed"))
    func exportMosquitto() async throws {
        let port = try freePort()
        let made = try await self.run(
            "init", "energy", "--unencrypted", "--trust-domain", "energy.example", "--port", "\(port)", "--auditor",
            "mona", "--auditor",
            "lena", "--operator", "olga")
        try #require(made.status == 0)
        let export = ["pki", "export-mosquitto", "--config", "energy/secure-mqtt.yaml", "--user", "root", "mosquitto"]
        let exported = try await CommandLineTool.run(export, directory: self.directory.path)
        try #require(exported.status == 0, "\(exported.errorOutput)")
        #expect(try self.mode("mosquitto/broker.key") == 0o600)
        let list = try String(contentsOfFile: self.directory.path("mosquitto/acl"), encoding: .utf8)
        for line in ["user center-1", "user olga", "user broker-1"] { #expect(list.contains(line)) }
        #expect(!list.contains("user mona"))

        let server = try await MosquittoServer(
            configurationFile: self.directory.path("mosquitto/mosquitto.conf"), port: port)
        #expect(try await self.handshake("mona", port))
        #expect(try await self.handshake("lena", port))
        try await server.kill()

        #expect(try await self.run("pki", "revoke", "mona", "--pki", "energy/pki").status == 0)
        #expect(try await CommandLineTool.run(export, directory: self.directory.path).status == 0)
        try await server.start()
        #expect(try await !self.handshake("mona", port))
        #expect(try await self.handshake("lena", port))
    }

    /// Whether an MQTT 3.1.1 CONNECT of an auditor over mutual TLS is answered by a CONNACK. Its keep-alive of one second
    /// makes the server end the connection.
    func handshake(_ id: String, _ port: Int) async throws -> Bool {
        let folder = self.directory.path("energy/auditors/\(id)")
        let connect: [UInt8] = [0x10, 14, 0, 4] + Array("MQTT".utf8) + [4, 2, 0, 1, 0, 2] + Array("c1".utf8)
        let client = try ChildProcess(
            "openssl",
            [
                "s_client", "-quiet", "-connect", "127.0.0.1:\(port)", "-tls1_3", "-CAfile",
                "\(folder)/root.pem", "-verify_return_error", "-cert", "\(folder)/auditor.pem", "-cert_chain",
                "\(folder)/auditor.pem", "-key", "\(folder)/auditor.key",
            ], input: connect)
        try await client.wait(within: .seconds(20))
        return client.outputBytes == [0x20, 2, 0, 0]
    }

    @Test("export-mosquitto refuses an installation without a broker, or with another's key")
    func exportRefuses() async throws {
        try await self.makeInstallation()
        let export = ["pki", "export-mosquitto", "m", "--config", "energy/secure-mqtt.yaml"]
        let other = try await CommandLineTool.run(
            export + ["--set", "broker.key=energy/control-center/control-center.key"], directory: self.directory.path)
        self.expectFailure(other, 65, "is not the key of")
        let none = try await CommandLineTool.run(
            export + ["--config", "energy/auditors/mona/secure-mqtt.yaml"], directory: self.directory.path)
        self.expectFailure(none, 78, "broker.certificate")
        #expect(!FileManager.default.fileExists(atPath: self.directory.path("m")))
    }

    // MARK: Configuration

    @Test("Flags win over the environment, which wins over the file")
    func precedence() async throws {
        try await self.makeInstallation()
        let file = ["--config", "energy/secure-mqtt.yaml"]
        let cases: [(String, [String], [String: String], String)] = [
            ("c1", [], [:], "port: 8883"),
            ("c2", [], ["SECURE_MQTT_BROKER_PORT": "1001"], "port: 1001"),
            ("c3", ["--set", "broker.port=1002"], ["SECURE_MQTT_BROKER_PORT": "1001"], "port: 1002"),
        ]
        for (id, flags, environment, expected) in cases {
            let result = try await CommandLineTool.run(
                ["pki", "issue", "auditor", id] + file + flags, directory: self.directory.path,
                environment: environment)
            #expect(result.status == 0, "\(result.errorOutput)")
            let text = try String(contentsOfFile: self.directory.path("\(id)/secure-mqtt.yaml"), encoding: .utf8)
            #expect(text.contains(expected))
        }
    }

    @Test(
        "A wrong configuration is one line that names file, key and value",
        arguments: [
            ("  prot: 8883\n", "broker.prot"), ("  port: 99999\n", "99999"), ("  port: many\n", "many"),
            ("  allow-tls12: perhaps\n", "perhaps"), ("  max-packet-size: 3\n", "max-packet-size"),
            ("bogus:\n  x: 1\n", "bogus"), ("  port: [\n", "not YAML"),
        ])
    func wrongConfiguration(lines: String, text: String) async throws {
        try await self.makeInstallation()
        let path = self.directory.path("energy/secure-mqtt.yaml")
        let good = try String(contentsOfFile: path, encoding: .utf8)
        // Into the broker's section; a second `port` would be an error of its own.
        let changed = good.replacing("  port: 8883\n", with: lines)
        try changed.write(toFile: path, atomically: true, encoding: .utf8)
        let result = try await self.run("pki", "issue", "auditor", "x", "--config", "energy/secure-mqtt.yaml")
        self.expectFailure(result, 78, text)
        #expect(result.errorOutput.contains("secure-mqtt.yaml"))
    }

    @Test("Wrong values from elsewhere are named by where they come from")
    func wrongValues() async throws {
        try await self.makeInstallation()
        let file = "energy/secure-mqtt.yaml"
        self.expectFailure(
            try await self.run(
                "pki", "issue", "auditor", "x", "--config", file, environment: ["SECURE_MQTT_BROKER_PORT": "x"]),
            78, "SECURE_MQTT_BROKER_PORT")
        self.expectFailure(
            try await self.run("pki", "issue", "auditor", "x", "--config", file, "--set", "broker.port=x"), 78,
            "broker.port")
        self.expectFailure(
            try await self.run("pki", "issue", "auditor", "x", "--config", file, "--set", "a.b=c"), 64, "a.b")
        self.expectFailure(
            try await self.run("pki", "issue", "auditor", "x", "--config", file, "--set", "port"), 64, "key=value")
        self.expectFailure(try await self.run("pki", "list", "--config", "none.yaml"), 66, "none.yaml")
    }
}
