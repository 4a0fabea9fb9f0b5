import ArgumentParser
import CertificateAuthority
import Foundation
import Identity
import PKI

struct PKIInviteCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "invite",
        abstract: "Invite a device: a token with which it enrols itself, once.",
        discussion: """
            Prints the line that is to be typed on the device. The key is made there and stays there. A newer \
            invitation of an ID takes the place of an older one.

            EXAMPLES
              secure-mqtt pki invite mona --config /srv/energy/secure-mqtt.yaml
              secure-mqtt pki invite mona --lifetime 12h --ca https://ca.energy.example:8443 --as operators/olga

              A whole registry (device,state,locality,postal_code), as CSV, or as sheets to print and cut:
                secure-mqtt pki invite --registry devices.csv > invitations.csv
                secure-mqtt pki invite --registry devices.csv --html > invitations.html
              Rows that are refused are listed with their line and reason, all others are invited; exit code 65.
            """)

    @Argument(help: ArgumentHelp("The ID to invite.", valueName: "id"))
    var id: String?

    @Option(help: ArgumentHelp("auditor, control-center, broker or operator.", valueName: "role"))
    var role: Role = .auditor

    @Option(
        name: .customLong("host"),
        help: ArgumentHelp("For a broker: a name under which it is reached; may be repeated.", valueName: "name"))
    var hosts: [String] = []

    @Option(help: ArgumentHelp("The device's meter, for the line that is typed there.", valueName: "name"))
    var meter: String?

    @Option(
        help: ArgumentHelp(
            "How long the invitation lives, such as 12h, 3d or 2w; at most 30d (default: ca.invitation-lifetime, 3d).",
            valueName: "time"))
    var lifetime: Lifetime?

    @Option(help: ArgumentHelp("A CSV file with a column 'device': invites every ID of it.", valueName: "file"))
    var registry: String?

    @Flag(help: "With --registry: a page to print, a sheet for each device.")
    var html = false

    @Flag(help: "One JSON object a line.")
    var json = false

    @OptionGroup
    var authority: AuthorityOptions

    @OptionGroup
    var remote: RemoteAuthorityOptions

    func validate() throws {
        guard (self.id == nil) != (self.registry == nil) else {
            throw ValidationError("give an ID, or --registry FILE")
        }
        guard !self.html || (self.registry != nil && !self.json) else {
            throw ValidationError("--html is for --registry, and not with --json")
        }
        guard self.role != .authority, self.role.isServer != self.hosts.isEmpty else {
            throw ValidationError("a broker needs --host, and nobody else; an authority is not invited")
        }
    }

    func run() async throws {
        if let meter { _ = try MeterName(meter) }
        guard let registry else {
            let inviter = try await self.makeInviter()
            let sheet: InvitationSheet
            do {
                sheet = try await inviter.invite(DeviceRegistry.Device(id: try Identifier(self.id ?? "").rawValue))
            } catch {
                await inviter.close()
                throw error
            }
            await inviter.close()
            let output = Terminal.standardOutput
            if self.json { return try output.json(sheet.invited) }
            output.line("On the device, before \(sheet.invited.expires.iso8601):")
            return output.line("  \(sheet.command)")
        }
        try await self.inviteAll(try DeviceRegistry.read(registry), of: registry)
    }

    /// Every row is tried. What was invited is written whatever becomes of the others: tokens are seen only once.
    private func inviteAll(_ rows: [DeviceRegistry.Row], of registry: String) async throws {
        let inviter = try await self.makeInviter()
        var sheets: [InvitationSheet] = []
        var refused: [DeviceRegistry.RefusedRow] = []
        var stop: (any Error)?
        for (line, device) in rows {
            do {
                sheets.append(try await inviter.invite(try device.get()))
            } catch {
                let reason = CommandError(error)
                refused.append(.init(line: line, reason: reason.description))
                // The rest would fare no better: the authority is away, its key or its disk is.
                guard [.badData, .usage, .cannotCreate].contains(reason.status) else {
                    stop = CommandError(
                        reason.status,
                        "\(registry), line \(line): \(reason.description); nothing from there on was invited")
                    refused.removeLast()
                    break
                }
            }
        }
        await inviter.close()
        let output = Terminal.standardOutput
        if self.json {
            for sheet in sheets { try output.json(sheet.invited) }
        } else if self.html {
            output.write(InvitationSheets.page(sheets))
        } else {
            output.write(InvitationSheets.table(sheets))
        }
        for row in refused {
            Terminal.standardError.line("secure-mqtt: \(registry), line \(row.line): \(row.reason)")
        }
        if let stop { throw stop }
        guard refused.isEmpty else {
            throw CommandError(
                .badData,
                "\(refused.count) of \(rows.count) rows were refused, as said above; \(sheets.count) are invited")
        }
    }

    /// Invites one after the other, through the authority's folder or its API.
    private struct Inviter {
        let invite: (DeviceRegistry.Device) async throws -> InvitationSheet
        let close: () async -> Void
    }

    private func makeInviter() async throws -> Inviter {
        if let client = try await self.remote.client(self.authority) {
            return Inviter(
                invite: { device in
                    let invited = try await client.invite(
                        .init(
                            id: device.id, role: self.role.rawValue, lifetime: self.lifetime?.seconds,
                            hosts: self.hosts.isEmpty ? nil : self.hosts))
                    return InvitationSheet(device: device, invited: invited, meter: self.meter)
                }, close: { await client.close() })
        }
        let authority = try await self.authority.openAuthority()
        let settings = try await self.authority.settings()
        let hosts = try self.hosts.map { name throws(PKIError) in try HostName(name) }
        let address = settings?.hosts.first?.description ?? "localhost"
        let url = "https://\(address.contains(":") ? "[\(address)]" : address):\(settings?.port ?? 8_443)"
        let lifetime = self.lifetime?.seconds ?? UnixTime(settings?.invitationLifetime ?? 259_200)
        let domain = try authority.trustDomain
        return Inviter(
            invite: { device in
                let token = EnrolmentToken()
                let invitation = try authority.invite(
                    .role(self.role, try Identifier(device.id), in: domain, hosts: hosts), lifetime: lifetime,
                    at: .now, requester: Requester.local, token: token)
                return InvitationSheet(
                    device: device,
                    invited: .init(invitation, token: token.text, root: authority.issuingRoot.sha256, url: url),
                    meter: self.meter)
            }, close: {})
    }
}
