import Foundation
import Identity
import NIOCore
import NIOPosix
import PKI
import Telemetry
import X509

/// The demo's folder: an installation like any that `init` makes, with two auditors more, which attack.
struct DemoSite: Sendable {
    /// Says that a folder was made by a demo and may be removed by the next.
    private static let mark = ".secure-mqtt-demo"

    let directory: String
    let auditors: [Identifier]
    let configuration: InstallationConfiguration
    let intruder: DemoParty
    let accomplice: DemoParty
    /// The first auditor's name under a root of its own.
    let stranger: DemoParty
    let victim: SPIFFEID

    /// The control center's database.
    var store: String { self.configuration.controlCenter?.store ?? "\(self.directory)/store/store.sqlite3" }

    /// Where an auditor's certificate, key and outbox are.
    func folder(of auditor: Identifier) -> String { "\(self.directory)/auditors/\(auditor)" }

    static func make(at directory: String, auditors: [Identifier], now: UnixTime) async throws -> DemoSite {
        try Self.clear(directory)
        let names = Set(auditors.map(\.folded))
        let intruder = try Self.unused("intruder", names)
        let accomplice = try Self.unused("accomplice", names)
        let installation = Installation(
            trustDomain: try TrustDomain("demo.example"),
            hosts: [try HostName("127.0.0.1"), try HostName("localhost")],
            port: try await Self.freePort(), broker: try Self.unused("broker", names),
            controlCenter: try Self.unused("center", names), auditors: auditors + [intruder, accomplice],
            operators: [])
        try installation.make(at: directory, now: now)
        try Data("Made by secure-mqtt demo; the next one removes it.\n".utf8)
            .write(to: URL(fileURLWithPath: "\(directory)/\(Self.mark)"))

        let root = try Authority.makeRoot(trustDomain: installation.trustDomain, at: now)
        let foreign = try root.makeIntermediate(trustDomain: installation.trustDomain, at: now)
        let victim = try auditors.first ?? Identifier("nobody")
        return DemoSite(
            directory: directory, auditors: auditors,
            configuration: try await InstallationConfiguration.load(
                file: "\(directory)/secure-mqtt.yaml", overrides: ["broker.listen": "127.0.0.1"], environment: [:]),
            intruder: try DemoParty(folder: "\(directory)/auditors/\(intruder)"),
            accomplice: try DemoParty(folder: "\(directory)/auditors/\(accomplice)"),
            stranger: try DemoParty(.auditor(victim, in: installation.trustDomain), from: foreign, at: now),
            victim: SPIFFEID(trustDomain: installation.trustDomain, role: .auditor, id: victim))
    }

    /// Removes what an earlier demo left, and nothing else.
    private static func clear(_ directory: String) throws {
        let files = FileManager.default
        guard files.fileExists(atPath: directory) else { return }
        if files.fileExists(atPath: "\(directory)/\(Self.mark)") {
            do {
                try files.removeItem(atPath: directory)
            } catch {
                throw CommandError(.io, "cannot remove \(directory) of the last demo: \(error.localizedDescription)")
            }
        } else if try !files.contentsOfDirectory(atPath: directory).isEmpty {
            throw CommandError(
                .cannotCreate,
                "\(directory) exists and was not made by a demo: move it away, or name another by --directory")
        }
    }

    private static func unused(_ name: String, _ names: Set<String>) throws -> Identifier {
        try Identifier(names.contains(name) ? "demo-\(name)" : name)
    }

    /// A port of loopback that nobody listens on at the moment.
    private static func freePort() async throws -> Int {
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .bind(host: "127.0.0.1", port: 0).get()
        let port = channel.localAddress?.port
        try await channel.close()
        guard let port else { throw CommandError(.unavailable, "there is no free port on 127.0.0.1") }
        return port
    }
}
