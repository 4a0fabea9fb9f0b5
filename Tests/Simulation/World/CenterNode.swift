import COSE
import ControlCenter
import Identity
import Telemetry
import TestSupport

/// The control center's disk: an image of the ledger, with what the checker keeps beside it.
struct CenterLedger: LedgerStore {
    let disk: Disk<MemoryLedger>
    var bug: Scenario.Bug?

    func nextNumbers() throws -> NextNumbers { self.disk.visible.nextNumbers() }
    func auditor(spiffeID: String) throws -> AuditorRecord? { self.disk.visible.auditor(spiffeID: spiffeID) }
    func knowsAuditor(id: String) throws -> Bool { self.disk.visible.knowsAuditor(id: id) }
    func stream(auditor: Int64, id: StreamID) throws -> StreamLedger? {
        self.disk.visible.stream(auditor: auditor, id: id)
    }
    func link(stream: Int64, sequence: Int64) throws -> StoredLink? {
        self.disk.visible.link(stream: stream, sequence: sequence)
    }
    func certificate(hash: [UInt8]) throws -> CertificateRecord? { self.disk.visible.certificate(hash: hash) }
    func series(auditor: Int64, meter: String, quantity: String, unit: String) throws -> Int64? {
        self.disk.visible.series(auditor: auditor, meter: meter, quantity: quantity, unit: unit)
    }
    func measure(auditor: Int64, local: Int64, kind: UInt8) throws -> ExactDecimal? {
        self.disk.visible.measure(auditor: auditor, local: local, kind: kind)
    }
    func quarantineUse(claimed: String, reason: Reason) throws -> QuarantineUse {
        self.disk.visible.quarantineUse(claimed: claimed, reason: reason)
    }
    func forkCount(stream: Int64) throws -> Int { self.disk.visible.forkCount(stream: stream) }
    func hasFork(stream: Int64, sequence: Int64, id: MessageID) throws -> Bool {
        self.disk.visible.hasFork(stream: stream, sequence: sequence, id: id)
    }

    func commit(_ batch: CommitBatch) throws {
        var batch = batch
        switch self.bug {
        case .digitsChanged:
            for index in batch.readings.indices {
                guard let value = batch.readings[index].value, value.exponent < 0, value.mantissa % 10 == 0 else {
                    continue
                }
                // The same number, but not the same digits.
                batch.readings[index].value = ExactDecimal(
                    mantissa: value.mantissa / 10, exponent: Int(value.exponent) + 1)
            }
        case .storedTwice:
            batch.statements += batch.statements
            batch.readings += batch.readings
        default: break
        }
        try self.disk.commit { $0.commit(batch) }
    }
}

/// The machine that runs the control center.
final class CenterNode {
    let disk: Disk<MemoryLedger>
    /// What operators have asked for.
    let updates = Disk(MemoryUpdates())
    var askedFor: [SPIFFEID] = []
    /// Nothing while it is down.
    var dispatcher: UpdateDispatcher<CenterUpdates>?
    /// How many statements were searched for results.
    var linked = 0
    /// Nothing while it is down.
    var core: IngestCore<CenterLedger>?
    var generation = 0
    /// What looks at messages: others use it ahead of the order, so it may be behind.
    var examiner: Examiner?
    /// Delivered, not yet taken.
    var inbox: [(id: UInt16, epoch: Int, message: Broker.Message)] = []
    var isWorkScheduled = false
    /// Decided, but the disk was full: tried again as it is.
    var waiting: Work?
    var lastToken = 0
    /// The newest hello of each auditor since the start: what it names, and under which certificate.
    var vouches: [Int: (hash: CertificateHash, hello: Hello)] = [:]
    /// Images from earlier, with the order that the checker found then.
    var images: [(ledger: MemoryLedger, checker: CenterChecker)] = []

    struct Work {
        var step: IngestStep
        var deliveries: [(id: UInt16, epoch: Int, message: Broker.Message)]
        var expectation: CenterChecker.Expectation
    }

    init() {
        self.disk = Disk(MemoryLedger())
    }
}

extension World {
    func bootCenter() {
        guard self.center.core == nil else { return }
        self.center.generation += 1
        self.center.disk.restart()
        var configuration = IngestConfiguration()
        configuration.quarantine.maximumRows = Self.quarantineRows
        configuration.quarantine.maximumBytes = Self.quarantineBytes
        // Small enough to be reached, so that what was dropped from memory is read again.
        configuration.maximumAuditorsInMemory = 2
        configuration.streamsInMemory = 1
        configuration.maximumSeriesInMemory = 2
        self.center.core = IngestCore(
            store: CenterLedger(disk: self.center.disk, bug: self.scenario.bug), verifier: self.cast.verifier,
            configuration: configuration)
        do {
            try self.center.core?.update(self.certificates.lists)
        } catch {
            self.violate(.machineWorks, "the control center does not take revocation lists: \(error)")
        }
        self.center.vouches = [:]
        self.center.updates.restart()
        self.center.dispatcher = UpdateDispatcher(store: CenterUpdates(disk: self.center.updates))
        self.center.linked = 0
        self.center.inbox = []
        self.center.examiner = nil
        self.center.waiting = nil
        self.center.isWorkScheduled = false
        self.note(.controlCenter, "starts")
        self.schedule.after(
            self.dice.between(0...Int64.seconds(1)), .connects(node: 0, generation: self.center.generation))
    }

    func crashCenter() {
        guard self.center.core != nil else { return }
        self.note(.controlCenter, "crashes")
        self.center.core = nil
        self.center.dispatcher = nil
        let epoch = self.links[0].epoch
        self.links[0].broke()
        self.schedule.after(self.dice.between(.milliseconds(100)...(.seconds(60))), .starts(node: 0))
        if self.scenario.shape == .withholding {
            self.crashBroker(losingSessions: false)
        } else {
            self.schedule.after(self.dice.between(0...Int64.seconds(5)), .brokerNotices(node: 0, epoch: epoch))
        }
    }

    func receivedByCenter(_ response: Broker.Response, epoch: Int) {
        switch response {
        case .connected:
            self.links[0].isUp = true
            self.links[0].isConnecting = false
            self.note(.controlCenter, "is connected")
            self.announce()
        case .acknowledge(let id):
            _ = self.links[0].acknowledged(id)
        case .publish(let id, let message, _):
            self.center.inbox.append((id, epoch, message))
            self.scheduleWork()
        }
    }

    /// Its certificate, retained.
    private func announce() {
        var writer = CBORWriter()
        writer.array(self.cast.center.chainDER.count)
        for certificate in self.cast.center.chainDER { writer.byteString(certificate) }
        self.center.lastToken += 1
        let id = self.links[0].packetID(for: self.center.lastToken)
        self.send(
            .publish(id, Broker.Message(topic: "\(Topic.keys)", payload: writer.bytes, isRetained: true)), from: 0)
    }

    private func scheduleWork() {
        guard !self.center.isWorkScheduled, self.center.waiting == nil else { return }
        self.center.isWorkScheduled = true
        self.schedule.after(
            self.dice.between(0...Int64.milliseconds(30)), .centerWorks(generation: self.center.generation))
    }

    /// receive -> decode -> identify -> verify -> order -> commit -> receipt, with a death possible between any two.
    func work() {
        self.center.isWorkScheduled = false
        guard let core = self.center.core else { return }
        if let waiting = self.center.waiting {
            self.center.waiting = nil
            self.commit(waiting)
            return
        }
        let deliveries = Array(self.center.inbox.prefix(24))
        guard !deliveries.isEmpty else { return }
        self.center.inbox.removeFirst(deliveries.count)
        if self.center.examiner == nil || self.dice.chance(0.5) { self.center.examiner = core.examiner }
        let examiner = self.center.examiner ?? core.examiner
        let isInProcess = self.scenario.shape == .withholding
        let examined = deliveries.map { delivery in
            let sender = isInProcess ? delivery.message.sender.map { self.cast.auditors[$0].peer } : nil
            return examiner.examine(
                Arrival(
                    topic: delivery.message.topic, bytes: delivery.message.payload,
                    isRetained: delivery.message.isRetained, sender: sender), at: self.now)
        }
        self.checker.examined(examined, deliveries.map(\.message), in: self)
        do {
            guard let step = try self.center.core?.order(examined, at: self.now) else { return }
            let expectation = self.checker.center.expect(
                examined, deliveries.map(\.message), step, in: self)
            self.commit(CenterNode.Work(step: step, deliveries: deliveries, expectation: expectation))
        } catch {
            self.violate(.machineWorks, "the control center cannot order: \(error)")
        }
    }

    private func commit(_ work: CenterNode.Work) {
        if self.scenario.bug == .receiptBeforeCommit { self.publish(work.step.receipts) }
        if self.scenario.bug == .settleBeforeCommit { self.settle(work) }
        if !work.step.batch.isEmpty, self.faults.strikes(.centerCrash) {
            self.center.disk.crashAtNextCommit = self.faults.dice(of: .centerCrash, below: 2) == 0 ? .before : .after
        }
        let crash = self.center.disk.crashAtNextCommit
        do {
            try self.center.core?.commit(work.step)
        } catch Disk<MemoryLedger>.Failure.full {
            self.note(.controlCenter, "finds its disk full")
            self.center.waiting = work
            self.center.isWorkScheduled = true
            self.schedule.after(.seconds(2), .centerWorks(generation: self.center.generation))
            return
        } catch {
            if crash == .after { self.checker.center.committed(work, in: self) }
            self.crashCenter()
            return
        }
        self.note(
            .controlCenter, "commits", Int64(work.step.batch.statements.count), Int64(work.deliveries.count))
        self.checker.center.committed(work, in: self)
        let generation = self.center.generation
        if self.faults.strikes(.centerCrash) { self.crashCenter() }
        guard self.center.core != nil, self.center.generation == generation else { return }
        if self.scenario.bug != .settleBeforeCommit { self.settle(work) }
        if self.faults.strikes(.centerCrash) { self.crashCenter() }
        guard self.center.core != nil, self.center.generation == generation else { return }
        for hello in work.step.nonces { self.center.dispatcher?.heard(hello.nonce, of: hello.auditor) }
        if self.scenario.bug != .receiptBeforeCommit { self.publish(work.step.receipts) }
        if !self.center.inbox.isEmpty { self.scheduleWork() }
    }

    private func settle(_ work: CenterNode.Work) {
        self.checker.center.settled(work, in: self)
        for delivery in work.deliveries where delivery.epoch == self.links[0].epoch && self.links[0].isUp {
            self.send(.acknowledge(delivery.id), from: 0)
        }
    }

    private func publish(_ drafts: [ReceiptDraft]) {
        for draft in drafts {
            self.checker.center.told(draft, in: self)
            guard self.links[0].isUp else { continue }
            do {
                let message = try draft.signed(by: PartySigner(self.cast.center), at: self.now)
                self.center.lastToken += 1
                let id = self.links[0].packetID(for: self.center.lastToken)
                self.send(
                    .publish(id, Broker.Message(topic: "\(message.topic)", payload: message.bytes)), from: 0)
            } catch {
                self.violate(.machineWorks, "receipts cannot be signed: \(error)")
            }
        }
    }
}
