import Foundation
import TestSupport
import Testing

/// What happens to auditors whose state directory is not what it was.
@Suite struct StateTests {
    private static func copy(_ from: String, to target: String) throws {
        try? FileManager.default.removeItem(atPath: target)
        try FileManager.default.copyItem(atPath: from, toPath: target)
    }

    @Test func `an old image of the state directory is recognised, a new stream opened, nothing lost`() async throws {
        let first = Readings(instants: 40, seed: 3)
        let plant = try await Plant(.serve, file: first.file, speed: "9000")
        let state = "\(plant.site)/auditors/\(Plant.auditor)/state"
        try await plant.startAll()
        let auditor = try #require(plant.process(.auditor))
        // An image from the middle of its life, which has seconds to go when the first statements are stored.
        try await plant.waitFor(1, "SELECT count(*) FROM statement")
        auditor.kill()
        try await auditor.wait()
        try Self.copy(state, to: plant.folder.path("image"))
        try await plant.start(.auditor)
        #expect(try await plant.process(.auditor)?.wait() == .exited(0), "\(plant.logs)")
        #expect(try plant.stored() == first.expected)

        try Self.copy(plant.folder.path("image"), to: state)
        try await plant.start(.auditor)
        #expect(try await plant.process(.auditor)?.wait() == .exited(0), "\(plant.logs)")
        // What the image had not read yet comes again, in a stream of its own: nothing is lost or disputed in silence.
        let stored = try plant.stored()
        #expect(Set(stored) == Set(first.expected))
        #expect(try plant.query("SELECT count(*) FROM stream", as: Int.self) == 2, "\(plant.logs)")
        #expect(try plant.query("SELECT count(*) FROM alarm WHERE kind = 'stream-restart'", as: Int.self) == 1)
        #expect(try await plant.stop())
    }

    @Test func `a state directory that was copied and runs twice is found out`() async throws {
        let readings = Readings(instants: 40, seed: 4)
        let plant = try await Plant(.serve, file: readings.file, speed: "9000")
        let state = "\(plant.site)/auditors/\(Plant.auditor)/state"
        try await plant.startAll()
        let auditor = try #require(plant.process(.auditor))
        try await plant.waitFor(1, "SELECT count(*) FROM statement")
        auditor.kill()
        try await auditor.wait()
        let twin = plant.folder.path("twin")
        try Self.copy(state, to: twin)

        func run(_ state: String) async throws -> Program.Result {
            try await Program.run([
                "auditor", "run", "--config", "\(plant.site)/auditors/\(Plant.auditor)/secure-mqtt.yaml", "--state",
                state, "--input", plant.folder.path("readings.csv"), "--exit",
            ])
        }
        #expect(try await run(state).status == 0, "\(plant.logs)")
        #expect(try await run(twin).status == 0, "\(plant.logs)")
        #expect(Set(try plant.stored()) == Set(readings.expected))
        let alarms = "SELECT count(*) FROM alarm WHERE kind IN ('stream-restart', 'fork')"
        #expect(try plant.query(alarms, as: Int.self) ?? 0 >= 1, "\(plant.logs)")
        #expect(try await plant.stop())
    }

    @Test func `one state directory is for one process`() async throws {
        let plant = try await Plant(.serve, file: Readings(instants: 1, seed: 5).file)
        let configuration = "\(plant.site)/auditors/\(Plant.auditor)/secure-mqtt.yaml"
        let first = try Program.start(["auditor", "run", "--config", configuration, "--simulate"])
        try await withDeadline(.seconds(20), "the outbox is there") { [site = plant.site] in
            let path = "\(site)/auditors/\(Plant.auditor)/state/outbox.sqlite"
            while !FileManager.default.fileExists(atPath: path) { try await Task.sleep(for: .milliseconds(10)) }
        }
        let second = try await Program.run(["auditor", "run", "--config", configuration, "--simulate"])
        #expect(second.status != 0)
        #expect(second.errorOutput.split(separator: "\n").count == 1, "\(second.errorOutput)")
        first.send(signal: SIGTERM)
        #expect(try await first.wait() == .exited(0), "\(first.errorOutput)")
    }
}
