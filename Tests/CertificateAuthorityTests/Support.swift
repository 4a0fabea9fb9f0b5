import CertificateAuthority
import Foundation
import Identity
import Logging
import PKI
import TestSupport
import X509

/// An authority that serves on loopback, with parties to ask it.
struct RunningAuthority: Sendable {
    let directory: TemporaryDirectory
    let authority: AuthorityDirectory
    let ports: CertificateAuthorityServer.Ports
    let now: UnixTime

    var base: String { "https://localhost:\(self.ports.https)" }
    var publicBase: String { "http://127.0.0.1:\(self.ports.http ?? 0)" }
    var rootPath: String { AuthorityDirectory.rootPath(in: self.authority.path) }

    /// What a program answered.
    struct Answer: Sendable {
        let status: Int
        let body: [UInt8]
        var text: String { String(decoding: self.body, as: UTF8.self) }
        /// The word before the colon of a refusal.
        var reason: String { self.text.split(separator: ":").first.map(String.init) ?? "" }
    }

    /// curl, with the root as trust.
    func curl(_ arguments: [String], client: String? = nil) async throws -> Answer {
        var all = [
            "--silent", "--show-error", "--max-time", "30", "--cacert", self.rootPath, "--write-out", "\n%{http_code}",
        ]
        if let client {
            all += ["--cert", self.directory.path("\(client).pem"), "--key", self.directory.path("\(client).key")]
        }
        let process = try ChildProcess("curl", all + arguments)
        guard try await process.wait() == .exited(0) else { throw Failure(description: process.errorOutput) }
        let output = process.outputBytes
        let line = output.lastIndex(of: 0x0A) ?? 0
        return Answer(
            status: Int(String(decoding: output[(line + 1)...], as: UTF8.self)) ?? 0, body: Array(output[..<line]))
    }

    struct Failure: Error, CustomStringConvertible { let description: String }

    /// Issues a certificate directly, and writes `<id>.pem` and `<id>.key`.
    @discardableResult
    func issue(_ role: Role, _ id: String, at time: UnixTime? = nil) throws -> Certificate {
        let key = SigningKey()
        let certificate = try self.authority.issue(
            .role(role, try Identifier(id), in: try self.authority.trustDomain), to: key.publicKey,
            at: time ?? self.now, requester: "test")
        try CertificateFile.create(self.directory.path("\(id).pem"), [certificate, self.authority.issuing])
        try KeyFile.create(self.directory.path("\(id).key"), key)
        return certificate
    }

    /// A key and a request of openssl's making.
    func request(_ id: String, _ options: [String] = [], name: String? = nil) async throws -> String {
        let name = name ?? id
        let (key, request) = (self.directory.path("\(name).key"), self.directory.path("\(name).csr"))
        var arguments = ["req", "-new", "-nodes", "-keyout", key, "-subj", "/CN=\(id)", "-out", request] + options
        if !options.contains("-newkey") {
            arguments += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        }
        let made = try await OpenSSL.run(arguments)
        guard made.status == 0 else { throw Failure(description: made.errorOutput) }
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: key)
        return request
    }

    /// The body of an EST request: base64 of the DER.
    func body(_ request: String) async throws -> String {
        let der = try await OpenSSL.run(["req", "-in", request, "-outform", "DER"]).outputBytes
        return Data(der).base64EncodedString()
    }

    func enroll(_ id: String, token: String, body: String) async throws -> Answer {
        try await self.curl([
            "--user", "\(id):\(token)", "--header", "Content-Type: application/pkcs10", "--data", body,
            "\(self.base)/.well-known/est/simpleenroll",
        ])
    }

    func reenroll(_ client: String, body: String) async throws -> Answer {
        try await self.curl(
            [
                "--header", "Content-Type: application/pkcs10", "--data", body,
                "\(self.base)/.well-known/est/simplereenroll",
            ], client: client)
    }

    /// The certificates of a certs-only answer, as openssl reads them.
    func certificates(_ answer: Answer) async throws -> [Certificate] {
        let der = Data(base64Encoded: answer.text.filter { !$0.isWhitespace }) ?? Data()
        let path = try self.directory.write(Array(der), to: "\(UUID().uuidString).p7")
        let printed = try await OpenSSL.run(["pkcs7", "-inform", "DER", "-in", path, "-print_certs"])
        guard printed.status == 0 else { throw Failure(description: printed.errorOutput) }
        let pem = try self.directory.write(printed.output, to: "\(UUID().uuidString).pem")
        return try CertificateFile.read(pem)
    }

    func api(_ path: String, _ json: String?, client: String?) async throws -> Answer {
        let arguments = json.map { ["--header", "Content-Type: application/json", "--data", $0] } ?? []
        return try await self.curl(arguments + ["\(self.base)\(path)"], client: client)
    }

    func invite(_ id: String, lifetime: UnixTime = 3_600) throws -> String {
        let token = EnrolmentToken()
        _ = try self.authority.invite(
            .auditor(try Identifier(id), in: try self.authority.trustDomain), lifetime: lifetime,
            at: min(self.now, UnixTime(Date().timeIntervalSince1970)), requester: "test", token: token)
        return token.text
    }
}

/// Starts an authority, runs `body`, and stops it.
///
/// - Parameters:
///   - age: how long ago the authority was made, in seconds.
func withAuthority(
    age: UnixTime = 0, maximumFailures: Int = 20, passphrase: Passphrase? = nil,
    limits: AuthorityLimits = AuthorityLimits(),
    before: (AuthorityDirectory, UnixTime) throws -> Void = { _, _ in },
    onLists: (@Sendable ([RevocationList], [IssuedCertificate]) async throws -> Void)? = nil,
    _ body: @escaping @Sendable (RunningAuthority) async throws -> Void
) async throws {
    let directory = try TemporaryDirectory()
    let now = UnixTime(Date().timeIntervalSince1970)
    let path = directory.path("pki")
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    let publicPort = try freePort()
    let authority = try AuthorityDirectory.create(
        path, trustDomain: try TrustDomain("energy.example"), at: now - age, passphrase: passphrase,
        publication: try PublicationPoints("http://127.0.0.1:\(publicPort)"))
    var configuration = AuthorityConfiguration(
        id: try Identifier("ca-1"), hosts: [try HostName("localhost"), try HostName("127.0.0.1")],
        listen: "127.0.0.1", port: try freePort(), publicPort: publicPort, brokerHost: "broker.energy.example",
        brokerPort: 8_883)
    configuration.maximumFailures = maximumFailures
    configuration.limits = limits
    configuration.onLists = onLists
    try before(authority, now)
    let (stream, continuation) = AsyncStream<CertificateAuthorityServer.Ports>.makeStream()
    // Another value of the same folder: as a process of its own, it knows nothing of ours.
    let served = try AuthorityDirectory.open(
        path, passphrase: passphrase?.source,
        publication: authority.publication)
    let server = try CertificateAuthorityServer(
        served, configuration: configuration, now: { UnixTime(Date().timeIntervalSince1970) },
        onListening: { continuation.yield($0) },
        logger: Logger(label: "ca") { _ in SwiftLogNoOpLogHandler() })
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await server.run() }
        group.addTask {
            let ports = try await withDeadline(.seconds(30), "the authority listens") {
                var iterator = stream.makeAsyncIterator()
                guard let ports = await iterator.next() else { throw CancellationError() }
                return ports
            }
            try await body(
                RunningAuthority(directory: directory, authority: authority, ports: ports, now: now))
        }
        try await group.next()
        group.cancelAll()
    }
}
