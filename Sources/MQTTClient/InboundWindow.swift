import DequeModule

/// QoS 1 messages delivered to us and not yet acknowledged. PUBACKs leave in the order in which the messages
/// came, whatever the order of settling (MQTT-4.6.0-2).
package struct InboundWindow: Sendable {
    private struct Entry: Sendable {
        var packetID: UInt16
        var isSettled = false
    }

    private var entries: Deque<Entry> = []
    private var inUse: Set<UInt16> = []
    /// The token of the first entry. Tokens are never used again, so that settling a message of an earlier
    /// connection, which will come again, does not acknowledge another one.
    private var firstToken: UInt64 = 1

    package init() {}

    package var count: Int { self.entries.count }

    /// - Returns: The token to settle it with; `nil` if that identifier is in use.
    package mutating func begin(_ packetID: UInt16) -> UInt64? {
        guard self.inUse.insert(packetID).inserted else { return nil }
        self.entries.append(Entry(packetID: packetID))
        return self.firstToken + UInt64(self.entries.count - 1)
    }

    /// Calls `acknowledge` for each message whose turn has come.
    package mutating func settle(_ token: UInt64, acknowledge: (UInt16) -> Void) {
        guard token >= self.firstToken, token - self.firstToken < UInt64(self.entries.count) else { return }
        self.entries[Int(token - self.firstToken)].isSettled = true
        while let first = self.entries.first, first.isSettled {
            self.entries.removeFirst()
            self.inUse.remove(first.packetID)
            self.firstToken += 1
            acknowledge(first.packetID)
        }
    }

    /// The connection is gone: the server will send again what was not acknowledged.
    package mutating func reset() {
        self.firstToken += UInt64(self.entries.count)
        self.entries.removeAll()
        self.inUse.removeAll()
    }
}
