import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

/// What independent programs say of our certificates and lists.
@Suite(.enabled(if: OpenSSL.isInstalled, "openssl is not installed"))
struct OpenSSLAgreementTests {
    let pki: TestPKI
    let directory: TemporaryDirectory

    init() throws {
        self.pki = try TestPKI()
        self.directory = try TemporaryDirectory()
        try self.pki.writeTrust(to: self.directory.path)
    }

    func party(_ role: Role) throws -> TestPKI.Party {
        switch role {
        case .auditor: self.pki.auditors[0]
        case .controlCenter: self.pki.controlCenter
        case .broker: self.pki.broker
        case .operator: self.pki.operators[0]
        case .authority: try self.pki.issue(.authority, "ca-1")
        }
    }

    func verify(_ party: TestPKI.Party, purpose: String, crls: String = "crls.pem") async throws -> OpenSSL.Result {
        let leaf = try self.directory.write(party.certificate.pemText, to: "leaf.pem")
        return try await OpenSSL.run(
            [
                "verify", "-x509_strict", "-crl_check_all", "-check_ss_sig", "-purpose", purpose,
                "-CAfile", self.directory.path("root.pem"), "-untrusted", self.directory.path("intermediate.pem"),
                "-CRLfile", self.directory.path(crls), leaf,
            ])
    }

    @Test("openssl verifies every profile strictly, with the lists of root and intermediate", arguments: Role.allCases)
    func verifies(role: Role) async throws {
        let result = try await self.verify(
            try self.party(role), purpose: role.isServer ? "sslserver" : "sslclient")
        #expect(result.status == 0, "\(result.output)\(result.errorOutput)")
    }

    @Test("openssl refuses a profile for the other end of a connection", arguments: Role.allCases)
    func otherPurpose(role: Role) async throws {
        let result = try await self.verify(
            try self.party(role), purpose: role.isServer ? "sslclient" : "sslserver")
        #expect(result.errorOutput.contains("unsuitable certificate purpose"))
    }

    @Test("openssl sees a revocation, its reason and its time")
    func revoked() async throws {
        let auditor = self.pki.auditors[0]
        let lists = try self.pki.revocationLists(revoking: [auditor])
        try self.directory.write(lists.map(\.pemText).joined(), to: "revoking.pem")
        let verdict = try await self.verify(auditor, purpose: "sslclient", crls: "revoking.pem")
        #expect(verdict.errorOutput.contains("certificate revoked"))

        let path = try self.directory.write(lists[1].pemText, to: "issuing-crl.pem")
        let text = try await OpenSSL.run(["crl", "-in", path, "-noout", "-text"]).output
        #expect(text.contains("Version 2 (0x1)"))
        #expect(text.contains("Signature Algorithm: ecdsa-with-SHA256"))
        #expect(text.contains("X509v3 CRL Number"))
        #expect(text.contains("X509v3 Authority Key Identifier"))
        #expect(text.contains("Key Compromise"))
    }

    @Test("openssl shows what the profile of an auditor promises")
    func text() async throws {
        let path = try self.directory.write(self.pki.auditors[0].certificate.pemText, to: "auditor.pem")
        let text = try await OpenSSL.run(["x509", "-in", path, "-noout", "-text"]).output
        for line in [
            "Version: 3 (0x2)", "Signature Algorithm: ecdsa-with-SHA256", "Subject: CN = auditor-1",
            "ASN1 OID: prime256v1", "X509v3 Key Usage: critical", "Digital Signature",
            "TLS Web Client Authentication", "URI:spiffe://energy.example/auditor/auditor-1",
            "X509v3 Subject Key Identifier", "X509v3 Authority Key Identifier",
        ] {
            #expect(text.contains(line), "\(line) is missing in \(text)")
        }
        #expect(!text.contains("TLS Web Server Authentication"))
    }

    @Test("openssl shows the names of a broker")
    func brokerText() async throws {
        let path = try self.directory.write(self.pki.broker.certificate.pemText, to: "broker.pem")
        let text = try await OpenSSL.run(["x509", "-in", path, "-noout", "-ext", "subjectAltName,extendedKeyUsage"])
            .output
        #expect(
            text.contains(
                "URI:spiffe://energy.example/broker/broker-1, DNS:localhost, IP Address:127.0.0.1, "
                    + "IP Address:0:0:0:0:0:0:0:1"))
        #expect(text.contains("TLS Web Server Authentication"))
        #expect(!text.contains("TLS Web Client Authentication"))
    }

    @Test("openssl refuses an issuing certificate below the intermediate")
    func pathLength() async throws {
        // Of another name: a self-issued authority would not count against the path length.
        let below = try self.pki.intermediate.makeIntermediate(
            trustDomain: try TrustDomain("deeper.example"), at: self.pki.now)
        let profile = CertificateProfile.auditor(try Identifier("deep"), in: self.pki.trustDomain)
        let leaf = try below.issue(profile, to: SigningKey().publicKey, at: self.pki.now)
        let path = try self.directory.write(leaf.pemText, to: "deep.pem")
        let chain = try self.directory.write(
            below.certificate.pemText + self.pki.intermediate.certificate.pemText, to: "chain.pem")
        let result = try await OpenSSL.run(
            ["verify", "-CAfile", self.directory.path("root.pem"), "-untrusted", chain, path])
        #expect(result.errorOutput.contains("path length constraint exceeded"))
    }

    @Test("openssl reads a key file")
    func keyFile() async throws {
        let files = try self.pki.write(self.pki.auditors[0], to: self.directory.path)
        let result = try await OpenSSL.run(["pkey", "-in", files.key, "-noout", "-check", "-text"])
        #expect(result.status == 0)
        #expect(result.output.contains("prime256v1"))
    }

    @Test(
        "certtool verifies a chain and its lists",
        .enabled(if: ChildProcess.find("certtool") != nil, "certtool is not installed"))
    func certtool() async throws {
        let chain = try self.directory.write(self.pki.auditors[0].chainPEM + self.pki.rootPEM, to: "chain.pem")
        let process = try ChildProcess(
            "certtool",
            [
                "--verify", "--verify-profile", "high", "--load-ca-certificate", self.directory.path("root.pem"),
                "--infile", chain, "--load-crl", self.directory.path("crls.pem"),
            ])
        #expect(try await process.wait() == .exited(0), "\(process.output)\(process.errorOutput)")
        #expect(process.output.contains("Verified. The certificate is trusted."))
    }

    @Test("a list made by openssl is read and its signature verified")
    func foreignList() async throws {
        try CertificateFile.create(self.directory.path("issuing.pem"), [self.pki.intermediate.certificate])
        try KeyFile.create(self.directory.path("issuing.key"), self.pki.intermediate.key)
        let serial = self.pki.auditors[0].certificate.serialNumber.bytes
            .map { String(format: "%02X", $0) }.joined()
        try self.directory.write(
            "R\t350101000000Z\t261122120000Z,superseded\t\(serial)\tunknown\t/CN=auditor-1\n", to: "index.txt")
        try self.directory.write("1000\n", to: "crlnumber")
        try self.directory.write(
            """
            [ca]
            default_ca = issuing
            [issuing]
            database = \(self.directory.path("index.txt"))
            crlnumber = \(self.directory.path("crlnumber"))
            default_md = sha256
            default_crl_days = 30
            crl_extensions = extensions
            [extensions]
            authorityKeyIdentifier = keyid:always
            """, to: "ca.conf")
        let result = try await OpenSSL.run([
            "ca", "-config", self.directory.path("ca.conf"), "-gencrl", "-keyfile", self.directory.path("issuing.key"),
            "-cert", self.directory.path("issuing.pem"), "-out", self.directory.path("theirs.pem"),
        ])
        #expect(result.status == 0, "\(result.errorOutput)")
        let list = try #require(
            try CertificateFile.readRevocationLists(self.directory.path("theirs.pem")).first)
        #expect(list.isSigned(by: self.pki.intermediate.certificate))
        #expect(!list.isSigned(by: self.pki.root.certificate))
        #expect(list.number == 0x1000)
        #expect(list.count == 1)
        let entry = list.entry(for: Array(self.pki.auditors[0].certificate.serialNumber.bytes))
        #expect(entry?.reason == .superseded)
        #expect(entry?.revokedAt == 1_795_348_800)
    }
}
