import Crypto
import Foundation
import Identity
import PKI
import SwiftASN1
import TestSupport
import Testing
import X509

@Suite struct IdentityVerifierTests {
    let pki: TestPKI
    var now: UnixTime { self.pki.now }

    init() throws { self.pki = try TestPKI() }

    @Test("A good chain of every role is verified, with its name, key and hash", arguments: Role.allCases)
    func good(role: Role) throws {
        let party = try self.pki.issue(role, "party-9")
        let identity = try self.pki.verifier(demand: .current).verify(chain: party.chain, at: self.now)
        #expect(identity.spiffeID.rawValue == "spiffe://energy.example/\(role)/party-9")
        #expect(identity.publicKey.rawRepresentation == party.key.publicKey.rawRepresentation)
        #expect(identity.certificateHash == Array(SHA256.hash(data: party.certificate.der)))
        #expect(identity.validity.contains(self.now))
        #expect(identity.intermediate == party.intermediate)
    }

    @Test("A leaf alone is verified by a known intermediate, from DER too")
    func leafAlone() throws {
        let verifier = try self.pki.verifier()
        let auditor = self.pki.auditors[0]
        #expect(try verifier.verify(chain: [auditor.certificate], at: self.now).spiffeID == auditor.spiffeID)
        #expect(try verifier.verify(der: [auditor.certificate.der], at: self.now).spiffeID == auditor.spiffeID)
    }

    @Test("A chain brings its own intermediate to a verifier that knows the root alone")
    func bringsIntermediate() throws {
        let verifier = try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate])
        #expect(try verifier.verify(der: self.pki.auditors[0].chainDER, at: self.now).spiffeID.role == .auditor)
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try verifier.verify(chain: [self.pki.auditors[0].certificate], at: self.now)
        }
    }

    // MARK: One wrong thing in the leaf

    struct Fault: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let code: PKIError.Code
        let change: @Sendable (inout CertificateForge) throws -> Void

        init(
            _ description: String, _ code: PKIError.Code,
            _ change: @escaping @Sendable (inout CertificateForge) throws -> Void
        ) {
            self.testDescription = description
            self.code = code
            self.change = change
        }
    }

    static let uri = "spiffe://energy.example/auditor/auditor-1"

    static let leafFaults: [Fault] = [
        Fault("version 1", .version) { forge in
            forge.version = .v1
        },
        Fault("a P-384 key", .weakKey) { $0.publicKey = .init(P384.Signing.PrivateKey().publicKey) },
        Fault("an Ed25519 key", .weakKey) { $0.publicKey = .init(Curve25519.Signing.PrivateKey().publicKey) },
        Fault("signed with ecdsa-with-SHA384", .algorithm) { $0.signatureAlgorithm = .ecdsaWithSHA384 },
        Fault("an unknown critical extension", .extension) {
            $0.further = [.init(oid: [1, 3, 6, 1, 4, 1, 99999, 1], critical: true, value: [5, 0])]
        },
        Fault("no authority key identifier", .extension) { $0.authorityKeyIdentifier = nil },
        Fault("an empty authority key identifier", .extension) { $0.authorityKeyIdentifier = [] },
        Fault("malformed key usage", .extension) {
            $0.keyUsage = nil
            $0.further = [.init(oid: .X509ExtensionID.keyUsage, critical: true, value: [5, 0])]
        },
        Fault("malformed alternative names", .extension) {
            $0.names = []
            $0.further = [.init(oid: .X509ExtensionID.subjectAlternativeName, critical: false, value: [5, 0])]
        },
        Fault("no key usage", .keyUsage) { $0.keyUsage = nil },
        Fault("key usage without digitalSignature", .keyUsage) { $0.keyUsage = KeyUsage(keyAgreement: true) },
        Fault("key usage with keyCertSign", .keyUsage) {
            $0.keyUsage = KeyUsage(digitalSignature: true, keyCertSign: true)
        },
        Fault("key usage with cRLSign", .keyUsage) {
            $0.keyUsage = KeyUsage(digitalSignature: true, cRLSign: true)
        },
        Fault("no extended key usage", .keyUsage) { $0.extendedKeyUsage = nil },
        Fault("another extended key usage", .keyUsage) { $0.extendedKeyUsage = [.codeSigning] },
        Fault("serverAuth for an auditor", .keyUsage) { $0.extendedKeyUsage = [.serverAuth] },
        Fault("clientAuth and serverAuth", .keyUsage) { $0.extendedKeyUsage = [.clientAuth, .serverAuth] },
        Fault("any extended key usage", .keyUsage) { $0.extendedKeyUsage = [.clientAuth, .any] },
        Fault("an authority as a leaf", .keyUsage) {
            $0.basicConstraints = .isCertificateAuthority(maxPathLength: nil)
        },
        Fault("no alternative name", .name) { $0.names = [] },
        Fault("two URI names", .name) { $0.names.append(.uniformResourceIdentifier(Self.uri)) },
        Fault("a DNS name for an auditor", .name) { $0.names.append(.dnsName("home.example")) },
        Fault("an e-mail name", .name) { $0.names.append(.rfc822Name("a@example.org")) },
        Fault("a URI that is no SPIFFE ID", .name) {
            $0.names = [.uniformResourceIdentifier("https://energy.example/auditor/auditor-1")]
        },
        Fault("an unknown role", .name) {
            $0.names = [.uniformResourceIdentifier("spiffe://energy.example/admin/auditor-1")]
        },
        Fault("a SPIFFE ID with a path that goes on", .name) {
            $0.names = [.uniformResourceIdentifier(Self.uri + "/x")]
        },
        Fault("another common name", .name) { $0.subject = try DistinguishedName { CommonName("auditor-2") } },
        Fault("a common name in another case", .name) {
            $0.subject = try DistinguishedName { CommonName("Auditor-1") }
        },
        Fault("no common name", .name) { $0.subject = try DistinguishedName { OrganizationName("auditor-1") } },
        Fault("two common names", .name) {
            $0.subject = try DistinguishedName {
                CommonName("auditor-1")
                CommonName("auditor-2")
            }
        },
        Fault("another trust domain", .trustDomain) {
            $0.names = [.uniformResourceIdentifier("spiffe://other.example/auditor/auditor-1")]
        },
        Fault("an issuer of another name", .unknownIssuer) {
            $0.issuer = try DistinguishedName { CommonName("Nobody") }
        },
        Fault("an issuer of another key identifier", .unknownIssuer) { $0.authorityKeyIdentifier = [1, 2, 3] },
        Fault("signed by another key", .signature) { $0.issuerKey = SigningKey().certificateKey },
        Fault("validity that ends before it begins", .expired) { $0.notAfter = $0.notBefore - 1 },
    ]

    @Test("A leaf with one fault is refused for it", arguments: Self.leafFaults)
    func leafFault(fault: Fault) throws {
        let verifier = try self.pki.verifier()
        var forge = try CertificateForge(self.pki.intermediate, at: self.now)
        #expect(throws: Never.self) { try verifier.verify(chain: [try forge.make()], at: self.now) }
        try fault.change(&forge)
        let leaf = try forge.make()
        #expect(throws: PKIError(fault.code, "")) { try verifier.verify(chain: [leaf], at: self.now) }
        #expect(throws: PKIError(fault.code, "")) {
            try verifier.verify(der: [leaf.der, self.pki.intermediate.certificate.der], at: self.now)
        }
    }

    @Test("A broker may have host names but no clientAuth")
    func broker() throws {
        let verifier = try self.pki.verifier()
        var forge = try CertificateForge(self.pki.intermediate, at: self.now)
        forge.subject = try DistinguishedName { CommonName("b") }
        forge.names = [.uniformResourceIdentifier("spiffe://energy.example/broker/b"), .dnsName("b.example")]
        forge.extendedKeyUsage = [.serverAuth]
        #expect(try verifier.verify(chain: [try forge.make()], at: self.now).spiffeID.role == .broker)
        forge.extendedKeyUsage = [.serverAuth, .clientAuth]
        #expect(throws: PKIError(.keyUsage, "")) { try verifier.verify(chain: [try forge.make()], at: self.now) }
    }

    // MARK: One wrong thing in the intermediate

    static let intermediateFaults: [Fault] = [
        Fault("version 1", .version) { $0.version = .v1 },
        Fault("signed with ecdsa-with-SHA512", .algorithm) { $0.signatureAlgorithm = .ecdsaWithSHA512 },
        Fault("an unknown critical extension", .extension) {
            $0.further = [.init(oid: [1, 3, 6, 1, 4, 1, 99999, 1], critical: true, value: [5, 0])]
        },
        Fault("name constraints", .extension) {
            $0.further = [
                try .init(NameConstraints(permittedDNSDomains: ["energy.example"]), critical: false)
            ]
        },
        Fault("no subject key identifier", .extension) { $0.subjectKeyIdentifier = nil },
        Fault("not an authority", .keyUsage) { $0.basicConstraints = .notCertificateAuthority },
        Fault("no basic constraints", .keyUsage) { $0.basicConstraints = nil },
        Fault("basic constraints that are not critical", .keyUsage) {
            $0.basicConstraints = nil
            $0.further = [
                try .init(BasicConstraints.isCertificateAuthority(maxPathLength: 0), critical: false)
            ]
        },
        Fault("a subject key identifier of 65 bytes", .extension) {
            $0.subjectKeyIdentifier = [UInt8](repeating: 1, count: 65)
        },
        Fault("no keyCertSign", .keyUsage) { $0.keyUsage = KeyUsage(digitalSignature: true, cRLSign: true) },
        Fault("no key usage", .keyUsage) { $0.keyUsage = nil },
        Fault("for servers only", .keyUsage) { $0.extendedKeyUsage = [.serverAuth] },
        Fault("an issuer of another name", .unknownIssuer) {
            $0.issuer = try DistinguishedName { CommonName("Nobody") }
        },
        Fault("signed by another key", .signature) { $0.issuerKey = SigningKey().certificateKey },
        Fault("expired", .expired) { $0.notAfter = $0.notBefore + 30 },
        Fault("not yet valid", .notYetValid) { $0.notBefore += 120 },
    ]

    @Test("An intermediate with one fault is refused for it", arguments: Self.intermediateFaults)
    func intermediateFault(fault: Fault) throws {
        let verifier = try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate])
        let key = SigningKey()
        var forge = try CertificateForge(intermediateOf: self.pki.root, key: key, at: self.now)
        var leaf = try CertificateForge(self.pki.intermediate, at: self.now)
        leaf.issuer = forge.subject
        leaf.issuerKey = key.certificateKey
        leaf.authorityKeyIdentifier = forge.subjectKeyIdentifier
        let certificate = try leaf.make()
        #expect(throws: Never.self) { try verifier.verify(chain: [certificate, try forge.make()], at: self.now) }
        try fault.change(&forge)
        let intermediate = try forge.make()
        #expect(throws: PKIError(fault.code, "")) {
            try verifier.verify(chain: [certificate, intermediate], at: self.now)
        }
    }

    @Test("An intermediate with a P-384 key is refused")
    func intermediateKey() throws {
        let verifier = try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate])
        let key = P384.Signing.PrivateKey()
        var forge = try CertificateForge(intermediateOf: self.pki.root, key: SigningKey(), at: self.now)
        forge.publicKey = .init(key.publicKey)
        let intermediate = try forge.make()
        #expect(throws: PKIError(.weakKey, "")) {
            try verifier.verify(chain: [self.pki.auditors[0].certificate, intermediate], at: self.now)
        }
    }

    // MARK: Shape

    @Test("A leaf cannot issue")
    func leafIssues() throws {
        let verifier = try self.pki.verifier()
        let auditor = self.pki.auditors[0]
        var forge = try CertificateForge(self.pki.intermediate, at: self.now)
        forge.issuer = auditor.certificate.subject
        forge.issuerKey = auditor.key.certificateKey
        forge.authorityKeyIdentifier = Array(
            SubjectKeyIdentifier(hash: auditor.certificate.publicKey).keyIdentifier)
        let leaf = try forge.make()
        #expect(throws: PKIError(.keyUsage, "")) {
            try verifier.verify(chain: [leaf, auditor.certificate], at: self.now)
        }
        #expect(throws: PKIError(.unknownIssuer, "")) { try verifier.verify(chain: [leaf], at: self.now) }
    }

    @Test("A leaf that the root issued itself is refused: the shape is leaf, intermediate, root")
    func leafOfRoot() throws {
        let leaf = try CertificateForge(self.pki.root, at: self.now).make()
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try self.pki.verifier().verify(chain: [leaf], at: self.now)
        }
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try self.pki.verifier().verify(chain: [leaf, self.pki.intermediate.certificate], at: self.now)
        }
    }

    @Test("An authority below the intermediate is refused")
    func deeper() throws {
        let below = try self.pki.intermediate.makeIntermediate(trustDomain: self.pki.trustDomain, at: self.now)
        let leaf = try below.issue(
            .auditor(try Identifier("auditor-1"), in: self.pki.trustDomain), to: SigningKey().publicKey, at: self.now)
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try self.pki.verifier().verify(chain: [leaf, below.certificate], at: self.now)
        }
    }

    @Test("A root that allows no intermediate is obeyed")
    func rootPathLength() throws {
        let key = SigningKey()
        var forge = try CertificateForge(intermediateOf: self.pki.root, key: key, at: self.now)
        forge.issuer = forge.subject
        forge.issuerKey = key.certificateKey
        forge.authorityKeyIdentifier = forge.subjectKeyIdentifier
        let root = try Authority(certificate: try forge.make(), key: key)
        let intermediate = try root.makeIntermediate(trustDomain: self.pki.trustDomain, at: self.now)
        let leaf = try intermediate.issue(
            .auditor(try Identifier("auditor-1"), in: self.pki.trustDomain), to: SigningKey().publicKey, at: self.now)
        let verifier = try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [root.certificate])
        #expect(throws: PKIError(.keyUsage, "")) {
            try verifier.verify(chain: [leaf, intermediate.certificate], at: self.now)
        }
    }

    @Test("The chain of another PKI with the same names is refused")
    func foreign() throws {
        let foreign = try self.pki.foreign()
        let verifier = try self.pki.verifier()
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try verifier.verify(chain: foreign.auditors[0].chain, at: self.now)
        }
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try verifier.verify(chain: [foreign.auditors[0].certificate], at: self.now)
        }
    }

    @Test("A chain of none or of three is refused", arguments: [0, 3])
    func length(count: Int) throws {
        let auditor = self.pki.auditors[0]
        let chain = Array((auditor.chain + [self.pki.root.certificate])[..<count])
        #expect(throws: PKIError(.chain, "")) { try self.pki.verifier().verify(chain: chain, at: self.now) }
        #expect(throws: PKIError(.chain, "")) {
            try self.pki.verifier().verify(der: chain.map(\.der), at: self.now)
        }
    }

    @Test("A chain that is too long is refused before it is parsed")
    func longChain() throws {
        #expect(throws: PKIError(.chain, "")) {
            try self.pki.verifier().verify(der: [[], [], []], at: self.now)
        }
    }

    @Test("Bytes that are no certificate, or too many, are refused")
    func bytes() throws {
        let verifier = try self.pki.verifier()
        let good = self.pki.auditors[0].certificate.der
        for bytes in [[], [0x30, 0x80], Array(good.dropLast()), good + [0]] {
            #expect(throws: PKIError(.format, "")) { try verifier.verify(der: [bytes], at: self.now) }
        }
        let long = [UInt8](repeating: 0x30, count: Certificate.maximumSize + 1)
        #expect(throws: PKIError(.tooLarge, "")) { try verifier.verify(der: [long], at: self.now) }
    }

    @Test("A changed bit anywhere in the signed part or the signature is refused")
    func changedBit() throws {
        let verifier = try self.pki.verifier()
        let good = self.pki.auditors[0].certificate
        for index in good.der.indices {
            var bytes = good.der
            bytes[index] ^= 0x01
            let refusal = #expect(throws: PKIError.self) { try verifier.verify(der: [bytes], at: self.now) }
            #expect(refusal != nil, "the bit in byte \(index) does not count")
        }
    }

    @Test("A signature that claims an unused bit is no second form of a certificate")
    func unusedBit() throws {
        // Only a signature that ends with a zero bit can claim it, so one is searched for.
        var certificate = self.pki.auditors[0].certificate
        while certificate.der.last?.isMultiple(of: 2) != true {
            certificate = try self.pki.issue(.auditor, "auditor-1").certificate
        }
        var bytes = certificate.der
        let at = bytes.count - certificate.signature.rawRepresentation.count - 1
        #expect(bytes[at] == 0)
        bytes[at] = 1
        #expect(throws: PKIError(.format, "")) { try self.pki.verifier().verify(der: [bytes], at: self.now) }
        #expect(throws: PKIError(.format, "")) { try self.pki.gate().admit(leaf: bytes, at: self.now) }
    }

    /// A good certificate whose algorithms, inside and outside the signed part, end with these bytes (2 is SHA-256,
    /// 3 is SHA-384), properly signed.
    func certificate(algorithmInside: UInt8, outside: UInt8) throws -> [UInt8] {
        let algorithm: [UInt8] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03]
        var body = Array(self.pki.auditors[0].certificate.tbsCertificateBytes)
        body[try #require(body.firstRange(of: algorithm + [2])).upperBound - 1] = algorithmInside
        let signature = try self.pki.intermediate.key.sign(SHA256.hash(data: body)).derRepresentation
        return wrap(
            0x30,
            body + wrap(0x30, wrap(0x06, algorithm + [outside])) + wrap(0x03, [0] + Array(signature)))
    }

    @Test("The algorithm is ecdsa-with-SHA256 inside the signed part and outside")
    func algorithms() throws {
        let verifier = try self.pki.verifier()
        #expect(throws: Never.self) {
            try verifier.verify(der: [try self.certificate(algorithmInside: 2, outside: 2)], at: self.now)
        }
        for (inside, outside) in [(UInt8(3), UInt8(2)), (2, 3), (3, 3)] {
            let bytes = try self.certificate(algorithmInside: inside, outside: outside)
            #expect(throws: PKIError(.algorithm, "")) { try verifier.verify(der: [bytes], at: self.now) }
        }
    }

    // MARK: Time

    @Test("Validity is judged at the given time, both ends included")
    func time() throws {
        let verifier = try self.pki.verifier()
        let auditor = try self.pki.issue(.auditor, "auditor-1", lifetime: 1_000)
        let (first, last) = (self.now - Authority.backdating, self.now + 1_000)
        for time in [first, self.now, last] {
            #expect(throws: Never.self) { try verifier.verify(chain: auditor.chain, at: time) }
        }
        #expect(throws: PKIError(.notYetValid, "")) { try verifier.verify(chain: auditor.chain, at: first - 1) }
        #expect(throws: PKIError(.expired, "")) { try verifier.verify(chain: auditor.chain, at: last + 1) }
    }

    @Test("The root's own validity counts")
    func rootExpires() throws {
        let root = try Authority.makeRoot(trustDomain: self.pki.trustDomain, at: self.now, lifetime: 100)
        // An intermediate that outlives its root.
        let key = SigningKey()
        var forge = try CertificateForge(intermediateOf: root, key: key, at: self.now)
        forge.notAfter = self.now + 10_000
        let intermediate = try Authority(certificate: try forge.make(), key: key)
        let leaf = try intermediate.issue(
            .auditor(try Identifier("auditor-1"), in: self.pki.trustDomain), to: SigningKey().publicKey, at: self.now)
        let verifier = try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [root.certificate])
        let chain = [leaf, intermediate.certificate]
        #expect(try verifier.verify(chain: chain, at: self.now + 100).validity.upperBound == self.now + 100)
        #expect(throws: PKIError(.expired, "")) { try verifier.verify(chain: chain, at: self.now + 101) }
    }

    @Test("An authority never issues beyond its own end")
    func cut() throws {
        let root = try Authority.makeRoot(trustDomain: self.pki.trustDomain, at: self.now, lifetime: 100)
        let intermediate = try root.makeIntermediate(trustDomain: self.pki.trustDomain, at: self.now)
        #expect(intermediate.certificate.notValidAfter == root.certificate.notValidAfter)
        let leaf = try intermediate.issue(
            .auditor(try Identifier("a"), in: self.pki.trustDomain), to: SigningKey().publicKey, at: self.now)
        #expect(leaf.notValidAfter == root.certificate.notValidAfter)
    }

    // MARK: Role

    @Test("A role that is not asked for is refused")
    func role() throws {
        let verifier = try self.pki.verifier()
        let chain = self.pki.operators[0].chain
        #expect(throws: PKIError(.role, "")) { try verifier.verify(chain: chain, at: self.now, roles: [.auditor]) }
        #expect(throws: Never.self) { try verifier.verify(chain: chain, at: self.now, roles: [.operator]) }
    }

    // MARK: Revocation

    @Test("A revoked leaf is refused, others of the same issuer are not")
    func revoked() throws {
        let verifier = try self.pki.verifier(revoking: [self.pki.auditors[0]])
        #expect(throws: PKIError(.revoked, "")) {
            try verifier.verify(chain: self.pki.auditors[0].chain, at: self.now)
        }
        #expect(throws: Never.self) { try verifier.verify(chain: self.pki.auditors[1].chain, at: self.now) }
    }

    @Test("Under a revoked intermediate everyone is refused")
    func revokedIntermediate() throws {
        let list = try self.pki.root.makeRevocationList(
            number: 2,
            entries: [.init(self.pki.intermediate.certificate, revokedAt: self.now, reason: .caCompromise)],
            at: self.now)
        let verifier = try IdentityVerifier(
            trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate],
            intermediates: [self.pki.intermediate.certificate], revocationLists: [list])
        #expect(throws: PKIError(.revoked, "")) {
            try verifier.verify(chain: self.pki.auditors[0].chain, at: self.now)
        }
    }

    @Test("A newer list revokes an identity that was verified before")
    func standing() throws {
        var verifier = try self.pki.verifier()
        let identity = try verifier.verify(chain: self.pki.auditors[0].chain, at: self.now)
        #expect(throws: Never.self) { try verifier.requireStanding(identity, at: self.now) }
        try verifier.update(try self.pki.revocationLists(revoking: [self.pki.auditors[0]], number: 2))
        #expect(throws: PKIError(.revoked, "")) { try verifier.requireStanding(identity, at: self.now) }
        #expect(throws: PKIError(.expired, "")) {
            try verifier.requireStanding(identity, at: identity.validity.upperBound + 1)
        }
        #expect(throws: PKIError(.notYetValid, "")) {
            try verifier.requireStanding(identity, at: identity.validity.lowerBound - 1)
        }
    }

    @Test("An older list does not undo a revocation")
    func rollback() throws {
        var verifier = try self.pki.verifier()
        try verifier.update(try self.pki.revocationLists(revoking: [self.pki.auditors[0]], number: 5))
        #expect(throws: PKIError(.crlOutdated, "")) {
            try verifier.update(try self.pki.revocationLists(number: 4))
        }
        #expect(throws: PKIError(.revoked, "")) {
            try verifier.verify(chain: self.pki.auditors[0].chain, at: self.now)
        }
    }

    @Test("Of two lists given at the start the newer one counts", arguments: [false, true])
    func newest(reversed: Bool) throws {
        let lists =
            try self.pki.revocationLists(number: 1)
            + self.pki.revocationLists(revoking: [self.pki.auditors[0]], number: 2)
        let verifier = try IdentityVerifier(
            trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate],
            intermediates: [self.pki.intermediate.certificate], revocationLists: reversed ? lists.reversed() : lists)
        #expect(throws: PKIError(.revoked, "")) {
            try verifier.verify(chain: self.pki.auditors[0].chain, at: self.now)
        }
    }

    @Test("A list that is past its next update locks nobody out, unless a current one is demanded")
    func expiredList() throws {
        let lists = try self.pki.revocationLists(revoking: [self.pki.auditors[0]], lifetime: 10)
        for demand in [RevocationDemand.lastKnown, .current] {
            let verifier = try IdentityVerifier(
                trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate],
                intermediates: [self.pki.intermediate.certificate], revocationLists: lists, demand: demand)
            #expect(throws: Never.self) { try verifier.verify(chain: self.pki.auditors[1].chain, at: self.now + 10) }
            // Revoked stays revoked, whatever the age of the list.
            #expect(throws: PKIError(.revoked, "")) {
                try verifier.verify(chain: self.pki.auditors[0].chain, at: self.now + 11)
            }
            guard demand == .current else {
                #expect(throws: Never.self) {
                    try verifier.verify(chain: self.pki.auditors[1].chain, at: self.now + 11)
                }
                continue
            }
            #expect(throws: PKIError(.crlExpired, "")) {
                try verifier.verify(chain: self.pki.auditors[1].chain, at: self.now + 11)
            }
        }
    }

    @Test("Where a current list is demanded, one is needed of root and intermediate", arguments: [0, 1])
    func missingList(kept: Int) throws {
        let verifier = try IdentityVerifier(
            trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate],
            intermediates: [self.pki.intermediate.certificate],
            revocationLists: [try self.pki.revocationLists()[kept]], demand: .current)
        #expect(throws: PKIError(.crlMissing, "")) {
            try verifier.verify(chain: self.pki.auditors[0].chain, at: self.now)
        }
    }

    @Test("A list of a foreign authority, or with another's signature, is not taken")
    func foreignList() throws {
        let foreign = try self.pki.foreign()
        var verifier = try self.pki.verifier()
        #expect(throws: PKIError(.unknownIssuer, "")) {
            try verifier.update(try foreign.revocationLists(revoking: [foreign.auditors[0]], number: 9))
        }
        var bytes = try self.pki.revocationLists(number: 9)[1].der
        bytes[bytes.count - 1] ^= 1
        let broken = try RevocationList(der: bytes)
        #expect(throws: PKIError(.signature, "")) { try verifier.update([broken]) }
        #expect(throws: PKIError(.signature, "")) {
            try IdentityVerifier(
                trustDomain: self.pki.trustDomain, roots: [self.pki.root.certificate],
                intermediates: [self.pki.intermediate.certificate], revocationLists: [broken])
        }
    }

    // MARK: Roots

    @Test("Without a root, or with one that is not fit, there is no verifier")
    func roots() throws {
        #expect(throws: PKIError(.chain, "")) {
            try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [])
        }
        #expect(throws: PKIError(.keyUsage, "")) {
            try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [self.pki.auditors[0].certificate])
        }
        // An intermediate is no root: it is not self-signed.
        #expect(throws: PKIError(.signature, "")) {
            try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [self.pki.intermediate.certificate])
        }
        let key = SigningKey()
        var forge = try CertificateForge(intermediateOf: self.pki.root, key: key, at: self.now)
        forge.version = .v1
        forge.issuer = forge.subject
        forge.issuerKey = key.certificateKey
        #expect(throws: PKIError(.version, "")) {
            try IdentityVerifier(trustDomain: self.pki.trustDomain, roots: [try forge.make()])
        }
    }
}
