import ArgumentParser
import Auditor
import ControlCenter
import Foundation
import Identity
import Telemetry

/// `secure-mqtt migrate`: what the original left behind.
struct MigrateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate", abstract: "Take over what the original system left behind.",
        subcommands: [MigrateLiCoreDatabaseCommand.self])
}

/// `secure-mqtt migrate licore-db`.
struct MigrateLiCoreDatabaseCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "licore-db",
        abstract: "Import the original's measures.sqlite3 as history that nobody has verified.",
        discussion: """
            Into tables of their own, seen by the view history; never into the view readings. Also while the control \
            center runs. Importing again changes nothing.

            EXAMPLES
              secure-mqtt migrate licore-db /srv/licore/db/measures.sqlite3
            """)

    @Argument(help: ArgumentHelp("The original's database.", valueName: "file"))
    var file: String

    @Option(help: ArgumentHelp("Our database, instead of the configuration's.", valueName: "file"))
    var store: String?

    @Flag(help: "One JSON object on one line.")
    var json = false

    @OptionGroup
    var options: ConfigurationOptions

    func run() async throws {
        guard FileManager.default.fileExists(atPath: self.file) else {
            throw CommandError(.noInput, "\(self.file) does not exist")
        }
        var path = self.store
        if path == nil { path = try await self.options.load().controlCenter?.store }
        guard let path else {
            throw CommandError(
                .configuration, "name our database by --store, or the server's configuration by --config")
        }
        let report = try StoreClerk(path: path).importHistory(from: self.file, at: .now)
        if self.json {
            try Terminal.standardOutput.json([
                "imported": report.imported, "known": report.known, "skipped": report.skipped,
            ])
            return
        }
        let output = Terminal.standardOutput
        output.line(
            "\(report.imported) readings imported, \(report.known) were there already, \(report.skipped) rows are no readings"
        )
        output.line("columns taken: " + report.columns.joined(separator: ", "))
        output.line("Nobody verified them here: they are in the view history, not in readings.")
    }
}

/// `secure-mqtt convert`: files into other forms.
struct ConvertCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert", abstract: "Turn a file into another form.",
        subcommands: [ConvertLiCoreCSVCommand.self])
}

/// `secure-mqtt convert licore-csv`.
struct ConvertLiCoreCSVCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "licore-csv",
        abstract: "Turn the wide file (a line a day) into the long one: id,datetime,type,value.",
        discussion: """
            Dates stay local, digits stay as they are, lines are in order of time, and empty fields are left out. \
            What is read is as large as what is held in memory: about 100 bytes a reading.

            EXAMPLES
              secure-mqtt convert licore-csv Prosumer_ABC.csv > long.csv
            """)

    @Argument(help: ArgumentHelp("The wide file.", valueName: "file"))
    var file: String

    func run() async throws {
        var options = CSVOptions(meter: try MeterName("main"))
        options.form = .wide
        // Local times as they stand: in UTC none is skipped and none comes twice.
        options.timeZone = .utc
        let file = try CSVFile(path: self.file, options: options)
        var lines: [(time: Timestamp, index: Int, text: String)] = []
        for id in try file.identifiers() {
            var source = try file.source(for: id)
            while let batch = try source.next() {
                for reading in batch.readings {
                    guard let value = reading.value else { continue }
                    let date = reading.time.description.dropLast().replacing("T", with: " ")
                    let type = reading.quantity == .consumption ? 0 : 1
                    lines.append((reading.time, lines.count, "\(id),\(date),\(type),\(value)\n"))
                }
            }
        }
        // Within a moment, identifiers stay in the order of the file.
        lines.sort { ($0.time, $0.index) < ($1.time, $1.index) }
        let output = Terminal.standardOutput
        var text = "id,datetime,type,value\n"
        for line in lines {
            text += line.text
            if text.utf8.count > 65_536 {
                output.write(text)
                text = ""
            }
        }
        output.write(text)
    }
}
