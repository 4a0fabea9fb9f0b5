import ArgumentParser
import CertificateAuthority
import Foundation
import Logging
import PKCS11
import PKI

struct CACommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ca",
        abstract: "Run the certificate authority: enrolment, renewal, revocation lists, OCSP.",
        discussion: """
            The one process that reads the issuing key: give it a user and a machine of its own if you can. It serves \
            EST (RFC 7030), revocation lists, OCSP and the operators' API over HTTPS at ca.port, and lists and OCSP \
            over plain HTTP at ca.public-port. It renews its lists and its own certificate by itself.

            EXAMPLES
              secure-mqtt ca --config /srv/energy/secure-mqtt.yaml
              secure-mqtt ca --passphrase-file /etc/secure-mqtt/ca-passphrase
              secure-mqtt pki invite mona --config /srv/energy/secure-mqtt.yaml
            """)

    @OptionGroup
    var options: ConfigurationOptions

    @Option(
        help: ArgumentHelp(
            "The passphrase of the issuing key, in a file of mode 0600 (default: ca.passphrase-file, $CREDENTIALS_DIRECTORY/ca-passphrase, a question).",
            valueName: "file"))
    var passphraseFile: String?

    @OptionGroup
    var logging: LoggingOptions

    func run() async throws {
        self.logging.bootstrap()
        let configuration = try await self.options.load()
        guard let settings = configuration.ca else {
            throw CommandError(.configuration, "the configuration has no ca.id: this is not an authority's")
        }
        var authority = AuthorityConfiguration(
            id: settings.id, hosts: settings.hosts, listen: settings.listen, port: settings.port,
            publicPort: settings.publicPort, brokerHost: configuration.broker.host,
            brokerPort: configuration.broker.port)
        authority.invitationLifetime = UnixTime(settings.invitationLifetime)
        authority.limits = settings.limits
        // Beyond, the server would find no file for the next connection, nor for its record.
        authority.limits.connections = min(
            settings.limits.connections,
            OpenFiles.raiseLimit(
                for: settings.limits.connections, setting: "ca.max-connections", logger: Logger(label: "ca")))
        let directory = try AuthorityDirectory.open(
            settings.directory,
            passphrase: PassphraseSources.source(file: self.passphraseFile ?? settings.passphraseFile),
            publication: settings.publication, hardware: PKCS11Keys())
        let logger = Logger(label: "ca")
        if let folder = settings.mosquitto {
            let takeover = try MosquittoTakeover(folder: folder, configuration, roots: directory.roots)
            authority.onLists = { lists, revoked in
                try await takeover.tell(lists, ending: Set(revoked.map(\.spiffeID)), by: directory) {
                    logger.notice("\($0)")
                }
            }
        }
        let server = try CertificateAuthorityServer(
            directory, configuration: authority, now: { .now },
            onListening: { ports in
                logger.notice(
                    "listening",
                    metadata: ["https": "\(ports.https)", "http": "\(ports.http.map(String.init) ?? "-")"])
            }, logger: logger)
        try await runServices([server], logger: logger)
    }
}
