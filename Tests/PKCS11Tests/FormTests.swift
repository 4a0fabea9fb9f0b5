import Crypto
import Foundation
import FuzzTargets
import PKCS11
import PKI
import Testing

/// URIs and public keys, which need no token.
@Suite struct FormTests {
    @Test(
        "A URI that names no private key, or no safe way to its PIN, is refused with the reason",
        arguments: [
            ("pkcs11:", "is no URI of a key|say which module"), ("pkcs11:%", "is no URI of a key"),
            ("pkcs11:token=a;object=%zz?module-path=/m.so", "is no URI of a key"),
            ("pkcs11:token=a;token=b;object=c;colour=red?module-path=/m.so", "is no URI of a key"),
            ("pkcs11:token=a;object=b;slot-id=1?module-path=/m.so", "is no URI of a key"),
            ("pkcs11:token=a;object=b", "say which module"),
            ("pkcs11:token=a;object=b?module-path=", "say which module"),
            ("pkcs11:token=a?module-path=/m.so", "say which key"),
            ("pkcs11:token=a;object=?module-path=/m.so", "say which key"),
            ("pkcs11:token=a;object=b;type=public?module-path=/m.so", "type is private"),
            ("pkcs11:token=a;object=b;type=cert?module-path=/m.so", "type is private"),
            ("pkcs11:token=a;object=b?module-path=/m.so&pin-value=1234", "would show the PIN to everybody"),
            ("pkcs11:token=a;object=b?module-path=/m.so&pin-source=|cat", "names a file"),
            ("pkcs11:token=a;object=b?module-path=/m.so&pin-source=%7Ccat", "names a file"),
            ("pkcs11:token=a;object=b?module-path=/m.so&pin-source=http://pin.example", "names a file"),
            ("pkcs11:token=a;object=b?module-path=/m.so&pin-source=file://host/pin", "names a file"),
            ("pkcs11:token=a;object=b?module-path=/m.so&pin-source=file:", "names a file"),
            ("pkcs11:token=a;object=" + String(repeating: "b", count: 3_000) + "?module-path=/m.so", "longer than"),
        ])
    func refused(uri: String, words: String) {
        let error = #expect(throws: PKIError(.format, "")) { try PKCS11Keys().resolve(uri, in: "/etc") }
        let reason = error?.reason ?? ""
        #expect(words.split(separator: "|").contains { reason.contains($0) }, "\(reason)")
        #expect(!reason.contains("1234") && !reason.contains("\n") && reason.count < 500)
    }

    @Test(
        "A relative PIN file is taken from the folder of what names it; everything else stays",
        arguments: [
            ("pin-source=file:pin", "pin-source=file%3A%2Fetc%2Fenergy%2Fpin"),
            ("pin-source=pin", "pin-source=file%3A%2Fetc%2Fenergy%2Fpin"),
            ("pin-source=file:/run/pin", "pin-source=file:/run/pin"),
            ("pin-source=file:///run/pin", "pin-source=file:///run/pin"),
            ("pin-source=/run/pin", "pin-source=/run/pin"),
        ])
    func resolved(source: String, expected: String) throws {
        let uri = "pkcs11:token=a%20b;object=b?module-path=/m.so&\(source)"
        for folder in ["/etc/energy", "/etc/energy/"] {
            let resolved = try PKCS11Keys().resolve(uri, in: folder)
            #expect(resolved.contains(expected), "\(resolved)")
            #expect(resolved.hasPrefix("pkcs11:") && resolved.contains("token=a%20b") && resolved.contains("object=b"))
            #expect(resolved.contains("module-path="))
            // What was resolved stays as it is.
            #expect(try PKCS11Keys().resolve(resolved, in: "/elsewhere") == resolved)
        }
        #expect(try PKCS11Keys().resolve(uri, in: "") == uri)
    }

    private let bytes = Array(P256.Signing.PrivateKey().publicKey.x963Representation)

    @Test("A public key's point is read bare or in an OCTET STRING")
    func point() throws {
        for form in [self.bytes, [0x04, 0x41] + self.bytes] {
            #expect(try Array(TokenPublicKey.decode(point: form, name: "a").x963Representation) == self.bytes)
        }
    }

    @Test("Anything else is no public key of P-256")
    func otherPoints() {
        let compressed = [0x02 + self.bytes[64] % 2] + self.bytes[1..<33]
        var off = self.bytes
        off[64] ^= 1
        let cases: [[UInt8]] = [
            [], [0x04], self.bytes.dropLast(), self.bytes + [0], [0x04, 0x42] + self.bytes, [0x03, 0x41] + self.bytes,
            [0x04, 0x41] + self.bytes.dropLast(), [0x03, 0x42, 0x00] + self.bytes, compressed,
            [0x04, 0x21] + compressed, off, [0x04, 0x41] + off, [0x02] + self.bytes.dropFirst(),
            [UInt8](repeating: 0, count: 65), [0x04] + [UInt8](repeating: 0, count: 64),
            [0x04] + [UInt8](repeating: 0xFF, count: 64), [UInt8](repeating: 4, count: 5_000),
        ]
        for form in cases {
            #expect(throws: PKIError(.weakKey, ""), "\(form)") { try TokenPublicKey.decode(point: form, name: "a") }
        }
    }

    @Test("Mutated points and URIs never crash", arguments: FuzzTarget.pkcs11.indices)
    func fuzz(index: Int) throws { try FuzzTarget.pkcs11[index].fuzz(count: 5_000, seed: 11) }
}
