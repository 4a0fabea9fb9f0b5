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

        // The control center is away, the auditor is not: it says hello again when the other tells its keys.
        if shape != .serve, let center = plant.process(.controlCenter) {
            center.send(signal: SIGTERM)
            try await center.wait()
            _ = try await Self.operate(plant, ["update", Plant.auditor, "LOG_LEVEL", "info"])
            try await plant.start(.controlCenter)
            try await plant.waitFor(4, applied, within: .seconds(90))
        }

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

    /// Publishes as the control center: with its certificate.
    private static func publish(_ plant: Plant, _ topic: String, _ bytes: Data, _ more: String...) async throws {
        let file = plant.folder.path("message")
        try bytes.write(to: URL(fileURLWithPath: file))
        let center = "\(plant.site)/control-center/control-center"
        let process = try ChildProcess(
            "mosquitto_pub",
            [
                "-h", "127.0.0.1", "-p", "\(plant.port)", "-V", "5", "--cafile", "\(plant.site)/pki/root.pem", "--cert",
                "\(center).pem", "--key", "\(center).key", "-q", "1", "-t", topic, "-f", file,
            ] + more)
        #expect(try await process.wait() == .exited(0), "\(topic): \(process.errorOutput)")
    }

    private static func parameters(_ plant: Plant) async throws -> String {
        let status = try await Program.run([
            "auditor", "status", "--state", "\(plant.site)/auditors/\(Plant.auditor)/state", "--json",
        ])
        return status.output
    }

    @Test(
        "what comes again, altered, elsewhere, as text, or to an old image changes nothing, and is reported",
        .enabled(if: ChildProcess.find("mosquitto_pub") != nil),
        arguments: [Plant.Shape.brokerAndControlCenter, .mosquitto].filter(\.isPossible))
    func replayed(_ shape: Plant.Shape) async throws {
        let plant = try await Plant(shape, file: "")
        for part in shape.parts where part != .auditor { try await plant.start(part) }
        var home = try Self.startHome(plant)
        try await plant.waitFor(1, "SELECT count(*) FROM auditor WHERE id = '\(Plant.auditor)'")
        home.send(signal: SIGTERM)
        try await home.wait()
        let state = "\(plant.site)/auditors/\(Plant.auditor)/state"
        try FileManager.default.copyItem(atPath: state, toPath: plant.folder.path("image"))
        home = try Self.startHome(plant)
        for (number, rate) in [(1, "0.5"), (2, "5")] {
            _ = try await Self.operate(plant, ["update", Plant.auditor, "SAMPLE_RATE", rate])
            try await plant.waitFor(number, "SELECT count(*) FROM update_request WHERE state = 'applied'")
        }
        let bytes = try #require(
            try plant.query("SELECT bytes FROM update_message ORDER BY sequence LIMIT 1", as: Data.self))
        let center = try #require(plant.process(.controlCenter))
        center.send(signal: SIGTERM)
        #expect(try await center.wait() == .exited(0))

        let topic = "control_center/updates/\(Plant.auditor)/center-1"
        var altered = bytes
        altered[altered.count - 1] ^= 1
        try await Self.publish(plant, "\(topic)/SAMPLE_RATE", bytes)
        try await Self.publish(plant, "\(topic)/SAMPLE_RATE", altered)
        try await Self.publish(plant, "\(topic)/LOG_LEVEL", bytes)
        try await Self.publish(plant, "\(topic)/SAMPLE_RATE", Data("0.2||3045".utf8))
        for word in ["signature: ", "topic: ", "format: "] { try await home.waitForOutput(word) }
        #expect(try await Self.parameters(plant).contains("\"SAMPLE_RATE\":\"5\""))

        // The card as it was before.
        home.kill()
        try await home.wait()
        try FileManager.default.removeItem(atPath: state)
        try FileManager.default.copyItem(atPath: plant.folder.path("image"), toPath: state)
        home = try Self.startHome(plant)
        try await home.waitForOutput("session-present")
        try await Self.publish(plant, "\(topic)/SAMPLE_RATE", bytes)
        try await home.waitForOutput("nonce: ")
        #expect(try await Self.parameters(plant).contains("\"parameters\":{}"))

        // The control center hears of it: a signed result, and an alert.
        try await plant.start(.controlCenter)
        try await plant.waitFor(3, "SELECT count(*) FROM statement WHERE kind = 'result'", within: .seconds(90))
        try await plant.waitFor(
            1, "SELECT count(*) FROM auditor_alert WHERE word = 'update-refused' AND text LIKE '%nonce: %'")
        try await plant.waitFor(1, "SELECT count(*) FROM alert WHERE rule = 'auditor'")
        try await plant.waitFor(1, "SELECT count(*) FROM alert WHERE rule = 'stream-restart'")
        let alerts = try await Self.operate(plant, ["alerts", "--open"])
        #expect(alerts.contains("\t\(Plant.auditor)\tauditor: update-refused\t"), "\(alerts)")
        home.kill()
        try await home.wait()
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

    @Test("an auditor in the original's format is updated in that, and never by a signed message of ours")
    func original() async throws {
        let plant = try await Plant(.serve, file: "")
        let original = try await OriginalAuthority(clients: ["lena"])
        _ = try await Self.operate(
            plant,
            [
                "fleet", "allow", "lena", "--certificate", original.certificateFile("lena"), "--controller", "center-1",
                "--time-zone", "UTC", "--until", "2099-12-31",
            ])
        try await plant.start(.server)
        let home = try Self.startHome(plant)
        try await plant.waitFor(1, "SELECT count(*) FROM auditor WHERE id = '\(Plant.auditor)'")
        let one = try await Self.operate(plant, ["update", "lena", "SAMPLE_RATE", "0.2"])
        #expect(one.contains("in the original's form"), "\(one)")
        let both = try await Self.operate(plant, ["update", "--all", "SAMPLE_RATE", "0.5", "--json"])
        #expect(both.contains("\"licore\":[2]") && both.contains("\"numbers\":[1]"), "\(both)")
        try await plant.waitFor(2, "SELECT count(*) FROM licore_update WHERE outcome = 'published'")
        try await plant.waitFor(1, "SELECT count(*) FROM update_request WHERE state = 'applied'")
        #expect(
            try plant.query("SELECT count(*) FROM update_request WHERE auditor LIKE '%lena%'", as: Int.self) == 0)
        let table = try await Self.operate(plant, ["updates"])
        #expect(table.contains("2\tlena\tSAMPLE_RATE\t0.5\tpublished"), "\(table)")
        #expect(table.contains("1\t\(Plant.auditor)\tSAMPLE_RATE\t0.5 s\tapplied"), "\(table)")
        let listing = try await Self.operate(plant, ["updates", "--json"])
        #expect(listing.contains("\"state\":\"published\""), "\(listing)")
        let config = ["--config", "\(plant.site)/secure-mqtt.yaml"]
        for arguments in [["update", "lena", "LOG_LEVEL", "debug"], ["alert", "send", "lena", "hello"]] {
            let result = try await Program.run(arguments + config)
            #expect(result.status == 64, "\(arguments): \(result)")
            #expect(result.errorOutput.contains("original's format"), "\(result)")
        }
        home.kill()
        try await home.wait()
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
        for (setting, says) in [
            ("alerts.no-data-after=5", "35m"), ("alerts.ranges=volts=1..2", "voltage=195..255"),
            ("alerts.night=22", "22:00-04:00"), ("alerts.utc-offset=+01:00", "alerts.night, which is missing"),
            ("alerts.webhook=ftp://x", "https://"), ("alerts.webhook=http://energy.example/x", "https://"),
            ("alerts.ranges=power=0..inf", "voltage=195..255"), ("alerts.ranges=voltage=0..1e300", "voltage=195..255"),
            ("alerts.webhook-secret=/x", "alerts.webhook, which is missing"),
            ("alerts.mail-security=ssl", "alerts.mail-host, which is missing"), ("alerts.mail-host=x", "mail-to"),
        ] {
            let result = try await Program.run(["control-center", "--set", setting] + config)
            #expect(result.status == 78, "\(setting): \(result)")
            #expect(result.errorOutput.contains(says), "\(result)")
            #expect(result.errorOutput.split(separator: "\n").count == 1, "\(result)")
        }
        // Not running: it is queued, and said.
        let late = try await Program.run(["update", Plant.auditor, "SAMPLE_RATE", "1"] + config)
        #expect(late.status == 0)
        #expect(late.errorOutput.contains("does not run at the moment"), "\(late)")
        #expect(try plant.query("SELECT state FROM update_request") == "queued")
        let many = (1...65).map { "a\($0)" }.joined(separator: ",")
        let tooMany = try await Program.run(["update", Plant.auditor, "METERS_ENABLED", many] + config)
        #expect(tooMany.status == 64, "\(tooMany)")
        // What would command the terminal is shown as what it is not.
        let group = try await Program.run(
            ["update", Plant.auditor, "SAMPLE_RATE", "2", "--group", "\u{1B}[2Jred"] + config)
        #expect(group.status == 0, "\(group)")
        let table = try await Self.operate(plant, ["updates"])
        #expect(table.contains("\u{FFFD}[2Jred") && !table.contains("\u{1B}"), "\(table)")
        #expect(table.contains("superseded by 2"), "\(table)")
        _ = try await Self.operate(plant, ["update", "--cancel", "2"])
        let again = try await Program.run(["update", "--cancel", "2"] + config)
        #expect(again.status == 65 && again.errorOutput.contains("no update 2"), "\(again)")
    }
}
