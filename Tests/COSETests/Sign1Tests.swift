import COSE
import Crypto
import Foundation
import FuzzTargets
import TestSupport
import Testing

@Suite("COSE_Sign1 in one form only")
struct Sign1Tests {
    private static let order: [UInt8] =
        Hex.bytes("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551") ?? []
    private static let halfOrder: [UInt8] =
        Hex.bytes("7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8") ?? []

    let key = P256.Signing.PrivateKey(compactRepresentable: false)
    let protected: [UInt8] = [0xA1, 0x01, 0x26]

    private func message(payload: [UInt8] = Array("payload".utf8)) throws -> [UInt8] {
        try Sign1.sign(protected: self.protected, payload: payload) { try self.key.signature(for: $0) }
    }

    private static func number(_ last: UInt8) -> [UInt8] { [UInt8](repeating: 0, count: 31) + [last] }

    /// A message with any signature; nothing that needs a key is checked when it is taken apart.
    private static func unverified(_ signature: [UInt8]) -> [UInt8] {
        [0xD2, 0x84, 0x43, 0xA1, 0x01, 0x26, 0xA0, 0x41, 0x00, 0x58, 0x40] + signature
    }

    @Test("What is signed comes back and verifies")
    func verifies() throws {
        let message = try Sign1(try self.message())
        #expect(message.isSigned(by: self.key.publicKey))
        #expect(Array(message.bytes[message.protected]) == self.protected)
        #expect(Array(message.bytes[message.payload]) == Array("payload".utf8))
    }

    @Test("Another key, header or payload does not verify")
    func noticesChanges() throws {
        let bytes = try self.message()
        let other = P256.Signing.PrivateKey(compactRepresentable: false)
        #expect(try !Sign1(bytes).isSigned(by: other.publicKey))
        var changed = bytes
        changed[5] = 0x27
        #expect(try !Sign1(changed).isSigned(by: self.key.publicKey))
        changed = bytes
        changed[9] ^= 1
        #expect(try !Sign1(changed).isSigned(by: self.key.publicKey))
    }

    @Test(
        "The Sig_structure is that of RFC 9052 section 4.4, however long the payload",
        arguments: [0, 23, 24, 256, 65_536])
    func digestsTheSigStructure(_ length: Int) throws {
        let payload = [UInt8](repeating: 0x61, count: length)
        var structure = CBORWriter()
        structure.array(4)
        structure.text("Signature1")
        structure.byteString(self.protected)
        structure.byteString([])
        structure.byteString(payload)
        let message = try Sign1(try self.message(payload: payload))
        #expect(message.digest == SHA256.hash(data: structure.bytes))
    }

    @Test("Signing always yields the lower s")
    func signsWithLowS() throws {
        // Half of all signatures have a high s to begin with, so 64 of them miss it once in 2^64 times.
        for _ in 0..<64 {
            let bytes = try self.message()
            #expect(try Sign1(bytes).isSigned(by: self.key.publicKey))
        }
    }

    @Test("n minus s is the other of two valid signatures")
    func negatesS() throws {
        let one = Self.number(1)
        var orderMinusOne = Self.order
        orderMinusOne[31] -= 1
        #expect(Sign1.withLowS(one + orderMinusOne) == one + one)
        #expect(Sign1.withLowS(one + Self.halfOrder) == one + Self.halfOrder)
        var aboveHalf = Self.halfOrder
        aboveHalf[31] += 1
        #expect(Sign1.withLowS(one + aboveHalf) == one + Self.halfOrder)
    }

    @Test("r and s are held to their ranges")
    func checksRanges() throws {
        let one = Self.number(1)
        var orderMinusOne = Self.order
        orderMinusOne[31] -= 1
        var aboveHalf = Self.halfOrder
        aboveHalf[31] += 1
        _ = try Sign1(Self.unverified(one + one))
        _ = try Sign1(Self.unverified(orderMinusOne + Self.halfOrder))
        let notCanonical = COSEError(.notCanonical, "", at: 0)
        for signature in [Self.number(0) + one, Self.order + one, one + Self.number(0), one + aboveHalf] {
            #expect(throws: notCanonical) { _ = try Sign1(Self.unverified(signature)) }
        }
        #expect(throws: notCanonical) {
            _ = try Sign1(Self.unverified([UInt8](repeating: 0xFF, count: 64)))
        }
    }

    @Test(
        "The public examples are refused for their form; brought into ours, they verify",
        .enabled(if: SharedData.path("vectors/cose/sign1-tests") != nil, "no shared vectors"),
        arguments: ["pass-01", "pass-02", "pass-03", "fail-01", "fail-02", "fail-03", "fail-04", "fail-06", "fail-07"])
    func publicExamples(_ name: String) throws {
        struct Example: Decodable {
            struct Input: Decodable {
                struct Sign: Decodable {
                    struct Key: Decodable {
                        let x: String
                        let y: String
                    }
                    let key: Key
                    let external: String?
                }
                let sign0: Sign
            }
            struct Intermediates: Decodable {
                let toBeSigned: String

                private enum CodingKeys: String, CodingKey {
                    case toBeSigned = "ToBeSign_hex"
                }
            }
            struct Output: Decodable {
                let cbor: String
            }
            let input: Input
            let intermediates: Intermediates
            let output: Output
        }
        let path = try #require(SharedData.path("vectors/cose/sign1-tests/sign-\(name).json"))
        let example = try JSONDecoder().decode(Example.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
        let bytes = try #require(Hex.bytes(example.output.cbor.lowercased()))
        // They carry alg or kid in the unprotected header, or are no COSE_Sign1 with its tag.
        let isTagged = bytes[0] == 0xD2
        #expect(throws: COSEError(isTagged ? .notCanonical : .unexpected, "", at: 0)) { _ = try Sign1(bytes) }

        guard name.hasPrefix("pass"), example.input.sign0.external == nil else { return }
        var reader = CBORReader(bytes, in: (isTagged ? 2 : 1)..<bytes.count)
        let protected = try reader.byteArray()
        try reader.skip()
        let payload = try reader.byteArray()
        let signature = try reader.byteArray()
        var writer = CBORWriter()
        writer.tag(18)
        writer.array(4)
        writer.byteString(protected)
        writer.map(0)
        writer.byteString(payload)
        writer.byteString(Sign1.withLowS(signature))
        let message = try Sign1(writer.bytes)
        let x = try #require(Self.base64URL(example.input.sign0.key.x))
        let y = try #require(Self.base64URL(example.input.sign0.key.y))
        let key = try P256.Signing.PublicKey(rawRepresentation: x + y)
        #expect(message.isSigned(by: key))
        let toBeSigned = try #require(Hex.bytes(example.intermediates.toBeSigned.lowercased()))
        #expect(message.digest == SHA256.hash(data: toBeSigned))
    }

    private static func base64URL(_ text: String) -> Data? {
        let standard = text.replacingOccurrences(of: "-", with: "+").replacingOccurrences(of: "_", with: "/")
        return Data(base64Encoded: standard + String(repeating: "=", count: (4 - standard.count % 4) % 4))
    }

    @Test("Mutated bytes are read or refused, never more")
    func fuzz() throws {
        let target = try #require(FuzzTarget.telemetry.first { $0.name == "CBOR" })
        #expect(target.seeds.count == 8)
        try target.fuzz(count: 20_000, seed: 8_949)
    }
}
