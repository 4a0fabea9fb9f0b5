import Foundation

/// Tokens in software: SoftHSM, with a folder of its own. Removed when the last reference goes.
public final class SoftHSM: Sendable {
    /// The module, where Debian or others put it; nil if it is not installed.
    public static let module: String? = [
        "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    ].first { FileManager.default.fileExists(atPath: $0) }

    /// Where a module in this process finds its configuration. Nobody may change the environment of a process in which
    /// others start programs, so make has said it; nobody's own file is overwritten.
    public static let ownConfiguration = ProcessInfo.processInfo.environment["SOFTHSM2_CONF"].flatMap { path in
        path.hasSuffix("/.build/softhsm2.conf") ? path : nil
    }

    /// For `.enabled(if:)`.
    public static let isInstalled = SoftHSM.module != nil && ChildProcess.find("softhsm2-util") != nil

    /// What a test says that is skipped.
    public static let absence = "SoftHSM is not installed: scripts/setup installs it"

    public let folder: TemporaryDirectory
    /// The text of its configuration file.
    public let configuration: String
    /// For programs that use the tokens.
    public let environment: [String: String]

    public init() throws {
        self.folder = try TemporaryDirectory()
        try FileManager.default.createDirectory(
            atPath: self.folder.path("tokens"), withIntermediateDirectories: false)
        self.configuration =
            "directories.tokendir = \(self.folder.path("tokens"))\nobjectstore.backend = file\nlog.level = ERROR\n"
        try self.folder.write(self.configuration, to: "softhsm2.conf")
        self.environment = ["SOFTHSM2_CONF": self.folder.path("softhsm2.conf")]
    }

    /// Makes a token whose PIN is 1234, which is in the file `pin` too.
    public func makeToken(_ label: String) async throws {
        try await self.run(
            "softhsm2-util", ["--init-token", "--free", "--label", label, "--pin", "1234", "--so-pin", "5678"])
        try self.folder.write("1234\n", to: "pin")
    }

    /// The URI of a key, with the PIN in the file `pin`.
    ///
    /// - Parameter more: attributes beside the label, such as `;id=%01`.
    public func uri(_ token: String, _ label: String, more: String = "") -> String {
        "pkcs11:token=\(token);object=\(label)\(more)?module-path=\(SoftHSM.module ?? "")&pin-source=\(self.folder.path("pin"))"
    }

    /// Takes a key of openssl's, PKCS#8 in PEM, into a token.
    public func importKey(_ path: String, into token: String, label: String, id: String) async throws {
        try await self.run(
            "softhsm2-util",
            ["--import", path, "--token", token, "--label", label, "--id", id, "--pin", "1234"])
    }

    /// OpenSC's tool on a token, logged in.
    ///
    /// - Returns: what it wrote.
    @discardableResult
    public func tool(_ token: String, _ arguments: [String]) async throws -> String {
        try await self.run(
            "pkcs11-tool",
            ["--module", SoftHSM.module ?? "", "--token-label", token, "--login", "--pin", "1234"] + arguments)
    }

    /// Pulls all tokens out, or puts them back.
    public func plug(_ isIn: Bool) throws {
        let manager = FileManager.default
        let (inside, outside) = (self.folder.path("tokens"), self.folder.path("drawer"))
        if isIn {
            try manager.removeItem(atPath: inside)
            try manager.moveItem(atPath: outside, toPath: inside)
        } else {
            try manager.moveItem(atPath: inside, toPath: outside)
            // Without it SoftHSM does not start at all.
            try manager.createDirectory(atPath: inside, withIntermediateDirectories: false)
        }
    }

    @discardableResult
    private func run(_ program: String, _ arguments: [String]) async throws -> String {
        let process = try ChildProcess(
            program, arguments, environment: ProcessInfo.processInfo.environment.merging(self.environment) { $1 })
        guard try await process.wait() == .exited(0) else {
            throw SystemError("\(program) \(arguments.first ?? ""): \(process.output)\(process.errorOutput)", errno: 0)
        }
        return process.output
    }
}
