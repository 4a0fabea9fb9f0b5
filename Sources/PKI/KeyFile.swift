import Crypto
import SwiftASN1

/// A private key on disk: PKCS#8 (RFC 5958) as PEM (RFC 7468), readable by its owner alone, under a passphrase or not.
///
/// Of a key in hardware the file holds the URI alone; or the URI stands in place of the file's path.
public enum KeyFile {
    /// The longest key file that is read, in bytes. A P-256 key takes 241, an encrypted one 530.
    public static let maximumSize = 16_384

    /// Creates the file with mode 0600, synced; never overwrites.
    ///
    /// - Parameter passphrase: encrypts the key (PBES2: PBKDF2 with HMAC-SHA-256 and 600,000 rounds, AES-256-CBC).
    /// - Throws: ``PKIError`` with code `exists`, `io`, or `signing` for a key in hardware that has no URI.
    public static func create(
        _ path: String, _ key: SigningKey, passphrase: Passphrase? = nil
    ) throws(PKIError) {
        let text: String
        if let pem = key.pemRepresentation, let software = key.softwareKey {
            text = if let passphrase { try EncryptedKey.encrypt(software, passphrase) } else { pem }
        } else if let uri = key.uri {
            text = uri + "\n"
        } else {
            throw PKIError(.signing, "a hardware key cannot be written to \(path)")
        }
        try DurableFile.create(path, Array(text.utf8), mode: 0o600)
    }

    /// How the URI of a key in hardware begins.
    public static let uriScheme = "pkcs11:"

    /// The URI of a key in hardware.
    ///
    /// - Parameters:
    ///   - place: the URI, or a file that holds it.
    ///   - hardware: resolves what a file says relative to its folder; nil leaves it as it is.
    /// - Returns: nil for a key that is in its file.
    /// - Throws: as ``read(_:passphrase:hardware:)``.
    public static func uri(_ place: String, hardware: (any HardwareKeys)? = nil) throws(PKIError) -> String? {
        place.hasPrefix(Self.uriScheme) ? place : try Self.uri(try Self.text(place), of: place, hardware)
    }

    private static func uri(
        _ text: String, of path: String, _ hardware: (any HardwareKeys)?
    ) throws(PKIError) -> String? {
        guard text.hasPrefix(Self.uriScheme), let line = text.split(whereSeparator: \.isNewline).first else {
            return nil
        }
        guard let hardware, let slash = path.lastIndex(of: "/") else { return String(line) }
        return try hardware.resolve(String(line), in: String(path[...slash]))
    }

    /// Whether a key file is under a passphrase.
    ///
    /// - Throws: as ``read(_:passphrase:hardware:)``.
    public static func isEncrypted(_ path: String) throws(PKIError) -> Bool {
        let text = try Self.text(path)
        return (try? PEMDocument(pemString: text))?.discriminator == EncryptedKey.discriminator
    }

    /// Reads a key (PKCS#8, encrypted or not, or SEC 1).
    ///
    /// - Parameters:
    ///   - path: the file; or the URI of a key in hardware, as the file may hold too.
    ///   - passphrase: asked only if the key is encrypted.
    ///   - hardware: finds a key in hardware.
    /// - Throws: ``PKIError`` with code `missing`, `permissions` if group or others have any access, `too-large`,
    ///   `weak-key` for a key of another kind than P-256, `passphrase`, `algorithm`, `format`, `io` or `hardware`.
    public static func read(
        _ path: String, passphrase: PassphraseSource? = nil, hardware: (any HardwareKeys)? = nil
    ) throws(PKIError) -> SigningKey {
        if path.hasPrefix(Self.uriScheme) { return try Self.find(path, hardware) }
        let text = try Self.text(path)
        if let uri = try Self.uri(text, of: path, hardware) { return try Self.find(uri, hardware) }
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

    private static func find(_ uri: String, _ hardware: (any HardwareKeys)?) throws(PKIError) -> SigningKey {
        guard let hardware else {
            throw PKIError(.hardware, "\(uri.prefix { $0 != "?" }) is a key in hardware, which cannot be used here")
        }
        return try hardware.open(uri)
    }

    private static func text(_ path: String) throws(PKIError) -> String {
        let bytes = try DurableFile.read(path, maximumSize: Self.maximumSize, ownerOnly: true)
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw PKIError(.format, "\(path) is not a PEM file")
        }
        return text
    }
}
