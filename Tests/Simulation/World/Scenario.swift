/// What a run is made of; with a seed it is the run.
struct Scenario {
    var name: String
    /// Auditors, each with its own key.
    var auditors = 2
    var shape = Broker.Shape.forwarding
    /// How long faults happen, in virtual nanoseconds; then they stop.
    var chaos = Int64.seconds(900)
    /// How long everything has to come right afterwards.
    var calm = Int64.seconds(3600)
    /// Virtual time between two readings of one auditor.
    var readingEvery = Int64.seconds(5)
    /// What an auditor keeps of receipted messages; little makes a run quick.
    var ringBytes: Int64 = 16_384
    /// How many new streams an auditor may open in an hour.
    var streamsPerHour = 12
    /// How long an auditor's certificate is valid, in seconds; nil for longer than any run.
    var lifetime: Int64?
    /// How often a fault of each kind strikes, each time it could.
    var rates: [Faults.Kind: Double]
    /// Whether operators send updates.
    var updates = false
    /// Something is built wrong on purpose.
    var bug: Bug?

    init(_ name: String, rates: [Faults.Kind: Double] = [:]) {
        self.name = name
        self.rates = rates
    }

    /// Mistakes that the checker must find.
    enum Bug: CaseIterable {
        /// The control center's disk says "durable" before it is.
        case centerDiskLies
        /// The auditor's disk does.
        case auditorDiskLies
        /// The auditor's messages leave before their commit.
        case publishBeforeCommit
        /// The control center's receipts do.
        case receiptBeforeCommit
        /// The control center settles a delivery before its commit.
        case settleBeforeCommit
        /// The auditor takes a PUBACK for a receipt.
        case forgetOnPuback
        /// The control center stores a reading with other digits.
        case digitsChanged
        /// The control center takes a repeat for something new.
        case storedTwice
    }
}
