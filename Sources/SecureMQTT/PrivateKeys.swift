import Foundation
import PKCS11
import PKI

extension KeyFile {
    /// The key that the configuration or the command line names: its file, or the URI of one in a token.
    ///
    /// - Throws: `PKIError`: those of the file, or of the token.
    static func open(_ place: String, passphrase: PassphraseSource? = nil) throws(PKIError) -> SigningKey {
        try Self.read(place, passphrase: passphrase, hardware: PKCS11Keys())
    }

    /// A new key: in memory, to be written to a file; or the one in a token that a flag names, which is made there if
    /// the token has none of that name.
    ///
    /// - Throws: `PKIError`: those of the token; `format` for what is no such URI.
    static func makeKey(inToken uri: String?) throws(PKIError) -> SigningKey {
        guard let uri else { return SigningKey() }
        return try PKCS11Keys().openOrMake(try Self.absolute(uri))
    }

    /// The URI as it is written down: good from any folder.
    ///
    /// - Throws: `PKIError` with code `format`.
    static func absolute(_ uri: String) throws(PKIError) -> String {
        try PKCS11Keys().resolve(uri, in: FileManager.default.currentDirectoryPath)
    }
}
