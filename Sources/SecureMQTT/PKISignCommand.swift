import ArgumentParser
import Foundation
import Identity
import PKI

struct PKISignCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sign",
        abstract: "Sign a request that was made on a device: as issue --csr, for an auditor unless told.",
        discussion: """
            The ID is the request's common name unless --id says it. The profile decides everything else; a request \
            for more is refused.

            EXAMPLES
              secure-mqtt pki sign anna.csr --config /srv/energy/secure-mqtt.yaml
              secure-mqtt pki sign plain.csr --id anna --out anna.pem --pki ./pki
            """)

    @Argument(help: ArgumentHelp("The request: PKCS#10, PEM or DER.", valueName: "file"))
    var request: String

    @Option(help: ArgumentHelp("auditor, control-center or operator.", valueName: "role"))
    var role: Role = .auditor

    @Option(help: ArgumentHelp("The ID that is certified.", valueName: "id"))
    var id: String?

    @Option(name: [.long, .short], help: ArgumentHelp("The file to make (default: ./<id>.pem).", valueName: "file"))
    var out: String?

    @Flag(help: "The party has a certificate already and gets another.")
    var renew = false

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        guard !self.role.isServer else {
            throw CommandError(
                .usage, "for a server: secure-mqtt pki issue \(self.role) ID --csr \(self.request) --host NAME")
        }
        let request = try SigningRequestFile.read(self.request)
        guard let text = self.id ?? request.commonName else {
            throw CommandError(.usage, "\(self.request) has no common name: give --id")
        }
        let id = try Identifier(text)
        let path = self.out ?? "\(id).pem"
        guard !FileManager.default.fileExists(atPath: path) else {
            throw CommandError(.cannotCreate, "\(path) exists already and is not overwritten")
        }
        let authority = try await self.authority.openAuthority()
        let profile = CertificateProfile.role(self.role, id, in: try authority.trustDomain)
        do throws(PKIError) {
            try request.require(profile)
        } catch {
            throw CommandError(.badData, "\(self.request): \(error.reason)")
        }
        let certificate = try authority.issue(
            profile, to: request.publicKey, at: .now, renewing: self.renew, requester: Requester.local)
        try CertificateFile.create(path, [certificate, authority.issuing])
        Terminal.standardOutput.line("Issued \(profile.spiffeID): \(path) (with its issuer)")
    }
}
