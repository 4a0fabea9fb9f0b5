import ArgumentParser
import Foundation
import PKI

struct PKICommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pki",
        abstract: "Certificates: make an authority, issue, revoke, list, show; configure Mosquitto.",
        discussion: """
            The authority is the folder given by --pki, else the one beside the configuration file.

            EXAMPLES
              secure-mqtt pki list --config /srv/energy/secure-mqtt.yaml
              secure-mqtt pki issue auditor anna --pki /srv/energy/pki
              secure-mqtt pki show /srv/energy/broker/broker.pem
            """,
        subcommands: [
            PKIInitCommand.self,
            PKIIssueCommand.self,
            PKIRequestCommand.self,
            PKIRevokeCommand.self,
            PKIListCommand.self,
            PKIShowCommand.self,
            PKIExportMosquittoCommand.self,
        ])
}

/// `--pki` and `--config`: which authority.
struct AuthorityOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The folder of the authority.", valueName: "dir"))
    var pki: String?

    @OptionGroup
    var configuration: ConfigurationOptions

    func openAuthority() throws -> AuthorityDirectory {
        do {
            return try AuthorityDirectory.open(try self.path())
        } catch let error as PKIError where error.code == .missing {
            throw CommandError(.noInput, "\(error.reason): give --pki DIR or --config FILE of an installation")
        }
    }

    /// `--pki`; else the folder `pki` beside the configuration file; else `./pki`.
    private func path() throws -> String {
        if let pki { return pki.count > 1 && pki.hasSuffix("/") ? String(pki.dropLast()) : pki }
        guard let file = try self.configuration.findFile() else { return "pki" }
        return URL(fileURLWithPath: file).deletingLastPathComponent().appendingPathComponent("pki").path
    }

    /// Where a broker is reached, for the configuration of a new auditor; nil without a configuration file.
    func broker() async throws -> BrokerSettings? {
        guard try self.configuration.findFile() != nil else { return nil }
        return try await self.configuration.load().broker
    }
}
