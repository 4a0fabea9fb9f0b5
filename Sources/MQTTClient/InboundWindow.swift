import DequeModule
package import MQTT

/// Messages above QoS 0 delivered to us and not yet acknowledged, and those of QoS 2 that wait for the server's
/// PUBREL. PUBACKs and PUBRECs leave in the order in which the messages came, whatever the order of settling
/// (MQTT-4.6.0-2, 4.6.0-3).
package struct InboundWindow: Sendable {
    private struct Entry: Sendable {
        var packetID: UInt16
        var qos: QoS
        var isSettled = false
        /// The token it was first delivered with, on an earlier connection.
        var formerToken: UInt64?
    }

    /// A QoS 2 message that was delivered on an earlier connection and not acknowledged there. The server sends it
    /// again, and it is not delivered again: whoever has it settles it with the token of then.
    private struct Orphan: Sendable {
        var token: UInt64
        var isSettled: Bool
    }

    private var entries: Deque<Entry> = []
    private var inUse: Set<UInt16> = []
    /// QoS 2: settled, PUBREC sent, PUBREL still to come. Part of the session: it outlives connections.
    private var received: Set<UInt16> = []
    /// Those of `received` that came on this connection, and so take a place in our window.
    private var receivedNow: Set<UInt16> = []
    private var orphans: [UInt16: Orphan] = [:]
    /// The token of the first entry. Tokens are never used again, so that settling a message of an earlier
    /// connection, which will come again, does not acknowledge another one.
    private var firstToken: UInt64 = 1

    package init() {}

    /// How many deliveries are unsettled or wait for an earlier one to be settled.
    package var count: Int { self.entries.count }

    /// How many places of our window are taken (MQTT 5.0 section 4.9).
    package var held: Int { self.entries.count + self.receivedNow.count }

    /// - Returns: The token to settle it with; `nil` if that identifier is in use.
    package mutating func begin(_ packetID: UInt16, _ qos: QoS) -> UInt64? {
        guard !self.received.contains(packetID), self.inUse.insert(packetID).inserted else { return nil }
        self.entries.append(Entry(packetID: packetID, qos: qos))
        return self.firstToken + UInt64(self.entries.count - 1)
    }

    /// A QoS 2 message comes again: whether it was delivered before and is not to be delivered again. Then call
    /// ``acknowledgeSettled(_:)``, for it may have been settled meanwhile.
    package mutating func resume(_ packetID: UInt16, isDuplicate: Bool) -> Bool {
        guard let orphan = self.orphans.removeValue(forKey: packetID), isDuplicate,
            self.inUse.insert(packetID).inserted
        else { return false }
        self.entries.append(
            Entry(packetID: packetID, qos: .exactlyOnce, isSettled: orphan.isSettled, formerToken: orphan.token))
        return true
    }

    /// Calls `acknowledge` for each message whose turn has come.
    package mutating func settle(_ token: UInt64, acknowledge: (UInt16, QoS) -> Void) {
        guard token >= self.firstToken else {
            self.settle(former: token)
            self.acknowledgeSettled(acknowledge)
            return
        }
        guard token - self.firstToken < UInt64(self.entries.count) else { return }
        self.entries[Int(token - self.firstToken)].isSettled = true
        self.acknowledgeSettled(acknowledge)
    }

    private mutating func settle(former token: UInt64) {
        if let index = self.entries.firstIndex(where: { $0.formerToken == token }) {
            self.entries[index].isSettled = true
        } else if let packetID = self.orphans.first(where: { $0.value.token == token })?.key {
            self.orphans[packetID]?.isSettled = true
        }
    }

    package mutating func acknowledgeSettled(_ acknowledge: (UInt16, QoS) -> Void) {
        while let first = self.entries.first, first.isSettled {
            self.entries.removeFirst()
            self.inUse.remove(first.packetID)
            self.firstToken += 1
            if first.qos == .exactlyOnce {
                self.received.insert(first.packetID)
                self.receivedNow.insert(first.packetID)
            }
            acknowledge(first.packetID, first.qos)
        }
    }

    /// Whether we have acknowledged that QoS 2 message and the server has not released it.
    package func isReceived(_ packetID: UInt16) -> Bool { self.received.contains(packetID) }

    package func isUnsettled(_ packetID: UInt16) -> Bool { self.inUse.contains(packetID) }

    /// PUBREL has come.
    ///
    /// - Returns: Whether we waited for it.
    package mutating func release(_ packetID: UInt16) -> Bool {
        self.receivedNow.remove(packetID)
        return self.received.remove(packetID) != nil
    }

    /// The connection is gone: the server will send again what was not acknowledged.
    package mutating func reset() {
        for (index, entry) in self.entries.enumerated() where entry.qos == .exactlyOnce {
            self.orphans[entry.packetID] = Orphan(
                token: entry.formerToken ?? self.firstToken + UInt64(index), isSettled: entry.isSettled)
        }
        self.firstToken += UInt64(self.entries.count)
        self.entries.removeAll()
        self.inUse.removeAll()
        self.receivedNow.removeAll()
    }

    /// The session is what a store says, or a new one.
    package mutating func restore(received: Set<UInt16>) {
        self.reset()
        self.orphans.removeAll()
        self.received = received
    }
}
