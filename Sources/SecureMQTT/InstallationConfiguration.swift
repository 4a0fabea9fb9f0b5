import CertificateAuthority
import Configuration
import ControlCenter
import Enrolment
import Foundation
import Identity
import Logging
import MQTTBroker
import PKI
import X509

/// What the configuration file, the environment and flags say, as values.
///
/// Flags win over `SECURE_MQTT_<SECTION>_<KEY>` environment variables, which win over the file. Paths in the file are
/// relative to its folder, others to the working directory. The keys are those of ``Key``; what each means and its
/// default is written beside it in the file that `secure-mqtt init` makes.
struct InstallationConfiguration: Sendable {
    /// The file that was read; nil if there is none.
    let file: String?
    let trust: TrustSettings
    let broker: BrokerSettings
    /// Nil if the file has no `control-center.id`.
    let controlCenter: ControlCenterSettings?
    /// Rules and ways to tell people, of the control center.
    let alerts: AlertSettings
    /// Nil if the file has no `auditor.id`.
    let auditor: AuditorSettings?
    let licore: LiCoreSettings
    /// Nil if the file has no `ca.id`.
    let ca: AuthoritySettings?

    /// Every key.
    enum Key: String, CaseIterable {
        case trustDomain = "trust.domain"
        case trustRoot = "trust.root"
        case trustIntermediates = "trust.intermediates"
        case trustRevocationLists = "trust.revocation-lists"
        case trustRequireCurrentLists = "trust.require-current-lists"
        case brokerHost = "broker.host"
        case brokerPort = "broker.port"
        case brokerListen = "broker.listen"
        case brokerPlaintextPort = "broker.plaintext-port"
        case brokerCertificate = "broker.certificate"
        case brokerKey = "broker.key"
        case brokerStore = "broker.store"
        case brokerDurability = "broker.durability"
        case brokerAllowTLS12 = "broker.allow-tls12"
        case brokerThreads = "broker.threads"
        case brokerMaxConnections = "broker.max-connections"
        case brokerMaxPacketSize = "broker.max-packet-size"
        case brokerMaxQueuedMessages = "broker.max-queued-messages"
        case brokerMaxQueuedBytes = "broker.max-queued-bytes"
        case brokerMaxTotalQueuedBytes = "broker.max-total-queued-bytes"
        case brokerSlowConsumerBytes = "broker.slow-consumer-bytes"
        case brokerConnectDeadline = "broker.connect-deadline"
        case brokerMaxKeepAlive = "broker.max-keep-alive"
        case brokerMaxConnectionsPerAddress = "broker.max-connections-per-address"
        case brokerConnectionRatePerAddress = "broker.connection-rate-per-address"
        case brokerMaxConnectionsPerIdentity = "broker.max-connections-per-identity"
        case brokerConnectionRatePerIdentity = "broker.connection-rate-per-identity"
        case brokerMaxSessionsPerIdentity = "broker.max-sessions-per-identity"
        case brokerMaxPacketRate = "broker.max-packet-rate"
        case brokerMaxByteRate = "broker.max-byte-rate"
        case brokerWebSocketPort = "broker.websocket-port"
        case brokerWebSocketPath = "broker.websocket-path"
        case brokerWebSocketOrigins = "broker.websocket-origins"
        case brokerSocket = "broker.socket"
        case brokerSocketMode = "broker.socket-mode"
        case brokerSocketOperators = "broker.socket-operators"
        case brokerBalancers = "broker.balancers"
        case controlCenterID = "control-center.id"
        case controlCenterCertificate = "control-center.certificate"
        case controlCenterKey = "control-center.key"
        case controlCenterStore = "control-center.store"
        case controlCenterAuthority = "control-center.authority"
        case controlCenterWorkers = "control-center.workers"
        case licoreFleet = "licore.fleet"
        case licoreController = "licore.controller"
        case licoreControllerKey = "licore.controller-key"
        case alertsNoDataAfter = "alerts.no-data-after"
        case alertsRanges = "alerts.ranges"
        case alertsNight = "alerts.night"
        case alertsUTCOffset = "alerts.utc-offset"
        case alertsJumpFactor = "alerts.jump-factor"
        case alertsGapAfter = "alerts.gap-after"
        case alertsCertificateWithin = "alerts.certificate-within"
        case alertsClockOff = "alerts.clock-off"
        case alertsOutboxCount = "alerts.outbox-count"
        case alertsRefusalsPerMinute = "alerts.refusals-per-minute"
        case alertsClearAfter = "alerts.clear-after"
        case alertsPublish = "alerts.publish"
        case alertsWebhook = "alerts.webhook"
        case alertsWebhookSecret = "alerts.webhook-secret"
        case alertsMailHost = "alerts.mail-host"
        case alertsMailPort = "alerts.mail-port"
        case alertsMailSecurity = "alerts.mail-security"
        case alertsMailRoots = "alerts.mail-roots"
        case alertsMailUser = "alerts.mail-user"
        case alertsMailPassword = "alerts.mail-password"
        case alertsMailFrom = "alerts.mail-from"
        case alertsMailTo = "alerts.mail-to"
        case auditorID = "auditor.id"
        case auditorCertificate = "auditor.certificate"
        case auditorKey = "auditor.key"
        case auditorState = "auditor.state"
        case auditorAuthority = "auditor.authority"
        case auditorKeepKey = "auditor.keep-key"
        case auditorSource = "auditor.source"
        case auditorMeter = "auditor.meter"
        case auditorColumns = "auditor.columns"
        case auditorInterval = "auditor.interval"
        case auditorTimeZone = "auditor.time-zone"
        case auditorSpeed = "auditor.speed"
        case auditorSeed = "auditor.seed"
        case auditorStatementInterval = "auditor.statement-interval"
        case auditorMaxUnsent = "auditor.max-unsent"
        case auditorFormat = "auditor.format"
        case auditorController = "auditor.controller"
        case auditorControllerCertificate = "auditor.controller-certificate"
        case caID = "ca.id"
        case caDirectory = "ca.directory"
        case caHosts = "ca.hosts"
        case caListen = "ca.listen"
        case caPort = "ca.port"
        case caPublicPort = "ca.public-port"
        case caPublicURL = "ca.public-url"
        case caPassphraseFile = "ca.passphrase-file"
        case caMosquitto = "ca.mosquitto"
        case caMaxConnections = "ca.max-connections"
        case caMaxConnectionsPerAddress = "ca.max-connections-per-address"
        case caInvitationLifetime = "ca.invitation-lifetime"
    }
}

/// Whom to trust.
struct TrustSettings: Sendable {
    let domain: TrustDomain
    /// PEM with one root certificate or more.
    let root: String
    /// PEM with the issuing intermediates; nil if chains bring them.
    let intermediates: String?
    /// PEM or DER with the newest revocation lists; nil if there are none.
    let revocationLists: String?
    /// Refuse everyone whose issuer's list is missing or past its next update. Default false: the last known lists
    /// revoke, and a list that is late locks nobody out.
    let requireCurrentLists: Bool

    /// The verifier of chains that these settings describe.
    func makeVerifier() throws(PKIError) -> IdentityVerifier {
        try IdentityVerifier(
            trustDomain: self.domain, roots: try CertificateFile.read(self.root),
            intermediates: try self.readIntermediates(), revocationLists: try self.readRevocationLists(),
            demand: self.requireCurrentLists ? .current : .lastKnown)
    }

    /// A verifier of chains alone: the gate behind the handshake has the revocation lists.
    func makeChainVerifier() throws(PKIError) -> IdentityVerifier {
        try IdentityVerifier(
            trustDomain: self.domain, roots: try CertificateFile.read(self.root),
            intermediates: try self.readIntermediates())
    }

    /// The gate behind TLS handshakes that these settings describe.
    func makeGate() throws(PKIError) -> PeerGate {
        try PeerGate(
            trustDomain: self.domain,
            authorities: try CertificateFile.read(self.root) + self.readIntermediates(),
            revocationLists: try self.readRevocationLists(),
            demand: self.requireCurrentLists ? .current : .lastKnown)
    }

    func readIntermediates() throws(PKIError) -> [Certificate] {
        guard let intermediates else { return [] }
        return try CertificateFile.read(intermediates)
    }

    /// The lists of the authorities that are known here. Others, of one that has retired, are passed over with a
    /// warning: one list that is of no use must not keep a server from starting, or from taking the others.
    func readRevocationLists() throws(PKIError) -> [RevocationList] {
        guard let revocationLists else { return [] }
        let lists = try CertificateFile.readRevocationLists(revocationLists)
            .split(among: try CertificateFile.read(self.root) + self.readIntermediates())
        for list in lists.unknown {
            Logger(label: "trust").warning(
                "a revocation list of an authority that is not known here is passed over",
                metadata: ["file": "\(revocationLists)", "issuer": "\(list.issuer)", "number": "\(list.number)"])
        }
        return lists.known
    }
}

/// Where the broker is, and how it serves.
struct BrokerSettings: Sendable {
    /// How others reach it: a name or address of its certificate. Default `localhost`.
    let host: String
    /// Default 8883; 0 lets the system choose.
    let port: Int
    /// The address it listens at. Default `0.0.0.0`.
    let listen: String
    /// A port on loopback without TLS; nil, the default, for none.
    let plaintextPort: Int?
    /// Leaf and intermediate, and the key; nil where no broker runs.
    let certificate: String?
    let key: String?
    /// The folder in which sessions outlive the process; nil, the default, if they don't.
    let store: String?
    /// What an acknowledgement says of it. Default safe.
    let durability: BrokerDurability
    /// Accept TLS 1.2. Default false: 1.3 only.
    let allowTLS12: Bool
    /// Event loops; 0, the default, for what suits this machine (``Broker/defaultThreads``).
    let threads: Int
    /// Defaults are those of ``BrokerLimits``.
    let limits: BrokerLimits
    /// A port for MQTT over WebSocket, at the same address; nil, the default, for none.
    let webSocketPort: Int?
    /// Default `/mqtt`.
    let webSocketPath: String
    /// Whose web pages may connect. Default none.
    let webSocketOrigins: [String]
    /// A Unix socket for local tools; nil, the default, for none.
    let socket: String?
    /// 0o600, the default, or 0o660.
    let socketMode: UInt32
    /// Which operator a user of this machine is. Default: the broker's own user and root are the operator `local`.
    let socketOperators: [UInt32: Identifier]
    /// From where a PROXY header comes before TLS. Default none.
    let balancers: [AddressRange]
}

/// The control center.
struct ControlCenterSettings: Sendable {
    let id: Identifier
    /// Leaf and intermediate.
    let certificate: String
    let key: String
    /// The SQLite file. Default `store/store.sqlite3`.
    let store: String
    /// The authority whose events are kept, `https://HOST:PORT`; nil, the default, for none.
    let authority: AuthorityAddress?
    /// Threads that verify; 0, the default, for one a core.
    let workers: Int
}

/// When people are told of something, and how.
struct AlertSettings: Sendable {
    let rules: AlertRules
    let notifications: NotificationSettings
}

/// The original's format: for a fleet that still has it.
struct LiCoreSettings: Sendable {
    /// Who may use it. Default `fleet.json`, which is not there unless `secure-mqtt fleet allow` made it.
    let fleet: String
    /// In whose name updates are signed beside the control center's own, and the key; nil for nobody.
    let controller: Identifier?
    let controllerKey: String?

    var file: FleetFile { FleetFile(path: self.fleet) }
}

/// How an auditor writes its readings.
enum AuditorFormat: String, CaseIterable, Sendable {
    /// Signed statements.
    case cose
    /// The original's text.
    case licore
}

/// One auditor.
struct AuditorSettings: Sendable {
    let id: Identifier
    /// Leaf and intermediate.
    let certificate: String
    let key: String
    /// The folder of the outbox. Default `state`.
    let state: String
    /// The authority that renews the certificate, `https://HOST:PORT`; nil, the default, for none.
    let authority: String?
    /// Whether a renewal keeps the key. Default false: a new key each time.
    let keepsKey: Bool
    /// `simulated`, the default, or the path of a CSV file.
    let source: String
    /// The name of the meter. Default `main`.
    let meter: MeterName
    /// For plain time series: `NAME=QUANTITY:UNIT`. Default none.
    let columns: [String]
    /// For plain time series: seconds that one record covers; nil if records are not over an interval.
    let interval: Int?
    /// IANA name or offset of the times in a CSV file. Default `UTC`.
    let timeZone: String
    /// Times as fast as it was measured; 0, the default, for as fast as it goes.
    let speed: Double
    /// Of the simulated home. Default 1.
    let seed: UInt64
    /// Seconds between statements. Default 60.
    let statementInterval: Int
    /// Statements kept without receipt; beyond, the auditor stops reading its meters. Default 1,000,000.
    let maximumUnsent: Int
    /// Default `cose`.
    let format: AuditorFormat
    /// In the original's format: whose updates are obeyed, and the certificate; nil for nobody's.
    let controller: Identifier?
    let controllerCertificate: String?
}

/// The certificate authority.
struct AuthoritySettings: Sendable {
    /// The ID of its server.
    let id: Identifier
    /// The folder of the authority. Default `pki`.
    let directory: String
    /// The names under which it is reached. Default: the broker's host.
    let hosts: [HostName]
    /// The address it listens at. Default `0.0.0.0`.
    let listen: String
    /// HTTPS. Default 8443; 0 lets the system choose.
    let port: Int
    /// Plain HTTP for revocation lists and OCSP; nil, the default, for none.
    let publicPort: Int?
    /// Where others find lists and OCSP, as certificates say it. Default: the first host at the public port; without
    /// either, certificates say nothing.
    let publication: PublicationPoints?
    /// The passphrase of the issuing key, in a file of mode 0600; nil for `$CREDENTIALS_DIRECTORY/ca-passphrase`, or a
    /// question on the terminal.
    let passphraseFile: String?
    /// The folder of a Mosquitto that is told of revocations, as `pki export-mosquitto` wrote it; nil for none.
    let mosquitto: String?
    /// Connections at once, in all and of one address. Default 1024 and 128.
    let limits: AuthorityLimits
    /// How long an invitation lives, in seconds. Default three days.
    let invitationLifetime: Int
}

extension InstallationConfiguration {
    /// Where the authority is on this machine, if it is: as configured, else the folder `pki` beside the configuration
    /// file; nil without a file.
    var authorityDirectory: String? { self.ca?.directory ?? self.file.map { Self.authorityDirectory(beside: $0) } }

    static func authorityDirectory(beside file: String) -> String {
        URL(fileURLWithPath: file).deletingLastPathComponent().appendingPathComponent("pki").path
    }
}
