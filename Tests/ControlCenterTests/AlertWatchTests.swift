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

        mutating func read(_ quantity: Quantity, _ unit: Unit, _ value: String, interval: Int64? = nil) throws {
            self.take(
                .reading(
                    auditor: "mona",
                    Reading(
                        meter: try MeterName("main"), quantity: quantity, unit: unit, time: self.now,
                        interval: interval, value: ExactDecimal(value))))
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
        for _ in 0..<12 {
            replay.take(.heard(auditor: "mona", clock: .synchronised, issuedAt: replay.now))
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
        replay.pass(60 * Self.minute)
        #expect(replay.said.count == 1)
        try replay.read(.voltage, .volt, "231")
        replay.pass(4 * Self.minute)
        #expect(replay.said.count == 1)
        replay.pass(2 * Self.minute)
        #expect(replay.said == ["+out-of-range mona", "-out-of-range mona"])
    }

    @Test("what swings around its limit is raised once and does not flap", arguments: ["255.1", "194.2"])
    func doesNotFlap(_ bad: String) throws {
        var replay = Replay()
        for number in 0..<2_000 {
            try replay.read(.voltage, .volt, number % 3 == 0 ? bad : number % 3 == 1 ? "254.8" : "230")
            replay.pass(20 * Self.second, every: 20 * Self.second)
        }
        #expect(replay.said == ["+out-of-range mona"])
        try replay.read(.voltage, .volt, "230")
        replay.pass(10 * Self.minute)
        #expect(replay.said == ["+out-of-range mona", "-out-of-range mona"])
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
        try replay.read(.production, .kilowattHour, "0.000", interval: 900 * Self.second)
        replay.pass(6 * Self.minute)
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
        try replay.read(.consumption, .kilowattHour, "0.080", interval: 900 * Self.second)
        replay.pass(6 * Self.minute)
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
        func heard(_ clock: ClockQuality, _ difference: Int64) -> WatchEvent {
            .heard(auditor: "mona", clock: clock, issuedAt: replay.now.advanced(byNanoseconds: difference))
        }
        replay.take(heard(.synchronised, -20_000 * Self.minute))
        #expect(replay.said.isEmpty)
        replay.take(isAhead ? heard(.informative, 3 * Self.minute) : heard(.unknown, 0))
        #expect(replay.said == ["+clock-off mona"])
        replay.take(heard(.synchronised, 0))
        replay.pass(6 * Self.minute)
        #expect(replay.said == ["+clock-off mona", "-clock-off mona"])
    }

    @Test("an outbox that fills")
    func outbox() {
        var replay = Replay()
        func heartbeat(_ count: Int64) -> WatchEvent {
            .heartbeat(auditor: "mona", Heartbeat(outboxCount: count, oldestUnsent: nil, deadLetters: 0, meters: []))
        }
        replay.take(heartbeat(9_999))
        #expect(replay.said.isEmpty)
        replay.take(heartbeat(10_000))
        replay.take(heartbeat(6_000))
        replay.pass(30 * Self.minute)
        #expect(replay.said == ["+outbox-filling mona"])
        replay.take(heartbeat(4_000))
        replay.pass(6 * Self.minute)
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

    @Test("what an auditor tells is an alert until the auditor, or an operator, says that it is over")
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
        #expect(replay.said.suffix(2) == ["+auditor mona", "-auditor mona"])
    }

    @Test("what was raised before a restart is not raised again, and is cleared when it is over")
    func restart() throws {
        var replay = Replay()
        replay.watch.restore(AlertKey(.outOfRange, "mona", "main voltage"), text: "x", at: replay.now)
        try replay.read(.voltage, .volt, "260")
        #expect(replay.said.isEmpty)
        try replay.read(.voltage, .volt, "230")
        replay.pass(6 * Self.minute)
        #expect(replay.said == ["-out-of-range mona"])
    }
}
