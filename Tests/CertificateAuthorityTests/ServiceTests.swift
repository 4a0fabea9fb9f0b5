import CertificateAuthority
import Enrolment
import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

/// What the authority serves besides enrolment: lists, OCSP, the operators' API.
@Suite(
    .enabled(if: OpenSSL.isInstalled && ChildProcess.find("curl") != nil, "openssl or curl is not installed"))
struct ServiceTests {
    @Test("The server shows a certificate of the role authority, over TLS 1.3 alone")
    func server() async throws {
        try await withAuthority { ca in
            let shown = try await OpenSSL.run([
                "s_client", "-connect", "127.0.0.1:\(ca.ports.https)", "-CAfile", ca.rootPath, "-verify_return_error",
                "-verify_hostname", "localhost", "-brief",
            ])
            #expect((shown.output + shown.errorOutput).contains("Protocol version: TLSv1.3"))
            #expect((shown.output + shown.errorOutput).contains("Verification: OK"), "\(shown.errorOutput)")
            let old = try await OpenSSL.run([
                "s_client", "-connect", "127.0.0.1:\(ca.ports.https)", "-tls1_2", "-brief",
            ])
            #expect(old.status != 0)
            let own = try #require(try ca.authority.issued().last { $0.spiffeID.role == .authority })
            #expect(own.spiffeID.rawValue == "spiffe://energy.example/authority/ca-1")
        }
    }

    @Test("An operator's client talks to an authority only: a broker under the same root gets no request")
    func impostor() async throws {
        try await withAuthority { ca in
            try ca.issue(.operator, "olga")
            let key = SigningKey()
            let broker = try ca.authority.issue(
                .broker(
                    try Identifier("b-1"), in: try ca.authority.trustDomain, hosts: [try HostName("127.0.0.1")]),
                to: key.publicKey, at: ca.now, requester: "test")
            try CertificateFile.create(ca.directory.path("b-1.pem"), [broker, ca.authority.issuing])
            try KeyFile.create(ca.directory.path("b-1.key"), key)
            let port = try freePort()
            let server = try ChildProcess(
                "openssl",
                [
                    "s_server", "-accept", "127.0.0.1:\(port)", "-cert", ca.directory.path("b-1.pem"), "-key",
                    ca.directory.path("b-1.key"), "-cert_chain", AuthorityDirectory.issuingPath(in: ca.authority.path),
                    "-tls1_3", "-quiet",
                ])
            defer { server.kill() }
            try await withDeadline(.seconds(20), "openssl listens") {
                while !isListening(port: port) { try await Task.sleep(for: .milliseconds(5)) }
            }
            for (port, isAuthority) in [(ca.ports.https, true), (port, false)] {
                let client = try AuthorityClient(
                    AuthorityAddress("https://127.0.0.1:\(port)"), roots: [ca.authority.root],
                    chain: try CertificateFile.read(ca.directory.path("olga.pem")),
                    key: try KeyFile.read(ca.directory.path("olga.key")))
                do {
                    #expect(try await !client.certificates().isEmpty)
                    #expect(isAuthority)
                } catch {
                    #expect(!isAuthority && "\(error)".contains("is not an authority"), "\(error)")
                }
                await client.close()
            }
            #expect(!server.output.contains("/api"))
        }
    }

    @Test("Brokers are told at the start of who was revoked just before, unless the party has another certificate")
    func recentlyRevoked() async throws {
        let (told, continuation) = AsyncStream<[String]>.makeStream()
        try await withAuthority(
            before: { authority, now in
                for (id, revokedAt) in [("mona", now - 60), ("lena", now - 60), ("anna", now - 7_200)] {
                    let profile = CertificateProfile.auditor(try Identifier(id), in: try authority.trustDomain)
                    _ = try authority.issue(profile, to: SigningKey().publicKey, at: now - 7_200)
                    _ = try authority.revoke(profile.spiffeID.id, reason: .keyCompromise, at: revokedAt)
                    guard id == "lena" else { continue }
                    _ = try authority.issue(profile, to: SigningKey().publicKey, at: now, renewing: true)
                }
            }, onLists: { _, revoked in continuation.yield(revoked.map(\.spiffeID.id.rawValue)) }
        ) { _ in
            let first = try await withDeadline(.seconds(30), "a broker is told") {
                var iterator = told.makeAsyncIterator()
                return await iterator.next()
            }
            #expect(first == ["mona"])
        }
    }

    @Test("What a device needs to know is told to anyone")
    func installation() async throws {
        try await withAuthority { ca in
            try ca.issue(.controlCenter, "cc-1")
            let answer = try await ca.curl(["\(ca.base)/installation"])
            let object = try #require(try JSONSerialization.jsonObject(with: Data(answer.body)) as? [String: Any])
            #expect(object["trust_domain"] as? String == "energy.example")
            #expect(object["broker_host"] as? String == "broker.energy.example")
            #expect(object["broker_port"] as? Int == 8_883)
            #expect(object["control_centers"] as? [String] == ["cc-1"])
        }
    }

    @Test("Lists are served over both ports, the newest at once after a revocation by another process")
    func lists() async throws {
        try await withAuthority { ca in
            try ca.issue(.auditor, "mona")
            for base in [ca.base, ca.publicBase] {
                for name in [
                    "issuing.crl", "root.crl", PublicationPoints.listName(of: ca.authority.issuing.keyIdentifier),
                    PublicationPoints.rootListName(of: ca.authority.root.keyIdentifier),
                ] {
                    let answer = try await ca.curl(["\(base)/crl/\(name)"])
                    #expect(answer.status == 200)
                    let list = try RevocationList(der: answer.body)
                    #expect(list.isSigned(by: name.hasPrefix("root") ? ca.authority.root : ca.authority.issuing))
                    #expect(list.count == 0)
                }
                #expect(try await ca.curl(["\(base)/crl/other.crl"]).status == 404)
            }
            _ = try ca.authority.revoke(try Identifier("mona"), reason: .keyCompromise, at: ca.now)
            let answer = try await ca.curl(["\(ca.publicBase)/crl/issuing.crl"])
            #expect(try RevocationList(der: answer.body).count == 1)
            let text = try await OpenSSL.run(["crl", "-inform", "DER", "-noout", "-text"], input: answer.body)
            #expect(text.output.contains("Key Compromise"))
        }
    }

    @Test(
        "The public port tells nothing else",
        arguments: ["/installation", "/.well-known/est/cacerts", "/api/events", "/"])
    func publicPort(path: String) async throws {
        try await withAuthority { ca in
            let answer = try await ca.curl(["\(ca.publicBase)\(path)"])
            #expect(answer.status == 404)
        }
    }

    // MARK: OCSP

    func ocsp(
        _ ca: RunningAuthority, _ certificate: Certificate, _ options: [String] = []
    ) async throws -> OpenSSL.Result {
        let leaf = try ca.directory.write(certificate.pemText, to: "\(UUID().uuidString).pem")
        let trust = try ca.directory.write(
            ca.authority.root.pemText + ca.authority.issuing.pemText, to: "\(UUID().uuidString).pem")
        let issuing = AuthorityDirectory.issuingPath(in: ca.authority.path)
        return try await OpenSSL.run(
            ["ocsp", "-issuer", issuing] + options + ["-cert", leaf, "-url", "\(ca.publicBase)/ocsp", "-CAfile", trust])
    }

    @Test("openssl ocsp agrees: good, revoked with reason, unknown", arguments: ["-sha1", "-sha256"])
    func openssl(hash: String) async throws {
        try await withAuthority { ca in
            let mona = try ca.issue(.auditor, "mona")
            let good = try await self.ocsp(ca, mona, [hash])
            #expect(good.errorOutput.contains("Response verify OK"), "\(good.errorOutput)")
            #expect(good.output.contains(": good"), "\(good.output)")
            #expect(!(good.output + good.errorOutput).contains("WARNING"), "the nonce comes back: \(good.errorOutput)")
            _ = try ca.authority.revoke(try Identifier("mona"), reason: .keyCompromise, at: ca.now)
            let revoked = try await self.ocsp(ca, mona, [hash])
            #expect(
                revoked.output.contains(": revoked") && revoked.output.contains("keyCompromise"), "\(revoked.output)")
            // Signed by the authority, and not in its record.
            let issuing = try Authority(
                certificate: ca.authority.issuing,
                key: try KeyFile.read(AuthorityDirectory.issuingKeyPath(in: ca.authority.path)))
            let ghost = try issuing.issue(
                .auditor(try Identifier("ghost"), in: try ca.authority.trustDomain), to: SigningKey().publicKey,
                at: ca.now)
            #expect(try await self.ocsp(ca, ghost, [hash]).output.contains(": unknown"))
        }
    }

    @Test("An answer to an earlier request is noticed by its nonce")
    func replay() async throws {
        try await withAuthority { ca in
            let mona = try ca.issue(.auditor, "mona")
            let (first, second) = (ca.directory.path("first.der"), ca.directory.path("second.der"))
            _ = try await self.ocsp(ca, mona, ["-reqout", first, "-respout", ca.directory.path("answer.der")])
            _ = try await self.ocsp(ca, mona, ["-reqout", second])
            let trust = try ca.directory.write(
                ca.authority.root.pemText + ca.authority.issuing.pemText, to: "trust.pem")
            func judge(_ request: String) async throws -> String {
                let result = try await OpenSSL.run([
                    "ocsp", "-reqin", request, "-respin", ca.directory.path("answer.der"), "-CAfile", trust,
                ])
                return result.output + result.errorOutput
            }
            #expect(try await judge(first).contains("Response verify OK"))
            #expect(try await judge(second).contains("Nonce Verify error"))
        }
    }

    @Test("Garbage gets a short answer that says so, by POST and GET")
    func garbage() async throws {
        try await withAuthority { ca in
            let path = try ca.directory.write([UInt8](repeating: 0x30, count: 5_000), to: "garbage")
            for body in ["@\(path)", "x", ""] {
                let answer = try await ca.curl(["--data-binary", body, "\(ca.publicBase)/ocsp"])
                #expect(answer.body == [0x30, 0x03, 0x0A, 0x01, 0x01])
            }
            #expect(try await ca.curl(["\(ca.publicBase)/ocsp/AAAA"]).body == [0x30, 0x03, 0x0A, 0x01, 0x01])
        }
    }

    // MARK: API

    @Test("An operator invites; the line is what the device is to be told")
    func invites() async throws {
        try await withAuthority { ca in
            try ca.issue(.operator, "olga")
            let answer = try await ca.api("/api/invite", #"{"id":"mona","lifetime":600}"#, client: "olga")
            #expect(answer.status == 200, "\(answer.text)")
            let invited = try JSONDecoder().decode(AuthorityAPI.Invited.self, from: Data(answer.body))
            #expect(
                invited.command
                    == "secure-mqtt auditor join \(invited.url) --id mona --token \(invited.token) "
                    + "--ca-fingerprint SHA256:\(ca.authority.root.sha256.hexadecimal)")
            let body = try await ca.body(try await ca.request("mona"))
            #expect(try await ca.enroll("mona", token: invited.token, body: body).status == 200)
            // Neither the token nor anything to guess it from is written down.
            let record = try String(
                contentsOfFile: AuthorityDirectory.recordPath(in: ca.authority.path), encoding: .utf8)
            #expect(!record.contains(invited.token))
            #expect(record.contains("spiffe://energy.example/operator/olga"))
            let taken = try await ca.api("/api/invite", #"{"id":"mona"}"#, client: "olga")
            #expect(taken.status == 400 && taken.reason == "name")
        }
    }

    @Test(
        "The API is for operators; events are for control centers too",
        arguments: ["/api/invite", "/api/revoke", "/api/renew-allow", "/api/certificates", "/api/events"])
    func roles(path: String) async throws {
        try await withAuthority { ca in
            for (role, id) in [(Role.operator, "olga"), (.controlCenter, "cc-1"), (.auditor, "mona")] {
                try ca.issue(role, id)
            }
            let json = path.hasSuffix("s") ? nil : #"{"id":"lena"}"#
            let none = try await ca.api(path, json, client: nil)
            #expect(none.status == 401 && none.reason == "certificate")
            #expect(try await ca.api(path, json, client: "mona").reason == "role")
            let center = try await ca.api(path, json, client: "cc-1")
            #expect(path == "/api/events" ? center.status == 200 : center.reason == "role", "\(center.text)")
            let allowed = try await ca.api(path, json, client: "olga")
            #expect(allowed.status != 403 && allowed.status != 401, "\(allowed.text)")
            _ = try ca.authority.revoke(try Identifier("olga"), reason: .superseded, at: ca.now)
            #expect(try await ca.api(path, json, client: "olga").reason == "revoked")
        }
    }

    @Test("Events are numbered, in order, and go on where one left off")
    func events() async throws {
        try await withAuthority { ca in
            try ca.issue(.controlCenter, "cc-1")
            try ca.issue(.operator, "olga")
            try ca.issue(.auditor, "mona")
            func events(after number: Int) async throws -> AuthorityAPI.Events {
                let answer = try await ca.api("/api/events?after=\(number)", nil, client: "cc-1")
                return try JSONDecoder().decode(AuthorityAPI.Events.self, from: Data(answer.body))
            }
            let before = try await events(after: 0)
            #expect(before.events.map(\.number) == before.events.map(\.number).sorted())
            #expect(before.events.last?.certificate.spiffeID == "spiffe://energy.example/auditor/mona")
            let revoked = try await ca.api(
                "/api/revoke", #"{"id":"mona","reason":"keyCompromise"}"#, client: "olga")
            #expect(revoked.status == 200, "\(revoked.text)")
            let after = try await events(after: before.last)
            #expect(after.events.map(\.event) == ["revoked"])
            #expect(after.events.first?.certificate.reason == "keyCompromise")
            #expect(after.events.first?.certificate.revoker == "spiffe://energy.example/operator/olga")
            #expect(try await events(after: after.last).events.isEmpty)
        }
    }

    @Test("The authority serves under an encrypted key; without its passphrase it does not start")
    func encrypted() async throws {
        try await withAuthority(passphrase: try Passphrase("correct horse")) { ca in
            let token = try ca.invite("mona")
            let body = try await ca.body(try await ca.request("mona"))
            #expect(try await ca.enroll("mona", token: token, body: body).status == 200)
            for source in [nil, try Passphrase("wrong").source] as [PassphraseSource?] {
                let locked = try AuthorityDirectory.open(ca.authority.path, passphrase: source)
                #expect(throws: PKIError(.passphrase, "")) { try locked.unlock() }
            }
        }
    }
}
