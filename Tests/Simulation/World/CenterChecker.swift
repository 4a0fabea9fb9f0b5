import ControlCenter
import Identity
import PKI
import Telemetry
import TestSupport

/// What the control center's disk must hold, kept beside an image of it.
struct CenterChecker {
    typealias Naive = NaiveOrder<StreamID, MessageID>

    /// What a step must bring about.
    struct Expectation {
        var appended: [MessageID] = []
        var forks: [Naive.Statement] = []
        var orders: [Int: Naive] = [:]
        /// Of those appended: taken only on the number of a hello.
        var onWord: Set<MessageID> = []
    }

    private(set) var orders: [Int: Naive] = [:]
    /// How often each reading is stored, by auditor and number.
    private(set) var readings: [Int: [Int]] = [:]
    private var ids: Set<MessageID> = []
    private var onWord: Set<MessageID> = []
    private var runs: [Int64: [Int64: Int64]] = [:]
    private var quarantine: [CommitBatch.Count: QuarantineUse] = [:]
    private(set) var forks = 0
    private(set) var takenOnWord = 0
    private(set) var restarts = 0
    /// How often each word was given.
    private(set) var refusals: [Reason: Int] = [:]

    /// Whether a message is durably stored: a disk that lies does not count.
    func holds(_ id: MessageID, in world: World) -> Bool {
        guard self.ids.contains(id) else { return false }
        guard world.center.disk.liesAboutSync else { return true }
        return world.center.disk.durable.statements.contains { $0.id == id }
    }

    // MARK: Order

    /// Decides by the naive model, and compares with what the step decided.
    func expect(
        _ examined: [Examined], _ messages: [Broker.Message], _ step: IngestStep, in world: World
    ) -> Expectation {
        var expectation = Expectation()
        expectation.orders = self.orders
        var known = Set<CertificateHash>()
        var counts: [Reason: Int64] = [:]
        var helloes: Int64 = 0
        var restarts = 0
        for (result, message) in zip(examined, messages) {
            let envelope: Envelope
            switch result {
            case .hello(let hello):
                known.insert(hello.certificateHash)
                helloes += 1
                if let auditor = world.cast.auditors.firstIndex(where: { $0.spiffeID == hello.identity.spiffeID }) {
                    world.center.vouches[auditor] = (hello.certificateHash, hello.hello)
                }
                continue
            case .alert:
                world.violate(.nothingForeignStored, "an alert that nobody sent")
                continue
            case .refused(_, let refusal):
                counts[refusal.reason, default: 0] += 1
                continue
            case .statement(let statement): envelope = statement.decoded.envelope
            case .measure:
                world.violate(.nothingForeignStored, "a reading in the original's format, which nobody is allowed")
                continue
            case .unknownCertificate(let decoded): envelope = decoded.envelope
            }
            let hash = envelope.certificateHash
            if case .unknownCertificate = result, !known.contains(hash),
                world.center.disk.visible.certificate(hash: hash.bytes) == nil
            {
                counts[.certificateUnknown, default: 0] += 1
                continue
            }
            if case .attack(let attack) = message.truth {
                // The certificate is known after all: now its own reason comes.
                counts[attack == .otherIssuer ? .issuer : .signature, default: 0] += 1
                continue
            }
            guard let position = envelope.position,
                let auditor = world.cast.auditors.firstIndex(where: { envelope.isIssued(by: $0.spiffeID) })
            else {
                world.violate(.nothingForeignStored, "a statement of nobody is examined as good")
                continue
            }
            let statement = Naive.Statement(
                stream: position.stream, sequence: position.sequence, id: envelope.id, previous: position.previous)
            if let objection = Self.objection(to: statement, by: hash, of: auditor, in: world) {
                let verdict = expectation.orders[auditor, default: Naive()].verdict(on: statement)
                counts[verdict == .duplicate ? .duplicate : objection, default: 0] += 1
                continue
            }
            let former = expectation.orders[auditor]?.restarts ?? 0
            switch expectation.orders[auditor, default: Naive()].decide(statement, none: .zero) {
            case .stored:
                expectation.appended.append(envelope.id)
                let isExpired = world.certificates.isExpired(hash, at: world.now)
                if isExpired, world.center.vouches[auditor]?.hello.lastID != envelope.id {
                    expectation.onWord.insert(envelope.id)
                }
            case .duplicate: counts[.duplicate, default: 0] += 1
            case .fork:
                counts[.fork, default: 0] += 1
                expectation.forks.append(statement)
            case .streamClosed: counts[.streamClosed, default: 0] += 1
            case .held: counts[.busy, default: 0] += 1
            }
            restarts += (expectation.orders[auditor]?.restarts ?? 0) - former
        }
        if step.batch.statements.map(\.id) != expectation.appended {
            world.violate(
                .orderAsCounted,
                "\(step.batch.statements.count) statements are stored, the naive model stores \(expectation.appended.count)"
            )
        }
        var decided: [Reason: Int64] = [:]
        for (count, more) in step.counts { decided[count.reason, default: 0] += more }
        if decided != counts {
            world.violate(.refusedForItsReason, "reasons are \(Self.list(decided)), should be \(Self.list(counts))")
        }
        let sum = Int64(expectation.appended.count) + helloes + decided.values.reduce(0, +)
        if sum != Int64(examined.count) {
            world.violate(.refusedForItsReason, "\(examined.count) messages have \(sum) fates")
        }
        let alarms = step.batch.alarms.count { $0.kind == .streamRestart }
        if alarms != restarts {
            world.violate(.restartAlarmed, "\(alarms) alarms for \(restarts) restarts")
        }
        return expectation
    }

    /// Why nothing new of this certificate is taken, if so.
    private static func objection(
        to statement: Naive.Statement, by hash: CertificateHash, of auditor: Int, in world: World
    ) -> Reason? {
        if world.certificates.isRevoked(hash) { return .revoked }
        guard world.certificates.isExpired(hash, at: world.now) else { return nil }
        guard let vouch = world.center.vouches[auditor], !world.certificates.isRevoked(vouch.hash),
            vouch.hello.stream == statement.stream, statement.sequence <= vouch.hello.lastSequence,
            statement.sequence < vouch.hello.lastSequence || statement.id == vouch.hello.lastID
        else { return .expired }
        return nil
    }

    private static func list(_ counts: [Reason: Int64]) -> String {
        counts.sorted { $0.key.rawValue < $1.key.rawValue }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
    }

    // MARK: Commit

    mutating func committed(_ work: CenterNode.Work, in world: World) {
        let batch = work.step.batch
        self.orders = work.expectation.orders
        self.onWord.subtract(work.expectation.appended)
        self.onWord.formUnion(work.expectation.onWord)
        self.takenOnWord += work.expectation.onWord.count
        for (count, more) in batch.counts { self.refusals[count.reason, default: 0] += Int(more) }
        self.restarts += batch.alarms.count { $0.kind == .streamRestart }
        // From the disk, not from the batch: what is stored is what counts.
        let ledger = world.center.disk.visible
        self.checkStatements(ledger, world)
        self.checkStreams(batch, ledger, world)
        self.checkQuarantine(batch, world)
        self.checkForks(work.expectation, batch, ledger, world)
    }

    /// How much of the disk was looked at already.
    private var seenStatements = 0
    private var seenReadings = 0

    private mutating func checkStatements(_ ledger: MemoryLedger, _ world: World) {
        for statement in ledger.statements[self.seenStatements...] {
            let auditor = world.auditorIndex(number: statement.auditor)
            if !self.ids.insert(statement.id).inserted {
                world.violate(.storedOnce, "a statement is there twice")
            }
            world.checker.everStored.insert(statement.id)
            guard let auditor, world.checker.publishedIDs[statement.id] == auditor,
                statement.id == MessageID(hashing: statement.bytes)
            else {
                world.violate(.nothingForeignStored, "a statement that its auditor did not let go")
                return
            }
            for reading in ledger.readings[self.seenReadings..<self.seenReadings + statement.readings] {
                self.check(reading, of: auditor, world)
            }
            self.seenReadings += statement.readings
        }
        self.seenStatements = ledger.statements.count
    }

    private mutating func check(_ reading: CommitBatch.Reading, of auditor: Int, _ world: World) {
        guard let number = Meter.number(of: reading.time, from: world.cast.start), number < world.available,
            reading.value == Meter.value(number, of: auditor), reading.interval == Meter.interval
        else {
            world.violate(
                .storedAsProduced,
                "auditor \(auditor), \(reading.time), \(reading.value.map { "\($0)" } ?? "no value")")
            return
        }
        var stored = self.readings[auditor] ?? []
        self.readings[auditor] = nil
        if stored.count <= number { stored += [Int](repeating: 0, count: number + 1 - stored.count) }
        stored[number] += 1
        if stored[number] > 1 && !world.checker.tainted.contains(auditor) {
            world.violate(.storedOnce, "auditor \(auditor), reading \(number)")
        }
        self.readings[auditor] = stored
    }

    private mutating func checkStreams(_ batch: CommitBatch, _ ledger: MemoryLedger, _ world: World) {
        for change in batch.runs {
            switch change {
            case .put(let stream, let first, let last): self.runs[stream, default: [:]][first] = last
            case .remove(let stream, let first): self.runs[stream]?[first] = nil
            }
        }
        for touched in batch.streams {
            guard let auditor = world.auditorIndex(number: touched.auditor), let naive = self.orders[auditor],
                let stream = ledger.stream(auditor: touched.auditor, id: touched.id)
            else { continue }
            if stream.held.gaps != naive.gaps(of: stream.id) {
                world.violate(.gapsAsCounted, "auditor \(auditor): \(stream.held.gaps)")
            }
            let written = (self.runs[stream.number] ?? [:]).sorted { $0.key < $1.key }.map { $0.key...$0.value }
            if written != stream.held.runs {
                world.violate(.gapsAsCounted, "auditor \(auditor): runs \(stream.held.runs) are written as \(written)")
            }
            if (naive.open == stream.id) != (stream.state == .open)
                || naive.closed.contains(stream.id) != (stream.state == .closed)
            {
                world.violate(.orderAsCounted, "auditor \(auditor): a stream is \(stream.state)")
            }
            self.checkConfirmed(stream, ledger, world)
        }
    }

    /// From the newest down: each is trusted, or the one behind it is and names it, or it is marked.
    private func checkConfirmed(_ stream: StreamLedger, _ ledger: MemoryLedger, _ world: World) {
        guard !self.onWord.isEmpty else { return }
        var named: MessageID?
        for run in stream.held.runs.reversed() {
            named = nil
            for number in run.reversed() {
                guard let stored = ledger.statement(stream: stream.number, sequence: number) else { continue }
                if named != stored.id, self.onWord.contains(stored.id) {
                    named = nil
                    if stream.unconfirmed?.contains(number) != true {
                        world.violate(.vouchedByChain, "number \(number) is on a hello's word alone, and not marked")
                        return
                    }
                } else {
                    named = stored.previous
                }
            }
        }
    }

    private mutating func checkQuarantine(_ batch: CommitBatch, _ world: World) {
        for row in batch.quarantined {
            let bucket = CommitBatch.Count(claimed: row.claimed, reason: row.reason)
            self.quarantine[bucket, default: QuarantineUse()].rows += 1
            self.quarantine[bucket, default: QuarantineUse()].bytes += row.bytes.count
            let use = self.quarantine[bucket] ?? QuarantineUse()
            if use.rows > World.quarantineRows || use.bytes > World.quarantineBytes {
                world.violate(.quotasHold, "\(row.claimed), \(row.reason): \(use.rows) rows, \(use.bytes) bytes")
            }
        }
    }

    private mutating func checkForks(
        _ expectation: Expectation, _ batch: CommitBatch, _ ledger: MemoryLedger, _ world: World
    ) {
        self.forks += batch.forks.count
        for fork in expectation.forks {
            guard let kept = ledger.forks.first(where: { $0.id == fork.id }) else {
                world.violate(.forkIsEvidence, "number \(fork.sequence) is not kept")
                continue
            }
            if let auditor = world.auditorIndex(number: kept.auditor), !world.checker.tainted.contains(auditor) {
                world.violate(.noForkWithoutCause, "auditor \(auditor), number \(fork.sequence)")
            }
            if self.ids.contains(fork.id) {
                world.violate(.forkIsEvidence, "number \(fork.sequence) is stored as well")
            }
        }
    }

    // MARK: What is said

    /// Deliveries are about to be settled.
    func settled(_ work: CenterNode.Work, in world: World) {
        for id in work.expectation.appended where !self.holds(id, in: world) {
            world.violate(.committedBeforeSettled, "a delivery is settled that is not on disk")
            return
        }
    }

    /// Receipts are about to leave.
    func told(_ draft: ReceiptDraft, in world: World) {
        let ledger = world.center.disk.durable
        let record = ledger.auditor(spiffeID: draft.subject.auditor.rawValue)
        let stream = record.flatMap { ledger.stream(auditor: $0.number, id: draft.subject.stream) }
        for range in draft.receipts.stored {
            guard let stream, let run = stream.held.run(containing: range.first), run.contains(range.last),
                ledger.link(stream: stream.number, sequence: range.last)?.id == range.lastID
            else {
                world.violate(.committedBeforeReceipt, "numbers \(range.first) to \(range.last)")
                return
            }
        }
        for refused in draft.receipts.refused where self.holds(refused.id, in: world) {
            world.violate(
                .committedBeforeReceipt, "number \(refused.sequence) is stored, and refused: \(refused.reason)")
        }
    }

    // MARK: The end

    func finish(in world: World) {
        for auditor in Set(world.auditors.map(\.auditor)).sorted() {
            let stored = self.readings[auditor] ?? []
            for number in 0..<world.available where number >= stored.count || stored[number] == 0 {
                world.violate(.everythingArrives, "auditor \(auditor), reading \(number) of \(world.available)")
                return
            }
        }
        for stream in world.center.disk.durable.allStreams {
            if let unconfirmed = stream.unconfirmed, stream.state == .open, stream.held.gaps.isEmpty {
                world.violate(.vouchedByChain, "numbers \(unconfirmed) stay marked at the end")
            }
            guard let auditor = world.auditorIndex(number: stream.auditor), !stream.held.gaps.isEmpty else { continue }
            // A copy or an old card may leave a stream behind that never comes to its beginning; what a revoked
            // certificate signed is refused, and signed anew in the next stream.
            let mayEndWithGaps = world.checker.tainted.union(world.checker.revoked).contains(auditor)
            if stream.state == .open || !mayEndWithGaps {
                world.violate(.everythingArrives, "auditor \(auditor): gaps \(stream.held.gaps) remain")
            }
        }
    }
}
