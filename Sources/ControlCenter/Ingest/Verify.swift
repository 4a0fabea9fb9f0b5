public import Identity
import LiCore
public import PKI
public import Telemetry

/// The fourth step: a statement whose signature verified under the certificate that it names.
///
/// A class, because it goes from thread to thread in arrays: a copy is one reference.
public final class VerifiedStatement: Sendable {
    public let decoded: Decoded
    public let position: StreamPosition
    public let signer: SPIFFEID
    public let readings: ContiguousArray<Reading>

    /// - Throws: `Refusal` with `signature`.
    init(_ identified: Identified) throws(Refusal) {
        let envelope = identified.decoded.envelope
        guard let position = envelope.position else { throw Refusal(.header, "it has no place in a stream") }
        guard envelope.isSigned(by: identified.certificate.publicKey) else {
            throw Refusal(.signature, "the signature is not by the key of the certificate")
        }
        self.decoded = identified.decoded
        self.position = position
        self.signer = identified.certificate.spiffeID
        self.readings = ContiguousArray(envelope.readings)
    }
}

/// The fourth step for a hello.
public struct VerifiedHello: Sendable {
    public let hello: Hello
    public let certificateHash: CertificateHash
    public let identity: VerifiedIdentity
    public let chain: [[UInt8]]
    /// Certificates that its auditor says to have had before, DER; not verified.
    public let former: [[UInt8]]

    /// - Throws: `Refusal` with `signature`.
    init(_ identified: IdentifiedHello) throws(Refusal) {
        guard identified.decoded.envelope.isSigned(by: identified.identity.publicKey) else {
            throw Refusal(.signature, "the signature is not by the key of the certificate")
        }
        self.hello = identified.hello
        self.certificateHash = identified.decoded.envelope.certificateHash
        self.identity = identified.identity
        self.chain = identified.chain
        self.former = identified.decoded.envelope.formerCertificates
    }
}

/// The fourth step for an auditor's alert.
///
/// A class, as ``VerifiedStatement`` is.
public final class VerifiedAlert: Sendable {
    public let decoded: Decoded
    public let alert: Alert
    public let sequence: Int64
    public let expires: Timestamp
    public let signer: SPIFFEID

    /// - Throws: `Refusal` with `signature`.
    init(_ identified: Identified) throws(Refusal) {
        let envelope = identified.decoded.envelope
        guard let alert = envelope.alert, let sequence = envelope.sequence, let expires = envelope.expires else {
            throw Refusal(.header, "not an alert")
        }
        guard envelope.isSigned(by: identified.certificate.publicKey) else {
            throw Refusal(.signature, "the signature is not by the key of the certificate")
        }
        self.decoded = identified.decoded
        self.alert = alert
        self.sequence = sequence
        self.expires = expires
        self.signer = identified.certificate.spiffeID
    }
}

/// What the steps that look at one message alone found.
public enum Examined: Sendable {
    case statement(VerifiedStatement)
    case hello(VerifiedHello)
    /// A reading in the original's format.
    case measure(VerifiedMeasure)
    case alert(VerifiedAlert)
    /// Nobody in memory has this certificate; the store may.
    case unknownCertificate(Decoded)
    case refused(Arrival, Refusal)
}

/// The steps that look at one message alone: decode, identify, verify. A value that any number of threads use at
/// once: this is where nearly all of the work is.
public struct Examiner: Sendable {
    var directory: Directory
    var verifier: IdentityVerifier
    var fleet = FleetView()

    /// The first byte says what a message is: a statement of ours (0xD2), or the original's text (a letter or digit).
    ///
    /// - Parameter now: the time at which a hello's chain must be valid.
    public func examine(_ arrival: Arrival, at now: Timestamp) -> Examined {
        do throws(Refusal) {
            if self.isMeasure(arrival) {
                return .measure(try VerifiedMeasure(arrival, self.fleet, verifier: self.verifier, at: now))
            }
            let decoded = try Decoded(arrival)
            try self.fleet.requireSigned(arrival.topic, at: now)
            if decoded.envelope.kind == .hello {
                return .hello(try VerifiedHello(IdentifiedHello(decoded, verifier: self.verifier, at: now)))
            }
            return self.examine(decoded)
        } catch {
            return .refused(arrival, error)
        }
    }

    /// Whether it is read as the original's text.
    func isMeasure(_ arrival: Arrival) -> Bool {
        !self.fleet.fleet.isEmpty && arrival.bytes.first.map(Self.beginsText) == true
    }

    private static func beginsText(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "a")...UInt8(ascii: "z"):
            true
        default: false
        }
    }

    /// Identifies and verifies a statement or an alert that is decoded already.
    func examine(_ decoded: Decoded) -> Examined {
        do throws(Refusal) {
            let identified = try Identified(decoded, in: self.directory)
            if decoded.envelope.kind == .alert { return .alert(try VerifiedAlert(identified)) }
            return .statement(try VerifiedStatement(identified))
        } catch {
            if error.reason == .certificateUnknown { return .unknownCertificate(decoded) }
            return .refused(decoded.arrival, error)
        }
    }
}
