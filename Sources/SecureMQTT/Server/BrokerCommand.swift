import ArgumentParser
import Logging

struct BrokerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "broker",
        abstract: "Run the embedded MQTT broker alone.",
        discussion: """
            For a control center in another process or on another machine. Who may publish and subscribe to what \
            follows from each certificate; nothing needs to be configured.

            EXAMPLES
              secure-mqtt broker --config /srv/energy/secure-mqtt.yaml
            """)

    @OptionGroup
    var options: ConfigurationOptions

    @OptionGroup
    var logging: LoggingOptions

    func run() async throws {
        self.logging.bootstrap()
        let parts = try ServerParts(try await self.options.load())
        let broker = try parts.makeBroker()
        let watch = RevocationWatch(
            trust: parts.configuration.trust, gate: parts.gate, broker: broker, logger: Logger(label: "revocation"))
        try await runServices(
            [broker, ListeningNotice(broker: broker), watch], logger: Logger(label: "broker"))
    }
}
