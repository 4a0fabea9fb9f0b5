import ArgumentParser
import Foundation
import Identity
import PKI

struct PKIListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the certificates that were issued.",
        discussion: """
            EXAMPLES
              secure-mqtt pki list --pki /srv/energy/pki
              secure-mqtt pki list --role auditor --json | jq -r .id
            """)

    @Option(help: ArgumentHelp("Only this role.", valueName: "role"))
    var role: Role?

    @Flag(help: "One JSON object a line.")
    var json = false

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        let authority = try self.authority.openAuthority()
        let certificates = try authority.issued().filter { self.role == nil || $0.spiffeID.role == self.role }
        let now = UnixTime.now
        let output = Terminal.standardOutput
        if self.json {
            for certificate in certificates { try output.json(Row(certificate, at: now)) }
            return
        }
        var table = Table("ID", "ROLE", "VALID UNTIL", "STATUS", "SERIAL")
        for certificate in certificates {
            let row = Row(certificate, at: now)
            let style: Terminal.Style =
                switch row.status {
                case "valid": .green
                case "revoked": .red
                default: .yellow
                }
            table.add([
                .init(row.id), .init(row.role), .init(row.validUntil), .init(row.status, style),
                .init(row.serial, .dim),
            ])
        }
        output.table(table)
    }

    struct Row: Encodable {
        let id: String
        let role: String
        let spiffeID: String
        let validFrom: String
        let validUntil: String
        let status: String
        let revoked: String?
        let serial: String
        let sha256: String

        enum CodingKeys: String, CodingKey {
            case id, role, status, revoked, serial, sha256
            case spiffeID = "spiffe_id"
            case validFrom = "valid_from"
            case validUntil = "valid_until"
        }

        init(_ certificate: IssuedCertificate, at now: UnixTime) {
            self.id = certificate.spiffeID.id.rawValue
            self.role = certificate.spiffeID.role.rawValue
            self.spiffeID = certificate.spiffeID.rawValue
            self.validFrom = certificate.notBefore.iso8601
            self.validUntil = certificate.notAfter.iso8601
            self.revoked = certificate.revocation?.time.iso8601
            self.status =
                certificate.revocation != nil
                ? "revoked" : now > certificate.notAfter ? "expired" : now < certificate.notBefore ? "not yet" : "valid"
            self.serial = certificate.serialNumber.hexadecimal
            self.sha256 = certificate.certificateHash.hexadecimal
        }
    }
}
