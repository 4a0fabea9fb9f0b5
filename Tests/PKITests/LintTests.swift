import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

/// Where scripts/setup installed pkilint.
private enum PKILint {
    static let folder: String? = {
        let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent(".venv/bin").path
        return FileManager.default.isExecutableFile(atPath: "\(path)/lint_pkix_cert") ? path : nil
    }()
}

/// What pkilint, a linter of certificates from elsewhere, says of ours.
@Suite(.enabled(if: PKILint.folder != nil, "pkilint is not installed: run scripts/setup"))
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

    func findings(_ program: String, _ pem: String) async throws -> String {
        let path = try self.directory.write(pem, to: "lint.pem")
        let process = try ChildProcess(
            "\(PKILint.folder ?? "")/\(program)", ["lint", "-s", "WARNING", path])
        _ = try await process.wait()
        #expect(!process.errorOutput.contains("Traceback"), "\(process.errorOutput)")
        return process.output.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    @Test("A certificate of every role is without a finding", arguments: Role.allCases)
    func roles(role: Role) async throws {
        let hosts = try role.isServer ? ["ca.energy.example", "192.0.2.1"].map { try HostName($0) } : []
        let leaf = try self.issuing.issue(
            .role(role, try Identifier("x-1"), in: self.pki.trustDomain, hosts: hosts), to: SigningKey().publicKey,
            at: self.pki.now)
        #expect(try await self.findings("lint_pkix_cert", leaf.pemText) == "")
    }

    @Test("Root, intermediate and responder are without a finding")
    func authorities() async throws {
        var root = self.pki.root
        root.publication = self.issuing.publication
        let intermediate = try root.makeIntermediate(trustDomain: self.pki.trustDomain, at: self.pki.now)
        let responder = try self.issuing.issueResponder(
            name: "energy.example OCSP responder", to: SigningKey().publicKey, at: self.pki.now, lifetime: 86_400)
        for certificate in [root.certificate, intermediate.certificate, responder] {
            let findings = try await self.findings("lint_pkix_cert", certificate.pemText)
            #expect(findings == "", "\(certificate.subject)")
        }
    }

    @Test("Revocation lists are without a finding")
    func lists() async throws {
        let list = try self.pki.revocationLists(revoking: [self.pki.auditors[0]])[1]
        let path = try self.directory.write(list.pemText, to: "crl.pem")
        let process = try ChildProcess(
            "\(PKILint.folder ?? "")/lint_crl", ["lint", "-t", "CRL", "-p", "PKIX", "-s", "WARNING", path])
        _ = try await process.wait()
        let findings = (process.output + process.errorOutput).trimmingCharacters(in: .whitespacesAndNewlines)
        #expect(findings.isEmpty, "\(findings)")
    }
}
