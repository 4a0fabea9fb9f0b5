import Foundation
import GRDB
import TestSupport
import Testing

/// A Python with paho-mqtt 1.6.1, which the original's programs need: `.venv-licore` of the checkout, or what
/// `SECURE_MQTT_LICORE_PYTHON` names.
private enum OldPython {
    static let checkout = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().path
    static let scripts = "\(Self.checkout)/Tests/Interop/python"

    static let program: String? = {
        let named = ProcessInfo.processInfo.environment["SECURE_MQTT_LICORE_PYTHON"]
        let path = named ?? "\(Self.checkout)/.venv-licore/bin/python3"
        return FileManager.default.isExecutableFile(atPath: path) ? path : nil
    }()

    /// A folder with the original's own sources, if somebody has them: they are no part of this repository. Then they
    /// run in the place of the stand-ins. They need pandas as well: name a Python that has it.
    static let sources = ProcessInfo.processInfo.environment["SECURE_MQTT_LICORE_SOURCES"]
}

/// The original's two programs as they are, in the folders that they expect: certificates in `../.test_certs`, readings
/// and database in `../../db`. Only the broker's address is changed, which is written into them.
private struct OriginalPrograms {
    let folder: TemporaryDirectory
    let database: String
    private let scripts: String

    init(sources: String, certificates: TemporaryDirectory, roots: String, readings: String) async throws {
        self.folder = try TemporaryDirectory()
        self.scripts = self.folder.path("src/clients")
        self.database = self.folder.path("db/measures.sqlite3")
        let files = FileManager.default
        for path in ["src/clients", "db/processed"] {
            try files.createDirectory(atPath: self.folder.path(path), withIntermediateDirectories: true)
        }
        try files.copyItem(atPath: certificates.path, toPath: self.folder.path("src/.test_certs"))
        try? files.removeItem(atPath: self.folder.path("src/.test_certs/ca-root-cert.crt"))
        try self.folder.write(roots, to: "src/.test_certs/ca-root-cert.crt")
        try files.copyItem(atPath: readings, toPath: self.folder.path("db/processed/Prosumer_ABC.csv"))
        for file in try files.subpathsOfDirectory(atPath: sources) where file.hasSuffix(".py") {
            let name = file.split(separator: "/").last.map(String.init) ?? file
            try files.copyItem(atPath: "\(sources)/\(file)", toPath: "\(self.scripts)/\(name)")
        }
        try await DatabaseQueue(path: self.database).write { db in
            try db.execute(
                sql: "CREATE TABLE measures (aud_id TEXT, measured_timestamp TEXT, measure_type INTEGER, measure REAL)")
        }
    }

    /// Starts the program whose text has all of these.
    func start(having marks: [String], port: Int) throws -> ChildProcess {
        for name in try FileManager.default.contentsOfDirectory(atPath: self.scripts) where name.hasSuffix(".py") {
            let path = "\(self.scripts)/\(name)"
            let text = try String(contentsOfFile: path, encoding: .utf8)
            guard marks.allSatisfy(text.contains) else { continue }
            try text.replacing("mqtt.mona-temp-test.com", with: "127.0.0.1").replacing("8883", with: "\(port)")
                .write(toFile: path, atomically: true, encoding: .utf8)
            return try ChildProcess(try #require(OldPython.program), ["-u", name], directory: self.scripts)
        }
        throw PlantError(description: "none of the original's programs has \(marks)")
    }

    func startDatabase(port: Int) throws -> ChildProcess {
        try self.start(having: ["write_to_db(", "single(", "loop_forever("], port: port)
    }

    func startPublisher(port: Int) throws -> ChildProcess {
        try self.start(having: ["create_packets(", "global SAMPLE_RATE", "loop_start("], port: port)
    }
}

/// A fleet in the middle of its move: an auditor with signed statements, one of ours that speaks the original's format,
/// the original's publisher and its database client.
@Suite(
    "A fleet moves piece by piece",
    .enabled(if: OldPython.program != nil && OpenSSL.isInstalled, "no .venv-licore: run make setup"))
struct LiCoreFleetTests {
    let folder: TemporaryDirectory
    let original: OriginalAuthority

    init() async throws {
        self.folder = try TemporaryDirectory()
        self.original = try await OriginalAuthority(clients: ["auditor_mona", "database_licore"])
    }

    private var site: String { self.folder.path("site") }
    private var server: String { "\(self.site)/secure-mqtt.yaml" }

    private func run(_ arguments: String..., expecting status: Int32 = 0) async throws -> Program.Result {
        let result = try await Program.run(arguments)
        #expect(result.status == status, "\(arguments): \(result.errorOutput)")
        return result
    }

    private func query(_ path: String, _ sql: String) throws -> [String] {
        var configuration = Configuration()
        configuration.readonly = true
        return try DatabaseQueue(path: path, configuration: configuration).read { try String.fetchAll($0, sql: sql) }
    }

    private func waitFor(_ count: Int, _ path: String, _ sql: String, _ logs: @escaping @Sendable () -> String)
        async throws
    {
        do {
            try await withDeadline(.seconds(60), "\(sql) gives \(count)") {
                // Other processes write it: asking again is the only way to know.
                while (try? self.query(path, sql).count) ?? 0 < count { try await Task.sleep(for: .milliseconds(50)) }
            }
        } catch {
            Issue.record("\(sql): \((try? self.query(path, sql)) ?? []) \(logs())")
            throw error
        }
    }

    /// Quarter hours of one auditor, in the long form.
    private func readings(_ id: String, _ count: Int, from hour: Int = 0) throws -> (file: String, texts: [String]) {
        var file = "id,datetime,type,value\n"
        var texts: [String] = []
        for index in 0..<count {
            let minutes = index * 15
            let date = String(format: "2011-07-%02d %02d:%02d:00", 1 + minutes / 1_440, minutes / 60 % 24, minutes % 60)
            for type in 0...1 {
                let value = "\(type).\(100 + index)5"
                file += "\(id),\(date),\(type),\(value)\n"
                texts.append("\(id)/\(date)/\(type)/\(value)")
            }
        }
        return (try self.folder.write(file, to: "\(id).csv"), texts)
    }

    /// One of the stand-ins.
    private func python(_ script: String, _ arguments: String..., environment: [String: String] = [:]) throws
        -> ChildProcess
    {
        try ChildProcess(
            try #require(OldPython.program),
            [
                "\(OldPython.scripts)/\(script)", "--folder", self.original.folder.path, "--ca",
                self.folder.path("ca.pem"),
            ] + arguments, environment: ProcessInfo.processInfo.environment.merging(environment) { $1 })
    }

    @Test(
        "all are alive at the end, and every reading is where it belongs",
        arguments: [Plant.Shape.serve, .mosquitto].filter(\.isPossible))
    func moves(shape: Plant.Shape) async throws {
        let port = try freePort()
        // Mosquitto gives the original's clients a listener of their own.
        let oldPort = shape == .mosquitto ? try freePort() : port
        _ = try await self.run(
            "init", self.site, "--unencrypted", "--trust-domain", "test.example", "--host", "127.0.0.1", "--host",
            "localhost", "--port",
            "\(port)", "--auditor", "signed", "--auditor", "ours")
        for id in ["signed", "ours"] {
            let certificate = try String(contentsOfFile: "\(self.site)/auditors/\(id)/auditor.pem", encoding: .utf8)
            try self.original.folder.write(certificate, to: "\(id).crt")
        }
        // What the devices trust: one file, with both authorities while they move.
        let roots =
            try String(contentsOfFile: "\(self.site)/pki/root.pem", encoding: .utf8)
            + String(contentsOfFile: self.original.rootFile, encoding: .utf8)
        try self.folder.write(roots, to: "ca.pem")
        for (id, certificate) in [
            ("auditor_mona", self.original.certificateFile("auditor_mona")),
            ("ours", "\(self.site)/auditors/ours/auditor.pem"),
        ] {
            _ = try await self.run(
                "fleet", "allow", id, "--certificate", certificate, "--controller", "database_licore", "--time-zone",
                id == "auditor_mona" ? "Europe/Madrid" : "UTC", "--until", "2099-06-30", "--config", self.server)
        }
        _ = try await self.run(
            "fleet", "allow", "database_licore", "--database-client", "--certificate",
            self.original.certificateFile("database_licore"), "--until", "2099-06-30", "--config", self.server)

        var processes: [ChildProcess] = []
        let key = [
            "--set", "licore.controller=database_licore", "--set",
            "licore.controller-key=\(self.original.keyFile("database_licore"))",
        ]
        switch shape {
        case .mosquitto:
            _ = try await self.run(
                "pki", "export-mosquitto", "--config", self.server, "--user", "root", "--licore-port", "\(oldPort)",
                "--licore-ca", self.original.rootFile, "\(self.site)/mosquitto")
            processes.append(try ChildProcess("mosquitto", ["-c", "\(self.site)/mosquitto/mosquitto.conf"]))
            try await withDeadline(.seconds(20), "mosquitto listens") {
                // It says nothing of it.
                while !isListening(port: port) || !isListening(port: oldPort) {
                    try await Task.sleep(for: .milliseconds(5))
                }
            }
            let center = try Program.start(["control-center", "--config", self.server] + key)
            processes.append(center)
            try await center.waitForOutput("session-present")
        default:
            let server = try Program.start(["serve", "--config", self.server] + key)
            processes.append(server)
            try await server.waitForOutput("listening")
        }

        let signed = try self.readings("signed", 20)
        let ours = try self.readings("ours", 20)
        let mona = try self.readings("auditor_mona", 20)
        var originals: OriginalPrograms?
        if let sources = OldPython.sources {
            originals = try await OriginalPrograms(
                sources: sources, certificates: self.original.folder, roots: roots, readings: mona.file)
        }
        let old = originals?.database ?? self.folder.path("measures.sqlite3")
        let database =
            try originals?.startDatabase(port: oldPort)
            ?? self.python(
                "licore_database.py", "--port", "\(oldPort)", "--database", old, "--target", "auditor_mona", "--value",
                "0.011",
                "--qos", "2")
        processes.append(database)
        // At Mosquitto its second connection ends its first, which comes again; the stand-in says when it has subscribed.
        let connected = "Connected through MQTT 0\n"
        try await database.waitForOutput(
            originals == nil ? "subscribed [0]" : shape == .mosquitto ? connected + connected : connected)

        let publisher =
            try originals?.startPublisher(port: oldPort)
            ?? self.python(
                "licore_publisher.py", "--port", "\(oldPort)", "--name", "auditor_mona", "--controller",
                "database_licore", "--csv",
                mona.file, "--rate", "0.02", "--await-rate", "0.05")
        try await publisher.waitForOutput(originals == nil ? "sample rate 0.011" : "sample rate: 0.2")
        var auditors: [ChildProcess] = []
        let kinds: [(String, String, [String])] = [
            ("signed", signed.file, []), ("ours", ours.file, ["--set", "auditor.format=licore"]),
        ]
        for (id, file, more) in kinds {
            auditors.append(
                try Program.start(
                    [
                        "auditor", "run", "--config", "\(self.site)/auditors/\(id)/secure-mqtt.yaml", "--input", file,
                        "--exit", "--json",
                    ] + more))
        }
        let all = processes + auditors
        let logs: @Sendable () -> String = {
            (all + [publisher]).map { "--- \($0.name): \($0.output.suffix(500)) \($0.errorOutput.suffix(1_500))" }
                .joined(separator: "\n")
        }
        // The new control center speaks to the old publisher.
        let updated = try await self.run(
            "fleet", "update", "auditor_mona", "SAMPLE_RATE", "0.05", "--config", self.server)
        #expect(updated.output.contains("handed to the broker"), "\(logs())")
        try await publisher.waitForOutput(originals == nil ? "sample rate 0.05" : "sample rate: 0.05")
        for auditor in auditors { #expect(try await auditor.wait() == .exited(0), "\(logs())") }
        #expect(try await publisher.wait() == .exited(0), "\(logs())")

        let store = "\(self.site)/store/store.sqlite3"
        let verified = "SELECT auditor || '/' || exact || '/' || format FROM readings ORDER BY 1"
        try await self.waitFor(120, store, verified, logs)
        func expected(_ texts: [String], _ format: String) -> [String] {
            texts.map { text in
                let fields = text.split(separator: "/")
                return "\(fields[0])/\(fields[3])/\(format)"
            }
        }
        let wanted = expected(signed.texts, "cose") + expected(ours.texts, "licore") + expected(mona.texts, "licore")
        #expect(try self.query(store, verified) == wanted.sorted())
        // The old database has what speaks its format, both of it, and nothing else.
        let stored =
            "SELECT aud_id || '/' || measured_timestamp || '/' || measure_type || '/' || printf('%.4f', measure) FROM measures ORDER BY 1"
        try await self.waitFor(80, old, stored, logs)
        let rounded = (ours.texts + mona.texts).map { (text: String) -> String in
            let fields = text.split(separator: "/")
            return fields[0...2].joined(separator: "/") + "/" + String(format: "%.4f", Double(fields[3]) ?? 0)
        }
        #expect(try self.query(old, stored) == rounded.sorted())
        // Its zone is that of the auditor.
        #expect(
            try self.query(store, "SELECT min(time) FROM readings WHERE auditor = 'auditor_mona'") == [
                "2011-06-30T22:00:00Z"
            ])
        #expect(database.isRunning, "\(logs())")
        #expect(processes.allSatisfy { $0.isRunning }, "\(logs())")

        // A bad signature ends the original's client, and nobody of ours.
        let forger = try self.python(
            "licore_publisher.py", "--port", "\(oldPort)", "--name", "auditor_mona", "--controller", "database_licore",
            "--csv",
            mona.file, "--rate", "0", "--forge")
        #expect(try await forger.wait() == .exited(0), "\(logs())")
        try await self.waitFor(1, store, "SELECT reason FROM quarantine WHERE reason = 'signature'", logs)
        try await self.waitFor(1, store, "SELECT reason FROM counter WHERE reason = 'duplicate' AND count = 40", logs)
        _ = try? await database.wait(within: .seconds(20))
        #expect(!database.isRunning)
        #expect(processes.filter { $0 !== database }.allSatisfy { $0.isRunning }, "\(logs())")

        let listed = try await self.run("fleet", "--json", "--config", self.server)
        #expect(listed.output.split(separator: "\n").count == 3)
        #expect(listed.output.contains(#""readings":40"#), "\(listed.output)")
        let imported = try await self.run("migrate", "licore-db", old, "--json", "--config", self.server)
        #expect(imported.lastLine == #"{"imported":80,"known":0,"skipped":0}"#)
        #expect(try self.query(store, "SELECT exact FROM history").count == 80)
        #expect(try self.query(store, verified).count == 120)

        // An end is heard while it all runs.
        if shape == .serve {
            _ = try await self.run("fleet", "end", "auditor_mona", "--config", self.server)
            try await processes[0].waitForOutput("fleet read again")
            let refused = try self.python(
                "licore_publisher.py", "--port", "\(oldPort)", "--name", "auditor_mona", "--controller",
                "database_licore",
                "--csv", mona.file, "--rate", "0")
            try await processes[0].waitForOutput("client certificate refused")
            refused.kill()
        }
        for process in processes where process !== database {
            process.send(signal: SIGTERM)
            #expect(try await process.wait() == .exited(0), "\(logs())")
        }
    }
}

/// `fleet`, `migrate` and `convert`, as a person or a script meets them.
@Suite("The fleet's commands", .enabled(if: OpenSSL.isInstalled))
struct FleetCommandTests {
    let folder: TemporaryDirectory
    let original: OriginalAuthority

    init() async throws {
        self.folder = try TemporaryDirectory()
        self.original = try await OriginalAuthority(clients: ["mona", "database_licore"])
        let made = try await Program.run([
            "init", self.folder.path("site"), "--unencrypted", "--trust-domain", "test.example", "--auditor", "lena",
            "--operator",
            "olga",
        ])
        try #require(made.status == 0, "\(made.errorOutput)")
    }

    private var config: [String] { ["--config", self.folder.path("site/secure-mqtt.yaml")] }

    private func allow(_ id: String = "mona", _ more: String...) async throws -> Program.Result {
        try await Program.run(
            ["fleet", "allow", id, "--certificate", self.original.certificateFile("mona")] + more + self.config)
    }

    @Test("nobody is in it at first; who is allowed is listed, and ended")
    func life() async throws {
        let empty = try await Program.run(["fleet", "--json"] + self.config)
        #expect(empty.status == 0 && empty.output.isEmpty)
        let allowed = try await self.allow(
            "mona", "--controller", "database_licore", "--time-zone", "Europe/Madrid", "--until", "2099-06-30")
        #expect(allowed.status == 0, "\(allowed.errorOutput)")
        #expect(allowed.errorOutput.contains("warning: its certificate expires before that"))
        let listed = try await Program.run(["fleet", "--json"] + self.config)
        let row = try #require(
            try JSONSerialization.jsonObject(with: Data(listed.lastLine.utf8)) as? [String: Any])
        #expect(row["id"] as? String == "mona" && row["status"] as? String == "allowed")
        #expect(row["until"] as? String == "2099-06-30" && row["ours"] as? Bool == false)
        #expect(row["last_seen"] == nil && row["readings"] as? Int == 0)
        #expect((355...360).contains(row["days_left"] as? Int ?? 0))
        let ended = try await Program.run(["fleet", "end", "mona"] + self.config)
        #expect(ended.status == 0)
        #expect(try await Program.run(["fleet", "--json"] + self.config).output.isEmpty)
        #expect(try await Program.run(["fleet", "end", "mona"] + self.config).status == 64)
    }

    @Test(
        "what cannot be allowed is refused in one line, and nothing is written",
        arguments: [
            (["mona", "--controller", "c", "--time-zone", "UTC", "--until", "2020-01-01"], "until 2020-01-01"),
            (["mona", "--controller", "c", "--time-zone", "UTC", "--until", "soon"], "write it like 2027-06-30"),
            (["mona", "--controller", "c", "--time-zone", "Mars", "--until", "2099-01-01"], "--time-zone Mars"),
            (["mona", "--controller", "c", "--until", "2099-01-01"], "--time-zone"),
            (["mona", "--time-zone", "UTC", "--until", "2099-01-01"], "--controller"),
            (["mona", "--database-client", "--controller", "c", "--until", "2099-01-01"], "--controller"),
            (["all", "--controller", "c", "--time-zone", "UTC", "--until", "2099-01-01"], "reserved"),
            (["olga", "--controller", "c", "--time-zone", "UTC", "--until", "2099-01-01"], "operator/olga"),
            (["LENA", "--controller", "c", "--time-zone", "UTC", "--until", "2099-01-01"], "auditor/lena"),
            (["center-1", "--controller", "c", "--time-zone", "UTC", "--until", "2099-01-01"], "control center's"),
        ])
    func refused(_ arguments: [String], _ text: String) async throws {
        let result = try await Program.run(
            ["fleet", "allow"] + arguments + ["--certificate", self.original.certificateFile("mona")] + self.config)
        #expect(result.status == 64, "\(result.errorOutput)")
        #expect(result.errorOutput.contains(text), "\(result.errorOutput)")
        #expect(result.errorOutput.split(separator: "\n").count == 1)
        #expect(!FileManager.default.fileExists(atPath: self.folder.path("site/fleet.json")))
    }

    @Test("a fleet file that was spoilt stops the server from starting, with one line")
    func spoilt() async throws {
        try self.folder.write("{}", to: "site/fleet.json")
        let served = try await Program.run(["broker"] + self.config)
        #expect(served.status == 78, "\(served.errorOutput)")
        #expect(served.errorOutput.contains("fleet.json"))
    }

    @Test("the wide file becomes the long one, in order of time, digit for digit")
    func converts() async throws {
        let names = "ID;Consumo (0) / Producción (1);Dia;Mes ;Año;" + (0..<96).map(String.init).joined(separator: ";")
        func line(_ id: String, _ type: Int, _ day: Int) -> String {
            "\(id);\(type);\(day);7;2011;" + (0..<96).map { $0 == 5 ? "" : "\(type).\($0)0" }.joined(separator: ";")
        }
        let file = try self.folder.write(
            ([names] + [line("mona", 0, 1), line("mona", 0, 2), line("mona", 1, 1), line("lena", 0, 1)])
                .joined(separator: "\n") + "\n", to: "wide.csv")
        let result = try await Program.run(["convert", "licore-csv", file])
        #expect(result.status == 0, "\(result.errorOutput)")
        let lines = result.output.split(separator: "\n").map(String.init)
        #expect(lines.count == 1 + 4 * 95)
        #expect(
            Array(lines.prefix(4)) == [
                "id,datetime,type,value", "mona,2011-07-01 00:00:00,0,0.00", "mona,2011-07-01 00:00:00,1,1.00",
                "lena,2011-07-01 00:00:00,0,0.00",
            ])
        #expect(lines.last == "mona,2011-07-02 23:45:00,0,0.950")
        #expect(!result.output.contains("01:15:00"))
        let none = try await Program.run(["convert", "licore-csv", self.folder.path("none.csv")])
        #expect(none.status == 66 && none.errorOutput.split(separator: "\n").count == 1)
    }

    @Test(
        "the partner's file converts whole",
        .enabled(if: SharedData.path("data/prosumer-licore-wide.csv") != nil, "no shared data"))
    func partnersFile() async throws {
        let file = try #require(SharedData.path("data/prosumer-licore-wide.csv"))
        let result = try await Program.run(["convert", "licore-csv", file])
        #expect(result.status == 0, "\(result.errorOutput)")
        let lines = result.output.split(separator: "\n").map(String.init)
        #expect(lines.count == 1 + 11_904)
        #expect(lines.contains("auditor_mona,2011-07-01 00:00:00,0,0.098"))
    }
}
