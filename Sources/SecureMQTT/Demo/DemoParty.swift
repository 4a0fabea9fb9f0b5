import Crypto
import Identity
import NIOSSL
import PKI
import PKITLS
import Telemetry
import X509

/// A party of the demo: its certificate, and its key, which only a demo may hold beside everybody else's.
struct DemoParty: Sendable {
    let spiffeID: SPIFFEID
    /// Leaf and intermediate.
    let chain: [Certificate]
    let key: SigningKey

    var id: Identifier { self.spiffeID.id }

    /// Issues its certificate.
    init(_ profile: CertificateProfile, from authority: Authority, at now: UnixTime) throws {
        self.spiffeID = profile.spiffeID
        self.key = SigningKey()
        self.chain = [
            try authority.issue(profile, to: self.key.publicKey, at: now), authority.certificate,
        ]
    }

    /// An auditor whose files are in a folder.
    init(folder: String) throws {
        self.chain = try CertificateFile.read("\(folder)/auditor.pem")
        self.key = try KeyFile.read("\(folder)/auditor.key")
        guard let name = self.chain[0].spiffeID else {
            throw CommandError(.badData, "the certificate \(self.chain[0].subject) has no SPIFFE ID")
        }
        self.spiffeID = name
    }

    /// What it shows in a TLS handshake.
    func credentials() throws -> DemoPeer.Credentials {
        DemoPeer.Credentials(
            chain: try self.chain.tlsCertificates, key: try self.key.tlsKey)
    }

    /// Signs in its name.
    var signer: DemoSigner { DemoSigner(party: self, key: self.key) }

    /// Claims its name and certificate, but signs with another key.
    func signer(withKeyOf other: DemoParty) -> DemoSigner { DemoSigner(party: self, key: other.key) }
}

/// A name, a certificate and a key that need not belong together.
struct DemoSigner: Signer {
    let issuer: SPIFFEID
    let certificateHash: CertificateHash
    private let key: SigningKey

    init(party: DemoParty, key: SigningKey) {
        self.issuer = party.spiffeID
        self.certificateHash = CertificateHash(hashing: party.chain[0].der)
        self.key = key
    }

    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature { try self.key.sign(digest) }
}
