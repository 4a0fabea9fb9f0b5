// The original's text format: decode, identify and verify a reading of it. What is done with it in the order of a
// batch is at the end. Nothing of it has a place in a stream: no number, no link to the one before, no receipt.

public import Identity
public import LiCore
public import PKI
public import Telemetry
import X509

/// The fleet as the ingest path looks at it: a value that many threads read.
public struct FleetView: Sendable {
    public let fleet: Fleet
    /// Those whose certificate is our authority's, verified when the fleet was taken; by the certificate's SHA-256.
    private let identities: [[UInt8]: VerifiedIdentity]
    /// Whose certificate should be our authority's, and did not verify: why.
    private let failures: [[UInt8]: PKIError]
    /// Who publishes nothing signed on a topic: by the topics of hellos and statements, so that no message has to be
    /// taken apart to ask.
    private let unsigned: [String: FleetMember]
    private let trustDomain: TrustDomain?

    /// Nobody.
    public init() {
        self.fleet = .none
        self.identities = [:]
        self.failures = [:]
        self.unsigned = [:]
        self.trustDomain = nil
    }

    /// - Parameter verifier: knows the intermediates; a pin is a leaf alone.
    public init(_ fleet: Fleet, verifier: IdentityVerifier, at now: Timestamp) {
        var identities: [[UInt8]: VerifiedIdentity] = [:]
        var failures: [[UInt8]: PKIError] = [:]
        for member in fleet.members where member.isOurs(in: verifier.trustDomain) {
            do throws(PKIError) {
                identities[member.certificateHash] = try verifier.verify(chain: [member.certificate], at: now.seconds)
            } catch {
                // What time or a newer list may change is looked at again with each reading.
                switch error.code {
                case .revoked, .expired, .notYetValid, .crlMissing, .crlExpired: break
                default: failures[member.certificateHash] = error
                }
            }
        }
        var unsigned: [String: FleetMember] = [:]
        for member in fleet.members where member.kind == .auditor {
            for topic in [Topic.hello(member.id), .measures(member.id)] { unsigned[topic.description] = member }
        }
        self.unsigned = unsigned
        self.fleet = fleet
        self.identities = identities
        self.failures = failures
        self.trustDomain = verifier.trustDomain
    }

    /// The LiCore auditor that a topic is of.
    func member(forMeasuresOn topic: String) -> FleetMember? {
        guard !self.fleet.isEmpty, case .measures(let id) = Topic(topic) else { return nil }
        return self.fleet.auditor(id)
    }

    /// An auditor speaks one format: while it is allowed the original's, its hellos and statements are not taken.
    ///
    /// - Throws: `Refusal` with `format`.
    func requireSigned(_ topic: String, at now: Timestamp) throws(Refusal) {
        guard !self.unsigned.isEmpty, let member = self.unsigned[topic],
            (try? member.requireStanding(at: now.seconds)) != nil
        else { return }
        throw Refusal(
            .format,
            "\(member.id) speaks the original's format until \(member.until): end that with secure-mqtt fleet end")
    }

    /// - Throws: `Refusal` with `expired`, `revoked`, or `busy` to be held.
    func requireStanding(
        _ member: FleetMember, verifier: IdentityVerifier, at now: Timestamp
    ) throws(Refusal) {
        do throws(LiCoreError) {
            try member.requireStanding(at: now.seconds)
        } catch {
            throw Refusal(.expired, error.reason)
        }
        do throws(PKIError) {
            if let failure = self.failures[member.certificateHash] { throw failure }
            if let identity = self.identities[member.certificateHash] {
                try verifier.requireStanding(identity, at: now.seconds)
            } else if member.isOurs(in: verifier.trustDomain) {
                _ = try verifier.verify(chain: [member.certificate], at: now.seconds)
            }
        } catch {
            if let reason = Reason(standing: error) { throw Refusal(reason, error.reason) }
            if error.code == .crlMissing || error.code == .crlExpired { throw Refusal(.busy, error.reason) }
            throw Refusal(.role, error.reason)
        }
    }

    func spiffeID(of member: FleetMember) -> SPIFFEID? { self.trustDomain.map { member.spiffeID(in: $0) } }
}

/// A reading in the original's format whose signature verified under the certificate that is pinned for its ID.
public final class VerifiedMeasure: Sendable {
    public let arrival: Arrival
    public let member: FleetMember
    public let signer: SPIFFEID
    public let measure: Measure
    /// When it was, by the time zone that is configured for the auditor.
    public let time: Timestamp

    /// Decodes, identifies and verifies.
    ///
    /// - Throws: `Refusal` with `too-large`, `format`, `topic`, `retained`, `sender`, `signature`, `expired`, `revoked`.
    init(_ arrival: Arrival, _ view: FleetView, verifier: IdentityVerifier, at now: Timestamp) throws(Refusal) {
        guard let member = view.member(forMeasuresOn: arrival.topic), let signer = view.spiffeID(of: member) else {
            throw Refusal(
                .format, "not one of our messages: LiCore text, which nobody is allowed on \(arrival.topic)")
        }
        let text: SignedText
        let measure: Measure
        do throws(LiCoreError) {
            text = try SignedText(arrival.bytes)
            measure = try Measure(text: text.text)
        } catch {
            throw Refusal(error.code == .tooLarge ? .tooLarge : .format, error.reason)
        }
        guard measure.id == member.id else {
            throw Refusal(.topic, "a reading of \(measure.id) on the topic of \(member.id)")
        }
        guard !arrival.isRetained else { throw Refusal(.retained, "a reading that was published as retained") }
        if let sender = arrival.sender, sender.spiffeID != signer || sender.certificateHash != member.certificateHash {
            throw Refusal(.sender, "sent by \(sender), with another certificate than the one pinned for \(member.id)")
        }
        guard text.isSigned(by: member.publicKey) else {
            throw Refusal(.signature, "the signature is not by the key of the certificate pinned for \(member.id)")
        }
        // Only now: a forger should learn nothing from the answer.
        try view.requireStanding(member, verifier: verifier, at: now)
        self.time = try Self.time(of: measure, member)
        self.arrival = arrival
        self.member = member
        self.signer = signer
        self.measure = measure
    }

    private static func time(of measure: Measure, _ member: FleetMember) throws(Refusal) -> Timestamp {
        var resolver = LocalTimeResolver(member.timeZone)
        switch resolver.resolve(measure.date) {
        case .one(let seconds):
            guard (1 << 28..<Timestamp.wireSecondsLimit).contains(seconds) else {
                throw Refusal(.format, "the date is before July 1978 or after 2242")
            }
            return Timestamp(nanoseconds: seconds * 1_000_000_000 + measure.date.nanoseconds)
        case .skipped:
            throw Refusal(.format, "this local time never was in \(member.timeZone): is the auditor's time zone right?")
        case .ambiguous:
            throw Refusal(.format, "this local time was twice in \(member.timeZone): clocks were put back")
        }
    }
}

/// Where a reading in the original's format belongs: each place is taken once.
struct MeasurePlace: Hashable {
    var auditor: Int64
    /// Nanoseconds since 1970 as the auditor's clock counts them.
    var local: Int64
    var kind: UInt8

    init(auditor: Int64, _ measure: Measure) {
        self.auditor = auditor
        self.local = measure.date.seconds * 1_000_000_000 + measure.date.nanoseconds
        self.kind = measure.kind.rawValue
    }
}
