import ArgumentParser
import Auditor
import Telemetry

/// `secure-mqtt auditor parameters`.
struct AuditorParametersCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "parameters",
        abstract: "List what a control center may set on an auditor: type, unit, bounds, and the value now.",
        discussion: """
            With a state directory, what was set there is shown; an empty value is the configuration's own:
              secure-mqtt auditor parameters
              secure-mqtt auditor parameters --state auditors/home-1/state --json
            """)

    @Option(help: ArgumentHelp("The folder of the outbox.", valueName: "dir"))
    var state: String?

    @Flag(help: "One JSON array on one line.")
    var json = false

    private struct Row: Encodable {
        let name: String
        let unit: String?
        let bounds: String
        let summary: String
        let value: String?
        let setBy: String?
    }

    func run() async throws {
        let memory = try self.state.map { try SQLiteOutbox(reading: $0).memory }
        let rows = ParameterDefinition.all.map { definition in
            Row(
                name: definition.name.rawValue, unit: definition.unit, bounds: definition.bounds,
                summary: definition.summary, value: memory?.value(of: definition.name)?.description,
                setBy: memory?.settings[definition.name.rawValue]?.controller)
        }
        guard !self.json else { return try Terminal.standardOutput.json(rows) }
        var table = Table("parameter", "unit", "bounds", "value", "what it is")
        for row in rows {
            table.add([
                Table.Cell(row.name), Table.Cell(row.unit ?? ""), Table.Cell(row.bounds), Table.Cell(row.value ?? ""),
                Table.Cell(row.summary),
            ])
        }
        Terminal.standardOutput.table(table)
    }
}
