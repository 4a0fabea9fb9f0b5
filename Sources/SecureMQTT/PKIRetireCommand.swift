import ArgumentParser
import Identity
import PKI

struct PKIRetireCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retire",
        abstract: "Take a former intermediate or root out, when nothing that it issued is valid any more.",
        discussion: """
            EXAMPLE
              secure-mqtt pki retire 5f0c2a... --pki /srv/energy/pki
            """)

    @Argument(help: ArgumentHelp("The key identifier, as pki show says it.", valueName: "hex"))
    var keyIdentifier: String

    @Flag(help: "Although certificates of it are still valid: their holders are locked out.")
    var force = false

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        guard let identifier = [UInt8](hexadecimal: self.keyIdentifier) else {
            throw CommandError(.usage, "\(self.keyIdentifier) is not a key identifier in hexadecimal")
        }
        let authority = try await self.authority.openAuthority()
        _ = try authority.retire(identifier, at: .now, force: self.force)
        Terminal.standardOutput.line("Retired \(self.keyIdentifier). Its key may be destroyed.")
    }
}
