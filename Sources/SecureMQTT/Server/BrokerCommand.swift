import ArgumentParser
import Foundation
import Logging
import MQTTBroker

struct BrokerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "broker",
        abstract: "Run the embedded MQTT broker alone.",
        discussion: """
            For a control center in another process or on another machine. Who may publish and subscribe to what \
            follows from each certificate; nothing needs to be configured. --set takes keys of the configuration.

            With --development there is no configuration: anybody on this machine may read and write everything but \
            $SYS over plaintext on 127.0.0.1, and nothing is kept between starts. --set then takes limits of the \
            broker: \(DevelopmentBroker.settingNames). subscribe-deny may be given several times.

            EXAMPLES
              secure-mqtt broker --config /srv/energy/secure-mqtt.yaml
              secure-mqtt broker --development --port 1883 --set maximum-qos=1 --set subscribe-deny=private/#
            """,
        subcommands: [BrokerStatusCommand.self])

    @Flag(help: "Serve everybody on this machine, without TLS, on 127.0.0.1; keep nothing.")
    var development = false

    @Option(help: "With --development: the port to listen on (default: 1883).")
    var port: Int?

    @OptionGroup
    var options: ConfigurationOptions

    @OptionGroup
    var logging: LoggingOptions

    func run() async throws {
        self.logging.bootstrap()
        if self.development {
            try await self.runDevelopment()
            return
        }
        guard self.port == nil else {
            throw CommandError(.usage, "--port goes with --development; else write --set broker.port=8884")
        }
        let parts = try ServerParts(try await self.options.load())
        OpenFiles.raiseLimit(
            for: parts.configuration.broker.limits.maximumConnections, logger: Logger(label: "broker"))
        let broker = try parts.makeBroker()
        let watch = TrustWatch(
            parts: parts, broker: broker, logger: Logger(label: "trust"))
        try await runServices(
            [broker, ListeningNotice(broker: broker), watch, parts.makeFleetWatch(broker: broker)],
            logger: Logger(label: "broker"))
    }

    private func runDevelopment() async throws {
        guard self.options.config == nil else {
            throw CommandError(
                .usage, "--development takes no --config: it has no certificates, other addresses or data directory")
        }
        let logger = Logger(label: "broker")
        let broker = try DevelopmentBroker.makeBroker(
            port: self.port ?? 1_883, settings: self.options.settings, logger: logger)
        DevelopmentBroker.warn()
        // There is nothing to read again.
        signal(SIGHUP, SIG_IGN)
        OpenFiles.raiseLimit(for: 0, logger: logger)
        try await runServices([broker, ListeningNotice(broker: broker)], logger: logger)
    }
}
