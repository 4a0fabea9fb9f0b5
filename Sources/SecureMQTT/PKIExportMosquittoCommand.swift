import ArgumentParser
import Foundation
import Identity
import LiCore
import MQTTBroker
import PKI
import X509

struct PKIExportMosquittoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export-mosquitto",
        abstract: "Write what a Mosquitto 2 needs to stand in for the embedded broker.",
        discussion: """
            Writes mosquitto.conf, the topic table as acl, certificates, revocation lists and the broker's key. Run it \
            again after control centers, operators or brokers were added or anyone was revoked, then send Mosquitto \
            a SIGHUP; what it wrote before is replaced, the folder of sessions is kept.

            EXAMPLES
              secure-mqtt pki export-mosquitto --config /srv/energy/secure-mqtt.yaml \\
                  /etc/mosquitto/energy
              chown -R mosquitto: /etc/mosquitto/energy
              mosquitto -c /etc/mosquitto/energy/mosquitto.conf
            """)

    @Argument(help: ArgumentHelp("The folder to write.", valueName: "dir"))
    var directory: String

    @Option(
        help: ArgumentHelp(
            "The user that Mosquitto, started as root, becomes (default: its own, mosquitto).", valueName: "name"))
    var user: String?

    @Option(
        help: ArgumentHelp(
            "The port of a second listener, for clients of the original LiCore system (secure-mqtt fleet).",
            valueName: "port"))
    var licorePort: Int?

    @Option(help: ArgumentHelp("With it: the certificate of the original's authority, PEM.", valueName: "file"))
    var licoreCa: String?

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        let configuration = try await self.authority.configuration.load()
        guard let certificate = configuration.broker.certificate, let key = configuration.broker.key else {
            throw CommandError(.configuration, "broker.certificate and broker.key are missing in the configuration")
        }
        let authority = try await self.authority.openAuthority()
        let issued = try authority.issued().filter { $0.revocation == nil }
        func names(_ role: Role) -> [Identifier] {
            Set(issued.map(\.spiffeID).filter { $0.role == role }.map(\.id)).sorted()
        }

        let folder = URL(fileURLWithPath: self.directory).standardizedFileURL.path
        let files = MosquittoConfiguration.Files(
            certificateAuthorities: "\(folder)/root.pem", certificateChain: "\(folder)/broker.pem",
            privateKey: "\(folder)/broker.key", revocationLists: "\(folder)/crl.pem",
            accessControlList: "\(folder)/acl", persistenceDirectory: "\(folder)/sessions",
            processIdentifier: "\(folder)/mosquitto.pid")
        let listen = configuration.broker.listen
        var mosquitto = MosquittoConfiguration(
            files: files, port: configuration.broker.port,
            host: ["0.0.0.0", "::", ""].contains(listen) ? nil : listen,
            controlCenters: names(.controlCenter), operators: names(.operator), brokers: names(.broker),
            user: self.user)

        // Mosquitto knows no end by date: whose is past is left out.
        mosquitto.fleet = try Fleet(
            configuration.licore.file.read().members.filter { $0.lastSecond >= .now })
        mosquitto.trustDomain = configuration.trust.domain
        let original = try self.originalAuthority()
        if let licorePort, original != nil {
            mosquitto.licoreListener = MosquittoConfiguration.LiCoreListener(
                port: licorePort, certificateAuthority: "\(folder)/licore-ca.pem",
                accessControlList: "\(folder)/licore-acl")
        }

        // Everything is read before anything is written.
        let pemKey = try KeyFile.open(key)
        guard let keyText = pemKey.pemRepresentation else {
            throw CommandError(.badData, "\(key): Mosquitto needs a key in a file")
        }
        let chain = try CertificateFile.read(certificate)
        guard chain.first?.publicKey == Certificate.PublicKey(pemKey.publicKey) else {
            throw CommandError(.badData, "\(key) is not the key of \(certificate)")
        }
        let lists = try CertificateFile.readRevocationLists(
            AuthorityDirectory.revocationListsPath(in: authority.path))
        for path in [folder, files.persistenceDirectory] where !FileManager.default.fileExists(atPath: path) {
            try Installation.makeDirectory(path, mode: 0o700)
        }
        var written: [(String, String, UInt32)] = [
            (files.privateKey, keyText, 0o600),
            (files.certificateAuthorities, authority.roots.map(\.pemText).joined(), 0o644),
            (files.certificateChain, chain.map(\.pemText).joined(), 0o644),
            (files.revocationLists, lists.map(\.pemText).joined(), 0o644),
            (files.accessControlList, mosquitto.accessControlText, 0o600),
            ("\(folder)/mosquitto.conf", mosquitto.configurationText, 0o644),
        ]
        if let listener = mosquitto.licoreListener, let original {
            written.append((listener.certificateAuthority, original, 0o644))
            written.append((listener.accessControlList, mosquitto.licoreAccessControlText, 0o600))
        }
        for (path, text, mode) in written {
            try DurableFile.replace(path, Array(text.utf8), mode: mode)
        }
        let output = Terminal.standardOutput
        output.line("Wrote \(folder)/mosquitto.conf and the files that it names.")
        output.line("Give them to Mosquitto's user (chown -R mosquitto: \(folder)), then start:")
        output.line("  mosquitto -c \(folder)/mosquitto.conf")
    }

    /// The original's authority, if a listener for its clients is wanted.
    private func originalAuthority() throws -> String? {
        guard let licorePort else {
            guard self.licoreCa == nil else { throw CommandError(.usage, "--licore-ca: give --licore-port as well") }
            return nil
        }
        guard (1...65_535).contains(licorePort) else {
            throw CommandError(.usage, "--licore-port \(licorePort): a port is 1 to 65535")
        }
        guard let licoreCa else { throw CommandError(.usage, "--licore-port: give --licore-ca FILE as well") }
        return try CertificateFile.read(licoreCa).map(\.pemText).joined()
    }
}
