import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

/// pkilint, where scripts/setup installed it, by way of `Tests/Interop/python/lint.py`.
private enum PKILint {
    private static let checkout = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().path

    static let isInstalled = FileManager.default.isExecutableFile(atPath: "\(Self.checkout)/.venv/bin/lint_pkix_cert")

    /// What it finds, from warnings on; empty if nothing.
    static func findings(_ program: String, _ arguments: [String]) async throws -> String {
        let process = try ChildProcess(
            "\(Self.checkout)/.venv/bin/python",
            ["\(Self.checkout)/Tests/Interop/python/lint.py", program, "lint", "-s", "WARNING"] + arguments)
        _ = try await process.wait()
        return (process.output + process.errorOutput).trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

/// What pkilint, a linter of certificates from elsewhere, says of ours.
@Suite(.enabled(if: PKILint.isInstalled, "pkilint is not installed: run scripts/setup"))
struct LintTests {
    let pki: TestPKI
    let directory: TemporaryDirectory
    let issuing: Authority

    init() throws {
        self.pki = try TestPKI()
        self.directory = try TemporaryDirectory()
        var issuing = self.pki.intermediate
        issuing.publication = try PublicationPoints("http://ca.energy.example:8080")
        self.issuing = issuing
    }

    func findings(_ pem: String) async throws -> String {
        try await PKILint.findings("lint_pkix_cert", [try self.directory.write(pem, to: "lint.pem")])
    }

    @Test("A certificate of every role is without a finding", arguments: Role.allCases)
    func roles(role: Role) async throws {
        let hosts = try role.isServer ? ["ca.energy.example", "192.0.2.1"].map { try HostName($0) } : []
        let leaf = try self.issuing.issue(
            .role(role, try Identifier("x-1"), in: self.pki.trustDomain, hosts: hosts), to: SigningKey().publicKey,
            at: self.pki.now)
        #expect(try await self.findings(leaf.pemText) == "")
    }

    @Test("Root, intermediate and responder are without a finding")
    func authorities() async throws {
        var root = self.pki.root
        root.publication = self.issuing.publication
        let intermediate = try root.makeIntermediate(trustDomain: self.pki.trustDomain, at: self.pki.now)
        let responder = try self.issuing.issueResponder(
            name: "energy.example OCSP responder", to: SigningKey().publicKey, at: self.pki.now, lifetime: 86_400)
        for certificate in [root.certificate, intermediate.certificate, responder] {
            let findings = try await self.findings(certificate.pemText)
            #expect(findings == "", "\(certificate.subject)")
        }
    }

    @Test("Revocation lists are without a finding")
    func lists() async throws {
        let list = try self.pki.revocationLists(revoking: [self.pki.auditors[0]])[1]
        let path = try self.directory.write(list.pemText, to: "crl.pem")
        let findings = try await PKILint.findings("lint_crl", ["-t", "CRL", "-p", "PKIX", path])
        #expect(findings == "")
    }
}
