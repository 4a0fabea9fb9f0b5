import Auditor
import ControlCenter
import Telemetry

/// Watches everything and believes nobody: it knows what was produced and what was committed, from the disks
/// themselves.
final class Checker {
    /// Auditors whose card was rolled back or copied: only they may fork and store a reading again.
    var tainted: Set<Int> = []
    /// Auditors that were revoked once: what has no receipt then is signed anew, in a new stream.
    var revoked: Set<Int> = []
    /// Certificates that were exchanged.
    var renewals = 0
    /// The control center's disk was rolled back.
    var isCenterRestored = false
    var center = CenterChecker()
    /// What was durable at some time, whatever became of that disk.
    var everStored: Set<MessageID> = []

    private struct Place: Hashable {
        var auditor: Int
        var stream: StreamID
        var sequence: Int64
    }

    private var published: [Place: MessageID] = [:]
    /// Every message that an auditor let go, by id.
    private(set) var publishedIDs: [MessageID: Int] = [:]

    // MARK: Auditors

    /// A message is about to leave.
    func published(_ publication: AuditorMachine.Publication, of auditor: AuditorNode, in world: World) {
        guard publication.token.order != 0 else { return }
        guard let entry = try? auditor.card.durable.entry(order: publication.token.order),
            entry.bytes == publication.bytes
        else {
            world.violate(.committedBeforePublish, "auditor \(auditor.auditor), message \(publication.token.order)")
            return
        }
        self.left(entry, of: auditor, in: world)
    }

    func publishedBytes(_ entry: OutboxEntry, of auditor: AuditorNode, in world: World) {
        guard (try? auditor.card.durable.entry(order: entry.order))?.bytes == entry.bytes else {
            world.violate(.committedBeforePublish, "auditor \(auditor.auditor), message \(entry.order)")
            return
        }
        self.left(entry, of: auditor, in: world)
    }

    private func left(_ entry: OutboxEntry, of auditor: AuditorNode, in world: World) {
        let place = Place(auditor: auditor.auditor, stream: entry.stream, sequence: entry.sequence)
        if let former = self.published.updateValue(entry.id, forKey: place), former != entry.id,
            !self.tainted.contains(auditor.auditor)
        {
            world.violate(.oneMessageForANumber, "auditor \(auditor.auditor), number \(entry.sequence)")
        }
        self.publishedIDs[entry.id] = auditor.auditor
    }

    /// A transaction of an auditor has become durable: whatever it forgets must be with the control center.
    func committed(_ before: MemoryOutbox, _ after: MemoryOutbox, of auditor: AuditorNode, in world: World) {
        guard let waiting = try? before.unreceipted(after: 0, before: .max, limit: .max),
            let still = try? after.unreceipted(after: 0, before: .max, limit: .max)
        else { return }
        let stillOrders = Set(still.map(\.order))
        let formerLast = before.state?.nextOrder ?? 1
        var anew: Set<[UInt8]>?
        for entry in waiting where !stillOrders.contains(entry.order) {
            if self.center.holds(entry.id, in: world) { continue }
            // The receipt was true when it was signed; the ring has the message for the case that happened.
            if self.isCenterRestored, self.everStored.contains(entry.id) { continue }
            if anew == nil {
                anew = Set(still.lazy.filter { $0.order >= formerLast }.compactMap { Self.payload(of: $0.bytes) })
            }
            if let payload = Self.payload(of: entry.bytes), anew?.contains(payload) == true { continue }
            world.violate(
                .storedBeforeForgotten, "auditor \(auditor.auditor) lets go message \(entry.sequence)")
        }
        // The ring: what leaves it altogether.
        let beforeEntries = before.entries
        guard beforeEntries.count > waiting.count else { return }
        let kept = Set(after.entries.map(\.order))
        let waitingOrders = Set(waiting.map(\.order))
        for entry in beforeEntries where !kept.contains(entry.order) && !waitingOrders.contains(entry.order) {
            if !self.center.holds(entry.id, in: world) && !self.isCenterRestored {
                world.violate(
                    .storedBeforeForgotten, "auditor \(auditor.auditor) drops message \(entry.sequence) from its ring")
            }
        }
    }

    private static func payload(of bytes: [UInt8]) -> [UInt8]? {
        try? Envelope.decode(bytes).payload?.bytes
    }

    // MARK: The control center's look at one message

    func examined(_ examined: [Examined], _ messages: [Broker.Message], in world: World) {
        for (result, message) in zip(examined, messages) {
            switch (message.truth, result) {
            case (.genuine, .refused(_, let refusal))
            where world.scenario.lifetime != nil && [.expired, .revoked].contains(refusal.reason):
                // A hello that was on its way.
                break
            case (.genuine, .refused(_, let refusal)):
                world.violate(.refusedForItsReason, "a genuine message is refused: \(refusal)")
            case (.genuine, _): break
            case (.attack(let attack), .refused(_, let refusal)):
                if !Mutation.expected(attack).contains(refusal.reason) {
                    world.violate(.refusedForItsReason, "\(attack) is refused with \(refusal)")
                }
            case (.attack(let attack), .unknownCertificate):
                let needsKey: [Attack] = [.flippedPayload, .flippedSignature, .otherIssuer, .unknownCertificate]
                if !needsKey.contains(attack) {
                    world.violate(.refusedForItsReason, "\(attack) is held for its certificate")
                }
            case (.attack(let attack), _):
                world.violate(.refusedForItsReason, "\(attack) is not refused")
            }
        }
    }

    /// Alarms that mean a lost or doubled state must have their cause.
    func raised(_ alarm: Alarm, by auditor: AuditorNode, in world: World) {
        let kinds: [Alarm.Kind] = [.rolledBack, .streamRestart, .twin, .deadLetter, .controlCenterRestored]
        guard kinds.contains(alarm.kind), !self.isCenterRestored, !self.tainted.contains(auditor.auditor) else {
            return
        }
        if alarm.kind == .streamRestart, self.revoked.contains(auditor.auditor) { return }
        world.violate(.noForkWithoutCause, "auditor \(auditor.auditor): \(alarm)")
    }

    // MARK: The end

    /// When faults have stopped and all is quiet.
    func finish(in world: World) {
        for auditor in world.auditors where !auditor.isRetired {
            let summary = auditor.card.durable.summary
            if summary.unreceipted > 0 || summary.deadLetters > 0 {
                world.violate(
                    .everythingArrives,
                    "auditor \(auditor.auditor) has \(summary.unreceipted) messages without receipt, \(summary.deadLetters) dead letters"
                )
            }
            for entry in auditor.card.durable.entries where !self.center.holds(entry.id, in: world) {
                world.violate(.everythingArrives, "message \(entry.sequence) has a receipt but is not stored")
            }
        }
        self.center.finish(in: world)
    }
}
