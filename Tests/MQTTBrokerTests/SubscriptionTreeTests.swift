import MQTT
import MQTTBroker
import Testing

struct SubscriptionTreeTests {
    private static func entry(_ session: Int) -> SubscriptionTree.Entry {
        SubscriptionTree.Entry(
            session: session, qos: .atLeastOnce, noLocal: false, retainAsPublished: false, identifier: nil)
    }

    @Test("The tree finds exactly the filters that match, on all short filters and topics")
    func agreesWithFilters() throws {
        // The last is one character together with the slash before it.
        let levels = ["", "a", "b", "$", "\u{301}x"]
        var topics: [[String]] = [[]]
        for _ in 0..<3 { topics += topics.flatMap { topic in levels.map { topic + [$0] } } }
        var texts: [[String]] = [[]]
        for _ in 0..<2 { texts += texts.flatMap { filter in (levels + ["+"]).map { filter + [$0] } } }
        texts += texts.map { $0 + ["#"] }
        let filters = try Set(texts.map { $0.joined(separator: "/") }).filter { !$0.isEmpty }.sorted().map {
            try TopicFilter($0)
        }
        var tree = SubscriptionTree()
        for (index, filter) in filters.enumerated() { tree.insert(Self.entry(index), filter) }
        for name in Set(topics.map { $0.joined(separator: "/") }) where !name.isEmpty {
            let topic = try TopicName(name)
            var found: [Int] = []
            tree.forEachMatch(topic) { found.append($0.session) }
            #expect(Set(found).count == found.count)
            #expect(Set(found) == Set(filters.indices.filter { filters[$0].matches(topic) }), "\(name)")
        }
        for (index, filter) in filters.enumerated() where !index.isMultiple(of: 3) {
            tree.remove(session: index, filter)
        }
        for name in Set(topics.map { $0.joined(separator: "/") }) where !name.isEmpty {
            let topic = try TopicName(name)
            var found: [Int] = []
            tree.forEachMatch(topic) { found.append($0.session) }
            #expect(
                Set(found) == Set(filters.indices.filter { $0.isMultiple(of: 3) && filters[$0].matches(topic) }),
                "\(name)")
        }
    }

    @Test("Subscribing again replaces, and every change is a new generation")
    func replaces() throws {
        var tree = SubscriptionTree()
        let filter = try TopicFilter("a/+")
        tree.insert(Self.entry(1), filter)
        let generation = tree.generation
        var weaker = Self.entry(1)
        weaker.qos = .atMostOnce
        tree.insert(weaker, filter)
        #expect(tree.generation != generation)
        var found: [QoS] = []
        tree.forEachMatch(try TopicName("a/b")) { found.append($0.qos) }
        #expect(found == [.atMostOnce])
    }
}
