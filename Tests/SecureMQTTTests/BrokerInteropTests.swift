import Foundation
import TestSupport
import Testing

/// The broker as a process, and other people's clients.
struct BrokerInteropTests {
    /// A Python that has `Tests/Interop/python/requirements.txt` installed.
    private static let python: String? = {
        let named = ProcessInfo.processInfo.environment["SECURE_MQTT_PYTHON"]
        let path = named ?? "\(Self.checkout)/.venv/bin/python3"
        return FileManager.default.isExecutableFile(atPath: path) ? path : nil
    }()

    private static let checkout = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path

    private static func startDevelopment(_ port: Int, _ settings: String...) async throws -> ChildProcess {
        let process = try Program.start(
            ["broker", "--development", "--port", "\(port)"] + settings.flatMap { ["--set", $0] }, directory: "/tmp")
        try await process.waitForOutput("listening")
        return process
    }

    private static func stop(_ process: ChildProcess) async throws -> Bool {
        process.send(signal: SIGTERM)
        return try await process.wait() == .exited(0)
    }

    /// Runs one of Mosquitto's clients to its end.
    private static func client(_ program: String, _ arguments: [String]) async throws -> (
        exit: ChildProcess.Exit, says: String
    ) {
        let process = try ChildProcess(program, arguments)
        let exit = try await process.wait(within: .seconds(30))
        return (exit, process.output + process.errorOutput)
    }

    @Test(.enabled(if: Self.python != nil, "no Python environment: run make setup"))
    func `paho, aiomqtt and gmqtt find what they expect of a broker`() async throws {
        let port = try freePort()
        let broker = try await Self.startDevelopment(port)
        let script = "\(Self.checkout)/Tests/Interop/python/broker_clients.py"
        let program = try #require(Self.python)
        let process = try ChildProcess(program, ["-W", "ignore", script, "\(port)"])
        let exit = try await process.wait(within: .seconds(180))
        #expect(exit == .exited(0), "\(process.output)\(process.errorOutput)")
        #expect(try await Self.stop(broker))
    }

    @Test(.enabled(if: ChildProcess.find("mosquitto_pub") != nil))
    func `a broker for development warns, keeps nothing between starts, and keeps its limits`() async throws {
        let port = try freePort()
        let address = ["-h", "127.0.0.1", "-p", "\(port)", "-V", "5"]
        let first = try await Self.startDevelopment(port)
        #expect(first.errorOutput.contains("without TLS, and nothing is kept"))
        let kept = try await Self.client("mosquitto_pub", address + ["-t", "t", "-m", "kept", "-r", "-q", "1"])
        #expect(kept.exit == .exited(0))
        let heard = try await Self.client("mosquitto_sub", address + ["-t", "t", "-C", "1", "-W", "10"])
        #expect(heard.says.contains("kept"))
        #expect(try await Self.stop(first))

        let second = try await Self.startDevelopment(
            port, "maximum-qos=1", "retain-available=false", "subscribe-deny=secret/#", "subscribe-deny=private",
            "maximum-payload-size=5")
        let nothing = try await Self.client("mosquitto_sub", address + ["-t", "t", "-C", "1", "-W", "1"])
        #expect(!nothing.says.contains("kept"), "\(nothing)")
        for denied in ["secret/a", "private"] {
            let answer = try await Self.client("mosquitto_sub", address + ["-t", denied, "-E", "-W", "10"])
            #expect(answer.says.contains("denied"), "\(answer)")
        }
        let large = try await Self.client("mosquitto_pub", address + ["-t", "t", "-m", "123456", "-q", "1"])
        #expect(large.says.contains("Quota exceeded"), "\(large)")
        let system = try await Self.client("mosquitto_pub", address + ["-t", "$SYS/t", "-m", "1", "-q", "1"])
        #expect(system.says.contains("Not authorized"), "\(system)")
        #expect(try await Self.stop(second))
    }

    @Test(.enabled(if: FileManager.default.fileExists(atPath: "/proc/self/limits")))
    func `the limit of open files is raised as far as the system lets us`() async throws {
        let port = try freePort()
        let broker = try ChildProcess(
            "sh", ["-c", "ulimit -Sn 64; exec \"$0\" broker --development --port \(port)", Program.path])
        try await broker.waitForOutput("listening")
        let limits = try String(contentsOfFile: "/proc/\(broker.processIdentifier)/limits", encoding: .utf8)
        let line = try #require(limits.split(separator: "\n").first { $0.hasPrefix("Max open files") })
        let numbers = line.split(separator: " ").compactMap { Int($0) }
        #expect(numbers.count == 2 && numbers[0] == numbers[1] && numbers[0] > 64, "\(line)")
        #expect(try await Self.stop(broker))
    }

    /// Runs a script that speaks to the broker byte by byte: `connect(name)` gives a socket with a session.
    private static func speak(_ port: Int, _ script: String) async throws {
        let helpers = """
            import socket, sys, time
            def text(data):
                return len(data).to_bytes(2, "big") + data
            def packet(kind, body):
                length, size = b"", len(body)
                while True:
                    length += bytes([size % 128 | (128 if size > 127 else 0)])
                    size //= 128
                    if size == 0:
                        return bytes([kind]) + length + body
            def connect(name):
                for attempt in range(200):
                    try:
                        client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20)
                        break
                    except ConnectionRefusedError:
                        time.sleep(0.1)
                client.sendall(packet(0x10, text(b"MQTT") + b"\\4\\2\\0\\x3c" + text(name)))
                assert client.recv(4) == b"\\x20\\2\\0\\0"
                return client

            """
        let process = try ChildProcess("python3", ["-c", helpers + script, "\(port)"])
        #expect(try await process.wait() == .exited(0), "\(process.errorOutput)")
    }

    @Test(.enabled(if: ChildProcess.find("python3") != nil))
    func `what strangers say stays on its line of the log, and no terminal obeys it`() async throws {
        let port = try freePort()
        let broker = try await Self.startDevelopment(port)
        try await Self.speak(
            port,
            """
            client = connect("a\\n2026 forged".encode())
            topic = "$SYS/a\\n2026 forged\\n\\x1b[2K\\x9b1A\\u202e"
            client.sendall(packet(0x32, text(topic.encode()) + b"\\0\\1x"))
            assert client.recv(9) == b""
            """)
        #expect(try await Self.stop(broker))
        let lines = broker.errorOutput.split(separator: "\n")
        #expect(!lines.contains { $0.hasPrefix("2026 forged") }, "\(lines)")
        let told = lines.filter { $0.contains(#"topic=$SYS/a\u{A}2026 forged\u{A}\u{1B}[2K\u{9B}1A\u{202E}"#) }
        #expect(told.count == 1, "\(lines)")
    }

    @Test(.enabled(if: ChildProcess.find("python3") != nil))
    func `a log that nobody reads stops nothing`() async throws {
        let port = try freePort()
        let folder = try TemporaryDirectory()
        let pipe = folder.path("log")
        try #require(mkfifo(pipe, 0o600) == 0)
        let reader = open(pipe, O_RDWR | O_NONBLOCK | O_CLOEXEC)
        try #require(reader >= 0)
        defer { close(reader) }
        let broker = try ChildProcess(
            "sh", ["-c", "exec \"$0\" broker --development --port \(port) 2>\"$1\"", Program.path, pipe])
        // Each session is two lines, and a pipe holds 64 KB.
        try await Self.speak(port, "for number in range(2000): connect(b\"client-%d\" % number).close()")
        #expect(try await Self.stop(broker))
    }

    /// What somebody's certificate allows, with each of Mosquitto's clients.
    private struct Right {
        let who: String
        let program: String
        let arguments: [String]
        let isAllowed: Bool
    }

    private static let rights: [Right] = {
        let auditor = "home-1"
        let table: [(String, [String], [String])] = [
            // Who, may, may not.
            (
                "auditor", ["audits/measures/\(auditor)", "audits/hello/\(auditor)"],
                ["audits/measures/x", "control_center/keys", "t"]
            ),
            (
                "center", ["control_center/receipts/x", "control_center/alerts/all"],
                ["audits/measures/\(auditor)", "t"]
            ),
            ("operator", [], ["audits/measures/\(auditor)", "control_center/alerts/all", "t"]),
        ]
        let readers: [(String, [String], [String])] = [
            (
                "auditor", ["control_center/receipts/\(auditor)", "control_center/crl"],
                ["audits/#", "#", "$SYS/#", "control_center/receipts/+"]
            ),
            ("center", ["audits/#", "audits/measures/+", "$share/g/audits/#"], ["control_center/#", "#"]),
            ("operator", ["audits/#", "control_center/#", "$SYS/#"], ["#", "$share/g/audits/#"]),
        ]
        var rights: [Right] = []
        for qos in ["1", "2"] {
            for (who, may, mayNot) in table {
                for (topics, isAllowed) in [(may, true), (mayNot, false)] {
                    rights += topics.map {
                        Right(
                            who: who, program: "mosquitto_pub", arguments: ["-q", qos, "-m", "x", "-t", $0],
                            isAllowed: isAllowed)
                    }
                }
            }
            for (who, may, mayNot) in readers {
                for (filters, isAllowed) in [(may, true), (mayNot, false)] {
                    rights += filters.map {
                        Right(
                            who: who, program: "mosquitto_sub", arguments: ["-q", qos, "-E", "-W", "10", "-t", $0],
                            isAllowed: isAllowed)
                    }
                }
            }
        }
        return rights
    }()

    @Test(.enabled(if: ChildProcess.find("mosquitto_rr") != nil), arguments: ["311", "5"])
    func `with each certificate Mosquitto's clients may do what the topic table says, and nothing else`(
        version: String
    ) async throws {
        let plant = try await Plant(.brokerAndControlCenter, file: "")
        try await plant.start(.broker)
        for (role, id) in [("operator", "op-1"), ("control-center", "center-2")] {
            let made = try await Program.run([
                "pki", "issue", role, id, "--config", "\(plant.site)/secure-mqtt.yaml", "--out", "\(plant.site)/\(id)",
            ])
            #expect(made.status == 0, "\(made.errorOutput)")
        }
        @Sendable func credentials(_ who: String) -> [String] {
            let path =
                switch who {
                case "auditor": "auditors/\(Plant.auditor)/auditor"
                case "center": "center-2/control-center"
                default: "op-1/operator"
                }
            return [
                "-h", "127.0.0.1", "-p", "\(plant.port)", "-V", version, "--cafile", "\(plant.site)/pki/root.pem",
                "--cert", "\(plant.site)/\(path).pem", "--key", "\(plant.site)/\(path).key",
            ]
        }
        for right in Self.rights {
            let (exit, says) = try await Self.client(right.program, credentials(right.who) + right.arguments)
            // A publisher of 3.1.1 can only be told by the end of its connection.
            let isRefused =
                says.contains("denied") || says.contains("Not authorized") || says.contains("connection was lost")
            #expect(isRefused == !right.isAllowed, "\(right): \(exit) \(says)")
        }

        // Request and response: the auditor asks, the control center answers.
        let center = try ChildProcess(
            "mosquitto_sub", credentials("center") + ["-q", "1", "-t", "audits/hello/+", "-C", "1", "-W", "20"])
        let asking = try ChildProcess(
            "mosquitto_rr",
            credentials("auditor") + [
                "-q", "1", "-t", "audits/hello/\(Plant.auditor)", "-e", "control_center/receipts/\(Plant.auditor)",
                "-m", "question", "-W", "20",
            ])
        // The question may come before the control center has subscribed: it is asked until it is heard.
        try await withDeadline(.seconds(20), "the question is heard") {
            while !center.output.contains("question") {
                _ = try await Self.client(
                    "mosquitto_pub",
                    credentials("auditor") + ["-q", "1", "-t", "audits/hello/\(Plant.auditor)", "-m", "question"])
            }
        }
        try await withDeadline(.seconds(20), "the answer is heard") {
            while !asking.output.contains("answer") {
                _ = try await Self.client(
                    "mosquitto_pub",
                    credentials("center") + [
                        "-q", "1", "-t", "control_center/receipts/\(Plant.auditor)", "-m", "answer",
                    ])
            }
        }
        #expect(try await plant.stop(), "\(plant.logs)")
    }
}
