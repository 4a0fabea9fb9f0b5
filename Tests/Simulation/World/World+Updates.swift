import Auditor
import ControlCenter
import Identity
import Telemetry
import TestSupport

/// The control center's queue of updates, on a disk of its own.
struct CenterUpdates: UpdateStore {
    let disk: Disk<MemoryUpdates>

    func auditorsWithPendingUpdates() throws -> [SPIFFEID] { self.disk.visible.auditorsWithPendingUpdates() }
    func pendingUpdates(for auditor: SPIFFEID, at now: Timestamp) throws -> [PendingUpdate] {
        self.disk.visible.pendingUpdates(for: auditor, at: now)
    }
    func refuse(_ number: Int64, _ reason: String, at now: Timestamp) throws {
        try self.disk.commit { $0.refuse(number, reason, at: now) }
    }
    func lastUpdateSequence(for auditor: SPIFFEID) throws -> Int64 {
        self.disk.visible.lastUpdateSequence(for: auditor)
    }
    func record(_ updates: [SignedUpdate]) throws { try self.disk.commit { $0.record(updates) } }
    func expireUpdates(at now: Timestamp) throws { try self.disk.commit { $0.expireUpdates(at: now) } }
}

/// Operators who change their mind all the time, and what must hold of it.
extension World {
    /// Each update sets another value, so that the value tells which one was applied.
    func askForUpdates() {
        guard self.scenario.updates, self.dice.chance(0.1) else { return }
        let auditor = self.cast.auditors[self.dice.below(self.scenario.auditors)]
        let number = Int64(self.center.askedFor.count) + 1
        guard let value = ExactDecimal(number) else { return }
        let update = PendingUpdate(
            number: number, auditor: auditor.spiffeID, parameter: .sampleRate, value: .number(value), unit: "s",
            batch: Nonce(using: &self.dice), expires: self.now.advanced(byNanoseconds: .seconds(1 << 20)))
        self.note(.world, "an update is asked for", number)
        self.center.askedFor.append(auditor.spiffeID)
        // Another process does that; it is not hit by what hits the control center.
        try? self.center.updates.commit(growing: false) { $0.ask(update) }
    }

    /// Links the results that are stored, and sends what is pending; dies like everything else.
    func desk() {
        guard self.scenario.updates, self.center.core != nil, var dispatcher = self.center.dispatcher else { return }
        do {
            let statements = self.center.disk.durable.statements
            for statement in statements[min(self.center.linked, statements.count)...] where statement.kind == "result" {
                guard let envelope = try? Envelope.decode(statement.bytes), let result = envelope.result else {
                    continue
                }
                let auditor = envelope.issuer
                try self.center.updates.commit { $0.link(result, of: auditor) }
                if result.isOnlyLate { dispatcher.refusedAsLate(result.update, by: auditor) }
            }
            self.center.linked = statements.count
            let outgoing = try dispatcher.work(
                at: self.now, signer: try PartySigner(self.cast.center), chain: self.cast.center.chainDER)
            self.center.dispatcher = dispatcher
            for message in outgoing {
                if self.faults.strikes(.centerCrash) { return self.crashCenter() }
                guard self.links[0].isUp else { continue }
                self.center.lastToken += 1
                let id = self.links[0].packetID(for: self.center.lastToken)
                self.send(.publish(id, Broker.Message(topic: "\(message.topic)", payload: message.bytes)), from: 0)
            }
        } catch {
            self.violate(.machineWorks, "updates cannot be sent: \(error)")
        }
    }

    /// An auditor's transaction became durable: what it says about updates.
    func checkUpdates(_ before: MemoryOutbox, _ after: MemoryOutbox, of auditor: AuditorNode) {
        let known = Set(before.memory.handled.map(\.update))
        var applied = Set(before.memory.handled.filter(\.isApplied).compactMap(\.batch))
        var newest: Int64?
        for handled in after.memory.handled where !known.contains(handled.update) {
            guard handled.isApplied else {
                self.refusedUpdates += 1
                continue
            }
            guard let form = self.center.updates.durable.form(handled.update), form.auditor == auditor.party.spiffeID
            else {
                self.violate(.nothingForeignStored, "an update of nobody is applied")
                return
            }
            if form.nonce != auditor.nonce {
                self.violate(
                    .updateFresh, "auditor \(auditor.auditor) applies update \(form.request) of an old connection")
            }
            // What was applied before is answered again, and no more.
            guard let batch = handled.batch, applied.insert(batch).inserted else { continue }
            newest = form.request
            if !self.appliedUpdates.insert(form.request).inserted, !self.checker.tainted.contains(auditor.auditor) {
                self.violate(.updateOnce, "auditor \(auditor.auditor) applies update \(form.request) again")
            }
        }
        let value = after.memory.settings["SAMPLE_RATE"]?.value
        if value != newest.map({ "\($0)" }) ?? before.memory.settings["SAMPLE_RATE"]?.value {
            self.violate(.updateOnce, "auditor \(auditor.auditor) applies \(newest ?? 0), and has \(value ?? "none")")
        }
    }

    /// Whether everything that was asked for is applied.
    var areUpdatesSettled: Bool {
        self.center.updates.durable.auditorsWithPendingUpdates().isEmpty
    }

    func finishUpdates() {
        guard self.scenario.updates else { return }
        for (number, state) in self.center.updates.durable.states.sorted(by: { $0.key < $1.key }) {
            if state != .applied { self.violate(.everythingArrives, "update \(number) is \(state)") }
            if !self.appliedUpdates.contains(number) {
                self.violate(.updateOnce, "update \(number) is said to be applied, and is not")
            }
        }
    }
}
