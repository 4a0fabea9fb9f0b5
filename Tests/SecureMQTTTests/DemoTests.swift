import Foundation
import TestSupport
import Testing

/// `secure-mqtt demo`, as a newcomer runs it.
@Suite struct DemoTests {
    private struct Report: Decodable {
        struct Attack: Decodable {
            let refused: Bool
            let `where`: String
            let reason: String
        }

        let readingsSent: Int
        let readingsStored: Int
        let statementsStored: Int
        let receiptsVerified: Int
        let attacks: [String: Attack]
        let seconds: Double

        /// - Parameter json: One line, with the keys of the documentation.
        init(json: String) throws {
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            self = try decoder.decode(Self.self, from: Data(json.utf8))
        }
    }

    /// Runs it to its end and keeps its folder.
    private static func demo(
        _ arguments: [String], in folder: TemporaryDirectory
    ) async throws -> (result: Program.Result, report: Report) {
        let result = try await Program.run(
            ["demo", "--exit", "--json", "--directory", folder.path("demo")] + arguments, within: .seconds(180))
        try #require(result.status == 0, "\(result.output)\n\(result.errorOutput)")
        return (result, try Report(json: result.lastLine))
    }

    /// The exact sums of all series, by auditor and quantity.
    private static func sums(_ folder: TemporaryDirectory) async throws -> [String: Decimal] {
        let result = try await Program.run([
            "readings", "--config", folder.path("demo") + "/secure-mqtt.yaml", "--sum", "--format", "csv",
        ])
        var sums: [String: Decimal] = [:]
        for line in result.output.split(separator: "\n").dropFirst() {
            let cells = line.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
            sums["\(cells[0]) \(cells[2])"] = Decimal(string: cells[5])
        }
        return sums
    }

    /// Where each attack is to be refused, and by which word.
    private static let refusals: [String: (place: String, reason: String)] = [
        "no-certificate": ("broker handshake", "TLS alert: certificate required"),
        "foreign-certificate": ("broker handshake", "TLS alert: unknown ca"),
        "foreign-subscription": ("broker authorisation", "0x87 not authorized"),
        "other-topic": ("broker authorisation", "0x87 not authorized"),
        "oversized-packet": ("broker limits", "0x95 packet too large"),
        "retained": ("broker authorisation", "0x87 not authorized"),
        "tampered-payload": ("control center", "signature"),
        "other-key": ("control center", "signature"),
        "other-statement": ("control center", "topic"),
        "high-s": ("control center", "not-canonical"),
        "long-length": ("control center", "not-canonical"),
        "unprotected-label": ("control center", "not-canonical"),
        "trailing-byte": ("control center", "not-canonical"),
        "replay": ("control center", "duplicate"),
        "fork": ("control center", "fork"),
    ]

    @Test func `simulated homes are stored exactly once and every attack is refused where it should be`() async throws {
        try await TemporaryDirectory.with { folder in
            let (result, report) = try await Self.demo(["--auditors", "2"], in: folder)
            #expect(report.readingsSent == 2 * 7 * 96 * 4)
            #expect(report.readingsStored == report.readingsSent)
            #expect(report.statementsStored == 2 * 7 * 96)
            #expect(report.receiptsVerified > 0)
            #expect(report.seconds > 0)
            #expect(Set(report.attacks.keys) == Set(Self.refusals.keys))
            for (name, attack) in report.attacks {
                #expect(attack.refused, "\(name)")
                #expect(attack.where == Self.refusals[name]?.place, "\(name)")
                // An oversized packet may meet a connection that is closed already.
                if name != "oversized-packet" { #expect(attack.reason == Self.refusals[name]?.reason, "\(name)") }
            }
            #expect(result.output.contains("All parts run in this one process"))
            // A second demo clears away the first.
            let (_, again) = try await Self.demo(["--auditors", "1"], in: folder)
            #expect(again.readingsStored == 7 * 96 * 4)
        }
    }

    @Test(.enabled(if: SharedData.path("data/prosumer-licore-wide.csv") != nil))
    func `two prosumers' July and August are stored to the last digit`() async throws {
        let path = try #require(SharedData.path("data/prosumer-licore-wide.csv"))
        var expected: [String: Decimal] = [:]
        for line in try String(contentsOfFile: path, encoding: .utf8).split(whereSeparator: \.isNewline).dropFirst() {
            let cells = line.split(separator: ";", omittingEmptySubsequences: false).map(String.init)
            let quantity = cells[1] == "0" ? "consumption" : "production"
            for cell in cells[5...] { expected["\(cells[0]) \(quantity)", default: 0] += Decimal(string: cell) ?? .nan }
        }
        try await TemporaryDirectory.with { folder in
            let (_, report) = try await Self.demo(["--input", path], in: folder)
            #expect(report.readingsSent == 11_904)
            #expect(report.readingsStored == 11_904)
            #expect(try await Self.sums(folder) == expected)
        }
    }

    @Test(.enabled(if: SharedData.path("data/ausgrid-customer12-2011-2012-30min.csv") != nil))
    func `a year of half hours of a real home is stored to the last digit`() async throws {
        let path = try #require(SharedData.path("data/ausgrid-customer12-2011-2012-30min.csv"))
        let id = "ausgrid-customer12-2011-2012-30min"
        var expected = ["\(id) power_consumed": Decimal(), "\(id) power_produced": Decimal()]
        for line in try String(contentsOfFile: path, encoding: .utf8).split(whereSeparator: \.isNewline).dropFirst() {
            let cells = line.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
            expected["\(id) power_consumed", default: 0] += Decimal(string: cells[1]) ?? .nan
            expected["\(id) power_produced", default: 0] += Decimal(string: cells[2]) ?? .nan
        }
        try await TemporaryDirectory.with { folder in
            let (_, report) = try await Self.demo(
                [
                    "--input", path, "--column", "GC=power_consumed:kW", "--column", "GG=power_produced:kW",
                    "--interval", "30m",
                ], in: folder)
            #expect(report.readingsStored == 2 * 17_568)
            #expect(try await Self.sums(folder) == expected)
        }
    }

    @Test func `it goes on until it is interrupted, and ends with its report`() async throws {
        try await TemporaryDirectory.with { folder in
            let demo = try Program.start(["demo", "--json", "--auditors", "1", "--directory", folder.path("demo")])
            try await demo.waitForOutput("Live readings go on")
            demo.send(signal: SIGINT)
            #expect(try await demo.wait() == .exited(0))
            let last = demo.output.split(separator: "\n").last.map(String.init) ?? ""
            let report = try Report(json: last)
            #expect(report.readingsStored == report.readingsSent)
            #expect(report.readingsSent >= 720 * 4)
        }
    }

    @Test func `a folder that no demo made is left alone`() async throws {
        try await TemporaryDirectory.with { folder in
            try folder.write("precious", to: "file")
            let result = try await Program.run(["demo", "--exit", "--directory", folder.path])
            #expect(result.status == 73)
            #expect(result.errorOutput.contains("was not made by a demo"))
            #expect(FileManager.default.fileExists(atPath: folder.path("file")))
        }
    }
}
