import ArgumentParser
import PKI

struct PKIRetireCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retire",
        abstract: "Take a former intermediate or root out, when nothing that it issued is valid any more.",
        discussion: """
            EXAMPLE
              secure-mqtt pki retire 5f0c2a... --pki /srv/energy/pki
            """)

    @Argument(help: ArgumentHelp("The key identifier, as pki intermediate said it.", valueName: "hex"))
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
        let held = try authority.issued().filter { $0.issuer == identifier && $0.isInForce(at: .now) }
        guard held.isEmpty || self.force else {
            throw CommandError(
                .badData, "\(held.count) certificates of it are still valid, the first of \(held[0].spiffeID)")
        }
        _ = try authority.retire(identifier)
        Terminal.standardOutput.line("Retired \(self.keyIdentifier). Its key may be destroyed.")
    }
}
