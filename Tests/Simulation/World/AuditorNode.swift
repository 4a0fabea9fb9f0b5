import Auditor
import PKI
import Telemetry
import TestSupport

/// A machine that runs an auditor: its card outlives it, everything else goes with a crash.
final class AuditorNode {
    /// Its place among the world's links.
    let node: Int
    /// Whose key it has; two nodes of one auditor are copies.
    let auditor: Int
    let client: Broker.Client
    /// Certificate and key, which change with each renewal.
    var party: TestPKI.Party
    let card: Disk<MemoryOutbox>
    /// Nothing while it is down.
    var machine: AuditorMachine?
    /// Counts starts; what was meant for an earlier one is passed over.
    var generation = 0
    /// The next reading that this process takes from the meter.
    var next = 0
    var tokens: [Int: AuditorMachine.Publication.Token] = [:]
    var lastToken = 0
    var tickAt: Int64?
    var random: SeededRandom
    /// Alarms that it raised, over all starts.
    var alarms: [String: Int] = [:]
    /// Of the newest hello that it said.
    var nonce: Nonce?
    /// Images of its card from earlier.
    var images: [MemoryOutbox] = []
    /// Taken out of service.
    var isRetired = false

    init(node: Int, auditor: Int, client: Broker.Client, party: TestPKI.Party, image: MemoryOutbox, seed: UInt64) {
        self.node = node
        self.auditor = auditor
        self.client = client
        self.party = party
        self.card = Disk(image)
        self.random = SeededRandom(seed: seed, stream: 100 + UInt64(node))
    }
}

extension World {
    static func configuration(of party: TestPKI.Party, _ scenario: Scenario) -> AuditorConfiguration {
        var configuration = AuditorConfiguration(certificateChain: party.chainDER)
        configuration.statementInterval = .seconds(10)
        configuration.heartbeatInterval = .seconds(240)
        configuration.statementsPerCommit = 8
        configuration.window = 16
        configuration.ringAge = .seconds(1 << 20)
        configuration.maximumRingBytes = scenario.ringBytes
        configuration.clockQuality = .synchronised
        configuration.streamsPerHour = scenario.streamsPerHour
        return configuration
    }

    func boot(_ auditor: AuditorNode) {
        guard auditor.machine == nil, !auditor.isRetired else { return }
        auditor.generation += 1
        auditor.card.restart()
        auditor.tokens = [:]
        auditor.tickAt = nil
        do {
            var configuration = Self.configuration(of: auditor.party, self.scenario)
            configuration.formerCertificates = self.certificates.former(of: auditor.auditor, but: auditor.party)
            var machine = AuditorMachine(
                configuration: configuration,
                signer: try PartySigner(auditor.party), trust: self.cast.verifier, outbox: auditor.card.visible,
                now: self.now, random: &auditor.random)
            machine.know(self.cast.centerIdentity)
            auditor.next = machine.sourcePosition.map(Meter.next) ?? 0
            auditor.machine = machine
        } catch {
            self.violate(.machineWorks, "an auditor does not start: \(error)")
        }
        self.note(.auditor(auditor.node), "starts", Int64(auditor.next))
        self.schedule.after(
            self.dice.between(0...Int64.seconds(2)), .connects(node: auditor.node, generation: auditor.generation))
        self.feed(auditor, .tick)
    }

    func crash(_ auditor: AuditorNode) {
        guard auditor.machine != nil else { return }
        self.note(.auditor(auditor.node), "crashes")
        auditor.machine = nil
        let epoch = self.links[auditor.node].epoch
        self.links[auditor.node].broke()
        self.schedule.after(
            self.dice.between(0...Int64.seconds(5)), .brokerNotices(node: auditor.node, epoch: epoch))
        self.schedule.after(self.dice.between(.milliseconds(100)...(.seconds(60))), .starts(node: auditor.node))
    }

    /// One input, and everything that it brings about, action by action; between any two the node may die.
    func feed(_ auditor: AuditorNode, _ input: AuditorMachine.Input) {
        guard auditor.machine != nil else { return }
        let generation = auditor.generation
        let actions =
            auditor.machine?.handle(
                input, now: self.now, outbox: auditor.card.visible, random: &auditor.random) ?? []
        for action in actions {
            if self.faults.strikes(.auditorCrash) { self.crash(auditor) }
            guard auditor.machine != nil, auditor.generation == generation else { return }
            switch action {
            case .commit(let transaction): self.commit(transaction, of: auditor)
            case .publish(let publication): self.publish(publication, of: auditor)
            case .raise(let alarm):
                self.note(.auditor(auditor.node), "raises an alarm", Int64(alarm.kind.description.utf8.count))
                self.checker.raised(alarm, by: auditor, in: self)
                auditor.alarms[alarm.kind.description, default: 0] += 1
            case .set, .clear, .keep: break
            }
            guard auditor.machine != nil, auditor.generation == generation else { return }
        }
        self.scheduleTick(of: auditor)
    }

    private func scheduleTick(of auditor: AuditorNode) {
        guard let deadline = auditor.machine?.nextDeadline?.nanoseconds else { return }
        let time = max(deadline, self.schedule.now + 1)
        if let tickAt = auditor.tickAt, tickAt <= time { return }
        auditor.tickAt = time
        self.schedule.at(time, .tick(node: auditor.node, generation: auditor.generation))
    }

    private func commit(_ transaction: OutboxTransaction, of auditor: AuditorNode) {
        let before = auditor.card.visible
        var image = before
        do {
            try image.commit(transaction)
        } catch {
            self.violate(.machineWorks, "an auditor's transaction contradicts its outbox: \(error)")
            return
        }
        if self.scenario.bug == .publishBeforeCommit {
            for entry in transaction.appended { self.send(entry, of: auditor) }
        }
        if self.faults.strikes(.auditorCrash) {
            auditor.card.crashAtNextCommit = self.faults.dice(of: .auditorCrash, below: 2) == 0 ? .before : .after
        }
        let crash = auditor.card.crashAtNextCommit
        do {
            try auditor.card.commit { $0 = image }
        } catch {
            switch error {
            case .crashed:
                if crash == .after {
                    self.checker.committed(before, image, of: auditor, in: self)
                    self.checkUpdates(before, image, of: auditor)
                }
                self.crash(auditor)
            case .full: self.feed(auditor, .commitFailed(OutboxError(.full, "the disk is full")))
            }
            return
        }
        self.checker.committed(before, image, of: auditor, in: self)
        self.checkUpdates(before, image, of: auditor)
        self.note(
            .auditor(auditor.node), "commits", Int64(transaction.appended.count), Int64(transaction.changes.count))
        self.feed(auditor, .committed)
    }

    private func publish(_ publication: AuditorMachine.Publication, of auditor: AuditorNode) {
        self.checker.published(publication, of: auditor, in: self)
        if case .hello = publication.topic { auditor.nonce = (try? Envelope.decode(publication.bytes))?.hello?.nonce }
        auditor.lastToken += 1
        auditor.tokens[auditor.lastToken] = publication.token
        self.note(.auditor(auditor.node), "publishes", publication.token.order, Int64(publication.bytes.count))
        guard self.links[auditor.node].isUp else {
            let token = auditor.tokens.removeValue(forKey: auditor.lastToken)
            if let token {
                let generation = auditor.generation
                self.schedule.after(
                    0, .publishFailed(node: auditor.node, generation: generation, token))
            }
            return
        }
        let id = self.links[auditor.node].packetID(for: auditor.lastToken)
        self.send(
            .publish(
                id,
                Broker.Message(
                    topic: "\(publication.topic)", payload: publication.bytes, sender: auditor.auditor)),
            from: auditor.node)
    }

    /// What a mistaken auditor does.
    private func send(_ entry: OutboxEntry, of auditor: AuditorNode) {
        guard self.links[auditor.node].isUp else { return }
        self.checker.publishedBytes(entry, of: auditor, in: self)
        auditor.lastToken += 1
        let id = self.links[auditor.node].packetID(for: auditor.lastToken)
        self.send(
            .publish(
                id,
                Broker.Message(
                    topic: "\(Topic.measures(auditor.party.id))", payload: entry.bytes, sender: auditor.auditor)),
            from: auditor.node)
    }

    /// The meter has something new.
    func meter(_ auditor: AuditorNode) {
        guard let machine = auditor.machine, machine.wantsReadings(auditor.card.visible) else { return }
        var batches: [SourceBatch] = []
        while auditor.next < self.available, batches.count < 16 {
            do {
                let reading = try Meter.reading(auditor.next, of: auditor.auditor, from: self.cast.start)
                auditor.next += 1
                batches.append(
                    SourceBatch(
                        readings: [reading],
                        available: Timestamp(
                            nanoseconds: self.cast.start.nanoseconds
                                + Int64(auditor.next) * self.scenario.readingEvery),
                        position: Meter.position(auditor.next)))
            } catch {
                self.violate(.machineWorks, "\(error)")
            }
        }
        if !batches.isEmpty { self.feed(auditor, .readings(batches)) }
    }

    func received(_ response: Broker.Response, by auditor: AuditorNode) {
        switch response {
        case .connected:
            self.links[auditor.node].isUp = true
            self.links[auditor.node].isConnecting = false
            self.note(.auditor(auditor.node), "is connected")
            self.feed(auditor, .connected)
        case .acknowledge(let id):
            guard let number = self.links[auditor.node].acknowledged(id),
                let token = auditor.tokens.removeValue(forKey: number)
            else { return }
            if self.scenario.bug == .forgetOnPuback { self.forget(token.order, of: auditor) }
            self.feed(auditor, .published(token))
        case .publish(let id, let message, _):
            self.note(.auditor(auditor.node), "receives", Int64(message.payload.count))
            let generation = auditor.generation
            if message.topic.hasPrefix("control_center/receipts/") { self.feed(auditor, .receipts(message.payload)) }
            if message.topic.hasPrefix("control_center/updates/") {
                self.feed(auditor, .told(topic: message.topic, message.payload, isRetained: message.isRetained))
            }
            if message.topic == "\(Topic.keys)" { self.feed(auditor, .controlCenterKeys(message.payload)) }
            guard auditor.machine != nil, auditor.generation == generation else { return }
            self.send(.acknowledge(id), from: auditor.node)
        }
    }

    private func forget(_ order: Int64, of auditor: AuditorNode) {
        let before = auditor.card.visible
        guard let state = before.state, let entry = before.entries.first(where: { $0.order == order }) else { return }
        let transaction = OutboxTransaction(
            changes: [.receipted(entry.stream, entry.sequence...entry.sequence, at: self.now)], state: state)
        var image = before
        guard (try? image.commit(transaction)) != nil, (try? auditor.card.commit { $0 = image }) != nil else { return }
        self.checker.committed(before, image, of: auditor, in: self)
    }
}
