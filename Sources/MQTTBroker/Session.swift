import DequeModule
import Identity
import MQTT
import NIOCore

/// Whose session: an identity's, under a client identifier. Two identities with the same client identifier
/// have two sessions, so nobody takes another's (bytes are compared, not letters).
package struct SessionKey: Hashable {
    let owner: String
    let clientID: [UInt8]

    init(owner: String, _ clientID: String) {
        self.owner = owner
        self.clientID = Array(clientID.utf8)
    }
}

/// A client's session (MQTT 5.0 section 4.1): what outlives its connection. A reference, because its queues
/// are changed in place.
package final class Session {
    /// A message for this client.
    struct Outgoing {
        var message: Message
        var qos: QoS
        var retain: Bool
        var subscriptionIDs: [UInt32]
        /// The shared subscription that chose this client.
        var share: Share?
        /// Its place in the store; 0 if it is not there.
        var place: UInt64 = 0
    }

    /// A message above QoS 0 that has a packet identifier.
    struct Inflight {
        enum State {
            /// PUBACK or PUBREC has not come.
            case published
            /// QoS 2: PUBREC has come, PUBCOMP has not.
            case released
            /// Dealt with, but an older one is not.
            case done
        }

        var qos: QoS
        var place: UInt64
        var state = State.published
        /// What is sent as long as it is `published`.
        var outgoing: Outgoing?
        /// On any connection: the next time is a repetition.
        var wasSent = false
        /// QoS 2: the change that must be on disk before the next packet for it; 0 is none.
        var change: UInt64 = 0
    }

    /// A message of QoS 2 from the client, between its PUBLISH and PUBREL.
    struct Received {
        /// In-process sessions that have not settled it.
        var waiting = 0
        /// The change that must be on disk before PUBREC; 0 is none.
        var change: UInt64 = 0
    }

    enum Place: Equatable {
        case connection(ConnectionID)
        case inProcess(Int)
        case nowhere
    }

    let key: SessionKey
    let clientID: String
    var index = 0
    var peer: PeerIdentity
    var place: Place
    /// Seconds that it is kept without a connection; `UInt32.max` for ever.
    var expiry: UInt32
    /// Unix milliseconds.
    private(set) var disconnectedAt: UInt64 = 0
    /// What is published if its connection ends without a word, or has ended so and its time has not come.
    var will: Will?
    var subscriptions: [TopicFilter: UInt32?] = [:]

    /// Whether it is kept in the store, under `number`.
    var isDurable = false
    var number: UInt64 = 0
    var nextPlace: UInt64 = 1

    /// Packet identifiers of QoS 2 that its client used and has not released.
    var received: [UInt16: Received] = [:]

    /// Packet identifiers are given out in turn, so those in flight are neighbours: `firstPacketID` is that
    /// of `inflight.first`, which is not done. An acknowledgement is found by subtraction, and no identifier is
    /// used twice.
    private(set) var inflight: Deque<Inflight> = []
    private(set) var firstPacketID: UInt16 = 1
    /// How many of `inflight`, from the first on, were sent on this connection.
    private(set) var sentOnConnection = 0
    /// How many of those are not dealt with.
    private(set) var unacknowledged = 0
    private(set) var queue: Deque<Outgoing> = []
    private(set) var queuedBytes = 0
    private var queuedAtMostOnce = 0
    private var totals: QueueTotals?
    var window = 0
    var isOverflowing = false

    /// Scratch of the router: the last message that matched, and where it was noted.
    var stamp: UInt64 = 0
    var slot = 0

    init(key: SessionKey, clientID: String, peer: PeerIdentity, place: Place, expiry: UInt32) {
        self.key = key
        self.clientID = clientID
        self.peer = peer
        self.place = place
        self.expiry = expiry
    }

    deinit {
        self.totals?.add(messages: -self.queue.count, bytes: -self.queuedBytes)
    }

    /// From now on what waits here is counted together with what waits elsewhere.
    func join(_ totals: QueueTotals) {
        self.totals = totals
        totals.add(messages: self.queue.count, bytes: self.queuedBytes)
    }

    /// Its connection has ended. What was not acknowledged will be sent again; what was never to be is gone.
    func detach(at now: UInt64) {
        self.place = .nowhere
        self.disconnectedAt = now
        self.sentOnConnection = 0
        self.unacknowledged = 0
        guard self.queuedAtMostOnce > 0 else { return }
        self.queuedAtMostOnce = 0
        let before = (self.queue.count, self.queuedBytes)
        self.queue.removeAll { $0.qos == .atMostOnce }
        self.queuedBytes = self.queue.reduce(0) { $0 + $1.message.size }
        self.totals?.add(messages: self.queue.count - before.0, bytes: self.queuedBytes - before.1)
    }

    /// Without a connection: whether its time is over.
    func hasExpired(_ now: UInt64) -> Bool {
        self.place == .nowhere && self.expiry != .max && self.disconnectedAt + UInt64(self.expiry) * 1_000 <= now
    }

    /// Seconds from the end of the connection to the will; never behind the end of the session.
    var willDelay: UInt32 { min(self.will?.properties.willDelayInterval ?? 0, self.expiry) }

    /// Without a connection: when its will is due, in Unix milliseconds.
    var willDue: UInt64? { self.will == nil ? nil : self.disconnectedAt + UInt64(self.willDelay) * 1_000 }

    /// As the store keeps it.
    var stored: StoredSession {
        StoredSession(
            number: self.number, peer: self.peer, clientID: self.clientID, expiry: self.expiry,
            leftAt: self.place == .nowhere ? UnixClock.seconds(self.disconnectedAt) : nil, will: self.will)
    }

    // MARK: The queue

    func enqueue(_ outgoing: Outgoing) {
        outgoing.message.keep()
        self.queuedBytes += outgoing.message.size
        if outgoing.qos == .atMostOnce { self.queuedAtMostOnce += 1 }
        self.totals?.add(messages: 1, bytes: outgoing.message.size)
        self.queue.append(outgoing)
    }

    func dequeue() -> Outgoing? {
        self.queue.popFirst().map { self.removed($0) }
    }

    /// The newest.
    func dequeueLast() -> Outgoing? {
        self.queue.popLast().map { self.removed($0) }
    }

    private func removed(_ outgoing: Outgoing) -> Outgoing {
        let size = outgoing.message.size
        self.queuedBytes -= size
        self.totals?.add(messages: -1, bytes: -size)
        if outgoing.qos == .atMostOnce { self.queuedAtMostOnce -= 1 }
        return outgoing
    }

    // MARK: In flight

    /// Whether all that has a packet identifier was sent on this connection.
    var isAllSent: Bool { self.sentOnConnection == self.inflight.count }

    /// How many more may get a packet identifier and be sent.
    var room: Int {
        min(
            self.window - self.unacknowledged - (self.inflight.count - self.sentOnConnection),
            65_535 - self.inflight.count)
    }

    /// Gives a message the next packet identifier.
    func assign(_ outgoing: Outgoing) {
        self.inflight.append(Inflight(qos: outgoing.qos, place: outgoing.place, outgoing: outgoing))
    }

    /// The identifier of the message at an index of `inflight`: 1...65,535, then 1 again.
    func packetID(at index: Int) -> UInt16 {
        UInt16((Int(self.firstPacketID) - 1 + index) % 65_535 + 1)
    }

    /// - Returns: the index of what was sent on this connection under an identifier and is not dealt with.
    func position(of packetID: UInt16) -> Int? {
        let index = (Int(packetID) - Int(self.firstPacketID) + 65_535) % 65_535
        guard index < self.sentOnConnection, self.inflight[index].state != .done else { return nil }
        return index
    }

    /// The change that the next packet for a message in flight waits for.
    func setChange(_ change: UInt64, at index: Int) { self.inflight[index].change = change }

    /// The first that was not sent on this connection is sent now, or is not to be sent any more.
    func markSent() {
        let index = self.sentOnConnection
        self.sentOnConnection += 1
        guard self.inflight[index].state != .done else { return }
        self.inflight[index].wasSent = true
        self.unacknowledged += 1
    }

    /// PUBREC: the message itself is not needed any more.
    func release(at index: Int) {
        self.inflight[index].state = .released
        self.inflight[index].outgoing = nil
    }

    /// One that was sent is dealt with.
    func finish(at index: Int) {
        self.inflight[index].state = .done
        self.inflight[index].outgoing = nil
        self.unacknowledged -= 1
        while let first = self.inflight.first, first.state == .done {
            self.inflight.removeFirst()
            self.firstPacketID = self.firstPacketID == .max ? 1 : self.firstPacketID + 1
            self.sentOnConnection -= 1
        }
    }

    /// Takes up what a former process stored, in the order of the places.
    ///
    /// - Parameter share: by which it came here, if that still exists.
    func restore(_ delivery: StoredState.Delivery, _ message: Message, share: Share?) {
        self.nextPlace = delivery.place + 1
        let outgoing = Outgoing(
            message: message, qos: delivery.delivery.qos, retain: delivery.delivery.retain,
            subscriptionIDs: delivery.delivery.subscriptionIDs, share: share, place: delivery.place)
        guard let packetID = delivery.packetID else {
            self.enqueue(outgoing)
            return
        }
        if self.inflight.isEmpty { self.firstPacketID = packetID }
        // Those between were dealt with.
        while self.packetID(at: self.inflight.count) != packetID, self.inflight.count < 65_535 {
            self.inflight.append(Inflight(qos: .atLeastOnce, place: 0, state: .done))
        }
        self.inflight.append(
            Inflight(
                qos: outgoing.qos, place: outgoing.place, state: delivery.isReleased ? .released : .published,
                outgoing: delivery.isReleased ? nil : outgoing, wasSent: true))
    }
}

/// What waits in all sessions of a router together.
final class QueueTotals {
    private(set) var messages = 0
    private(set) var bytes = 0

    func add(messages: Int, bytes: Int) {
        self.messages += messages
        self.bytes += bytes
    }
}
