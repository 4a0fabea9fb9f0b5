import Auditor
import ControlCenter
import Foundation
import Identity
import MQTTBroker
import NIOSSL
import PKI
import ServiceLifecycle
import Synchronization
import Telemetry

/// Shows what happens, attacks when all is calm, and compares what is stored with what was read.
final class DemoDirector: Service {
    private struct Outcome {
        var report: DemoReport?
        var failure: String?
    }

    private let plant: DemoPlant
    private let endsByItself: Bool
    private let reader: StoreReader
    private let outcome = Mutex(Outcome())

    init(plant: DemoPlant, endsByItself: Bool) throws {
        self.plant = plant
        self.endsByItself = endsByItself
        self.reader = try StoreReader(path: plant.site.store)
    }

    /// Nil if it was interrupted before.
    var report: DemoReport? { self.outcome.withLock { $0.report } }

    /// In one line, what did not come out.
    var failure: String? { self.outcome.withLock { $0.failure } }

    func run() async throws {
        // A signal in the middle of it is the end of it: what then fails is no news.
        await cancelWhenGracefulShutdown {
            do {
                try await self.show()
            } catch is CancellationError {
            } catch {
                self.outcome.withLock { $0.failure = "\(error)" }
            }
        }
    }

    private func show() async throws {
        let start = ContinuousClock.now
        func seconds() -> Double { (ContinuousClock.now - start) / .seconds(1) }
        var view = DemoView()
        let ports = try await self.plant.broker.boundPorts()
        let port = ports.first ?? self.plant.site.configuration.broker.port
        view.say(
            """
            All parts run in this one process, with keys in \(self.plant.site.directory) that are worth nothing; \
            a real installation keeps them apart.
            Broker on 127.0.0.1:\(port) (mutual TLS 1.3, MQTT), control center, \(self.plant.members.count) auditors.

            """)
        while true {
            view.show(try self.lines(), seconds: seconds())
            if self.isCalm { break }
            try self.requireProgress()
            try await Task.sleep(for: .milliseconds(500))
        }
        view.say("\nNow an intruder, itself an auditor of this installation, attacks the running system:")
        let attacks = try await self.attack(port: port, &view)
        view.say("")
        let compared = try await self.compare()
        let report = DemoReport(
            readingsSent: compared.sent, readingsStored: compared.stored,
            statementsStored: try self.plant.witness.statements(),
            receiptsVerified: self.plant.members.reduce(0) { $0 + $1.service.report.statistics.receiptsVerified },
            attacks: attacks, seconds: (seconds() * 1000).rounded() / 1000)
        self.outcome.withLock {
            $0.report = report
            $0.failure = Self.failure(report, compared)
        }
        self.sum(up: report, compared, &view)
        guard !self.endsByItself else { return }
        view.say("\nLive readings go on; Ctrl-C ends it.\n")
        while true {
            view.show(try self.lines(), seconds: seconds())
            try await Task.sleep(for: .seconds(1))
        }
    }

    // MARK: Progress

    private func lines() throws -> [DemoView.Line] {
        let stored = try self.plant.witness.storedReadings()
        return self.plant.members.map { member in
            let statistics = member.service.report.statistics
            return DemoView.Line(
                auditor: member.id.rawValue, signed: statistics.readings,
                statements: statistics.statements + statistics.heartbeats, receipted: statistics.receipted,
                stored: stored[member.id.rawValue] ?? 0)
        }
    }

    /// Whether everything that was signed is receipted, and the past has been told.
    private var isCalm: Bool {
        self.plant.members.allSatisfy { member in
            let report = member.service.report
            if self.endsByItself { return report.isFinished }
            return report.isOpen && report.statistics.statements > 0 && report.outbox.unreceipted == 0
        }
    }

    private func requireProgress() throws {
        for member in self.plant.members {
            if let error = member.service.report.sourceError { throw error }
        }
        if let trouble = self.plant.controlCenter.progress.storeTrouble { throw trouble }
    }

    // MARK: Attacks

    private func attack(port: Int, _ view: inout DemoView) async throws -> [String: DemoReport.Attack] {
        let site = self.plant.site
        let witness = self.plant.witness
        var random = SystemRandomNumberGenerator()
        let roots = try CertificateFile.read(site.configuration.trust.root)
        let attacker = try DemoAttacker(
            host: "127.0.0.1", port: port,
            roots: try roots.map { try NIOSSLCertificate(bytes: $0.der, format: .der) },
            intruder: site.intruder, accomplice: site.accomplice, stranger: site.stranger, victim: site.victim,
            captured: { try witness.capture(from: site.victim) ?? [] }, witness: witness, now: .now, using: &random)
        try await attacker.sayHello()
        var outcomes: [String: DemoReport.Attack] = [:]
        for attack in DemoAttack.catalogue {
            let outcome: DemoReport.Attack
            do {
                outcome = try await attack.run(attacker)
            } catch is CancellationError {
                throw CancellationError()
            } catch {
                outcome = DemoReport.Attack(refused: false, where: "nowhere", reason: "\(error)")
            }
            view.show(attack, outcome)
            outcomes[attack.name] = outcome
        }
        return outcomes
    }

    // MARK: Comparison

    private struct Comparison {
        var sent = 0
        /// Stored exactly as often as sent, with exactly its digits.
        var stored = 0
        /// Stored, but never sent so.
        var unexpected = 0
    }

    private func compare() async throws -> Comparison {
        // While it goes on live, a reading may be on its way at this very moment.
        for _ in 0..<20 {
            let comparison = try self.compareOnce()
            if comparison.stored == comparison.sent, comparison.unexpected == 0 { return comparison }
            try await Task.sleep(for: .milliseconds(250))
        }
        return try self.compareOnce()
    }

    private func compareOnce() throws -> Comparison {
        let sent = self.plant.recorder.entries(availableBy: .now)
        var stored: [DemoRecorder.Entry: Int] = [:]
        let intruder = self.plant.site.intruder.id.rawValue
        try self.reader.forEachReading(ReadingsQuery()) { reading in
            guard reading.auditor != intruder else { return }
            stored[DemoRecorder.Entry(reading), default: 0] += 1
        }
        var comparison = Comparison()
        for (entry, count) in sent {
            comparison.sent += count
            if stored.removeValue(forKey: entry) == count { comparison.stored += count }
        }
        comparison.unexpected = stored.values.reduce(0, +)
        return comparison
    }

    private static func failure(_ report: DemoReport, _ compared: Comparison) -> String? {
        let broken = report.attacks.filter { !$0.value.refused }.keys.sorted()
        if !broken.isEmpty { return "not refused or not recorded: \(broken.joined(separator: ", "))" }
        if compared.stored != compared.sent || compared.unexpected > 0 {
            return
                "of \(compared.sent) readings sent, \(compared.stored) are stored exactly once and digit for digit; "
                + "\(compared.unexpected) are stored that were not sent"
        }
        return report.isSuccess ? nil : "nothing was sent"
    }

    private func sum(up report: DemoReport, _ compared: Comparison, _ view: inout DemoView) {
        let refused = report.attacks.values.filter(\.refused).count
        view.say(
            """
            \(compared.stored) of \(compared.sent) readings are in the database exactly once, digit for digit \
            (\(report.statementsStored) statements); \(refused) of \(report.attacks.count) attacks were refused and \
            recorded.
            Query it:
              secure-mqtt readings --config \(self.plant.site.directory)/secure-mqtt.yaml --limit 10
              sqlite3 -readonly \(self.plant.site.store) 'SELECT * FROM readings LIMIT 5'
            """)
    }
}
