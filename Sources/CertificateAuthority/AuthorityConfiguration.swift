public import Identity
public import PKI

/// How the authority's process serves.
public struct AuthorityConfiguration: Sendable {
    /// The ID of its server's certificate.
    public var id: Identifier
    /// The names and addresses under which it is reached; the first is for invitations.
    public var hosts: [HostName]
    /// The address that it listens at.
    public var listen: String
    /// HTTPS; 0 lets the system choose.
    public var port: Int
    /// Plain HTTP for revocation lists and OCSP; nil for none.
    public var publicPort: Int?
    /// What `GET /installation` says: where a new device finds its broker.
    public var brokerHost: String
    public var brokerPort: Int
    /// How long an invitation lives unless its maker says otherwise, in seconds.
    public var invitationLifetime: UnixTime = 3 * 86_400
    /// Wrong tokens that one address may offer in ten minutes.
    public var maximumFailures = 20
    /// Of connections.
    public var limits = AuthorityLimits()
    /// Called when revocation lists were written, with who was revoked just now: for brokers that have to be told of
    /// both (Mosquitto). What it throws is logged.
    public var onLists: (@Sendable (_ lists: [RevocationList], _ revoked: [IssuedCertificate]) async throws -> Void)?

    public init(
        id: Identifier, hosts: [HostName], listen: String, port: Int, publicPort: Int? = nil, brokerHost: String,
        brokerPort: Int
    ) {
        self.id = id
        self.hosts = hosts
        self.listen = listen
        self.port = port
        self.publicPort = publicPort
        self.brokerHost = brokerHost
        self.brokerPort = brokerPort
    }
}
