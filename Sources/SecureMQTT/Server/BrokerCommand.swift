import ArgumentParser
import Logging
import MQTTBroker

struct BrokerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "broker",
        abstract: "Run the embedded MQTT broker alone.",
        discussion: """
            For a control center in another process or on another machine. Who may publish and subscribe to what \
            follows from each certificate; nothing needs to be configured.

            EXAMPLES
              secure-mqtt broker --config /srv/energy/secure-mqtt.yaml
            """,
        subcommands: [BrokerStatusCommand.self])

    @OptionGroup
    var options: ConfigurationOptions

    @OptionGroup
    var logging: LoggingOptions

    func run() async throws {
        self.logging.bootstrap()
        let parts = try ServerParts(try await self.options.load())
        OpenFiles.raiseLimit(
            for: parts.configuration.broker.limits.maximumConnections, logger: Logger(label: "broker"))
        let broker = try parts.makeBroker()
        let watch = TrustWatch(
            parts: parts, broker: broker, logger: Logger(label: "trust"))
        try await runServices(
            [broker, ListeningNotice(broker: broker), watch], logger: Logger(label: "broker"))
    }
}
