import ArgumentParser
import Foundation
import Identity
import PKI

struct InitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Make a new installation: PKI, keys, folders and configuration of one server.",
        discussion: """
            DIR must not exist, or be empty; nothing is ever overwritten. Keys are readable by their owner alone.

            EXAMPLES
              Everything on this machine, to try it out:
                secure-mqtt init ./energy --trust-domain energy.example --auditor home-1

              A server for two devices:
                secure-mqtt init /srv/energy --trust-domain energy.example \\
                    --host broker.energy.example --host 192.0.2.7 \\
                    --control-center cc-1 --auditor mona --auditor lena --operator olga

              For a script, with the passphrase of the authority's keys in a file of mode 0600:
                secure-mqtt init /srv/energy --trust-domain energy.example \\
                    --passphrase-file /root/ca-passphrase

              Further parties later: secure-mqtt pki issue --help
            """)

    @Argument(help: ArgumentHelp("The folder to make.", valueName: "dir"))
    var directory: String

    @Option(
        help: ArgumentHelp(
            "The namespace of all IDs: a lower-case DNS name of two labels or more. Asked for on a terminal.",
            valueName: "domain"))
    var trustDomain: String?

    @Option(
        name: .customLong("host"),
        help: ArgumentHelp(
            "A name or address under which the broker is reached; may be repeated, the first is for the auditors (default: localhost, 127.0.0.1, ::1).",
            valueName: "name"))
    var hosts: [String] = []

    @Option(help: ArgumentHelp("The broker's port.", valueName: "port"))
    var port: Int = 8_883

    @Option(help: ArgumentHelp("The ID of the broker.", valueName: "id"))
    var broker: String = "broker-1"

    @Option(help: ArgumentHelp("The ID of the control center.", valueName: "id"))
    var controlCenter: String = "center-1"

    @Option(
        name: .customLong("auditor"), help: ArgumentHelp("The ID of an auditor; may be repeated.", valueName: "id"))
    var auditors: [String] = []

    @Option(
        name: .customLong("operator"), help: ArgumentHelp("The ID of an operator; may be repeated.", valueName: "id"))
    var operators: [String] = []

    @Option(help: ArgumentHelp("The ID of the certificate authority's server.", valueName: "id"))
    var ca: String = "ca-1"

    @Option(
        help: ArgumentHelp(
            "Where others will find revocation lists and OCSP, for certificates to say: http://HOST:PORT.",
            valueName: "url"))
    var publicURL: String?

    @OptionGroup
    var encryption: NewKeyOptions

    @Flag(help: "Say what was made as one line of JSON.")
    var json = false

    func run() async throws {
        var installation = try self.makeInstallation()
        installation.passphrase = try self.encryption.passphrase(for: "the authority's keys")
        installation.keys = { [encryption] () throws(PKIError) in try encryption.keys() }
        try installation.make(at: self.directory, now: .now)
        let output = Terminal.standardOutput
        if self.json {
            try output.json(Made(self.directory, installation))
        } else {
            self.say(installation, output)
        }
    }

    private func makeInstallation() throws -> Installation {
        let ids = [self.broker, self.controlCenter, self.ca] + self.auditors + self.operators
        var seen: Set<String> = []
        for text in ids {
            let id = try Identifier(text)
            guard seen.insert(id.folded).inserted else {
                throw CommandError(.usage, "the ID \(text) is given twice: IDs are unique over all roles, without case")
            }
        }
        guard (1...65_535).contains(self.port) else {
            throw CommandError(.usage, "--port \(self.port): a port is a number from 1 to 65535")
        }
        let names = self.hosts.isEmpty ? ["localhost", "127.0.0.1", "::1"] : self.hosts
        return Installation(
            trustDomain: try TrustDomain(try self.askTrustDomain()),
            hosts: try names.map { name throws(CommandError) in
                do throws(PKIError) {
                    return try HostName(name)
                } catch {
                    throw CommandError(.usage, "--host \(name): \(error.reason)")
                }
            },
            port: self.port,
            broker: try Identifier(self.broker),
            controlCenter: try Identifier(self.controlCenter),
            auditors: try self.auditors.map { try Identifier($0) },
            operators: try self.operators.map { try Identifier($0) },
            ca: try Identifier(self.ca),
            publication: try self.publicURL.map { url throws(CommandError) in
                do throws(PKIError) {
                    return try PublicationPoints(url)
                } catch {
                    throw CommandError(.usage, "--public-url: \(error.reason)")
                }
            })
    }

    private func askTrustDomain() throws -> String {
        if let trustDomain { return trustDomain }
        guard isatty(STDIN_FILENO) == 1, Terminal.standardError.isTerminal else {
            throw CommandError(.usage, "--trust-domain is missing: a DNS name of yours, such as energy.example")
        }
        Terminal.standardError.write("Trust domain (a DNS name of yours, such as energy.example): ")
        guard let answer = readLine()?.trimmingCharacters(in: .whitespaces), !answer.isEmpty else {
            throw CommandError(.usage, "without a trust domain there are no names: nothing was made")
        }
        return answer
    }

    private func say(_ installation: Installation, _ output: Terminal) {
        let directory = self.directory.hasSuffix("/") ? String(self.directory.dropLast()) : self.directory
        let first = installation.auditors.first
        output.line("Made \(directory) for the trust domain \(output.styled("\(installation.trustDomain)", .bold)).")
        output.line()
        output.line(output.styled("Next", .bold))
        if self.encryption.rootKey == nil {
            output.line(
                "  1. Move the root's key off this machine; only a new root list or intermediate needs it again:")
            output.line("       secure-mqtt pki export-root /media/offline --pki \(directory)/pki --remove")
        } else {
            output.line(
                "  1. Take the token with the root's key away; only a new root list or intermediate needs it again.")
        }
        output.line("  2. Start broker and control center:")
        output.line("       secure-mqtt serve --config \(directory)/secure-mqtt.yaml")
        if let first {
            output.line("  3. Copy each folder of \(directory)/auditors to its device, then delete it here; there:")
            output.line("       secure-mqtt auditor run --config secure-mqtt.yaml")
            output.line("     or try it on this machine:")
            output.line("       secure-mqtt auditor run --config \(directory)/auditors/\(first)/secure-mqtt.yaml")
        } else {
            output.line("  3. Start the authority, and invite auditors:")
            output.line("       secure-mqtt ca --config \(directory)/secure-mqtt.yaml")
            output.line("       secure-mqtt pki invite ID --config \(directory)/secure-mqtt.yaml")
        }
        output.line()
        output.line("A key that never leaves its device: secure-mqtt pki request, then pki issue --csr.")
    }

    private struct Made: Encodable {
        let directory: String
        let configuration: String
        let trustDomain: String
        let broker: String
        let controlCenter: String
        let auditors: [String]
        let operators: [String]

        init(_ directory: String, _ installation: Installation) {
            self.directory = directory
            self.configuration = (directory.hasSuffix("/") ? directory : directory + "/") + "secure-mqtt.yaml"
            self.trustDomain = installation.trustDomain.rawValue
            self.broker = installation.broker.rawValue
            self.controlCenter = installation.controlCenter.rawValue
            self.auditors = installation.auditors.map(\.rawValue)
            self.operators = installation.operators.map(\.rawValue)
        }
    }
}
