import Crypto
import SwiftASN1

/// A private key on disk: PKCS#8 (RFC 5958) as PEM (RFC 7468), readable by its owner alone, under a passphrase or not.
public enum KeyFile {
    /// The longest key file that is read, in bytes. A P-256 key takes 241, an encrypted one 530.
    public static let maximumSize = 16_384

    /// Creates the file with mode 0600, synced; never overwrites.
    ///
    /// - Parameter passphrase: encrypts the key (PBES2: PBKDF2 with HMAC-SHA-256 and 600,000 rounds, AES-256-CBC).
    /// - Throws: ``PKIError`` with code `exists`, `io`, or `signing` for a key in hardware.
    public static func create(
        _ path: String, _ key: SigningKey, passphrase: Passphrase? = nil
    ) throws(PKIError) {
        guard let pem = key.pemRepresentation, let software = key.softwareKey else {
            throw PKIError(.signing, "a hardware key cannot be written to \(path)")
        }
        let text = if let passphrase { try EncryptedKey.encrypt(software, passphrase) } else { pem }
        try DurableFile.create(path, Array(text.utf8), mode: 0o600)
    }

    /// Whether a key file is under a passphrase.
    ///
    /// - Throws: as ``read(_:passphrase:)``.
    public static func isEncrypted(_ path: String) throws(PKIError) -> Bool {
        let text = try Self.text(path)
        return (try? PEMDocument(pemString: text))?.discriminator == EncryptedKey.discriminator
    }

    /// Reads a key (PKCS#8, encrypted or not, or SEC 1).
    ///
    /// - Parameter passphrase: asked only if the key is encrypted.
    /// - Throws: ``PKIError`` with code `missing`, `permissions` if group or others have any access, `too-large`,
    ///   `weak-key` for a key of another kind than P-256, `passphrase`, `algorithm`, `format` or `io`.
    public static func read(_ path: String, passphrase: PassphraseSource? = nil) throws(PKIError) -> SigningKey {
        let text = try Self.text(path)
        if let key = try? P256.Signing.PrivateKey(pemRepresentation: text) { return SigningKey(key) }
        guard let document = try? PEMDocument(pemString: text) else {
            throw PKIError(.format, "\(path) is not a PEM file with one private key")
        }
        switch document.discriminator {
        case EncryptedKey.discriminator:
            let encrypted = try EncryptedKey(der: document.derBytes, path: path)
            guard let passphrase else {
                throw PKIError(.passphrase, "\(path) is encrypted, and no passphrase is given")
            }
            return SigningKey(try encrypted.decrypt(try passphrase(path), path: path))
        case "PRIVATE KEY", "EC PRIVATE KEY":
            throw PKIError(.weakKey, "\(path) does not hold a P-256 private key")
        default:
            throw PKIError(.format, "\(path) holds '\(document.discriminator)', not a private key")
        }
    }

    private static func text(_ path: String) throws(PKIError) -> String {
        let bytes = try DurableFile.read(path, maximumSize: Self.maximumSize, ownerOnly: true)
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw PKIError(.format, "\(path) is not a PEM file")
        }
        return text
    }
}
