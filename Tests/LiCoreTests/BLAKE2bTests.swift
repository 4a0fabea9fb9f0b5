import Crypto
import Foundation
import LiCore
import TestSupport
import Testing

@Suite("BLAKE2b (RFC 7693)")
struct BLAKE2bTests {
    private static func hex(_ bytes: some Sequence<UInt8>) -> String {
        bytes.map { String(format: "%02x", $0) }.joined()
    }

    @Test("gives the digest of appendix A")
    func appendixA() {
        #expect(
            Self.hex(BLAKE2b512.hash(data: Array("abc".utf8)))
                == "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
                + "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923")
    }

    /// The deterministic sequence of appendix E.
    private static func sequence(_ count: Int, seed: UInt32) -> [UInt8] {
        var a = 0xDEAD_4BAD &* seed
        var b: UInt32 = 1
        return (0..<count).map { _ in
            let next = a &+ b
            a = b
            b = next
            return UInt8(next >> 24)
        }
    }

    @Test("passes the self-test of appendix E: lengths of output and input, with and without key")
    func appendixE() {
        var grand = BLAKE2b(outputByteCount: 32)
        for output in [20, 32, 48, 64] {
            for length in [0, 3, 128, 129, 255, 1_024] {
                let input = Self.sequence(length, seed: UInt32(length))
                var plain = BLAKE2b(outputByteCount: output)
                plain.update(input)
                grand.update(plain.finalize())
                var keyed = BLAKE2b(outputByteCount: output, key: Self.sequence(output, seed: UInt32(output)))
                keyed.update(input)
                grand.update(keyed.finalize())
            }
        }
        #expect(Self.hex(grand.finalize()) == "c23a7800d98123bd10f506c61e29da5603d763b8bbad2e737f5e765a7bccd475")
    }

    @Test("reads the same in pieces, however they are cut", arguments: [1, 7, 64, 127, 128, 129, 300])
    func pieces(_ size: Int) {
        let input = Self.sequence(1_000, seed: 9)
        var hash = BLAKE2b512()
        for start in stride(from: 0, to: input.count, by: size) {
            hash.update(data: input[start..<min(start + size, input.count)])
        }
        #expect(Array(hash.finalize()) == Array(BLAKE2b512.hash(data: input)))
        // A digest does not end the hash.
        hash.update(data: [1])
        #expect(Array(hash.finalize()) == Array(BLAKE2b512.hash(data: input + [1])))
    }

    @Test(
        "agrees with Python's hashlib on 300 inputs of all lengths", .enabled(if: ChildProcess.find("python3") != nil))
    func hashlib() async throws {
        let inputs = (0..<300).map { Self.sequence($0, seed: UInt32($0 + 1)) } + [Self.sequence(100_000, seed: 5)]
        let script = """
            import hashlib, sys
            for line in sys.stdin:
                print(hashlib.blake2b(bytes.fromhex(line.strip())).hexdigest())
            """
        let process = try ChildProcess(
            "python3", ["-c", script], input: Array(inputs.map { Self.hex($0) + "\n" }.joined().utf8))
        #expect(try await process.wait() == .exited(0), "\(process.errorOutput)")
        let theirs = process.output.split(separator: "\n").map(String.init)
        #expect(theirs == inputs.map { Self.hex(BLAKE2b512.hash(data: $0)) })
    }

    @Test("is what HMAC and ECDSA of swift-crypto take")
    func cryptoTakesIt() {
        let key = P256.Signing.PrivateKey()
        let digest = BLAKE2b512.hash(data: Array("text".utf8))
        let signature = try? key.signature(for: digest)
        #expect(signature.map { key.publicKey.isValidSignature($0, for: digest) } == true)
        let other = BLAKE2b512.hash(data: Array("texu".utf8))
        #expect(signature.map { key.publicKey.isValidSignature($0, for: other) } == false)
        // RFC 2104 with Python: hmac.new(b"key", b"text", "blake2b").hexdigest()[:16]
        let code = HMAC<BLAKE2b512>.authenticationCode(
            for: Array("text".utf8), using: SymmetricKey(data: Array("key".utf8)))
        #expect(Self.hex(code).hasPrefix("5f5e4fce84ede60e"))
    }
}
