import Crypto
import Foundation
import PKI
import TestSupport
import Testing

/// Keys under a passphrase, ours and openssl's.
@Suite(.enabled(if: OpenSSL.isInstalled, "openssl is not installed"))
struct EncryptedKeyTests {
    let directory: TemporaryDirectory
    let key = SigningKey()

    init() throws { self.directory = try TemporaryDirectory() }

    func source(_ text: String) throws -> PassphraseSource { try Passphrase(text).source }

    @Test("An encrypted key comes back with its passphrase, and openssl reads it")
    func ours() async throws {
        let path = self.directory.path("a.key")
        try KeyFile.create(path, self.key, passphrase: try Passphrase("correct horse"))
        #expect(try KeyFile.isEncrypted(path))
        let back = try KeyFile.read(path, passphrase: try self.source("correct horse"))
        #expect(back.publicKey.rawRepresentation == self.key.publicKey.rawRepresentation)
        let text = try String(contentsOfFile: path, encoding: .utf8)
        #expect(text.hasPrefix("-----BEGIN ENCRYPTED PRIVATE KEY-----"))

        let read = try await OpenSSL.run(["pkey", "-in", path, "-passin", "pass:correct horse", "-pubout"])
        #expect(
            read.output.filter { !$0.isWhitespace } == self.key.publicKey.pemRepresentation.filter { !$0.isWhitespace })
        let parsed = try await OpenSSL.run(["asn1parse", "-in", path])
        for name in ["PBES2", "PBKDF2", "hmacWithSHA256", "aes-256-cbc", "0927C0"] {
            #expect(parsed.output.contains(name), "\(parsed.output)")
        }
    }

    @Test(
        "A key that openssl encrypted is read",
        arguments: [
            ["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256"],
            ["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "100000"],
            ["-scrypt", "-v2", "aes-256-cbc"],
        ])
    func theirs(options: [String]) async throws {
        try KeyFile.create(self.directory.path("a.key"), self.key)
        let path = self.directory.path("b.key")
        let made = try await OpenSSL.run(
            ["pkcs8", "-topk8", "-in", self.directory.path("a.key"), "-out", path, "-passout", "pass:horse"] + options)
        #expect(made.status == 0, "\(made.errorOutput)")
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
        let back = try KeyFile.read(path, passphrase: try self.source("horse"))
        #expect(back.publicKey.rawRepresentation == self.key.publicKey.rawRepresentation)
    }

    @Test("A wrong passphrase, and none, is an error with a name")
    func wrong() throws {
        let path = self.directory.path("a.key")
        try KeyFile.create(path, self.key, passphrase: try Passphrase("right"))
        #expect(throws: PKIError(.passphrase, "")) { try KeyFile.read(path, passphrase: try self.source("wrong")) }
        #expect(throws: PKIError(.passphrase, "")) { try KeyFile.read(path) }
        #expect(throws: PKIError(.passphrase, "")) { try Passphrase("") }
        #expect("\(try Passphrase("secret"))" == "<passphrase>")
    }

    @Test(
        "Weak ciphers and hashes are refused by name",
        arguments: [["-v2", "des3"], ["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA1"], ["-v2", "aes-128-cbc"]])
    func otherAlgorithms(options: [String]) async throws {
        try KeyFile.create(self.directory.path("a.key"), self.key)
        let path = self.directory.path("b.key")
        _ = try await OpenSSL.run(
            ["pkcs8", "-topk8", "-in", self.directory.path("a.key"), "-out", path, "-passout", "pass:horse"] + options)
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
        #expect(throws: PKIError(.algorithm, "")) { try KeyFile.read(path, passphrase: try self.source("horse")) }
    }

    @Test("A file that asks for endless work is refused before any of it is done", arguments: [true, false])
    func endless(isScrypt: Bool) throws {
        let salt = wrap(0x04, [UInt8](repeating: 1, count: 16))
        let function: [UInt8] =
            isScrypt
            // scrypt, N = 2^30, r = 8, p = 1
            ? wrap(0x06, [0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x04, 0x0B])
                + wrap(0x30, salt + wrap(0x02, [0x40, 0, 0, 0]) + wrap(0x02, [8]) + wrap(0x02, [1]))
            // PBKDF2, 2^31 - 1 rounds of HMAC-SHA-256
            : wrap(0x06, [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x05, 0x0C])
                + wrap(
                    0x30,
                    salt + wrap(0x02, [0x7F, 0xFF, 0xFF, 0xFF])
                        + wrap(0x30, wrap(0x06, [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x02, 0x09]) + [0x05, 0x00]))
        let cipher =
            wrap(0x06, [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2A])
            + wrap(0x04, [UInt8](repeating: 2, count: 16))
        let scheme =
            wrap(0x06, [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x05, 0x0D])
            + wrap(0x30, wrap(0x30, function) + wrap(0x30, cipher))
        let der = wrap(0x30, wrap(0x30, scheme) + wrap(0x04, [UInt8](repeating: 3, count: 160)))
        let path = try self.directory.write(
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\(Data(der).base64EncodedString(options: .lineLength64Characters))\n-----END ENCRYPTED PRIVATE KEY-----\n",
            to: "b.key")
        #expect(throws: PKIError(.algorithm, "")) { try KeyFile.read(path, passphrase: try self.source("right")) }
    }

    @Test("A credential file is its first line, for its owner alone")
    func credential() throws {
        let path = try self.directory.write("correct horse\nmore\n", to: "credential")
        try KeyFile.create(self.directory.path("a.key"), self.key, passphrase: try Passphrase("correct horse"))
        #expect(throws: Never.self) {
            try KeyFile.read(
                self.directory.path("a.key"), passphrase: { (_) throws(PKIError) in try Passphrase.read(path) })
        }
        let open = try self.directory.write("x\n", to: "open", permissions: 0o644)
        #expect(throws: PKIError(.permissions, "")) { try Passphrase.read(open) }
        #expect(throws: PKIError(.passphrase, "")) { try Passphrase.read(try self.directory.write("\n", to: "empty")) }
        #expect(throws: PKIError(.missing, "")) { try Passphrase.read("/nowhere") }
    }

    @Test("A credential of systemd's is taken as systemd makes it, and not if others may read or write it")
    func systemdCredential() throws {
        for (mode, isTaken) in [(0o400, true), (0o440, true), (0o600, true), (0o460, false), (0o444, false)] {
            let path = try self.directory.write("correct horse\n", to: "c\(mode)", permissions: mode)
            #expect((try? Passphrase.read(path, groupMayRead: true)) != nil || !isTaken)
            if !isTaken {
                #expect(throws: PKIError(.permissions, "")) { try Passphrase.read(path, groupMayRead: true) }
            }
        }
    }
}
