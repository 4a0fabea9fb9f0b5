import ArgumentParser
import Auditor
import ControlCenter
import Foundation
import Identity
import LiCore
import PKI
import Telemetry
import X509

/// `secure-mqtt fleet`: who still uses the original's format.
struct FleetCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fleet",
        abstract: "Who still uses the original LiCore format, until when; allow, end, update.",
        discussion: """
            EXAMPLES
              secure-mqtt fleet --config /srv/energy/secure-mqtt.yaml
              secure-mqtt fleet --json | jq -r 'select(.days_left < 30) | .id'
              secure-mqtt fleet allow mona --certificate mona.crt --controller database_licore \\
                  --time-zone Europe/Madrid --until 2027-06-30
              secure-mqtt fleet end mona
            """,
        subcommands: [
            FleetListCommand.self, FleetAllowCommand.self, FleetEndCommand.self, FleetUpdateCommand.self,
        ],
        defaultSubcommand: FleetListCommand.self)
}

/// `secure-mqtt fleet list`, and `secure-mqtt fleet` alone.
struct FleetListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List who still uses the original's format.")

    @Flag(help: "One JSON object a line.")
    var json = false

    @OptionGroup
    var options: ConfigurationOptions

    func run() async throws {
        let settings = try await self.options.load()
        let fleet = try settings.licore.file.read()
        var activity: [String: LiCoreActivity] = [:]
        if let store = settings.controlCenter?.store, FileManager.default.fileExists(atPath: store) {
            for entry in try StoreReader(path: store).liCoreActivity() { activity[entry.auditor] = entry }
        }
        let now = UnixTime.now
        let rows = fleet.members.map { Row($0, activity[$0.id.rawValue], settings.trust.domain, at: now) }
        let output = Terminal.standardOutput
        if self.json {
            for row in rows { try output.json(row) }
            return
        }
        guard !rows.isEmpty else {
            output.line("nobody uses the original's format")
            return
        }
        var table = Table("ID", "KIND", "UNTIL", "#DAYS", "STATUS", "CONTROLLER", "TIME ZONE", "LAST SEEN", "#READINGS")
        for row in rows {
            let style: Terminal.Style =
                row.status == "allowed" ? (row.daysLeft < FleetWatch.warningDays ? .yellow : .green) : .red
            table.add([
                .init(row.id), .init(row.kind), .init(row.until), .init("\(row.daysLeft)"), .init(row.status, style),
                .init(row.controller ?? "-"), .init(row.timeZone ?? "-"), .init(row.lastSeen ?? "never"),
                .init("\(row.readings)"),
            ])
        }
        output.table(table)
    }

    private struct Row: Encodable {
        let id: String
        let kind: String
        let until: String
        let daysLeft: Int
        let status: String
        let controller: String?
        let timeZone: String?
        let interval: Int?
        let lastSeen: String?
        let readings: Int64
        let certificateSHA256: String
        let certificateExpires: String
        /// Whether the certificate is one of our authority's.
        let ours: Bool

        init(_ member: FleetMember, _ activity: LiCoreActivity?, _ domain: TrustDomain, at now: UnixTime) {
            self.id = member.id.rawValue
            self.kind = member.kind.rawValue
            self.until = member.until
            self.daysLeft = member.daysLeft(at: now)
            do throws(LiCoreError) {
                try member.requireStanding(at: now)
                self.status = "allowed"
            } catch {
                self.status = now >= member.end ? "ended" : "certificate expired"
            }
            self.controller = member.controller?.rawValue
            self.timeZone = member.kind == .auditor ? member.timeZone.description : nil
            self.interval = member.kind == .auditor ? member.interval : nil
            self.lastSeen = activity?.lastSeen.description
            self.readings = activity?.readings ?? 0
            self.certificateSHA256 = member.certificateHash.hexadecimal
            self.certificateExpires = member.certificate.notAfter.iso8601
            self.ours = member.isOurs(in: domain)
        }
    }
}

/// `secure-mqtt fleet allow`.
struct FleetAllowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "allow",
        abstract: "Allow one party the original's format, with its certificate, until a day.",
        discussion: """
            Pins ID, certificate and controller: nothing is derived from the authority that made the certificate. \
            A server that runs takes it within a second. Given again, it replaces what was allowed before.

            EXAMPLES
              secure-mqtt fleet allow mona --certificate mona.crt --controller database_licore \\
                  --time-zone Europe/Madrid --until 2027-06-30
              secure-mqtt fleet allow database_licore --database-client --certificate database_licore.crt \\
                  --until 2027-06-30
            """)

    @Argument(help: ArgumentHelp("The ID: that of its topics.", valueName: "id"))
    var id: String

    @Option(help: ArgumentHelp("Its certificate, PEM or DER.", valueName: "file"))
    var certificate: String

    @Option(help: ArgumentHelp("Whose updates the auditor obeys: the name in their topic.", valueName: "name"))
    var controller: String?

    @Flag(help: "It is the original's database client: it reads these auditors' readings, and updates them.")
    var databaseClient = false

    @Option(help: ArgumentHelp("Of the dates that it writes: UTC, +01:00 or Europe/Madrid.", valueName: "zone"))
    var timeZone: String?

    @Option(help: ArgumentHelp("What one reading covers: 15m (the default), 900s, 1h.", valueName: "time"))
    var interval: String?

    @Option(help: ArgumentHelp("The last day on which it may be used, such as 2027-06-30.", valueName: "day"))
    var until: String

    @OptionGroup
    var options: ConfigurationOptions

    func run() async throws {
        let settings = try await self.options.load()
        let id = try Identifier(self.id)
        guard self.databaseClient != (self.controller != nil) else {
            throw CommandError(
                .usage, "say whose updates auditor \(id) obeys by --controller, or that it is a --database-client")
        }
        guard self.databaseClient != (self.timeZone != nil) else {
            throw CommandError(
                .usage,
                self.databaseClient
                    ? "--time-zone: a database client writes no dates"
                    : "say by --time-zone what clock auditor \(id) has: its dates do not say it")
        }
        guard let timeZone = LocalTimeZone(name: self.timeZone ?? "UTC") else {
            throw CommandError(
                .usage, "--time-zone \(self.timeZone ?? ""): write UTC, an offset such as +01:00, or Europe/Madrid")
        }
        let certificates = try CertificateFile.read(self.certificate)
        guard let certificate = certificates.first else {
            throw CommandError(.badData, "\(self.certificate) holds no certificate")
        }
        let interval = try self.interval.map { try AuditorRunCommand.seconds($0) } ?? FleetMember.defaultInterval
        let member: FleetMember
        do throws(LiCoreError) {
            member = try FleetMember(
                id: id, kind: self.databaseClient ? .databaseClient : .auditor, certificate: certificate,
                controller: try self.controllerName(), timeZone: timeZone,
                interval: interval,
                until: self.until)
        } catch {
            throw CommandError(.usage, error.reason)
        }
        let now = UnixTime.now
        do throws(LiCoreError) {
            try member.requireStanding(at: now)
        } catch {
            throw CommandError(.usage, "\(error.reason): it would never be let in")
        }
        try Self.requireOwnName(certificate, of: member, in: settings.trust.domain)
        try self.requireFreeName(member, settings)
        let file = settings.licore.file
        let former = try file.read()
        try file.write(try former.adding(member))
        self.say(member, isNew: former[id] == nil, settings, at: now)
    }

    private func controllerName() throws(LiCoreError) -> Identifier? {
        guard let controller else { return nil }
        guard let name = try? Identifier(controller) else {
            throw LiCoreError(.fleet, "--controller \(controller): not an identifier")
        }
        return name
    }

    /// A certificate of ours under another name would be a pin without revocation.
    private static func requireOwnName(
        _ certificate: Certificate, of member: FleetMember, in domain: TrustDomain
    ) throws {
        guard let names = try certificate.extensions.subjectAlternativeNames, !member.isOurs(in: domain) else { return }
        for case .uniformResourceIdentifier(let name) in names {
            guard let identity = try? SPIFFEID(name), identity.trustDomain == domain else { continue }
            throw CommandError(.usage, "the certificate is that of \(identity), not of \(member.spiffeID(in: domain))")
        }
    }

    /// A name is given out once over all roles: the fleet may only have the name of an auditor of ours, which it
    /// replaces or is.
    private func requireFreeName(_ member: FleetMember, _ settings: InstallationConfiguration) throws {
        if let center = settings.controlCenter?.id, center.folded == member.id.folded {
            throw CommandError(.usage, "\(member.id) is the control center's name")
        }
        guard let path = settings.authorityDirectory, FileManager.default.fileExists(atPath: path) else { return }
        let authority = try AuthorityDirectory.open(path)
        for issued in try authority.issued() where issued.spiffeID.id.folded == member.id.folded {
            guard member.kind == .auditor, issued.spiffeID.role == .auditor, issued.spiffeID.id == member.id else {
                throw CommandError(.usage, "the name \(member.id) is that of \(issued.spiffeID)")
            }
        }
    }

    private func say(_ member: FleetMember, isNew: Bool, _ settings: InstallationConfiguration, at now: UnixTime) {
        let output = Terminal.standardOutput
        output.line(
            "\(member.id) may use the original's format \(isNew ? "" : "(changed) ")until \(member.until), with the certificate"
        )
        output.line("  SHA-256 \(member.certificateHash.hexadecimal)")
        let errors = Terminal.standardError
        if member.certificate.notAfter < member.end - 1 {
            errors.line("warning: its certificate expires before that, at \(member.certificate.notAfter.iso8601)")
        }
        if !member.certificate.subject.description.split(separator: ",").contains("CN=\(member.id)") {
            errors.line(
                "warning: the certificate is of \(member.certificate.subject): Mosquitto knows it by its CN only")
        }
        if let controller = member.controller, controller != settings.controlCenter?.id,
            settings.licore.controllerKey == nil
        {
            errors.line(
                "note: secure-mqtt fleet update signs as \(controller) only when licore.controller-key is its key")
        }
    }
}

/// `secure-mqtt fleet end`.
struct FleetEndCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "end",
        abstract: "No longer allow a party the original's format.",
        discussion: """
            A server that runs disconnects it within a second. Readings that are stored stay. An auditor that was \
            moved is heard in our format from then on.

            EXAMPLES
              secure-mqtt fleet end mona
            """)

    @Argument(help: ArgumentHelp("The ID.", valueName: "id"))
    var id: String

    @OptionGroup
    var options: ConfigurationOptions

    func run() async throws {
        let file = try await self.options.load().licore.file
        let id = try Identifier(self.id)
        let fleet = try file.read()
        guard fleet[id] != nil else {
            throw CommandError(.usage, "\(id) is not in the fleet: secure-mqtt fleet lists it")
        }
        try file.write(try fleet.removing(id))
        Terminal.standardOutput.line("\(id) may no longer use the original's format")
        Terminal.standardOutput.line(
            "With Mosquitto: export its files again (secure-mqtt pki export-mosquitto), and SIGHUP.")
    }
}

/// `secure-mqtt fleet update`.
struct FleetUpdateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "update",
        abstract: "Set a parameter of an auditor that uses the original's format.",
        discussion: """
            The control center signs it in its controller's name and publishes it, retained, within two seconds if it \
            runs, else when it does. There is no answer in this format. What is retained reaches the device each time \
            that it connects, until it is withdrawn.

            EXAMPLES
              secure-mqtt fleet update mona SAMPLE_RATE 0.2
              secure-mqtt fleet update mona SAMPLE_RATE --withdraw
            """)

    @Argument(help: ArgumentHelp("The auditor.", valueName: "id"))
    var id: String

    @Argument(help: ArgumentHelp("The parameter.", valueName: "PARAMETER"))
    var parameter: String

    @Argument(help: ArgumentHelp("Its new value.", valueName: "value"))
    var value: String?

    @Flag(help: "The broker forgets what it retains; the device keeps the value that it has.")
    var withdraw = false

    @OptionGroup
    var options: ConfigurationOptions

    func run() async throws {
        guard self.withdraw != (self.value != nil) else {
            throw CommandError(.usage, "give the new value, or --withdraw")
        }
        let settings = try await self.options.load()
        let id = try Identifier(self.id)
        guard let parameter = Topic.Parameter(self.parameter) else {
            throw CommandError(.usage, "\(self.parameter) is not a parameter: write it like SAMPLE_RATE")
        }
        guard try settings.licore.file.read().auditor(id) != nil else {
            throw CommandError(.usage, "\(id) does not use the original's format: secure-mqtt fleet lists who does")
        }
        guard let store = settings.controlCenter?.store else {
            throw CommandError(
                .configuration, "the configuration has no control-center.id: this is not a control center's")
        }
        if let value { _ = try ParameterUpdate(parameter, value: value) }
        let clerk = try StoreClerk(path: store)
        let order = try clerk.order(
            auditor: id, parameter: parameter, value: self.value ?? "", by: OperatorOptions.operatorID, at: .now)
        for _ in 0..<30 {
            if let outcome = try clerk.outcome(of: order) {
                guard outcome == "published" else { throw CommandError(.configuration, "not sent: \(outcome)") }
                Terminal.standardOutput.line(
                    self.value.map { "handed to the broker: \(parameter) = \($0) for \(id)" }
                        ?? "withdrawn: \(parameter) for \(id)")
                return
            }
            try await Task.sleep(for: .milliseconds(100))
        }
        Terminal.standardOutput.line("ordered: the control center does not run; it publishes it when it does")
    }
}
