import ArgumentParser
import Foundation

/// `--config` and `--set`, for every command that reads the configuration.
struct ConfigurationOptions: ParsableArguments {
    @Option(
        name: [.long, .short],
        help: ArgumentHelp(
            "The configuration file (default: $SECURE_MQTT_CONFIG, ./secure-mqtt.yaml, /etc/secure-mqtt/secure-mqtt.yaml).",
            valueName: "file"))
    var config: String?

    @Option(
        name: .customLong("set"),
        help: ArgumentHelp(
            "Set a key of the configuration, such as broker.port=8884; with broker --development, one of its limits.",
            valueName: "key=value"))
    var settings: [String] = []

    /// Reads file, environment and flags.
    ///
    /// - Parameter flags: what flags of the command itself say; they win over everything.
    func load(flags: [InstallationConfiguration.Key: String] = [:]) async throws -> InstallationConfiguration {
        var overrides: [String: String] = [:]
        for setting in self.settings {
            guard let separator = setting.firstIndex(of: "=") else {
                throw CommandError(.usage, "--set \(setting): write key=value, such as broker.port=8884")
            }
            let name = String(setting[..<separator])
            guard InstallationConfiguration.Key(rawValue: name) != nil else {
                throw CommandError(.usage, "--set \(name): there is no such key")
            }
            overrides[name] = String(setting[setting.index(after: separator)...])
        }
        for (key, value) in flags { overrides[key.rawValue] = value }
        return try await InstallationConfiguration.load(file: try self.findFile(), overrides: overrides)
    }

    /// The file to read; nil if none was named and none is in the usual places.
    func findFile() throws(CommandError) -> String? {
        let named = self.config ?? ProcessInfo.processInfo.environment["SECURE_MQTT_CONFIG"]
        if let named {
            guard FileManager.default.fileExists(atPath: named) else {
                throw CommandError(.noInput, "\(named) does not exist: make an installation with secure-mqtt init")
            }
            return named
        }
        return ["secure-mqtt.yaml", "/etc/secure-mqtt/secure-mqtt.yaml"]
            .first { FileManager.default.fileExists(atPath: $0) }
    }
}
