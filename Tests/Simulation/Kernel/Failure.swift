/// A property that did not hold.
struct Violation: Error, CustomStringConvertible {
    /// The sentence of the design that was broken.
    var property: Property
    var detail: String

    var description: String { "\(self.property.rawValue): \(self.detail)" }

    enum Property: String, CaseIterable {
        case storedOnce = "no reading is stored twice"
        case storedAsProduced = "what is stored was produced, digit by digit"
        case storedBeforeForgotten = "nothing is forgotten that is not durably stored"
        case committedBeforeReceipt = "a receipt speaks of durable commits only"
        case committedBeforePublish = "nothing is published before it is committed"
        case committedBeforeSettled = "nothing is settled before its commit"
        case oneMessageForANumber = "a sequence number is never used for other bytes"
        case noForkWithoutCause = "an auditor with its own state makes no fork"
        case forkIsEvidence = "a fork is kept, and the first stored stands"
        case gapsAsCounted = "gaps are what counting finds"
        case orderAsCounted = "order decisions are those of the naive model"
        case refusedForItsReason = "what is refused has the one reason that fits"
        case nothingForeignStored = "nothing is stored that its auditor did not sign"
        case quotasHold = "quarantine keeps its quotas"
        case everythingArrives = "when the faults stop, everything arrives and is receipted"
        case restartAlarmed = "a restart of a stream raises an alarm"
        case streamUnbroken = "each stream is a chain of hashes"
        case vouchedByChain = "what an expired certificate signed is named by what is trusted, or marked"
        case updateOnce = "an update is applied at most once"
        case updateFresh = "only what was signed for the newest hello is applied"
        case machineWorks = "a machine does not fail"
        case deterministic = "a seed is a run"
    }
}

/// A failed run, as it is shown.
struct Report: CustomStringConvertible {
    var scenario: String
    var seed: UInt64
    var step: Int
    var violation: Violation
    var kinds: [Faults.Kind]
    var lines: [String]

    var description: String {
        """
        \(self.violation)
        scenario '\(self.scenario)', step \(self.step); run it again: SECURE_MQTT_SEED=\(self.seed)
        faults that it needs: \(self.kinds.isEmpty ? "none" : self.kinds.map { "\($0)" }.joined(separator: ", "))
        the last events:
          \(self.lines.joined(separator: "\n  "))
        """
    }
}
