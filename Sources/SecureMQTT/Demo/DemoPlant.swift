import Auditor
import ControlCenter
import Foundation
import Identity
import Logging
import MQTTBroker
import MQTTClient
import PKI
import ServiceLifecycle
import Telemetry
import UnixSignals
import X509

/// Broker, control center and auditors of the demo, in this one process.
///
/// The auditors are clients of the broker over TLS sockets, as on devices of their own. The control center uses
/// the broker's in-process session, as in `serve`.
struct DemoPlant: Sendable {
    struct Member: Sendable {
        let id: Identifier
        let bus: MQTTClientBus
        let service: AuditorService
    }

    let site: DemoSite
    let broker: Broker
    let controlCenter: ControlCenter
    let members: [Member]
    let recorder: DemoRecorder
    let witness: DemoWitness

    init(site: DemoSite, sources: [DemoSource], drains: Bool) async throws {
        self.site = site
        self.recorder = DemoRecorder()
        let parts = try ServerParts(site.configuration)
        let identified = try parts.identifyControlCenter()
        let store = try parts.openStore()
        let witness = try DemoWitness(store: site.store, intruder: site.intruder.spiffeID)
        self.witness = witness
        self.broker = try parts.makeBroker(observer: { witness.note($0) })
        let session = try await self.broker.openInProcessSession(
            identity: identified.peer, clientID: "control-center", subscriptions: ServerParts.subscriptions)
        self.controlCenter = try parts.makeControlCenter(bus: session, store: store, identified: identified)
        var members: [Member] = []
        for source in sources {
            members.append(try Self.member(source, site: site, parts: parts, recorder: self.recorder, drains: drains))
        }
        self.members = members
    }

    private static func member(
        _ source: DemoSource, site: DemoSite, parts: ServerParts, recorder: DemoRecorder, drains: Bool
    ) throws -> Member {
        let folder = site.folder(of: source.id)
        let trust = try site.configuration.trust.makeVerifier()
        let chain = try CertificateFile.read("\(folder)/auditor.pem")
        let key = try KeyFile.read("\(folder)/auditor.key")
        let identity = try trust.verify(chain: chain, at: .now, roles: [.auditor])
        let bus = try parts.makeClientBus(
            chain: chain, key: key, subscriptions: AuditorService.subscriptions(for: source.id))
        var options = AuditorService.Options()
        options.speed = source.isLive ? .live : .unlimited
        options.drains = drains
        var configuration = AuditorConfiguration(certificateChain: chain.map(\.der))
        configuration.clockQuality = .ofSystem
        // Who watches wants to see each reading arrive.
        if source.isLive { configuration.statementInterval = 0 }
        let state = "\(folder)/state"
        try FileManager.default.createDirectory(
            atPath: state, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        return Member(
            id: source.id, bus: bus,
            service: try AuditorService(
                bus: bus, source: RecordedSource(source.source, auditor: source.id, recorder: recorder),
                outbox: try SQLiteOutbox(directory: state, owner: identity.spiffeID), configuration: configuration,
                signer: try CertificateSigner(identity, key: key), trust: trust, options: options))
    }

    /// Runs everything until the director has done, or a signal comes.
    func run(_ director: DemoDirector) async throws {
        var services: [ServiceGroupConfiguration.ServiceConfiguration] = [
            .init(service: self.broker), .init(service: self.controlCenter),
        ]
        for member in self.members {
            services.append(.init(service: member.bus))
            // With --exit an auditor ends when all it has is receipted.
            services.append(.init(service: member.service, successTerminationBehavior: .ignore))
        }
        services.append(.init(service: director, successTerminationBehavior: .gracefullyShutdownGroup))
        try await ServiceGroup(
            configuration: .init(
                services: services, gracefulShutdownSignals: [.sigterm, .sigint], logger: Logger(label: "demo"))
        ).run()
    }
}
