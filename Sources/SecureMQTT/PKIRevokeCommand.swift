import ArgumentParser
import CertificateAuthority
import Foundation
import Identity
import PKI

struct PKIRevokeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke",
        abstract: "Revoke all certificates of an ID and withdraw its open invitation, or renew the revocation lists.",
        discussion: """
            Writes a new crl.pem. Running servers that read that file apply it within a second. For a Mosquitto whose \
            files pki export-mosquitto wrote, name their folder: its lists are replaced, it is told to read them, and \
            the live sessions of the revoked end.

            EXAMPLES
              secure-mqtt pki revoke mona --reason keyCompromise --pki /srv/energy/pki
              secure-mqtt pki revoke mona --ca https://ca.energy.example:8443 --as operators/olga
              secure-mqtt pki revoke mona --config /srv/energy/secure-mqtt.yaml --mosquitto /etc/mosquitto/energy
              secure-mqtt pki revoke --lists-only --root-key /media/offline/root.key --pki /srv/energy/pki
            """)

    @Argument(help: ArgumentHelp("The ID to revoke.", valueName: "id"))
    var id: String?

    @Option(
        help: ArgumentHelp(
            "unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn.",
            valueName: "reason"))
    var reason: RevocationReason = .unspecified

    @Flag(help: "Revoke nothing; make the lists anew, before they are due.")
    var listsOnly = false

    @Option(
        help: ArgumentHelp("The folder of a Mosquitto, as pki export-mosquitto wrote it.", valueName: "dir"))
    var mosquitto: String?

    @OptionGroup
    var authority: AuthorityOptions

    @OptionGroup
    var remote: RemoteAuthorityOptions

    @Option(
        help: ArgumentHelp(
            "With --lists-only: the root's key, brought back to renew the root's list too.", valueName: "file"))
    var rootKey: String?

    @Flag(help: "Say what was revoked as one line of JSON.")
    var json = false

    func validate() throws {
        guard (self.id == nil) == self.listsOnly else {
            throw ValidationError("give an ID, or --lists-only")
        }
    }

    func run() async throws {
        let output = Terminal.standardOutput
        if let id, let client = try await self.remote.client(self.authority) {
            let answer = try await AuthorityAccess.using(client) {
                try await $0.revoke(.init(id: try Identifier(id).rawValue, reason: "\(self.reason.value)"))
            }
            if self.json { return try output.json(answer) }
            for serial in answer.revoked { output.line("Revoked \(id), serial \(serial).") }
            if answer.revoked.isEmpty { output.line("Withdrew what \(id) had open.") }
            return
        }
        let authority = try await self.authority.openAuthority()
        let path = AuthorityDirectory.revocationListsPath(in: authority.path)
        if let id {
            let revoked = try authority.revoke(
                try Identifier(id), reason: self.reason.value, at: .now, requester: Requester.local)
            if self.json {
                try output.json(["revoked": revoked.map(\.serialNumber.hexadecimal)])
            } else {
                for certificate in revoked {
                    output.line("Revoked \(certificate.spiffeID), serial \(certificate.serialNumber.hexadecimal).")
                }
                output.line(revoked.isEmpty ? "Withdrew what \(id) had open." : "Wrote \(path).")
            }
            try await self.tellMosquitto(authority, ending: Set(revoked.map(\.spiffeID)))
        } else {
            let withRoot = try authority.renewRevocationLists(
                at: .now,
                rootKey: try self.rootKey.map { try KeyFile.open($0, passphrase: authority.passphrase) })
            output.line("Wrote \(path)\(withRoot ? "" : "; the root's list stays, its key is not here").")
            try await self.tellMosquitto(authority, ending: [])
        }
    }

    private func tellMosquitto(_ authority: AuthorityDirectory, ending parties: Set<SPIFFEID>) async throws {
        guard let mosquitto else { return }
        let settings = try await self.authority.configuration.load()
        let takeover = try MosquittoTakeover(folder: mosquitto, settings, roots: authority.roots)
        let lists = try CertificateFile.readRevocationLists(
            AuthorityDirectory.revocationListsPath(in: authority.path))
        let output = Terminal.standardOutput
        try await takeover.tell(lists, ending: parties, by: authority) { line in
            if !self.json { output.line(line) }
        }
    }
}

/// The reasons that a person may give.
enum RevocationReason: String, ExpressibleByArgument, CaseIterable {
    case unspecified
    case keyCompromise
    case affiliationChanged
    case superseded
    case cessationOfOperation
    case privilegeWithdrawn

    /// As in RFC 5280 section 5.3.1; also `key-compromise`.
    init?(argument: String) {
        let word = argument.replacing("-", with: "").lowercased()
        guard let reason = Self.allCases.first(where: { $0.rawValue.lowercased() == word }) else { return nil }
        self = reason
    }

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
