import Foundation
import TestSupport
import Testing

/// The commands that serve and query, with right and wrong input.
@Suite struct CommandLineTests {
    /// A command line, its exit status, and what its one line of error says.
    struct Mistake: Sendable, CustomTestStringConvertible {
        let arguments: [String]
        let status: Int32
        let says: String

        var testDescription: String { self.arguments.joined(separator: " ") }
    }

    private static let mistakes: [Mistake] = [
        Mistake(arguments: ["demo", "--input", "/nonexistent.csv"], status: 66, says: "cannot be opened"),
        Mistake(arguments: ["demo", "--auditors", "0"], status: 64, says: "give 1 to 500"),
        Mistake(arguments: ["demo", "--interval", "30x", "--input", "/dev/null"], status: 64, says: "30m"),
        Mistake(arguments: ["demo", "--log-level", "loud"], status: 64, says: "log-level"),
        Mistake(arguments: ["demo", "--unknown"], status: 64, says: "--unknown"),
        Mistake(arguments: ["demo", "--directory", "/"], status: 73, says: "was not made by a demo"),
        Mistake(arguments: ["serve", "--config", "/nonexistent"], status: 66, says: "secure-mqtt init"),
        Mistake(arguments: ["broker", "--config", "/nonexistent"], status: 66, says: "secure-mqtt init"),
        Mistake(arguments: ["broker", "--port", "1"], status: 64, says: "--development"),
        Mistake(arguments: ["broker", "--development", "--config", "x"], status: 64, says: "takes no --config"),
        Mistake(arguments: ["broker", "--development", "--port", "65536"], status: 64, says: "0 to 65535"),
        Mistake(arguments: ["broker", "--development", "--set", "maximum-qos"], status: 64, says: "name=value"),
        Mistake(
            arguments: ["broker", "--development", "--set", "broker.listen=::"], status: 64, says: "there are only"),
        Mistake(arguments: ["broker", "--development", "--set", "maximum-qos=3"], status: 78, says: "from 0 to 2"),
        Mistake(arguments: ["broker", "--development", "--set", "receive-maximum=0"], status: 78, says: "from 1"),
        Mistake(arguments: ["broker", "--development", "--set", "subscribe-deny=a#"], status: 78, says: "whole level"),
        Mistake(arguments: ["broker", "status", "--json", "--prometheus"], status: 64, says: "not both"),
        Mistake(arguments: ["broker", "status", "--key", "x"], status: 64, says: "go together"),
        Mistake(arguments: ["bench", "broker", "--qos", "0,7"], status: 64, says: "0, 1 and 2"),
        Mistake(arguments: ["bench", "broker", "--rounds", "0"], status: 64, says: "give 1 to 100"),
        Mistake(arguments: ["bench", "broker", "--only", "emqx"], status: 64, says: "mosquitto"),
        Mistake(arguments: ["control-center", "--set", "nonsense"], status: 64, says: "key=value"),
        Mistake(arguments: ["readings", "--store", "/nonexistent"], status: 73, says: "does not exist"),
        Mistake(arguments: ["readings", "--store", "/etc/passwd"], status: 65, says: "not a control center's"),
        Mistake(arguments: ["readings", "--store", "/etc/passwd", "--limit", "-1"], status: 64, says: "limit"),
        Mistake(arguments: ["readings", "--from", "yesterday"], status: 64, says: "2026-11-01"),
        Mistake(arguments: ["readings", "--quantity", "anger"], status: 64, says: "consumption"),
        Mistake(arguments: ["readings", "--quantity", "voltage/"], status: 64, says: "there is no such quantity"),
        Mistake(arguments: ["readings", "--auditor", "a b"], status: 64, says: "not an ID"),
        Mistake(arguments: ["readings", "--meter", "a+b"], status: 64, says: "not a meter's name"),
        Mistake(arguments: ["readings", "--format", "xml"], status: 64, says: "'csv'"),
        Mistake(
            arguments: ["pki", "revoke", "mona", "--reason", "boredom"], status: 64,
            says: "unspecified, keyCompromise, affiliationChanged"),
        Mistake(
            arguments: ["auditor", "run", "--simulate", "--column", "GC=power:kW"], status: 64, says: "of a file"),
        Mistake(
            arguments: ["auditor", "run", "--input", "x.csv", "--count", "3"], status: 64, says: "simulated home"),
        Mistake(
            arguments: ["migrate", "licore-db", "/dev/null", "--store", "/nonexistent/store.sqlite3"], status: 73,
            says: "does not exist"),
    ]

    @Test(arguments: Self.mistakes)
    func `a mistake is told in one line, with an exit status for scripts`(mistake: Mistake) async throws {
        let result = try await Program.run(mistake.arguments, directory: "/tmp")
        #expect(result.status == mistake.status, "\(result.errorOutput)")
        #expect(result.errorOutput.contains(mistake.says), "\(result.errorOutput)")
        #expect(result.errorOutput.split(separator: "\n").count == 1, "\(result.errorOutput)")
        #expect(result.output.isEmpty)
    }

    @Test func `what is stored can be queried while the server runs, and in every format`() async throws {
        let readings = Readings(instants: 20, seed: 1)
        let plant = try await Plant(.serve, file: readings.file)
        try await plant.startAll()
        #expect(try await plant.process(.auditor)?.wait() == .exited(0), "\(plant.logs)")
        let query = ["readings", "--config", "\(plant.site)/secure-mqtt.yaml"]

        let csv = try await Program.run(query + ["--format", "csv", "--quantity", "production"])
        let lines = csv.output.split(separator: "\n").map { $0.split(separator: ",").map(String.init) }
        #expect(lines.first?.prefix(7) == ["auditor", "meter", "quantity", "unit", "time", "interval", "exact"])
        #expect(
            lines.dropFirst().map { "\($0[2]) \($0[4]) \($0[6])" }
                == readings.expected.filter { $0.hasPrefix("production") })

        let json = try await Program.run(query + ["--format", "jsonl", "--limit", "3", "--auditor", Plant.auditor])
        let objects = try json.output.split(separator: "\n").map {
            try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
        }
        #expect(objects.count == 3)
        #expect(objects.allSatisfy { $0["exact"] is String && $0["disputed"] as? Bool == false })

        let day = try await Program.run(
            query + ["--from", "2023-11-14T22:30:00Z", "--to", "2023-11-14T23:00:00Z", "--format", "csv"])
        #expect(day.output.split(separator: "\n").count == 1 + 2 * 2, "\(day.output)")

        for count in ["0", "-5", "200000000"] {
            let simulated = try await Program.run([
                "auditor", "run", "--config", "\(plant.site)/auditors/\(Plant.auditor)/secure-mqtt.yaml", "--state",
                plant.folder.path("other"), "--simulate", "--count=\(count)",
            ])
            #expect(simulated.status == 64)
            #expect(simulated.errorOutput.contains("give 1 or more"), "\(simulated.errorOutput)")
        }

        let nobody = try await Program.run(query + ["--auditor", "nobody", "--format", "csv"])
        #expect(nobody.status == 0)
        #expect(nobody.output.split(separator: "\n").count == 1)

        // A second control center on the same store is refused.
        let second = try await Program.run([
            "serve", "--config", "\(plant.site)/secure-mqtt.yaml", "--set", "broker.port=0",
        ])
        #expect(second.status == 69)
        #expect(second.errorOutput.contains("in use by another process"))

        #expect(try await plant.stop(), "\(plant.logs)")
        // And when it does not run.
        let sums = try await Program.run(query + ["--sum", "--format", "csv"])
        #expect(sums.output.split(separator: "\n").count == 1 + 2)
    }

    @Test func `who is revoked is cut off within a second, and stores nothing more`() async throws {
        let plant = try await Plant(.serve, file: Readings(instants: 1, seed: 1).file)
        try await plant.start(.server)
        let server = try #require(plant.process(.server))
        // A home that lives now.
        let live = try Program.start([
            "auditor", "run", "--config", "\(plant.site)/auditors/\(Plant.auditor)/secure-mqtt.yaml", "--simulate",
        ])
        try await server.waitForOutput("/auditor/\(Plant.auditor) connected")
        let revoked = try await Program.run(["pki", "revoke", Plant.auditor, "--pki", "\(plant.site)/pki"])
        #expect(revoked.status == 0, "\(revoked.errorOutput)")
        try await server.waitForOutput("disconnected=1")
        try await server.waitForOutput("refused the handshake")
        live.kill()
        #expect(try await plant.stop())
    }
}
