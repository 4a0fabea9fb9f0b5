import ArgumentParser
import ControlCenter
import Foundation
import Identity
import Telemetry

struct ReadingsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "readings",
        abstract: "Show, export or sum up what is stored.",
        discussion: """
            Every digit as the meter gave it. Reads while the server runs. Ordered by auditor, meter, quantity, time.

            EXAMPLES
              secure-mqtt readings --config /srv/energy/secure-mqtt.yaml --auditor mona --limit 20
              secure-mqtt readings --from 2026-11-01 --to 2026-12-01 --format csv > november.csv
              secure-mqtt readings --quantity consumption --sum
              secure-mqtt readings --store ./demo/store/store.sqlite3 --format jsonl
            """)

    enum Format: String, ExpressibleByArgument, CaseIterable {
        case table, csv, jsonl
    }

    @OptionGroup
    var options: ConfigurationOptions

    @Option(help: ArgumentHelp("The database, instead of the configuration's.", valueName: "file"))
    var store: String?

    @Option(help: ArgumentHelp("Only this auditor.", valueName: "id"))
    var auditor: String?

    @Option(help: ArgumentHelp("Only this meter.", valueName: "name"))
    var meter: String?

    @Option(help: ArgumentHelp("Only this quantity, such as consumption or voltage/l1.", valueName: "name"))
    var quantity: String?

    @Option(help: ArgumentHelp("From this time on: 2026-11-01 or 2026-11-01T08:00:00Z.", valueName: "time"))
    var from: String?

    @Option(help: ArgumentHelp("Before this time.", valueName: "time"))
    var to: String?

    @Option(help: ArgumentHelp("At most so many readings.", valueName: "count"))
    var limit: Int?

    @Flag(help: "Instead of readings, the exact sum of each series of intervals, and of how many readings it is.")
    var sum = false

    @Option(help: "table (tab-separated in a pipe), csv, or jsonl (a JSON object on each line).")
    var format: Format = .table

    func run() async throws {
        if let limit, limit < 0 { throw CommandError(.usage, "--limit \(limit): give 0 or more") }
        if let quantity { try Self.check(quantity) }
        if let auditor, (try? Identifier(auditor)) == nil {
            throw CommandError(.usage, "--auditor \(auditor): not an ID; secure-mqtt pki list shows them")
        }
        if let meter, (try? MeterName(meter)) == nil {
            throw CommandError(.usage, "--meter \(meter): not a meter's name")
        }
        let query = ReadingsQuery(
            auditor: self.auditor, meter: self.meter, quantity: self.quantity,
            from: try self.from.map { try Self.time($0, "--from") }, to: try self.to.map { try Self.time($0, "--to") })
        let reader = try StoreReader(path: try await self.findStore())
        let output = RecordWriter(format: self.format, titles: self.sum ? Self.sumTitles : Self.titles)
        if self.sum {
            for sum in try reader.sums(query).prefix(self.limit ?? .max) {
                try output.add([
                    .text(sum.auditor), .text(sum.meter), .text(sum.quantity), .text(sum.unit),
                    .number(String(sum.count)), .exact(sum.sum), .number(String(sum.notGood)),
                    .number(String(sum.disputed)),
                ])
            }
        } else {
            try self.write(reader, query, to: output)
        }
        try output.finish()
    }

    private struct Enough: Error {}

    private func write(_ reader: StoreReader, _ query: ReadingsQuery, to output: RecordWriter) throws {
        var left = self.limit ?? .max
        do {
            try reader.forEachReading(query) { reading in
                guard left > 0 else { throw Enough() }
                left -= 1
                try output.add([
                    .text(reading.auditor), .text(reading.meter), .text(reading.quantity), .text(reading.unit),
                    .text("\(reading.time)"), reading.interval.map { .number(Self.seconds($0)) } ?? .absent,
                    reading.value.map { .exact("\($0)") } ?? .absent, .text(reading.quality),
                    .text("\(reading.stream)"), .number("\(reading.sequence)"), .text("\(reading.statement)"),
                    .flag(reading.isDisputed),
                ])
            }
        } catch is Enough {}
    }

    private static let titles = [
        "auditor", "meter", "quantity", "unit", "time", "interval", "exact", "quality", "stream", "sequence",
        "statement", "disputed",
    ]

    private static let sumTitles = ["auditor", "meter", "quantity", "unit", "count", "sum", "not_good", "disputed"]

    private func findStore() async throws -> String {
        if let store { return store }
        guard let settings = try await self.options.load().controlCenter else {
            throw CommandError(
                .configuration,
                "the configuration has no control-center.store: name the database by --store, or the server's configuration by --config"
            )
        }
        return settings.store
    }

    private static func check(_ quantity: String) throws(CommandError) {
        let parts = quantity.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard Quantity(parts[0]) != nil, parts.count == 1 || (Part(parts[1]).map { $0 != .whole } ?? false) else {
            let names = Quantity.allCases.map(\.description).joined(separator: ", ")
            throw CommandError(.usage, "--quantity \(quantity): there is no such quantity; there are \(names)")
        }
    }

    static func time(_ text: String, _ option: String) throws(CommandError) -> Timestamp {
        let day = Date.ISO8601FormatStyle().year().month().day()
        guard let date = (try? Date(text, strategy: .iso8601)) ?? (try? Date(text, strategy: day)),
            let seconds = Int64(exactly: date.timeIntervalSince1970.rounded()), abs(seconds) < 9_223_372_036
        else {
            throw CommandError(.usage, "\(option) \(text): write 2026-11-01 or 2026-11-01T08:00:00Z")
        }
        return Timestamp(seconds: seconds)
    }

    /// Nanoseconds as seconds, with no more digits than are needed.
    private static func seconds(_ nanoseconds: Int64) -> String {
        let (seconds, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        guard rest > 0 else { return String(seconds) }
        var digits = String(String(rest + 1_000_000_000).dropFirst())
        while digits.hasSuffix("0") { digits.removeLast() }
        return "\(seconds).\(digits)"
    }
}

/// Writes records one at a time, so that a year of readings needs no memory. A table on a terminal is the
/// exception: its columns are as wide as its widest cells.
final class RecordWriter {
    /// A cell: how it looks in JSON depends on what it is.
    enum Cell {
        case text(String)
        /// An integer, or a decimal that a double holds well enough.
        case number(String)
        /// A decimal whose digits count: text in JSON, so that no reader rounds it.
        case exact(String)
        case flag(Bool)
        case absent
    }

    private let format: ReadingsCommand.Format
    private let titles: [String]
    private let output = Terminal.standardOutput
    private var table: [[String]] = []
    private var buffer = ""

    init(format: ReadingsCommand.Format, titles: [String]) {
        self.format = format
        self.titles = titles
        if format == .csv { self.buffer = titles.joined(separator: ",") + "\n" }
        if format == .table, !self.output.isTerminal { self.buffer = titles.joined(separator: "\t") + "\n" }
    }

    func add(_ cells: [Cell]) throws {
        switch self.format {
        case .table where self.output.isTerminal: self.table.append(cells.map(\.plain))
        case .table: self.buffer += cells.map(\.plain).joined(separator: "\t") + "\n"
        case .csv: self.buffer += cells.map(\.csv).joined(separator: ",") + "\n"
        case .jsonl:
            self.buffer +=
                "{" + zip(self.titles, cells).map { "\"\($0)\":\($1.json)" }.joined(separator: ",") + "}\n"
        }
        if self.buffer.utf8.count > 65_536 { self.flush() }
    }

    func finish() throws {
        self.flush()
        guard self.format == .table, self.output.isTerminal else { return }
        let widths = self.titles.indices.map { column in
            max(self.titles[column].count, self.table.map { $0[column].count }.max() ?? 0)
        }
        func line(_ cells: [String]) -> String {
            zip(cells, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }.joined(separator: "  ")
        }
        self.output.line(self.output.styled(line(self.titles), .bold))
        for row in self.table { self.output.line(line(row)) }
        if self.table.isEmpty { self.output.line("nothing stored that was asked for") }
    }

    private func flush() {
        self.output.write(self.buffer)
        self.buffer = ""
    }
}

extension RecordWriter.Cell {
    fileprivate var plain: String {
        switch self {
        case .text(let text), .number(let text), .exact(let text): text
        case .flag(let isSet): isSet ? "yes" : "no"
        case .absent: ""
        }
    }

    /// Names are identifiers and never need quotes (RFC 4180); nothing else holds commas either.
    fileprivate var csv: String { self.plain }

    fileprivate var json: String {
        switch self {
        case .text(let text), .exact(let text): "\"\(text)\""
        case .number(let text): text
        case .flag(let isSet): isSet ? "true" : "false"
        case .absent: "null"
        }
    }
}
