import ArgumentParser
import Auditor
import Foundation
import GRDB
import Identity
import Logging
import MQTT
import MQTTClient
import MessageBus
import NIOCore
import PKI
import Telemetry
import X509

struct BenchEndToEndCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "end-to-end",
        abstract: "Send signed statements over TLS and MQTT to a server of its own, as fast as it stores them.",
        discussion: """
            Statements are signed beforehand. The server runs in processes of its own; what counts is how many \
            statements its control center stores in a second of its CPU time, TLS, MQTT and commits \
            (synchronous = FULL) included. Nothing is left behind.

            EXAMPLES
              secure-mqtt bench end-to-end
              secure-mqtt bench end-to-end --shape split --statements 50000 --json
            """)

    enum Shape: String, ExpressibleByArgument, CaseIterable {
        /// Broker and control center in one process.
        case serve
        /// One process each.
        case split
    }

    @Option(help: "serve (broker and control center in one process) or split (one process each).")
    var shape: Shape = .serve

    @Option(help: "Statements in all.")
    var statements = 20_000

    @Option(help: "Records in each statement.")
    var records = 2

    @Option(help: "Auditors that send them, each over its own connection.")
    var auditors = 16

    @Option(help: "Where to put the database; it should be on the disk that is to be measured.")
    var directory = FileManager.default.temporaryDirectory.path

    @Flag(help: "Print one JSON object on one line.")
    var json = false

    func validate() throws {
        guard (1...5_000_000).contains(self.statements), (1...1_000).contains(self.records),
            (1...1_000).contains(self.auditors)
        else { throw ValidationError("--statements, --records and --auditors must be positive and sensible") }
    }

    func run() async throws {
        let folder = "\(self.directory)/secure-mqtt-bench-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let names = try (1...self.auditors).map { try Identifier("bench-\($0)") }
        let site = try await DemoSite.make(at: folder, auditors: names, now: .now)
        Terminal.standardError.progress("signing \(self.statements) statements")
        let senders = try names.enumerated().map { index, name in
            let extra = index < self.statements % self.auditors ? 1 : 0
            return try BenchSender(
                name, site: site, count: self.statements / self.auditors + extra, records: self.records)
        }
        let server = try BenchServer(site: site, shape: self.shape)
        defer { server.kill() }
        Terminal.standardError.progress("sending")
        let result = try await self.measure(senders, server, site)
        Terminal.standardError.endProgress()
        if self.json {
            try Terminal.standardOutput.json(result)
        } else {
            let output = Terminal.standardOutput
            output.line(
                "\(result.statements) statements of \(result.records) records from \(result.auditors) auditors, \(result.shape)"
            )
            output.line(
                "  \(Int(result.statementsPerSecond)) statements/s, \(Int(result.statementsPerSecond) * result.records) readings/s"
            )
            output.line(
                "  \(Int(result.statementsPerCPUSecond)) statements per CPU second of the control center's process")
        }
    }

    private struct Result: Encodable {
        let shape: String
        let statements: Int
        let records: Int
        let auditors: Int
        let seconds: Double
        let cpuSeconds: Double
        let statementsPerSecond: Double
        let statementsPerCPUSecond: Double

        enum CodingKeys: String, CodingKey {
            case shape, statements, records, auditors, seconds
            case cpuSeconds = "control_center_cpu_seconds"
            case statementsPerSecond = "statements_per_second"
            case statementsPerCPUSecond = "statements_per_cpu_second"
        }
    }

    private func measure(_ senders: [BenchSender], _ server: BenchServer, _ site: DemoSite) async throws -> Result {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for sender in senders { group.addTask { try await sender.bus.run() } }
            for sender in senders { try await sender.introduce() }
            let cpu = server.cpuSeconds
            let start = ContinuousClock.now
            try await withThrowingTaskGroup(of: Void.self) { sending in
                for sender in senders { sending.addTask { try await sender.send() } }
                try await sending.waitForAll()
            }
            try await self.waitUntilStored(site)
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            let used = server.cpuSeconds - cpu
            for sender in senders { sender.bus.shutDown() }
            try await group.waitForAll()
            return Result(
                shape: self.shape.rawValue, statements: self.statements, records: self.records,
                auditors: self.auditors, seconds: seconds, cpuSeconds: used,
                statementsPerSecond: Double(self.statements) / seconds,
                statementsPerCPUSecond: Double(self.statements) / max(used, 0.001))
        }
    }

    /// With `serve` an acknowledged statement is stored; with `split` the broker alone has acknowledged it.
    private func waitUntilStored(_ site: DemoSite) async throws {
        var configuration = Configuration()
        configuration.readonly = true
        let database = try DatabaseQueue(path: site.store, configuration: configuration)
        var last = (count: -1, time: ContinuousClock.now)
        while true {
            let count = try await database.read { try Int.fetchOne($0, sql: "SELECT count(*) FROM statement") ?? 0 }
            if count >= self.statements { return }
            if count > last.count { last = (count, .now) }
            guard ContinuousClock.now - last.time < .seconds(30) else {
                throw CommandError(.software, "only \(count) of \(self.statements) statements were stored")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }
}

/// One auditor that sends what was signed beforehand, without an outbox.
private struct BenchSender: Sendable {
    let bus: MQTTClientBus
    private let hello: OutgoingMessage
    private let statements: [OutgoingMessage]

    init(_ id: Identifier, site: DemoSite, count: Int, records: Int) throws {
        let party = try DemoParty(folder: site.folder(of: id))
        let signer = party.signer
        self.bus = try ServerParts(site.configuration).makeClientBus(
            chain: party.chain, key: party.key, subscriptions: [try TopicFilter(Topic.keys.description)])
        var random = SystemRandomNumberGenerator()
        let stream = StreamID(using: &random)
        let now = Timestamp.now
        let hello = try Hello(
            stream: stream, lastSequence: 0, lastID: .zero, nonce: Nonce(using: &random), clock: .informative
        ).signed(issuedAt: now, chain: party.chain.map(\.der), by: signer)
        self.hello = OutgoingMessage(
            topic: try TopicName("audits/hello/\(id)"), payload: ByteBuffer(bytes: hello.bytes))
        let topic = try TopicName("audits/measures/\(id)")
        let meter = try MeterName("main")
        var statements: [OutgoingMessage] = []
        var previous = MessageID.zero
        for number in 0..<count {
            let readings = (0..<records).map { record in
                Reading(
                    meter: meter, quantity: .power, unit: .watt,
                    time: Timestamp(seconds: 1_700_000_000 + Int64(number * records + record)),
                    value: ExactDecimal(mantissa: Int64(1_000 + record), exponent: -1))
            }
            let message = try Payload.statement(readings, of: id).signed(
                at: StreamPosition(stream: stream, sequence: Int64(number + 1), previous: previous),
                clock: .informative, issuedAt: now, by: signer)
            previous = message.id
            statements.append(OutgoingMessage(topic: topic, payload: ByteBuffer(bytes: message.bytes)))
        }
        self.statements = statements
    }

    /// Waits until the control center has said its keys, which it does when it listens, and says hello: from then on
    /// it knows the certificate.
    func introduce() async throws {
        waiting: while let events = try await self.bus.receive() {
            for case .delivery(let delivery) in events {
                delivery.settle()
                break waiting
            }
        }
        try await self.bus.publish(
            topic: self.hello.topic, payload: self.hello.payload, qos: .atLeastOnce, retain: false)
    }

    func send() async throws {
        let failures = try await self.bus.publish(batch: self.statements).compactMap(\.self)
        if let failure = failures.first { throw CommandError(.unavailable, "the broker refused: \(failure)") }
    }
}

/// The server's processes: this very program.
private final class BenchServer {
    private let processes: [Process]

    init(site: DemoSite, shape: BenchEndToEndCommand.Shape) throws {
        let program = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        // The control center last: its CPU time is what counts.
        let commands = shape == .serve ? ["serve"] : ["broker", "control-center"]
        self.processes = try commands.map { command in
            let process = Process()
            process.executableURL = URL(fileURLWithPath: program)
            process.arguments = [command, "--config", "\(site.directory)/secure-mqtt.yaml", "--log-level", "error"]
            try process.run()
            return process
        }
    }

    /// User and system time of the control center's process until now.
    var cpuSeconds: Double {
        self.processes.last.map { ProcessFigures.cpuSeconds($0.processIdentifier) } ?? 0
    }

    func kill() {
        for process in self.processes { process.terminate() }
        for process in self.processes { process.waitUntilExit() }
    }
}
