// The broker's core: sessions, subscriptions, deliveries and acknowledgements as a state machine. Packets
// and events go in, actions come out; there is no I/O, no clock and no thread in here.

import DequeModule
import Identity
package import MQTT
import NIOCore

/// A connection that has a session. The index is used again, with another generation.
package struct ConnectionID: Hashable {
    package let index: Int
    package let generation: UInt32
}

package struct Router {
    /// What the broker has to do, in order.
    package enum Action {
        case send(ConnectionID, Packet)
        /// PUBACK, by far the most frequent answer.
        case acknowledge(ConnectionID, packetID: UInt16, ReasonCode)
        case deliver(ConnectionID, Message, Header)
        /// `token` comes back by ``Router/settle(_:)``; `nil` if nobody waits.
        case deliverInProcess(Int, Message, QoS, retain: Bool, token: UInt64?)
        /// To be made durable. The changes of one call into the router belong together: all or none of them.
        case persist(StoreChange)
        /// Say why (5.0), then close.
        case close(ConnectionID, ReasonCode, String)
        /// Read no more from it until ``resume``.
        case hold(ConnectionID)
        case resume(ConnectionID)
        /// Call ``Router/pump(_:)`` when what was delivered has gone out and others have had their turn.
        case pumpLater(ConnectionID)
        /// Somebody subscribed to the broker's figures.
        case wantFigures
        case event(BrokerEvent)
    }

    /// How a message is delivered to one client.
    package struct Header {
        package var qos: QoS
        package var retain: Bool
        package var isDuplicate: Bool
        package var packetID: UInt16
        package var subscriptionIDs: [UInt32]
    }

    package enum ConnectOutcome {
        /// Send the CONNACK, then call ``Router/start(_:)``.
        case accepted(ConnectionID, ConnAck, keepAlive: UInt16)
        case refused(ReasonCode, String)
    }

    struct Connection {
        var generation: UInt32 = 0
        var isOpen = false
        /// The CONNACK is on its way; nothing goes before it.
        var isStarted = false
        var session = 0
        var peer: PeerIdentity?
        var clientID = ""
        var version = ProtocolVersion.v3_1_1
        var maximumPacketSize = Int.max
        /// Bytes of QoS 0 that came out of the queue since its last turn, and whether it waits for the next.
        var turnBytes = 0
        var waitsForTurn = false
        var isWritable = true
        var isHeld = false
        /// Publishes whose PUBACK or PUBREC waits for something, or for one before it (MQTT-4.6.0-2, 4.6.0-3).
        var pending: Deque<PendingAcknowledgement> = []
        /// Counts what left `pending`, so that a settlement finds its place.
        var pendingBase: UInt64 = 0
        /// Publishes above QoS 0 that count against our Receive Maximum (MQTT 5.0 section 4.9).
        var openPublishes = 0
        var route: Route?
    }

    struct PendingAcknowledgement {
        var packetID: UInt16
        var qos: QoS
        var reasonCode: ReasonCode
        /// In-process sessions that have not settled; at QoS 2 the session knows.
        var waiting: Int
        /// The change that must be on disk first; 0 is none.
        var change: UInt64
    }

    /// Where the last topic of a publisher goes. Publishers repeat themselves.
    struct Route {
        var topic: TopicName
        var generation: UInt64
        var targets: [Target]
    }

    struct Target {
        var session: Int
        /// Chooses a session for each message; `session` and the rest mean nothing then.
        var share: Share?
        var qos: QoS
        var retainAsPublished: Bool
        var subscriptionIDs: [UInt32]
    }

    /// Who waits until in-process sessions have dealt with a message.
    struct Settlement {
        var connection: ConnectionID
        var place: UInt64
        var inProcess: Int
        /// At QoS 2: the publisher's session, which remembers the packet identifier beyond the connection.
        var session: Session?
        var packetID: UInt16
    }

    struct InProcess {
        var session: Int
        var isFull = false
    }

    /// To be carried out and emptied by the caller after every call.
    package var actions: ContiguousArray<Action> = []
    package internal(set) var statistics = BrokerStatistics()
    /// Unix milliseconds of a clock that never goes back.
    package private(set) var now: UInt64

    let limits: BrokerLimits
    let authorizer: any Authorizer
    var connections: ContiguousArray<Connection> = []
    var freeConnections: [Int] = []
    var sessions: ContiguousArray<Session?> = []
    var freeSessions: [Int] = []
    var sessionIndex: [SessionKey: Int] = [:]
    var sessionsOfOwner: [String: Int] = [:]
    var tree = SubscriptionTree()
    /// Shared subscriptions, by the whole filter with `$share/<name>/`.
    var shares: [TopicFilter: Share] = [:]
    var retained = RetainedStore()
    let totals = QueueTotals()
    var inProcess: [Int: InProcess] = [:]
    var settlements: [UInt64: Settlement] = [:]
    var nextToken: UInt64 = 1
    var stamp: UInt64 = 0
    var scratch: [SubscriptionTree.Entry] = []
    var store: StoreProgress

    /// - Parameters:
    ///   - restoring: what a store holds; `nil` if there is no store, and then no change is said.
    ///   - waitsForStore: acknowledgements wait until what they promise is on disk.
    ///   - now: Unix seconds.
    package init(
        limits: BrokerLimits, authorizer: any Authorizer, restoring: StoredState? = nil, waitsForStore: Bool = true,
        now: UInt64 = 0
    ) {
        self.limits = limits
        self.authorizer = authorizer
        self.now = UnixClock.milliseconds(now)
        self.store = StoreProgress(isPresent: restoring != nil, isWaitedFor: waitsForStore && restoring != nil)
        if let restoring { self.restore(restoring) }
    }

    /// Time has passed: sends wills that were delayed, ends sessions and retained messages that are past their time.
    ///
    /// - Parameter now: Unix seconds.
    package mutating func advance(to now: UInt64) { self.advance(toMilliseconds: UnixClock.milliseconds(now)) }

    /// What begins now begins at this time.
    ///
    /// - Parameter now: Unix milliseconds; a time before the last one changes nothing.
    mutating func setTime(milliseconds now: UInt64) { self.now = max(now, self.now) }

    /// As ``advance(to:)``, in milliseconds.
    mutating func advance(toMilliseconds now: UInt64) {
        self.setTime(milliseconds: now)
        let now = self.now
        for index in self.sessions.indices {
            guard let session = self.sessions[index], session.place == .nowhere else { continue }
            if session.hasExpired(now) {
                self.removeSession(index)
            } else if let due = session.willDue, due <= now {
                self.publishWill(of: session)
            }
        }
        for topic in self.retained.removeExpired(now: now) where self.store.isPresent {
            self.persist(.removeRetained(topic))
        }
    }

    func isOpen(_ id: ConnectionID) -> Bool {
        let connection = self.connections[id.index]
        return connection.isOpen && connection.generation == id.generation
    }

    func place(of session: Int) -> Session.Place { self.sessions[session]?.place ?? .nowhere }
}

/// Conversions of the router's clock. Seconds are rounded up: nothing ends before its time.
enum UnixClock {
    static func seconds(_ milliseconds: UInt64) -> UInt64 { milliseconds / 1_000 + (milliseconds % 1_000 == 0 ? 0 : 1) }

    static func milliseconds(_ seconds: UInt64) -> UInt64 { min(seconds, .max / 2_000) * 1_000 }
}
