package import Identity
package import MQTT
package import NIOCore

/// Where sessions that outlive their connection are kept, so that they outlive the broker too.
///
/// The router says what changes, in order; the store makes it durable in that order, many changes in one
/// transaction. Changes are counted from 1 as they leave the router: "committed through 7" means that the first
/// seven are on disk. What must not happen before a change is on disk waits in the router for that number.
package protocol SessionStore: Sendable {
    /// What was committed before. Called once, before the first ``append(_:then:)``.
    func load() throws -> StoredState

    /// Makes changes durable, behind all that were appended before. Returns at once. Changes that are appended
    /// together are on disk together or not at all: that a message of QoS 2 was received, and where it went.
    ///
    /// - Parameter done: called once, on any thread: with success when they are on disk, with the error when they
    ///   are not and the store has given up on them. The broker then stops: it cannot keep its word any more.
    func append(_ changes: [StoreChange], then done: @escaping @Sendable (Result<Void, any Error>) -> Void)

    /// Waits for all that was appended, and closes. Blocks: not for an event loop.
    func close()
}

/// One change of what the broker keeps. Sessions are named by a number that is never used again.
package enum StoreChange: Sendable {
    /// A session begins, or its peer, expiry or will are other ones now.
    case openSession(StoredSession)
    /// Its connection has ended: its expiry counts from here, in Unix seconds.
    case leaveSession(UInt64, at: UInt64)
    /// The session and everything in it ends.
    case removeSession(UInt64)
    /// Adds or replaces a subscription.
    case subscribe(UInt64, Subscription, identifier: UInt32?)
    case unsubscribe(UInt64, TopicFilter)
    /// A message of QoS 1 or 2 waits for the session's client. `place` is one more for each message of a session.
    case enqueue(UInt64, place: UInt64, StoredDelivery)
    /// It was given a packet identifier. At QoS 2 it is sent after this is on disk.
    case send(UInt64, place: UInt64, packetID: UInt16)
    /// QoS 2: the client has it (PUBREC). PUBREL is sent after this is on disk.
    case release(UInt64, place: UInt64)
    /// It is dealt with: acknowledged, expired or dropped.
    case complete(UInt64, place: UInt64)
    /// A message of QoS 2 has come from the client under this identifier. PUBREC is sent after this is on disk.
    case receive(UInt64, packetID: UInt16)
    /// PUBREL has come for it. PUBCOMP is sent after this is on disk.
    case forget(UInt64, packetID: UInt16)
    /// The retained message of its topic.
    case retain(StoredMessage, QoS)
    case removeRetained(TopicName)
}

/// A message, once for all the sessions that it waits in.
package struct StoredMessage: Sendable {
    /// Never used again by this store.
    package var number: UInt64
    package var topic: TopicName
    package var payload: ByteBuffer
    /// As they are passed on.
    package var properties: Properties
    package var sender: PeerIdentity?
    /// The Unix second from which it is no longer delivered.
    package var expiry: UInt64?

    package init(
        number: UInt64, topic: TopicName, payload: ByteBuffer, properties: Properties, sender: PeerIdentity?,
        expiry: UInt64?
    ) {
        self.number = number
        self.topic = topic
        self.payload = payload
        self.properties = properties
        self.sender = sender
        self.expiry = expiry
    }
}

/// A message on its way to one session.
package struct StoredDelivery: Sendable {
    package var message: StoredMessage
    /// QoS 1 or 2: the lower of the publisher's and the subscription's.
    package var qos: QoS
    package var retain: Bool
    package var subscriptionIDs: [UInt32]
    /// The shared subscription by which it came here.
    package var share: TopicFilter?

    package init(
        message: StoredMessage, qos: QoS, retain: Bool, subscriptionIDs: [UInt32], share: TopicFilter? = nil
    ) {
        self.message = message
        self.qos = qos
        self.retain = retain
        self.subscriptionIDs = subscriptionIDs
        self.share = share
    }
}

/// A session without what waits in it.
package struct StoredSession: Sendable {
    package var number: UInt64
    package var peer: PeerIdentity
    package var clientID: String
    /// Seconds that it is kept without a connection; `UInt32.max` for ever.
    package var expiry: UInt32
    /// Unix second at which its connection ended; `nil` while it has one.
    package var leftAt: UInt64?
    /// What is published if the connection ends without a word, and has not been published yet.
    package var will: Will?

    package init(
        number: UInt64, peer: PeerIdentity, clientID: String, expiry: UInt32, leftAt: UInt64? = nil, will: Will? = nil
    ) {
        self.number = number
        self.peer = peer
        self.clientID = clientID
        self.expiry = expiry
        self.leftAt = leftAt
        self.will = will
    }
}

/// All that a store holds, as the router takes it up at its start.
package struct StoredState: Sendable {
    /// One session with all that is in it.
    package struct Session: Sendable {
        package var session: StoredSession
        package var subscriptions: [(Subscription, identifier: UInt32?)] = []
        /// In the order of their places.
        package var deliveries: [Delivery] = []
        /// Identifiers of QoS 2 between PUBLISH and PUBREL of the client.
        package var received: [UInt16] = []

        package init(session: StoredSession) { self.session = session }
    }

    /// A message that waits, or was sent and is not dealt with.
    package struct Delivery: Sendable {
        package var place: UInt64
        package var delivery: StoredDelivery
        /// `nil` if it was never sent.
        package var packetID: UInt16?
        /// QoS 2: PUBREC has come.
        package var isReleased: Bool

        package init(place: UInt64, delivery: StoredDelivery, packetID: UInt16?, isReleased: Bool) {
            self.place = place
            self.delivery = delivery
            self.packetID = packetID
            self.isReleased = isReleased
        }
    }

    package var sessions: [Session] = []
    package var retained: [(message: StoredMessage, qos: QoS)] = []
    /// Higher than every number given out, of sessions and messages alike.
    package var nextNumber: UInt64 = 1

    package init() {}
}
