import Crypto
import SwiftASN1

/// A private key on disk: PKCS#8 (RFC 5958) as PEM (RFC 7468), readable by its owner alone.
public enum KeyFile {
    /// The longest key file that is read, in bytes. A P-256 key takes 241.
    public static let maximumSize = 16_384

    /// Creates the file with mode 0600, synced; never overwrites.
    ///
    /// - Throws: ``PKIError`` with code `exists`, `io`, or `signing` for a key in hardware.
    public static func create(_ path: String, _ key: SigningKey) throws(PKIError) {
        guard let pem = key.pemRepresentation else {
            throw PKIError(.signing, "a hardware key cannot be written to \(path)")
        }
        try DurableFile.create(path, Array(pem.utf8), mode: 0o600)
    }

    /// Reads a key (PKCS#8 or SEC 1, not encrypted).
    ///
    /// - Throws: ``PKIError`` with code `missing`, `permissions` if group or others have any access, `too-large`,
    ///   `weak-key` for a key of another kind than P-256, `format` or `io`.
    public static func read(_ path: String) throws(PKIError) -> SigningKey {
        let bytes = try DurableFile.read(path, maximumSize: Self.maximumSize, ownerOnly: true)
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw PKIError(.format, "\(path) is not a PEM file")
        }
        do {
            return SigningKey(try P256.Signing.PrivateKey(pemRepresentation: text))
        } catch {
            guard let document = try? PEMDocument(pemString: text) else {
                throw PKIError(.format, "\(path) is not a PEM file with one private key")
            }
            guard ["PRIVATE KEY", "EC PRIVATE KEY"].contains(document.discriminator) else {
                throw PKIError(
                    .format, "\(path) holds '\(document.discriminator)', not an unencrypted private key")
            }
            throw PKIError(.weakKey, "\(path) does not hold a P-256 private key")
        }
    }
}
