import ArgumentParser
import CertificateAuthority
import Foundation
import Identity
import PKI

struct PKIRevokeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke",
        abstract:
            "Revoke all certificates of an ID and withdraw its open invitation, or an intermediate; or renew the lists.",
        discussion: """
            Writes a new crl.pem. Running servers that read that file apply it within a second. For a Mosquitto whose \
            files pki export-mosquitto wrote, name their folder: its lists are replaced, it is told to read them, and \
            the live sessions of the revoked end.

            An intermediate is revoked by the root, whose key is brought back for it, after another one was made \
            (pki intermediate). It goes on the root's list, and what it issued and is valid is revoked with it: let \
            its fleet renew first (auditors do by themselves), or invite it anew.

            EXAMPLES
              secure-mqtt pki revoke mona --reason keyCompromise --pki /srv/energy/pki
              secure-mqtt pki revoke mona --ca https://ca.energy.example:8443 --as operators/olga
              secure-mqtt pki revoke mona --config /srv/energy/secure-mqtt.yaml --mosquitto /etc/mosquitto/energy
              secure-mqtt pki revoke --intermediate 5f0c2a... --root-key /media/offline/root.key --pki /srv/energy/pki
              secure-mqtt pki revoke --lists-only --root-key /media/offline/root.key --pki /srv/energy/pki
            """)

    @Argument(help: ArgumentHelp("The ID to revoke.", valueName: "id"))
    var id: String?

    @Option(
        help: ArgumentHelp(
            "Revoke the intermediate of this key identifier, as pki show says it.", valueName: "hex"))
    var intermediate: String?

    @Flag(help: "With --intermediate: although certificates of it are valid; their holders are locked out.")
    var force = false

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
            "With --lists-only or --intermediate: the root's key, brought back to renew the root's list too.",
            valueName: "file"))
    var rootKey: String?

    @Option(
        help: ArgumentHelp("The passphrase of the root's key, if it has one of its own.", valueName: "file"))
    var rootPassphraseFile: String?

    @Flag(help: "Say what was revoked as one line of JSON.")
    var json = false

    func validate() throws {
        guard [self.id != nil, self.listsOnly, self.intermediate != nil].count(where: \.self) == 1 else {
            throw ValidationError("give an ID, --intermediate or --lists-only")
        }
        guard self.intermediate == nil || self.remote.ca == nil else {
            throw ValidationError("an intermediate is revoked on the authority's machine, with the root's key")
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
            try self.say(revoked, revoked.isEmpty ? "Withdrew what \(id) had open." : "Wrote \(path).")
            try await self.tellMosquitto(authority, ending: Set(revoked.map(\.spiffeID)))
        } else if let intermediate {
            guard let identifier = [UInt8](hexadecimal: intermediate) else {
                throw CommandError(.usage, "\(intermediate) is not a key identifier in hexadecimal")
            }
            let revoked = try authority.revokeIntermediate(
                identifier, reason: self.reason.value, at: .now, rootKey: try self.readRootKey(authority),
                requester: Requester.local, force: self.force)
            try self.say(
                revoked,
                "Revoked the intermediate \(intermediate) and \(revoked.count) certificates of it. Wrote \(path): where this folder is not read, copy it."
            )
            // Those that have a certificate of another intermediate keep their sessions.
            let now = UnixTime.now
            let held = Set(try authority.issued().filter { $0.isInForce(at: now) }.map(\.spiffeID))
            try await self.tellMosquitto(authority, ending: Set(revoked.map(\.spiffeID)).subtracting(held))
        } else {
            let withRoot = try authority.renewRevocationLists(at: .now, rootKey: try self.readRootKey(authority))
            output.line("Wrote \(path)\(withRoot ? "" : "; the root's list stays, its key is not here").")
            try await self.tellMosquitto(authority, ending: [])
        }
    }

    private func readRootKey(_ authority: AuthorityDirectory) throws -> SigningKey? {
        try self.rootKey.map {
            try KeyFile.open(
                $0,
                passphrase: self.rootPassphraseFile.map { PassphraseSources.source(file: $0) } ?? authority.passphrase)
        }
    }

    private func say(_ revoked: [IssuedCertificate], _ end: String) throws {
        let output = Terminal.standardOutput
        guard !self.json else { return try output.json(["revoked": revoked.map(\.serialNumber.hexadecimal)]) }
        for certificate in revoked {
            output.line("Revoked \(certificate.spiffeID), serial \(certificate.serialNumber.hexadecimal).")
        }
        output.line(end)
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
