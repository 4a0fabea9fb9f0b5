/// The original LiCore system's authority, made by the openssl lines of its documentation: certificates of version 1,
/// without any extension, on P-256.
public struct OriginalAuthority: Sendable {
    /// Where `ca-root-cert.crt`, and `<name>.crt` and `<name>.key` of each client are.
    public let folder: TemporaryDirectory

    public var rootFile: String { self.folder.path("ca-root-cert.crt") }

    public func certificateFile(_ name: String) -> String { self.folder.path("\(name).crt") }
    public func keyFile(_ name: String) -> String { self.folder.path("\(name).key") }

    /// - Parameter clients: their common names.
    public init(clients: [String]) async throws {
        self.folder = try TemporaryDirectory()
        try await self.run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key")
        try await self.run(
            "req", "-new", "-key", "ca.key", "-out", "ca.csr", "-sha256", "-subj", "/O=LiCore/CN=LiCore CA")
        try await self.run(
            "x509", "-req", "-in", "ca.csr", "-signkey", "ca.key", "-out", "ca-root-cert.crt", "-days", "365", "-sha256"
        )
        for name in clients { try await self.issue(name) }
    }

    /// A further client.
    public func issue(_ name: String, days: Int = 360) async throws {
        try await self.run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "\(name).key")
        try await self.run(
            "req", "-new", "-key", "\(name).key", "-out", "\(name).csr", "-sha256", "-subj", "/O=LiCore/CN=\(name)")
        try await self.run(
            "x509", "-req", "-in", "\(name).csr", "-CA", "ca-root-cert.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "\(name).crt", "-days", "\(days)")
    }

    private func run(_ arguments: String...) async throws {
        let result = try await OpenSSL.run(arguments, directory: self.folder.path)
        guard result.status == 0 else { throw SystemError("openssl \(arguments[0]): \(result.errorOutput)", errno: 0) }
    }
}
