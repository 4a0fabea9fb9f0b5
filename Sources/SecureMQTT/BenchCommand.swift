import ArgumentParser
import ControlCenter
import Foundation

struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure this machine.",
        subcommands: [
            BenchIngestCommand.self, BenchEndToEndCommand.self, BenchSessionsCommand.self, BenchBrokerCommand.self,
            BenchAuthorityCommand.self,
        ])
}

struct BenchIngestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ingest",
        abstract: "Store signed statements as fast as it goes, and compare with bare verification.",
        discussion: """
            Statements are signed beforehand by several auditors and then go through decode, identify, verify, order \
            and commit (synchronous = FULL) in this process. In the same run, by turns, as many signatures are \
            verified bare on all cores. Nothing is left behind.

            EXAMPLES
              secure-mqtt bench ingest
              secure-mqtt bench ingest --records 2 --statements 50000 --json
            """)

    @Option(help: "Records in each statement; several, separated by commas.")
    var records = "1,2,4,16"

    @Option(help: "Statements in each round.")
    var statements = 20_000

    @Option(help: "Auditors that sign them.")
    var auditors = 16

    @Option(help: "Rounds of verifying and storing.")
    var rounds = 3

    @Option(help: "Where to put the databases; it should be on the disk that is to be measured.")
    var directory = FileManager.default.temporaryDirectory.path

    @Flag(help: "Print one JSON array on one line.")
    var json = false

    func validate() throws {
        guard let counts = self.counts, counts.allSatisfy({ (1...1_024).contains($0) }) else {
            throw ValidationError("--records takes numbers from 1 to 1024, such as 1,2,4,16")
        }
        guard self.statements >= 1, self.statements <= 5_000_000, (1...10_000).contains(self.auditors),
            (1...100).contains(self.rounds)
        else { throw ValidationError("--statements, --auditors and --rounds must be positive and sensible") }
    }

    private var counts: [Int]? {
        let counts = self.records.split(separator: ",").map { Int($0) }
        return counts.isEmpty || counts.contains(nil) ? nil : counts.compactMap { $0 }
    }

    func run() async throws {
        let folder = "\(self.directory)/secure-mqtt-bench-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var results: [IngestBenchmark.Result] = []
        let isQuiet = self.json
        for records in self.counts ?? [] {
            let benchmark = IngestBenchmark(
                records: records, statements: self.statements, auditors: self.auditors, rounds: self.rounds)
            results.append(
                try await benchmark.run(in: folder) { line in
                    guard !isQuiet else { return }
                    FileHandle.standardError.write(Data("\(line)\n".utf8))
                })
        }
        if self.json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys]
            print(String(decoding: try encoder.encode(results), as: UTF8.self))
        } else {
            print(IngestReport(results).text)
        }
    }
}

/// The results as a table for people.
private struct IngestReport {
    let text: String

    init(_ results: [IngestBenchmark.Result]) {
        var lines = [
            "records  bytes  verifies/s  statements/s  readings/s  ratio  ratio by CPU"
                + "  us: verify  ingest  (decode  verify  order  commit)  per commit"
        ]
        for result in results {
            func column(_ value: Double, _ width: Int, _ digits: Int = 0) -> String {
                let text = String(format: "%.\(digits)f", value)
                return String(repeating: " ", count: max(0, width - text.count)) + text
            }
            let rates =
                column(Double(result.records), 7) + column(Double(result.bytesPerStatement), 7)
                + column(result.verifiesPerSecond, 12) + column(result.statementsPerSecond, 14)
                + column(result.readingsPerSecond, 12) + column(result.ratio, 7, 2) + column(result.ratioByCPU, 14, 2)
            let costs =
                column(result.microsecondsToVerify, 12, 1) + column(result.microsecondsToIngest, 8, 1)
                + column(result.steps.decode, 10, 1) + column(result.steps.verify, 8, 1)
                + column(result.steps.order, 7, 1) + column(result.steps.commit, 8, 1)
                + column(result.statementsPerCommit, 13)
            lines.append(rates + costs)
        }
        if let first = results.first {
            lines.append("\(first.cores) cores, \(first.auditors) auditors; steps alone on one thread")
        }
        self.text = lines.joined(separator: "\n")
    }
}
