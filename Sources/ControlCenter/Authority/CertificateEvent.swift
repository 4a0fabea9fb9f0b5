/// What an authority did, as it tells a control center: it issued a certificate, or revoked it.
public struct CertificateEvent: Hashable, Sendable {
    /// What happened. An open set.
    public struct Kind: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        public init(_ description: String) { self.description = description }

        public static let issued = Kind("issued")
        public static let revoked = Kind("revoked")
    }

    /// Its number at the authority: numbers grow, and leave some out.
    public var number: Int64
    public var kind: Kind
    /// SHA-256 of the certificate's DER, 32 bytes. With the kind it says which event this is, whatever its number.
    public var certificateHash: [UInt8]
    /// SPIFFE ID.
    public var party: String
    /// Hexadecimal.
    public var serial: String
    /// The certificate's validity, and when this happened; Unix seconds.
    public var notBefore: Int64
    public var notAfter: Int64
    public var time: Int64
    /// Who asked for it, as the authority's record says.
    public var requester: String?
    /// Of a revocation, as in RFC 5280.
    public var reason: String?

    public init(
        number: Int64, kind: Kind, certificateHash: [UInt8], party: String, serial: String, notBefore: Int64,
        notAfter: Int64, time: Int64, requester: String? = nil, reason: String? = nil
    ) {
        self.number = number
        self.kind = kind
        self.certificateHash = certificateHash
        self.party = party
        self.serial = serial
        self.notBefore = notBefore
        self.notAfter = notAfter
        self.time = time
        self.requester = requester
        self.reason = reason
    }
}

/// A page of events: what comes after a number, oldest first.
public struct CertificateEvents: Hashable, Sendable {
    public var events: [CertificateEvent]
    /// The number of the newest one that the authority has.
    public var last: Int64

    public init(events: [CertificateEvent], last: Int64) {
        self.events = events
        self.last = last
    }
}
