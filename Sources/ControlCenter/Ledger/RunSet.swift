/// The sequence numbers held of one stream, as runs without a hole: sorted, apart by at least one number.
///
/// What lies between two runs is a gap, so a gap of any length costs one entry.
public struct RunSet: Hashable, Sendable {
    /// The runs, oldest first.
    public private(set) var runs: [ClosedRange<Int64>]

    /// What ``insert(_:)`` did to the runs, so that a store can do the same.
    public enum Change: Hashable, Sendable {
        /// It was held already.
        case none
        /// A run of its own.
        case created(first: Int64)
        /// The run that begins at `first` reaches further.
        case extended(first: Int64)
        /// The run that began at `from` begins one earlier now.
        case lowered(from: Int64, to: Int64)
        /// The run that began at `removed` is now the end of the one that begins at `first`.
        case joined(first: Int64, removed: Int64)
    }

    public init() {
        self.runs = []
    }

    /// - Parameter runs: sorted, not touching.
    /// - Returns: `nil` if they are not.
    public init?(_ runs: [ClosedRange<Int64>]) {
        for index in runs.indices.dropFirst() where runs[index].lowerBound - 1 <= runs[index - 1].upperBound {
            return nil
        }
        self.runs = runs
    }

    /// The newest number held.
    public var newest: Int64? { self.runs.last?.upperBound }

    /// The gaps below the newest number, counted from 1.
    public var gaps: [ClosedRange<Int64>] {
        var gaps: [ClosedRange<Int64>] = []
        var next: Int64 = 1
        for run in self.runs {
            if run.lowerBound > next { gaps.append(next...(run.lowerBound - 1)) }
            next = run.upperBound + 1
        }
        return gaps
    }

    /// The newest number held below `number`.
    func newest(below number: Int64) -> Int64? {
        let index = self.firstIndex(beyond: number - 1)
        return index == 0 ? nil : min(self.runs[index - 1].upperBound, number - 1)
    }

    public func contains(_ number: Int64) -> Bool {
        self.run(containing: number) != nil
    }

    /// The run that holds `number`.
    public func run(containing number: Int64) -> ClosedRange<Int64>? {
        // Nearly every question is about the newest run.
        if let last = self.runs.last, last.lowerBound <= number { return last.contains(number) ? last : nil }
        let index = self.firstIndex(beyond: number)
        guard index > 0, self.runs[index - 1].contains(number) else { return nil }
        return self.runs[index - 1]
    }

    /// Whether adding `number` would need a run more than there are.
    public func needsNewRun(for number: Int64) -> Bool {
        let index = self.firstIndex(beyond: number)
        if index > 0, self.runs[index - 1].upperBound >= number - 1 { return false }
        if index < self.runs.count, self.runs[index].lowerBound == number + 1 { return false }
        return true
    }

    /// Adds one number.
    public mutating func insert(_ number: Int64) -> Change {
        let index = self.firstIndex(beyond: number)
        let touchesNext = index < self.runs.count && self.runs[index].lowerBound == number + 1
        if index > 0 {
            let previous = self.runs[index - 1]
            if previous.contains(number) { return .none }
            if previous.upperBound == number - 1 {
                guard touchesNext else {
                    self.runs[index - 1] = previous.lowerBound...number
                    return .extended(first: previous.lowerBound)
                }
                let next = self.runs.remove(at: index)
                self.runs[index - 1] = previous.lowerBound...next.upperBound
                return .joined(first: previous.lowerBound, removed: next.lowerBound)
            }
        }
        if touchesNext {
            let next = self.runs[index]
            self.runs[index] = number...next.upperBound
            return .lowered(from: next.lowerBound, to: number)
        }
        self.runs.insert(number...number, at: index)
        return .created(first: number)
    }

    /// The index of the first run that begins above `number`.
    private func firstIndex(beyond number: Int64) -> Int {
        if let last = self.runs.last, last.lowerBound <= number { return self.runs.count }
        var low = 0
        var high = self.runs.count
        while low < high {
            let middle = (low + high) / 2
            if self.runs[middle].lowerBound <= number { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
