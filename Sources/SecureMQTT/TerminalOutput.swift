import Foundation
import PKI

/// One of the process's output streams: colours and aligned tables for a person, plain text for a pipe.
struct Terminal: Sendable {
    static let standardOutput = Terminal(descriptor: STDOUT_FILENO)
    static let standardError = Terminal(descriptor: STDERR_FILENO)

    /// Whether a person is looking.
    let isTerminal: Bool
    /// Whether colours are wanted: a terminal that is not dumb, and no NO_COLOR (no-color.org).
    let hasColor: Bool
    private let descriptor: Int32

    init(descriptor: Int32) {
        self.descriptor = descriptor
        self.isTerminal = isatty(descriptor) == 1
        let environment = ProcessInfo.processInfo.environment
        self.hasColor =
            self.isTerminal && environment["TERM"] != "dumb" && (environment["NO_COLOR"] ?? "").isEmpty
    }

    /// Writes all of it, unbuffered. A reader that went away (a closed pipe) ends the process as it ends others.
    func write(_ text: String) {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Foundation.write(self.descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    func line(_ text: String = "") { self.write(text + "\n") }

    /// A style, where colours are wanted.
    enum Style: String, Sendable {
        case bold = "1"
        case dim = "2"
        case red = "31"
        case green = "32"
        case yellow = "33"
    }

    func styled(_ text: String, _ style: Style) -> String {
        self.hasColor ? "\u{1B}[\(style.rawValue)m\(text)\u{1B}[0m" : text
    }

    /// Replaces the current line on a terminal, for progress; says nothing on a pipe.
    func progress(_ text: String) {
        guard self.isTerminal else { return }
        self.write("\r\u{1B}[2K\(text)")
    }

    /// Ends a line of progress.
    func endProgress() {
        guard self.isTerminal else { return }
        self.write("\r\u{1B}[2K")
    }

    /// One value as one line of JSON: keys sorted, and in snake case of the properties' names.
    func json(_ value: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        encoder.keyEncodingStrategy = .convertToSnakeCase
        self.line(String(decoding: try encoder.encode(value), as: UTF8.self))
    }

    /// A table: aligned with a bold head on a terminal; tab-separated with a head on a pipe.
    func table(_ table: Table) {
        guard self.isTerminal else {
            for row in [table.columns.map(\.title)] + table.rows.map({ $0.map(\.text) }) {
                self.line(row.map { $0.replacing("\t", with: " ") }.joined(separator: "\t"))
            }
            return
        }
        let widths = table.columns.indices.map { column in
            ([table.columns[column].title] + table.rows.map { $0[column].text }).map(\.count).max() ?? 0
        }
        func aligned(_ text: String, _ column: Int) -> String {
            let padding = String(repeating: " ", count: widths[column] - text.count)
            if table.columns[column].isNumeric { return padding + text }
            return column == widths.count - 1 ? text : text + padding
        }
        self.line(
            table.columns.enumerated().map { self.styled(aligned($1.title, $0), .bold) }.joined(separator: "  "))
        for row in table.rows {
            self.line(
                row.enumerated().map { column, cell in
                    let text = aligned(cell.text, column)
                    return cell.style.map { self.styled(text, $0) } ?? text
                }.joined(separator: "  "))
        }
    }
}

/// Rows of text under titles.
struct Table: Sendable {
    struct Column: Sendable {
        let title: String
        /// Aligned to the right.
        let isNumeric: Bool
    }

    struct Cell: Sendable, ExpressibleByStringLiteral, ExpressibleByStringInterpolation {
        let text: String
        let style: Terminal.Style?

        init(_ text: String, _ style: Terminal.Style? = nil) {
            // What auditors say must not command the terminal.
            self.text = String(
                String.UnicodeScalarView(
                    text.unicodeScalars.map { $0.properties.generalCategory == .control ? "\u{FFFD}" : $0 }))
            self.style = style
        }

        init(stringLiteral value: String) { self.init(value) }
    }

    let columns: [Column]
    private(set) var rows: [[Cell]] = []

    /// - Parameter titles: a title that begins with `#` is of a column of numbers; the sign is not shown.
    init(_ titles: String...) {
        self.columns = titles.map {
            $0.hasPrefix("#")
                ? Column(title: String($0.dropFirst()), isNumeric: true) : Column(title: $0, isNumeric: false)
        }
    }

    /// - Parameter row: as many cells as there are columns; missing ones are empty.
    mutating func add(_ row: [Cell]) {
        let missing = max(0, self.columns.count - row.count)
        self.rows.append(Array(row.prefix(self.columns.count)) + Array(repeating: Cell(""), count: missing))
    }
}

extension UnixTime {
    /// Now, by the machine's clock.
    static var now: UnixTime { UnixTime(Date().timeIntervalSince1970) }

    /// RFC 3339 in UTC, for example `2026-11-22T18:30:00Z`.
    var iso8601: String { CivilTime(self).iso8601 }
}
