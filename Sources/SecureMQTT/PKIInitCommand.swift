import ArgumentParser
import Foundation
import Identity
import PKCS11
import PKI

struct PKIInitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Make an authority alone: root, issuing intermediate, revocation lists.",
        discussion: """
            For installations that are spread over machines; secure-mqtt init makes an authority too.

            EXAMPLE
              secure-mqtt pki init ./pki --trust-domain energy.example
              secure-mqtt pki init ./pki --trust-domain energy.example --issuing-key \
                  'pkcs11:token=ca;object=issuing?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin'
            """)

    @Argument(help: ArgumentHelp("The folder to make; it must not exist, or be empty.", valueName: "dir"))
    var directory: String

    @Option(help: ArgumentHelp("A lower-case DNS name of two labels or more.", valueName: "domain"))
    var trustDomain: String

    @OptionGroup
    var encryption: NewKeyOptions

    func run() async throws {
        let trustDomain = try TrustDomain(self.trustDomain)
        let files = FileManager.default
        // Asked for before anything is made.
        let passphrase = try self.encryption.passphrase(for: "the authority's keys")
        try Installation.requireEmpty(self.directory)
        let keys = try self.encryption.keys()
        if !files.fileExists(atPath: self.directory) {
            try Installation.makeDirectory(self.directory, mode: 0o755)
        }
        let authority = try AuthorityDirectory.create(
            self.directory, trustDomain: trustDomain, at: .now, passphrase: passphrase, rootPassphrase: passphrase,
            key: keys.issuing, rootKey: keys.root, hardware: PKCS11Keys())
        let output = Terminal.standardOutput
        output.line("Made the authority of \(trustDomain) in \(authority.path).")
        guard keys.root.uri == nil else {
            return output.line("Take the token with the root's key away: \(authority.rootKeyFile) names it.")
        }
        output.line("Move the root's key off this machine:")
        output.line("  secure-mqtt pki export-root /media/offline --pki \(authority.path) --remove")
    }
}
