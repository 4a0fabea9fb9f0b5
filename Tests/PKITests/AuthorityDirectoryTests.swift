import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

@Suite struct AuthorityDirectoryTests {
    let directory: TemporaryDirectory
    let trustDomain: TrustDomain
    let authority: AuthorityDirectory
    let now: UnixTime = 1_800_000_000

    init() throws {
        self.directory = try TemporaryDirectory()
        self.trustDomain = try TrustDomain("energy.example")
        self.authority = try AuthorityDirectory.create(
            self.directory.path, trustDomain: self.trustDomain, at: self.now)
    }

    func issue(_ role: Role, _ id: String, renewing: Bool = false) throws -> Certificate {
        try AuthorityDirectory.open(self.directory.path).issue(
            .role(role, try Identifier(id), in: self.trustDomain), to: SigningKey().publicKey, at: self.now,
            renewing: renewing)
    }

    func verifier() throws -> IdentityVerifier {
        try IdentityVerifier(
            trustDomain: self.trustDomain, roots: [self.authority.root], intermediates: [self.authority.issuing],
            revocationLists: try CertificateFile.readRevocationLists(self.directory.path("crl.pem")), demand: .current)
    }

    @Test("An authority comes back from its folder and remembers what it issued, in order")
    func remembers() throws {
        let first = try self.issue(.auditor, "a-1")
        let second = try self.issue(.operator, "o-1")
        let opened = try AuthorityDirectory.open(self.directory.path)
        #expect(opened.root == self.authority.root)
        #expect(try opened.trustDomain == self.trustDomain)
        let issued = try opened.issued()
        #expect(
            issued.map(\.spiffeID.rawValue) == [
                "spiffe://energy.example/auditor/a-1", "spiffe://energy.example/operator/o-1",
            ])
        #expect(issued.map(\.certificateHash) == [first.sha256, second.sha256])
        #expect(issued.map(\.serialNumber) == [Array(first.serialNumber.bytes), Array(second.serialNumber.bytes)])
        #expect(issued.map(\.issuedAt) == [self.now, self.now])
        #expect(try self.verifier().verify(chain: [first], at: self.now).spiffeID == issued[0].spiffeID)
    }

    @Test(
        "An ID is given out once, over all roles and whatever its case",
        arguments: [(Role.auditor, "Home-1"), (.auditor, "HOME-1"), (.operator, "Home-1"), (.broker, "home-1")])
    func unique(role: Role, id: String) throws {
        _ = try self.issue(.auditor, "Home-1")
        #expect(throws: PKIError(.name, "")) { try self.issue(role, id) }
        #expect(try self.authority.issued().count == 1)
    }

    @Test("Renewal is for the same party only")
    func renewal() throws {
        #expect(throws: PKIError(.name, "")) { try self.issue(.auditor, "a", renewing: true) }
        let old = try self.issue(.auditor, "a")
        #expect(throws: PKIError(.name, "")) { try self.issue(.operator, "a", renewing: true) }
        #expect(throws: PKIError(.name, "")) { try self.issue(.auditor, "A", renewing: true) }
        let new = try self.issue(.auditor, "a", renewing: true)
        let verifier = try self.verifier()
        #expect(
            try verifier.verify(chain: [old], at: self.now).spiffeID
                == verifier.verify(chain: [new], at: self.now).spiffeID)
    }

    @Test("A profile of another trust domain is refused")
    func otherDomain() throws {
        let profile = CertificateProfile.auditor(try Identifier("a"), in: try TrustDomain("other.example"))
        #expect(throws: PKIError(.trustDomain, "")) {
            try self.authority.issue(profile, to: SigningKey().publicKey, at: self.now)
        }
    }

    @Test("Revoking an ID revokes all of its certificates, once")
    func revoke() throws {
        let chains = [try self.issue(.auditor, "a"), try self.issue(.auditor, "a", renewing: true)]
        let other = try self.issue(.auditor, "b")
        let revoked = try self.authority.revoke(try Identifier("a"), reason: .superseded, at: self.now + 5)
        #expect(revoked.count == 2)
        let verifier = try self.verifier()
        for leaf in chains {
            #expect(throws: PKIError(.revoked, "")) { try verifier.verify(chain: [leaf], at: self.now + 6) }
        }
        #expect(throws: Never.self) { try verifier.verify(chain: [other], at: self.now + 6) }
        #expect(try self.authority.issued().compactMap(\.revocation?.reason) == [.superseded, .superseded])
        #expect(throws: PKIError(.name, "")) {
            try self.authority.revoke(try Identifier("a"), reason: .superseded, at: self.now + 7)
        }
        #expect(throws: PKIError(.name, "")) {
            try self.authority.revoke(try Identifier("nobody"), reason: .superseded, at: self.now + 7)
        }
    }

    @Test("A revocation that a crash kept from the list comes onto it at the next try")
    func revokeAgain() throws {
        let leaf = try self.issue(.auditor, "a")
        let path = self.directory.path("crl.pem")
        let before = try Data(contentsOf: URL(fileURLWithPath: path))
        _ = try self.authority.revoke(try Identifier("a"), reason: .keyCompromise, at: self.now)
        #expect(try self.authority.unlistedRevocations().isEmpty)
        // As a crash between the record and the list leaves it.
        try before.write(to: URL(fileURLWithPath: path))
        #expect(throws: Never.self) { try self.verifier().verify(chain: [leaf], at: self.now) }
        #expect(try self.authority.unlistedRevocations().count == 1)
        #expect(try self.authority.revoke(try Identifier("a"), reason: .keyCompromise, at: self.now + 1).count == 1)
        #expect(throws: PKIError(.revoked, "")) { try self.verifier().verify(chain: [leaf], at: self.now + 1) }
        #expect(try self.authority.issued().map(\.revocation?.time) == [self.now])
    }

    @Test("With a list that cannot be read nothing is recorded as revoked")
    func noList() throws {
        _ = try self.issue(.auditor, "a")
        try Data("broken".utf8).write(to: URL(fileURLWithPath: self.directory.path("crl.pem")))
        #expect(throws: PKIError.self) {
            try self.authority.revoke(try Identifier("a"), reason: .keyCompromise, at: self.now)
        }
        #expect(try self.authority.issued().map(\.revocation) == [nil])
    }

    @Test("Lists are renewed with a higher number; the root's only where its key is")
    func renewLists() throws {
        #expect(try self.authority.renewRevocationLists(at: self.now + 100))
        var lists = try CertificateFile.readRevocationLists(self.directory.path("crl.pem"))
        #expect(lists.map(\.number) == [2, 2])
        try FileManager.default.removeItem(atPath: self.directory.path("root.key"))
        #expect(try !self.authority.renewRevocationLists(at: self.now + 200))
        lists = try CertificateFile.readRevocationLists(self.directory.path("crl.pem"))
        #expect(lists.map(\.number) == [2, 3])
        #expect(lists.map(\.thisUpdate) == [self.now + 100, self.now + 200])
        #expect(lists[0].isSigned(by: self.authority.root) && lists[1].isSigned(by: self.authority.issuing))
    }

    @Test("A root key that others may read is refused, not passed over")
    func rootKeyPermissions() throws {
        try FileManager.default.setAttributes(
            [.posixPermissions: 0o640], ofItemAtPath: self.directory.path("root.key"))
        #expect(throws: PKIError(.permissions, "")) { try self.authority.renewRevocationLists(at: self.now) }
    }

    @Test("A root file of two certificates, or an intermediate not of ours, is refused")
    func otherFiles() throws {
        let both = self.authority.root.pemText + self.authority.issuing.pemText
        try Data(both.utf8).write(to: URL(fileURLWithPath: self.directory.path("root.pem")))
        #expect(throws: PKIError(.chain, "")) { try AuthorityDirectory.open(self.directory.path) }
        for file in ["root.pem", "issuing.pem"] {
            try Data(self.authority.root.pemText.utf8).write(to: URL(fileURLWithPath: self.directory.path(file)))
        }
        #expect(throws: PKIError(.chain, "")) { try AuthorityDirectory.open(self.directory.path) }
        let root = try Authority(
            certificate: self.authority.root, key: try KeyFile.read(self.directory.path("root.key")))
        let foreign = try CertificateForge(intermediateOf: root, key: SigningKey(), at: self.now).make()
        try Data(foreign.pemText.utf8).write(to: URL(fileURLWithPath: self.directory.path("issuing.pem")))
        let opened = try AuthorityDirectory.open(self.directory.path)
        #expect(throws: PKIError(.trustDomain, "")) { try opened.trustDomain }
    }

    @Test("Without the issuing key nothing is issued, revoked or recorded")
    func noKey() throws {
        _ = try self.issue(.auditor, "a")
        try FileManager.default.removeItem(atPath: self.directory.path("issuing.key"))
        #expect(throws: PKIError(.missing, "")) { try self.issue(.auditor, "b") }
        // As a process that begins now: one that runs keeps the key that it has opened.
        let authority = try AuthorityDirectory.open(self.directory.path)
        #expect(throws: PKIError(.missing, "")) {
            try authority.revoke(try Identifier("a"), reason: .unspecified, at: self.now)
        }
        #expect(try authority.issued().map(\.revocation) == [nil])
    }

    @Test("A last line that a crash cut off did not happen, and the next one begins afresh")
    func tornLine() throws {
        _ = try self.issue(.auditor, "a")
        let path = self.directory.path("issued.jsonl")
        let whole = try Data(contentsOf: URL(fileURLWithPath: path))
        try (whole + whole.dropLast(20)).write(to: URL(fileURLWithPath: path))
        #expect(try self.authority.issued().count == 1)
        _ = try self.issue(.auditor, "b")
        #expect(try self.authority.issued().map(\.spiffeID.id.rawValue) == ["a", "b"])
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)).starts(with: whole))
    }

    @Test("A record that is damaged inside is an error with the number of its line")
    func damaged() throws {
        _ = try self.issue(.auditor, "a")
        let path = self.directory.path("issued.jsonl")
        let whole = try Data(contentsOf: URL(fileURLWithPath: path))
        for line in ["{}", "nonsense", #"{"event":"revoked","serial":"00","time":1,"reason":1}"#] {
            try (whole + Data("\(line)\n".utf8)).write(to: URL(fileURLWithPath: path))
            let error = #expect(throws: PKIError(.format, "")) { try self.authority.issued() }
            #expect(error?.reason.contains("line 2") == true)
            #expect(throws: PKIError(.format, "")) { try self.issue(.auditor, "b") }
        }
    }

    @Test("Many processes' worth of issuers at once give an ID out once, and lose no line")
    func concurrent() async throws {
        let authority = self.authority
        let (trustDomain, now) = (self.trustDomain, self.now)
        let granted = await withTaskGroup(of: Bool.self) { group in
            for index in 0..<24 {
                group.addTask {
                    guard let id = try? Identifier("id-\(index % 8)") else { return false }
                    let profile = CertificateProfile.auditor(id, in: trustDomain)
                    return (try? authority.issue(profile, to: SigningKey().publicKey, at: now)) != nil
                }
            }
            return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(granted == 8)
        #expect(Set(try authority.issued().map(\.spiffeID.id.rawValue)).count == 8)
        #expect(try authority.issued().count == 8)
    }

    @Test("A folder that holds an authority is not overwritten; one that holds none is not opened")
    func folders() throws {
        #expect(throws: PKIError(.exists, "")) {
            try AuthorityDirectory.create(self.directory.path, trustDomain: self.trustDomain, at: self.now)
        }
        #expect(try AuthorityDirectory.open(self.directory.path).issuing == self.authority.issuing)
        #expect(throws: PKIError(.missing, "")) { try AuthorityDirectory.open("/nowhere") }
    }
}
