import ControlCenter
import Identity
import Telemetry
import Testing

@Suite("Alert rules, on replayed data") struct AlertWatchTests {
    private static let second: Int64 = 1_000_000_000
    private static let minute: Int64 = 60 * second
    /// 2025-06-02, 12:00 UTC.
    private static let noon = Timestamp(seconds: 1_748_865_600)

    /// A watch and its clock; what it said, in words.
    private struct Replay {
        var watch: AlertWatch
        var now = AlertWatchTests.noon
        var said: [String] = []

        init(_ change: (inout AlertRules) -> Void = { _ in }) {
            var rules = AlertRules()
            change(&rules)
            self.watch = AlertWatch(rules: rules)
        }

        mutating func take(_ event: WatchEvent) {
            self.watch.take(event, at: self.now)
            self.look()
        }

        /// Says for long enough that it is over.
        mutating func end(_ event: (Self) throws -> WatchEvent) rethrows {
            for _ in 0..<8 {
                self.take(try event(self))
                self.pass(4 * AlertWatchTests.minute)
            }
        }

        mutating func pass(_ nanoseconds: Int64, every step: Int64 = AlertWatchTests.minute / 4) {
            let end = self.now.advanced(byNanoseconds: nanoseconds)
            while self.now < end {
                self.now = min(end, self.now.advanced(byNanoseconds: step))
                self.look()
            }
        }

        private mutating func look() {
            for change in self.watch.advance(to: self.now) {
                self.said.append("\(change.isRaised ? "+" : "-")\(change.key.rule) \(change.key.auditor)")
            }
        }

        func reading(_ quantity: Quantity, _ unit: Unit, _ value: String, interval: Int64? = nil) throws -> WatchEvent {
            .reading(
                auditor: "mona",
                Reading(
                    meter: try MeterName("main"), quantity: quantity, unit: unit, time: self.now, interval: interval,
                    value: ExactDecimal(value)))
        }

        mutating func read(_ quantity: Quantity, _ unit: Unit, _ value: String, interval: Int64? = nil) throws {
            self.take(try self.reading(quantity, unit, value, interval: interval))
        }

        func heard(_ clock: ClockQuality, ahead nanoseconds: Int64 = 0) -> WatchEvent {
            .heard(auditor: "mona", clock: clock, issuedAt: self.now.advanced(byNanoseconds: nanoseconds))
        }

        func heartbeat(_ count: Int64) -> WatchEvent {
            .heartbeat(auditor: "mona", Heartbeat(outboxCount: count, oldestUnsent: nil, deadLetters: 0, meters: []))
        }
    }

    @Test("no data for a while; over when it is heard again")
    func noData() {
        var replay = Replay()
        for _ in 0..<4 {
            replay.take(.heard(auditor: "mona", clock: .synchronised, issuedAt: replay.now))
            replay.pass(15 * Self.minute)
        }
        #expect(replay.said.isEmpty)
        replay.pass(30 * Self.minute)
        #expect(replay.said == ["+no-data mona"])
        replay.pass(600 * Self.minute)
        #expect(replay.said == ["+no-data mona"])
        for _ in 0..<34 {
            replay.take(replay.heard(.synchronised))
            replay.pass(Self.minute)
        }
        #expect(replay.said.count == 1)
        for _ in 0..<2 {
            replay.take(replay.heard(.synchronised))
            replay.pass(Self.minute)
        }
        #expect(replay.said == ["+no-data mona", "-no-data mona"])
    }

    @Test("a reading outside of its range; over only well within it, and for a while")
    func range() throws {
        var replay = Replay()
        try replay.read(.voltage, .volt, "230.1")
        #expect(replay.said.isEmpty)
        try replay.read(.voltage, .volt, "255.1")
        #expect(replay.said == ["+out-of-range mona"])
        // Back, but hardly.
        try replay.read(.voltage, .volt, "254.9")
        replay.pass(2 * Self.minute)
        #expect(replay.said.count == 1)
        try replay.read(.voltage, .volt, "231")
        replay.pass(4 * Self.minute)
        #expect(replay.said.count == 1)
        // For a while, but nobody has said so since.
        replay.pass(60 * Self.minute)
        #expect(replay.said.count == 1)
        // Readings that are an hour apart prove nothing soon.
        for _ in 0..<4 {
            try replay.read(.voltage, .volt, "232")
            replay.pass(60 * Self.minute)
        }
        #expect(replay.said.count == 1)
        for _ in 0..<3 {
            try replay.read(.voltage, .volt, "232")
            replay.pass(60 * Self.minute)
        }
        #expect(replay.said == ["+out-of-range mona", "-out-of-range mona"])
    }

    @Test("values beyond all reason are alerts as others are", arguments: [1, 900 * second])
    func absurd(_ interval: Int64) throws {
        var replay = Replay { $0.night = AlertRules.Night(from: 0, to: 1_439, offset: 0) }
        for _ in 0..<30 { try replay.read(.consumption, .kilowattHour, "0.075", interval: 900 * Self.second) }
        let most = "\(Int64.max)"
        try replay.read(.production, .kilowattHour, most, interval: interval)
        try replay.read(.powerProduced, .kilowatt, most)
        try replay.read(.consumption, .kilowattHour, most, interval: interval)
        try replay.read(.consumption, .kilowattHour, "-\(most)", interval: interval)
        #expect(Set(replay.said) == ["+night-production mona", "+consumption-jump mona"])
    }

    @Test("a range without an end is one", arguments: [0...Double.infinity, -Double.infinity...Double.infinity])
    func endless(_ bounds: ClosedRange<Double>) throws {
        var replay = Replay { $0.ranges = [AlertRules.Range(quantity: "voltage", bounds: bounds)] }
        try replay.read(.voltage, .volt, "-1")
        #expect(replay.said == (bounds.lowerBound == 0 ? ["+out-of-range mona"] : []))
    }

    @Test("what was bad and is good again by the next look is raised, and cleared later")
    func betweenLooks() throws {
        var replay = Replay()
        let (bad, good) = (try replay.reading(.voltage, .volt, "260"), try replay.reading(.voltage, .volt, "230"))
        replay.watch.take(bad, at: replay.now)
        replay.watch.take(good, at: replay.now)
        replay.watch.take(good, at: replay.now.advanced(byNanoseconds: Self.second))
        replay.pass(2 * Self.second, every: Self.second)
        #expect(replay.said == ["+out-of-range mona"])
        try replay.end { try $0.reading(.voltage, .volt, "230") }
        #expect(replay.said == ["+out-of-range mona", "-out-of-range mona"])
    }

    @Test("an auditor that tells of everything is one alert more at last, and hides nothing of others or of its forks")
    func flood() throws {
        var replay = Replay()
        let letters = Array("abcdefghijklmnop")
        for number in 0..<200 {
            let word = try #require(Reason("x-\(letters[number / 16])\(letters[number % 16])"))
            replay.take(.told(auditor: "mallory", Alert(word, "look")))
        }
        #expect(replay.said.count == 65)
        #expect(replay.said.filter { $0 == "+and-more mallory" }.count == 1)
        replay.take(.alarm(auditor: "mallory", kind: .fork, number: 1, detail: "x"))
        try replay.read(.voltage, .volt, "260")
        #expect(replay.said.suffix(2) == ["+fork mallory", "+out-of-range mona"])
        for number in 0..<200 {
            let word = try #require(Reason("x-\(letters[number / 16])\(letters[number % 16])"))
            replay.take(.told(auditor: "mallory", Alert(word, "", isRaised: false)))
        }
        replay.pass(11 * Self.minute)
        #expect(replay.said.contains("-and-more mallory"))
    }

    @Test("a gap that an operator knows of is over, until more is missing")
    func knownGap() {
        var replay = Replay()
        replay.take(.missing(auditor: "mona", count: 3))
        replay.pass(11 * Self.minute)
        replay.take(.acknowledged(AlertKey(.gap, "mona")))
        #expect(replay.said == ["+gap mona", "-gap mona"])
        replay.take(.missing(auditor: "mona", count: 3))
        replay.pass(20 * Self.minute)
        #expect(replay.said.count == 2)
        replay.take(.missing(auditor: "mona", count: 4))
        replay.pass(11 * Self.minute)
        #expect(replay.said.suffix(1) == ["+gap mona"])
    }

    @Test("refusals that were raised before a restart are over when no more come")
    func restoredRefusals() {
        var replay = Replay()
        replay.watch.restore(AlertKey(.refusals, "mona"), text: "x", at: replay.now)
        replay.pass(10 * Self.minute)
        #expect(replay.said == ["-refusals mona"])
    }

    @Test("what swings around its limit is raised once and does not flap", arguments: ["255.1", "194.2"])
    func doesNotFlap(_ bad: String) throws {
        var replay = Replay()
        for number in 0..<2_000 {
            try replay.read(.voltage, .volt, number % 3 == 0 ? bad : number % 3 == 1 ? "254.8" : "230")
            replay.pass(20 * Self.second, every: 20 * Self.second)
        }
        #expect(replay.said == ["+out-of-range mona"])
        try replay.end { try $0.reading(.voltage, .volt, "230") }
        #expect(replay.said == ["+out-of-range mona", "-out-of-range mona"])
    }

    /// What swings between bad and good for as long as somebody watches, a step at a time; true is bad.
    private func swing(
        _ rule: AlertRule, _ replay: inout Replay, every step: Int64, for steps: Int = 400, period: Int = 2,
        _ event: (Replay, Bool) throws -> WatchEvent
    ) throws {
        for number in 0..<steps {
            replay.take(try event(replay, number % period == 0))
            replay.pass(step)
        }
        #expect(replay.said == ["+\(rule) mona"], "\(rule)")
    }

    @Test("no rule flaps: what comes and goes is raised once", arguments: AlertRule.all, [2, 3, 5])
    func noneFlaps(_ rule: AlertRule, _ period: Int) throws {
        var replay = Replay { $0.night = AlertRules.Night(from: 0, to: 1_439, offset: 0) }
        let quarter = 15 * Self.minute
        let word = try #require(Reason("meter-silent"))
        let number: Int64 = 7
        switch rule {
        case .noData:
            // Always a little too late.
            try self.swing(rule, &replay, every: 36 * Self.minute) { replay, _ in replay.heard(.synchronised) }
        case .outOfRange:
            try self.swing(rule, &replay, every: quarter, period: period) {
                try $0.reading(.voltage, .volt, $1 ? "256" : "230")
            }
        case .nightProduction:
            try self.swing(rule, &replay, every: quarter, period: period) {
                try $0.reading(.production, .kilowattHour, $1 ? "0.5" : "0", interval: quarter)
            }
        case .consumptionJump:
            for _ in 0..<30 { try replay.read(.consumption, .kilowattHour, "0.075", interval: quarter) }
            // Not so long that it becomes usual.
            try self.swing(rule, &replay, every: quarter, for: 20, period: period) {
                try $0.reading(.consumption, .kilowattHour, $1 ? "5" : "0.075", interval: quarter)
            }
        case .gap:
            replay.take(.missing(auditor: "mona", count: 3))
            replay.pass(11 * Self.minute)
            try self.swing(rule, &replay, every: 2 * Self.minute) { .missing(auditor: "mona", count: $1 ? 3 : 0) }
        case .fork, .streamRestart:
            // Read again after each start of a control center that dies.
            try self.swing(rule, &replay, every: Self.minute) { _, _ in
                .alarm(auditor: "mona", kind: rule == .fork ? .fork : .streamRestart, number: number, detail: "x")
            }
        case .certificateExpiring:
            // Every ten minutes for the last weeks of a certificate.
            let end = replay.now.advanced(byNanoseconds: 15 * 1_440 * Self.minute)
            try self.swing(rule, &replay, every: 10 * Self.minute, for: 3_000) { _, _ in
                .certificate(auditor: "mona", ends: end)
            }
        case .clockOff:
            try self.swing(rule, &replay, every: quarter, period: period) {
                $0.heard(.informative, ahead: $1 ? 121 * Self.second : 59 * Self.second)
            }
        case .outboxFilling:
            try self.swing(rule, &replay, every: quarter, period: period) { $0.heartbeat($1 ? 10_001 : 4_999) }
        case .refusals:
            try self.swing(rule, &replay, every: 2 * Self.minute) { .refused(claimed: "mona", count: $1 ? 90 : 1) }
        case .auditor:
            try self.swing(rule, &replay, every: 2 * Self.minute) {
                .told(auditor: "mona", Alert(word, "m1 is silent", isRaised: $1))
            }
        // It is told in `flood`.
        case .andMore: break
        default: Issue.record("no test of \(rule)")
        }
    }

    @Test("a reading in the original's format is a sign of life, and is judged as others are")
    func measures() throws {
        var replay = Replay()
        func measure(_ value: String) throws -> WatchEvent {
            .measure(
                auditor: "mona",
                Reading(
                    meter: try MeterName("licore"), quantity: .consumption, unit: .kilowattHour, time: replay.now,
                    interval: 900 * Self.second, value: ExactDecimal(value)))
        }
        for _ in 0..<30 {
            replay.take(try measure("0.075"))
            replay.pass(15 * Self.minute)
        }
        replay.take(try measure("0.9"))
        #expect(replay.said == ["+consumption-jump mona"])
        replay.pass(36 * Self.minute)
        #expect(replay.said == ["+consumption-jump mona", "+no-data mona"])
    }

    @Test("production at night, in local time")
    func night() throws {
        var replay = Replay { $0.night = AlertRules.Night(from: 22 * 60, to: 4 * 60, offset: 120) }
        try replay.read(.production, .kilowattHour, "0.500", interval: 900 * Self.second)
        // 20:00 UTC is 22:00 there.
        replay.now = Self.noon.advanced(byNanoseconds: 7 * 60 * Self.minute)
        try replay.read(.production, .kilowattHour, "0.500", interval: 900 * Self.second)
        #expect(replay.said.isEmpty)
        replay.now = Self.noon.advanced(byNanoseconds: 8 * 60 * Self.minute)
        try replay.read(.production, .kilowattHour, "0.000", interval: 900 * Self.second)
        #expect(replay.said.isEmpty)
        try replay.read(.production, .kilowattHour, "0.500", interval: 900 * Self.second)
        #expect(replay.said == ["+night-production mona"])
        try replay.end { try $0.reading(.production, .kilowattHour, "0.000", interval: 900 * Self.second) }
        #expect(replay.said == ["+night-production mona", "-night-production mona"])
    }

    @Test("a consumption that jumps")
    func jump() throws {
        var replay = Replay()
        for _ in 0..<50 { try replay.read(.consumption, .kilowattHour, "0.075", interval: 900 * Self.second) }
        try replay.read(.consumption, .kilowattHour, "0.550", interval: 900 * Self.second)
        #expect(replay.said.isEmpty)
        try replay.read(.consumption, .kilowattHour, "0.700", interval: 900 * Self.second)
        #expect(replay.said == ["+consumption-jump mona"])
        try replay.end { try $0.reading(.consumption, .kilowattHour, "0.080", interval: 900 * Self.second) }
        #expect(replay.said == ["+consumption-jump mona", "-consumption-jump mona"])
    }

    @Test("a gap that stays; one that fills at once is none")
    func gap() {
        var replay = Replay()
        replay.take(.missing(auditor: "mona", count: 3))
        replay.pass(5 * Self.minute)
        replay.take(.missing(auditor: "mona", count: 0))
        replay.pass(20 * Self.minute)
        #expect(replay.said.isEmpty)
        replay.take(.missing(auditor: "mona", count: 3))
        replay.pass(11 * Self.minute)
        #expect(replay.said == ["+gap mona"])
        replay.take(.missing(auditor: "mona", count: 0))
        replay.pass(6 * Self.minute)
        #expect(replay.said == ["+gap mona", "-gap mona"])
    }

    @Test(
        "a fork and a restart stay until an operator has acknowledged them",
        arguments: [AlarmKind.fork, .streamRestart])
    func incidents(_ kind: AlarmKind) {
        var replay = Replay()
        replay.take(.alarm(auditor: "mona", kind: kind, number: 7, detail: "x"))
        #expect(replay.said == ["+\(kind) mona"])
        replay.pass(6_000 * Self.minute, every: 60 * Self.minute)
        #expect(replay.said.count == 1)
        replay.take(.acknowledged(AlertKey(kind == .fork ? .fork : .streamRestart, "mona", "7")))
        #expect(replay.said == ["+\(kind) mona", "-\(kind) mona"])
    }

    @Test("a certificate that ends soon; over when a newer one is seen")
    func certificate() {
        var replay = Replay()
        let end = Self.noon.advanced(byNanoseconds: 15 * 1_440 * Self.minute)
        replay.take(.certificate(auditor: "mona", ends: end))
        #expect(replay.said.isEmpty)
        replay.now = Self.noon.advanced(byNanoseconds: 2 * 1_440 * Self.minute)
        replay.take(.certificate(auditor: "mona", ends: end))
        #expect(replay.said == ["+certificate-expiring mona"])
        replay.take(.certificate(auditor: "mona", ends: end.advanced(byNanoseconds: 90 * 1_440 * Self.minute)))
        replay.pass(6 * Self.minute)
        #expect(replay.said == ["+certificate-expiring mona", "-certificate-expiring mona"])
    }

    @Test("a clock that is ahead, or was never set; a backlog is not a wrong clock", arguments: [true, false])
    func clock(_ isAhead: Bool) {
        var replay = Replay()
        replay.take(replay.heard(.synchronised, ahead: -20_000 * Self.minute))
        #expect(replay.said.isEmpty)
        replay.take(isAhead ? replay.heard(.informative, ahead: 3 * Self.minute) : replay.heard(.unknown))
        #expect(replay.said == ["+clock-off mona"])
        replay.end { $0.heard(.synchronised) }
        #expect(replay.said == ["+clock-off mona", "-clock-off mona"])
    }

    @Test("an outbox that fills")
    func outbox() {
        var replay = Replay()
        replay.take(replay.heartbeat(9_999))
        #expect(replay.said.isEmpty)
        replay.take(replay.heartbeat(10_000))
        replay.end { $0.heartbeat(6_000) }
        #expect(replay.said == ["+outbox-filling mona"])
        replay.end { $0.heartbeat(4_000) }
        #expect(replay.said == ["+outbox-filling mona", "-outbox-filling mona"])
    }

    @Test("refusals above a rate")
    func refusals() {
        var replay = Replay()
        replay.take(.refused(claimed: "mona", count: 40))
        replay.pass(Self.minute)
        replay.take(.refused(claimed: "mona", count: 40))
        #expect(replay.said.isEmpty)
        replay.take(.refused(claimed: "mona", count: 40))
        #expect(replay.said == ["+refusals mona"])
        replay.pass(10 * Self.minute)
        #expect(replay.said == ["+refusals mona", "-refusals mona"])
    }

    @Test(
        "what an auditor tells is an alert until the auditor says that it is over; acknowledged, it is not raised anew")
    func told() throws {
        var replay = Replay()
        let word = try #require(Reason("meter-silent"))
        replay.take(.told(auditor: "mona", Alert(word, "m1 is silent")))
        #expect(replay.said == ["+auditor mona"])
        replay.take(.told(auditor: "mona", Alert(word, "", isRaised: false)))
        replay.pass(6 * Self.minute)
        #expect(replay.said == ["+auditor mona", "-auditor mona"])
        replay.take(.told(auditor: "mona", Alert(word, "again")))
        replay.take(.acknowledged(AlertKey(.auditor, "mona", "meter-silent")))
        // At the next hello.
        replay.pass(60 * Self.minute)
        replay.take(.told(auditor: "mona", Alert(word, "again")))
        #expect(replay.said == ["+auditor mona", "-auditor mona", "+auditor mona"])
    }

    @Test("what was raised before a restart is not raised again, and is cleared when it is over")
    func restart() throws {
        var replay = Replay()
        replay.watch.restore(AlertKey(.outOfRange, "mona", "main voltage"), text: "x", at: replay.now)
        try replay.read(.voltage, .volt, "260")
        #expect(replay.said.isEmpty)
        try replay.end { try $0.reading(.voltage, .volt, "230") }
        #expect(replay.said == ["-out-of-range mona"])
    }
}
