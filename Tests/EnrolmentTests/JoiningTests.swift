import Crypto
import Enrolment
import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

/// Joining and renewing against an authority written in Python.
@Suite(.enabled(if: ESTServer.isPossible, "no Python environment: run make setup"))
struct JoiningTests {
    private let pki: TestPKI
    private let now: @Sendable () -> UnixTime = { TestPKI.currentTime() }

    init() throws {
        self.pki = try TestPKI(auditors: ["mona"])
    }

    private func state(_ change: (inout ESTServer.State) -> Void = { _ in }) -> ESTServer.State {
        var state = ESTServer.State(trustDomain: self.pki.trustDomain.rawValue)
        state.tokens = ["secret-1": "mona", "secret-2": "lena"]
        change(&state)
        return state
    }

    private func joining(_ server: ESTServer, id: String = "mona", root: Certificate? = nil) throws -> Joining {
        Joining(
            address: try AuthorityAddress(server.url), id: try Identifier(id),
            fingerprint: RootFingerprint(root ?? self.pki.root.certificate))
    }

    private func failure(
        _ joining: Joining, token: String = "secret-1", clock: (@Sendable () -> UnixTime)? = nil
    ) async -> EnrolmentError? {
        do throws(EnrolmentError) {
            _ = try await joining.join(key: SigningKey(), token: token, clock: clock ?? self.now)
            return nil
        } catch {
            return error
        }
    }

    @Test("An invitation becomes an identity, and all that an auditor must know") func invitationBecomesIdentity()
        async throws
    {
        let server = try await ESTServer(self.pki, state: self.state { $0.brokerPort = 18_883 })
        let key = SigningKey()
        let outcome = try await self.joining(server).join(key: key, token: "secret-1", clock: self.now)
        #expect(outcome.enrolled.identity.spiffeID.rawValue == "spiffe://energy.example/auditor/mona")
        #expect(outcome.enrolled.identity.publicKey.rawRepresentation == key.publicKey.rawRepresentation)
        #expect(outcome.root == self.pki.root.certificate)
        #expect(outcome.intermediates == [self.pki.intermediate.certificate])
        #expect(outcome.revocationLists.count == 2)
        #expect(outcome.trustDomain == self.pki.trustDomain)
        #expect(outcome.installation.brokerPort == 18_883)
        #expect(outcome.installation.brokerHost == "127.0.0.1")
    }

    @Test("The next certificate comes by the present one, for another key or for the same") func nextCertificateComes()
        async throws
    {
        let server = try await ESTServer(self.pki, state: self.state())
        let key = SigningKey()
        let first = try await self.joining(server).join(key: key, token: "secret-1", clock: self.now).enrolled
        let renewing = try self.renewing(server)
        for next in [SigningKey(), key] {
            let renewed = try await renewing.renew(
                first.identity, by: ESTClient.Credentials(chain: first.chain, key: key), key: next, clock: self.now)
            #expect(renewed.identity.spiffeID == first.identity.spiffeID)
            #expect(renewed.identity.certificateHash != first.identity.certificateHash)
            #expect(renewed.identity.publicKey.rawRepresentation == next.publicKey.rawRepresentation)
        }
        #expect(server.issued.map(\.[0]) == ["secret-1", "renew", "renew"])
        #expect(try await renewing.revocationLists().count == 2)
    }

    @Test("A list of a root that the invitation does not name, as amid a rollover, hinders nobody")
    func otherRootsList() async throws {
        let foreign = try self.pki.foreign().revocationLists()
        let own = try self.pki.revocationLists()
        let server = try await ESTServer(self.pki, state: self.state(), lists: [foreign[0], own[1]])
        let outcome = try await self.joining(server).join(key: SigningKey(), token: "secret-1", clock: self.now)
        #expect(outcome.revocationLists.map(\.authorityKeyIdentifier) == [own[1].authorityKeyIdentifier])
    }

    private func renewing(_ server: ESTServer, revoking: [TestPKI.Party] = []) throws -> Renewing {
        Renewing(
            address: try AuthorityAddress(server.url), trust: try self.pki.verifier(),
            gate: try self.pki.gate(revoking: revoking))
    }

    @Test(
        "A token that is not good is refused with the authority's word",
        arguments: [
            ("a token of nobody", "wrong", "mona", EnrolmentError.Code.token, "token-unknown"),
            ("another's token", "secret-2", "mona", .forbidden, "token-other"),
        ])
    func tokenNotGood(
        _ name: String, _ token: String, _ id: String, _ code: EnrolmentError.Code, _ word: String
    ) async throws {
        let server = try await ESTServer(self.pki, state: self.state())
        let error = try await self.failure(self.joining(server, id: id), token: token)
        #expect(error?.code == code)
        #expect(error?.word == word)
        #expect(error?.reason.contains(server.url) ?? false)
    }

    @Test("A token is used up by a key, which may try again") func tokenUsedUp() async throws {
        let server = try await ESTServer(self.pki, state: self.state())
        let key = SigningKey()
        for _ in 0..<2 {
            _ = try await self.joining(server).join(key: key, token: "secret-1", clock: self.now)
        }
        let other = try await self.failure(self.joining(server))
        #expect(other?.code == .token)
        #expect(other?.word == "token-used")
    }

    @Test("An authority under another root is not asked for anything") func authorityUnderAnother() async throws {
        let server = try await ESTServer(self.pki, state: self.state())
        let foreign = try self.pki.foreign().root.certificate
        let error = try await self.failure(self.joining(server, root: foreign))
        #expect(error?.code == .fingerprint)
        #expect(error?.reason.contains("\(RootFingerprint(self.pki.root.certificate))") ?? false)
        #expect(server.issued.isEmpty)
    }

    @Test("A server that only shows the right root, without a certificate under it, gets no token")
    func serverOnlyShows() async throws {
        let impostor = try self.pki.foreign().issue(.authority, "ca-1")
        let server = try await ESTServer(self.pki, state: self.state(), server: impostor)
        #expect(try await self.failure(self.joining(server))?.code == .untrusted)
        #expect(server.issued.isEmpty)
    }

    @Test("A broker of the installation is no authority, whatever it serves") func brokerInstallationNo() async throws {
        let server = try await ESTServer(self.pki, state: self.state(), server: self.pki.broker)
        let error = try await self.failure(self.joining(server))
        #expect(error?.code == .untrusted)
        #expect(error?.reason.contains("is not an authority") ?? false)
        #expect(server.issued.isEmpty)
    }

    @Test("An authority whose server certificate is revoked is not an authority any more") func authorityWhoseServer()
        async throws
    {
        let revoked = try self.pki.issue(.authority, "ca-1")
        let server = try await ESTServer(
            self.pki, state: self.state(), server: revoked, lists: self.pki.revocationLists(revoking: [revoked]))
        let error = try await self.failure(self.joining(server))
        #expect(error?.code == .untrusted)
        #expect(error?.reason.contains("revoked") ?? false)
    }

    @Test(
        "An authority that answers what it should not is not believed",
        arguments: [
            ("no-root", EnrolmentError.Code.fingerprint), ("garbage", .format), ("huge", .format),
            ("foreign-key", .identity), ("other-id", .identity), ("busy", .busy),
        ])
    func authorityAnswersShould(
        _ mode: String, _ code: EnrolmentError.Code
    ) async throws {
        let server = try await ESTServer(self.pki, state: self.state { $0.mode = mode })
        let error = try await self.failure(self.joining(server))
        #expect(error?.code == code)
        #expect(error.map { !$0.reason.contains("\u{1B}") && !$0.reason.contains("\n") } ?? false)
    }

    @Test("Nobody there is said as such") func nobodySaidSuch() async throws {
        let joining = Joining(
            address: try AuthorityAddress("https://127.0.0.1:\(freePort())"), id: try Identifier("mona"),
            fingerprint: RootFingerprint(self.pki.root.certificate))
        let error = await self.failure(joining)
        #expect(error?.code == .unreachable)
        #expect(error?.isPassing ?? false)
    }

    @Test("A wrong clock is said as such") func wrongClockSaid() async throws {
        let server = try await ESTServer(self.pki, state: self.state())
        let joining = try self.joining(server)
        let early = await self.failure(joining, clock: { 86_400 })
        #expect(early?.code == .clock)
        #expect(early?.reason.contains("1970-01-02") ?? false)
        #expect(await self.failure(joining, clock: { 4_000_000_000 })?.code == .clock)
        // Within the root's life, but before the certificate that comes.
        let behind = self.pki.now - 300
        try server.set(self.state { $0.backdating = -3_600 })
        #expect(await self.failure(joining, clock: { behind })?.code == .clock)
    }

    @Test("A certificate that has expired does not ask") func certificateHasExpired() async throws {
        let server = try await ESTServer(self.pki, state: self.state())
        let old = try self.pki.expired(.auditor, "mona")
        let identity = try self.pki.verifier().verifyAtIssue(der: old.chainDER)
        await #expect(throws: EnrolmentError(.identity, "")) {
            try await self.renewing(server).renew(
                identity, by: ESTClient.Credentials(chain: old.chain, key: old.key), key: SigningKey(),
                clock: self.now)
        }
        #expect(server.issued.isEmpty)
    }

    @Test("The authority's word for a revoked certificate is passed on") func authoritySWord() async throws {
        let server = try await ESTServer(self.pki, state: self.state { $0.mode = "revoked" })
        let mona = try self.pki.auditor("mona")
        let identity = try self.pki.verifier().verify(chain: mona.chain, at: self.pki.now)
        let renewing = try self.renewing(server)
        do throws(EnrolmentError) {
            _ = try await renewing.renew(
                identity, by: ESTClient.Credentials(chain: mona.chain, key: mona.key), key: SigningKey(),
                clock: self.now)
            Issue.record("it was renewed")
        } catch {
            #expect(error.code == .forbidden)
            #expect(error.word == "revoked")
            #expect(!error.isPassing)
        }
    }
}

/// What people type.
@Suite struct InvitationTests {
    @Test(
        "An address is host and port",
        arguments: [
            ("https://ca.example:8443", "ca.example", 8_443), ("https://ca.example", "ca.example", 443),
            ("HTTPS://ca.example:1/", "ca.example", 1), ("https://[2001:db8::1]:8443", "2001:db8::1", 8_443),
            ("https://192.0.2.1:8443", "192.0.2.1", 8_443),
        ])
    func addressHostPort(_ text: String, _ host: String, _ port: Int) throws {
        let address = try AuthorityAddress(text)
        #expect(address.host == host)
        #expect(address.port == port)
        #expect(try AuthorityAddress(address.description) == address)
    }

    @Test(
        "Anything else is none",
        arguments: [
            "", "ca.example", "http://ca.example", "https://", "https://ca.example:0", "https://ca.example:65536",
            "https://me:pass@ca.example", "https://ca.example/est", "https://ca.example?x", "https://ca.example#x",
            "ftp://ca.example", "https://ca example",
        ])
    func anythingElseNone(_ text: String) {
        #expect(throws: EnrolmentError(.address, "")) { try AuthorityAddress(text) }
    }

    @Test("A fingerprint is read in every usual spelling") func fingerprintReadEvery() throws {
        let pki = try TestPKI(auditors: [], operators: [])
        let fingerprint = RootFingerprint(pki.root.certificate)
        let digits = fingerprint.description.dropFirst(7)
        let colons = digits.enumerated().map { ($0 > 0 && $0 % 2 == 0 ? ":" : "") + String($1) }.joined()
        for text in ["SHA256:\(digits)", "sha256:\(digits.uppercased())", String(digits), "SHA256:\(colons)"] {
            #expect(try RootFingerprint(text) == fingerprint)
        }
        let short = digits.dropLast()
        for text in ["", "SHA256:", "SHA1:\(digits)", "SHA256:\(short)", "SHA256:\(digits)0", "SHA256:\(short)g"] {
            #expect(throws: EnrolmentError(.fingerprint, "")) { try RootFingerprint(text) }
        }
    }
}
