import FuzzTargets
import Testing

@Suite("Auditor: fuzzing") struct AuditorFuzzTests {
    @Test("no text crashes the CSV reader, and whatever it reads can be told")
    func csv() throws {
        #expect(FuzzTarget.csv.map(\.seeds.count) == [4])
        for target in FuzzTarget.csv { try target.fuzz(count: 10_000, seed: 1) }
    }
}
