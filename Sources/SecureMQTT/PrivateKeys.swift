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

    /// The key in a token that a flag names, which is made there if the token has none of that name.
    ///
    /// - Parameter flag: for messages.
    /// - Throws: ``CommandError`` `usage` for what is no such URI; `PKIError`.
    static func makeInToken(_ uri: String, _ flag: String) throws -> SigningKey {
        guard uri.hasPrefix(Self.uriScheme) else {
            throw CommandError(.usage, "\(flag) \(uri): the URI of a key in a token begins with \(Self.uriScheme)")
        }
        let keys = PKCS11Keys()
        // As it is written down: good from any folder.
        return try keys.openOrMake(try keys.resolve(uri, in: FileManager.default.currentDirectoryPath))
    }
}
