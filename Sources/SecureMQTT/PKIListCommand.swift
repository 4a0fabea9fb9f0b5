import ArgumentParser
import CertificateAuthority
import ControlCenter
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
              secure-mqtt pki list --valid --ca https://ca.energy.example:8443 --as operators/olga
            """)

    @Option(help: ArgumentHelp("Only this role.", valueName: "role"))
    var role: Role?

    @Flag(help: "One JSON object a line.")
    var json = false

    @OptionGroup
    var authority: AuthorityOptions

    @OptionGroup
    var remote: RemoteAuthorityOptions

    @Option(help: ArgumentHelp("Warn of certificates that end within this time, such as 30d.", valueName: "time"))
    var warn: Lifetime = Lifetime(seconds: 30 * 86_400)

    @Flag(help: "Only what is neither revoked nor expired.")
    var valid = false

    func run() async throws {
        let now = UnixTime.now
        let rows = try await self.rows(at: now)
        let output = Terminal.standardOutput
        if self.json {
            for row in rows { try output.json(row) }
        } else {
            var table = Table("ID", "ROLE", "VALID UNTIL", "STATUS", "SERIAL", "LAST SEEN")
            for row in rows {
                let style: Terminal.Style =
                    switch row.status {
                    case "valid": .green
                    case "revoked": .red
                    default: .yellow
                    }
                table.add([
                    .init(row.id), .init(row.role), .init(row.validUntil), .init(row.status, style),
                    .init(row.serial, .dim), .init(row.lastSeen ?? "-"),
                ])
            }
            output.table(table)
        }
        self.warnOfWhatEnds(rows, at: now)
    }

    private func rows(at now: UnixTime) async throws -> [Row] {
        let role = self.role
        let seen = await self.lastSeen()
        let rows: [Row]
        if let client = try await self.remote.client(self.authority) {
            rows = try await AuthorityAccess.using(client) { try await $0.certificates() }
                .compactMap { Row($0, at: now, seen: seen) }
        } else {
            let authority = try await self.authority.openAuthority()
            do throws(PKIError) {
                for list in try authority.revocationLists() {
                    if let warning = list.warning(at: now) { Terminal.standardError.line("warning: \(warning)") }
                }
            } catch {
                Terminal.standardError.line("warning: revocation lists: \(error.reason)")
            }
            rows = try authority.issued().map { Row($0, at: now, seen: seen) }
        }
        return rows.filter { (role == nil || $0.role == role?.rawValue) && (!self.valid || $0.status == "valid") }
    }

    /// From the control center's store, if the configuration names one that can be read here.
    private func lastSeen() async -> [String: Int64] {
        guard let settings = try? await self.authority.configuration.load().controlCenter else { return [:] }
        // Not there, or not to be read from here: then nobody knows.
        return (try? StoreReader(path: settings.store).lastSeen()) ?? [:]
    }

    /// Of each ID the newest certificate counts: an older one may end.
    private func warnOfWhatEnds(_ rows: [Row], at now: UnixTime) {
        var newest: [String: Row] = [:]
        for row in rows where row.status == "valid" {
            if newest[row.spiffeID].map({ $0.notAfter < row.notAfter }) ?? true { newest[row.spiffeID] = row }
        }
        let ending = newest.values.filter {
            $0.notAfter - now < self.warn.seconds && $0.role != Role.authority.rawValue
        }
        for row in ending.sorted(by: { $0.notAfter < $1.notAfter }) {
            Terminal.standardError.line("warning: \(row.role) \(row.id) is valid until \(row.validUntil) only")
        }
    }

    struct Row: Encodable {
        let id: String
        let role: String
        let spiffeID: String
        let validFrom: String
        let validUntil: String
        let lastSeen: String?
        let status: String
        let revoked: String?
        let serial: String
        let sha256: String
        let requester: String?
        let notAfter: UnixTime

        enum CodingKeys: String, CodingKey {
            case id, role, status, revoked, serial, sha256, requester
            case spiffeID = "spiffe_id"
            case validFrom = "valid_from"
            case validUntil = "valid_until"
            case lastSeen = "last_seen"
        }

        init(_ certificate: IssuedCertificate, at now: UnixTime, seen: [String: Int64]) {
            self.init(
                certificate.spiffeID,
                validity: certificate.notBefore...max(certificate.notBefore, certificate.notAfter),
                revoked: certificate.revocation?.time, serial: certificate.serialNumber.hexadecimal,
                sha256: certificate.certificateHash.hexadecimal, requester: certificate.requester, at: now, seen: seen)
        }

        /// Nil for a name that is not understood here.
        init?(_ certificate: AuthorityAPI.Certificate, at now: UnixTime, seen: [String: Int64]) {
            guard let spiffeID = try? SPIFFEID(certificate.spiffeID) else { return nil }
            self.init(
                spiffeID, validity: certificate.notBefore...max(certificate.notBefore, certificate.notAfter),
                revoked: certificate.revoked, serial: certificate.serial, sha256: certificate.sha256,
                requester: certificate.requester, at: now, seen: seen)
        }

        private init(
            _ spiffeID: SPIFFEID, validity: ClosedRange<UnixTime>, revoked: UnixTime?, serial: String, sha256: String,
            requester: String?, at now: UnixTime, seen: [String: Int64]
        ) {
            self.id = spiffeID.id.rawValue
            self.role = spiffeID.role.rawValue
            self.spiffeID = spiffeID.rawValue
            self.validFrom = validity.lowerBound.iso8601
            self.validUntil = validity.upperBound.iso8601
            self.lastSeen = seen[spiffeID.rawValue]?.iso8601
            self.revoked = revoked?.iso8601
            self.status =
                revoked != nil
                ? "revoked"
                : now > validity.upperBound ? "expired" : now < validity.lowerBound ? "not yet" : "valid"
            self.serial = serial
            self.sha256 = sha256
            self.requester = requester
            self.notAfter = validity.upperBound
        }
    }
}
