import ArgumentParser
import ControlCenter
import Foundation
import Identity
import Telemetry

/// `secure-mqtt alert`.
struct AlertCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "alert", abstract: "Tell auditors something.", subcommands: [AlertSendCommand.self])
}

/// `secure-mqtt alert send`.
struct AlertSendCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "send",
        abstract: "Send a signed alert to an auditor, or to all; it is shown there and changes nothing.",
        discussion: """
            It is sent again at each hello until the auditor's signed result says that it was shown.

            EXAMPLES
              secure-mqtt alert send mona "the grid is switched off at 10:00"
              secure-mqtt alert send --all "maintenance tonight" --expires 12h
              secure-mqtt alert send mona "the grid is on again" --over
            """)

    @OptionGroup
    var options: OperatorOptions

    @Argument(help: ArgumentHelp("The ID of an auditor, and what to tell.", valueName: "id text"))
    var words: [String]

    @Flag(help: "Every auditor.")
    var all = false

    @Option(help: ArgumentHelp("What it is about: one word of a-z and -.", valueName: "word"))
    var word = "message"

    @Flag(help: "What was raised is over.")
    var over = false

    @Option(help: ArgumentHelp("Until when it is shown: 90s, 30m, 12h, 7d.", valueName: "time"))
    var expires = "1d"

    func run() async throws {
        guard self.words.count == (self.all ? 1 : 2), let text = self.words.last else {
            throw CommandError(.usage, "write secure-mqtt alert send ID \"text\", or alert send --all \"text\"")
        }
        guard let word = Reason(self.word) else {
            throw CommandError(.usage, "--word \(self.word): one word of a-z and -, of at most 32 characters")
        }
        guard text.utf8.count <= Alert.maximumTextLength,
            !text.unicodeScalars.contains(where: { $0.properties.generalCategory == .control })
        else {
            throw CommandError(.usage, "the text: one line of at most \(Alert.maximumTextLength) bytes")
        }
        let seconds = try OperatorOptions.duration(self.expires, "--expires")
        let place = try await self.options.open()
        let desk = place.desk
        let targets = self.all ? nil : try OperatorOptions.auditors([self.words[0]], all: false, of: place)
        if let member = targets?.liCore.first {
            throw CommandError(.usage, "\(member) uses the original's format, which has no alerts")
        }
        let target = targets?.ours.first
        let now = systemClock()
        let number = try desk.send(
            Alert(word, text, isRaised: !self.over), to: target,
            expires: now.advanced(byNanoseconds: seconds * 1_000_000_000), by: OperatorOptions.operatorID, at: now)
        OperatorOptions.warnIfNotRunning(desk)
        Terminal.standardOutput.line("alert \(number) for \(target?.id.rawValue ?? "all"), queued")
    }
}

/// `secure-mqtt alerts`.
struct AlertsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "alerts",
        abstract: "Show what the rules have found and what auditors have told; acknowledge it.",
        subcommands: [AlertsListCommand.self, AlertsAcknowledgeCommand.self],
        defaultSubcommand: AlertsListCommand.self)
}

/// `secure-mqtt alerts list`, which need not be said.
struct AlertsListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Show alerts: raised, acknowledged, cleared.",
        discussion: """
            EXAMPLES
              secure-mqtt alerts --config /srv/energy/secure-mqtt.yaml
              secure-mqtt alerts --open --json
              secure-mqtt alerts acknowledge 17
            """)

    @OptionGroup
    var options: OperatorOptions

    @Flag(help: "Only those that are not cleared.")
    var open = false

    @Option(help: ArgumentHelp("The newest so many.", valueName: "count"))
    var limit = 50

    @Flag(help: "One JSON object on one line.")
    var json = false

    private struct Row: Encodable {
        let number: Int64
        let rule: String
        let auditor: String
        let subject: String
        let text: String
        let state: String
        let raised: String
        let acknowledged: String?
        let acknowledgedBy: String?
        let cleared: String?

        init(_ alert: StoredAlert) {
            self.number = alert.number
            self.rule = alert.rule
            self.auditor = alert.auditor
            self.subject = alert.subject
            self.text = alert.text
            self.state = alert.state
            self.raised = alert.raised.description
            self.acknowledged = alert.acknowledged?.description
            self.acknowledgedBy = alert.acknowledgedBy
            self.cleared = alert.cleared?.description
        }
    }

    private struct Told: Encodable {
        let number: Int64
        let auditor: String
        let word: String
        let text: String
        let isRaised: Bool
        let received: String
    }

    private struct Listing: Encodable {
        let alerts: [Row]
        let auditors: [Told]
    }

    func run() async throws {
        guard self.limit > 0 else { throw CommandError(.usage, "--limit \(self.limit): give 1 or more") }
        let desk = try await self.options.openDesk()
        let alerts = try desk.alerts(isOpen: self.open, limit: self.limit)
        let told = try desk.auditorAlerts(limit: self.limit)
        guard !self.json else {
            return try Terminal.standardOutput.json(
                Listing(
                    alerts: alerts.map(Row.init),
                    auditors: told.map {
                        Told(
                            number: $0.number, auditor: $0.auditor, word: $0.word, text: $0.text, isRaised: $0.isRaised,
                            received: $0.received.description)
                    }))
        }
        let output = Terminal.standardOutput
        var table = Table("#number", "state", "auditor", "rule", "raised", "alert")
        for alert in alerts {
            table.add([
                Table.Cell("\(alert.number)"),
                Table.Cell(alert.state, alert.state == "raised" ? .red : alert.state == "acknowledged" ? .yellow : nil),
                Table.Cell(alert.auditor),
                // What an auditor tells is told apart by its word.
                Table.Cell(alert.rule == AlertRule.auditor.description ? "auditor: \(alert.subject)" : alert.rule),
                Table.Cell(OperatorOptions.time(alert.raised)),
                Table.Cell(alert.text),
            ])
        }
        output.table(table)
        guard !told.isEmpty, !self.open else { return }
        var messages = Table("received", "auditor", "about", "told by the auditor")
        for alert in told {
            messages.add([
                Table.Cell(OperatorOptions.time(alert.received)), Table.Cell(alert.auditor),
                Table.Cell(alert.word + (alert.isRaised ? "" : " is over")), Table.Cell(alert.text),
            ])
        }
        output.line()
        output.table(messages)
    }
}

/// `secure-mqtt alerts acknowledge`.
struct AlertsAcknowledgeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "acknowledge",
        abstract: "Say that somebody has seen an alert, or that it is over; who is recorded.")

    @OptionGroup
    var options: OperatorOptions

    @Argument(help: ArgumentHelp("The numbers of alerts.", valueName: "number"))
    var numbers: [Int64]

    @Flag(help: "It is over, or what it is about is gone; something new of it raises it again.")
    var close = false

    func run() async throws {
        let desk = try await self.options.openDesk()
        for number in self.numbers {
            if self.close {
                guard try desk.close(number, by: OperatorOptions.operatorID, at: systemClock()) else {
                    throw CommandError(.badData, "there is no alert \(number) that is open")
                }
                Terminal.standardOutput.line("alert \(number) is closed")
                continue
            }
            guard try desk.acknowledge(number, by: OperatorOptions.operatorID, at: systemClock()) else {
                throw CommandError(.badData, "there is no alert \(number) that nobody has acknowledged yet")
            }
            Terminal.standardOutput.line("alert \(number) is acknowledged")
        }
    }
}
