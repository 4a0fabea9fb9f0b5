import ArgumentParser
import Foundation
import Identity
import PKI

struct PKIRevokeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke",
        abstract: "Revoke all certificates of an ID, or renew the revocation lists.",
        discussion: """
            Writes a new crl.pem. Running servers that read that file apply it within a second, Mosquitto when it restarts.

            EXAMPLES
              secure-mqtt pki revoke mona --reason key-compromise --pki /srv/energy/pki
              secure-mqtt pki revoke --lists-only --pki /srv/energy/pki
            """)

    @Argument(help: ArgumentHelp("The ID to revoke.", valueName: "id"))
    var id: String?

    @Option(
        help: ArgumentHelp(
            "unspecified, key-compromise, affiliation-changed, superseded, cessation-of-operation or privilege-withdrawn.",
            valueName: "reason"))
    var reason: RevocationReason = .unspecified

    @Flag(help: "Revoke nothing; make the lists anew, before they are due.")
    var listsOnly = false

    @OptionGroup
    var authority: AuthorityOptions

    func validate() throws {
        guard (self.id == nil) == self.listsOnly else {
            throw ValidationError("give an ID, or --lists-only")
        }
    }

    func run() async throws {
        let authority = try self.authority.openAuthority()
        let output = Terminal.standardOutput
        let path = AuthorityDirectory.revocationListsPath(in: authority.path)
        if let id {
            let revoked = try authority.revoke(try Identifier(id), reason: self.reason.value, at: .now)
            for certificate in revoked {
                output.line("Revoked \(certificate.spiffeID), serial \(certificate.serialNumber.hexadecimal).")
            }
            output.line("Wrote \(path).")
        } else {
            let withRoot = try authority.renewRevocationLists(at: .now)
            output.line("Wrote \(path)\(withRoot ? "" : "; the root's list stays, its key is not here").")
        }
    }
}

/// The reasons that a person may give.
enum RevocationReason: String, ExpressibleByArgument, CaseIterable {
    case unspecified
    case keyCompromise = "key-compromise"
    case affiliationChanged = "affiliation-changed"
    case superseded
    case cessationOfOperation = "cessation-of-operation"
    case privilegeWithdrawn = "privilege-withdrawn"

    var value: RevocationList.Reason {
        switch self {
        case .unspecified: .unspecified
        case .keyCompromise: .keyCompromise
        case .affiliationChanged: .affiliationChanged
        case .superseded: .superseded
        case .cessationOfOperation: .cessationOfOperation
        case .privilegeWithdrawn: .privilegeWithdrawn
        }
    }
}
