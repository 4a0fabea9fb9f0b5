public import Crypto
public import Identity
public import PKI
public import Telemetry
import X509

/// A certificate of which the chain was verified when it was first seen, with its key taken out.
///
/// A class, because every message's passes it on: a copy is one reference.
public final class KnownCertificate: Sendable {
    /// Its number in the store.
    public let number: Int64
    public let spiffeID: SPIFFEID
    public let publicKey: P256.Signing.PublicKey
    /// Absent if the chain does not verify any more: then ``objection`` says why.
    public let identity: VerifiedIdentity?
    let objection: Reason?

    convenience init(number: Int64, identity: VerifiedIdentity) {
        self.init(
            number: number, spiffeID: identity.spiffeID, publicKey: identity.publicKey, identity: identity,
            objection: nil)
    }

    private init(
        number: Int64, spiffeID: SPIFFEID, publicKey: P256.Signing.PublicKey, identity: VerifiedIdentity?,
        objection: Reason?
    ) {
        self.number = number
        self.spiffeID = spiffeID
        self.publicKey = publicKey
        self.identity = identity
        self.objection = objection
    }

    /// A certificate out of the store. What it signed while it was good can come again after it was revoked or
    /// has expired, and must still be recognised; what it signed before it expired may be vouched for.
    ///
    /// - Returns: `nil` if the chain is not one of ours: the roots were changed.
    convenience init?(_ record: CertificateRecord, verifier: IdentityVerifier) {
        do {
            self.init(number: record.number, identity: try verifier.verifyAtIssue(der: record.chain))
        } catch {
            guard let reason = Reason(standing: error), let leaf = record.chain.first,
                let certificate = try? Certificate(der: leaf),
                let key = P256.Signing.PublicKey(certificate.publicKey),
                let spiffeID = try? SPIFFEID(record.spiffeID)
            else { return nil }
            self.init(
                number: record.number, spiffeID: spiffeID, publicKey: key, identity: nil, objection: reason)
        }
    }
}

extension KnownCertificate {
    /// A certificate that an auditor has had before, as its hello brings it: what it signed may have waited for longer
    /// than it lived, so that no hello under it ever came.
    ///
    /// - Returns: `nil` if it is not one of ours, or not that auditor's.
    convenience init?(
        former leaf: [UInt8], of spiffeID: SPIFFEID, intermediate: [UInt8], number: Int64, verifier: IdentityVerifier
    ) {
        guard let certificate = try? Certificate(der: leaf),
            let names = try? certificate.extensions.subjectAlternativeNames,
            names.contains(.uniformResourceIdentifier(spiffeID.rawValue))
        else { return nil }
        self.init(
            CertificateRecord(number: number, spiffeID: spiffeID.rawValue, chain: [leaf, intermediate]),
            verifier: verifier)
    }
}

/// Whether new messages of a certificate's holder are taken.
enum Standing {
    case good
    /// Outside of its validity and not revoked: taken if a hello under a valid certificate vouches for it.
    case expired
    case refused(Reason)
    /// Not to be judged now: a revocation list that is demanded is missing or out of date.
    case held
}

extension Reason {
    /// What a failed verification says about a certificate that was good once.
    init?(standing error: PKIError) {
        switch error.code {
        case .revoked: self = .revoked
        case .expired, .notYetValid: self = .expired
        default: return nil
        }
    }
}

/// The certificates known, as a value that many threads read.
public struct Directory: Sendable {
    private var certificates: [CertificateHash: KnownCertificate] = [:]

    init() {}

    subscript(hash: CertificateHash) -> KnownCertificate? {
        get { self.certificates[hash] }
        set { self.certificates[hash] = newValue }
    }

    var count: Int { self.certificates.count }
}

/// The third step: whose message it is, so far as names and certificates say.
public struct Identified: Sendable {
    public let decoded: Decoded
    public let certificate: KnownCertificate

    /// Compares sender, issuer and certificate.
    ///
    /// - Throws: `Refusal` with `sender`, `certificate-unknown` (to be held), `issuer` or `role`.
    init(_ decoded: Decoded, in directory: borrowing Directory) throws(Refusal) {
        try decoded.checkSender()
        guard let certificate = directory[decoded.envelope.certificateHash] else {
            throw Refusal(.certificateUnknown, "no hello has shown certificate \(decoded.envelope.certificateHash)")
        }
        try decoded.checkIssuer(certificate.spiffeID)
        self.decoded = decoded
        self.certificate = certificate
    }
}

/// The third step for a hello, which brings its certificate along.
public struct IdentifiedHello: Sendable {
    public let decoded: Decoded
    public let hello: Hello
    public let identity: VerifiedIdentity
    /// Leaf and intermediate, DER.
    public let chain: [[UInt8]]

    /// Verifies the chain and compares sender, issuer and certificate. The signature is checked here too if the
    /// certificate is out of its validity, since a forger should learn nothing from the answer.
    ///
    /// - Throws: `Refusal` with `sender`, `certificate-unknown` (a chain that is not ours), `issuer`,
    ///   `role`, `signature`, `revoked`, `expired`, `busy`.
    init(_ decoded: Decoded, verifier: IdentityVerifier, at now: Timestamp) throws(Refusal) {
        guard let hello = decoded.envelope.hello else { throw Refusal(.format, "not a hello") }
        try decoded.checkSender()
        // A root that is sent along is of no use: we have ours.
        let chain = Array(decoded.envelope.certificateChain.prefix(2))
        guard let leaf = chain.first else { throw Refusal(.header, "a hello without a certificate") }
        do {
            let identity = try verifier.verify(der: chain, at: now.seconds)
            try decoded.checkIssuer(identity.spiffeID)
            self.identity = identity
        } catch let refusal as Refusal {
            throw refusal
        } catch let error as PKIError {
            if let reason = Reason(standing: error) {
                guard let certificate = try? Certificate(der: leaf),
                    let key = P256.Signing.PublicKey(certificate.publicKey), decoded.envelope.isSigned(by: key)
                else { throw Refusal(.signature, "the signature is not by the key of the certificate") }
                throw Refusal(reason, error.reason)
            }
            guard error.code != .crlMissing, error.code != .crlExpired else { throw Refusal(.busy, error.reason) }
            throw Refusal(.certificateUnknown, error.reason)
        } catch {
            throw Refusal(.certificateUnknown, "\(error)")
        }
        self.decoded = decoded
        self.hello = hello
        self.chain = chain
    }
}

extension Decoded {
    fileprivate func checkSender() throws(Refusal) {
        guard let sender = self.arrival.sender else { return }
        guard self.envelope.isIssued(by: sender.spiffeID) else {
            throw Refusal(.sender, "sent by \(sender), which is not the issuer")
        }
    }

    fileprivate func checkIssuer(_ spiffeID: SPIFFEID) throws(Refusal) {
        guard self.envelope.isIssued(by: spiffeID) else {
            throw Refusal(.issuer, "the certificate is that of \(spiffeID), the message says \(self.envelope.issuer)")
        }
        guard self.envelope.kind.signerRoles.contains(spiffeID.role) else {
            throw Refusal(.role, "a \(spiffeID.role) does not sign a \(self.envelope.kind)")
        }
    }
}
