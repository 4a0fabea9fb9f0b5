import Foundation

/// What the demo shows while it runs: on a terminal a table that is drawn again in its place, else plain lines.
struct DemoView {
    /// One line of the table.
    struct Line {
        var auditor: String
        /// Readings signed.
        var signed: Int
        /// Statements and heartbeats signed.
        var statements: Int
        /// Of those, covered by verified receipts.
        var receipted: Int
        /// Readings in the database.
        var stored: Int
    }

    private let isTerminal: Bool
    private var drawnLines = 0
    private var lastTotal = 0
    private var lastSeconds = 0.0

    init() { self.isTerminal = isatty(STDOUT_FILENO) == 1 }

    /// Shows how far the auditors are.
    ///
    /// - Parameter seconds: Since the start.
    mutating func show(_ lines: [Line], seconds: Double) {
        let total = lines.reduce(0) { $0 + $1.stored }
        let elapsed = max(seconds - self.lastSeconds, 0.001)
        let rate = Int(Double(total - self.lastTotal) / elapsed)
        self.lastTotal = total
        self.lastSeconds = seconds
        guard self.isTerminal else {
            let signed = lines.reduce(0) { $0 + $1.signed }
            let receipted = lines.reduce(0) { $0 + $1.receipted }
            Self.write(
                "\(Self.fixed(seconds)) s: \(lines.count) auditors, \(signed) readings signed, \(total) stored "
                    + "(\(rate)/s), \(receipted) statements receipted\n")
            return
        }
        // More auditors than lines of a terminal: the first ones, and the sum.
        let shown = lines.prefix(12)
        var text = self.drawnLines > 0 ? "\u{1B}[\(self.drawnLines)A\u{1B}[J" : ""
        text += "\u{1B}[1m" + Self.row("auditor", "signed", "statements", "receipted", "stored") + "\u{1B}[0m\n"
        for line in shown {
            text +=
                Self.row(
                    line.auditor, Self.grouped(line.signed), Self.grouped(line.statements),
                    Self.grouped(line.receipted), Self.grouped(line.stored)) + "\n"
        }
        let rest = lines.count > shown.count ? "and \(lines.count - shown.count) more; " : ""
        text += "  \(rest)\(Self.grouped(total)) readings stored, \(Self.grouped(rate))/s, \(Self.fixed(seconds)) s\n"
        self.drawnLines = shown.count + 2
        Self.write(text)
    }

    /// Writes lines that stay.
    mutating func say(_ text: String) {
        self.drawnLines = 0
        Self.write(text + "\n")
    }

    /// Shows the outcome of one attack.
    mutating func show(_ attack: DemoAttack, _ outcome: DemoReport.Attack) {
        let mark = outcome.refused ? "refused" : "NOT REFUSED"
        let colored =
            self.isTerminal ? (outcome.refused ? "\u{1B}[32m\(mark)\u{1B}[0m" : "\u{1B}[31m\(mark)\u{1B}[0m") : mark
        let title = attack.title + String(repeating: " ", count: max(0, 62 - attack.title.count))
        self.say("  \(title) \(colored) by the \(outcome.where): \(outcome.reason)")
    }

    private static func row(_ name: String, _ numbers: String...) -> String {
        let name = String(name.prefix(24))
        return "  " + name + String(repeating: " ", count: 24 - name.count)
            + numbers.map { String(repeating: " ", count: max(0, 12 - $0.count)) + $0 }.joined()
    }

    /// 11904 as 11,904.
    private static func grouped(_ number: Int) -> String {
        var digits = String(number)
        var position = digits.endIndex
        while let next = digits.index(position, offsetBy: -3, limitedBy: digits.startIndex), next > digits.startIndex {
            digits.insert(",", at: next)
            position = next
        }
        return digits
    }

    private static func fixed(_ seconds: Double) -> String {
        let tenths = Int((seconds * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }

    static func write(_ text: String) {
        try? FileHandle.standardOutput.write(contentsOf: Data(text.utf8))
    }
}
