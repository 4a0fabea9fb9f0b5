import Foundation
import Testing

/// Keeps docs/mqtt-conformance.md true: complete, with tests that exist.
struct ConformanceDocumentTests {
    /// The numbers of appendix B of MQTT 5.0, by section.
    private static let five: [String: ClosedRange<Int>] = [
        "1.5.4": 1...3, "1.5.5": 1...1, "1.5.7": 1...1, "2.1.3": 1...1, "2.2.1": 2...6, "2.2.2": 1...1, "3.1.0":
        1...2, "3.1.2": 1...30, "3.1.3": 1...12, "3.1.4": 1...6, "3.2.0": 1...2, "3.2.2": 1...22, "3.3.1": 1...13,
        "3.3.2": 1...20, "3.3.4": 1...10, "3.4.2": 1...3, "3.5.2": 1...3, "3.6.1": 1...1, "3.6.2": 1...3, "3.7.2":
        1...3, "3.8.1": 1...1, "3.8.3": 1...5, "3.8.4": 1...8, "3.9.2": 1...2, "3.9.3": 1...2, "3.10.1": 1...1,
        "3.10.3": 1...2, "3.10.4": 1...6, "3.11.2": 1...2, "3.11.3": 1...2, "3.12.4": 1...1, "3.14.0": 1...1,
        "3.14.1": 1...1, "3.14.2": 1...4, "3.14.4": 1...3, "3.15.1": 1...1, "3.15.2": 1...3, "4.1.0": 1...2,
        "4.2.0": 1...1, "4.3.1": 1...1, "4.3.2": 1...5, "4.3.3": 1...13, "4.4.0": 1...2, "4.5.0": 1...2, "4.6.0":
        1...6, "4.7.0": 1...1, "4.7.1": 1...2, "4.7.2": 1...1, "4.7.3": 1...4, "4.8.2": 1...6, "4.9.0": 1...3,
        "4.12.0": 1...7, "4.12.1": 1...2, "4.13.1": 1...1, "4.13.2": 1...1, "6.0.0": 1...4,
    ]

    /// Those of 3.1.1. The standard writes some of them with other punctuation.
    private static let three: [String: ClosedRange<Int>] = [
        "1.5.3": 1...3, "2.2.2": 1...2, "2.3.1": 1...7, "3.1.0": 1...2, "3.1.2": 1...24, "3.1.3": 1...11, "3.1.4":
        1...5, "3.2.0": 1...1, "3.2.2": 1...6, "3.3.1": 1...12, "3.3.2": 1...3, "3.3.4": 1...1, "3.3.5": 1...2,
        "3.6.1": 1...1, "3.8.1": 1...1, "3.8.3": 1...4, "3.8.4": 1...6, "3.9.3": 1...2, "3.10.1": 1...1, "3.10.3":
        1...2, "3.10.4": 1...6, "3.12.4": 1...1, "3.14.1": 1...1, "3.14.4": 1...3, "4.1.0": 1...2, "4.3.1": 1...1,
        "4.3.2": 1...2, "4.3.3": 1...2, "4.4.0": 1...1, "4.5.0": 1...2, "4.6.0": 1...6, "4.7.1": 1...3, "4.7.2":
        1...1, "4.7.3": 1...4, "4.8.0": 1...2, "6.0.0": 1...4, "7.0.0": 1...2, "7.1.1": 1...1, "7.1.2": 1...1,
    ]

    private static let checkout = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    private static func read(_ path: String) throws -> String {
        try String(contentsOf: Self.checkout.appendingPathComponent(path), encoding: .utf8)
    }

    /// The rows of the document, by the heading above them.
    private static func rows(below heading: String) throws -> [[String]] {
        var rows: [[String]] = []
        var isBelow = false
        for line in try Self.read("docs/mqtt-conformance.md").split(separator: "\n") {
            if line.hasPrefix("## ") { isBelow = line == heading }
            guard isBelow, line.hasPrefix("| MQTT-") else { continue }
            rows.append(
                line.split(separator: "|", omittingEmptySubsequences: false).dropFirst().dropLast().map {
                    $0.trimmingCharacters(in: .whitespaces)
                })
        }
        return rows
    }

    @Test("Every numbered statement of both standards has its row", arguments: ["5.0", "3.1.1"])
    func complete(version: String) throws {
        let rows = try Self.rows(below: "## MQTT \(version)")
        let expected = (version == "5.0" ? Self.five : Self.three).flatMap { section, numbers in
            numbers.map { "MQTT-\(section)-\($0)" }
        }
        #expect(rows.map { $0[0] }.sorted() == expected.sorted())
        #expect(rows.allSatisfy { $0.count == 4 && !$0.contains("") })
    }

    @Test("Every test that the document names exists")
    func testsExist() throws {
        var sources = ""
        for folder in ["Tests/MQTTBrokerTests", "Tests/MQTTTests"] {
            let path = Self.checkout.appendingPathComponent(folder).path
            for name in try FileManager.default.contentsOfDirectory(atPath: path) where name.hasSuffix(".swift") {
                sources += try Self.read("\(folder)/\(name)")
            }
        }
        let rules = try Self.read("Tests/MQTTBrokerTests/ConformanceTests.swift")
        let clients = try Self.read("Tests/Interop/python/broker_clients.py")
        var count = 0
        for row in try Self.rows(below: "## MQTT 5.0") + Self.rows(below: "## MQTT 3.1.1") {
            for name in row[3].split(separator: ";").map({ $0.trimmingCharacters(in: .whitespaces) }) where name != "—" {
                count += 1
                if let rule = name.firstMatch(of: /`ConformanceTests\.[a-zA-Z]+` "(.*)"/)?.1 {
                    #expect(rules.contains("\"\(rule)\", "), "\(row[0]): no rule \(rule)")
                } else if let client = name.firstMatch(of: /`broker_clients\.py` `(.*)`/)?.1 {
                    #expect(clients.contains("def \(client)(self)"), "\(row[0]): no \(client)")
                } else if let test = name.firstMatch(of: /^`([A-Za-z0-9]+)\.([A-Za-z0-9]+)`$/) {
                    #expect(sources.contains("struct \(test.1) {"), "\(row[0]): no \(test.1)")
                    #expect(sources.contains("func \(test.2)("), "\(row[0]): no \(test.2)")
                } else {
                    Issue.record("\(row[0]): \(name) names no test")
                }
            }
        }
        #expect(count > 300)
    }
}
