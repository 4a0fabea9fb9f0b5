import Crypto
import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

/// Certificate and key are exchanged together, whatever is cut off.
@Suite struct IdentityFilesTests {
    private let pki: TestPKI
    private let folder: TemporaryDirectory
    private let files: IdentityFiles
    private let first: TestPKI.Party

    init() throws {
        self.pki = try TestPKI(auditors: ["home-1"], operators: [])
        self.folder = try TemporaryDirectory()
        self.first = try self.pki.auditor("home-1")
        let written = try self.pki.write(self.first, to: self.folder.path, name: "auditor")
        self.files = IdentityFiles(certificate: written.chain, key: written.key)
    }

    private func next(_ key: SigningKey) throws -> TestPKI.Party { try self.pki.issue(.auditor, "home-1", key: key) }

    private var names: Set<String> {
        Set((try? FileManager.default.contentsOfDirectory(atPath: self.folder.path)) ?? [])
    }

    @Test("A prepared key is on disk, for its owner alone, and stays until its certificate comes") func preparedKeyOn()
        throws
    {
        let key = try self.files.prepareKey()
        #expect(try self.files.prepareKey().publicKey.rawRepresentation == key.publicKey.rawRepresentation)
        let mode = try FileManager.default.attributesOfItem(atPath: "\(self.files.key).next")[.posixPermissions] as? Int
        #expect(mode == 0o600)
        // Nothing has changed until then.
        #expect(try self.files.read().chain == self.first.chain)
        let next = try self.next(key)
        try self.files.replace(next.chain)
        let (chain, read) = try self.files.read()
        #expect(chain == next.chain)
        #expect(read.publicKey.rawRepresentation == key.publicKey.rawRepresentation)
        #expect(self.names == ["auditor.pem", "auditor.key", "auditor.pem.former"])
        #expect(self.files.former == [self.first.chain[0]])
        #expect(try self.files.prepareKey().publicKey.rawRepresentation != key.publicKey.rawRepresentation)
    }

    @Test("A certificate for the same key takes its place alone") func certificateSameKey() throws {
        let next = try self.next(self.first.key)
        try self.files.replace(next.chain)
        #expect(try self.files.read().chain == next.chain)
        #expect(self.names == ["auditor.pem", "auditor.key", "auditor.pem.former"])
        #expect(self.files.former == [self.first.chain[0]])
    }

    @Test("A certificate for another key is refused") func certificateAnotherKey() throws {
        _ = try self.files.prepareKey()
        let foreign = try self.next(SigningKey())
        #expect(throws: PKIError(.signing, "")) { try self.files.replace(foreign.chain) }
        #expect(try self.files.read().chain == self.first.chain)
    }

    /// How far an exchange came before the power went.
    @Test(
        "A crash in the middle of an exchange leaves one pair or the other", arguments: 0...4)
    func crashMiddleExchange(_ steps: Int) throws {
        let key = try self.files.prepareKey()
        let next = try self.next(key)
        let (nextKey, nextCertificate) = ("\(self.files.key).next", "\(self.files.certificate).next")
        if steps >= 1 { try Data("-----BEGIN".utf8).write(to: URL(fileURLWithPath: "\(nextCertificate).77.new")) }
        if steps >= 2 { try CertificateFile.create(nextCertificate, next.chain) }
        if steps >= 3 { #expect(rename(nextKey, self.files.key) == 0) }
        if steps >= 4 { #expect(rename(nextCertificate, self.files.certificate) == 0) }
        let (chain, read) = try self.files.read()
        #expect(chain == (steps >= 2 ? next.chain : self.first.chain))
        #expect(chain[0].publicKey == Certificate.PublicKey(read.publicKey))
        // Reading again changes nothing.
        #expect(try self.files.read().chain == chain)
        if steps < 2 {
            #expect(try self.files.prepareKey().publicKey.rawRepresentation == key.publicKey.rawRepresentation)
        }
    }

    @Test("A key that is not the certificate's is said as such") func keyNotCertificate() throws {
        try Data((SigningKey().pemRepresentation ?? "").utf8).write(to: URL(fileURLWithPath: self.files.key))
        chmod(self.files.key, 0o600)
        #expect(throws: PKIError(.signing, "")) { try self.files.read() }
    }

    @Test("One at a time exchanges") func oneTimeExchanges() throws {
        let lock = try self.files.lock()
        #expect(lock != nil)
        #expect(try self.files.lock() == nil)
        withExtendedLifetime(lock) {}
    }
}
