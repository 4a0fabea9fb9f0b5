/// What opens an encrypted key. Never printed, never logged.
public struct Passphrase: Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    /// The longest passphrase, in bytes.
    public static let maximumLength = 1_024

    package let bytes: [UInt8]

    /// - Throws: ``PKIError`` with code `passphrase` if it is empty or too long.
    public init(_ text: some StringProtocol) throws(PKIError) {
        guard (1...Self.maximumLength).contains(text.utf8.count) else {
            throw PKIError(.passphrase, "a passphrase has 1 to \(Self.maximumLength) bytes")
        }
        self.bytes = Array(text.utf8)
    }

    /// Reads a credential file: its first line, readable by its owner alone.
    ///
    /// - Parameter groupMayRead: as systemd makes credentials: of root, mode 0440, which is an access list for the
    ///   service's user.
    /// - Throws: ``PKIError`` with code `missing`, `permissions`, `passphrase` or `io`.
    public static func read(_ path: String, groupMayRead: Bool = false) throws(PKIError) -> Passphrase {
        let bytes = try DurableFile.read(
            path, maximumSize: Self.maximumLength + 2, ownerOnly: true, groupMayRead: groupMayRead)
        let line = bytes.prefix { $0 != 0x0A && $0 != 0x0D }
        guard let text = String(validating: line, as: UTF8.self), !text.isEmpty else {
            throw PKIError(.passphrase, "\(path) does not begin with a passphrase")
        }
        return try Passphrase(text)
    }

    /// Gives this passphrase, whatever the key.
    public var source: PassphraseSource { { (_) throws(PKIError) in self } }

    public var description: String { "<passphrase>" }
    public var debugDescription: String { "<passphrase>" }
}

/// Gives the passphrase of an encrypted key file, when one is met.
///
/// - Parameter path: the key file, to be named to a person who is asked.
public typealias PassphraseSource = @Sendable (_ path: String) throws(PKIError) -> Passphrase
