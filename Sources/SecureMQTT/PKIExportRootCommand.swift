import ArgumentParser
import Crypto
import Foundation
import Identity
import PKI
import X509

struct PKIExportRootCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export-root",
        abstract: "Copy the root's key and certificate to a medium, check the copy, and remove the key here.",
        discussion: """
            An encrypted key is copied as it is: its passphrase is asked to check the copy. Make two copies, on two \
            media, in two places; with the last one give --remove. The key is needed again for a new intermediate \
            (pki intermediate), once a year for the root's revocation list (pki revoke --lists-only), and for nothing else.

            EXAMPLE
              secure-mqtt pki export-root /media/one --pki /srv/energy/pki
              secure-mqtt pki export-root /media/two --pki /srv/energy/pki --remove
            """)

    @Argument(help: ArgumentHelp("A folder on the medium.", valueName: "dir"))
    var directory: String

    @Flag(help: "Remove the key here once the copy is known to be good.")
    var remove = false

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        let authority = try await self.authority.openAuthority()
        let source = authority.rootKeyFile
        if let uri = try KeyFile.uri(source) {
            throw CommandError(
                .badData,
                "the root's key is in a token and cannot be copied (\(uri.prefix { $0 != "?" })): take the token away")
        }
        let bytes = try DurableFile.read(source, maximumSize: KeyFile.maximumSize, ownerOnly: true)
        let (key, certificate) = ("\(self.directory)/root.key", "\(self.directory)/root.pem")
        try DurableFile.create(key, bytes, mode: 0o600)
        try CertificateFile.create(certificate, [authority.root])
        // Read back, opened, and compared with the certificate: a copy that was not tried is none.
        let copy = try KeyFile.read(key, passphrase: authority.passphrase)
        guard authority.root.publicKey == Certificate.PublicKey(copy.publicKey),
            try CertificateFile.read(certificate) == [authority.root]
        else { throw CommandError(.io, "the copy in \(self.directory) is not good: nothing was removed") }
        let output = Terminal.standardOutput
        output.line("Copied \(key) and \(certificate); the copy is good.")
        output.line("Root SHA256:\(authority.root.sha256.hexadecimal)")
        guard self.remove else {
            output.line("The key is still here as well: \(source)")
            return
        }
        guard unlink(source) == 0 else {
            throw CommandError(.io, "cannot remove \(source): \(String(cString: strerror(errno)))")
        }
        output.line("Removed \(source). Take the medium away.")
    }
}
