import Foundation
import TestSupport
import Testing

/// Updates and alerts as operators send them, to auditors as processes, through every kind of broker.
@Suite(.timeLimit(.minutes(5))) struct UpdateTests {
    private static func operate(_ plant: Plant, _ arguments: [String]) async throws -> String {
        let result = try await Program.run(arguments + ["--config", "\(plant.site)/secure-mqtt.yaml"])
        guard result.status == 0 else { throw PlantError(description: result.errorOutput) }
        return result.output
    }

    /// A simulated home that lives now, and is read once an hour until it is told otherwise.
    private static func startHome(_ plant: Plant) throws -> ChildProcess {
        try Program.start([
            "auditor", "run", "--config", "\(plant.site)/auditors/\(Plant.auditor)/secure-mqtt.yaml", "--simulate",
            "--interval", "1h",
        ])
    }

    @Test(
        "an update reaches an auditor that is there, and one that comes later; readings arrive at the new rate",
        arguments: Plant.Shape.allCases.filter(\.isPossible))
    func update(_ shape: Plant.Shape) async throws {
        let plant = try await Plant(shape, file: "")
        for part in shape.parts where part != .auditor { try await plant.start(part) }
        var home = try Self.startHome(plant)
        try await plant.waitFor(1, "SELECT count(*) FROM auditor WHERE id = '\(Plant.auditor)'")
        _ = try await Self.operate(plant, ["update", Plant.auditor, "STATEMENT_INTERVAL", "0"])
        _ = try await Self.operate(plant, ["update", Plant.auditor, "SAMPLE_RATE", "0.2", "--group", "fast"])
        let applied = "SELECT count(*) FROM update_request WHERE state = 'applied'"
        try await plant.waitFor(2, applied)
        // Readings of 0.2 s that were made after the update arrived: the home has lived for less than an hour.
        try await plant.waitFor(20, "SELECT count(*) FROM readings WHERE interval = 0.2")
        // The signed result is a statement like any other, and linked.
        #expect(
            try plant.query(
                """
                SELECT count(*) FROM update_message JOIN statement ON statement.leaf_index = update_message.result
                WHERE statement.kind = 'result'
                """, as: Int.self) == 2)
        #expect(try plant.query("SELECT value_now FROM update_request WHERE parameter = 'SAMPLE_RATE'") == "0.2")

        _ = try await Self.operate(plant, ["alert", "send", Plant.auditor, "the grid is switched off"])
        _ = try await Self.operate(plant, ["alert", "send", "--all", "for everybody"])
        try await plant.waitFor(2, "SELECT count(*) FROM outgoing_alert_shown")

        // Away: what is asked for waits.
        home.kill()
        try await home.wait()
        _ = try await Self.operate(plant, ["update", Plant.auditor, "SAMPLE_RATE", "0.5", "--group", "slower"])
        #expect(try plant.query(applied, as: Int.self) == 2)
        home = try Self.startHome(plant)
        try await plant.waitFor(3, applied)
        try await plant.waitFor(5, "SELECT count(*) FROM readings WHERE interval = 0.5")

        let listing = try await Self.operate(plant, ["updates", "--json"])
        #expect(listing.contains("\"group\":\"slower\""))
        #expect(listing.contains("\"applied\":1"))
        let table = try await Self.operate(plant, ["updates"])
        #expect(table.contains("1 of 1"), "\(table)")

        home.send(signal: SIGTERM)
        #expect(try await home.wait() == .exited(0), "\(home.errorOutput.suffix(2_000))")
        let status = try await Program.run([
            "auditor", "status", "--state", "\(plant.site)/auditors/\(Plant.auditor)/state", "--json",
        ])
        #expect(status.output.contains("\"SAMPLE_RATE\":\"0.5\""), "\(status)")
        #expect(status.output.contains("the grid is switched off"))
        let parameters = try await Program.run([
            "auditor", "parameters", "--state", "\(plant.site)/auditors/\(Plant.auditor)/state",
        ])
        #expect(parameters.output.contains("SAMPLE_RATE\ts\t0.05 to 86400 s\t0.5"), "\(parameters)")
        #expect(try await plant.stop(), "\(plant.logs)")
    }

    @Test("a replayed file is sent at the rate that an update says")
    func replay() async throws {
        // A quarter of an hour each second: 300 of them would take five minutes.
        let readings = Readings(instants: 2_000, seed: 3)
        let plant = try await Plant(.serve, file: readings.file, speed: "900")
        try await plant.startAll()
        try await plant.waitFor(1, "SELECT count(*) FROM auditor WHERE id = '\(Plant.auditor)'")
        _ = try await Self.operate(plant, ["update", Plant.auditor, "SAMPLE_RATE", "0.05"])
        try await plant.waitFor(600, "SELECT count(*) FROM readings")
        #expect(try Set(plant.stored()).isSubset(of: readings.expected))
        plant.process(.auditor)?.kill()
        #expect(try await plant.stop(), "\(plant.logs)")
    }

    @Test("what is wrong is told in one line, before anything is queued")
    func mistakes() async throws {
        let plant = try await Plant(.serve, file: "")
        let config = ["--config", "\(plant.site)/secure-mqtt.yaml"]
        let early = try await Program.run(["update", "x", "SAMPLE_RATE", "1"] + config)
        #expect(early.status != 0)
        #expect(early.errorOutput.contains("when the control center first runs"), "\(early.errorOutput)")
        try await plant.start(.server)
        let home = try Self.startHome(plant)
        try await plant.waitFor(1, "SELECT count(*) FROM auditor WHERE id = '\(Plant.auditor)'")
        for value in ["nan", "-1", "1e300", "0.01", "86401", ""] {
            // Behind --, what begins with a hyphen is a value.
            let result = try await Program.run(["update"] + config + ["--", Plant.auditor, "SAMPLE_RATE", value])
            #expect(result.status == 64, "\(value): \(result)")
            #expect(result.errorOutput.contains("0.05 to 86400 s"), "\(result)")
            #expect(result.errorOutput.split(separator: "\n").count == 1)
        }
        for arguments in [
            ["nobody", "SAMPLE_RATE", "1"], [Plant.auditor, "MAX_POWER", "1"], ["SAMPLE_RATE", "1"],
            [Plant.auditor, "SAMPLE_RATE", "1", "--expires", "soon"], ["--all", Plant.auditor, "SAMPLE_RATE", "1"],
        ] {
            let result = try await Program.run(["update"] + arguments + config)
            #expect(result.status == 64, "\(arguments): \(result)")
            #expect(result.errorOutput.split(separator: "\n").count == 1, "\(result)")
        }
        #expect(try plant.query("SELECT count(*) FROM update_request", as: Int.self) == 0)
        home.kill()
        try await home.wait()
        #expect(try await plant.stop(), "\(plant.logs)")
        // Not running: it is queued, and said.
        let late = try await Program.run(["update", Plant.auditor, "SAMPLE_RATE", "1"] + config)
        #expect(late.status == 0)
        #expect(late.errorOutput.contains("does not run at the moment"), "\(late)")
        #expect(try plant.query("SELECT state FROM update_request") == "queued")
    }
}
