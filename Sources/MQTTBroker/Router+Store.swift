// What the router says to a store, and what waits until it is on disk.

import DequeModule
import MQTT

/// How far a store is with what the router told it.
struct StoreProgress {
    /// What happens once a change is on disk.
    enum Waiter {
        case send(ConnectionID, Packet)
        case subscribed(ConnectionID, SubAck, [Subscription], identifier: UInt32?)
        /// PUBACK and PUBREC whose turn may have come.
        case answers(ConnectionID)
        /// Messages of QoS 2 may be sent.
        case pump(Session)
        /// PUBREL may be sent.
        case release(Session, UInt16)
    }

    let isPresent: Bool
    let isWaitedFor: Bool
    /// How many changes were said.
    private(set) var changes: UInt64 = 0
    private(set) var committed: UInt64 = 0
    var isFull = false
    /// Higher than every number of a session or message.
    var nextNumber: UInt64 = 1
    /// In the order of their changes.
    private var waiters: Deque<(change: UInt64, Waiter)> = []

    init(isPresent: Bool, isWaitedFor: Bool) {
        self.isPresent = isPresent
        self.isWaitedFor = isWaitedFor
    }

    mutating func takeNumber() -> UInt64 {
        defer { self.nextNumber += 1 }
        return self.nextNumber
    }

    mutating func count() { self.changes += 1 }

    /// Whether nothing waits for this change any more.
    func isCommitted(_ change: UInt64) -> Bool { change <= self.committed || !self.isWaitedFor }

    /// - Parameter change: nearly always the newest; what has come before is put in its place.
    mutating func wait(for change: UInt64, _ waiter: Waiter) {
        guard self.isWaitedFor else { return }
        var index = self.waiters.endIndex
        while index > self.waiters.startIndex, self.waiters[index - 1].change > change { index -= 1 }
        self.waiters.insert((change, waiter), at: index)
    }

    mutating func commit(through change: UInt64) { self.committed = max(self.committed, change) }

    mutating func nextReady() -> Waiter? {
        guard let first = self.waiters.first, first.change <= self.committed else { return nil }
        return self.waiters.removeFirst().1
    }
}

extension Router {
    /// All changes up to this one, counted from 1, are on disk.
    package mutating func committed(through change: UInt64) {
        self.store.commit(through: change)
        while let waiter = self.store.nextReady() { self.carryOut(waiter) }
    }

    /// Whether the store has so much to write, or so little room, that those who publish into it must wait.
    package mutating func setStoreFull(_ isFull: Bool) {
        self.store.isFull = isFull
        if !isFull { self.resumeAll() }
    }

    mutating func persist(_ change: StoreChange) {
        self.store.count()
        self.actions.append(.persist(change))
    }

    /// Carries out what promises something, once it is on disk: at once if nothing was changed.
    ///
    /// - Parameter change: how many changes there were before.
    mutating func whenCommitted(since change: UInt64, _ waiter: StoreProgress.Waiter) {
        if self.store.changes == change || !self.store.isWaitedFor {
            self.carryOut(waiter)
        } else {
            self.store.wait(for: self.store.changes, waiter)
        }
    }

    private mutating func carryOut(_ waiter: StoreProgress.Waiter) {
        switch waiter {
        case .send(let id, let packet):
            if self.isOpen(id) { self.actions.append(.send(id, packet)) }
        case .subscribed(let id, let subAck, let wanted, let identifier):
            if self.isOpen(id) { self.subscribed(id, subAck, wanted, identifier: identifier) }
        case .answers(let id):
            if self.isOpen(id) { self.answerPending(id) }
        case .pump(let session):
            if self.sessions[session.index] === session { self.pump(session.index) }
        case .release(let session, let packetID):
            guard self.sessions[session.index] === session else { return }
            self.sendRelease(packetID, of: session)
            // On a newer connection it stands before what was not sent there yet.
            self.pump(session.index)
        }
    }

    /// A message as the store keeps it, under one number for all who get it.
    mutating func stored(_ message: Message) -> StoredMessage {
        message.keep()
        if message.number == 0 { message.number = self.store.takeNumber() }
        return StoredMessage(
            number: message.number, topic: message.topic, payload: message.payload, properties: message.properties,
            sender: message.sender, expiry: message.expiry.map(UnixClock.seconds))
    }
}
