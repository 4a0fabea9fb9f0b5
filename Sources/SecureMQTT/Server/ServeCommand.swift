import ArgumentParser
import Foundation
import Logging
import MQTTBroker
import MessageBus
import ServiceLifecycle
import UnixSignals

struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Run broker and control center in one process.",
        discussion: """
            Without a socket between them: an auditor's message is acknowledged when it is stored. SIGTERM or Ctrl-C \
            end it in good order. A changed revocation list takes effect within a second.

            EXAMPLES
              secure-mqtt serve --config /srv/energy/secure-mqtt.yaml
              secure-mqtt serve --set broker.port=8884 --log-level debug
            """)

    @OptionGroup
    var options: ConfigurationOptions

    @OptionGroup
    var logging: LoggingOptions

    func run() async throws {
        self.logging.bootstrap()
        let parts = try ServerParts(try await self.options.load())
        let identified = try parts.identifyControlCenter()
        let store = try parts.openStore()
        OpenFiles.raiseLimit(
            for: parts.configuration.broker.limits.maximumConnections, logger: Logger(label: "broker"))
        let broker = try parts.makeBroker()
        let session = try await broker.openInProcessSession(
            identity: identified.peer, clientID: "control-center", subscriptions: ServerParts.subscriptions)
        let desk = try parts.makeDesk(bus: session, store: store, identified: identified)
        let center = try parts.makeControlCenter(bus: session, store: store, identified: identified, desk: desk)
        let watch = TrustWatch(
            parts: parts, broker: broker, controlCenter: center,
            published: identified.published, logger: Logger(label: "trust"))
        let renewal = try parts.makeRenewal(of: center, desk: desk, identified: identified)
        try await runServices(
            [
                broker, ListeningNotice(broker: broker), center, desk, watch, renewal,
                parts.makeFleetWatch(broker: broker, controlCenter: center),
            ] + parts.makeAuthorityWatch(store: store), logger: Logger(label: "serve"))
    }
}

/// Says at which ports a broker listens, as soon as it does.
struct ListeningNotice: Service {
    let broker: Broker

    func run() async throws {
        // What keeps the broker from listening ends the group by the broker itself.
        if let ports = try? await self.broker.boundPorts() {
            Logger(label: "broker").notice(
                "listening", metadata: ["ports": "\(ports.map(String.init).joined(separator: ","))"])
        }
        try? await gracefulShutdown()
    }
}

/// Runs services until SIGTERM or SIGINT, and then ends them in good order, the last one first.
func runServices(_ services: [any Service], logger: Logger) async throws {
    let group = ServiceGroup(
        configuration: .init(
            services: services.map { .init(service: $0) }, gracefulShutdownSignals: [.sigterm, .sigint],
            logger: logger))
    try await group.run()
}
