import FuzzTargets
import Telemetry
import Testing

@Suite("Changed messages")
struct MutationTests {
    @Test(
        "are never taken, whichever byte is changed and however",
        arguments: ["statement", "heartbeat", "result", "receipts", "hello", "update", "alert", "alert-of-auditor"])
    func everyByte(_ name: String) throws {
        let original = Vectors.message(name)
        let topic = try #require(Vectors.accepted.first { $0.name == name }?.topic)
        #expect(Vectors.verdict(original, topic: topic) == nil)
        for index in original.indices {
            for change: UInt8 in [0x01, 0x80, 0xFF, 0x20] {
                var bytes = original
                bytes[index] ^= change
                let verdict = Vectors.verdict(bytes, topic: topic)
                #expect(verdict != nil, "byte \(index) ^ \(change) is taken")
            }
        }
    }

    @Test("are refused when cut short, wherever", arguments: Vectors.accepted)
    func everyPrefix(_ vector: Vectors.Accepted) throws {
        let bytes = try #require(hexBytes(vector.message))
        for length in bytes.indices {
            #expect(throws: Refusal(.format, "")) { _ = try Envelope.decode(Array(bytes[..<length])) }
        }
    }

    @Test("are read or refused by every decoder, never more", arguments: ["Envelope", "SenML"])
    func fuzz(_ name: String) throws {
        let target = try #require(FuzzTarget.telemetry.first { $0.name == name })
        #expect(target.seeds.count == (name == "SenML" ? 1 : 7))
        try target.fuzz(count: 30_000, seed: 9_052)
    }
}
