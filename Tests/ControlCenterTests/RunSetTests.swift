import ControlCenter
import TestSupport
import Testing

@Suite struct RunSetTests {
    @Test func `what is inserted in any order is held, once, in runs that do not touch`() throws {
        var random = SplitMix64(seed: 7)
        for _ in 0..<200 {
            var runs = RunSet()
            var model: Set<Int64> = []
            var stored: [Int64: Int64] = [:]
            for _ in 0..<60 {
                let number = Int64.random(in: 1...40, using: &random)
                let needsNewRun = runs.needsNewRun(for: number)
                let change = runs.insert(number)
                #expect((change == .none) == !model.insert(number).inserted)
                #expect(needsNewRun == (change == .created(first: number)))
                Self.apply(change, number, to: &stored)
                let expected = Self.runs(of: model)
                #expect(runs.runs == expected)
                #expect(runs.runs == stored.sorted { $0.key < $1.key }.map { $0.key...$0.value })
                #expect(runs.newest == model.max())
                #expect(RunSet(expected) == runs)
                for probe in Int64(0)...41 {
                    #expect(runs.contains(probe) == model.contains(probe))
                    #expect(runs.run(containing: probe) == expected.first { $0.contains(probe) })
                }
                let missing = (1...(model.max() ?? 1)).filter { !model.contains($0) }
                #expect(runs.gaps.flatMap { Array($0) } == missing)
            }
        }
    }

    @Test(
        arguments: [
            [1...3, 4...5], [1...3, 2...5], [5...6, 1...2],
        ] as [[ClosedRange<Int64>]])
    func `runs that touch, overlap or are unsorted are none`(_ runs: [ClosedRange<Int64>]) {
        #expect(RunSet(runs) == nil)
    }

    /// Does to a table what a change says, as a store does.
    private static func apply(_ change: RunSet.Change, _ number: Int64, to stored: inout [Int64: Int64]) {
        switch change {
        case .none: break
        case .created(let first): stored[first] = first
        case .extended(let first): stored[first] = number
        case .lowered(let from, let to): stored[to] = stored.removeValue(forKey: from)
        case .joined(let first, let removed): stored[first] = stored.removeValue(forKey: removed)
        }
    }

    private static func runs(of numbers: Set<Int64>) -> [ClosedRange<Int64>] {
        numbers.sorted().reduce(into: []) { runs, number in
            if let last = runs.last, last.upperBound == number - 1 {
                runs[runs.count - 1] = last.lowerBound...number
            } else {
                runs.append(number...number)
            }
        }
    }
}
