import Auditor
import ControlCenter
import Identity
import Telemetry
import TestSupport

/// A whole system in one thread: auditors, a broker, a control center, the network between them, their disks, a
/// clock, and everything that can go wrong, all from one seed.
final class World {
    enum Event {
        case reachesBroker(node: Int, epoch: Int, Broker.Request)
        case reachesNode(node: Int, epoch: Int, Broker.Response)
        case nodeNotices(node: Int, epoch: Int)
        case brokerNotices(node: Int, epoch: Int)
        case brokerStarts
        case starts(node: Int)
        case connects(node: Int, generation: Int)
        case tick(node: Int, generation: Int)
        case publishFailed(node: Int, generation: Int, AuditorMachine.Publication.Token)
        case centerWorks(generation: Int)
        case meters
        case fate
        case diskHasRoom(node: Int)
        case syncs
        case brokerReleases(Broker.Message)
    }

    static let quarantineRows = 5
    static let quarantineBytes = 100_000

    let scenario: Scenario
    let cast: Cast
    var schedule: Schedule<Event>
    var dice: SeededRandom
    var faults: Faults
    var trace = Trace()
    var broker: Broker
    var brokerIsUp = true
    var links: [Link] = []
    let center = CenterNode()
    var auditors: [AuditorNode] = []
    let checker = Checker()
    var certificates = CertificateBook()
    var capturedMessages: [Broker.Message] = []
    /// By number.
    var appliedUpdates: Set<Int64> = []
    var refusedUpdates = 0
    var step = 0
    private(set) var violation: Violation?
    /// When the faults stop; no reading is made afterwards.
    private let calmFrom: Int64

    init(_ scenario: Scenario, seed: UInt64, cast: Cast, rates: [Faults.Kind: Double]) {
        self.scenario = scenario
        self.cast = cast
        self.schedule = Schedule(startingAt: cast.start.nanoseconds)
        self.dice = SeededRandom(seed: seed)
        self.faults = Faults(seed: seed, rates: rates)
        self.broker = Broker(shape: scenario.shape, inProcess: 0)
        self.calmFrom = cast.start.nanoseconds + scenario.chaos
        self.links = [Link(client: 0)]
        for auditor in 0..<scenario.auditors {
            self.links.append(Link(client: auditor + 1))
            self.auditors.append(
                AuditorNode(
                    node: auditor + 1, auditor: auditor, client: auditor + 1, party: cast.auditors[auditor],
                    image: MemoryOutbox(),
                    seed: seed))
        }
        self.certificates = CertificateBook(self)
        self.center.disk.liesAboutSync = scenario.bug == .centerDiskLies
        for auditor in self.auditors { auditor.card.liesAboutSync = scenario.bug == .auditorDiskLies }
    }

    var now: Timestamp { Timestamp(nanoseconds: self.schedule.now) }

    /// How many readings each meter has made by now.
    var available: Int {
        let elapsed = min(self.schedule.now, self.calmFrom) - self.cast.start.nanoseconds
        return Int(elapsed / self.scenario.readingEvery)
    }

    func note(_ node: Trace.Node, _ what: StaticString, _ a: Int64 = 0, _ b: Int64 = 0) {
        self.trace.note(step: self.step, time: self.schedule.now, node, what, a, b)
    }

    func violate(_ property: Violation.Property, _ detail: String) {
        if self.violation == nil { self.violation = Violation(property: property, detail: detail) }
    }

    func subscriptions(of node: Int) -> [String] {
        if node == 0 { return ["audits/#"] }
        let id = self.auditors[node - 1].party.id
        return ["control_center/receipts/\(id)", "\(Topic.keys)"]
            + (self.scenario.updates ? ["control_center/updates/\(id)/#"] : [])
    }

    /// Which of the cast has this number in the ledger; `nil` for others.
    func auditorIndex(number: Int64) -> Int? {
        let ledger = self.center.disk.visible
        return self.cast.auditors.firstIndex { ledger.auditors[$0.spiffeID.rawValue] == number }
    }

    // MARK: Running

    func run() {
        self.bootCenter()
        for auditor in self.auditors { self.boot(auditor) }
        self.schedule.after(.milliseconds(500), .fate)
        self.schedule.after(self.scenario.readingEvery, .meters)
        if self.scenario.bug == .centerDiskLies || self.scenario.bug == .auditorDiskLies {
            self.schedule.after(.seconds(7), .syncs)
        }
        if self.faults.kinds.contains(.forge) { self.introduceInsider() }
        while self.violation == nil, self.schedule.now < self.calmFrom, let event = self.schedule.next() {
            self.step += 1
            self.take(event)
        }
        guard self.violation == nil else { return }
        self.beCalm()
        let limit = self.calmFrom + self.scenario.calm
        var nextLook = self.schedule.now
        while self.violation == nil, let event = self.schedule.next() {
            self.step += 1
            self.take(event)
            guard self.schedule.now >= nextLook else { continue }
            nextLook = self.schedule.now + .seconds(1)
            if self.isSettled || self.schedule.now > limit { break }
        }
        if self.violation == nil { self.checker.finish(in: self) }
        if self.violation == nil { self.finishUpdates() }
    }

    /// The faults stop: disks have room, everybody is started, and nobody interferes.
    private func beCalm() {
        self.note(.world, "is calm from here on")
        self.faults.stop()
        self.center.disk.isFull = false
        for auditor in self.auditors { auditor.card.isFull = false }
        // Whoever has no good certificate gets one, the revoked among them: an operator has invited them anew.
        guard self.scenario.lifetime != nil else { return }
        for auditor in self.auditors { self.renew(auditor, readmitting: true) }
    }

    private var isSettled: Bool {
        guard self.center.core != nil, self.center.waiting == nil, self.center.inbox.isEmpty else { return false }
        return self.areUpdatesSettled
            && self.auditors.allSatisfy { auditor in
                if auditor.isRetired { return true }
                guard let machine = auditor.machine else { return false }
                return auditor.next == self.available && machine.isOpen && machine.isDrained(auditor.card.visible)
            }
    }

    private func take(_ event: Event) {
        switch event {
        case .reachesBroker(let node, let epoch, let request):
            self.reachedBroker(request, from: node, epoch: epoch)
        case .reachesNode(let node, let epoch, let response):
            guard self.links[node].epoch == epoch, self.links[node].isUp || self.links[node].isConnecting else {
                return
            }
            if node == 0 {
                if self.center.core != nil { self.receivedByCenter(response, epoch: epoch) }
            } else if self.auditors[node - 1].machine != nil {
                self.received(response, by: self.auditors[node - 1])
            }
        case .nodeNotices(let node, let epoch): self.noticed(node, epoch)
        case .brokerNotices(let node, let epoch): self.brokerNoticed(node, epoch: epoch)
        case .brokerStarts:
            self.note(.broker, "starts")
            self.brokerIsUp = true
        case .starts(let node):
            if node == 0 { self.bootCenter() } else { self.boot(self.auditors[node - 1]) }
        case .connects(let node, let generation):
            guard self.generation(of: node) == generation, !self.links[node].isUp, !self.links[node].isConnecting
            else { return }
            guard node == 0 || self.certificates.isGood(self.auditors[node - 1].party, at: self.now) else {
                // The broker's gate; it is tried again.
                self.schedule.after(.seconds(5), .connects(node: node, generation: generation))
                return
            }
            self.connect(node)
        case .tick(let node, let generation):
            let auditor = self.auditors[node - 1]
            guard auditor.generation == generation, auditor.machine != nil else { return }
            auditor.tickAt = nil
            self.feed(auditor, .tick)
        case .publishFailed(let node, let generation, let token):
            guard self.generation(of: node) == generation else { return }
            self.feed(self.auditors[node - 1], .publishFailed(token, isTooLarge: false))
        case .centerWorks(let generation):
            if self.center.generation == generation { self.work() }
        case .meters:
            for auditor in self.auditors { self.meter(auditor) }
            self.schedule.after(self.scenario.readingEvery, .meters)
        case .fate:
            self.decideFates()
            self.desk()
            self.schedule.after(.seconds(1), .fate)
        case .diskHasRoom(let node):
            if node == 0 { self.center.disk.isFull = false } else { self.auditors[node - 1].card.isFull = false }
        case .brokerReleases(let message): self.inject(message)
        case .syncs:
            self.center.disk.sync()
            for auditor in self.auditors { auditor.card.sync() }
            self.schedule.after(.seconds(7), .syncs)
        }
    }

    /// The count of starts of a node that is running.
    private func generation(of node: Int) -> Int? {
        if node == 0 { return self.center.core == nil ? nil : self.center.generation }
        let auditor = self.auditors[node - 1]
        return auditor.machine == nil ? nil : auditor.generation
    }

    private func noticed(_ node: Int, _ epoch: Int) {
        guard let generation = self.generation(of: node), self.links[node].epoch == epoch, !self.links[node].isUp
        else { return }
        if node > 0 {
            self.auditors[node - 1].tokens = [:]
            self.feed(self.auditors[node - 1], .disconnected)
        } else {
            // What was delivered and not settled comes again on the next connection.
            self.center.inbox.removeAll { $0.epoch <= epoch && self.dice.chance(0.5) }
        }
        self.schedule.after(
            self.dice.between(.milliseconds(100)...(.seconds(10))), .connects(node: node, generation: generation))
    }

    // MARK: Fate

    /// Once a second: what may strike a node that is doing nothing.
    private func decideFates() {
        if self.schedule.now < self.calmFrom { self.askForUpdates() }
        if self.faults.strikes(.brokerCrash), self.brokerIsUp {
            if self.scenario.shape == .withholding {
                self.crashCenter()
            } else {
                self.crashBroker(losingSessions: self.faults.strikes(.sessionLoss))
            }
        }
        if self.faults.strikes(.centerCrash) { self.crashCenter() }
        if self.faults.strikes(.diskFull) { self.fillDisk() }
        for auditor in self.auditors where self.faults.strikes(.auditorCrash) { self.crash(auditor) }
        self.keepImages()
        if self.faults.strikes(.rollback) { self.rollBack() }
        if self.faults.strikes(.clone) { self.copy() }
        if self.faults.strikes(.centerRestore) { self.restoreCenter() }
        for auditor in self.auditors where self.faults.strikes(.renewal) { self.renew(auditor) }
        if self.faults.strikes(.revocation) {
            self.revoke(self.auditors[self.faults.dice(of: .revocation, below: self.auditors.count)])
        }
    }

    private func fillDisk() {
        let node = self.faults.dice(of: .diskFull, below: self.links.count)
        self.note(.world, "a disk is full", Int64(node))
        if node == 0 { self.center.disk.isFull = true } else { self.auditors[node - 1].card.isFull = true }
        self.schedule.after(
            self.faults.dice(of: .diskFull, between: .seconds(1)...(.seconds(60))), .diskHasRoom(node: node))
    }

    /// An image every 20 seconds on the average, of which the last five are kept.
    private func keepImages() {
        let kinds = self.faults.kinds
        if kinds.contains(.rollback) || kinds.contains(.clone) {
            for auditor in self.auditors where self.dice.chance(0.05) {
                auditor.images.append(auditor.card.durable)
                if auditor.images.count > 5 { auditor.images.removeFirst() }
            }
        }
        if kinds.contains(.centerRestore), self.dice.chance(0.05) {
            self.center.images.append((self.center.disk.durable, self.checker.center))
            if self.center.images.count > 5 { self.center.images.removeFirst() }
        }
    }

    private func rollBack() {
        let auditor = self.auditors[self.faults.dice(of: .rollback, below: self.auditors.count)]
        guard !auditor.images.isEmpty else { return }
        let image = auditor.images[self.faults.dice(of: .rollback, below: auditor.images.count)]
        self.note(.auditor(auditor.node), "gets an old card", image.state?.lastSequence ?? 0)
        self.checker.tainted.insert(auditor.auditor)
        self.crash(auditor)
        auditor.card.replace(with: image)
    }

    /// A card is copied, and the copy runs in a second machine.
    private func copy() {
        guard self.auditors.count == self.scenario.auditors else { return }
        let original = self.auditors[self.faults.dice(of: .clone, below: self.auditors.count)]
        let image = self.dice.chance(0.5) ? original.card.durable : original.images.last ?? original.card.durable
        let node = self.links.count
        self.note(.auditor(original.node), "is copied", Int64(node))
        self.checker.tainted.insert(original.auditor)
        // With the same client id they take the session from each other; with another one both are there at once.
        let client = self.dice.chance(0.5) ? original.client : 1_000
        self.links.append(Link(client: client))
        let copy = AuditorNode(
            node: node, auditor: original.auditor, client: client, party: original.party, image: image,
            seed: self.dice.next())
        self.auditors.append(copy)
        self.boot(copy)
    }

    private func restoreCenter() {
        guard !self.center.images.isEmpty else { return }
        let image = self.center.images[self.faults.dice(of: .centerRestore, below: self.center.images.count)]
        self.note(.controlCenter, "gets a backup", Int64(image.ledger.statements.count))
        self.checker.isCenterRestored = true
        self.crashCenter()
        self.center.disk.replace(with: image.ledger)
        self.checker.center = image.checker
        // Older ones only: what is younger never was, from here on.
        self.center.images.removeAll { $0.ledger.statements.count > image.ledger.statements.count }
    }
}
