import ArgumentParser
import Foundation
import Identity
import Logging
import MQTT
import NIOCore
import NIOPosix
import NIOSSL
import PKI
import X509

struct BenchBrokerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "broker",
        abstract: "Measure the embedded broker beside Mosquitto, by turns, with the same load.",
        discussion: """
            Both serve mutual TLS 1.3 with P-256 certificates on loopback; the broker has the first core, the load \
            generator (this process) the second. Medians of the rounds. Without mosquitto on this machine the \
            embedded broker is measured alone. Nothing is left behind.

            EXAMPLES
              secure-mqtt bench broker
              secure-mqtt bench broker --rounds 1 --seconds 1 --json
            """)

    @Option(help: "Rounds; medians are shown.")
    var rounds = 5

    @Option(help: "Seconds that each throughput and latency is measured.")
    var seconds = 2.0

    @Option(help: "Bytes of a payload.")
    var payload = 200

    @Option(help: "Publishers (fan-in) and subscribers (fan-out).")
    var clients = 20

    @Option(help: "Messages a second for the latency.")
    var rate = 2_000

    @Option(help: "Connections for handshakes and memory.")
    var connections = 1_000

    @Option(help: "QoS levels to measure, separated by commas.")
    var qos = "0,1,2"

    @Option(help: "Event loops of the embedded broker. With more than one neither it nor the load is kept on one core.")
    var threads = 1

    @Option(help: "Only this broker: secure-mqtt or mosquitto.")
    var only: String?

    @Flag(help: "Print one JSON array on one line.")
    var json = false

    func validate() throws {
        func require<Value: Comparable>(_ option: String, _ value: Value, _ range: ClosedRange<Value>) throws {
            guard range.contains(value) else {
                throw ValidationError("--\(option) \(value): give \(range.lowerBound) to \(range.upperBound)")
            }
        }
        try require("rounds", self.rounds, 1...100)
        try require("seconds", self.seconds, 0.1...600)
        try require("payload", self.payload, 8...65_000)
        try require("clients", self.clients, 1...60)
        try require("rate", self.rate, 1_000...1_000_000)
        try require("threads", self.threads, 1...64)
        try require("connections", self.connections, 1...50_000)
        guard self.levels != nil else {
            throw ValidationError("--qos \(self.qos): give 0, 1 and 2, separated by commas")
        }
        if let only = self.only, BenchTarget(rawValue: only) == nil {
            throw ValidationError("--only \(only): give secure-mqtt or mosquitto")
        }
    }

    /// `nil` if one of them is none.
    private var levels: [QoS]? {
        let levels = self.qos.split(separator: ",", omittingEmptySubsequences: false).map {
            UInt8($0).flatMap(QoS.init(rawValue:))
        }
        return levels.contains(nil) ? nil : levels.compactMap { $0 }
    }

    func run() async throws {
        OpenFiles.raiseLimit(for: self.connections, logger: Logger(label: "bench"))
        let folder = FileManager.default.temporaryDirectory.path + "/secure-mqtt-bench-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let site = try await BenchSite.make(at: folder, publishers: self.clients)
        if self.threads == 1 { BenchTarget.pin(getpid(), toCore: 1) }
        let targets = BenchTarget.allCases.filter { target in
            (self.only == nil || target.rawValue == self.only) && target.isInstalled
        }
        var figures: [BenchTarget: [String: [Double]]] = [:]
        var names: [String] = []
        for round in 1...self.rounds {
            for target in targets {
                Terminal.standardError.progress("round \(round) of \(self.rounds): \(target.rawValue)")
                for (name, value) in try await self.measure(target, site) {
                    if !names.contains(name) { names.append(name) }
                    figures[target, default: [:]][name, default: []].append(value)
                }
            }
        }
        Terminal.standardError.endProgress()
        let lines = names.map { name in
            BenchLine(
                name: name,
                values: Dictionary(
                    uniqueKeysWithValues: targets.compactMap { target in
                        figures[target]?[name].map { (target.rawValue, Self.median($0)) }
                    }))
        }
        if self.json {
            try Terminal.standardOutput.json(lines)
        } else {
            self.print(lines, targets)
        }
    }

    private static func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

    private func print(_ lines: [BenchLine], _ targets: [BenchTarget]) {
        func column(_ text: String, _ width: Int) -> String {
            String(repeating: " ", count: max(1, width - text.count)) + text
        }
        let width = (lines.map(\.name.count).max() ?? 0) + 2
        let output = Terminal.standardOutput
        output.line(
            String(repeating: " ", count: width) + targets.map { column($0.rawValue, 14) }.joined()
                + (targets.count == 2 ? column("ratio", 8) : ""))
        for line in lines {
            let values = targets.map { line.values[$0.rawValue] }
            var text = line.name + String(repeating: " ", count: width - line.name.count)
            for value in values {
                text += column(value.map { String(format: $0 < 1_000 ? "%.1f" : "%.0f", $0) } ?? "-", 14)
            }
            if case .some(.some(let ours)) = values.first, values.count == 2,
                case .some(.some(let other)) = values.last,
                other > 0
            {
                text += column(String(format: "%.2f", ours / other), 8)
            }
            output.line(text)
        }
    }

    /// One round with a broker started for it.
    private func measure(_ target: BenchTarget, _ site: BenchSite) async throws -> [(String, Double)] {
        let port = try await BenchSite.freePort()
        let process = try target.start(site, port: port, threads: self.threads)
        defer {
            // Not SIGTERM: the threads of Swift's tasks block it, and a child inherits that. Nothing is to be kept.
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
        }
        try await BenchSite.waitForListener(port)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        if self.threads == 1 { BenchTarget.pin(getpid(), toCore: 1) }
        let generator = LoadGenerator(
            port: port, broker: process.processIdentifier, payloadSize: self.payload, eventLoop: group.next())
        do {
            let results = try await self.measure(generator, site)
            try await group.shutdownGracefully()
            return results
        } catch {
            try? await group.shutdownGracefully()
            throw error
        }
    }

    private func measure(_ generator: LoadGenerator, _ site: BenchSite) async throws -> [(String, Double)] {
        var results: [(String, Double)] = []
        // First, so that memory is not what the load has left.
        let connections = try await generator.connections(self.connections, by: site.operatorTLS)
        results.append(("memory of an idle connection, KB", connections.kilobytesEach))
        results.append(("full mutual handshakes/s", connections.handshakesPerSecond))
        for qos in self.levels ?? [] {
            let fanIn = try await generator.throughput(
                qos: qos, publishers: site.publishers, subscribers: 1, by: site.operatorTLS, seconds: self.seconds)
            results.append(("fan-in QoS \(qos.rawValue), messages/s", fanIn.perSecond))
            results.append(("fan-in QoS \(qos.rawValue), us CPU a message", fanIn.microseconds))
            let fanOut = try await generator.throughput(
                qos: qos, publishers: Array(site.publishers.prefix(1)), subscribers: self.clients,
                by: site.operatorTLS, seconds: self.seconds)
            results.append(("fan-out QoS \(qos.rawValue), deliveries/s", fanOut.perSecond))
            results.append(("fan-out QoS \(qos.rawValue), us CPU a delivery", fanOut.microseconds))
        }
        let latency = try await generator.latency(
            publishers: site.publishers, by: site.operatorTLS, rate: self.rate, seconds: self.seconds)
        results.append(("latency p50 at \(self.rate)/s, us", latency.median))
        results.append(("latency p99 at \(self.rate)/s, us", latency.percentile99))
        return results
    }
}

/// A figure of each broker.
private struct BenchLine: Encodable {
    let name: String
    let values: [String: Double]
}

/// The brokers that are compared.
enum BenchTarget: String, CaseIterable, Sendable {
    case own = "secure-mqtt"
    case mosquitto

    private var program: String? {
        switch self {
        case .own: try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        case .mosquitto:
            ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
                .first { FileManager.default.isExecutableFile(atPath: $0) }
        }
    }

    var isInstalled: Bool { self.program != nil }

    func start(_ site: BenchSite, port: Int, threads: Int) throws -> Process {
        guard let program = self.program else { throw CommandError(.noInput, "\(self.rawValue) is not installed") }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        switch self {
        case .own:
            process.arguments = ["broker", "--config", site.configuration, "--log-level", "error"]
            let settings = [
                "broker.port=\(port)", "broker.listen=127.0.0.1", "broker.max-connections-per-identity=100000",
                "broker.max-sessions-per-identity=100000", "broker.connection-rate-per-identity=0",
                "broker.max-connections-per-address=100000", "broker.connection-rate-per-address=0",
                "broker.max-connections=100000", "broker.threads=\(threads)",
            ]
            for setting in settings { process.arguments? += ["--set", setting] }
        case .mosquitto:
            process.arguments = ["-c", try site.writeMosquittoConfiguration(port: port)]
            process.standardError = FileHandle.nullDevice
            process.standardOutput = FileHandle.nullDevice
        }
        try process.run()
        if threads == 1 { Self.pin(process.processIdentifier, toCore: 0) }
        return process
    }

    /// Keeps a process, all its threads, on one core, if there are more. What threads it starts later inherit that.
    static func pin(_ process: Int32, toCore core: Int) {
        guard ProcessInfo.processInfo.processorCount > 1 else { return }
        let taskset = Process()
        taskset.executableURL = URL(fileURLWithPath: "/usr/bin/taskset")
        taskset.arguments = ["-a", "-c", "-p", "\(core)", "\(process)"]
        taskset.standardOutput = FileHandle.nullDevice
        taskset.standardError = FileHandle.nullDevice
        // Without it the figures are noisier; that is all.
        guard (try? taskset.run()) != nil else { return }
        taskset.waitUntilExit()
    }
}

/// Certificates for a broker and its load.
struct BenchSite: Sendable {
    let directory: String
    /// Topic and TLS of each.
    let publishers: [(String, NIOSSLContext)]
    let operatorTLS: NIOSSLContext

    var configuration: String { "\(self.directory)/secure-mqtt.yaml" }

    static func make(at directory: String, publishers: Int) async throws -> BenchSite {
        let auditors = try (1...publishers).map { try Identifier("bench-\($0)") }
        let installation = Installation(
            trustDomain: try TrustDomain("bench.example"), hosts: [try HostName("localhost")], port: 8_883,
            broker: try Identifier("broker"), controlCenter: try Identifier("center"), auditors: auditors,
            operators: [try Identifier("reader")])
        try installation.make(at: directory, now: .now)
        let root = "\(directory)/pki/root.pem"
        return BenchSite(
            directory: directory,
            publishers: try auditors.map {
                ("audits/measures/\($0)", try Self.tls("\(directory)/auditors/\($0)/auditor", root))
            },
            operatorTLS: try Self.tls("\(directory)/operators/reader/operator", root))
    }

    private static func tls(_ party: String, _ root: String) throws -> NIOSSLContext {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.certificateChain = try NIOSSLCertificate.fromPEMFile("\(party).pem").map { .certificate($0) }
        configuration.privateKey = .privateKey(try NIOSSLPrivateKey(file: "\(party).key", format: .pem))
        configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(root))
        configuration.minimumTLSVersion = .tlsv13
        // What both brokers speak: Mosquitto's OpenSSL may know no post-quantum group.
        configuration.curves = [.x25519]
        return try NIOSSLContext(configuration: configuration)
    }

    func writeMosquittoConfiguration(port: Int) throws -> String {
        let path = "\(self.directory)/mosquitto.conf"
        let chain = "\(self.directory)/mosquitto-ca.pem"
        let authorities = try String(contentsOfFile: "\(self.directory)/pki/root.pem", encoding: .utf8)
        try authorities.write(toFile: chain, atomically: true, encoding: .utf8)
        // As fast as it can be: no access rules, nothing kept on disk, nothing logged, no limit that drops.
        try """
        listener \(port) 127.0.0.1
        cafile \(chain)
        certfile \(self.directory)/broker/broker.pem
        keyfile \(self.directory)/broker/broker.key
        require_certificate true
        use_identity_as_username true
        tls_version tlsv1.3
        allow_anonymous true
        persistence false
        log_type none
        max_inflight_messages 0
        max_queued_messages 0
        set_tcp_nodelay true
        user root

        """.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    static func freePort() async throws -> Int {
        let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .bind(host: "127.0.0.1", port: 0).get()
        let port = server.localAddress?.port ?? 0
        try await server.close()
        return port
    }

    static func waitForListener(_ port: Int) async throws {
        for _ in 0..<100 {
            let channel = try? await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connect(host: "127.0.0.1", port: port).get()
            if let channel {
                try await channel.close()
                return
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw CommandError(.unavailable, "the broker to be measured does not listen")
    }
}
