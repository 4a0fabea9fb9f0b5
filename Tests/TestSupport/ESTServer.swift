import Foundation
import Identity
public import PKI
public import X509

/// A small EST authority in Python (`Tests/Interop/python/est_server.py`), which shares nothing with the client.
public final class ESTServer: Sendable {
    /// For `.enabled(if:)`.
    public static var isPossible: Bool { Self.python != nil }

    /// The one that `SECURE_MQTT_PYTHON` names, else that of `.venv` in the checkout.
    private static let python: String? = {
        let named = ProcessInfo.processInfo.environment["SECURE_MQTT_PYTHON"]
        let path = named ?? "\(ESTServer.checkout)/.venv/bin/python3"
        return FileManager.default.isExecutableFile(atPath: path) ? path : nil
    }()

    private static let checkout = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().path

    /// What the server does, read again for each request.
    public struct State: Codable, Sendable {
        public var trustDomain: String
        public var brokerPort = 8_883
        /// Token to ID.
        public var tokens: [String: String] = [:]
        /// Of what it issues, in seconds.
        public var lifetime: Int = 86_400
        /// How long before the moment of issue certificates begin, in seconds.
        public var backdating = 600
        /// A way to misbehave, or nothing.
        public var mode = ""
        /// How wrong its `Date` is, in seconds.
        public var dateOffset = 0

        public init(trustDomain: String) { self.trustDomain = trustDomain }

        enum CodingKeys: String, CodingKey {
            case tokens, lifetime, backdating, mode
            case trustDomain = "trust_domain"
            case brokerPort = "broker_port"
            case dateOffset = "date_offset"
        }
    }

    public let port: Int
    public let folder: TemporaryDirectory
    private let process: ChildProcess

    public var url: String { "https://127.0.0.1:\(self.port)" }

    /// Starts it and waits until it listens.
    ///
    /// - Parameters:
    ///   - server: the certificate that it shows; one of role authority unless given.
    ///   - lists: its revocation lists, of root and intermediate.
    public convenience init(
        _ pki: TestPKI, state: State, server: TestPKI.Party? = nil, lists: [RevocationList]? = nil
    ) async throws {
        let server = try server ?? pki.issue(.authority, "ca-1")
        try await self.init(
            root: pki.root.certificate, issuing: pki.intermediate, state: state, serverChain: server.chainPEM,
            serverKey: server.keyPEM, lists: lists ?? pki.revocationLists())
    }

    /// As authority of any installation.
    ///
    /// - Parameter lists: first the root's.
    public init(
        root: Certificate, issuing: Authority, state: State, serverChain: String, serverKey: String,
        lists: [RevocationList]
    ) async throws {
        let folder = try TemporaryDirectory()
        try folder.write(root.pemText, to: "root.pem")
        try folder.write(issuing.certificate.pemText, to: "issuing.pem")
        try folder.write(issuing.key.pemRepresentation ?? "", to: "issuing.key")
        try folder.write(serverChain, to: "server.pem")
        try folder.write(serverKey, to: "server.key")
        try folder.write(lists[0].der, to: "root.crl")
        try folder.write(lists[1].der, to: "issuing.crl")
        try folder.write(Array(try JSONEncoder().encode(state)), to: "state.json")
        self.folder = folder
        let process = try ChildProcess(
            Self.python ?? "python3", ["\(Self.checkout)/Tests/Interop/python/est_server.py", folder.path])
        self.process = process
        let said = try await process.waitForOutput("listening ")
        guard let port = said.split(separator: " ").last.flatMap({ Int($0.prefix { $0.isNumber }) }) else {
            throw SystemError("read the port of \(said)", errno: 0)
        }
        self.port = port
    }

    /// Changes what it does from the next request on.
    public func set(_ state: State) throws {
        // In one step: it may be reading.
        let aside = try self.folder.write(Array(try JSONEncoder().encode(state)), to: "state.json.new")
        guard rename(aside, self.folder.path("state.json")) == 0 else { throw SystemError("replace state.json") }
    }

    /// What it issued: for each the token or `renew`, the ID, the serial number, the key.
    public var issued: [[String]] {
        let text = (try? String(contentsOfFile: self.folder.path("issued.txt"), encoding: .utf8)) ?? ""
        return text.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
    }

    public func stop() { self.process.kill() }
}
