import CertificateAuthority
import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

/// EST as a device without any software of ours speaks it: curl and openssl.
@Suite(
    .enabled(if: OpenSSL.isInstalled && ChildProcess.find("curl") != nil, "openssl or curl is not installed"))
struct EnrolmentTests {
    @Test("A device enrols with curl and openssl alone, and openssl verifies its certificate strictly")
    func enrols() async throws {
        try await withAuthority { ca in
            let authorities = try await ca.curl(["\(ca.base)/.well-known/est/cacerts"])
            #expect(authorities.status == 200)
            #expect(try await ca.certificates(authorities) == [ca.authority.issuing, ca.authority.root])

            let token = try ca.invite("mona")
            let body = try await ca.body(try await ca.request("mona"))
            let answer = try await ca.enroll("mona", token: token, body: body)
            #expect(answer.status == 200, "\(answer.text)")
            // A certs-only message (RFC 5652) whatever reads it.
            let parsed = try await OpenSSL.run(
                ["asn1parse", "-inform", "DER"],
                input: Array(try #require(Data(base64Encoded: answer.text.filter { !$0.isWhitespace }))))
            #expect(parsed.status == 0 && parsed.output.contains("pkcs7-signedData"), "\(parsed.errorOutput)")
            let leaf = try #require(try await ca.certificates(answer).first)
            let verifier = try IdentityVerifier(
                trustDomain: try ca.authority.trustDomain, roots: [ca.authority.root],
                intermediates: [ca.authority.issuing], revocationLists: try ca.authority.revocationLists(),
                demand: .current)
            let identity = try verifier.verify(chain: [leaf], at: ca.now + 1)
            #expect(identity.spiffeID.rawValue == "spiffe://energy.example/auditor/mona")

            let path = try ca.directory.write(leaf.pemText, to: "leaf.pem")
            let verdict = try await OpenSSL.run([
                "verify", "-x509_strict", "-crl_check_all", "-purpose", "sslclient", "-CAfile", ca.rootPath,
                "-untrusted", AuthorityDirectory.issuingPath(in: ca.authority.path), "-CRLfile",
                AuthorityDirectory.revocationListsPath(in: ca.authority.path), path,
            ])
            #expect(verdict.status == 0, "\(verdict.errorOutput)")
            // The key of the request, not another one.
            let ours = try await OpenSSL.run(["x509", "-in", path, "-noout", "-pubkey"]).output
            #expect(try await OpenSSL.run(["pkey", "-in", ca.directory.path("mona.key"), "-pubout"]).output == ours)
        }
    }

    @Test("openssl parses what EST wants of a request")
    func requestAttributes() async throws {
        try await withAuthority { ca in
            let answer = try await ca.curl(["\(ca.base)/.well-known/est/csrattrs"])
            let der = Array(try #require(Data(base64Encoded: answer.text.filter { !$0.isWhitespace })))
            let text = try await OpenSSL.run(["asn1parse", "-inform", "DER"], input: der).output
            for name in ["id-ecPublicKey", "prime256v1", "ecdsa-with-SHA256"] {
                #expect(text.contains(name), "\(text)")
            }
        }
    }

    @Test("The same key may fetch its certificate again with the same token; another key may not")
    func again() async throws {
        try await withAuthority { ca in
            let token = try ca.invite("mona")
            let body = try await ca.body(try await ca.request("mona"))
            let first = try await ca.enroll("mona", token: token, body: body)
            let second = try await ca.enroll("mona", token: token, body: body)
            #expect(first.status == 200 && first.body == second.body)
            let other = try await ca.body(try await ca.request("mona", name: "other"))
            let third = try await ca.enroll("mona", token: token, body: other)
            #expect(third.status == 409)
            #expect(third.reason == "token-used")
            #expect(try ca.authority.issued().filter { $0.spiffeID.role == .auditor }.count == 1)
            // What was revoked is not given out again.
            _ = try ca.authority.revoke(try Identifier("mona"), reason: .superseded, at: ca.now)
            #expect(try await ca.enroll("mona", token: token, body: body).reason == "revoked")
        }
    }

    @Test("Wrong, foreign and missing tokens are refused with one word, expired ones with another")
    func tokens() async throws {
        try await withAuthority { ca in
            let token = try ca.invite("mona")
            _ = try ca.invite("lena")
            let body = try await ca.body(try await ca.request("mona"))
            for (id, secret) in [
                ("mona", "x"), ("lena", token), ("nobody", token), ("Mona", token), ("mona", ""), ("mona", token + "0"),
            ] {
                let answer = try await ca.enroll(id, token: secret, body: body)
                #expect(answer.status == 401 && answer.reason == "token", "\(id): \(answer.text)")
            }
            let missing = try await ca.curl(["--data", body, "\(ca.base)/.well-known/est/simpleenroll"])
            #expect(missing.status == 401)
            let late = EnrolmentToken()
            _ = try ca.authority.invite(
                .auditor(try Identifier("late"), in: try ca.authority.trustDomain), lifetime: 1, at: ca.now - 100,
                requester: "test", token: late)
            let expired = try await ca.enroll(
                "late", token: late.text, body: try await ca.body(try await ca.request("late")))
            #expect(expired.status == 403 && expired.reason == "token-expired")
            // A newer invitation takes the place of an older one.
            let newer = try ca.invite("mona")
            #expect(try await ca.enroll("mona", token: token, body: body).reason == "token")
            #expect(try await ca.enroll("mona", token: newer, body: body).status == 200)
        }
    }

    @Test("Who offers too many wrong tokens has to wait, even with the right one")
    func rateLimit() async throws {
        try await withAuthority(maximumFailures: 3) { ca in
            let token = try ca.invite("mona")
            let body = try await ca.body(try await ca.request("mona"))
            for _ in 0..<3 { #expect(try await ca.enroll("mona", token: "wrong", body: body).status == 401) }
            let answer = try await ca.enroll("mona", token: token, body: body)
            #expect(answer.status == 429 && answer.reason == "too-many")
        }
    }

    /// A request that is wrong in one way.
    struct Wrong: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let reason: String
        let id: String
        let options: [String]

        init(_ description: String, _ reason: String, id: String = "mona", _ options: [String] = []) {
            self.testDescription = description
            self.reason = reason
            self.id = id
            self.options = options
        }
    }

    @Test(
        "A request for more than the profile gives is refused with its word",
        arguments: [
            Wrong("another common name", "name", id: "lena"),
            Wrong("another host name", "name", ["-addext", "subjectAltName=DNS:broker.energy.example"]),
            Wrong(
                "another SPIFFE ID", "name",
                ["-addext", "subjectAltName=URI:spiffe://energy.example/control-center/mona"]),
            Wrong("an e-mail address", "name", ["-addext", "subjectAltName=email:mona@energy.example"]),
            Wrong("an authority", "key-usage", ["-addext", "basicConstraints=critical,CA:TRUE"]),
            Wrong("an authority's usage", "key-usage", ["-addext", "keyUsage=keyCertSign"]),
            Wrong("a server's usage", "key-usage", ["-addext", "extendedKeyUsage=serverAuth"]),
            Wrong("a P-384 key", "weak-key", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
            Wrong("an RSA key", "weak-key", ["-newkey", "rsa:2048"]),
            Wrong("a short RSA key", "weak-key", ["-newkey", "rsa:1024"]),
            Wrong("an Ed25519 key", "weak-key", ["-newkey", "ed25519"]),
            Wrong("a secp256k1 key", "weak-key", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"]),
            Wrong("SHA-512", "algorithm", ["-sha512"]),
            Wrong("SHA-1", "algorithm", ["-sha1"]),
        ])
    func wrong(wrong: Wrong) async throws {
        try await withAuthority { ca in
            let token = try ca.invite("mona")
            let body = try await ca.body(try await ca.request(wrong.id, wrong.options))
            let answer = try await ca.enroll("mona", token: token, body: body)
            #expect(answer.status == 400 && answer.reason == wrong.reason, "\(answer.text)")
            // The token is not used up by it.
            let good = try await ca.body(try await ca.request("mona", name: "good"))
            #expect(try await ca.enroll("mona", token: token, body: good).status == 200)
        }
    }

    @Test("A broken signature, garbage and too much are refused with their words")
    func broken() async throws {
        try await withAuthority { ca in
            let token = try ca.invite("mona")
            let request = try await ca.request("mona")
            var der = try await OpenSSL.run(["req", "-in", request, "-outform", "DER"]).outputBytes
            der[der.count - 1] ^= 1
            let forged = try await ca.enroll("mona", token: token, body: Data(der).base64EncodedString())
            #expect(forged.reason == "possession", "\(forged.text)")
            #expect(try await ca.enroll("mona", token: token, body: "AAAA").reason == "format")
            #expect(try await ca.enroll("mona", token: token, body: "!").reason == "format")
            let path = try ca.directory.write([UInt8](repeating: 0x41, count: 20_000), to: "long")
            let long = try await ca.enroll("mona", token: token, body: "@\(path)")
            #expect(long.status == 413 && long.reason == "too-large")
        }
    }

    @Test(
        "IDs that could mean something elsewhere are refused",
        arguments: [
            "a+b", "a#", "a/b", "all", "", "m\u{00F6}na", "\u{043C}ona", String(repeating: "a", count: 65), "a b",
        ])
    func identifiers(id: String) async throws {
        try await withAuthority { ca in
            try ca.issue(.operator, "olga")
            let json = try #require(String(data: try JSONEncoder().encode(["id": id]), encoding: .utf8))
            let answer = try await ca.api("/api/invite", json, client: "olga")
            #expect(answer.status == 400 && answer.reason == "name", "\(answer.text)")
        }
    }

    @Test("A NUL in an ID is refused too") func nul() async throws {
        try await withAuthority { ca in
            try ca.issue(.operator, "olga")
            let answer = try await ca.api("/api/invite", #"{"id":"mona\u0000"}"#, client: "olga")
            #expect(answer.status == 400 && answer.reason == "name", "\(answer.text)")
        }
    }

    // MARK: Renewal

    @Test("A device renews with its old certificate, under a new key")
    func renews() async throws {
        try await withAuthority { ca in
            try ca.issue(.auditor, "mona")
            let body = try await ca.body(try await ca.request("mona", name: "new"))
            let answer = try await ca.reenroll("mona", body: body)
            #expect(answer.status == 200, "\(answer.text)")
            let leaf = try #require(try await ca.certificates(answer).first)
            let record = try ca.authority.issued().filter { $0.spiffeID.role == .auditor }
            #expect(record.map(\.spiffeID.id.rawValue) == ["mona", "mona"])
            #expect(record.last?.certificateHash == leaf.sha256)
            #expect(record.last?.requester == "spiffe://energy.example/auditor/mona")
        }
    }

    @Test("Renewal without, with a foreign, and for another's certificate is refused")
    func foreignRenewal() async throws {
        try await withAuthority { ca in
            try ca.issue(.auditor, "mona")
            let body = try await ca.body(try await ca.request("mona", name: "new"))
            let none = try await ca.curl(["--data", body, "\(ca.base)/.well-known/est/simplereenroll"])
            #expect(none.status == 401 && none.reason == "certificate")
            let foreign = try TestPKI(auditors: ["mona"])
            try foreign.write(foreign.auditors[0], to: ca.directory.path, name: "foreign")
            let stranger = try await ca.reenroll("foreign", body: body)
            #expect(stranger.status == 403 && stranger.reason == "unknown-issuer", "\(stranger.text)")
            let other = try await ca.body(try await ca.request("lena", name: "lena"))
            #expect(try await ca.reenroll("mona", body: other).reason == "name")
            _ = try ca.authority.revoke(try Identifier("mona"), reason: .keyCompromise, at: ca.now)
            let revoked = try await ca.reenroll("mona", body: body)
            #expect(revoked.status == 403 && revoked.reason == "revoked")
        }
    }

    @Test("An expired certificate renews only on an operator's word, once, until it expires")
    func expired() async throws {
        try await withAuthority(age: 800 * 86_400) { ca in
            try ca.issue(.auditor, "mona", at: ca.now - 790 * 86_400)
            try ca.issue(.operator, "olga")
            let body = try await ca.body(try await ca.request("mona", name: "new"))
            let refused = try await ca.reenroll("mona", body: body)
            #expect(refused.status == 403 && refused.reason == "expired", "\(refused.text)")
            try ca.authority.allowRenewal(
                try Identifier("mona"), lifetime: 1, at: ca.now - 100, requester: "test")
            #expect(try await ca.reenroll("mona", body: body).reason == "expired")
            let word = try await ca.api("/api/renew-allow", #"{"id":"mona","note":"barn"}"#, client: "olga")
            #expect(word.status == 200, "\(word.text)")
            #expect(try await ca.reenroll("mona", body: body).status == 200)
            #expect(try await ca.reenroll("mona", body: body).reason == "expired")
        }
    }
}
