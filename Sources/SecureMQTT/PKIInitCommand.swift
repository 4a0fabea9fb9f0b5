import ArgumentParser
import Foundation
import Identity
import PKI

struct PKIInitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Make an authority alone: root, issuing intermediate, revocation lists.",
        discussion: """
            For installations that are spread over machines; secure-mqtt init makes an authority too.

            EXAMPLE
              secure-mqtt pki init ./pki --trust-domain energy.example
            """)

    @Argument(help: ArgumentHelp("The folder to make; it must not exist, or be empty.", valueName: "dir"))
    var directory: String

    @Option(help: ArgumentHelp("A lower-case DNS name of two labels or more.", valueName: "domain"))
    var trustDomain: String

    func run() async throws {
        let trustDomain = try TrustDomain(self.trustDomain)
        let files = FileManager.default
        if files.fileExists(atPath: self.directory) {
            guard let contents = try? files.contentsOfDirectory(atPath: self.directory), contents.isEmpty else {
                throw CommandError(
                    .cannotCreate, "\(self.directory) exists and is not an empty folder: nothing was changed")
            }
        } else {
            try Installation.makeDirectory(self.directory, mode: 0o755)
        }
        let authority = try AuthorityDirectory.create(self.directory, trustDomain: trustDomain, at: .now)
        let output = Terminal.standardOutput
        output.line("Made the authority of \(trustDomain) in \(authority.path).")
        output.line("Move \(AuthorityDirectory.rootKeyPath(in: authority.path)) off this machine.")
    }
}
