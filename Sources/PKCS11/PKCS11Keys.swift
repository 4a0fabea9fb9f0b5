public import PKI

/// Keys in PKCS #11 tokens, by their URIs (RFC 7512).
///
/// A URI names the key by `object` or `id`, its token by `token`, `serial`, `manufacturer` or `model`, and has
/// `module-path`; `pin-source` is a file of mode 0600 whose first line is the PIN.
public struct PKCS11Keys: HardwareKeys {
    public init() {}

    /// - Throws: `PKIError` with code `format` for the URI; `missing` for module or key; `hardware` for a token that is
    ///   not there or cannot be used, and for two keys of that name; `passphrase` for the PIN, and those of its file;
    ///   `weak-key` for a key that is not P-256.
    public func open(_ uri: String) throws(PKIError) -> SigningKey {
        let uri = try TokenURI(uri)
        let session = try TokenSession(uri)
        guard let key = try session.key() else {
            throw PKIError(.missing, "\(uri.name): the token has no such private key")
        }
        return SigningKey(try TokenKey(uri, key, in: session))
    }

    /// - Throws: as ``open(_:)``.
    public func openOrMake(_ uri: String) throws(PKIError) -> SigningKey {
        let uri = try TokenURI(uri)
        let session = try TokenSession(uri, writing: true)
        var key = try session.key()
        if key == nil {
            var random = SystemRandomNumberGenerator()
            // Binds the two halves of the pair to each other.
            try session.makeKey(id: (0..<8).map { _ in UInt8.random(in: .min ... .max, using: &random) })
            key = try session.key()
        }
        guard let key else { throw PKIError(.hardware, "\(uri.name): the token made a key and does not find it") }
        return SigningKey(try TokenKey(uri, key, in: session))
    }

    /// - Throws: `PKIError` with code `format`.
    public func resolve(_ uri: String, in folder: String) throws(PKIError) -> String {
        try TokenURI(uri).resolved(in: folder).text
    }
}
