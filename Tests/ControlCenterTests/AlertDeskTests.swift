import ControlCenter
import Crypto
import Foundation
import Identity
import LiCore
import PKI
import Telemetry
import TestSupport
import Testing

/// Signed messages that are replayed into a store, and what its alerts are then.
@Suite("Alert rules, on what is stored") struct AlertDeskTests {
    private static let minute: Int64 = 60_000_000_000

    private struct Plant {
        let folder: TemporaryDirectory
        let pki: TestPKI
        let store: ControlCenterStore
        let operators: OperatorDesk
        let rules: AlertRules
        var center: TestCenter<ControlCenterStore>
        var desk: AlertDesk
        var home: TestAuditor

        /// - Parameter lifetime: of the auditor's certificate, in seconds; the profile's unless given.
        init(lifetime: UnixTime? = nil, _ change: (inout AlertRules) -> Void = { _ in }) throws {
            var rules = AlertRules()
            change(&rules)
            self.rules = rules
            self.folder = try TemporaryDirectory()
            self.pki = try TestPKI(auditors: ["mona"])
            self.store = try ControlCenterStore(directory: self.folder.path)
            self.operators = try OperatorDesk(path: self.folder.path("control-center.sqlite3"))
            self.center = try TestCenter(self.store, pki: self.pki)
            self.desk = AlertDesk(store: self.store, rules: rules, channels: ["webhook"])
            self.home = TestAuditor(
                try self.pki.issue(.auditor, "mona", lifetime: lifetime), at: self.center.now)
            try self.center.process(try self.home.arrivalOfHello())
            try self.desk.work(at: self.center.now)
        }

        mutating func pass(_ nanoseconds: Int64) throws {
            let end = self.center.now.advanced(byNanoseconds: nanoseconds)
            while self.center.now < end {
                self.center.now = min(end, self.center.now.advanced(byNanoseconds: AlertDeskTests.minute / 2))
                try self.desk.work(at: self.center.now)
            }
        }

        /// Stores the next message of the stream.
        mutating func say(_ payload: Payload, issuedAt: Timestamp? = nil) throws {
            let message = try payload.signed(
                at: StreamPosition(
                    stream: self.home.stream, sequence: self.home.sequence + 1, previous: self.home.last),
                clock: .synchronised, issuedAt: issuedAt ?? self.center.now, by: self.home.signer)
            self.home.sequence += 1
            self.home.last = message.id
            try self.center.process(self.home.arrival(message))
            try self.desk.work(at: self.center.now)
        }

        mutating func read(_ quantity: Quantity, _ unit: Telemetry.Unit, _ value: String, at time: Timestamp? = nil)
            throws
        {
            let reading = Reading(
                meter: try MeterName("main"), quantity: quantity, unit: unit, time: time ?? self.center.now,
                interval: unit == .kilowattHour ? 900_000_000_000 : nil, value: ExactDecimal(value))
            try self.say(try Payload.statement([reading], of: self.home.id))
        }

        mutating func beat(_ count: Int64) throws {
            try self.say(
                try Payload.heartbeat(
                    Heartbeat(outboxCount: count, oldestUnsent: nil, deadLetters: 0, meters: []), of: self.home.id))
        }

        func states() throws -> [String] {
            try self.operators.alerts(isOpen: false, limit: 100).map { "\($0.rule) \($0.auditor) \($0.state)" }
        }

        mutating func acknowledge() throws {
            for alert in try self.operators.alerts(isOpen: true, limit: 9) {
                #expect(try self.operators.acknowledge(alert.number, by: "olga", at: self.center.now))
            }
            try self.desk.work(at: self.center.now)
        }
    }

    @Test(
        "each rule is raised by what is stored, and cleared by what is stored later",
        arguments: AlertRule.all.filter { $0 != .andMore })
    func rules(_ rule: AlertRule) throws {
        var plant = try Plant(lifetime: rule == .certificateExpiring ? 600_000 : nil) { rules in
            rules.night = AlertRules.Night(from: 22 * 60, to: 4 * 60, offset: 0)
        }
        let first = try plant.home.statement(1, previous: .zero)
        // Midnight before today, which is night.
        let night = Timestamp(seconds: plant.center.now.seconds / 86_400 * 86_400)
        switch rule {
        case .noData:
            try plant.read(.voltage, .volt, "230")
            try plant.pass(36 * Self.minute)
        case .outOfRange: try plant.read(.voltage, .volt, "260")
        case .nightProduction: try plant.read(.production, .kilowattHour, "0.5", at: night)
        case .consumptionJump:
            for _ in 0..<25 { try plant.read(.consumption, .kilowattHour, "0.075") }
            try plant.read(.consumption, .kilowattHour, "2")
        case .gap:
            try plant.center.process(plant.home.arrival(try plant.home.statement(2, previous: first.id)))
            try plant.pass(11 * Self.minute)
        case .fork:
            try plant.read(.voltage, .volt, "230")
            try plant.center.process(
                plant.home.arrival(try plant.home.statement(1, previous: .zero, values: ["0.999"])))
            try plant.pass(1)
        case .streamRestart:
            try plant.read(.voltage, .volt, "230")
            plant.home.restart(0xB2)
            try plant.read(.voltage, .volt, "230")
        case .certificateExpiring: break
        case .clockOff:
            try plant.say(
                try Payload.heartbeat(
                    Heartbeat(outboxCount: 0, oldestUnsent: nil, deadLetters: 0, meters: []), of: plant.home.id),
                issuedAt: plant.center.now.advanced(byNanoseconds: 3 * Self.minute))
        case .outboxFilling: try plant.beat(10_000)
        case .refusals:
            try plant.center.process(
                (0..<70).map { _ in Arrival(topic: plant.home.measures, bytes: Array("gone".utf8)) })
            try plant.pass(Self.minute)
        case .auditor: try self.tell(&plant, isRaised: true)
        default: Issue.record("no test of \(rule)")
        }
        #expect(try plant.states() == ["\(rule) mona raised"])
        #expect(try plant.operators.alerts(isOpen: true, limit: 9).allSatisfy { !$0.text.isEmpty })

        switch rule {
        case .noData:
            for _ in 0..<8 {
                try plant.read(.voltage, .volt, "230")
                try plant.pass(5 * Self.minute)
            }
        case .outOfRange, .nightProduction, .consumptionJump, .clockOff, .outboxFilling:
            for _ in 0..<8 {
                switch rule {
                case .outOfRange: try plant.read(.voltage, .volt, "230")
                case .nightProduction: try plant.read(.production, .kilowattHour, "0.000", at: night)
                case .consumptionJump: try plant.read(.consumption, .kilowattHour, "0.080")
                default: try plant.beat(1)
                }
                try plant.pass(4 * Self.minute)
            }
        case .gap:
            try plant.center.process(plant.home.arrival(first))
            try plant.pass(6 * Self.minute)
        case .fork, .streamRestart: try plant.acknowledge()
        case .certificateExpiring:
            plant.home = TestAuditor(try plant.pki.issue(.auditor, "mona"), at: plant.center.now)
            try plant.center.process(try plant.home.arrivalOfHello(2))
            try plant.pass(16 * Self.minute)
        case .refusals: try plant.pass(7 * Self.minute)
        default:
            try self.tell(&plant, isRaised: false)
            try plant.pass(6 * Self.minute)
        }
        #expect(try plant.states() == ["\(rule) mona cleared"])
    }

    @Test("what is missing in a stream that was given up is no gap any more")
    func closedStream() throws {
        var plant = try Plant()
        try plant.read(.voltage, .volt, "230")
        _ = try plant.home.next()
        try plant.read(.voltage, .volt, "230")
        try plant.pass(11 * Self.minute)
        #expect(try plant.states() == ["gap mona raised"])
        plant.home.restart(0xB2)
        try plant.read(.voltage, .volt, "230")
        try plant.pass(6 * Self.minute)
        #expect(try plant.states() == ["gap mona cleared", "stream-restart mona raised"])
    }

    @Test("a gap that is acknowledged stays known to the next process, which tells when more is missing")
    func acknowledgedGap() throws {
        var plant = try Plant()
        try plant.read(.voltage, .volt, "230")
        _ = try plant.home.next()
        try plant.read(.voltage, .volt, "230")
        try plant.pass(11 * Self.minute)
        try plant.acknowledge()
        #expect(try plant.states() == ["gap mona cleared"])
        plant.desk = AlertDesk(store: plant.store, rules: plant.rules, channels: [])
        try plant.pass(12 * Self.minute)
        #expect(try plant.states() == ["gap mona cleared"])
        _ = try plant.home.next()
        try plant.read(.voltage, .volt, "230")
        try plant.pass(11 * Self.minute)
        #expect(try plant.states() == ["gap mona cleared", "gap mona raised"])
    }

    @Test("an operator closes what is about somebody who is gone; one who comes back is watched again")
    func close() throws {
        var plant = try Plant(lifetime: 600_000)
        try plant.read(.voltage, .volt, "230")
        try plant.pass(36 * Self.minute)
        #expect(try plant.states() == ["certificate-expiring mona raised", "no-data mona raised"])
        for number in [1, 2] as [Int64] {
            #expect(try plant.operators.close(number, by: "olga", at: plant.center.now))
            #expect(try !plant.operators.close(number, by: "olga", at: plant.center.now))
        }
        try plant.pass(60 * Self.minute)
        #expect(try plant.states() == ["certificate-expiring mona cleared", "no-data mona cleared"])
        try plant.read(.voltage, .volt, "230")
        try plant.pass(36 * Self.minute)
        #expect(try plant.states().suffix(1) == ["no-data mona raised"])
    }

    @Test("a statement with a bad and a good value is an alert")
    func badAndGood() throws {
        var plant = try Plant()
        let readings = try ["260", "230"].enumerated().map { number, value in
            Reading(
                meter: try MeterName("main"), quantity: .voltage, unit: .volt,
                time: plant.center.now.advanced(byNanoseconds: Int64(number)), interval: nil, value: ExactDecimal(value)
            )
        }
        try plant.say(try Payload.statement(readings, of: plant.home.id))
        #expect(try plant.states() == ["out-of-range mona raised"])
    }

    @Test("an auditor's alerts that overtook each other are taken in the order of their numbers")
    func overtaken() throws {
        var plant = try Plant()
        try self.tell(&plant, isRaised: false)
        try self.tell(&plant, isRaised: true)
        #expect(try plant.states().isEmpty)
    }

    private func tell(_ plant: inout Plant, isRaised: Bool) throws {
        let alert = try Alert(try #require(Reason("meter-silent")), "m1 is silent", isRaised: isRaised).signed(
            sequence: isRaised ? 1 : 2, expires: plant.center.now.advanced(byNanoseconds: Self.minute),
            issuedAt: plant.center.now, by: plant.home.signer)
        try plant.center.process(Arrival(topic: "audits/alerts/mona", bytes: alert.bytes))
        try plant.desk.work(at: plant.center.now)
    }

    @Test("a control center that was away for hours does not call everybody silent; who was silent before still is")
    func away() throws {
        var plant = try Plant()
        try plant.read(.voltage, .volt, "230")
        // A day later, by another process.
        plant.center.now = plant.center.now.advanced(byNanoseconds: 1_440 * Self.minute)
        plant.desk = AlertDesk(store: plant.store, rules: plant.rules, channels: [])
        try plant.pass(30 * Self.minute)
        #expect(try plant.states().isEmpty)
        try plant.pass(6 * Self.minute)
        #expect(try plant.states() == ["no-data mona raised"])
        plant.desk = AlertDesk(store: plant.store, rules: plant.rules, channels: [])
        try plant.pass(60 * Self.minute)
        #expect(try plant.states() == ["no-data mona raised"])
    }

    @Test("a backlog is worked through before anybody is called silent")
    func backlog() throws {
        var plant = try Plant()
        let messages = try plant.home.next(1_500)
        try plant.center.process(messages.map { plant.home.arrival($0) })
        try plant.pass(1)
        #expect(try plant.store.watchedUpTo() ?? 0 < 1_500)
        try plant.pass(2)
        #expect(try plant.store.watchedUpTo() == 1_500)
        #expect(try plant.states().isEmpty)
    }

    @Test("readings in the original's format are watched as well, each once")
    func liCore() async throws {
        let original = try await OriginalAuthority(clients: ["lena"])
        let key = try P256.Signing.PrivateKey(
            pemRepresentation: String(contentsOfFile: original.keyFile("lena"), encoding: .utf8))
        var plant = try Plant()
        let member = try FleetMember(
            id: Identifier("lena"), kind: .auditor,
            certificate: try #require(try CertificateFile.read(original.certificateFile("lena")).first),
            controller: Identifier("database_licore"), timeZone: try #require(LocalTimeZone(name: "UTC")),
            until: "2099-12-31")
        plant.center.core.update(try Fleet([member]), at: plant.center.now)
        for quarter in 0..<26 {
            let value = quarter == 25 ? "2.0" : "0.075"
            let text = "lena/2011-07-01 0\(quarter / 4):\(["00", "15", "30", "45"][quarter % 4]):00/0/\(value)"
            let signature = try key.signature(for: BLAKE2b512.hash(data: Array(text.utf8))).derRepresentation
            let hex = signature.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            try plant.center.process(Arrival(topic: "audits/measures/lena", bytes: Array("\(text)||\(hex)".utf8)))
            try plant.pass(1)
        }
        #expect(try plant.states() == ["consumption-jump lena raised"])
        try plant.pass(36 * Self.minute)
        #expect(try plant.states() == ["consumption-jump lena raised", "no-data lena raised"])
    }
}
