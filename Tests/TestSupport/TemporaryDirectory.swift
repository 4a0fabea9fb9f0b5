public import Foundation

/// A fresh, empty folder of our own, removed with all it holds when the last reference goes.
///
/// Keep a reference as long as the folder is needed: a property of the suite, or the scope of
/// ``with(_:)``.
public final class TemporaryDirectory: Sendable {
    /// Its absolute path, without a slash at the end.
    public let path: String

    /// Makes the folder, readable by us alone (0700).
    public init() throws {
        let path = FileManager.default.temporaryDirectory.path + "/secure-mqtt-" + UUID().uuidString
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        self.path = path
    }

    /// The folder as a file URL.
    public var url: URL { URL(fileURLWithPath: self.path, isDirectory: true) }

    /// The path of a name in the folder.
    public func path(_ name: String) -> String { self.path + "/" + name }

    /// Writes a file.
    ///
    /// - Parameters:
    ///   - permissions: POSIX mode; 0600 unless told.
    /// - Returns: Its path.
    @discardableResult
    public func write(_ contents: some Sequence<UInt8>, to name: String, permissions: Int = 0o600) throws -> String {
        let path = self.path(name)
        try Data(contents).write(to: URL(fileURLWithPath: path))
        try FileManager.default.setAttributes([.posixPermissions: permissions], ofItemAtPath: path)
        return path
    }

    /// Writes a text file in UTF-8.
    ///
    /// - Returns: Its path.
    @discardableResult
    public func write(_ text: String, to name: String, permissions: Int = 0o600) throws -> String {
        try self.write(text.utf8, to: name, permissions: permissions)
    }

    /// Runs `body` with a fresh folder that is removed afterwards.
    public static func with<Value>(
        _ body: (TemporaryDirectory) async throws -> Value
    ) async throws -> Value {
        let directory = try TemporaryDirectory()
        defer { directory.remove() }
        return try await body(directory)
    }

    /// Removes the folder now.
    public func remove() {
        try? FileManager.default.removeItem(atPath: self.path)
    }

    deinit { self.remove() }
}
