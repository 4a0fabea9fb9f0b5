import ArgumentParser
import ControlCenter
import Foundation
import Identity
import LiCore
import Telemetry

/// `secure-mqtt update`.
struct UpdateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "update",
        abstract:
            "Have a parameter of auditors changed: queued, signed when the auditor is there, answered by a signed result.",
        discussion: """
            Acts through the control center's store, so it runs on that machine, as that user; who asked is recorded. \
            The parameters, with units and bounds: secure-mqtt auditor parameters. An auditor that is allowed the \
            original LiCore format is told in that: SAMPLE_RATE only, and nothing answers. A newer update ends older ones \
            of the same parameter that are not answered.

            EXAMPLES
              secure-mqtt update mona SAMPLE_RATE 0.2
              secure-mqtt update mona lena STATEMENT_INTERVAL 300 --expires 2d --group "slow at night"
              secure-mqtt update --all METERS_ENABLED main,inverter
              secure-mqtt update --cancel 17
              secure-mqtt updates
            """)

    @OptionGroup
    var options: OperatorOptions

    @Argument(help: ArgumentHelp("IDs of auditors, a parameter, its value.", valueName: "id... parameter value"))
    var words: [String] = []

    @Flag(help: "Every auditor that has said hello.")
    var all = false

    @Option(
        help: ArgumentHelp("Take back an update that is not answered; nothing else is given then.", valueName: "number")
    )
    var cancel: Int64?

    @Option(help: ArgumentHelp("Until when it may be applied: 90s, 30m, 12h, 7d.", valueName: "time"))
    var expires = "7d"

    @Option(help: ArgumentHelp("What these updates are called together.", valueName: "name"))
    var group: String?

    @Flag(help: "One JSON object on one line.")
    var json = false

    private struct Asked: Encodable {
        let numbers: [Int64]
        /// Of those in the original's form.
        let licore: [Int64]
    }

    func run() async throws {
        if let cancel { return try await self.take(back: cancel) }
        guard self.words.count >= (self.all ? 2 : 3) else {
            throw CommandError(
                .usage, "write secure-mqtt update ID... PARAMETER VALUE, such as update mona SAMPLE_RATE 0.2")
        }
        let (name, text) = (self.words[self.words.count - 2], self.words[self.words.count - 1])
        guard let parameter = Topic.Parameter(name), let definition = ParameterDefinition.named(parameter) else {
            let names = ParameterDefinition.all.map(\.name.rawValue).joined(separator: ", ")
            throw CommandError(.usage, "there is no parameter '\(name)'; there are \(names)")
        }
        if let group, group.utf8.count > 100 || group.contains(where: \.isNewline) {
            throw CommandError(.usage, "--group: a name of at most 100 bytes on one line")
        }
        let value = try definition.parse(text)
        let seconds = try OperatorOptions.duration(self.expires, "--expires")
        let place = try await self.options.open()
        let desk = place.desk
        var ids: [String] = []
        for id in self.words.dropLast(2) where !ids.contains(id) { ids.append(id) }
        let targets = try OperatorOptions.auditors(ids, all: self.all, of: place)
        if let member = targets.liCore.first, parameter != .sampleRate {
            throw CommandError(.usage, "\(member) uses the original's format, which has SAMPLE_RATE only")
        }
        let now = systemClock()
        var random = SystemRandomNumberGenerator()
        let numbers = try desk.ask(
            parameter, value, unit: definition.unit, of: targets.ours, name: self.group,
            expires: now.advanced(byNanoseconds: seconds * 1_000_000_000), by: OperatorOptions.operatorID, at: now,
            random: &random)
        let orders = try self.order(parameter, value, of: targets.liCore, in: place, at: now)
        OperatorOptions.warnIfNotRunning(desk)
        guard !self.json else { return try Terminal.standardOutput.json(Asked(numbers: numbers, licore: orders)) }
        let what = "\(parameter) = \(value)\(definition.unit.map { " " + $0 } ?? "")"
        for (number, auditor) in zip(numbers, targets.ours) {
            Terminal.standardOutput.line("update \(number): \(what) for \(auditor.id), queued")
        }
        for (number, auditor) in zip(orders, targets.liCore) {
            Terminal.standardOutput.line(
                "update \(number) in the original's form: \(what) for \(auditor), queued; it has no answer")
        }
    }

    private func take(back number: Int64) async throws {
        guard self.words.isEmpty, !self.all else {
            throw CommandError(.usage, "write secure-mqtt update --cancel NUMBER, without anything else")
        }
        let desk = try await self.options.openDesk()
        guard try desk.cancel(number, by: OperatorOptions.operatorID, at: systemClock()) else {
            throw CommandError(.badData, "there is no update \(number) that waits for an answer: secure-mqtt updates")
        }
        Terminal.standardOutput.line("update \(number) is cancelled")
    }

    private func order(
        _ parameter: Topic.Parameter, _ value: ParameterValue, of auditors: [Identifier],
        in place: OperatorOptions.Place, at now: Timestamp
    ) throws -> [Int64] {
        guard !auditors.isEmpty else { return [] }
        let clerk = try StoreClerk(path: place.store)
        return try auditors.map {
            try clerk.order(
                auditor: $0, parameter: parameter, value: value.description, by: OperatorOptions.operatorID, at: now)
        }
    }
}

/// `secure-mqtt updates`.
struct UpdatesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "updates",
        abstract: "Show the queue of updates: queued, sent, applied, refused and why, expired, superseded, cancelled.",
        discussion: """
            One in the original's form is numbered apart; it ends as published or refused, for nothing answers it.

            EXAMPLES
              secure-mqtt updates --config /srv/energy/secure-mqtt.yaml
              secure-mqtt updates --limit 1000 --json
            """)

    @OptionGroup
    var options: OperatorOptions

    @Option(help: ArgumentHelp("The newest so many.", valueName: "count"))
    var limit = 50

    @Flag(help: "One JSON object on one line.")
    var json = false

    private struct Row: Encodable {
        let number: Int64
        let batch: String
        let group: String?
        let auditor: String
        let parameter: String
        let value: String
        let unit: String?
        let state: String
        let reason: String?
        let valueNow: String?
        let asked: String
        let askedBy: String
        let expires: String
        let sent: String?
        let finished: String?
        let id: String?
        let result: Int64?

        init(_ update: StoredUpdate) {
            self.number = update.number
            self.batch = update.batch
            self.group = update.name
            self.auditor = update.auditor.id.rawValue
            self.parameter = update.parameter
            self.value = update.value
            self.unit = update.unit
            self.state = update.state
            self.reason = update.reason
            self.valueNow = update.valueNow
            self.asked = update.asked.description
            self.askedBy = update.askedBy
            self.expires = update.expires.description
            self.sent = update.sent?.description
            self.finished = update.finished?.description
            self.id = update.id
            self.result = update.result
        }
    }

    private struct LiCoreRow: Encodable {
        let number: Int64
        let auditor: String
        let parameter: String
        let value: String
        let state: String
        let reason: String?
        let asked: String
        let askedBy: String?
        let finished: String?

        init(_ update: StoredLiCoreUpdate) {
            self.number = update.number
            self.auditor = update.auditor
            self.parameter = update.parameter
            self.value = update.value
            self.state = update.state
            self.reason = update.reason
            self.asked = update.asked.description
            self.askedBy = update.askedBy
            self.finished = update.finished?.description
        }
    }

    private struct Group: Encodable {
        let name: String
        let parameter: String
        let value: String
        let members: Int
        let applied: Int
        /// Names of those that have not applied it, with their state.
        let missing: [String: String]
    }

    private struct Listing: Encodable {
        let updates: [Row]
        let groups: [Group]
        /// In the original's form.
        let licore: [LiCoreRow]
    }

    func run() async throws {
        guard self.limit > 0 else { throw CommandError(.usage, "--limit \(self.limit): give 1 or more") }
        let desk = try await self.options.openDesk()
        let updates = try desk.updates(limit: self.limit)
        let liCore = try desk.liCoreUpdates(limit: self.limit)
        let groups = Self.groups(updates)
        guard !self.json else {
            return try Terminal.standardOutput.json(
                Listing(updates: updates.map(Row.init), groups: groups, licore: liCore.map(LiCoreRow.init)))
        }
        let output = Terminal.standardOutput
        var table = Table("#number", "auditor", "parameter", "value", "state", "asked", "by", "why")
        for update in updates {
            let color: Terminal.Style? =
                switch update.state {
                case "applied": .green
                case "refused", "expired": .red
                default: .yellow
                }
            table.add([
                Table.Cell("\(update.number)"), Table.Cell(update.auditor.id.rawValue), Table.Cell(update.parameter),
                Table.Cell(update.value + (update.unit.map { " " + $0 } ?? "")), Table.Cell(update.state, color),
                Table.Cell(OperatorOptions.time(update.asked)), Table.Cell(update.askedBy),
                Table.Cell(update.reason ?? ""),
            ])
        }
        if !updates.isEmpty || liCore.isEmpty { output.table(table) }
        if !liCore.isEmpty {
            if !updates.isEmpty { output.line() }
            output.table(Self.table(of: liCore))
        }
        guard !groups.isEmpty else { return }
        var summary = Table("group", "parameter", "value", "applied", "not applied")
        for group in groups {
            summary.add([
                Table.Cell(group.name), Table.Cell(group.parameter), Table.Cell(group.value),
                Table.Cell("\(group.applied) of \(group.members)", group.applied == group.members ? .green : .yellow),
                Table.Cell(
                    group.missing.sorted { $0.key < $1.key }.map { "\($0.key) (\($0.value))" }.joined(separator: ", ")),
            ])
        }
        output.line()
        output.table(summary)
    }

    private static func table(of updates: [StoredLiCoreUpdate]) -> Table {
        var table = Table("#licore", "auditor", "parameter", "value", "state", "asked", "by", "why")
        for update in updates {
            table.add([
                Table.Cell("\(update.number)"), Table.Cell(update.auditor), Table.Cell(update.parameter),
                Table.Cell(update.value.isEmpty ? "withdrawn" : update.value),
                Table.Cell(update.state, update.state == "refused" ? .red : .yellow),
                Table.Cell(OperatorOptions.time(update.asked)), Table.Cell(update.askedBy ?? ""),
                Table.Cell(update.reason ?? ""),
            ])
        }
        return table
    }

    /// Those that were asked for together, in the order of asking.
    private static func groups(_ updates: [StoredUpdate]) -> [Group] {
        var order: [String] = []
        var members: [String: [StoredUpdate]] = [:]
        for update in updates {
            if members[update.batch] == nil { order.append(update.batch) }
            members[update.batch, default: []].append(update)
        }
        return order.compactMap { batch in
            guard let group = members[batch], let first = group.first, group.count > 1 || first.name != nil else {
                return nil
            }
            let missing = group.filter { $0.state != "applied" }
            return Group(
                name: first.name ?? String(batch.prefix(8)), parameter: first.parameter,
                value: first.value + (first.unit.map { " " + $0 } ?? ""), members: group.count,
                applied: group.count - missing.count,
                missing: Dictionary(
                    missing.map { ($0.auditor.id.rawValue, $0.state) }, uniquingKeysWith: { first, _ in first }))
        }
    }
}
