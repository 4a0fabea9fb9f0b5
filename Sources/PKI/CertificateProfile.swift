public import Identity
import SwiftASN1
import X509

/// What a certificate says besides its key: one profile a role.
///
/// Common to all (RFC 5280 section 4): version 3, a random serial of 20 bytes, ecdsa-with-SHA256, subject
/// `CN=<id>`, exactly one URI SAN, the SPIFFE ID; critical basic constraints (not an authority); critical key usage
/// `digitalSignature`; extended key usage `clientAuth`, for brokers and authorities `serverAuth` alone; key identifiers of subject
/// and issuer.
public struct CertificateProfile: Hashable, Sendable {
    /// Two years: an auditor may be away for weeks and is renewed by hand.
    public static let auditorLifetime: UnixTime = 730 * 86_400
    /// Two years.
    public static let controlCenterLifetime: UnixTime = 730 * 86_400
    /// 397 days: the most that TLS clients commonly accept of a server.
    public static let brokerLifetime: UnixTime = 397 * 86_400
    /// One year.
    public static let operatorLifetime: UnixTime = 365 * 86_400
    /// Thirty days: the authority's process renews the certificate of its own server by itself.
    public static let authorityLifetime: UnixTime = 30 * 86_400

    public let spiffeID: SPIFFEID

    /// The names under which a broker or an authority is reached; empty for every other role.
    public let hosts: [HostName]

    /// How long the certificate is valid from the moment of issue, in seconds, cut at the end of the issuer's own
    /// validity.
    public var lifetime: UnixTime

    private init(_ spiffeID: SPIFFEID, hosts: [HostName] = [], lifetime: UnixTime) {
        self.spiffeID = spiffeID
        self.hosts = hosts
        self.lifetime = lifetime
    }

    public static func auditor(_ id: Identifier, in trustDomain: TrustDomain) -> CertificateProfile {
        Self(SPIFFEID(trustDomain: trustDomain, role: .auditor, id: id), lifetime: Self.auditorLifetime)
    }

    public static func controlCenter(_ id: Identifier, in trustDomain: TrustDomain) -> CertificateProfile {
        Self(SPIFFEID(trustDomain: trustDomain, role: .controlCenter, id: id), lifetime: Self.controlCenterLifetime)
    }

    /// - Parameter hosts: the DNS names and IP addresses of the broker.
    public static func broker(
        _ id: Identifier, in trustDomain: TrustDomain, hosts: [HostName]
    ) -> CertificateProfile {
        Self(
            SPIFFEID(trustDomain: trustDomain, role: .broker, id: id), hosts: hosts, lifetime: Self.brokerLifetime)
    }

    public static func `operator`(_ id: Identifier, in trustDomain: TrustDomain) -> CertificateProfile {
        Self(SPIFFEID(trustDomain: trustDomain, role: .operator, id: id), lifetime: Self.operatorLifetime)
    }

    /// The server of an authority.
    ///
    /// - Parameter hosts: its DNS names and IP addresses.
    public static func authority(
        _ id: Identifier, in trustDomain: TrustDomain, hosts: [HostName]
    ) -> CertificateProfile {
        Self(
            SPIFFEID(trustDomain: trustDomain, role: .authority, id: id), hosts: hosts,
            lifetime: Self.authorityLifetime)
    }

    /// The profile of a role. `hosts` is used by servers only: brokers and authorities.
    public static func role(
        _ role: Role, _ id: Identifier, in trustDomain: TrustDomain, hosts: [HostName] = []
    ) -> CertificateProfile {
        switch role {
        case .auditor: .auditor(id, in: trustDomain)
        case .controlCenter: .controlCenter(id, in: trustDomain)
        case .broker: .broker(id, in: trustDomain, hosts: hosts)
        case .operator: .operator(id, in: trustDomain)
        case .authority: .authority(id, in: trustDomain, hosts: hosts)
        }
    }

    var extendedKeyUsage: ExtendedKeyUsage.Usage {
        self.spiffeID.role.isServer ? .serverAuth : .clientAuth
    }

    var subjectAlternativeNames: SubjectAlternativeNames {
        SubjectAlternativeNames(
            [.uniformResourceIdentifier(self.spiffeID.rawValue)]
                + self.hosts.map { host in
                    switch host {
                    case .dns(let name): .dnsName(name)
                    case .address(let bytes): .ipAddress(ASN1OctetString(contentBytes: bytes[...]))
                    }
                })
    }
}

extension Role {
    /// Whether others connect to it: its certificate carries host names and `serverAuth`.
    package var isServer: Bool { self == .broker || self == .authority }
}
