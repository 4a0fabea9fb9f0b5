import Crypto
import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

@Suite struct KeyTests {
    let directory: TemporaryDirectory

    init() throws { self.directory = try TemporaryDirectory() }

    /// A key that only signs: what a TPM or a token would be.
    struct Token: HardwareKey {
        let key = P256.Signing.PrivateKey()
        var publicKey: P256.Signing.PublicKey { self.key.publicKey }
        func sign(_ digest: some Digest) throws -> P256.Signing.ECDSASignature { try self.key.signature(for: digest) }
    }

    /// A token that was pulled out.
    struct Absent: HardwareKey {
        let publicKey = P256.Signing.PrivateKey().publicKey
        func sign(_ digest: some Digest) throws -> P256.Signing.ECDSASignature { throw CancellationError() }
    }

    @Test("A key comes back from its file, which only its owner may read")
    func roundTrip() throws {
        let key = SigningKey()
        let path = self.directory.path("a.key")
        try KeyFile.create(path, key)
        #expect(try KeyFile.read(path).publicKey.rawRepresentation == key.publicKey.rawRepresentation)
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(mode == 0o600)
    }

    @Test("A key file is never overwritten, and no link is followed")
    func exclusive() throws {
        let path = self.directory.path("a.key")
        try KeyFile.create(path, SigningKey())
        let before = try Data(contentsOf: URL(fileURLWithPath: path))
        #expect(throws: PKIError(.exists, "")) { try KeyFile.create(path, SigningKey()) }
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)
        let link = self.directory.path("b.key")
        try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: self.directory.path("c.key"))
        #expect(throws: PKIError(.exists, "")) { try KeyFile.create(link, SigningKey()) }
    }

    @Test("A key file that others may touch is refused", arguments: [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
    func permissions(mode: Int) throws {
        let path = try self.directory.write(SigningKey().pemRepresentation ?? "", to: "a.key", permissions: mode)
        let error = #expect(throws: PKIError(.permissions, "")) { try KeyFile.read(path) }
        #expect(error?.reason.contains("chmod 600") == true)
    }

    @Test("Files that hold no P-256 key are refused for what they are")
    func otherFiles() throws {
        let cases: [(String, PKIError.Code)] = [
            ("", .format), ("hello", .format), (P384.Signing.PrivateKey().pemRepresentation, .weakKey),
            (P256.Signing.PrivateKey().publicKey.pemRepresentation, .format),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n", .format),
            (String(repeating: "x", count: KeyFile.maximumSize + 1), .tooLarge),
        ]
        for (index, (text, code)) in cases.enumerated() {
            let path = try self.directory.write(text, to: "\(index).key")
            #expect(throws: PKIError(code, "")) { try KeyFile.read(path) }
        }
        #expect(throws: PKIError(.missing, "")) { try KeyFile.read(self.directory.path("none")) }
        #expect(throws: PKIError(.io, "")) { try KeyFile.read(self.directory.path) }
    }

    @Test("A key in hardware issues certificates and signs lists, and cannot be written down")
    func hardware() throws {
        let pki = try TestPKI()
        let key = SigningKey(Token())
        let issuing = try pki.root.makeIntermediate(trustDomain: pki.trustDomain, key: key, at: pki.now)
        let leaf = try issuing.issue(
            .auditor(try Identifier("a"), in: pki.trustDomain), to: SigningKey().publicKey, at: pki.now)
        let verifier = try IdentityVerifier(
            trustDomain: pki.trustDomain, roots: [pki.root.certificate], intermediates: [issuing.certificate],
            revocationLists: [try issuing.makeRevocationList(number: 1, at: pki.now)])
        #expect(try verifier.verify(chain: [leaf], at: pki.now).spiffeID.id.rawValue == "a")
        #expect(key.pemRepresentation == nil)
        #expect(throws: PKIError(.signing, "")) { try KeyFile.create(self.directory.path("h.key"), key) }
        #expect(!FileManager.default.fileExists(atPath: self.directory.path("h.key")))
    }

    @Test("Hardware that fails is an error with a name")
    func absent() throws {
        let key = SigningKey(Absent())
        #expect(throws: PKIError(.signing, "")) { try key.sign(SHA256.hash(data: [1])) }
        #expect(throws: PKIError(.signing, "")) {
            try Authority.makeRoot(trustDomain: try TrustDomain("energy.example"), key: key, at: 0)
        }
    }

    @Test("A signature verifies under the public key")
    func sign() throws {
        let key = SigningKey()
        let digest = SHA256.hash(data: [1, 2, 3])
        #expect(key.publicKey.isValidSignature(try key.sign(digest), for: digest))
    }

    @Test("An authority needs its own key and the certificate of an authority")
    func authority() throws {
        let pki = try TestPKI()
        #expect(throws: Never.self) { try Authority(certificate: pki.root.certificate, key: pki.root.key) }
        #expect(throws: PKIError(.signing, "")) {
            try Authority(certificate: pki.root.certificate, key: pki.intermediate.key)
        }
        #expect(throws: PKIError(.keyUsage, "")) {
            try Authority(certificate: pki.auditors[0].certificate, key: pki.auditors[0].key)
        }
    }

    @Test("Serial numbers are positive, 20 bytes, and all different")
    func serialNumbers() throws {
        let pki = try TestPKI()
        var random = SplitMix64(seed: 1)
        var seen: Set<[UInt8]> = []
        let key = SigningKey().publicKey
        for _ in 0..<50 {
            let leaf = try pki.intermediate.issue(
                .auditor(try Identifier("a"), in: pki.trustDomain), to: key, at: pki.now, using: &random)
            let serial = Array(leaf.serialNumber.bytes)
            #expect(serial.count == 20 && serial[0] < 0x80 && serial[0] >= 0x40)
            seen.insert(serial)
        }
        #expect(seen.count == 50)
    }

    @Test("Lifetimes are as documented")
    func lifetimes() throws {
        let pki = try TestPKI(now: 1_800_000_000)
        func days(_ certificate: Certificate) -> Double {
            certificate.notValidAfter.timeIntervalSince1970 / 86_400 - 1_800_000_000 / 86_400
        }
        #expect(days(pki.root.certificate) == 7_305)
        #expect(days(pki.intermediate.certificate) == 3_652)
        #expect(days(pki.broker.certificate) == 397)
        #expect(days(pki.controlCenter.certificate) == 730)
        #expect(days(pki.auditors[0].certificate) == 730)
        #expect(days(pki.operators[0].certificate) == 365)
        #expect(pki.auditors[0].certificate.notValidBefore.timeIntervalSince1970 == 1_799_999_400)
    }

    @Test("Certificates come back from a file, PEM or DER, in their order")
    func certificates() throws {
        let pki = try TestPKI()
        let files = try pki.write(pki.broker, to: self.directory.path)
        #expect(try CertificateFile.read(files.chain) == pki.broker.chain)
        let der = try self.directory.write(pki.broker.certificate.der, to: "b.der")
        #expect(try CertificateFile.read(der) == [pki.broker.certificate])
        #expect(throws: PKIError(.format, "")) { try CertificateFile.read(files.key) }
        #expect(throws: PKIError(.format, "")) { try CertificateFile.readRevocationLists(files.chain) }
        #expect(throws: PKIError(.missing, "")) { try CertificateFile.read("/nowhere") }
        let empty = try self.directory.write("no certificates here\n", to: "e.pem")
        #expect(throws: PKIError(.chain, "")) { try CertificateFile.read(empty) }
        #expect(throws: PKIError(.chain, "")) { try CertificateFile.readRevocationLists(empty) }
    }

    @Test(
        "Host names are DNS names or addresses",
        arguments: [
            ("localhost", "localhost"), ("Broker.Example.ORG", "broker.example.org"), ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"), ("2001:db8::0:5", "2001:db8::5"), ("*.example.org", "*.example.org"), ("a-1", "a-1"),
        ])
    func hosts(text: String, description: String) throws {
        #expect(try HostName(text).description == description)
    }

    @Test(
        "Other host names are refused",
        arguments: [
            "", " ", "a b", "-a", "a-", "a..b", "1.2.3", "1.2.3.4.5", "999.1.1.1", "*", "*.org", "a_b", "ü.org", ".",
            "a.",
        ])
    func badHosts(text: String) {
        #expect(throws: PKIError(.name, "")) { try HostName(text) }
    }

    @Test("A host name has at most 253 bytes")
    func longHost() throws {
        let labels = Array(repeating: String(repeating: "a", count: 62), count: 4).joined(separator: ".")
        #expect(throws: Never.self) { try HostName("a." + labels) }
        #expect(throws: PKIError(.name, "")) { try HostName("aa." + labels) }
    }

    @Test("Hexadecimal text goes both ways, and what is not is refused")
    func hexadecimal() {
        #expect([UInt8]([0, 0x0F, 0xF0, 0xFF]).hexadecimal == "000ff0ff")
        #expect([UInt8](hexadecimal: "000Ff0fF") == [0, 0x0F, 0xF0, 0xFF])
        for text in ["0", "0g", "zz", " 0", "000"] { #expect([UInt8](hexadecimal: text) == nil) }
    }
}
