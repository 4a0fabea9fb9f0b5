public import Crypto
public import Identity
public import PKI
public import Telemetry
public import X509

/// A party that may still use the original's format, as an operator has pinned it: ID, certificate, controller.
///
/// Nothing of it is derived from a chain. The original's certificates are of version 1 and of an authority that is
/// not ours: such a one is a pinned leaf, never an anchor.
public struct FleetMember: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
        /// Publishes readings on `audits/measures/<ID>`, reads its updates.
        case auditor
        /// The original's database client: reads the readings of the auditors here, publishes updates to those whose
        /// controller it is.
        case databaseClient = "database-client"
    }

    /// Over how many seconds a reading is, unless an operator says otherwise.
    public static let defaultInterval = 900

    public let id: Identifier
    public let kind: Kind
    public let certificate: Certificate
    /// SHA-256 of the certificate's DER.
    public let certificateHash: [UInt8]
    /// The key under which its messages are verified.
    public let publicKey: P256.Signing.PublicKey
    /// Whose updates the auditor obeys; nil for a database client.
    public let controller: Identifier?
    /// Of the dates that it writes.
    public let timeZone: LocalTimeZone
    /// What one reading covers, in seconds: 1 ... 86,400.
    public let interval: Int
    /// The last day on which it may be used, `2027-06-30`.
    public let until: String
    /// The first second behind ``until``, in UTC.
    public let end: UnixTime

    /// - Parameters:
    ///   - controller: of an auditor; nil for a database client.
    ///   - until: the last day, `2027-06-30`, in UTC.
    /// - Throws: ``LiCoreError`` with code `fleet`.
    public init(
        id: Identifier, kind: Kind, certificate: Certificate, controller: Identifier?, timeZone: LocalTimeZone = .utc,
        interval: Int = FleetMember.defaultInterval, until: String
    ) throws(LiCoreError) {
        guard let publicKey = P256.Signing.PublicKey(certificate.publicKey) else {
            throw LiCoreError(.fleet, "the certificate of \(id) has no P-256 key")
        }
        guard (controller == nil) == (kind == .databaseClient) else {
            throw LiCoreError(
                .fleet,
                kind == .auditor
                    ? "auditor \(id) needs the name of its controller" : "database client \(id) has no controller")
        }
        guard (1...86_400).contains(interval) else {
            throw LiCoreError(.fleet, "the interval of \(id) must be 1 s to one day")
        }
        // Read, and written again: LocalTime takes other orders of day, month and year too.
        guard until.utf8.count == 10, let day = LocalTime(Array(until.utf8)[...]),
            day.seconds < Timestamp.wireSecondsLimit,
            Timestamp(seconds: day.seconds).description == "\(until)T00:00:00Z"
        else {
            throw LiCoreError(.fleet, "'\(until)' is not a day: write it like 2027-06-30")
        }
        self.id = id
        self.kind = kind
        self.certificate = certificate
        self.certificateHash = certificate.sha256
        self.publicKey = publicKey
        self.controller = controller
        self.timeZone = timeZone
        self.interval = interval
        self.until = until
        self.end = day.seconds + 86_400
    }

    /// From when on it may not be used: the end that was set, or that of the certificate, whichever comes first.
    public var lastSecond: UnixTime { min(self.end - 1, self.certificate.notAfter) }

    /// Whole days that are left; 0 on the last, negative behind it.
    public func daysLeft(at now: UnixTime) -> Int {
        let left = self.lastSecond - now
        return Int(left >= 0 ? left / 86_400 : (left - 86_399) / 86_400)
    }

    /// - Throws: ``LiCoreError`` with code `ended` outside of the time in which it may be used.
    public func requireStanding(at now: UnixTime) throws(LiCoreError) {
        guard now < self.end else {
            throw LiCoreError(.ended, "the original's format was allowed for \(self.id) until \(self.until)")
        }
        guard now <= self.certificate.notAfter else {
            throw LiCoreError(
                .ended, "the certificate of \(self.id) expired at \(Timestamp(seconds: self.certificate.notAfter))")
        }
        guard now >= self.certificate.notBefore else {
            throw LiCoreError(
                .ended,
                "the certificate of \(self.id) is valid only from \(Timestamp(seconds: self.certificate.notBefore)) on")
        }
    }

    /// Its name in our system: an auditor; a database client has the rights of nobody else, and stands as operator,
    /// the role that writes nothing.
    public func spiffeID(in trustDomain: TrustDomain) -> SPIFFEID {
        SPIFFEID(trustDomain: trustDomain, role: self.kind == .auditor ? .auditor : .operator, id: self.id)
    }

    /// Whether the certificate is one that our own authority gave this party: then its chain is verified and
    /// revocation is looked up as for everyone, and the pin only says which format it speaks.
    public func isOurs(in trustDomain: TrustDomain) -> Bool {
        guard let names = try? self.certificate.extensions.subjectAlternativeNames else { return false }
        let own = self.spiffeID(in: trustDomain).rawValue
        return names.contains { if case .uniformResourceIdentifier(own) = $0 { true } else { false } }
    }

    public static func == (a: FleetMember, b: FleetMember) -> Bool {
        a.id == b.id && a.kind == b.kind && a.certificateHash == b.certificateHash && a.controller == b.controller
            && a.timeZone == b.timeZone && a.interval == b.interval && a.end == b.end
    }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(self.id)
        hasher.combine(self.certificateHash)
    }
}
