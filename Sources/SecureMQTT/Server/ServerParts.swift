import Auditor
import CertificateAuthority
import ControlCenter
import Foundation
import Identity
import LiCore
import Logging
import MQTT
import MQTTBroker
import MQTTClient
import MessageBus
import PKCS11
import PKI
import PKITLS
import Synchronization
import Telemetry
import X509

/// A verifier of chains that can be exchanged while others use it.
private final class ChainTrust: Sendable {
    private let verifier: Mutex<IdentityVerifier>

    init(_ verifier: IdentityVerifier) { self.verifier = Mutex(verifier) }

    var current: IdentityVerifier { self.verifier.withLock { $0 } }

    func replace(_ verifier: IdentityVerifier) { self.verifier.withLock { $0 = verifier } }
}

/// What `serve`, `broker` and `control-center` are made of, as the configuration says.
struct ServerParts: Sendable {
    let configuration: InstallationConfiguration
    /// Asked after every handshake. Shared, so that newer revocation lists reach all who ask it.
    let gate: PeerGate
    /// Who may use the original's format. Shared likewise.
    let fleet: FleetRegister
    /// Whom certificate chains may lead to, while the TLS library cannot be asked.
    private let chains: ChainTrust

    init(_ configuration: InstallationConfiguration) throws {
        self.configuration = configuration
        self.gate = try configuration.trust.makeGate()
        self.fleet = FleetRegister(try configuration.licore.file.read())
        self.chains = ChainTrust(try configuration.trust.makeChainVerifier())
    }

    /// Exchanges whom the gate trusts for what the files say now.
    func replaceTrust(_ lists: [RevocationList]) throws {
        let trust = self.configuration.trust
        try self.gate.replaceTrust(
            roots: try CertificateFile.read(trust.root), intermediates: try trust.readIntermediates(),
            revocationLists: lists)
        self.chains.replace(try trust.makeChainVerifier())
    }

    // MARK: Broker

    func makeBroker(
        observer: (@Sendable (BrokerEvent) -> Void)? = nil, logger: Logger = Logger(label: "broker")
    ) throws -> Broker {
        let settings = self.configuration.broker
        let tls = try self.makeBrokerTLS()
        var listeners: [BrokerConfiguration.Listener] = [
            .tls(host: settings.listen, port: settings.port).behindBalancers(at: settings.balancers)
        ]
        if let port = settings.plaintextPort {
            listeners.append(.plaintextOnLoopback(port: port, identify: Self.identifyByUsername))
        }
        if let port = settings.webSocketPort {
            let listener = BrokerConfiguration.Listener.webSocket(
                host: settings.listen, port: port, path: settings.webSocketPath,
                allowedOrigins: settings.webSocketOrigins)
            listeners.append(listener.behindBalancers(at: settings.balancers))
        }
        if let path = settings.socket {
            listeners.append(.unix(path: path, mode: settings.socketMode, identify: try self.identifyLocally()))
        }
        var configuration = BrokerConfiguration(
            listeners: listeners, tls: tls,
            admission: PeerAdmission(gate: self.gate, fleet: self.fleet, now: { .now }),
            verification: PeerVerification(
                trustDomain: self.configuration.trust.domain, fleet: self.fleet,
                verifier: { [chains = self.chains] in chains.current }, now: { .now }),
            authorizer: FleetAuthorizer(self.fleet, now: { .now }), limits: settings.limits,
            observer: { event in
                Self.log(event, logger)
                observer?(event)
            })
        configuration.threads = settings.threads > 0 ? settings.threads : Broker.defaultThreads
        configuration.store = settings.store.map {
            BrokerConfiguration.Store(directory: $0, durability: settings.durability)
        }
        return try Broker(configuration: configuration, logger: logger)
    }

    /// Reads the broker's certificate and key and the roots, now.
    ///
    /// - Throws: an error that says which file is wrong.
    func makeBrokerTLS() throws -> BrokerTLS {
        let settings = self.configuration.broker
        guard let certificate = settings.certificate, let key = settings.key else {
            throw CommandError(
                .configuration, "the configuration has no broker.certificate and broker.key: this is not a broker's")
        }
        // By our own readers first: they refuse keys that others can read, and say what is wrong in one line.
        let chain = try CertificateFile.read(certificate)
        let identity = try self.configuration.trust.makeVerifier().verify(chain: chain, at: .now, roles: [.broker])
        let signingKey = try KeyFile.open(key)
        _ = try CertificateSigner(identity, key: signingKey)
        return try BrokerTLS(
            chain: chain.tlsCertificates, key: signingKey.tlsKey,
            roots: CertificateFile.read(self.configuration.trust.root).tlsCertificates,
            allowsTLS12: settings.allowTLS12)
    }

    /// Who a process of this machine is, by its user.
    private func identifyLocally() throws -> @Sendable (LocalPeer) -> PeerIdentity? {
        let domain = self.configuration.trust.domain
        var operators = self.configuration.broker.socketOperators
        if operators.isEmpty {
            let local = try Identifier("local")
            // Not as one literal: the broker may run as root, who would stand in it twice.
            operators[0] = local
            operators[getuid()] = local
        }
        return { [operators] peer in
            guard let id = operators[peer.userID] else { return nil }
            return PeerIdentity(
                spiffeID: SPIFFEID(trustDomain: domain, role: .operator, id: id),
                certificateHash: [UInt8](repeating: 0, count: 32))
        }
    }

    /// Without TLS a client is who its user name says: a SPIFFE ID.
    private static func identifyByUsername(_ connect: Connect) -> PeerIdentity? {
        guard let name = connect.username, let identity = try? SPIFFEID(name) else { return nil }
        return PeerIdentity(spiffeID: identity, certificateHash: [UInt8](repeating: 0, count: 32))
    }

    /// The broker itself logs what it refuses.
    private static func log(_ event: BrokerEvent, _ logger: Logger) {
        switch event {
        case .connected, .disconnected: logger.info("\(event)")
        default: break
        }
    }

    // MARK: Control center

    /// The control center's certificate, checked, with its key.
    struct Identified: Sendable {
        let identity: VerifiedIdentity
        let key: SigningKey
        let signer: CertificateSigner
        let chain: [Certificate]

        /// What auditors are told: every list, that of its own issuing authority last, which stays on the topic.
        var published: @Sendable ([RevocationList]) -> [[UInt8]] {
            let own = self.identity.intermediate.keyIdentifier
            return { lists in
                (lists.filter { $0.authorityKeyIdentifier != own } + lists.filter { $0.authorityKeyIdentifier == own })
                    .map(\.der)
            }
        }

        /// How the embedded broker knows it.
        var peer: PeerIdentity {
            PeerIdentity(spiffeID: self.identity.spiffeID, certificateHash: self.identity.certificateHash)
        }
    }

    func identifyControlCenter() throws -> Identified {
        let settings = try self.controlCenterSettings
        let chain = try CertificateFile.read(settings.certificate)
        let identity = try self.configuration.trust.makeVerifier()
            .verify(chain: chain, at: .now, roles: [.controlCenter])
        guard identity.spiffeID.id == settings.id else {
            throw CommandError(
                .configuration,
                "control-center.id is \(settings.id), but \(settings.certificate) is of \(identity.spiffeID)")
        }
        let key = try KeyFile.open(settings.key)
        return Identified(
            identity: identity, key: key, signer: try CertificateSigner(identity, key: key),
            chain: [identity.certificate, identity.intermediate])
    }

    private var controlCenterSettings: ControlCenterSettings {
        get throws(CommandError) {
            guard let settings = self.configuration.controlCenter else {
                throw CommandError(
                    .configuration, "the configuration has no control-center.id: this is not a control center's")
            }
            return settings
        }
    }

    func openStore() throws -> ControlCenterStore {
        try ControlCenterStore(path: try self.controlCenterSettings.store)
    }

    func makeControlCenter(
        bus: any MessageBus, store: ControlCenterStore, identified: Identified, desk: ControlDesk? = nil,
        logger: Logger = Logger(label: "control-center")
    ) throws -> ControlCenter {
        var settings = ControlCenter.Configuration()
        let workers = try self.controlCenterSettings.workers
        if workers > 0 { settings.cores = workers }
        settings.fleet = self.fleet.current
        settings.liCoreControllers = try self.liCoreControllers(identified)
        return try ControlCenter(
            bus: bus, store: store, verifier: try self.configuration.trust.makeVerifier(),
            signer: identified.signer, chain: identified.chain.map(\.der),
            revocationLists: identified.published(try self.configuration.trust.readRevocationLists()),
            configuration: settings, logger: logger, onHello: { desk?.heard($0, $1) })
    }

    /// What acts on auditors, over the same bus and store.
    func makeDesk(
        bus: any MessageBus, store: ControlCenterStore, identified: Identified,
        logger: Logger = Logger(label: "control-desk")
    ) throws -> ControlDesk {
        ControlDesk(
            bus: bus, store: store, signer: identified.signer, chain: identified.chain.map(\.der),
            rules: self.configuration.alerts.rules, notifications: self.configuration.alerts.notifications,
            logger: logger)
    }

    /// What the authority does, read into the store; none if no authority is configured.
    ///
    /// Certificate, key and trust are read anew for each look: they may have been exchanged.
    func makeAuthorityWatch(store: ControlCenterStore) throws -> [AuthorityWatch] {
        guard let address = try self.controlCenterSettings.authority else { return [] }
        return [
            AuthorityWatch(store: store) { number in
                let identified = try self.identifyControlCenter()
                let client = try AuthorityClient(
                    address, roots: try CertificateFile.read(self.configuration.trust.root), chain: identified.chain,
                    key: identified.key, gate: self.gate)
                let answer = try await AuthorityAccess.using(client) { try await $0.events(after: number) }
                return try CertificateEvents(answer)
            }
        ]
    }

    /// In whose names updates in the original's form are signed: the control center's own, and whose key it was given.
    private func liCoreControllers(_ identified: Identified) throws -> [LiCoreController] {
        let own = identified.key
        var controllers = [
            LiCoreController(name: identified.identity.spiffeID.id) { try own.sign(prehashed: $0) }
        ]
        let settings = self.configuration.licore
        switch (settings.controller, settings.controllerKey) {
        case (let name?, let path?):
            let key = try KeyFile.open(path)
            controllers.append(LiCoreController(name: name) { try key.sign(prehashed: $0) })
        case (nil, nil): break
        default:
            throw CommandError(
                .configuration, "licore.controller and licore.controller-key belong together: set both or none")
        }
        return controllers
    }

    /// Takes changes of the fleet while the server runs.
    func makeFleetWatch(broker: Broker? = nil, controlCenter: ControlCenter? = nil) -> FleetWatch {
        FleetWatch(
            file: self.configuration.licore.file, register: self.fleet, broker: broker, controlCenter: controlCenter,
            logger: Logger(label: "fleet"))
    }

    /// Watches the control center's certificate and key: when they are replaced, it goes on under the new ones.
    func makeRenewal(
        of center: ControlCenter, desk: ControlDesk, identified: Identified, bus: RenewableClientBus? = nil
    ) throws -> RenewalService {
        let settings = try self.controlCenterSettings
        return RenewalService(
            files: IdentityFiles(certificate: settings.certificate, key: settings.key, hardware: PKCS11Keys()),
            current: identified.identity,
            actions: RenewalService.Actions(
                renew: nil,
                verify: { chain, _ in
                    try self.configuration.trust.makeVerifier().verify(chain: chain, at: .now, roles: [.controlCenter])
                },
                adopt: { identity, key in
                    let renewed = Identified(
                        identity: identity, key: key, signer: try CertificateSigner(identity, key: key),
                        chain: [identity.certificate, identity.intermediate])
                    try await center.renew(renewed.signer, chain: renewed.chain.map(\.der))
                    desk.renew(renewed.signer, chain: renewed.chain.map(\.der))
                    try bus?.replace(try self.clientConfiguration(renewed))
                },
                raise: { alarm in
                    Logger(label: "renewal").warning("\(alarm.text)", metadata: ["alarm": "\(alarm.kind)"])
                }),
            advice: "have it renewed (secure-mqtt pki issue --renew) and put certificate and key in their place",
            logger: Logger(label: "renewal"))
    }

    /// What a control center subscribes to.
    static let subscriptions: [Subscription] = {
        guard let filter = try? TopicFilter("audits/#") else { return [] }
        return [Subscription(filter: filter, maximumQoS: .atLeastOnce)]
    }()

    /// The control center's session at the broker that the configuration names, which may be any broker.
    ///
    /// MQTT 3.1.1: Mosquitto 2.0 sends a resumed session more than the Receive Maximum of 5.0 allows, which a client
    /// of 5.0 must take for an error, over and over; in 3.1.1 the same backlog is met by reading no faster.
    func clientConfiguration(_ identified: Identified) throws -> MQTTClientConfiguration {
        try self.clientConfiguration(
            of: identified.identity.spiffeID, chain: identified.chain, key: identified.key,
            subscriptions: Self.subscriptions.map(\.filter), version: .v3_1_1)
    }

    // MARK: Any party

    /// A session at the broker that the configuration names, for whom the certificate names.
    func makeClientBus(
        chain: [Certificate], key: SigningKey, subscriptions: [TopicFilter],
        logger: Logger = Logger(label: "mqtt-client")
    ) throws -> MQTTClientBus {
        let party = try self.gate.admit(leaf: chain[0].der, at: .now).identity.spiffeID
        return try MQTTClientBus(
            try self.clientConfiguration(of: party, chain: chain, key: key, subscriptions: subscriptions),
            logger: logger)
    }

    /// A session at the broker that the configuration names; the party's ID is the client ID.
    ///
    /// - Parameter admitted: told who the broker is, each time it was let in.
    func clientConfiguration(
        of party: SPIFFEID, chain: [Certificate], key: SigningKey, subscriptions: [TopicFilter],
        version: ProtocolVersion = .v5_0, admitted: (@Sendable (AdmittedPeer) -> Void)? = nil
    ) throws -> MQTTClientConfiguration {
        let gate = self.gate
        var tls = try MQTTClientConfiguration.TLS(
            certificateChain: chain.tlsCertificates, privateKey: key.tlsKey,
            trustRoots: CertificateFile.read(self.configuration.trust.root).tlsCertificates)
        tls.allowsTLS12 = self.configuration.broker.allowTLS12
        tls.verifyPeer = { certificate in
            let peer = try gate.admit(leaf: certificate, at: .now)
            guard peer.identity.spiffeID.role == .broker else {
                throw PKIError(.role, "\(peer.identity) is not a broker")
            }
            admitted?(peer)
        }
        var configuration = MQTTClientConfiguration(
            host: self.configuration.broker.host, port: self.configuration.broker.port, transport: .tls(tls),
            version: version, clientID: party.id.rawValue, subscriptions: subscriptions.map { .init($0) })
        if party.role == .auditor {
            // A resumed session is not sent the retained keys again, without which a new process believes no
            // receipts. All that an auditor needs is in its outbox, and it asks by its hello for what it missed.
            configuration.cleanStart = true
            configuration.sessionExpiry = .zero
        }
        return configuration
    }
}

extension CertificateEvents {
    fileprivate init(_ answer: AuthorityAPI.Events) throws {
        try self.init(
            events: answer.events.map { event in
                let certificate = event.certificate
                guard let hash = [UInt8](hexadecimal: certificate.sha256), hash.count == 32 else {
                    throw ControlCenterError(.authority, "it answers with a certificate that has no SHA-256")
                }
                let kind = CertificateEvent.Kind(event.event)
                let isRevocation = kind == .revoked
                return CertificateEvent(
                    number: Int64(event.number), kind: kind, certificateHash: hash, party: certificate.spiffeID,
                    serial: certificate.serial, notBefore: certificate.notBefore, notAfter: certificate.notAfter,
                    time: isRevocation ? certificate.revoked ?? certificate.issued : certificate.issued,
                    requester: isRevocation ? certificate.revoker : certificate.requester,
                    reason: isRevocation ? certificate.reason : nil)
            }, last: Int64(answer.last))
    }
}
