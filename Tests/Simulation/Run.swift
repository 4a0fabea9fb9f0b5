import Foundation
import Telemetry
import Testing

/// Runs scenarios from seeds, and makes reports of what fails.
enum Run {
    struct Outcome {
        var steps = 0
        var fingerprint: UInt64 = 0
        var readings = 0
        var forks = 0
        /// Statements that were taken on the number of a hello.
        var onWord = 0
        var restarts = 0
        var renewals = 0
        /// By word, over all auditors.
        var alarms: [String: Int] = [:]
        var refusals: [Reason: Int] = [:]
        var appliedUpdates = 0
        var refusedUpdates = 0
        var report: Report?

        static func += (a: inout Outcome, b: Outcome) {
            a.steps += b.steps
            a.readings += b.readings
            a.forks += b.forks
            a.onWord += b.onWord
            a.restarts += b.restarts
            a.renewals += b.renewals
            a.alarms.merge(b.alarms, uniquingKeysWith: +)
            a.appliedUpdates += b.appliedUpdates
            a.refusedUpdates += b.refusedUpdates
            a.refusals.merge(b.refusals, uniquingKeysWith: +)
        }
    }

    /// Runs one seed.
    static func once(_ scenario: Scenario, seed: UInt64, cast: Cast) -> Outcome {
        let world = World(scenario, seed: seed, cast: cast, rates: scenario.rates)
        world.run()
        var outcome = Outcome(
            steps: world.step, fingerprint: world.trace.fingerprint,
            report: world.violation.map { Self.report($0, in: world, seed: seed) })
        outcome.readings = world.checker.center.readings.values.reduce(0) { $0 + $1.reduce(0, +) }
        outcome.forks = world.checker.center.forks
        outcome.onWord = world.checker.center.takenOnWord
        outcome.restarts = world.checker.center.restarts
        outcome.renewals = world.checker.renewals
        outcome.appliedUpdates = world.appliedUpdates.count
        outcome.refusedUpdates = world.refusedUpdates
        outcome.refusals = world.checker.center.refusals
        for auditor in world.auditors { outcome.alarms.merge(auditor.alarms, uniquingKeysWith: +) }
        return outcome
    }

    private static func report(_ violation: Violation, in world: World, seed: UInt64) -> Report {
        Report(
            scenario: world.scenario.name, seed: seed, step: world.step, violation: violation,
            kinds: world.faults.kinds, lines: world.trace.lines(startingAt: world.cast.start.nanoseconds))
    }

    /// Runs many seeds and stops at the first failure, which it makes as small as it can.
    static func many(_ scenario: Scenario, seeds: Range<UInt64>) throws -> Outcome {
        if let minutes = Self.soakMinutes { return try Self.soak(scenario, minutes: minutes) }
        let cast = try Cast.shared.get()
        var total = Outcome()
        for seed in Self.chosen(seeds) {
            let outcome = Self.once(scenario, seed: seed, cast: cast)
            total += outcome
            if let report = outcome.report {
                total.report = Self.smaller(report, scenario, seed: seed, cast: cast)
                return total
            }
        }
        return total
    }

    /// How many scenarios share the minutes of a soak, two at a time.
    private static let scenarios = 14.0

    /// New seeds for so long; the only thing here that knows the real time.
    private static func soak(_ scenario: Scenario, minutes: Double) throws -> Outcome {
        let cast = try Cast.shared.get()
        var total = Outcome()
        let clock = ContinuousClock()
        let end = clock.now + .seconds(minutes * 60 * 2 / Self.scenarios)
        var seed = UInt64.random(in: 0..<1 << 40)
        while clock.now < end {
            let outcome = Self.once(scenario, seed: seed, cast: cast)
            total += outcome
            if let report = outcome.report {
                total.report = Self.smaller(report, scenario, seed: seed, cast: cast)
                return total
            }
            seed += 1
        }
        return total
    }

    /// Leaves out kinds of faults and time, one after the other, as long as something still fails.
    static func smaller(_ report: Report, _ scenario: Scenario, seed: UInt64, cast: Cast) -> Report {
        var scenario = scenario
        var best = report
        func fails(_ candidate: Scenario) -> Report? {
            let world = World(candidate, seed: seed, cast: cast, rates: candidate.rates)
            world.run()
            return world.violation.map { violation in
                var report = Self.report(violation, in: world, seed: seed)
                report.kinds = Faults.Kind.allCases.filter { candidate.rates[$0] ?? 0 > 0 }
                return report
            }
        }
        for kind in Faults.Kind.allCases where scenario.rates[kind] != nil {
            var candidate = scenario
            candidate.rates[kind] = nil
            if let report = fails(candidate) { (scenario, best) = (candidate, report) }
        }
        if scenario.auditors > 1 {
            var candidate = scenario
            candidate.auditors = 1
            if let report = fails(candidate) { (scenario, best) = (candidate, report) }
        }
        while scenario.chaos > .seconds(20) {
            var candidate = scenario
            candidate.chaos = scenario.chaos * 3 / 4
            guard let report = fails(candidate) else { break }
            (scenario, best) = (candidate, report)
        }
        best.kinds = Faults.Kind.allCases.filter { scenario.rates[$0] ?? 0 > 0 }
        return best
    }

    /// `SECURE_MQTT_SEED` chooses one.
    private static func chosen(_ seeds: Range<UInt64>) -> [UInt64] {
        if let text = ProcessInfo.processInfo.environment["SECURE_MQTT_SEED"], let seed = UInt64(text) { return [seed] }
        return Array(seeds)
    }

    /// How long a soak takes, in minutes; nil for none. `SECURE_MQTT_SOAK_MINUTES`.
    static var soakMinutes: Double? {
        ProcessInfo.processInfo.environment["SECURE_MQTT_SOAK_MINUTES"].flatMap { Double($0) }
    }
}
