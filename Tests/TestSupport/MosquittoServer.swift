import Foundation
import Synchronization

/// A real Mosquitto on a free port of loopback, with its own data folder. It can be killed and started
/// again on the same data and port. It ends when the last reference goes.
public final class MosquittoServer: Sendable {
    /// For `.enabled(if:)`.
    public static let isInstalled = ChildProcess.find("mosquitto") != nil

    /// PEM files of a server that demands client certificates.
    public struct TLSFiles: Sendable {
        public var certificateAuthorities: String
        public var certificateChain: String
        public var privateKey: String
        public var revocationList: String?

        public init(
            certificateAuthorities: String, certificateChain: String, privateKey: String,
            revocationList: String? = nil
        ) {
            self.certificateAuthorities = certificateAuthorities
            self.certificateChain = certificateChain
            self.privateKey = privateKey
            self.revocationList = revocationList
        }

        fileprivate var lines: [String] {
            [
                "cafile \(self.certificateAuthorities)", "certfile \(self.certificateChain)",
                "keyfile \(self.privateKey)", "require_certificate true", "tls_version tlsv1.3",
            ] + (self.revocationList.map { ["crlfile \($0)"] } ?? [])
        }
    }

    /// Where it listens.
    public let address: String
    public let port: Int

    private let directory: TemporaryDirectory
    private let configurationFile: String
    private let process = Mutex<ChildProcess?>(nil)

    /// Starts it and waits until it listens.
    ///
    /// - Parameters:
    ///   - address: Where it listens: 127.0.0.1 or another address of loopback.
    ///   - tls: Mutual TLS; `nil` is plaintext for anyone.
    ///   - lines: More lines of `mosquitto.conf`; those of the listener come last in the file, so these
    ///     belong to it.
    public convenience init(
        address: String = "127.0.0.1", tls: TLSFiles? = nil, lines: [String] = []
    ) async throws {
        let port = try freePort()
        let directory = try TemporaryDirectory()
        let configuration =
            [
                // Started by root it would become its own user, who may not read our folder.
                "user root", "per_listener_settings false", "persistence true", "autosave_interval 1",
                "persistence_location \(directory.path)/", "log_dest stderr",
                "log_type all", "allow_anonymous true", "max_inflight_messages 0", "max_queued_messages 0",
                "listener \(port) \(address)",
            ] + (tls?.lines ?? []) + lines
        let file = try directory.write(configuration.joined(separator: "\n") + "\n", to: "mosquitto.conf")
        try await self.init(address: address, port: port, directory: directory, configurationFile: file)
    }

    /// Starts it with a configuration file that is there already, and waits until it listens on `port`.
    public convenience init(configurationFile: String, port: Int) async throws {
        try await self.init(
            address: "127.0.0.1", port: port, directory: TemporaryDirectory(), configurationFile: configurationFile)
    }

    private init(
        address: String, port: Int, directory: TemporaryDirectory, configurationFile: String
    ) async throws {
        self.address = address
        self.port = port
        self.directory = directory
        self.configurationFile = configurationFile
        try await self.start()
    }

    /// What it has logged since it was last started.
    public var log: String { self.process.withLock { $0?.errorOutput } ?? "" }

    /// Starts it again after ``stop()`` or ``kill()``, on the same data and port, and waits until it
    /// listens.
    public func start(within limit: Duration = .seconds(20)) async throws {
        let process = try ChildProcess(
            "mosquitto", ["-c", self.configurationFile], directory: self.directory.path)
        self.process.withLock { $0 = process }
        let (address, port) = (self.address, self.port)
        try await withDeadline(limit, "mosquitto listens on port \(port)") {
            while !isListening(port: port, address: address) {
                guard process.isRunning else {
                    throw SystemError("mosquitto ended: \(process.errorOutput)", errno: 0)
                }
                // It says nothing when it begins to listen: asking again is the only way to know.
                try await Task.sleep(for: .milliseconds(5))
            }
        }
    }

    /// Stops it in good order (SIGTERM): it saves its state.
    public func stop() async throws { try await self.end(by: SIGTERM) }

    /// Kills it (SIGKILL): what it did not save is gone.
    public func kill() async throws { try await self.end(by: SIGKILL) }

    /// Sends it a signal, such as SIGHUP (read the configuration again) or SIGUSR1 (save the state).
    public func send(signal: Int32) { self.process.withLock { $0 }?.send(signal: signal) }

    private func end(by signal: Int32) async throws {
        guard let process = self.process.withLock({ $0 }) else { return }
        process.send(signal: signal)
        try await process.wait(within: .seconds(20))
    }
}
