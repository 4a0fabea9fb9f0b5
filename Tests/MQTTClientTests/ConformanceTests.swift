import Foundation
import Testing

/// docs/mqtt-conformance-client.md says which test shows what: it must name all statements, and tests that exist.
struct ConformanceTests {
    /// The numbers of the statements of MQTT 5.0, appendix B.
    private static let five: [(section: String, numbers: ClosedRange<Int>)] = [
        ("1.5.4", 1...3),
        ("1.5.5", 1...1),
        ("1.5.7", 1...1),
        ("2.1.3", 1...1),
        ("2.2.1", 2...6),
        ("2.2.2", 1...1),
        ("3.1.0", 1...2),
        ("3.1.2", 1...30),
        ("3.1.3", 1...12),
        ("3.1.4", 1...6),
        ("3.2.0", 1...2),
        ("3.2.2", 1...22),
        ("3.3.1", 1...13),
        ("3.3.2", 1...20),
        ("3.3.4", 1...10),
        ("3.4.2", 1...3),
        ("3.5.2", 1...3),
        ("3.6.1", 1...1),
        ("3.6.2", 1...3),
        ("3.7.2", 1...3),
        ("3.8.1", 1...1),
        ("3.8.3", 1...5),
        ("3.8.4", 1...8),
        ("3.9.2", 1...2),
        ("3.9.3", 1...2),
        ("3.10.1", 1...1),
        ("3.10.3", 1...2),
        ("3.10.4", 1...6),
        ("3.11.2", 1...2),
        ("3.11.3", 1...2),
        ("3.12.4", 1...1),
        ("3.14.0", 1...1),
        ("3.14.1", 1...1),
        ("3.14.2", 1...4),
        ("3.14.4", 1...3),
        ("3.15.1", 1...1),
        ("3.15.2", 1...3),
        ("4.1.0", 1...2),
        ("4.2.0", 1...1),
        ("4.3.1", 1...1),
        ("4.3.2", 1...5),
        ("4.3.3", 1...13),
        ("4.4.0", 1...2),
        ("4.5.0", 1...2),
        ("4.6.0", 1...6),
        ("4.7.0", 1...1),
        ("4.7.1", 1...2),
        ("4.7.2", 1...1),
        ("4.7.3", 1...4),
        ("4.8.2", 1...6),
        ("4.9.0", 1...3),
        ("4.12.0", 1...7),
        ("4.12.1", 1...2),
        ("4.13.1", 1...1),
        ("4.13.2", 1...1),
        ("6.0.0", 1...4),
    ]

    /// Those of MQTT 3.1.1, appendix B.
    private static let three: [(section: String, numbers: ClosedRange<Int>)] = [
        ("1.5.3", 1...3),
        ("2.2.2", 1...2),
        ("2.3.1", 1...7),
        ("3.1.0", 1...2),
        ("3.1.2", 1...24),
        ("3.1.3", 1...11),
        ("3.1.4", 1...5),
        ("3.2.0", 1...1),
        ("3.2.2", 1...6),
        ("3.3.1", 1...12),
        ("3.3.2", 1...3),
        ("3.3.4", 1...1),
        ("3.3.5", 1...2),
        ("3.6.1", 1...1),
        ("3.8.1", 1...1),
        ("3.8.3", 1...4),
        ("3.8.4", 1...6),
        ("3.9.3", 1...2),
        ("3.10.1", 1...1),
        ("3.10.3", 1...2),
        ("3.10.4", 1...6),
        ("3.12.4", 1...1),
        ("3.14.1", 1...1),
        ("3.14.4", 1...3),
        ("4.1.0", 1...2),
        ("4.2.0", 1...1),
        ("4.3.1", 1...1),
        ("4.3.2", 1...2),
        ("4.3.3", 1...2),
        ("4.4.0", 1...1),
        ("4.5.0", 1...2),
        ("4.6.0", 1...6),
        ("4.7.1", 1...3),
        ("4.7.2", 1...1),
        ("4.7.3", 1...4),
        ("4.8.0", 1...2),
        ("6.0.0", 1...4),
    ]

    private static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// The document's part for a version.
    private func part(_ title: String) throws -> String {
        let document = try String(
            contentsOf: Self.root.appendingPathComponent("docs/mqtt-conformance-client.md"), encoding: .utf8)
        let part = try #require(document.components(separatedBy: "\n## ").first { $0.hasPrefix(title + "\n") })
        return part
    }

    @Test("Every statement is named exactly once", arguments: ["MQTT 5.0", "MQTT 3.1.1"])
    func complete(version: String) throws {
        let part = try self.part(version)
        let named = part.matches(of: /MQTT-([0-9]+\.[0-9]+\.[0-9]+-[0-9]+)/).map { String($0.1) }
        let all = (version == "MQTT 5.0" ? Self.five : Self.three).flatMap { section, numbers in
            numbers.map { "\(section)-\($0)" }
        }
        #expect(Set(named).count == named.count)
        #expect(Set(named) == Set(all))
    }

    @Test("Every test that is named exists")
    func testsExist() throws {
        var existing: Set<String> = []
        for folder in ["MQTTTests", "MQTTClientTests"] {
            let url = Self.root.appendingPathComponent("Tests/" + folder)
            for file in try FileManager.default.contentsOfDirectory(at: url, includingPropertiesForKeys: nil)
            where file.pathExtension == "swift" {
                var type = ""
                for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") {
                    if let match = line.firstMatch(of: /^(?:private )?struct ([A-Za-z0-9]+)/) { type = String(match.1) }
                    if let match = line.firstMatch(of: /^    func ([A-Za-z0-9]+)\(/) {
                        existing.insert(type + "." + match.1)
                    }
                }
            }
        }
        var rows = 0
        for version in ["MQTT 5.0", "MQTT 3.1.1"] {
            for row in try self.part(version).split(separator: "\n") where row.hasPrefix("| MQTT-") {
                rows += 1
                let cells = row.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
                let tests = (cells.last ?? "").components(separatedBy: ", ")
                for test in tests { #expect(existing.contains(test), "\(row)") }
            }
        }
        #expect(rows > 150)
    }
}
