import ArgumentParser
import PKI

/// `secure-mqtt auditor renew`.
struct AuditorRenewCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "renew",
        abstract: "Renew this auditor's certificate now, by the one it has.",
        discussion: """
            An auditor that runs renews its certificate by itself when two thirds of its lifetime are over; this is for
            those who do not want to wait. The auditor may run meanwhile: it goes on under the new certificate at once.
              secure-mqtt auditor renew --config /etc/secure-mqtt/secure-mqtt.yaml

            An expired certificate is enough only on an operator's word, which holds once:
              secure-mqtt pki renew-allow mona
            Otherwise the operator gives a new invitation, and
              secure-mqtt auditor join --renew ...
            """)

    @OptionGroup var configuration: ConfigurationOptions

    @Flag(help: "Keep the key. Otherwise a new one is made, unless it is in a token.")
    var keepKey = false

    func run() async throws {
        let settings = try await self.configuration.load()
        guard let auditor = settings.auditor else {
            throw CommandError(.usage, "say whose: --config FILE of an auditor")
        }
        let device = try DeviceIdentity(settings, auditor)
        let renewed = try await device.renew(keepingKey: self.keepKey ? true : nil, evenIfExpired: true)
        Terminal.standardOutput.line(
            "Renewed \(renewed.spiffeID), valid until \(renewed.validity.upperBound.iso8601).")
    }
}
