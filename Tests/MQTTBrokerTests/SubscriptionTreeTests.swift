import MQTT
import MQTTBroker
import TestSupport
import Testing

struct SubscriptionTreeTests {
    @Test("Topics are found by exactly the filters that match them, however deep, and are gone once removed")
    func topics() throws {
        var random = SplitMix64(seed: 7)
        func level(_ names: [String]) -> String { names[Int.random(in: 0..<names.count, using: &random)] }
        func text(_ names: [String]) -> String {
            let count = Bool.random(using: &random) ? Int.random(in: 1...4, using: &random) : 17
            return (0..<count).map { $0 < 3 || $0 == 16 ? level(names) : "x" }.joined(separator: "/")
        }
        let names = ["", "a", "b", "$", "\u{301}x"]
        var topics = Set(try (0..<300).map { _ in text(names) }.filter { !$0.isEmpty }.map { try TopicName($0) })
        let filters =
            try Set((0..<300).map { _ in text(names + ["+"]) }).filter { !$0.isEmpty }.flatMap {
                [try TopicFilter($0), try TopicFilter($0 + "/#")]
            } + [try TopicFilter("#"), try TopicFilter("+/#")]
        var tree = TopicTree()
        for topic in topics { tree.insert(topic) }
        while !topics.isEmpty {
            for filter in filters {
                let found = tree.matching(filter)
                #expect(Set(found).count == found.count)
                #expect(Set(found) == topics.filter { filter.matches($0) }, "\(filter.rawValue)")
            }
            for topic in Array(topics.prefix(50)) {
                topics.remove(topic)
                tree.remove(topic)
            }
        }
        for filter in filters { #expect(tree.matching(filter).isEmpty) }
    }

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
