import Identity
public import PKI

/// The messages of the authority's API, as JSON with these very keys. Times are Unix seconds, bytes hexadecimal.
public enum AuthorityAPI {
    /// `GET /installation`.
    public struct Installation: Codable, Sendable {
        public let trustDomain: String
        public let brokerHost: String
        public let brokerPort: Int
        public let controlCenters: [String]

        enum CodingKeys: String, CodingKey {
            case trustDomain = "trust_domain"
            case brokerHost = "broker_host"
            case brokerPort = "broker_port"
            case controlCenters = "control_centers"
        }
    }

    /// `POST /api/invite`.
    public struct Invite: Codable, Sendable {
        public let id: String
        /// Default `auditor`.
        public let role: String?
        /// In seconds; default as the authority is configured.
        public let lifetime: UnixTime?
        /// For a server.
        public let hosts: [String]?

        public init(id: String, role: String? = nil, lifetime: UnixTime? = nil, hosts: [String]? = nil) {
            self.id = id
            self.role = role
            self.lifetime = lifetime
            self.hosts = hosts
        }
    }

    /// Its answer: the only time that the token is seen.
    public struct Invited: Codable, Sendable {
        public let id: String
        public let role: String
        public let token: String
        public let expires: UnixTime
        /// `SHA256:` and 64 hexadecimal digits.
        public let fingerprint: String
        /// `https://HOST:PORT`.
        public let url: String
        /// What is to be typed on the device.
        public let command: String

        public init(_ invitation: Invitation, token: String, root fingerprint: [UInt8], url: String) {
            self.id = invitation.spiffeID.id.rawValue
            self.role = invitation.spiffeID.role.rawValue
            self.token = token
            self.expires = invitation.expiresAt
            self.fingerprint = "SHA256:\(fingerprint.hexadecimal)"
            self.url = url
            self.command =
                "secure-mqtt auditor join \(url) --id \(invitation.spiffeID.id) --token \(token) "
                + "--ca-fingerprint SHA256:\(fingerprint.hexadecimal)"
        }
    }

    /// `POST /api/revoke`.
    public struct Revoke: Codable, Sendable {
        public let id: String
        /// As RFC 5280 names it, such as `keyCompromise`; default `unspecified`.
        public let reason: String?

        public init(id: String, reason: String? = nil) {
            self.id = id
            self.reason = reason
        }
    }

    public struct Revoked: Codable, Sendable {
        /// Serial numbers.
        public let revoked: [String]
    }

    /// `POST /api/renew-allow`.
    public struct AllowRenewal: Codable, Sendable {
        public let id: String
        /// In seconds; default seven days.
        public let lifetime: UnixTime?
        public let note: String?

        public init(id: String, lifetime: UnixTime? = nil, note: String? = nil) {
            self.id = id
            self.lifetime = lifetime
            self.note = note
        }
    }

    /// A certificate, in `GET /api/certificates` and in events.
    public struct Certificate: Codable, Sendable {
        public let spiffeID: String
        public let serial: String
        public let sha256: String
        public let issued: UnixTime
        public let notBefore: UnixTime
        public let notAfter: UnixTime
        public let requester: String?
        public let revoked: UnixTime?
        public let reason: String?
        public let revoker: String?

        enum CodingKeys: String, CodingKey {
            case serial, sha256, issued, requester, revoked, reason, revoker
            case spiffeID = "spiffe_id"
            case notBefore = "not_before"
            case notAfter = "not_after"
        }

        public init(_ certificate: IssuedCertificate) {
            self.spiffeID = certificate.spiffeID.rawValue
            self.serial = certificate.serialNumber.hexadecimal
            self.sha256 = certificate.certificateHash.hexadecimal
            self.issued = certificate.issuedAt
            self.notBefore = certificate.notBefore
            self.notAfter = certificate.notAfter
            self.requester = certificate.requester
            self.revoked = certificate.revocation?.time
            self.reason = certificate.revocation.map { "\($0.reason)" }
            self.revoker = certificate.revocation?.requester
        }
    }

    public struct Certificates: Codable, Sendable {
        public let certificates: [Certificate]
    }

    /// `GET /api/events?after=N`: what happened after the event of number N, oldest first, at most 1,000.
    public struct Events: Codable, Sendable {
        public struct Event: Codable, Sendable {
            /// Numbers grow, and leave some out.
            public let number: Int
            /// `issued` or `revoked`.
            public let event: String
            public let certificate: Certificate
        }

        public let events: [Event]
        /// The number of the newest event; there are more to fetch if the last one here is below it.
        public let last: Int
    }
}
