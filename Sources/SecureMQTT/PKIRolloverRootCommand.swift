import ArgumentParser
import Identity
import PKI

struct PKIRolloverRootCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rollover-root",
        abstract: "Make a new root beside the old one, both trusted.",
        discussion: """
            Devices take the new root from the authority within a day, over a connection that the old one \
            vouches for. When all have it, make a new intermediate under it; when nothing under the old root is valid \
            any more, retire the old intermediate, then the old root.

            EXAMPLE
              secure-mqtt pki rollover-root --pki /srv/energy/pki
              secure-mqtt pki export-root /media/new --pki /srv/energy/pki --remove
            """)

    @Option(
        help: ArgumentHelp(
            "Use this key in a token for the new root, or make it there: pkcs11:token=...", valueName: "uri"))
    var rootKey: String?

    @Flag(help: "Leave the new key to file permissions alone.")
    var unencrypted = false

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        let authority = try await self.authority.openAuthority()
        let next = try await self.authority.newKey(
            "the new root's key", inToken: self.rootKey, encrypted: !self.unencrypted)
        let renewed = try authority.addRoot(key: next.key, passphrase: next.passphrase, at: .now)
        let output = Terminal.standardOutput
        output.line("Made a new root; \(renewed.roots.count) are trusted now.")
        output.line("New root SHA256:\(renewed.root.sha256.hexadecimal)")
        output.line("New key identifier: \(renewed.root.keyIdentifier.hexadecimal)")
        output.line("Old key identifier: \(authority.root.keyIdentifier.hexadecimal)")
        output.line(
            next.key.uri == nil
                ? "Move its key off this machine: \(renewed.rootKeyFile)"
                : "Take the token with its key away; \(renewed.rootKeyFile) names it.")
    }
}
