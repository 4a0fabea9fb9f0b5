import Foundation
import TestSupport
import Testing

/// kill -9 of every part at random moments of a replay, in the three shapes. At the end each reading is stored
/// exactly once, with exactly its digits.
@Suite struct CrashTests {
    /// How often a part is killed; `SECURE_MQTT_SOAK_MINUTES` asks for many more.
    private static let kills =
        ProcessInfo.processInfo.environment["SECURE_MQTT_SOAK_MINUTES"].flatMap { Int($0) }.map { max(20, $0 * 10) }
        ?? 4

    @Test(arguments: Plant.Shape.allCases.filter(\.isPossible))
    func `whatever is killed, each reading is stored exactly once`(shape: Plant.Shape) async throws {
        try await Self.replay(shape, losesWrites: false)
    }

    @Test(.enabled(if: LostWrites.isPossible), arguments: Plant.Shape.allCases.filter(\.isPossible))
    func `whatever is killed, and what it had not synced is gone, each reading is stored exactly once`(
        shape: Plant.Shape
    ) async throws {
        try await Self.replay(shape, losesWrites: true)
    }

    private static func replay(_ shape: Plant.Shape, losesWrites: Bool) async throws {
        let seed = UInt64.random(in: 1...UInt64.max)
        var random = SplitMix64(seed: seed)
        let readings = Readings(instants: 300 * Self.kills, seed: seed)
        let plant = try await Plant(shape, file: readings.file, losesWrites: losesWrites)
        try await plant.startAll()

        var kills: [Plant.Part] = []
        while kills.count < Self.kills, plant.process(.auditor)?.isRunning == true {
            // Not a wait for something: the moment of a crash is any.
            try await Task.sleep(for: .milliseconds(Int.random(in: 20...500, using: &random)))
            guard plant.process(.auditor)?.isRunning == true else { break }
            let part = shape.parts.randomElement(using: &random) ?? .auditor
            try await plant.crash(part)
            kills.append(part)
        }
        let auditor = try #require(plant.process(.auditor))
        let exit = try? await auditor.wait(within: .seconds(120))
        let story: Comment = "seed \(seed), killed \(kills.map(\.rawValue))\n\(plant.logs)"
        #expect(exit == .exited(0), story)
        #expect(try await plant.stop(), story)
        let stored = try plant.stored()
        #expect(stored.count == readings.expected.count, story)
        #expect(stored == readings.expected, story)
    }
}
