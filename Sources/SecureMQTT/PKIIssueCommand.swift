public import ArgumentParser
import Foundation
public import Identity
import PKI
import X509

struct PKIIssueCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "issue",
        abstract: "Issue a certificate, for a key made here or for a request made on the device.",
        discussion: """
            An ID is given out once over all roles, whatever its case. --renew gives the same party another \
            certificate.

            EXAMPLES
              A folder to copy to a new device (key, certificate, configuration):
                secure-mqtt pki issue auditor anna --config /srv/energy/secure-mqtt.yaml

              For a key that never leaves its device (see secure-mqtt pki request):
                secure-mqtt pki issue auditor anna --csr anna.csr --out anna.pem

              A new certificate for the broker, under two names:
                secure-mqtt pki issue broker broker-1 --renew --host broker.energy.example \\
                    --host 192.0.2.7 --out /srv/energy/broker-2027
            """)

    @Argument(help: ArgumentHelp("auditor, control-center, broker or operator.", valueName: "role"))
    var role: Role

    @Argument(help: ArgumentHelp("The ID of the party.", valueName: "id"))
    var id: String

    @Option(help: ArgumentHelp("A certificate signing request (PKCS#10, PEM) with a P-256 key.", valueName: "file"))
    var csr: String?

    @Option(
        name: .customLong("host"),
        help: ArgumentHelp(
            "For a broker: a name or address under which it is reached; may be repeated.", valueName: "name"))
    var hosts: [String] = []

    @Option(
        name: [.long, .short],
        help: ArgumentHelp(
            "The folder to make; with --csr, the file (default: ./<id>, with --csr ./<id>.pem).", valueName: "path"))
    var out: String?

    @Flag(help: "The party has a certificate already and gets another.")
    var renew = false

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        let id = try Identifier(self.id)
        let authority = try await self.authority.openAuthority()
        let hosts = try self.parseHosts()
        let profile = CertificateProfile.role(self.role, id, in: try authority.trustDomain, hosts: hosts)
        if let csr {
            let path = self.out ?? "\(id).pem"
            let request = try SigningRequestFile.read(csr)
            do throws(PKIError) {
                try request.require(profile)
            } catch {
                throw CommandError(.badData, "\(csr): \(error.reason)")
            }
            guard !FileManager.default.fileExists(atPath: path) else {
                throw CommandError(.cannotCreate, "\(path) exists already and is not overwritten")
            }
            let certificate = try authority.issue(
                profile, to: request.publicKey, at: .now, renewing: self.renew, requester: Requester.local)
            try CertificateFile.create(path, [certificate, authority.issuing])
            self.say(profile, certificate, "\(path) (with its issuer)")
            return
        }
        let folder = self.out ?? "\(id)"
        guard !FileManager.default.fileExists(atPath: folder) else {
            throw CommandError(.cannotCreate, "\(folder) exists already: give another --out")
        }
        let certificate: Certificate
        if self.role == .auditor {
            let broker = try await self.authority.broker()
            certificate = try Party.issueAuditor(
                id, by: authority, into: folder, host: broker?.host ?? "localhost", port: broker?.port ?? 8_883,
                at: .now, renewing: self.renew)
        } else {
            certificate = try Party.issue(
                profile, by: authority, into: folder, name: self.role.rawValue, at: .now, renewing: self.renew)
        }
        self.say(profile, certificate, "folder \(folder)")
    }

    private func parseHosts() throws -> [HostName] {
        guard self.role.isServer || self.hosts.isEmpty else {
            throw CommandError(.usage, "--host is for brokers only")
        }
        guard !self.role.isServer || !self.hosts.isEmpty else {
            throw CommandError(.usage, "a broker needs --host: the name or address under which it is reached")
        }
        return try self.hosts.map { name throws(CommandError) in
            do throws(PKIError) {
                return try HostName(name)
            } catch {
                throw CommandError(.usage, "--host \(name): \(error.reason)")
            }
        }
    }

    private func say(_ profile: CertificateProfile, _ certificate: Certificate, _ place: String) {
        Terminal.standardOutput.line(
            "Issued \(profile.spiffeID), valid until \(certificate.notAfter.iso8601): \(place)")
    }
}

extension Role: ExpressibleByArgument {}
