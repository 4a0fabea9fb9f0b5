import ArgumentParser
import Auditor
import Foundation
import Identity
import Logging
import ServiceLifecycle
import Telemetry

struct DemoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Watch signed readings arrive, and attacks being refused.",
        discussion: """
            Makes a throwaway PKI and data under ./demo, starts broker, control center and auditors (all in this one \
            process, which only a demo should do; they speak MQTT over mutual TLS all the same), replays readings, \
            and then attacks the running system. Then it goes on with live readings until Ctrl-C.

            EXAMPLES
              secure-mqtt demo
              secure-mqtt demo --auditors 20 --exit
              secure-mqtt demo --input readings.csv --exit --json
              secure-mqtt demo --input home.csv --column GC=power_consumed:kW --interval 30m --exit

            With --exit it ends with status 0 only if every reading is in the database exactly once, with its exact \
            digits, and every attack was refused and recorded; else with status 1.
            """)

    @Option(
        name: .customLong("input"),
        help: ArgumentHelp(
            "A CSV file to replay; may be repeated. Its IDs become auditors (default: simulated homes).",
            valueName: "file"))
    var inputs: [String] = []

    @Option(
        help: ArgumentHelp(
            "How many auditors: simulated homes (default 3), the first so many IDs of the files, or so many that replay the same plain time series.",
            valueName: "count"))
    var auditors: Int?

    @Option(
        name: .customLong("column"),
        help: ArgumentHelp(
            "A column of a plain time series, such as GC=power_consumed:kW; may be repeated.", valueName: "column"))
    var columns: [String] = []

    @Option(help: ArgumentHelp("How long each record of a plain time series lasts: 900, 30m, 1h.", valueName: "time"))
    var interval: String?

    @Option(help: ArgumentHelp("The time zone of the files: UTC, +10:00 or Europe/Madrid.", valueName: "zone"))
    var timeZone: String = "UTC"

    @Flag(help: "End when everything is stored and receipted and the attacks are done.")
    var exit = false

    @Flag(help: "End with one line of JSON.")
    var json = false

    @Option(
        help: ArgumentHelp("Where to make PKI and data; what an earlier demo left there is removed.", valueName: "dir"))
    var directory: String = "./demo"

    @Option(help: ArgumentHelp("Also log, to standard error, from this level on.", valueName: "level"))
    var logLevel: LogLevel?

    func run() async throws {
        let level = self.logLevel?.level
        LoggingSystem.bootstrap { label in
            guard let level else { return SwiftLogNoOpLogHandler() }
            var handler = StreamLogHandler(label: label, stream: LogOutput.standardError)
            handler.logLevel = level
            return handler
        }
        let sources = try self.makeSources(now: .now)
        let site = try await DemoSite.make(at: self.directory, auditors: sources.map(\.id), now: .now)
        let plant = try await DemoPlant(site: site, sources: sources, drains: self.exit)
        let director = try DemoDirector(plant: plant, endsByItself: self.exit)
        try await plant.run(director)

        guard let report = director.report else {
            throw CommandError(.unavailable, "ended before everything was stored and attacked")
        }
        if self.json { Terminal.standardOutput.line(try report.line()) }
        guard report.isSuccess else {
            throw CommandError(
                .failure, director.failure ?? "not every reading was stored, or not every attack refused")
        }
    }

    // MARK: Sources

    private func makeSources(now: Timestamp) throws -> [DemoSource] {
        if let auditors, !(1...500).contains(auditors) {
            throw CommandError(.usage, "--auditors \(auditors): give 1 to 500")
        }
        return self.inputs.isEmpty ? try self.homes(now: now) : try self.files()
    }

    /// A week of quarter hours; or, when it goes on, two hours of ten seconds each, and then on.
    private func homes(now: Timestamp) throws -> [DemoSource] {
        let meter = try MeterName("main")
        let count = self.auditors ?? 3
        return try (1...count).map { number in
            let interval = self.exit ? 900 : 10
            let intervals = self.exit ? 7 * 96 : 720
            let start = (now.seconds / Int64(interval) - Int64(intervals)) * Int64(interval)
            let home = SimulatedHome(
                SimulatedHome.Configuration(
                    seed: UInt64(number), meter: meter, start: Timestamp(seconds: start), interval: interval,
                    count: self.exit ? intervals : nil))
            let width = max(2, String(count).count)
            let digits = String(number)
            return DemoSource(
                id: try Identifier("home-" + String(repeating: "0", count: width - digits.count) + digits),
                source: home, isLive: !self.exit)
        }
    }

    private func files() throws -> [DemoSource] {
        var options = CSVOptions(meter: try MeterName("main"))
        options.columns = try self.columns.map { try CSVColumn($0) }
        options.interval = try self.interval.map { try Self.seconds($0) }
        options.timeZone = try LocalTimeZone(self.timeZone)
        var sources: [DemoSource] = []
        for input in self.inputs {
            let file = try CSVFile(path: input, options: options)
            guard file.form == .series else {
                for id in try file.identifiers() {
                    sources.append(DemoSource(id: id, source: try file.source(for: id), isLive: false))
                }
                continue
            }
            let name = Self.identifier(of: input)
            for number in 1...(self.auditors ?? 1) {
                let id = try Identifier(number == 1 ? name : "\(name.prefix(58))-\(number)")
                sources.append(DemoSource(id: id, source: try file.source(for: id), isLive: false))
            }
        }
        if let auditors {
            guard auditors <= sources.count else {
                throw CommandError(.usage, "--auditors \(auditors): the input has \(sources.count) IDs")
            }
            sources = Array(sources.prefix(auditors))
        }
        guard !sources.isEmpty else { throw CommandError(.badData, "the input has no readings") }
        var seen: Set<String> = []
        for source in sources where !seen.insert(source.id.folded).inserted {
            throw CommandError(.usage, "two inputs have readings of \(source.id): give each auditor one file")
        }
        return sources
    }

    /// A file's name as an identifier.
    private static func identifier(of path: String) -> String {
        let name = URL(fileURLWithPath: path).deletingPathExtension().lastPathComponent
        let allowed = name.unicodeScalars.map { scalar in
            scalar.isASCII && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil)
                ? Character(scalar) : "-"
        }
        let trimmed = String(String(allowed).drop { $0 == "-" }.prefix(60))
        return trimmed.isEmpty ? "auditor" : trimmed
    }

    /// `900`, `30m`, `1h`.
    private static func seconds(_ text: String) throws(CommandError) -> Int {
        let factor = ["s": 1, "m": 60, "h": 3_600][text.last.map(String.init) ?? ""]
        guard let value = Int(factor == nil ? text : String(text.dropLast())), (1...86_400).contains(value),
            value * (factor ?? 1) <= 86_400
        else {
            throw CommandError(.usage, "--interval \(text): write seconds, or 30m, or 1h, up to one day")
        }
        return value * (factor ?? 1)
    }
}

extension ExitStatus {
    /// What was to be shown did not come out.
    static let failure = ExitStatus(code: 1)
}

/// One auditor of the demo and what it reads.
struct DemoSource: Sendable {
    let id: Identifier
    let source: any MeterSource
    /// Whether it goes on when the past has been told.
    let isLive: Bool
}
