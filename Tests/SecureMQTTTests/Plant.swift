import Foundation
import GRDB
import Synchronization
import TestSupport
import Testing

/// A whole installation as processes of their own, as its users run it: broker, control center and one auditor
/// that replays a file.
final class Plant: Sendable {
    /// The three ways to run the server's side.
    enum Shape: String, CaseIterable, CustomTestStringConvertible {
        /// Broker and control center in one process.
        case serve
        /// The embedded broker, and the control center as its client.
        case brokerAndControlCenter = "broker + control-center"
        /// A real Mosquitto, and the control center as its client.
        case mosquitto = "Mosquitto + control-center"

        var testDescription: String { self.rawValue }

        var parts: [Part] {
            switch self {
            case .serve: [.server, .auditor]
            case .brokerAndControlCenter, .mosquitto: [.broker, .controlCenter, .auditor]
            }
        }

        var isPossible: Bool { self != .mosquitto || MosquittoServer.isInstalled }
    }

    enum Part: String, CaseIterable {
        case server, broker, controlCenter, auditor
    }

    static let auditor = "home-1"
    /// Another auditor, with a certificate as good.
    static let intruder = "intruder"

    let shape: Shape
    let folder: TemporaryDirectory
    let site: String
    let port: Int
    private let disks: [Part: LostWrites]
    private let processes = Mutex<[Part: ChildProcess]>([:])
    private let input: String
    private let speed: String

    /// Makes the installation; starts nothing.
    ///
    /// - Parameters:
    ///   - file: What the auditor replays, in the original's long form.
    ///   - losesWrites: Whether a kill also takes with it what was not synced.
    ///   - speed: How fast the auditor replays; a factor makes sure that it can be met in the middle of its work.
    init(_ shape: Shape, file: String, losesWrites: Bool = false, speed: String = "max") async throws {
        let folder = try TemporaryDirectory()
        self.folder = folder
        self.shape = shape
        self.port = try freePort()
        self.speed = speed
        self.site = folder.path("site")
        self.input = try folder.write(file, to: "readings.csv")
        let made = try await Program.run([
            "init", self.site, "--trust-domain", "test.example", "--host", "127.0.0.1", "--port", "\(self.port)",
            "--auditor", Self.auditor, "--auditor", Self.intruder,
        ])
        guard made.status == 0 else { throw PlantError(description: "init: \(made.errorOutput)") }
        let state = "\(self.site)/auditors/\(Self.auditor)/state"
        try FileManager.default.createDirectory(atPath: state, withIntermediateDirectories: true)
        if shape == .mosquitto {
            let exported = try await Program.run([
                "pki", "export-mosquitto", "--config", "\(self.site)/secure-mqtt.yaml", "--user", "root",
                "\(self.site)/mosquitto",
            ])
            guard exported.status == 0 else {
                throw PlantError(description: "export-mosquitto: \(exported.errorOutput)")
            }
        }
        if losesWrites {
            let center = try await LostWrites(root: "\(self.site)/control-center", image: folder.path("center.image"))
            self.disks = [
                .auditor: try await LostWrites(root: state, image: folder.path("auditor.image")),
                .server: center, .controlCenter: center,
            ]
        } else {
            self.disks = [:]
        }
    }

    deinit {
        for process in self.processes.withLock({ $0.values }) { process.kill() }
    }

    private func arguments(_ part: Part) -> [String] {
        let server = "\(self.site)/secure-mqtt.yaml"
        return switch part {
        case .server: ["serve", "--config", server]
        case .broker: ["broker", "--config", server]
        case .controlCenter: ["control-center", "--config", server]
        case .auditor:
            [
                "auditor", "run", "--config", "\(self.site)/auditors/\(Self.auditor)/secure-mqtt.yaml", "--input",
                self.input, "--exit", "--json", "--speed", self.speed,
            ]
        }
    }

    /// Starts one part, and waits until it works.
    func start(_ part: Part) async throws {
        let process: ChildProcess
        if part == .broker, self.shape == .mosquitto {
            process = try ChildProcess("mosquitto", ["-c", "\(self.site)/mosquitto/mosquitto.conf"])
        } else {
            process = try Program.start(self.arguments(part), environment: self.disks[part]?.environment ?? [:])
        }
        self.processes.withLock { $0[part] = process }
        switch part {
        case .server: try await process.waitForOutput("listening")
        case .broker where self.shape == .mosquitto:
            try await withDeadline(.seconds(20), "mosquitto listens") { [port = self.port] in
                // It says nothing of it.
                while !isListening(port: port) { try await Task.sleep(for: .milliseconds(5)) }
            }
        case .broker: try await process.waitForOutput("listening")
        case .controlCenter: try await process.waitForOutput("session-present")
        case .auditor: break
        }
    }

    func startAll() async throws {
        for part in self.shape.parts { try await self.start(part) }
    }

    func process(_ part: Part) -> ChildProcess? { self.processes.withLock { $0[part] } }

    /// kill -9, and with it what was not synced, if that is asked for; then starts it again.
    func crash(_ part: Part) async throws {
        guard let process = self.process(part) else { return }
        process.kill()
        try await process.wait()
        try await self.disks[part]?.losePower()
        try await self.start(part)
    }

    /// Ends the server's side in good order.
    ///
    /// - Returns: Whether every part ended with status 0.
    func stop() async throws -> Bool {
        var statuses: [ChildProcess.Exit] = []
        for part in self.shape.parts.reversed() where part != .auditor {
            guard let process = self.process(part) else { continue }
            process.send(signal: SIGTERM)
            statuses.append(try await process.wait())
        }
        return statuses.allSatisfy { $0 == .exited(0) }
    }

    /// What all parts have logged since they last started.
    var logs: String {
        self.processes.withLock { $0 }.map { part, process in
            "--- \(part.rawValue):\n\(process.output.suffix(600))\n\(process.errorOutput.suffix(2_500))"
        }.joined(separator: "\n")
    }

    /// Asks the control center's database.
    func query<Value: DatabaseValueConvertible>(_ sql: String, as _: Value.Type = Value.self) throws -> Value? {
        var configuration = Configuration()
        configuration.readonly = true
        return try DatabaseQueue(path: "\(self.site)/store/store.sqlite3", configuration: configuration)
            .read { try Value.fetchOne($0, sql: sql) }
    }

    /// Waits until the control center's database says a number to a question.
    func waitFor(_ number: Int, _ sql: String, within limit: Duration = .seconds(60)) async throws {
        try await withDeadline(limit, "\(sql) is \(number)") {
            // Another process writes it: asking again is the only way to know.
            while try self.query(sql, as: Int.self) ?? 0 < number { try await Task.sleep(for: .milliseconds(20)) }
        }
    }

    /// What is stored: quantity, time and digits of each reading, sorted.
    func stored() throws -> [String] {
        var configuration = Configuration()
        configuration.readonly = true
        let database = try DatabaseQueue(
            path: "\(self.site)/store/store.sqlite3", configuration: configuration)
        return try database.read { db in
            try String.fetchAll(
                db,
                sql: "SELECT quantity || ' ' || time || ' ' || exact FROM readings WHERE auditor = ? ORDER BY 1",
                arguments: [Self.auditor])
        }
    }
}

struct PlantError: Error, CustomStringConvertible {
    let description: String
}

/// A file of readings in the original's long form, and what is to be stored of it.
struct Readings {
    let file: String
    /// As ``Plant/stored()`` gives them.
    let expected: [String]

    /// - Parameter instants: Quarter hours, each with a consumption and a production.
    init(instants: Int, seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var file = "id,datetime,type,value\n"
        var expected: [String] = []
        let start = 1_700_000_100 / 900 * 900
        for instant in 0..<instants {
            let seconds = start + instant * 900
            let date = Date(timeIntervalSince1970: TimeInterval(seconds))
            let time = date.formatted(.iso8601)
            let plain = time.replacing("T", with: " ").replacing("Z", with: "")
            for (type, quantity) in [(0, "consumption"), (1, "production")] {
                // Digits of all lengths, zeros at the end among them.
                let behind = Int.random(in: 1...6, using: &random)
                let digits = String(Int.random(in: 0..<1_000_000, using: &random)).suffix(behind)
                let value =
                    "\(Int.random(in: 0..<50, using: &random))."
                    + String(repeating: "0", count: behind - digits.count) + digits
                file += "\(Plant.auditor),\(plain),\(type),\(value)\n"
                expected.append("\(quantity) \(time) \(value)")
            }
        }
        self.file = file
        self.expected = expected.sorted()
    }
}
