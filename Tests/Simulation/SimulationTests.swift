import Telemetry
import Testing

/// The whole system in one thread, many times: see `World`. What must hold is checked at every step, see `Checker`
/// and `Violation.Property`.
@Suite("The whole system, from a seed")
struct SimulationTests {
    /// Everything that honest parts and a bad network can do.
    static let weather: [Faults.Kind: Double] = [
        .disconnect: 0.01, .slowNetwork: 0.01, .brokerDrop: 0.03, .brokerDuplicate: 0.03, .brokerReorder: 0.02,
        .brokerDelay: 0.02,
        .auditorCrash: 0.004, .centerCrash: 0.004, .brokerCrash: 0.002, .sessionLoss: 0.3, .diskFull: 0.003,
    ]

    static let hostility: [Faults.Kind: Double] = [
        .tamper: 0.1, .replay: 0.1, .misdirect: 0.05, .forge: 0.05, .brokerDrop: 0.05, .brokerDuplicate: 0.05,
        .brokerReorder: 0.1, .brokerDelay: 0.03,
    ]

    @Test("Every reading is stored exactly once, whatever the network drops and whoever crashes")
    func weather() throws {
        let outcome = try Self.passes(Scenario("weather", rates: Self.weather), seeds: 0..<40)
        #expect(outcome.restarts == 0)
        #expect(outcome.forks == 0)
        #expect(outcome.alarms["outbox-write"] ?? 0 > 0)
    }

    @Test("It is the same when control center and broker are one process")
    func inProcess() throws {
        var scenario = Scenario("in one process", rates: Self.weather)
        scenario.shape = .withholding
        scenario.rates[.brokerDrop] = nil
        scenario.rates[.brokerDuplicate] = nil
        scenario.rates[.brokerReorder] = nil
        scenario.rates[.brokerDelay] = nil
        let outcome = try Self.passes(scenario, seeds: 0..<20)
        #expect(outcome.restarts == 0)
        #expect(outcome.forks == 0)
    }

    @Test("A broker that forges, tampers, replays and misdirects changes nothing")
    func hostileBroker() throws {
        let outcome = try Self.passes(Scenario("hostile broker", rates: Self.hostility), seeds: 0..<12)
        let words: [Reason] = [
            .tooLarge, .format, .notCanonical, .topic, .retained, .issuer, .role, .signature, .certificateUnknown,
        ]
        for word in words { #expect(outcome.refusals[word] ?? 0 > 0, "no message was refused with \(word)") }
        #expect(outcome.restarts == 0)
        #expect(outcome.forks == 0)
    }

    @Test("A hostile broker in bad weather changes nothing either")
    func hostileWeather() throws {
        let rates = Self.weather.merging(Self.hostility) { max($0, $1) }
        let outcome = try Self.passes(Scenario("hostile broker, bad weather", rates: rates), seeds: 0..<15)
        #expect(outcome.restarts == 0)
        #expect(outcome.forks == 0)
    }

    @Test("Receipts that wait for a full disk do not fill the window for ever")
    func receiptsWaitingForDisk() throws {
        // Found by a soak: messages sent again while their receipt was on its way to a full disk.
        let rates = Self.weather.merging(Self.hostility) { max($0, $1) }
        try Self.passes(Scenario("hostile broker, bad weather", rates: rates), seeds: 174_551_481_461..<174_551_481_462)
    }

    @Test("A restored old image opens a new stream and loses nothing")
    func rollback() throws {
        let outcome = try Self.passes(Scenario("old card", rates: [.rollback: 0.004]), seeds: 0..<15)
        #expect(outcome.restarts > 0)
        #expect(outcome.alarms["rolled-back"] ?? 0 > 0)
        #expect(outcome.alarms["stream-restart"] ?? 0 > 0)
    }

    @Test("It loses nothing in bad weather either")
    func rollbackInWeather() throws {
        var rates = Self.weather
        rates[.rollback] = 0.004
        let outcome = try Self.passes(Scenario("old card, bad weather", rates: rates), seeds: 0..<20)
        #expect(outcome.restarts > 0)
    }

    @Test("Two copies of one auditor leave a fork as evidence")
    func copies() throws {
        var scenario = Scenario("copied card", rates: [.clone: 0.01, .brokerDelay: 0.05, .disconnect: 0.02])
        scenario.streamsPerHour = 60
        let outcome = try Self.passes(scenario, seeds: 0..<6)
        #expect(outcome.forks > 0)
        #expect(outcome.restarts > 0)
    }

    @Test("A control center that is restored from a backup gets everything again")
    func restore() throws {
        var scenario = Scenario("old backup", rates: [.centerRestore: 0.003])
        scenario.ringBytes = 1 << 30
        let outcome = try Self.passes(scenario, seeds: 0..<15)
        #expect(outcome.alarms["control-center-restored"] ?? 0 > 0)
    }

    @Test("It gets everything again in bad weather and from a hostile broker, too")
    func restoreInWeather() throws {
        var scenario = Scenario(
            "old backup, bad weather", rates: Self.weather.merging(Self.hostility) { max($0, $1) })
        scenario.rates[.centerRestore] = 0.003
        scenario.ringBytes = 1 << 30
        let outcome = try Self.passes(scenario, seeds: 0..<15)
        #expect(outcome.alarms["control-center-restored"] ?? 0 > 0)
        #expect(outcome.restarts == 0)
        #expect(outcome.forks == 0)
    }

    /// Certificates that live for a few minutes, and are exchanged at random, some too late.
    private static func lives(_ name: String, _ rates: [Faults.Kind: Double]) -> Scenario {
        var scenario = Scenario(name, rates: rates)
        scenario.auditors = 3
        scenario.lifetime = 200
        scenario.rates[.renewal] = 0.006
        return scenario
    }

    @Test("Certificates that are renewed, in time or too late, lose nothing and double nothing")
    func renewals() throws {
        let outcome = try Self.passes(Self.lives("renewals", [.disconnect: 0.005]), seeds: 0..<20)
        #expect(outcome.renewals > 100)
        #expect(outcome.onWord > 0)
        #expect(outcome.refusals[.expired] ?? 0 > 0)
        #expect(outcome.restarts == 0)
        #expect(outcome.forks == 0)
    }

    @Test("It is the same in bad weather")
    func renewalsInWeather() throws {
        let outcome = try Self.passes(Self.lives("renewals, bad weather", Self.weather), seeds: 0..<20)
        #expect(outcome.refusals[.expired] ?? 0 > 0)
        #expect(outcome.restarts == 0)
        #expect(outcome.forks == 0)
    }

    @Test("Nothing of a revoked auditor is stored from then on; invited anew, it has lost nothing")
    func revocations() throws {
        var rates = Self.weather
        rates[.revocation] = 0.003
        let outcome = try Self.passes(Self.lives("revocations, bad weather", rates), seeds: 0..<20)
        #expect(outcome.refusals[.revoked] ?? 0 > 0)
        #expect(outcome.alarms["revoked"] ?? 0 > 0)
        #expect(outcome.alarms["dead-letter"] ?? 0 == 0)
        #expect(outcome.forks == 0)
    }

    @Test("Nothing is lost when everything goes wrong at once")
    func everything() throws {
        var scenario = Scenario(
            "everything", rates: Self.weather.merging(Self.hostility) { max($0, $1) })
        scenario.auditors = 3
        scenario.rates[.rollback] = 0.002
        scenario.rates[.clone] = 0.002
        scenario.streamsPerHour = 60
        let outcome = try Self.passes(scenario, seeds: 0..<8)
        #expect(outcome.restarts > 0)
    }

    @Test("An update is applied once at most, and never an old one, whatever crashes and whoever replays")
    func updates() throws {
        var scenario = Scenario("updates", rates: Self.weather.merging(Self.hostility) { max($0, $1) })
        scenario.updates = true
        let outcome = try Self.passes(scenario, seeds: 0..<15)
        #expect(outcome.appliedUpdates > 300)
        #expect(outcome.refusedUpdates > 0)
        #expect(outcome.restarts == 0)
        #expect(outcome.forks == 0)
    }

    @Test("An old card gets what its owner had been told, and nothing from before its hello")
    func updatesOfOldCards() throws {
        var scenario = Scenario("updates, old card", rates: Self.weather)
        scenario.rates[.rollback] = 0.004
        scenario.updates = true
        let outcome = try Self.passes(scenario, seeds: 0..<10)
        #expect(outcome.appliedUpdates > 200)
        #expect(outcome.restarts > 0)
    }

    @Test("A seed is a run: twice the same events at the same times")
    func deterministic() throws {
        let cast = try Cast.shared.get()
        var rates = Self.weather.merging(Self.hostility) { max($0, $1) }
        rates[.rollback] = 0.004
        let scenario = Scenario("twice", rates: rates)
        for seed in 0..<4 as Range<UInt64> {
            let first = Run.once(scenario, seed: seed, cast: cast)
            let second = Run.once(scenario, seed: seed, cast: cast)
            #expect(first.steps == second.steps)
            #expect(first.fingerprint == second.fingerprint)
            #expect(Run.once(scenario, seed: seed + 100, cast: cast).fingerprint != first.fingerprint)
        }
    }

    @Test(
        "The checker finds what is built wrong",
        arguments: [
            (Scenario.Bug.receiptBeforeCommit, [Violation.Property.committedBeforeReceipt]),
            (.settleBeforeCommit, [.committedBeforeSettled]),
            (.publishBeforeCommit, [.committedBeforePublish]),
            (.forgetOnPuback, [.storedBeforeForgotten]),
            (.centerDiskLies, [.committedBeforeReceipt, .committedBeforeSettled]),
            (.auditorDiskLies, [.committedBeforePublish, .oneMessageForANumber]),
            (.digitsChanged, [.storedAsProduced]),
            (.storedTwice, [.storedOnce, .orderAsCounted]),
        ])
    func findsBugs(bug: Scenario.Bug, properties: [Violation.Property]) throws {
        var scenario = Scenario("a mistake", rates: Self.weather)
        scenario.bug = bug
        let cast = try Cast.shared.get()
        let reports = (0..<5).compactMap { Run.once(scenario, seed: $0, cast: cast).report }
        #expect(!reports.isEmpty)
        for report in reports {
            #expect(properties.contains(report.violation.property), "\(report)")
        }
    }

    @Test("The report of a failure names the seed, the step and the faults that it needs")
    func report() throws {
        var scenario = Scenario("a mistake", rates: Self.weather)
        scenario.bug = .forgetOnPuback
        let cast = try Cast.shared.get()
        let first = try #require((0..<5).lazy.compactMap { Run.once(scenario, seed: $0, cast: cast).report }.first)
        let small = Run.smaller(first, scenario, seed: first.seed, cast: cast)
        #expect(small.kinds.count < first.kinds.count)
        #expect(small.description.contains("SECURE_MQTT_SEED=\(first.seed)"))
        #expect(!small.lines.isEmpty)
    }

    @discardableResult
    private static func passes(_ scenario: Scenario, seeds: Range<UInt64>) throws -> Run.Outcome {
        let outcome = try Run.many(scenario, seeds: seeds)
        if let report = outcome.report { Issue.record("\(report)") }
        #expect(outcome.readings > 0)
        return outcome
    }
}
