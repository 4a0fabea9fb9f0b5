import FuzzTargets
import Testing

struct RouterFuzzTests {
    @Test(
        "Whatever two clients send, and whenever they go, the router keeps its word",
        arguments: 1...4 as ClosedRange<UInt64>)
    func conversations(seed: UInt64) throws {
        let target = try #require(FuzzTarget.broker.first)
        #expect(target.seeds.count == 4)
        try target.fuzz(count: 3_000, seed: seed)
    }
}
