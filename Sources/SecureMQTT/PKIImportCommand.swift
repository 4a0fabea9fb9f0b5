import ArgumentParser
import PKI
import X509

struct PKIImportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import",
        abstract: "Take certificates into the record that this authority's key signed elsewhere.",
        discussion: """
            From then on their IDs are taken, and they can be revoked. Certificates of other authorities, or that break \
            the rules, are refused.

            EXAMPLE
              secure-mqtt pki import anna.pem --pki /srv/energy/pki
            """)

    @Argument(
        help: ArgumentHelp("Files with a certificate each; further ones in a file are its chain.", valueName: "file"))
    var files: [String]

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        let authority = try await self.authority.openAuthority()
        for file in self.files {
            let certificate = try CertificateFile.read(file)[0]
            let name = try authority.importCertificate(certificate, at: .now, requester: Requester.local)
            Terminal.standardOutput.line("Imported \(name).")
        }
    }
}
