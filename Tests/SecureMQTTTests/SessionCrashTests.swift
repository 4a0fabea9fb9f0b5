import Foundation
import GRDB
import MQTT
import TestSupport
import Testing

/// kill -9 of a broker with durable sessions, under load. Afterwards every acknowledged message is delivered, and
/// those of QoS 2 exactly once.
@Suite struct SessionCrashTests {
    private static let isLong = ProcessInfo.processInfo.environment["SECURE_MQTT_SOAK_MINUTES"] != nil
    private static let sessions = Self.isLong ? 1_000 : 100
    private static let kills = Self.isLong ? 20 : 3

    /// A broker of its own, with a listener without TLS on loopback.
    private struct Site {
        let folder: TemporaryDirectory
        let port: Int
        let disk: LostWrites?

        var store: String { self.folder.path("store") }

        init(losesWrites: Bool) async throws {
            self.folder = try TemporaryDirectory()
            self.port = try freePort()
            let made = try await Program.run([
                "init", self.folder.path("site"), "--unencrypted", "--trust-domain", SessionLoad.trustDomain, "--host",
                "127.0.0.1",
            ])
            try #require(made.status == 0, "\(made.errorOutput)")
            try FileManager.default.createDirectory(
                atPath: self.folder.path("store"), withIntermediateDirectories: false)
            self.disk =
                losesWrites
                ? try await LostWrites(root: self.folder.path("store"), image: self.folder.path("image")) : nil
        }

        func start(_ settings: [String] = []) async throws -> ChildProcess {
            let broker = try Program.start(
                [
                    "broker", "--config", self.folder.path("site/secure-mqtt.yaml"), "--set", "broker.port=0", "--set",
                    "broker.plaintext-port=\(self.port)", "--set", "broker.store=\(self.store)", "--log-level",
                    "notice",
                ] + settings.flatMap { ["--set", $0] }, environment: self.disk?.environment ?? [:])
            try await broker.waitForOutput("listening")
            return broker
        }
    }

    @Test func `whenever the broker is killed, its sessions lose nothing and get nothing of QoS 2 twice`() async throws
    {
        try await Self.run(losesWrites: false)
    }

    @Test(.enabled(if: LostWrites.isPossible))
    func `whenever the power fails, its sessions lose nothing and get nothing of QoS 2 twice`() async throws {
        try await Self.run(losesWrites: true)
    }

    private static func run(losesWrites: Bool) async throws {
        let seed = UInt64.random(in: 1...UInt64.max)
        var random = SplitMix64(seed: seed)
        let site = try await Site(losesWrites: losesWrites)
        let load = SessionLoad(port: site.port, subscribers: Self.sessions, seed: seed)
        var broker = try await site.start()
        let names = (0..<Self.sessions).map { "home-\($0)" }
        do {
            try await Self.inParallel(names) { name in
                try await load.connect(name)
                try await load.disconnect(name)
            }
            let start = ContinuousClock.now
            for _ in 0..<Self.kills {
                for publisher in ["cc-1", "cc-2"] { try await load.connect(publisher) }
                // A few are there while it happens; the others wait for their messages.
                try await Self.inParallel(
                    (0..<8).map { _ in names.randomElement(using: &random) ?? names[0] }.uniqued()
                ) {
                    try await load.connect($0)
                }
                let target = try await load.access { world in
                    world.isPublishing = true
                    for client in world.clients.values where client.isPublisher { client.connection?.begin() }
                    return world.acknowledged + 400
                }
                try await load.wait("messages are acknowledged") { $0.acknowledged >= target }
                // Not a wait for something: the moment of a crash is any.
                try await Task.sleep(for: .milliseconds(Int.random(in: 0...300, using: &random)))
                broker.kill()
                try await broker.wait()
                try await load.wait("everybody has noticed") { $0.clients.values.allSatisfy { $0.connection == nil } }
                try await site.disk?.losePower()
                broker = try await site.start()
            }
            let duration = ContinuousClock.now - start

            // What was begun is finished, and everybody comes for what is theirs.
            try await load.access { $0.isPublishing = false }
            for publisher in ["cc-1", "cc-2"] { try await load.connect(publisher) }
            try await load.wait("all is acknowledged") { $0.clients.values.allSatisfy { $0.outgoing.isEmpty } }
            for slice in stride(from: 0, to: names.count, by: 100) {
                try await Self.inParallel(Array(names[slice..<min(slice + 100, names.count)])) {
                    try await load.connect($0)
                }
            }
            try await load.wait("everything has come") { $0.missing.isEmpty }
            // It is new, and gets what is retained.
            try await load.connect("viewer")
            try await load.wait("the newest retained message has come") { world in
                world.client("viewer").received.keys.contains {
                    $0.split(separator: " ").last.flatMap { Int($0) } ?? 0 >= world.retained
                }
            }
            try await load.disconnect("viewer")
            let (violations, published, acknowledged, deliveries) = try await load.access { world in
                var violations = world.violations
                for client in world.clients.values {
                    for (payload, count) in client.received where payload.hasPrefix("cc-2") && count != 1 {
                        violations.append("\(client.name): \(payload) \(count) times")
                    }
                }
                return (
                    violations, world.published, world.acknowledged,
                    world.clients.values.reduce(0) { $0 + $1.received.count }
                )
            }
            #expect(violations.isEmpty, "seed \(seed)\n\(violations.prefix(20).joined(separator: "\n"))")
            #expect(acknowledged >= Self.kills * 400)
            #expect(published == acknowledged)
            for name in names { try await load.disconnect(name) }
            broker.send(signal: SIGTERM)
            #expect(try await broker.wait() == .exited(0), "\(broker.errorOutput.suffix(2_000))")
            // All was dealt with: nothing is left behind in the file.
            let left = try await DatabaseQueue(path: "\(site.store)/sessions.sqlite3").read { db in
                try ["session", "delivery", "message", "received"].map {
                    try Int.fetchOne(db, sql: "SELECT count(*) FROM \($0)") ?? -1
                }
            }
            // Two publishers, the viewer, and the retained message.
            #expect(left == [Self.sessions + 3, 0, 1, 0])
            print(
                "\(Self.sessions) sessions, \(Self.kills) kills, \(acknowledged) messages, \(deliveries) deliveries in \(duration)"
            )
        } catch {
            let missing = try? await load.access { Array($0.missing.prefix(10)) + $0.violations.prefix(10) }
            Issue.record(error, "seed \(seed) \(missing ?? [])\n\(broker.errorOutput.suffix(3_000))")
        }
        broker.kill()
        await load.shutDown()
    }

    private static func inParallel(
        _ names: [String], _ body: @escaping @Sendable (String) async throws -> Void
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for name in names { group.addTask { try await body(name) } }
            try await group.waitForAll()
        }
    }

    // MARK: How it starts

    @Test func `a damaged store keeps the broker from starting, in one line that says what to do`() async throws {
        let site = try await Site(losesWrites: false)
        let broker = try await site.start()
        broker.send(signal: SIGTERM)
        #expect(try await broker.wait() == .exited(0), "\(broker.errorOutput)")
        let path = "\(site.store)/sessions.sqlite3"
        var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        bytes.removeLast(5_000)
        try bytes.write(to: URL(fileURLWithPath: path))
        let refused = try await Program.run([
            "broker", "--config", site.folder.path("site/secure-mqtt.yaml"), "--set", "broker.port=0", "--set",
            "broker.store=\(site.store)",
        ])
        #expect(refused.status == 65)
        #expect(refused.errorOutput.split(separator: "\n").count == 1, "\(refused.errorOutput)")
        #expect(refused.errorOutput.contains("docs/durable-sessions.md"))
        // The way out that it names.
        try FileManager.default.moveItem(atPath: path, toPath: site.folder.path("damaged.sqlite3"))
        let fresh = try await site.start()
        fresh.send(signal: SIGTERM)
        #expect(try await fresh.wait() == .exited(0))
    }

    @Test(arguments: ["safe", "relaxed"])
    func `sessions survive an orderly restart, whatever the durability`(durability: String) async throws {
        let site = try await Site(losesWrites: false)
        let load = SessionLoad(port: site.port, subscribers: 1, seed: 1)
        var broker = try await site.start(["broker.durability=\(durability)"])
        try await load.connect("home-0")
        try await load.disconnect("home-0")
        try await load.connect("cc-1")
        try await load.access { world in
            world.isPublishing = true
            world.client("cc-1").connection?.begin()
        }
        try await load.wait("messages are acknowledged") { $0.acknowledged >= 100 }
        try await load.access { $0.isPublishing = false }
        try await load.wait("all is acknowledged") { $0.client("cc-1").outgoing.isEmpty }
        broker.send(signal: SIGTERM)
        #expect(try await broker.wait() == .exited(0), "\(broker.errorOutput)")
        broker = try await site.start(["broker.durability=\(durability)"])
        try await load.connect("home-0")
        try await load.wait("everything has come") { $0.missing.isEmpty }
        #expect(try await load.access { $0.violations } == [])
        broker.kill()
        await load.shutDown()
    }
}

extension Array where Element: Hashable {
    fileprivate func uniqued() -> [Element] { Array(Set(self)) }
}
