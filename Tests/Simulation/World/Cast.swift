import COSE
import Crypto
import Identity
import PKI
import Telemetry
import TestSupport

/// Everybody with a certificate. Made once: keys are random, but no decision depends on their bytes.
struct Cast: Sendable {
    static let most = 4

    let pki: TestPKI
    let auditors: [TestPKI.Party]
    let center: TestPKI.Party
    /// Has an auditor's certificate and means no good.
    let insider: TestPKI.Party
    let person: TestPKI.Party
    let verifier: IdentityVerifier
    let centerIdentity: VerifiedIdentity
    /// The start of every run.
    let start: Timestamp

    static let shared = Result { try Cast() }

    private init() throws {
        let names = (0..<Self.most).map { "home-\($0)" }
        self.pki = try TestPKI(now: 1_790_000_000, auditors: names + ["insider"])
        self.auditors = try names.map { [pki] in try pki.auditor($0) }
        self.center = self.pki.controlCenter
        self.insider = try self.pki.auditor("insider")
        self.person = self.pki.operators[0]
        self.verifier = try self.pki.verifier()
        self.centerIdentity = try self.verifier.verify(der: self.center.chainDER, at: 1_790_000_100)
        self.start = Timestamp(seconds: 1_790_000_100)
    }
}

/// Signs with a party's key, under any name.
struct PartySigner: Signer {
    var issuer: SPIFFEID
    var certificateHash: CertificateHash
    var key: SigningKey

    init(_ party: TestPKI.Party, as issuer: SPIFFEID? = nil) throws {
        self.issuer = issuer ?? party.spiffeID
        self.certificateHash = CertificateHash(hashing: party.certificate.der)
        self.key = party.key
    }

    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature {
        try self.key.sign(digest)
    }
}
