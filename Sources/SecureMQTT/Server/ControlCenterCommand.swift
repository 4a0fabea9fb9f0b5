import ArgumentParser
import Logging
import MQTTClient

struct ControlCenterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "control-center",
        abstract: "Run the control center alone, as a client of any MQTT broker.",
        discussion: """
            Its session at the broker outlives it: what auditors send while it is away is delivered when it is back. \
            With Mosquitto, begin with: secure-mqtt pki export-mosquitto --help
            A renewed certificate (both files replaced) is taken within a second.

            EXAMPLES
              secure-mqtt control-center --config /srv/energy/secure-mqtt.yaml
              secure-mqtt control-center --set broker.host=mqtt.example.org --set broker.port=8883
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
        let bus = try RenewableClientBus(try parts.clientConfiguration(identified))
        let desk = try parts.makeDesk(bus: bus, store: store, identified: identified)
        let center = try parts.makeControlCenter(bus: bus, store: store, identified: identified, desk: desk)
        let watch = TrustWatch(
            parts: parts, controlCenter: center,
            published: identified.published, logger: Logger(label: "trust"))
        let renewal = try parts.makeRenewal(of: center, desk: desk, identified: identified, bus: bus)
        try await runServices(
            [bus, center, desk, watch, renewal, parts.makeFleetWatch(controlCenter: center)]
                + parts.makeAuthorityWatch(store: store),
            logger: Logger(label: "control-center"))
    }
}
