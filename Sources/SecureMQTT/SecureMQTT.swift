import ArgumentParser

/// The root command. Each subcommand is a file of its own, named in ``configuration``.
struct SecureMQTT: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "secure-mqtt",
        abstract: "Signed energy readings over MQTT, stored only when verified.",
        discussion: """
            Begin with one server:
              secure-mqtt init /srv/energy --trust-domain energy.example \\
                  --host broker.energy.example --auditor mona
              secure-mqtt serve --config /srv/energy/secure-mqtt.yaml

            Errors are one line on standard error; exit codes are those of sysexits(3): 64 usage, 65 bad data, 66 no \
            such file, 69 unavailable, 70 internal, 73 exists or cannot be created, 74 input/output, 77 permissions, \
            78 configuration.
            """,
        version: "0.1.0",
        subcommands: [
            DemoCommand.self,
            InitCommand.self,
            ServeCommand.self,
            BrokerCommand.self,
            ControlCenterCommand.self,
            ReadingsCommand.self,
            AuditorCommand.self,
            CACommand.self,
            UpdateCommand.self,
            UpdatesCommand.self,
            AlertCommand.self,
            AlertsCommand.self,
            PKICommand.self,
            FleetCommand.self,
            MigrateCommand.self,
            ConvertCommand.self,
            BenchCommand.self,
        ]
    )
}

@main enum Main {
    static func main() async {
        do {
            var command = try SecureMQTT.parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch {
            CommandError.exit(with: error)
        }
    }
}
