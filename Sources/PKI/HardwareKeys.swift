/// Where keys in hardware are found: by URIs (RFC 7512), such as `pkcs11:token=home;object=mona?module-path=...`.
///
/// Wherever a key file is named, such a URI may stand instead, or be all that the file holds (``KeyFile``).
public protocol HardwareKeys: Sendable {
    /// The key of that name.
    ///
    /// - Throws: ``PKIError``; `missing` if there is none.
    func open(_ uri: String) throws(PKIError) -> SigningKey

    /// The key of that name, or a new one of that name.
    ///
    /// - Throws: ``PKIError``.
    func openOrMake(_ uri: String) throws(PKIError) -> SigningKey

    /// The URI with the relative paths in it taken from a folder.
    ///
    /// - Throws: ``PKIError`` with code `format`.
    func resolve(_ uri: String, in folder: String) throws(PKIError) -> String
}
