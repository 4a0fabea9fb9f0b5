/// Everything that may go wrong in a run, how often. A kind that is off never happens and draws no dice.
struct Faults {
    /// One kind of fault. The report of a failure says which kinds are needed for it.
    enum Kind: Int, CaseIterable {
        case disconnect, slowNetwork, brokerDrop, brokerDuplicate, brokerReorder, brokerDelay
        case tamper, replay, misdirect, forge
        case auditorCrash, centerCrash, brokerCrash, sessionLoss
        case diskFull, rollback, clone, centerRestore
        case renewal, revocation
    }

    private(set) var rates: [Double]
    private var dice: [SeededRandom]

    init(seed: UInt64, rates: [Kind: Double]) {
        self.rates = Kind.allCases.map { rates[$0] ?? 0 }
        self.dice = Kind.allCases.indices.map { SeededRandom(seed: seed, stream: UInt64($0) + 1) }
    }

    var kinds: [Kind] { Kind.allCases.filter { self.rates[$0.rawValue] > 0 } }

    mutating func strikes(_ kind: Kind) -> Bool {
        self.dice[kind.rawValue].chance(self.rates[kind.rawValue])
    }

    mutating func dice(of kind: Kind, below bound: Int) -> Int {
        self.dice[kind.rawValue].below(bound)
    }

    mutating func dice(of kind: Kind, between range: ClosedRange<Int64>) -> Int64 {
        self.dice[kind.rawValue].between(range)
    }

    /// No faults from here on: what is left must come right by itself.
    mutating func stop() {
        self.rates = self.rates.map { _ in 0 }
    }
}
