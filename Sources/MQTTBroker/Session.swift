import DequeModule
package import Identity
import MQTT
import NIOCore

/// Whose session: an identity's, under a client identifier. Two identities with the same client identifier
/// have two sessions, so nobody takes another's (bytes are compared, not letters).
package struct SessionKey: Hashable {
    let owner: String
    let clientID: [UInt8]

    package init(_ peer: PeerIdentity, _ clientID: String) {
        self.owner = peer.spiffeID.rawValue
        self.clientID = Array(clientID.utf8)
    }
}

/// A client's session (MQTT 5.0 section 4.1): what outlives its connection. A reference, because its queues
/// are changed in place.
final class Session {
    /// A message of QoS 1 for this client.
    struct Outgoing {
        var message: Message
        var retain: Bool
        var subscriptionIDs: [UInt32]
    }

    /// One that was sent and is not acknowledged, or is but waits for an older one to be.
    struct Inflight {
        var outgoing: Outgoing
        var isAcknowledged = false
    }

    enum Place: Equatable {
        case connection(ConnectionID)
        case inProcess(Int)
        case nowhere
    }

    let key: SessionKey
    let clientID: String
    var peer: PeerIdentity
    var place: Place
    /// Seconds that it is kept without a connection.
    var expiry: UInt32
    var disconnectedAt: UInt64 = 0
    var subscriptions: [TopicFilter: UInt32?] = [:]

    /// Packet identifiers are given out in turn, so those in flight are neighbours: `firstPacketID` is that
    /// of `inflight.first`. An acknowledgement is found by subtraction, and no identifier is used twice.
    var inflight: Deque<Inflight> = []
    var firstPacketID: UInt16 = 1
    /// How many of `inflight`, from the first on, were sent on this connection.
    var sentOnConnection = 0
    var queue: Deque<Outgoing> = []
    var queuedBytes = 0
    var window = 0
    var lost: UInt64 = 0
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

    /// The identifier of the message at an index of `inflight`: 1...65,535, then 1 again.
    func packetID(at index: Int) -> UInt16 {
        UInt16((Int(self.firstPacketID) - 1 + index) % 65_535 + 1)
    }

    /// Notes a PUBACK. One that belongs to nothing is ignored.
    func acknowledge(_ packetID: UInt16) {
        let index = (Int(packetID) - Int(self.firstPacketID) + 65_535) % 65_535
        guard index < self.sentOnConnection else { return }
        self.inflight[index].isAcknowledged = true
        while let first = self.inflight.first, first.isAcknowledged {
            self.inflight.removeFirst()
            self.firstPacketID = self.firstPacketID == .max ? 1 : self.firstPacketID + 1
            self.sentOnConnection -= 1
        }
    }

    func enqueue(_ outgoing: Outgoing) {
        outgoing.message.keep()
        self.queuedBytes += outgoing.message.payload.readableBytes
        self.queue.append(outgoing)
    }

    func dequeue() -> Outgoing? {
        guard let outgoing = self.queue.popFirst() else { return nil }
        self.queuedBytes -= outgoing.message.payload.readableBytes
        return outgoing
    }
}
