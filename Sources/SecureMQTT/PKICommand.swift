import ArgumentParser
import Foundation
import PKCS11
import PKI

struct PKICommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pki",
        abstract: "Certificates: make an authority, invite, issue, revoke, list, show; configure Mosquitto.",
        discussion: """
            The authority is the folder given by --pki, else the one beside the configuration file.

            EXAMPLES
              secure-mqtt pki list --config /srv/energy/secure-mqtt.yaml
              secure-mqtt pki invite anna --config /srv/energy/secure-mqtt.yaml
              secure-mqtt pki issue auditor anna --pki /srv/energy/pki
              secure-mqtt pki show /srv/energy/broker/broker.pem
            """,
        subcommands: [
            PKIInitCommand.self,
            PKIInviteCommand.self,
            PKIIssueCommand.self,
            PKIRequestCommand.self,
            PKISignCommand.self,
            PKIImportCommand.self,
            PKIRenewAllowCommand.self,
            PKIRevokeCommand.self,
            PKIListCommand.self,
            PKIShowCommand.self,
            PKIExportMosquittoCommand.self,
            PKIExportRootCommand.self,
            PKIIntermediateCommand.self,
            PKIRolloverRootCommand.self,
            PKIRetireCommand.self,
        ])
}

/// `--pki` and `--config`: which authority.
struct AuthorityOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The folder of the authority.", valueName: "dir"))
    var pki: String?

    @OptionGroup
    var configuration: ConfigurationOptions

    @Option(
        help: ArgumentHelp(
            "The passphrase of the authority's key, in a file of mode 0600 (default: ca.passphrase-file, $CREDENTIALS_DIRECTORY/ca-passphrase, a question).",
            valueName: "file"))
    var passphraseFile: String?

    func openAuthority() async throws -> AuthorityDirectory {
        // A folder that is named stands for itself; else what the configuration says of it holds too.
        var settings: AuthoritySettings?
        if self.pki == nil || self.configuration.config != nil { settings = try await self.settings() }
        do {
            return try AuthorityDirectory.open(
                try self.path(settings),
                passphrase: PassphraseSources.source(file: self.passphraseFile ?? settings?.passphraseFile),
                publication: settings?.publication, hardware: PKCS11Keys())
        } catch let error as PKIError where error.code == .missing {
            throw CommandError(.noInput, "\(error.reason): give --pki DIR or --config FILE of an installation")
        }
    }

    /// Of a key that the authority makes now, from where its other passphrases come.
    private func newPassphrase(_ what: String) async throws -> Passphrase {
        let settings = try await self.settings()
        return try PassphraseSources.new(what, file: self.passphraseFile ?? settings?.passphraseFile)
    }

    /// A key that the authority makes now, and the passphrase of its file.
    ///
    /// - Parameters:
    ///   - uri: of one in a token instead.
    ///   - encrypted: whether its file shall have a passphrase.
    func newKey(
        _ what: String, inToken uri: String?, encrypted: Bool
    ) async throws -> (key: SigningKey, passphrase: Passphrase?) {
        let passphrase = encrypted && uri == nil ? try await self.newPassphrase(what) : nil
        return (try KeyFile.makeKey(inToken: uri), passphrase)
    }

    func settings() async throws -> AuthoritySettings? {
        guard try self.configuration.findFile() != nil else { return nil }
        return try await self.configuration.load().ca
    }

    /// `--pki`; else as configured; else the folder `pki` beside the configuration file; else `./pki`.
    private func path(_ settings: AuthoritySettings?) throws -> String {
        if let pki { return pki.count > 1 && pki.hasSuffix("/") ? String(pki.dropLast()) : pki }
        if let settings { return settings.directory }
        return try self.configuration.findFile().map { InstallationConfiguration.authorityDirectory(beside: $0) }
            ?? "pki"
    }

    /// Where a broker is reached, for the configuration of a new auditor; nil without a configuration file.
    func broker() async throws -> BrokerSettings? {
        guard try self.configuration.findFile() != nil else { return nil }
        return try await self.configuration.load().broker
    }
}
