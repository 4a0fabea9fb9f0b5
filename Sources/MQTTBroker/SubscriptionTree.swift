package import MQTT

/// Who subscribed to what, found by walking a topic's levels: the cost depends on the topic, not on the
/// number of subscriptions.
package struct SubscriptionTree {
    /// One subscription of one session, or one shared subscription.
    package struct Entry {
        /// -1 if it is shared: then no session has this place.
        package var session: Int
        package var share: Share?
        package var qos: QoS
        package var noLocal: Bool
        package var retainAsPublished: Bool
        package var identifier: UInt32?

        package init(session: Int, qos: QoS, noLocal: Bool, retainAsPublished: Bool, identifier: UInt32?) {
            self.session = session
            self.qos = qos
            self.noLocal = noLocal
            self.retainAsPublished = retainAsPublished
            self.identifier = identifier
        }

        /// What counts of a shared subscription are its members' options.
        init(_ share: Share) {
            self.init(session: -1, qos: .exactlyOnce, noLocal: false, retainAsPublished: true, identifier: nil)
            self.share = share
        }

        func isOf(_ session: Int, _ share: Share?) -> Bool { self.session == session && self.share === share }
    }

    /// Changes whenever an answer of ``forEachMatch(_:_:)`` may.
    package private(set) var generation: UInt64 = 0

    private struct Node {
        var children: [TopicLevel: Int] = [:]
        var plus: Int?
        /// Subscriptions that end here.
        var exact: [Entry] = []
        /// Those that end with `#` below here.
        var multi: [Entry] = []
    }

    /// The most levels of a filter. A longer one is of no use, and costs memory and depth of calls for each level.
    static let maximumLevels = 200

    static func accepts(_ filter: TopicFilter) -> Bool {
        var levels = 1
        for byte in filter.rawValue.utf8 where byte == UInt8(ascii: "/") { levels += 1 }
        return levels <= Self.maximumLevels
    }

    private var nodes: [Node] = [Node()]
    private var free: [Int] = []

    package init() {}

    /// Adds or replaces a session's subscription to a filter.
    package mutating func insert(_ entry: Entry, _ filter: TopicFilter) {
        self.generation += 1
        var node = 0
        for level in TopicLevel.split(filter.pattern) {
            if level.isMulti {
                Self.replace(entry, in: &self.nodes[node].multi)
                return
            }
            node = level.isPlus ? self.plus(of: node) : self.child(level, of: node)
        }
        Self.replace(entry, in: &self.nodes[node].exact)
    }

    /// Removes a session's subscription, and the branches that nobody needs any more.
    package mutating func remove(session: Int, _ filter: TopicFilter) {
        self.remove(session: session, share: nil, filter)
    }

    /// Removes a shared subscription, that has no members any more.
    mutating func remove(_ share: Share) { self.remove(session: -1, share: share, share.filter) }

    private mutating func remove(session: Int, share: Share?, _ filter: TopicFilter) {
        self.generation += 1
        self.remove(session, share, TopicLevel.split(filter.pattern)[...], from: 0)
    }

    private mutating func remove(
        _ session: Int, _ share: Share?, _ levels: ArraySlice<TopicLevel>, from node: Int
    ) {
        guard let level = levels.first else {
            self.nodes[node].exact.removeAll { $0.isOf(session, share) }
            return
        }
        if level.isMulti {
            self.nodes[node].multi.removeAll { $0.isOf(session, share) }
            return
        }
        guard let next = level.isPlus ? self.nodes[node].plus : self.nodes[node].children[level] else { return }
        self.remove(session, share, levels.dropFirst(), from: next)
        let below = self.nodes[next]
        if below.children.isEmpty, below.plus == nil, below.exact.isEmpty, below.multi.isEmpty {
            if level.isPlus { self.nodes[node].plus = nil } else { self.nodes[node].children[level] = nil }
            self.free.append(next)
        }
    }

    /// Calls `body` with each subscription that a topic matches; several times for a session with
    /// overlapping ones.
    package func forEachMatch(_ topic: TopicName, _ body: (Entry) -> Void) {
        self.match(
            TopicLevel.split(topic.rawValue[...])[...], node: 0, isFirst: true,
            isSystem: topic.rawValue.utf8.first == UInt8(ascii: "$"),
            body)
    }

    private func match(
        _ levels: ArraySlice<TopicLevel>, node: Int, isFirst: Bool, isSystem: Bool, _ body: (Entry) -> Void
    ) {
        let wildcardsMatch = !(isFirst && isSystem)
        if wildcardsMatch { self.nodes[node].multi.forEach(body) }
        guard let level = levels.first else {
            self.nodes[node].exact.forEach(body)
            return
        }
        if let child = self.nodes[node].children[level] {
            self.match(levels.dropFirst(), node: child, isFirst: false, isSystem: isSystem, body)
        }
        if wildcardsMatch, let plus = self.nodes[node].plus {
            self.match(levels.dropFirst(), node: plus, isFirst: false, isSystem: isSystem, body)
        }
    }

    private static func replace(_ entry: Entry, in entries: inout [Entry]) {
        if let index = entries.firstIndex(where: { $0.isOf(entry.session, entry.share) }) {
            entries[index] = entry
        } else {
            entries.append(entry)
        }
    }

    private mutating func child(_ level: TopicLevel, of node: Int) -> Int {
        if let child = self.nodes[node].children[level] { return child }
        let new = self.make()
        self.nodes[node].children[level] = new
        return new
    }

    private mutating func plus(of node: Int) -> Int {
        if let plus = self.nodes[node].plus { return plus }
        let new = self.make()
        self.nodes[node].plus = new
        return new
    }

    private mutating func make() -> Int {
        if let index = self.free.popLast() { return index }
        self.nodes.append(Node())
        return self.nodes.count - 1
    }
}
