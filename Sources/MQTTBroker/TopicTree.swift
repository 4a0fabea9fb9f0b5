package import MQTT

/// A level of a topic or filter, compared by its bytes.
struct TopicLevel: Hashable {
    let text: String

    /// A level's bytes, between two slashes: text, since the whole is and a slash is one byte.
    private init(_ bytes: Substring.UTF8View) { self.text = String(Substring(bytes)) }

    /// Split by bytes: a slash and what combines with it are two characters of the topic, and one of Swift's.
    ///
    /// - Parameter most: levels; what is behind them is left out.
    static func split(_ text: Substring, most: Int = .max) -> [TopicLevel] {
        var levels: [TopicLevel] = []
        var rest = text.utf8
        while levels.count < most {
            guard let slash = rest.firstIndex(of: UInt8(ascii: "/")) else {
                levels.append(TopicLevel(rest))
                break
            }
            levels.append(TopicLevel(rest[..<slash]))
            rest = rest[rest.index(after: slash)...]
        }
        return levels
    }

    var isMulti: Bool { self.text.utf8.elementsEqual(CollectionOfOne(UInt8(ascii: "#"))) }
    var isPlus: Bool { self.text.utf8.elementsEqual(CollectionOfOne(UInt8(ascii: "+"))) }

    static func == (a: TopicLevel, b: TopicLevel) -> Bool { a.text.hasSameBytes(as: b.text) }

    func hash(into hasher: inout Hasher) { self.text.hashBytes(into: &hasher) }
}

/// Topics, found by a filter without a look at all those that it does not match.
package struct TopicTree {
    /// Levels that are told apart. Topics that are alike so far lie together: one with thousands of levels costs no more
    /// than others.
    private static let depth = 16

    private struct Node {
        var children: [TopicLevel: Int] = [:]
        /// Those that end here; at the greatest depth those that go on too.
        var topics: Set<TopicName> = []
    }

    private var nodes: [Node] = [Node()]
    private var free: [Int] = []

    package init() {}

    /// - Parameter topic: is not in it yet.
    package mutating func insert(_ topic: TopicName) {
        var node = 0
        for level in TopicLevel.split(topic.rawValue[...], most: Self.depth) {
            if let child = self.nodes[node].children[level] {
                node = child
            } else {
                let new = self.make()
                self.nodes[node].children[level] = new
                node = new
            }
        }
        self.nodes[node].topics.insert(topic)
    }

    package mutating func remove(_ topic: TopicName) {
        var path: [(node: Int, level: TopicLevel)] = []
        var node = 0
        for level in TopicLevel.split(topic.rawValue[...], most: Self.depth) {
            guard let child = self.nodes[node].children[level] else { return }
            path.append((node, level))
            node = child
        }
        self.nodes[node].topics.remove(topic)
        while let (parent, level) = path.popLast(), self.nodes[node].topics.isEmpty, self.nodes[node].children.isEmpty {
            self.nodes[parent].children[level] = nil
            self.free.append(node)
            node = parent
        }
    }

    private mutating func make() -> Int {
        if let index = self.free.popLast() { return index }
        self.nodes.append(Node())
        return self.nodes.count - 1
    }

    /// All that a filter matches (MQTT 5.0 section 4.7), in no order.
    package func matching(_ filter: TopicFilter) -> [TopicName] {
        var found: [TopicName] = []
        self.collect(filter, TopicLevel.split(filter.pattern, most: Self.depth)[...], from: 0, into: &found)
        return found
    }

    private func collect(
        _ filter: TopicFilter, _ levels: ArraySlice<TopicLevel>, from node: Int, into found: inout [TopicName]
    ) {
        guard let level = levels.first, !level.isMulti else {
            // What lies beyond the depth, and topics that begin with '$', the filter itself knows about.
            for topic in self.nodes[node].topics where filter.matches(topic) { found.append(topic) }
            guard !levels.isEmpty else { return }
            for child in self.nodes[node].children.values { self.collect(filter, levels, from: child, into: &found) }
            return
        }
        if level.isPlus {
            for child in self.nodes[node].children.values {
                self.collect(filter, levels.dropFirst(), from: child, into: &found)
            }
        } else if let child = self.nodes[node].children[level] {
            self.collect(filter, levels.dropFirst(), from: child, into: &found)
        }
    }
}
