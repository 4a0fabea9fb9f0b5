import ArgumentParser
import Auditor
import Crypto
import Foundation
import Identity
import LiCore
import Logging
import MQTTClient
import PKI
import ServiceLifecycle
import Telemetry
import UnixSignals
import X509

/// `secure-mqtt auditor`: reads meters, signs, sends.
struct AuditorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "auditor",
        abstract: "Read meters, sign the readings, and send them until the control center has receipted them.",
        subcommands: [
            AuditorJoinCommand.self, AuditorRunCommand.self, AuditorStatusCommand.self, AuditorParametersCommand.self,
            AuditorRenewCommand.self,
        ])
}

/// `secure-mqtt auditor run`.
struct AuditorRunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Run an auditor.",
        discussion: """
            As the configuration says that secure-mqtt init has put into its folder:
              secure-mqtt auditor run --config auditors/home-1/secure-mqtt.yaml

            A file in the original's long or wide form, or any time series, as fast as it goes:
              secure-mqtt auditor run --config home-1/secure-mqtt.yaml --input readings.csv --exit
              secure-mqtt auditor run --config home-1/secure-mqtt.yaml --input year.csv --exit \\
                  --column GC=power_consumed:kW --column GG=power_produced:kW --interval 30m --time-zone +10:00

            Without a configuration file:
              secure-mqtt auditor run --id home-1 --broker broker.energy.example:8883 \\
                  --cert home-1.pem --key home-1.key --trust root.pem --trust-domain energy.example \\
                  --state ./home-1 --simulate --speed 900

            A certificate that is renewed (auditor.authority, secure-mqtt auditor renew, or a person) is taken at once.
            What is signed is kept in the state directory until a verified receipt covers it; the same command
            goes on where it ended. A state directory belongs to one auditor and one source.
            """)

    @OptionGroup var configuration: ConfigurationOptions
    @OptionGroup var logging: LoggingOptions

    @Option(help: ArgumentHelp("Who the auditor is: the ID of its certificate.", valueName: "id"))
    var id: String?

    @Option(help: ArgumentHelp("Where the broker is; port 8883 if none is given.", valueName: "host:port"))
    var broker: String?

    @Option(help: ArgumentHelp("The auditor's certificate and its intermediate, PEM.", valueName: "file"))
    var cert: String?

    @Option(
        help: ArgumentHelp("The private key of the certificate, PEM, readable by its owner only.", valueName: "file"))
    var key: String?

    @Option(help: ArgumentHelp("The root certificate, PEM.", valueName: "file"))
    var trust: String?

    @Option(help: ArgumentHelp("The trust domain of the installation.", valueName: "name"))
    var trustDomain: String?

    @Option(help: ArgumentHelp("The folder of the outbox, of this auditor alone.", valueName: "dir"))
    var state: String?

    @Option(help: ArgumentHelp("Read a CSV file.", valueName: "file"))
    var input: String?

    @Flag(help: "Be a simulated home.")
    var simulate = false

    @Option(
        name: .customLong("column"),
        help: ArgumentHelp(
            "A column of a time series: its name, what it is and its unit, such as GC=power_consumed:kW.",
            valueName: "name=quantity:unit"))
    var columns: [String] = []

    @Option(help: ArgumentHelp("What one reading covers: 30m, 900s, 1h.", valueName: "time"))
    var interval: String?

    @Option(help: ArgumentHelp("Of the file's times: UTC, +10:00 or Europe/Madrid.", valueName: "zone"))
    var timeZone: String?

    @Option(
        help: ArgumentHelp(
            "The byte between two fields; found out if not given. 'tab' is a tabulator.", valueName: "char"))
    var delimiter: String?

    @Option(help: ArgumentHelp("Whose lines of the file to read, if not those of --id.", valueName: "id"))
    var inputId: String?

    @Option(help: ArgumentHelp("The name of the meter.", valueName: "name"))
    var meter: String?

    @Option(
        help: ArgumentHelp(
            "max, live, or how many times as fast as measured; files max, simulated homes live if not given.",
            valueName: "speed"))
    var speed: String?

    @Option(help: ArgumentHelp("Of the simulated home.", valueName: "number"))
    var seed: UInt64?

    @Option(
        help: ArgumentHelp(
            "How many intervals the simulated home lives; without end if not given.", valueName: "number"))
    var count: Int?

    @Flag(help: "End when the source has ended and every reading is receipted.")
    var exit = false

    @Flag(help: "End with one JSON object on one line.")
    var json = false

    func run() async throws {
        self.logging.bootstrap()
        let settings = try await self.configuration.load(flags: try self.flags())
        guard let auditor = settings.auditor else {
            throw CommandError(
                .usage, "say who the auditor is: --config FILE, or --id, --cert, --key and --trust")
        }
        let device = try DeviceIdentity(settings, auditor)
        let (identity, trust) = (device.identity, device.trust)
        let source = try self.source(auditor)
        if auditor.format == .licore {
            return try await self.runLiCore(settings, auditor, device, source: source)
        }
        let bus = try RenewableClientBus(try device.clientConfiguration())
        var configuration = AuditorConfiguration(
            certificateChain: [identity.certificate, identity.intermediate].map(\.der))
        configuration.formerCertificates = device.files.former.map(\.der)
        configuration.statementInterval = Int64(auditor.statementInterval) * 1_000_000_000
        configuration.maximumOutboxMessages = auditor.maximumUnsent
        configuration.clockQuality = .ofSystem
        configuration.sendsAlerts = true
        var options = AuditorService.Options()
        options.speed = try self.replaySpeed(auditor)
        options.drains = self.exit
        options.keepRevocationList = { list in device.keep(list, bus: bus) }
        options.stateDirectory = auditor.state
        // A file is not silent: it ends.
        if auditor.source == "simulated" {
            configuration.meterSilentAfter = max(900, 3 * Int64(auditor.interval ?? 60)) * 1_000_000_000
        }
        if self.exit, auditor.source == "simulated", self.count == nil {
            throw CommandError(.usage, "--exit: a simulated home has no end; say how long it lives with --count")
        }
        let service = try AuditorService(
            bus: bus, source: source, outbox: try SQLiteOutbox(directory: auditor.state, owner: identity.spiffeID),
            configuration: configuration, signer: try CertificateSigner(identity, key: device.key), trust: trust,
            options: options)
        try await self.run(service, bus, renewal: device.makeRenewal(of: service, bus: bus))
    }

    /// In the original's format: for a database client of the original's. There are no receipts, and the certificate
    /// does not renew itself: it is pinned.
    private func runLiCore(
        _ settings: InstallationConfiguration, _ auditor: AuditorSettings, _ device: DeviceIdentity,
        source: any MeterSource
    ) async throws {
        var options = LiCoreAuditorService.Options()
        options.speed = try self.replaySpeed(auditor)
        options.drains = self.exit
        options.timeZone = try LocalTimeZone(auditor.timeZone)
        switch (auditor.controller, auditor.controllerCertificate) {
        case (let name?, let path?):
            guard let certificate = try CertificateFile.read(path).first,
                let publicKey = P256.Signing.PublicKey(certificate.publicKey)
            else { throw CommandError(.badData, "\(path) holds no certificate with a P-256 key") }
            options.controller = LiCoreAuditorService.Controller(name: name, publicKey: publicKey)
        case (nil, nil): break
        default:
            throw CommandError(
                .configuration,
                "auditor.controller and auditor.controller-certificate belong together: set both or none")
        }
        let key = device.key
        let bus = try ServerParts(settings).makeClientBus(
            chain: [device.identity.certificate, device.identity.intermediate], key: key,
            subscriptions: LiCoreAuditorService.subscriptions(for: auditor.id))
        let service = try LiCoreAuditorService(
            bus: bus, source: source, id: auditor.id, directory: auditor.state,
            sign: { try key.sign(prehashed: $0) }, options: options)
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [
                    .init(service: bus),
                    .init(service: service, successTerminationBehavior: .gracefullyShutdownGroup),
                ],
                gracefulShutdownSignals: [.sigterm, .sigint], logger: Logger(label: "auditor")))
        try await group.run()
        let report = service.report
        if self.json {
            try Terminal.standardOutput.json([
                "sent": report.sent, "skipped": report.skipped, "refused": report.refused,
            ])
        } else if self.exit {
            Terminal.standardOutput.line("\(report.sent) readings sent in the original's format")
        }
        if self.exit, !report.isFinished {
            throw CommandError(.unavailable, "not everything was sent; the same command goes on")
        }
    }

    private func run(
        _ service: AuditorService, _ bus: RenewableClientBus, renewal: RenewalService
    ) async throws {
        let start = ContinuousClock.now
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [
                    .init(service: bus),
                    .init(service: renewal),
                    .init(service: service, successTerminationBehavior: .gracefullyShutdownGroup),
                ],
                gracefulShutdownSignals: [.sigterm, .sigint], logger: Logger(label: "auditor")))
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                while !Task.isCancelled {
                    Terminal.standardError.progress(Self.line(service.report))
                    try await Task.sleep(for: .milliseconds(500))
                }
            }
            defer { tasks.cancelAll() }
            try await group.run()
        }
        Terminal.standardError.endProgress()
        let report = service.report
        if self.json {
            try Terminal.standardOutput.json(Summary(report, seconds: start.duration(to: .now)))
        } else if self.exit {
            Terminal.standardOutput.line(Self.line(report))
        }
        if self.exit, !report.isFinished {
            throw CommandError(
                .unavailable,
                "\(report.outbox.unreceipted) messages wait for receipts; they are kept, the same command goes on")
        }
        if report.outbox.deadLetters > 0 {
            throw CommandError(
                .badData, "\(report.outbox.deadLetters) messages were refused for good; see secure-mqtt auditor status")
        }
    }

    private static func line(_ report: AuditorReport) -> String {
        "\(report.statistics.readings) readings in \(report.statistics.statements) statements, "
            + "\(report.outbox.unreceipted) without receipt, \(report.outbox.deadLetters) dead letters"
            + (report.isOpen || report.isFinished ? "" : ", waiting for the control center")
    }

    /// What `--json` ends with.
    private struct Summary: Encodable {
        let readings: Int
        let statements: Int
        let heartbeats: Int
        let receiptsVerified: Int
        let receipted: Int
        let resent: Int
        let unreceipted: Int
        let deadLetters: Int
        let restarts: Int
        let seconds: Double

        init(_ report: AuditorReport, seconds: Duration) {
            self.readings = report.statistics.readings
            self.statements = report.statistics.statements
            self.heartbeats = report.statistics.heartbeats
            self.receiptsVerified = report.statistics.receiptsVerified
            self.receipted = report.statistics.receipted
            self.resent = report.statistics.resent
            self.unreceipted = report.outbox.unreceipted
            self.deadLetters = report.outbox.deadLetters
            self.restarts = report.statistics.restarts
            self.seconds = seconds / .seconds(1)
        }
    }

    // MARK: Options

    /// What the flags say of the configuration's keys.
    private func flags() throws -> [InstallationConfiguration.Key: String] {
        var flags: [InstallationConfiguration.Key: String] = [:]
        flags[.auditorID] = self.id
        flags[.auditorCertificate] = self.cert.map(Self.absolute)
        flags[.auditorKey] = self.key.map(Self.absolute)
        flags[.auditorState] = self.state.map(Self.absolute)
        flags[.auditorMeter] = self.meter
        flags[.auditorTimeZone] = self.timeZone
        flags[.trustRoot] = self.trust.map(Self.absolute)
        flags[.trustDomain] = self.trustDomain
        if let seed { flags[.auditorSeed] = String(seed) }
        guard self.input == nil || !self.simulate else {
            throw CommandError(.usage, "--input and --simulate: choose one")
        }
        if self.input != nil, self.count != nil || self.seed != nil {
            throw CommandError(.usage, "--count and --seed are of a simulated home, not of a file")
        }
        if self.simulate, !self.columns.isEmpty || self.delimiter != nil || self.inputId != nil {
            throw CommandError(.usage, "--column, --delimiter and --input-id are of a file, not of a simulated home")
        }
        if self.simulate { flags[.auditorSource] = "simulated" }
        if let input { flags[.auditorSource] = Self.absolute(input) }
        if !self.columns.isEmpty { flags[.auditorColumns] = self.columns.joined(separator: ",") }
        if let interval { flags[.auditorInterval] = String(try Self.seconds(interval)) }
        if let broker {
            let (host, port) = try Self.address(broker)
            flags[.brokerHost] = host
            flags[.brokerPort] = String(port)
        }
        return flags
    }

    /// Relative to where the command is given, not to the configuration file.
    private static func absolute(_ path: String) -> String { URL(fileURLWithPath: path).path }

    /// `host`, `host:port`, `[2001:db8::1]:port`.
    static func address(_ text: String) throws(CommandError) -> (host: String, port: Int) {
        var host = text[...]
        var port = "8883"
        if let end = text.lastIndex(of: "]"), text.hasPrefix("[") {
            host = text[text.index(after: text.startIndex)..<end]
            let rest = text[text.index(after: end)...]
            if rest.hasPrefix(":") { port = String(rest.dropFirst()) }
        } else if let colon = text.lastIndex(of: ":"), text.firstIndex(of: ":") == colon {
            host = text[..<colon]
            port = String(text[text.index(after: colon)...])
        }
        guard !host.isEmpty, let number = Int(port), (1...65_535).contains(number) else {
            throw CommandError(.usage, "--broker \(text): write host:port, such as broker.energy.example:8883")
        }
        return (String(host), number)
    }

    /// `30m`, `900s`, `1h`, `900`.
    static func seconds(_ text: String) throws(CommandError) -> Int {
        let factors: [Character: Int] = ["s": 1, "m": 60, "h": 3_600]
        let factor = text.last.flatMap { factors[$0] }
        guard let number = Int(factor == nil ? text[...] : text.dropLast()), (1...86_400).contains(number),
            number * (factor ?? 1) <= 86_400
        else {
            throw CommandError(.usage, "--interval \(text): write a time of up to a day, such as 30m, 900s or 1h")
        }
        return number * (factor ?? 1)
    }

    private func replaySpeed(_ auditor: AuditorSettings) throws(CommandError) -> ReplaySpeed {
        switch self.speed {
        case "max": return .unlimited
        case "live": return .live
        case .some(let text):
            guard let factor = Double(text), factor > 0, factor.isFinite else {
                throw CommandError(.usage, "--speed \(text): write max, live, or a number above 0 such as 60")
            }
            return .times(factor)
        case nil:
            if auditor.speed > 0 { return .times(auditor.speed) }
            return auditor.source == "simulated" && self.count == nil ? .live : .unlimited
        }
    }

    private func source(_ auditor: AuditorSettings) throws -> any MeterSource {
        guard auditor.source != "simulated" else {
            let interval = auditor.interval ?? 60
            let now = Timestamp.now.seconds
            // So many intervals of the past come at once; without a count, one. None before the first time that a
            // statement can say.
            let count = Int64(self.count ?? 1)
            guard count >= 1, count <= (now - SimulatedHome.Configuration.earliestStart) / Int64(interval) else {
                throw CommandError(
                    .usage,
                    "--count \(count): give 1 or more, and not more than fit between 1978 and now, every \(interval) s")
            }
            let begin = now - now % Int64(interval) - Int64(interval) * count
            return SimulatedHome(
                SimulatedHome.Configuration(
                    seed: auditor.seed, meter: auditor.meter, start: Timestamp(seconds: begin), interval: interval,
                    count: self.count))
        }
        var options = CSVOptions(meter: auditor.meter)
        options.interval = auditor.interval
        options.timeZone = try LocalTimeZone(auditor.timeZone)
        options.columns = try auditor.columns.map { (text) throws(MeterSourceError) in try CSVColumn(text) }
        if let delimiter {
            guard delimiter == "tab" || delimiter.utf8.count == 1, let byte = delimiter.utf8.first else {
                throw CommandError(.usage, "--delimiter \(delimiter): write one character, or tab")
            }
            options.delimiter = delimiter == "tab" ? UInt8(ascii: "\t") : byte
        }
        let file = try CSVFile(path: auditor.source, options: options)
        return try file.source(for: try self.inputId.map { try Identifier($0) } ?? auditor.id)
    }
}

/// `secure-mqtt auditor status`.
struct AuditorStatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show what waits in an auditor's outbox, and what was refused.",
        discussion: """
            Also while the auditor runs:
              secure-mqtt auditor status --config auditors/home-1/secure-mqtt.yaml
              secure-mqtt auditor status --state auditors/home-1/state --json
            """)

    @OptionGroup var configuration: ConfigurationOptions

    @Option(help: ArgumentHelp("The folder of the outbox.", valueName: "dir"))
    var state: String?

    @Flag(help: "One JSON object on one line.")
    var json = false

    func run() async throws {
        var directory = self.state
        var settings: InstallationConfiguration?
        if directory == nil {
            settings = try await self.configuration.load()
            directory = settings?.auditor?.state
        }
        guard let directory else {
            throw CommandError(.usage, "say whose: --config FILE or --state DIR")
        }
        let certificate = settings.flatMap { CertificateStatus($0, at: .now) }
        let outbox: SQLiteOutbox
        do {
            outbox = try SQLiteOutbox(reading: directory)
        } catch {
            // Before the first run there is a certificate, and nothing else.
            guard let certificate, error.code == .io, !FileManager.default.fileExists(atPath: directory) else {
                throw error
            }
            guard !self.json else { return try Terminal.standardOutput.json(certificate) }
            var table = Table("what", "value")
            certificate.add(to: &table)
            return Terminal.standardOutput.table(table)
        }
        let status = try Status(outbox, certificate)
        guard !self.json else {
            try Terminal.standardOutput.json(status)
            return
        }
        let output = Terminal.standardOutput
        var table = Table("what", "value")
        table.add(["auditor", "\(status.auditor)"])
        status.certificate?.add(to: &table)
        table.add(["stream", "\(status.stream ?? "none yet")"])
        table.add(["newest message", "\(status.sequence)"])
        table.add(["without receipt", "\(status.unreceipted) (\(status.unreceiptedBytes) bytes)"])
        table.add(["oldest without receipt", "\(status.oldestUnreceipted ?? "-")"])
        table.add(["last receipt", "\(status.lastReceipt ?? "never")"])
        table.add(["kept with receipt", "\(status.kept)"])
        table.add(["dead letters", Table.Cell("\(status.deadLetters)", status.deadLetters > 0 ? .red : nil)])
        for (name, value) in status.parameters.sorted(by: { $0.key < $1.key }) {
            table.add([Table.Cell(name), Table.Cell(value)])
        }
        output.table(table)
        if !status.alerts.isEmpty {
            var alerts = Table("shown", "from", "about", "alert")
            for alert in status.alerts {
                alerts.add([
                    Table.Cell(alert.shownAt), Table.Cell(alert.from),
                    Table.Cell(alert.word + (alert.isRaised ? "" : " is over"), alert.isRaised ? .yellow : nil),
                    Table.Cell(alert.text),
                ])
            }
            output.line()
            output.table(alerts)
        }
        guard !status.newestDeadLetters.isEmpty else { return }
        var letters = Table("stream", "#message", "reason", "refused")
        for letter in status.newestDeadLetters {
            letters.add([
                Table.Cell(letter.stream), Table.Cell("\(letter.sequence)"), Table.Cell(letter.reason, .red),
                Table.Cell(letter.refusedAt),
            ])
        }
        output.line()
        output.table(letters)
    }

    /// What `--json` says.
    private struct Status: Encodable {
        let auditor: String
        let certificate: CertificateStatus?
        let stream: String?
        let sequence: Int64
        let unreceipted: Int
        let unreceiptedBytes: Int64
        let oldestUnreceipted: String?
        let lastReceipt: String?
        let kept: Int
        let deadLetters: Int
        let newestDeadLetters: [Letter]
        /// Set by control centers.
        let parameters: [String: String]
        /// Of control centers, the newest first.
        let alerts: [ShownAlert]

        struct ShownAlert: Encodable {
            let shownAt: String
            let from: String
            let word: String
            let text: String
            let isRaised: Bool
        }

        struct Letter: Encodable {
            let stream: String
            let sequence: Int64
            let id: String
            let reason: String
            let refusedAt: String
        }

        init(_ outbox: SQLiteOutbox, _ certificate: CertificateStatus?) throws {
            self.auditor = try outbox.owner()
            self.certificate = certificate
            self.stream = outbox.state?.stream.description
            self.sequence = outbox.state?.lastSequence ?? 0
            self.unreceipted = outbox.summary.unreceipted
            self.unreceiptedBytes = outbox.summary.unreceiptedBytes
            self.oldestUnreceipted = try outbox.oldestUnreceipted()?.description
            self.lastReceipt = outbox.state?.lastReceiptAt?.description
            self.kept = outbox.summary.ring
            self.deadLetters = outbox.summary.deadLetters
            self.parameters = outbox.memory.settings.mapValues(\.value)
            self.alerts = outbox.memory.alerts.suffix(20).reversed().map {
                ShownAlert(
                    shownAt: Timestamp(nanoseconds: $0.shownAt).description, from: $0.controller, word: $0.word,
                    text: $0.text, isRaised: $0.isRaised)
            }
            self.newestDeadLetters = try outbox.deadLetters(limit: 20).map {
                Letter(
                    stream: $0.entry.stream.description, sequence: $0.entry.sequence, id: $0.entry.id.description,
                    reason: $0.reason.rawValue, refusedAt: $0.refusedAt.description)
            }
        }
    }
}
