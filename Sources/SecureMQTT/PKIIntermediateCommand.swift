import ArgumentParser
import Identity
import PKI

struct PKIIntermediateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "intermediate",
        abstract: "Make a new issuing intermediate beside the old one, with the root's key brought back.",
        discussion: """
            From then on the new one issues; what the old one issued stays good and is revoked on its own list. \
            Devices take both from the authority. Take the medium with the root's key away again afterwards. When \
            nothing of the old one is valid any more: secure-mqtt pki retire.

            EXAMPLE
              secure-mqtt pki intermediate --root-key /media/offline/root.key --pki /srv/energy/pki
            """)

    @Option(
        help: ArgumentHelp(
            "The root's key, or the URI of one in a token; default: the one in the authority's folder.",
            valueName: "file"))
    var rootKey: String?

    @Option(
        help: ArgumentHelp("The passphrase of the root's key, if it has one of its own.", valueName: "file"))
    var rootPassphraseFile: String?

    @Option(
        help: ArgumentHelp(
            "Use this key in a token for the new intermediate, or make it there: pkcs11:token=...", valueName: "uri"))
    var issuingKey: String?

    @Flag(help: "Leave the new key to file permissions alone.")
    var unencrypted = false

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        let authority = try await self.authority.openAuthority()
        let key = try self.rootKey.map {
            try KeyFile.open(
                $0,
                passphrase: self.rootPassphraseFile.map { PassphraseSources.source(file: $0) } ?? authority.passphrase)
        }
        let next = try await self.authority.newKey(
            "the new intermediate's key", inToken: self.issuingKey, encrypted: !self.unencrypted)
        let renewed = try authority.addIntermediate(
            rootKey: key, key: next.key, passphrase: next.passphrase, at: .now)
        let output = Terminal.standardOutput
        output.line("Made a new issuing intermediate; \(renewed.issuers.count) are served now.")
        output.line("New key identifier: \(renewed.issuing.keyIdentifier.hexadecimal)")
        output.line("Old key identifier: \(authority.issuing.keyIdentifier.hexadecimal)")
        output.line("Copy issuing.pem and crl.pem to broker and control center where they do not read this folder.")
    }
}
