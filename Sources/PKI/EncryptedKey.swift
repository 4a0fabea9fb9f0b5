// EncryptedPrivateKeyInfo (RFC 5958 section 3) under PBES2 (RFC 8018 section 6.2) with AES-256-CBC; the key from
// PBKDF2 with HMAC-SHA-256 (RFC 8018 section 5.2), when reading also from scrypt (RFC 7914).

import Crypto
import CryptoExtras
import Foundation
import SwiftASN1

/// A PKCS#8 private key under a passphrase, as `openssl pkcs8 -topk8` writes it and `openssl pkey` reads it.
struct EncryptedKey {
    /// Rounds of PBKDF2 for what is written.
    static let rounds = 600_000
    /// A file that asks for more work than this is refused, not obeyed: rounds of PBKDF2, bytes of scrypt.
    static let maximumRounds = 10_000_000
    static let maximumMemory = 256 << 20

    static let discriminator = "ENCRYPTED PRIVATE KEY"

    private static let pbes2: ASN1ObjectIdentifier = [1, 2, 840, 113549, 1, 5, 13]
    private static let pbkdf2: ASN1ObjectIdentifier = [1, 2, 840, 113549, 1, 5, 12]
    private static let scrypt: ASN1ObjectIdentifier = [1, 3, 6, 1, 4, 1, 11591, 4, 11]
    private static let hmacWithSHA256: ASN1ObjectIdentifier = [1, 2, 840, 113549, 2, 9]
    private static let aes256CBC: ASN1ObjectIdentifier = [2, 16, 840, 1, 101, 3, 4, 1, 42]

    private enum Derivation {
        case pbkdf2(salt: [UInt8], rounds: Int)
        case scrypt(salt: [UInt8], cost: Int, blockSize: Int, parallelism: Int)
    }

    private let derivation: Derivation
    private let vector: [UInt8]
    private let ciphertext: [UInt8]

    /// Reads the structure; nothing is decrypted.
    ///
    /// - Throws: ``PKIError`` with code `format` for what is no such structure, `algorithm` for other algorithms and
    ///   for work beyond the limits.
    init(der: [UInt8], path: String) throws(PKIError) {
        do {
            (self.derivation, self.vector, self.ciphertext) = try Self.parse(der, path)
        } catch let error as PKIError {
            throw error
        } catch {
            throw PKIError(.format, "\(path) is not an encrypted private key (PKCS#8)")
        }
    }

    private static func parse(_ der: [UInt8], _ path: String) throws -> (Derivation, [UInt8], [UInt8]) {
        let unknown = PKIError(
            .algorithm,
            "\(path) is encrypted in a way that is not known here: use openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256"
        )
        return try DER.sequence(try DER.parse(der), identifier: .sequence) { nodes -> (Derivation, [UInt8], [UInt8]) in
            let (derivation, vector) = try DER.sequence(in: &nodes) { nodes -> (Derivation, [UInt8]) in
                guard try ASN1ObjectIdentifier(derEncoded: &nodes) == Self.pbes2 else { throw unknown }
                return try DER.sequence(in: &nodes) { nodes -> (Derivation, [UInt8]) in
                    let derivation = try DER.sequence(in: &nodes) { nodes -> Derivation in
                        let function = try ASN1ObjectIdentifier(derEncoded: &nodes)
                        return try DER.sequence(in: &nodes) { nodes -> Derivation in
                            let salt = Array(try ASN1OctetString(derEncoded: &nodes).bytes)
                            guard (8...1_024).contains(salt.count) else { throw unknown }
                            switch function {
                            case Self.pbkdf2: return try Self.parsePBKDF2(&nodes, salt, unknown)
                            case Self.scrypt: return try Self.parseScrypt(&nodes, salt, unknown)
                            default: throw unknown
                            }
                        }
                    }
                    let vector = try DER.sequence(in: &nodes) { nodes -> [UInt8] in
                        guard try ASN1ObjectIdentifier(derEncoded: &nodes) == Self.aes256CBC else { throw unknown }
                        return Array(try ASN1OctetString(derEncoded: &nodes).bytes)
                    }
                    return (derivation, vector)
                }
            }
            let ciphertext = Array(try ASN1OctetString(derEncoded: &nodes).bytes)
            guard vector.count == 16, !ciphertext.isEmpty, ciphertext.count.isMultiple(of: 16) else {
                throw PKIError(.format, "\(path) is not an encrypted private key (PKCS#8)")
            }
            return (derivation, vector, ciphertext)
        }
    }

    private static func parsePBKDF2(
        _ nodes: inout ASN1NodeCollection.Iterator, _ salt: [UInt8], _ unknown: PKIError
    ) throws -> Derivation {
        let rounds = try Int(derEncoded: &nodes)
        var next = nodes.next()
        if let node = next, node.identifier == .integer {
            guard try Int(derEncoded: node) == 32 else { throw unknown }
            next = nodes.next()
        }
        // Absent, it would be HMAC-SHA-1.
        guard let function = next else { throw unknown }
        try DER.sequence(function, identifier: .sequence) { nodes in
            guard try ASN1ObjectIdentifier(derEncoded: &nodes) == Self.hmacWithSHA256 else { throw unknown }
            _ = nodes.next()
        }
        guard (1...Self.maximumRounds).contains(rounds) else { throw unknown }
        return .pbkdf2(salt: salt, rounds: rounds)
    }

    private static func parseScrypt(
        _ nodes: inout ASN1NodeCollection.Iterator, _ salt: [UInt8], _ unknown: PKIError
    ) throws -> Derivation {
        let cost = try Int(derEncoded: &nodes)
        let blockSize = try Int(derEncoded: &nodes)
        let parallelism = try Int(derEncoded: &nodes)
        if let length = nodes.next() {
            guard try Int(derEncoded: length) == 32 else { throw unknown }
        }
        guard cost >= 2, cost & (cost - 1) == 0, cost <= 1 << 24, (1...32).contains(blockSize),
            (1...16).contains(parallelism), 128 * cost * blockSize <= Self.maximumMemory
        else { throw unknown }
        return .scrypt(salt: salt, cost: cost, blockSize: blockSize, parallelism: parallelism)
    }

    /// The PKCS#8 key within.
    ///
    /// - Throws: ``PKIError`` with code `passphrase` if this one does not open it.
    func decrypt(_ passphrase: Passphrase, path: String) throws(PKIError) -> P256.Signing.PrivateKey {
        do {
            let plain = try AES._CBC.decrypt(
                self.ciphertext, using: try Self.derive(self.derivation, passphrase),
                iv: try AES._CBC.IV(ivBytes: self.vector))
            return try P256.Signing.PrivateKey(derRepresentation: plain)
        } catch {
            throw PKIError(.passphrase, "the passphrase does not open \(path) as a P-256 key")
        }
    }

    private static func derive(_ derivation: Derivation, _ passphrase: Passphrase) throws -> SymmetricKey {
        switch derivation {
        case .pbkdf2(let salt, let rounds):
            // "Unchecked", because a file of another program may have fewer rounds than we would write.
            try KDF.Insecure.PBKDF2.deriveKey(
                from: passphrase.bytes, salt: salt, using: .sha256, outputByteCount: 32, unsafeUncheckedRounds: rounds)
        case .scrypt(let salt, let cost, let blockSize, let parallelism):
            try KDF.Scrypt.deriveKey(
                from: passphrase.bytes, salt: salt, outputByteCount: 32, rounds: cost, blockSize: blockSize,
                parallelism: parallelism, maxMemory: 2 * Self.maximumMemory)
        }
    }

    /// Encrypts a key, with fresh salt and vector.
    ///
    /// - Returns: PEM, ending with a line feed.
    /// - Throws: ``PKIError`` with code `signing`.
    static func encrypt(_ key: P256.Signing.PrivateKey, _ passphrase: Passphrase) throws(PKIError) -> String {
        var random = SystemRandomNumberGenerator()
        func bytes() -> [UInt8] { (0..<16).map { _ in UInt8.random(in: .min ... .max, using: &random) } }
        let (salt, vector) = (bytes(), bytes())
        do {
            let ciphertext = try AES._CBC.encrypt(
                key.derRepresentation, using: try Self.derive(.pbkdf2(salt: salt, rounds: Self.rounds), passphrase),
                iv: try AES._CBC.IV(ivBytes: vector))
            var serializer = DER.Serializer()
            try serializer.appendConstructedNode(identifier: .sequence) { info in
                try info.appendConstructedNode(identifier: .sequence) { algorithm in
                    try algorithm.serialize(Self.pbes2)
                    try algorithm.appendConstructedNode(identifier: .sequence) { parameters in
                        try parameters.appendConstructedNode(identifier: .sequence) { function in
                            try function.serialize(Self.pbkdf2)
                            try function.appendConstructedNode(identifier: .sequence) { parameters in
                                try parameters.serialize(ASN1OctetString(contentBytes: salt[...]))
                                try parameters.serialize(Self.rounds)
                                try parameters.appendConstructedNode(identifier: .sequence) { hash in
                                    try hash.serialize(Self.hmacWithSHA256)
                                    hash.appendPrimitiveNode(identifier: .null) { _ in }
                                }
                            }
                        }
                        try parameters.appendConstructedNode(identifier: .sequence) { cipher in
                            try cipher.serialize(Self.aes256CBC)
                            try cipher.serialize(ASN1OctetString(contentBytes: vector[...]))
                        }
                    }
                }
                try info.serialize(ASN1OctetString(contentBytes: Array(ciphertext)[...]))
            }
            return PEMDocument(type: Self.discriminator, derBytes: serializer.serializedBytes).pemString + "\n"
        } catch {
            throw PKIError(.signing, "cannot encrypt the key: \(error)")
        }
    }
}
