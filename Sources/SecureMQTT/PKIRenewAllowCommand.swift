import ArgumentParser
import CertificateAuthority
import Identity
import PKI

struct PKIRenewAllowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "renew-allow",
        abstract: "Let a device renew its certificate although it has expired, once.",
        discussion: """
            For a device that was away too long. It proves its old key as ever; your word replaces the validity. \
            The word is written down, and expires.

            EXAMPLE
              secure-mqtt pki renew-allow mona --lifetime 2d --note "barn was without power" --pki ./pki
            """)

    @Argument(help: ArgumentHelp("The ID.", valueName: "id"))
    var id: String

    @Option(help: ArgumentHelp("How long the word holds, such as 12h or 7d; at most 30d.", valueName: "time"))
    var lifetime: Lifetime = Lifetime(seconds: 7 * 86_400)

    @Option(help: ArgumentHelp("Why, for the record.", valueName: "text"))
    var note: String?

    @OptionGroup
    var authority: AuthorityOptions

    @OptionGroup
    var remote: RemoteAuthorityOptions

    func validate() throws {
        guard self.lifetime.seconds <= AuthorityDirectory.maximumInvitationLifetime else {
            throw ValidationError("--lifetime is at most 30d")
        }
    }

    func run() async throws {
        let id = try Identifier(self.id)
        if let client = try await self.remote.client(self.authority) {
            try await AuthorityAccess.using(client) {
                try await $0.allowRenewal(.init(id: id.rawValue, lifetime: self.lifetime.seconds, note: self.note))
            }
        } else {
            try await self.authority.openAuthority().allowRenewal(
                id, lifetime: self.lifetime.seconds, at: .now, requester: Requester.local, note: self.note)
        }
        Terminal.standardOutput.line(
            "\(id) may renew its certificate once, until \((UnixTime.now + self.lifetime.seconds).iso8601).")
    }
}
