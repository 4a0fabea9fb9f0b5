import ControlCenter
import Foundation
import Logging
import MQTT
import MessageBus
import NIOCore
import PKI
import Synchronization
import Telemetry
import TestSupport
import Testing

/// Servers in Python: an HTTP server that checks the signature, and aiosmtpd.
private enum Receiver {
    static let checkout = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().path

    /// The one that `SECURE_MQTT_PYTHON` names, else that of `.venv` in the checkout.
    static let python: String? = {
        let path = ProcessInfo.processInfo.environment["SECURE_MQTT_PYTHON"] ?? "\(Self.checkout)/.venv/bin/python3"
        return FileManager.default.isExecutableFile(atPath: path) ? path : nil
    }()

    static func start(_ arguments: [String]) async throws -> ChildProcess {
        let process = try ChildProcess(
            try #require(Self.python), ["\(Self.checkout)/Tests/Interop/python/receivers.py"] + arguments)
        try await process.waitForOutput("listening")
        return process
    }

    /// A certificate for `localhost` that is its own root, and its key.
    static func certificate(in folder: TemporaryDirectory) async throws -> (certificate: String, key: String) {
        let (certificate, key) = (folder.path("mail.pem"), folder.path("mail.key"))
        let process = try ChildProcess(
            "openssl",
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate,
            ])
        #expect(try await process.wait() == .exited(0))
        return (certificate, key)
    }
}

/// Takes what is published, and never hears anything.
private final class SilentBus: MessageBus {
    private let state = Mutex<[(topic: String, bytes: [UInt8])]>([])

    var published: [(topic: String, bytes: [UInt8])] { self.state.withLock { $0 } }

    func receive() async throws -> [BusEvent]? { nil }
    func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws {
        self.state.withLock { $0.append((topic.rawValue, Array(payload.readableBytesView))) }
    }
}

/// The machine's clock, put forward by a test.
private final class MovedClock: Sendable {
    private let ahead = Mutex<Int64>(0)

    func move(seconds: Int64) { self.ahead.withLock { $0 += seconds * 1_000_000_000 } }
    var now: Timestamp { systemClock().advanced(byNanoseconds: self.ahead.withLock { $0 }) }
}

@Suite("People are told", .enabled(if: Receiver.python != nil, "no Python environment: run make setup"))
struct NotificationTests {
    private let folder: TemporaryDirectory
    private let pki: TestPKI
    private let store: ControlCenterStore

    init() throws {
        self.folder = try TemporaryDirectory()
        self.pki = try TestPKI(auditors: ["mona"])
        self.store = try ControlCenterStore(directory: self.folder.path)
    }

    /// Restarts a stream, which is an alert, while a desk runs; `body` waits for what comes of it.
    private func whileAlerted(
        _ settings: NotificationSettings, bus: SilentBus = SilentBus(), clock: MovedClock = MovedClock(),
        _ body: () async throws -> Void, afterwards: () async throws -> Void = {}
    ) async throws {
        let desk = ControlDesk(
            bus: bus, store: self.store, signer: PartySigner(self.pki.controlCenter),
            chain: self.pki.controlCenter.chainDER, notifications: settings, clock: { clock.now })
        var home = TestAuditor(try self.pki.auditor("mona"), at: Timestamp(seconds: self.pki.now))
        var center = try TestCenter(self.store, pki: self.pki)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await desk.run() }
            defer { group.cancelAll() }
            try center.process(try home.arrivalOfHello(), home.arrival(try home.next()))
            let operators = try OperatorDesk(path: self.folder.path("control-center.sqlite3"))
            // Only what happens after its first look is news to it.
            try await withDeadline(.seconds(30), "the desk looks at the store") {
                while try self.position() == nil { try await Task.sleep(for: .milliseconds(10)) }
            }
            home.restart(0xB2)
            try center.process(home.arrival(try home.next()))
            try await withDeadline(.seconds(30), "there is an alert") {
                while try operators.alerts(isOpen: true, limit: 9).isEmpty {
                    try await Task.sleep(for: .milliseconds(10))
                }
            }
            let alert = try #require(try operators.alerts(isOpen: true, limit: 9).first)
            #expect(alert.rule == "stream-restart")
            #expect(alert.state == "raised")
            try await body()
            #expect(try operators.acknowledge(alert.number, by: "olga", at: Timestamp(seconds: self.pki.now)))
            #expect(try !operators.acknowledge(alert.number, by: "olga", at: Timestamp(seconds: self.pki.now)))
            try await withDeadline(.seconds(30), "the alert is cleared") {
                while try !operators.alerts(isOpen: true, limit: 9).isEmpty {
                    try await Task.sleep(for: .milliseconds(10))
                }
            }
            #expect(try operators.alerts(isOpen: false, limit: 9).map(\.acknowledgedBy) == ["olga"])
            try await afterwards()
        }
    }

    private func position() throws -> Int64? { try self.store.watchedUpTo() }

    private func wait(_ process: ChildProcess, for text: String) async throws {
        try await process.waitForOutput(text)
    }

    @Test("by a webhook, signed, again until it is taken")
    func webhook() async throws {
        let port = try freePort()
        let receiver = try await Receiver.start(["http", "\(port)", "a secret", "503", "200"])
        let clock = MovedClock()
        var settings = NotificationSettings()
        settings.webhook = NotificationSettings.Webhook(
            url: "http://127.0.0.1:\(port)/hook", secret: Array("a secret".utf8))
        try await self.whileAlerted(settings, clock: clock) {
            try await self.wait(receiver, for: "\"status\": 503")
            clock.move(seconds: 31)
            try await self.wait(receiver, for: "\"status\": 200")
        } afterwards: {
            try await self.wait(receiver, for: "\"event\": \"cleared\"")
        }
        let lines = receiver.output.split(separator: "\n").filter { $0.hasPrefix("{") }
        #expect(lines.count == 3, "\(lines)")
        #expect(lines.prefix(2).allSatisfy { $0.contains("\"delivery\": \"1\"") }, "\(lines)")
        #expect(
            lines.allSatisfy { $0.contains("\"signed\": true") && $0.contains("\"auditor\": \"mona\"") }, "\(lines)")
        receiver.kill()
    }

    @Test("by a webhook at its own address only: where it is sent on to is not told")
    func redirect() async throws {
        let port = try freePort()
        let receiver = try await Receiver.start(["http", "\(port)", "a secret", "302", "200"])
        let clock = MovedClock()
        var settings = NotificationSettings()
        settings.webhook = NotificationSettings.Webhook(url: "http://127.0.0.1:\(port)/hook")
        try await self.whileAlerted(settings, clock: clock) {
            try await self.wait(receiver, for: "\"status\": 302")
            let store = self.store
            try await withDeadline(.seconds(30), "it is to be told again") {
                while try store.notificationErrors().isEmpty { try await Task.sleep(for: .milliseconds(10)) }
            }
            clock.move(seconds: 31)
            try await self.wait(receiver, for: "\"status\": 200")
        }
        #expect(!receiver.output.contains("followed"))
        receiver.kill()
    }

    @Test("not by MQTT where there is nobody to tell: what is about an unknown ID is not told to all")
    func nobody() async throws {
        var settings = NotificationSettings()
        settings.isPublished = true
        let (bus, clock, store) = (SilentBus(), MovedClock(), self.store)
        let desk = ControlDesk(
            bus: bus, store: store, signer: PartySigner(self.pki.controlCenter),
            chain: self.pki.controlCenter.chainDER, notifications: settings, clock: { clock.now })
        var center = try TestCenter(store, pki: self.pki)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await desk.run() }
            defer { group.cancelAll() }
            let operators = try OperatorDesk(path: self.folder.path("control-center.sqlite3"))
            try center.process(Arrival(topic: "audits/measures/ghost", bytes: Array("gone".utf8)))
            clock.move(seconds: 11)
            // Whatever was counted at the first look, more comes; for 60 seconds at most.
            for _ in 0..<200 where try store.notificationErrors().isEmpty {
                try center.process(
                    (0..<70).map { _ in Arrival(topic: "audits/measures/ghost", bytes: Array("gone".utf8)) })
                clock.move(seconds: 11)
                try await Task.sleep(for: .milliseconds(300))
            }
            #expect(try operators.alerts(isOpen: true, limit: 9).map(\.rule) == ["refusals"])
        }
        #expect(try store.notificationErrors() == ["no auditor of this ID takes alerts"])
        #expect(bus.published.isEmpty)
    }

    @Test("by MQTT, as a signed alert to the auditor that it is about")
    func mqtt() async throws {
        var settings = NotificationSettings()
        settings.isPublished = true
        let bus = SilentBus()
        let told: @Sendable () throws -> [Alert] = {
            try bus.published.compactMap { message in
                let envelope = try Envelope.decode(message.bytes)
                try envelope.checkTopic(try #require(Topic(message.topic)), isRetained: false)
                #expect(message.topic == "control_center/alerts/mona")
                #expect(envelope.isSigned(by: self.pki.controlCenter.key.publicKey))
                return envelope.alert
            }
        }
        try await self.whileAlerted(settings, bus: bus) {
            try await withDeadline(.seconds(30), "it is published") {
                while try told().isEmpty { try await Task.sleep(for: .milliseconds(10)) }
            }
        } afterwards: {
            try await withDeadline(.seconds(30), "that it is over is published") {
                while try told().count < 2 { try await Task.sleep(for: .milliseconds(10)) }
            }
        }
        #expect(try told().map(\.word.rawValue) == ["stream-restart", "stream-restart"])
        #expect(try told().map(\.isRaised) == [true, false])
    }

    @Test("by mail, over STARTTLS and over TLS, with a password", arguments: ["starttls", "tls"])
    func mail(_ mode: String) async throws {
        let (certificate, key) = try await Receiver.certificate(in: self.folder)
        let port = try freePort()
        let receiver = try await Receiver.start(["smtp", "\(port)", certificate, key, mode])
        var settings = NotificationSettings()
        settings.mail = MailSettings(
            host: "localhost", port: port, security: mode == "tls" ? .tls : .startTLS, roots: certificate,
            user: "energy",
            password: "pass", from: "center@energy.example", to: ["ops@energy.example", "olga@energy.example"])
        try await self.whileAlerted(settings) { try await self.wait(receiver, for: "stream-restart") }
        let line = try #require(receiver.output.split(separator: "\n").first { $0.hasPrefix("{") })
        #expect(line.contains("\"to\": [\"ops@energy.example\", \"olga@energy.example\"]"), "\(line)")
        #expect(line.contains("\"subject\": \"secure-mqtt raised: mona: stream-restart\""), "\(line)")
        #expect(line.contains("\"tls\": true"), "\(line)")
        #expect(line.contains("secure-mqtt alerts acknowledge 1"), "\(line)")
        receiver.kill()
    }

    @Test("not by mail in the clear where TLS is wanted")
    func noTLS() async throws {
        let (certificate, key) = try await Receiver.certificate(in: self.folder)
        let port = try freePort()
        let receiver = try await Receiver.start(["smtp", "\(port)", certificate, key, "plain"])
        var settings = NotificationSettings()
        settings.mail = MailSettings(
            host: "localhost", port: port, roots: certificate, from: "center@energy.example", to: ["ops@energy.example"]
        )
        let store = self.store
        try await self.whileAlerted(settings) {
            try await withDeadline(.seconds(30), "it was tried") {
                while try store.notificationErrors().isEmpty { try await Task.sleep(for: .milliseconds(10)) }
            }
        }
        #expect(try self.store.notificationErrors().allSatisfy { $0.contains("does not offer STARTTLS") })
        #expect(!receiver.output.contains("{"))
        receiver.kill()
    }
}
