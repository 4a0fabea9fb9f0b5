import Crypto
import Foundation
import Identity
import PKI
import SwiftASN1
import TestSupport
import Testing
import X509

/// New intermediates and roots beside old ones, and what binds them to their trust domain.
@Suite struct RolloverTests {
    let directory: TemporaryDirectory
    let trustDomain: TrustDomain
    let now: UnixTime = 1_800_000_000

    init() throws {
        self.directory = try TemporaryDirectory()
        self.trustDomain = try TrustDomain("energy.example")
    }

    func create() throws -> AuthorityDirectory {
        try AuthorityDirectory.create(self.directory.path, trustDomain: self.trustDomain, at: self.now)
    }

    func issue(_ authority: AuthorityDirectory, _ id: String) throws -> Certificate {
        try authority.issue(
            .auditor(try Identifier(id), in: self.trustDomain), to: SigningKey().publicKey, at: self.now)
    }

    func verifier(_ authority: AuthorityDirectory) throws -> IdentityVerifier {
        try IdentityVerifier(
            trustDomain: self.trustDomain, roots: authority.roots, intermediates: authority.issuers,
            revocationLists: try authority.revocationLists(), demand: .current)
    }

    @Test("A new intermediate issues beside the old one, and each revokes its own")
    func intermediate() throws {
        let old = try self.create()
        let first = try self.issue(old, "a")
        let new = try old.addIntermediate(passphrase: nil, at: self.now)
        let second = try self.issue(new, "b")
        #expect(new.issuers.count == 2 && new.issuing != old.issuing && new.issuers[1] == old.issuing)
        #expect(Array(try second.extensions.authorityKeyIdentifier?.keyIdentifier ?? []) == new.issuing.keyIdentifier)
        for leaf in [first, second] {
            #expect(throws: Never.self) { try self.verifier(new).verify(chain: [leaf], at: self.now) }
        }
        _ = try new.revoke(try Identifier("a"), reason: .superseded, at: self.now)
        let lists = try new.revocationLists()
        #expect(lists.count == 3)
        #expect(lists.map(\.count) == [0, 1, 0], "root, old, new")
        #expect(throws: PKIError(.revoked, "")) { try self.verifier(new).verify(chain: [first], at: self.now) }
        #expect(throws: Never.self) { try self.verifier(new).verify(chain: [second], at: self.now) }
        // Another process finds both keys.
        let opened = try AuthorityDirectory.open(self.directory.path)
        try opened.unlock()
        // One who holds the root alone verifies what is issued now, with the chain that comes along.
        let verifier = try IdentityVerifier(trustDomain: self.trustDomain, roots: [old.root])
        #expect(throws: Never.self) { try verifier.verify(chain: [second, new.issuing], at: self.now) }
    }

    @Test("An intermediate whose key is lost stands in nobody's way, and is revoked with the root's key alone")
    func lostKey() throws {
        let old = try self.create()
        let first = try self.issue(old, "a")
        try FileManager.default.removeItem(atPath: AuthorityDirectory.issuingKeyPath(in: self.directory.path))
        var new = try old.addIntermediate(passphrase: nil, at: self.now)
        // As another process finds it.
        new = try AuthorityDirectory.open(self.directory.path)
        try new.unlock()
        #expect(try !new.isAtHand(old.issuing) && new.isAtHand(new.issuing))
        let second = try self.issue(new, "b")
        _ = try new.revoke(try Identifier("b"), reason: .superseded, at: self.now)
        // What would come onto no list is not said to be revoked.
        #expect(throws: PKIError(.missing, "")) {
            try new.revoke(try Identifier("a"), reason: .keyCompromise, at: self.now)
        }
        let revoked = try new.revokeIntermediate(
            old.issuing.keyIdentifier, reason: .keyCompromise, at: self.now, force: true)
        #expect(revoked.map(\.spiffeID.id.rawValue) == ["a"])
        let lists = try new.revocationLists()
        #expect(lists.contains { $0.isSigned(by: old.root) && $0.entry(for: old.issuing.serialBytes) != nil })
        #expect(lists.contains { $0.isSigned(by: new.issuing) && $0.entry(for: second.serialBytes) != nil })
        #expect(throws: PKIError(.revoked, "")) { try self.verifier(new).verify(chain: [first], at: self.now) }
        #expect(try new.unlistedRevocations().isEmpty)
    }

    @Test("A process that has not noticed a rollover drops no list when it revokes")
    func staleProcess() throws {
        let stale = try self.create()
        let first = try self.issue(stale, "a")
        let new = try AuthorityDirectory.open(self.directory.path).addIntermediate(passphrase: nil, at: self.now)
        _ = try stale.revoke(try Identifier("a"), reason: .superseded, at: self.now)
        let lists = try stale.revocationLists()
        #expect(lists.count == 3 && lists.contains { $0.isSigned(by: new.issuing) })
        #expect(lists.first { $0.isSigned(by: stale.issuing) }?.entry(for: first.serialBytes) != nil)
    }

    @Test("With its root offline an authority issues and revokes, but makes no intermediate until the key is back")
    func offline() throws {
        let authority = try self.create()
        let away = self.directory.path("away.key")
        try FileManager.default.moveItem(atPath: AuthorityDirectory.rootKeyPath(in: authority.path), toPath: away)
        _ = try self.issue(authority, "a")
        _ = try authority.revoke(try Identifier("a"), reason: .superseded, at: self.now)
        #expect(throws: PKIError(.missing, "")) { try authority.addIntermediate(passphrase: nil, at: self.now) }
        #expect(throws: PKIError(.signing, "")) {
            try authority.addIntermediate(rootKey: SigningKey(), passphrase: nil, at: self.now)
        }
        let new = try authority.addIntermediate(rootKey: try KeyFile.read(away), passphrase: nil, at: self.now)
        #expect(throws: Never.self) { try self.verifier(new).verify(chain: [try self.issue(new, "b")], at: self.now) }
        #expect(try authority.renewRevocationLists(at: self.now, rootKey: try KeyFile.read(away)))
    }

    @Test("A new root is trusted beside the old one; the fleet changes over, then the old ones retire")
    func root() throws {
        let old = try self.create()
        let first = try self.issue(old, "a")
        let both = try old.addRoot(passphrase: nil, at: self.now)
        #expect(both.roots.count == 2 && both.roots[1] == old.root)
        #expect(throws: Never.self) { try self.verifier(both).verify(chain: [first], at: self.now) }
        // Until there is an intermediate under the new root, a device knows this authority by the old one.
        #expect(both.issuingRoot == old.root)
        let moved = try both.addIntermediate(passphrase: nil, at: self.now)
        #expect(moved.issuingRoot == moved.root)
        let second = try self.issue(moved, "b")
        for leaf in [first, second] {
            #expect(throws: Never.self) { try self.verifier(moved).verify(chain: [leaf], at: self.now) }
        }
        let newAlone = try IdentityVerifier(trustDomain: self.trustDomain, roots: [moved.root])
        #expect(throws: Never.self) { try newAlone.verify(chain: [second, moved.issuing], at: self.now) }
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try newAlone.verify(chain: [first, old.issuing], at: self.now)
        }
        // In order: an intermediate before the root above it, and never what is in use.
        #expect(throws: PKIError(.chain, "")) { try moved.retire(old.root.keyIdentifier, at: self.now) }
        #expect(throws: PKIError(.chain, "")) { try moved.retire(moved.issuing.keyIdentifier, at: self.now) }
        // What "a" holds is still valid.
        #expect(throws: PKIError(.chain, "")) { try moved.retire(old.issuing.keyIdentifier, at: self.now) }
        let alone = try moved.retire(old.issuing.keyIdentifier, at: self.now, force: true)
            .retire(old.root.keyIdentifier, at: self.now)
        // The lists that are left are all of authorities that are left.
        #expect(throws: Never.self) { try self.verifier(alone).verify(chain: [second], at: self.now) }
        #expect(try alone.revocationLists().count == 2)
        #expect(alone.roots == [moved.root] && alone.issuers == [moved.issuing])
        try alone.renewRevocationLists(at: self.now)
        #expect(throws: Never.self) { try self.verifier(alone).verify(chain: [second], at: self.now) }
    }

    // MARK: Revoking an intermediate

    @Test("A revoked intermediate is on the root's list, and chains through it are refused by every verifier")
    func revokedIntermediate() async throws {
        let old = try self.create()
        let (first, second) = (try self.issue(old, "a"), try self.issue(old, "b"))
        let new = try old.addIntermediate(passphrase: nil, at: self.now)
        let renewed = try new.issue(
            .auditor(try Identifier("a"), in: self.trustDomain), to: SigningKey().publicKey, at: self.now,
            renewing: true)
        let gate = try PeerGate(
            trustDomain: self.trustDomain, authorities: new.roots + new.issuers,
            revocationLists: try new.revocationLists())
        let peer = try gate.admit(leaf: second.der, at: self.now)
        // What it would do is said before it is done, and nothing is recorded.
        #expect(throws: PKIError(.chain, "")) {
            try new.revokeIntermediate(old.issuing.keyIdentifier, reason: .keyCompromise, at: self.now)
        }
        #expect(try new.revocationLists().allSatisfy { $0.count == 0 })
        let revoked = try new.revokeIntermediate(
            old.issuing.keyIdentifier, reason: .keyCompromise, at: self.now, force: true)
        #expect(Set(revoked.map(\.spiffeID.id.rawValue)) == ["a", "b"])
        let lists = try new.revocationLists()
        let list = try #require(lists.first { $0.isSigned(by: new.root) })
        #expect(list.entry(for: old.issuing.serialBytes)?.reason == .caCompromise)
        #expect(try new.revocation(of: old.issuing)?.reason == .caCompromise)

        // By the root's list alone: also what its thief issues from now on, of which nobody knows.
        let stolen = try Authority(
            certificate: old.issuing, key: try KeyFile.read(AuthorityDirectory.issuingKeyPath(in: new.path))
        ).issue(
            .broker(try Identifier("evil"), in: self.trustDomain, hosts: [.dns("x.example")]),
            to: SigningKey().publicKey, at: self.now)
        let verifier = try IdentityVerifier(
            trustDomain: self.trustDomain, roots: new.roots, revocationLists: [list])
        for leaf in [first, second, stolen] {
            #expect(throws: PKIError(.revoked, "")) {
                try verifier.verify(chain: [leaf, old.issuing], at: self.now)
            }
        }
        #expect(throws: Never.self) { try verifier.verify(chain: [renewed, new.issuing], at: self.now) }
        try gate.update([list])
        #expect(throws: PKIError(.revoked, "")) { try gate.requireStanding(peer, at: self.now) }
        #expect(throws: PKIError(.revoked, "")) { try gate.admit(leaf: stolen.der, at: self.now) }
        #expect(throws: Never.self) { try gate.admit(leaf: renewed.der, at: self.now) }
        // And through the authority: who holds such a certificate does not renew, and is invited anew.
        #expect(throws: PKIError(.revoked, "")) { try new.identify(second, at: self.now, roles: [.auditor]) }
        #expect(throws: PKIError(.unknownIssuer, "")) { try new.identify(stolen, at: self.now, roles: [.broker]) }
        #expect(throws: Never.self) {
            try new.invite(
                .auditor(try Identifier("b"), in: self.trustDomain), lifetime: 60, at: self.now, requester: "test")
        }

        // Later lists of the root still have it; it is revoked once, and stays known until it ends.
        try new.renewRevocationLists(at: self.now + 1)
        let later = try #require(try new.revocationLists().first { $0.isSigned(by: new.root) })
        #expect(later.number == list.number + 1 && later.count == 1)
        #expect(throws: PKIError(.name, "")) {
            try new.revokeIntermediate(old.issuing.keyIdentifier, reason: .unspecified, at: self.now, force: true)
        }
        #expect(throws: PKIError(.chain, "")) { try new.retire(old.issuing.keyIdentifier, at: self.now) }
        #expect(throws: Never.self) { try new.retire(old.issuing.keyIdentifier, at: old.issuing.notAfter + 1) }
    }

    @Test(
        "Only a former intermediate is revoked, only by the key of the root above it, and what a crash left out is made good"
    )
    func revokesOnly() throws {
        let old = try self.create()
        #expect(throws: PKIError(.chain, "")) {
            try old.revokeIntermediate(old.issuing.keyIdentifier, reason: .unspecified, at: self.now)
        }
        let new = try old.addIntermediate(passphrase: nil, at: self.now)
        let identifier = old.issuing.keyIdentifier
        for wrong in [new.root.keyIdentifier, [1, 2, 3]] {
            #expect(throws: PKIError(.chain, "")) {
                try new.revokeIntermediate(wrong, reason: .unspecified, at: self.now)
            }
        }
        let away = self.directory.path("away.key")
        try FileManager.default.moveItem(atPath: AuthorityDirectory.rootKeyPath(in: new.path), toPath: away)
        #expect(throws: PKIError(.missing, "")) {
            try new.revokeIntermediate(identifier, reason: .superseded, at: self.now)
        }
        #expect(throws: PKIError(.signing, "")) {
            try new.revokeIntermediate(identifier, reason: .superseded, at: self.now, rootKey: SigningKey())
        }
        let before = try Data(contentsOf: URL(fileURLWithPath: AuthorityDirectory.revocationListsPath(in: new.path)))
        let key = try KeyFile.read(away)
        #expect(
            try new.revokeIntermediate(identifier, reason: .superseded, at: self.now, rootKey: key).isEmpty)
        // As if the process had ended between record and list.
        try before.write(to: URL(fileURLWithPath: AuthorityDirectory.revocationListsPath(in: new.path)))
        #expect(
            try new.revokeIntermediate(identifier, reason: .superseded, at: self.now, rootKey: key).isEmpty)
        let list = try new.revocationLists().first { $0.isSigned(by: new.root) }
        #expect(list?.entries.map(\.reason) == [.superseded])
    }

    @Test(
        "openssl refuses a chain through a revoked intermediate",
        .enabled(if: OpenSSL.isInstalled, "openssl is not installed"))
    func revokedForOpenSSL() async throws {
        let now = TestPKI.currentTime()
        let old = try AuthorityDirectory.create(self.directory.path, trustDomain: self.trustDomain, at: now)
        let profile = CertificateProfile.auditor(try Identifier("a"), in: self.trustDomain)
        try self.directory.write(
            try old.issue(profile, to: SigningKey().publicKey, at: now).pemText, to: "old.pem")
        let new = try old.addIntermediate(passphrase: nil, at: now)
        try self.directory.write(
            try new.issue(profile, to: SigningKey().publicKey, at: now, renewing: true).pemText, to: "new.pem")
        _ = try new.revokeIntermediate(old.issuing.keyIdentifier, reason: .keyCompromise, at: now, force: true)
        func verify(_ leaf: String) async throws -> OpenSSL.Result {
            try await OpenSSL.run([
                "verify", "-x509_strict", "-crl_check_all", "-CAfile", AuthorityDirectory.rootPath(in: new.path),
                "-untrusted", AuthorityDirectory.issuingPath(in: new.path), "-CRLfile",
                AuthorityDirectory.revocationListsPath(in: new.path), self.directory.path(leaf),
            ])
        }
        #expect(try await verify("new.pem").status == 0)
        let refused = try await verify("old.pem")
        #expect(refused.errorOutput.contains("certificate revoked"), "\(refused.errorOutput)")
        try self.directory.write(
            try #require(try new.revocationLists().first { $0.isSigned(by: new.root) }).pemText, to: "root-crl.pem")
        let text = try await OpenSSL.run(["crl", "-in", self.directory.path("root-crl.pem"), "-noout", "-text"])
        #expect(text.output.contains("CA Compromise"))
    }

    // MARK: Name constraints

    @Test("An intermediate of one trust domain may not name parties of another: here, and for openssl")
    func nameConstraints() async throws {
        let root = try Authority.makeRoot(trustDomain: self.trustDomain, at: TestPKI.currentTime())
        let issuing = try root.makeIntermediate(trustDomain: self.trustDomain, at: TestPKI.currentTime())
        let other = try TrustDomain("other.example")
        let leaf = try issuing.issue(
            .auditor(try Identifier("a"), in: other), to: SigningKey().publicKey, at: TestPKI.currentTime())
        let verifier = try IdentityVerifier(trustDomain: other, roots: [root.certificate])
        #expect(throws: PKIError(.name, "")) {
            try verifier.verify(chain: [leaf, issuing.certificate], at: TestPKI.currentTime())
        }
        let paths = try [("root", root.certificate), ("issuing", issuing.certificate), ("leaf", leaf)].map {
            try self.directory.write($1.pemText, to: "\($0).pem")
        }
        let verdict = try await OpenSSL.run(["verify", "-CAfile", paths[0], "-untrusted", paths[1], paths[2]])
        #expect(verdict.errorOutput.contains("permitted subtree violation"), "\(verdict.errorOutput)")
    }

    @Test("Certificates say where lists and answers are, if that is known")
    func publication() async throws {
        let authority = try AuthorityDirectory.create(
            self.directory.path, trustDomain: self.trustDomain, at: self.now,
            publication: try PublicationPoints("http://ca.energy.example:8080/"))
        let path = try self.directory.write(try self.issue(authority, "a").pemText, to: "leaf.pem")
        let text = try await OpenSSL.run(["x509", "-in", path, "-noout", "-text"]).output
        let name = PublicationPoints.listName(of: authority.issuing.keyIdentifier)
        #expect(text.contains("URI:http://ca.energy.example:8080/crl/\(name)"), "\(text)")
        #expect(text.contains("OCSP - URI:http://ca.energy.example:8080/ocsp"))
        let intermediate = try await OpenSSL.run(
            ["x509", "-in", AuthorityDirectory.issuingPath(in: authority.path), "-noout", "-text"]
        ).output
        #expect(intermediate.contains("URI:http://ca.energy.example:8080/crl/root.crl"))
        for text in ["", "ca.example", "ftp://x", "http://a b", "http://", "http://\u{FC}"] {
            #expect(throws: PKIError(.name, "")) { try PublicationPoints(text) }
        }
    }

    @Test("A certificate made elsewhere under our key is imported once, a foreign one never")
    func imported() throws {
        let authority = try self.create()
        let issuing = try Authority(
            certificate: authority.issuing,
            key: try KeyFile.read(AuthorityDirectory.issuingKeyPath(in: authority.path)))
        let leaf = try issuing.issue(
            .auditor(try Identifier("a"), in: self.trustDomain), to: SigningKey().publicKey, at: self.now)
        #expect(try authority.importCertificate(leaf, at: self.now, requester: "test").id.rawValue == "a")
        #expect(throws: PKIError(.exists, "")) {
            try authority.importCertificate(leaf, at: self.now, requester: "test")
        }
        #expect(throws: PKIError(.name, "")) { try self.issue(authority, "A") }
        #expect(try authority.revoke(try Identifier("a"), reason: .superseded, at: self.now).count == 1)
        let foreign = try TestPKI(now: self.now)
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try authority.importCertificate(foreign.auditors[0].certificate, at: self.now, requester: "test")
        }
    }

    // MARK: Invitations

    @Test("An invitation keeps its ID for itself, and gives way to a newer one only of the same party")
    func invitation() throws {
        let authority = try self.create()
        func invite(_ role: Role, _ id: String, at time: UnixTime? = nil) throws {
            _ = try authority.invite(
                .role(role, try Identifier(id), in: self.trustDomain), lifetime: 100, at: time ?? self.now,
                requester: "test")
        }
        try invite(.auditor, "mona")
        #expect(throws: PKIError(.name, "")) { try invite(.operator, "mona") }
        #expect(throws: PKIError(.name, "")) { try self.issue(authority, "MONA") }
        try invite(.auditor, "mona")
        // Once it has expired unused, the ID is free.
        try invite(.operator, "mona", at: self.now + 101)
        _ = try self.issue(authority, "lena")
        #expect(throws: PKIError(.name, "")) { try invite(.auditor, "lena") }
        #expect(throws: PKIError(.name, "")) { try invite(.auditor, "Lena") }
        _ = try authority.revoke(try Identifier("lena"), reason: .superseded, at: self.now)
        try invite(.auditor, "lena")
        for lifetime in [0, -1, AuthorityDirectory.maximumInvitationLifetime + 1] {
            #expect(throws: PKIError(.format, "")) {
                try authority.invite(
                    .auditor(try Identifier("x"), in: self.trustDomain), lifetime: lifetime, at: self.now,
                    requester: "test")
            }
        }
    }

    @Test("Revoking an ID closes its open invitation, and the ID is free")
    func withdrawn() throws {
        let authority = try self.create()
        let (mona, token, key) = (try Identifier("mona"), EnrolmentToken(), P256.Signing.PrivateKey())
        _ = try authority.invite(
            .auditor(mona, in: self.trustDomain), lifetime: 100, at: self.now, requester: "test", token: token)
        #expect(try authority.revoke(mona, reason: .unspecified, at: self.now).isEmpty)
        #expect(throws: PKIError(.token, "")) {
            try authority.redeem(
                mona, token: token.text, try Self.request("mona", key), at: self.now, requester: "test")
        }
        #expect(throws: PKIError(.name, "")) { try authority.revoke(mona, reason: .unspecified, at: self.now) }
        _ = try AuthorityDirectory.open(self.directory.path).issue(
            .role(.operator, mona, in: self.trustDomain), to: SigningKey().publicKey, at: self.now)
    }

    private static func request(_ name: String, _ key: P256.Signing.PrivateKey) throws -> EnrolmentRequest {
        let request = try CertificateSigningRequest(
            version: .v1, subject: try DistinguishedName { CommonName(name) }, privateKey: .init(key),
            attributes: .init(), signatureAlgorithm: .ecdsaWithSHA256)
        var serializer = DER.Serializer()
        try serializer.serialize(request)
        return try EnrolmentRequest(der: serializer.serializedBytes)
    }

    @Test("A common name that only looks the same is another one")
    func lookAlike() throws {
        let profile = CertificateProfile.auditor(try Identifier("K1"), in: self.trustDomain)
        let key = P256.Signing.PrivateKey()
        #expect(throws: Never.self) { try Self.request("K1", key).require(profile) }
        #expect(throws: PKIError(.name, "")) { try Self.request("\u{212A}1", key).require(profile) }
    }

    @Test("A party that renews without end has to wait")
    func manyRenewals() throws {
        let authority = try self.create()
        let old = try self.issue(authority, "mona")
        let request = try Self.request("mona", P256.Signing.PrivateKey())
        for _ in 1..<AuthorityDirectory.maximumDailyRenewals {
            _ = try authority.renew(old, request, at: self.now + 1)
        }
        #expect(throws: PKIError(.busy, "")) { try authority.renew(old, request, at: self.now + 86_399) }
        #expect(throws: Never.self) { try authority.renew(old, request, at: self.now + 86_401) }
    }

    @Test("Tokens have 26 letters of an alphabet without doubles, and differ")
    func tokens() {
        let tokens = (0..<100).map { _ in EnrolmentToken().text }
        #expect(Set(tokens).count == 100)
        for token in tokens {
            #expect(token.count == EnrolmentToken.length)
            #expect(token.allSatisfy { "0123456789abcdefghjkmnpqrstvwxyz".contains($0) })
        }
    }
}
