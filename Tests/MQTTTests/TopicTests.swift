import MQTT
import Testing

struct TopicTests {
    @Test(
        "A topic name is 1 to 65,535 bytes without wildcards and U+0000",
        arguments: [
            ("a", true), ("/", true), ("a//b", true), ("$SYS/x", true), (String(repeating: "x", count: 65_535), true),
            ("", false), ("a/+", false), ("a/#", false), ("a+", false), ("a\0b", false),
            (String(repeating: "x", count: 65_536), false),
        ])
    func topicName(text: String, isLegal: Bool) {
        #expect(((try? TopicName(text)) != nil) == isLegal)
    }

    @Test(
        "A wildcard stands for whole levels, '#' only for the last ones; a share has a name and a filter",
        arguments: [
            ("a", true), ("+", true), ("#", true), ("a/+/b", true), ("+/+", true), ("/#", true), ("a/#", true),
            ("$share/g/a", true), ("$share/g/#", true), ("$share/g//", true), ("$shared/x", true),
            ("", false), ("a#", false), ("a/#/b", false), ("#/a", false), ("a+", false), ("+a", false),
            ("a/b+/c", false),
            ("a\0", false), ("$share/", false), ("$share/g", false), ("$share/g/", false), ("$share//a", false),
            ("$share/g+/a", false), ("$share/#/a", false), ("$share/g/a#", false),
            (String(repeating: "x", count: 65_536), false),
        ])
    func topicFilter(text: String, isLegal: Bool) {
        #expect(((try? TopicFilter(text)) != nil) == isLegal)
    }

    @Test(
        "A filter matches as section 4.7 says",
        arguments: [
            ("a", "a", true), ("a", "b", false), ("a", "a/b", false), ("a/b", "a", false), ("a", "ab", false),
            ("ab", "a", false), ("#", "a", true), ("#", "a/b/c", true), ("#", "/", true),
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player12", false),
            ("sport/#", "sport", true), ("sport/#", "sports", false), ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false), ("sport/+", "sport", false),
            ("sport/+", "sport/", true), ("+/+", "/finance", true), ("/+", "/finance", true), ("+", "/finance", false),
            ("+", "finance", true), ("+/#", "a", true), ("a/+/c", "a/b/c", true), ("a/+/c", "a//c", true),
            ("a/+/c", "a/b/d", false), ("a/+/c", "a/b", false), ("a/+/#", "a", false), ("a/+/#", "a/b", true),
            ("a/", "a", false), ("a/", "a/", true), ("a", "a/", false), ("/", "/", true), ("/", "a", false),
            ("#", "$SYS/x", false), ("+/x", "$SYS/x", false), ("$SYS/#", "$SYS/x", true), ("$SYS/+", "$SYS/x", true),
            ("$share/g/a/+", "a/b", true), ("$share/g/a/+", "$share/g/a/b", false), ("$share/g/#", "$SYS/x", false),
            ("é", "e\u{301}", false),
        ])
    func matches(filter: String, topic: String, expected: Bool) throws {
        #expect(try TopicFilter(filter).matches(TopicName(topic)) == expected)
    }

    @Test(
        "A filter covers another if it matches whatever the other matches",
        arguments: [
            ("#", "a/b", true), ("#", "#", true), ("#", "+/a", true), ("a/#", "a", true), ("a/#", "a/#", true),
            ("a/#", "a/+/b", true), ("a/+", "a/b", true), ("a/+", "a/+", true), ("a/b", "a/b", true),
            ("a/b", "a/+", false), ("a/+", "a/#", false), ("a/+", "#", false), ("+", "#", false), ("a/#", "b", false),
            ("a/#", "#", false), ("a/#", "+/b", false), ("a", "a/b", false), ("a/b", "a", false),
            ("#", "$SYS/x", false), ("+/x", "$SYS/x", false), ("$SYS/#", "$SYS/x", true),
            ("a/#", "$share/g/a/b", true), ("a/#", "$share/g/b", false), ("a/+/b", "a/+/+", false),
        ])
    func covers(outer: String, inner: String, expected: Bool) throws {
        #expect(try TopicFilter(outer).covers(TopicFilter(inner)) == expected)
    }

    @Test("Matching agrees with splitting into levels, on all short filters and topics")
    func matchesByDefinition() throws {
        let levels = ["", "a", "b", "$"]
        var topics: [[String]] = [[]]
        for _ in 0..<3 { topics += topics.flatMap { topic in levels.map { topic + [$0] } } }
        var filters: [[String]] = [[]]
        for _ in 0..<3 { filters += filters.flatMap { filter in (levels + ["+"]).map { filter + [$0] } } }
        filters += filters.map { $0 + ["#"] }
        let names = Set(topics.map { $0.joined(separator: "/") }).filter { !$0.isEmpty }
        for filter in Set(filters.map { $0.joined(separator: "/") }) where !filter.isEmpty {
            let parsed = try TopicFilter(filter)
            for name in names {
                #expect(
                    try parsed.matches(TopicName(name)) == Self.isMatch(filter, name), "\(filter) against \(name)")
            }
        }
    }

    private static func isMatch(_ filter: String, _ topic: String) -> Bool {
        let filter = filter.split(separator: "/", omittingEmptySubsequences: false)
        let topic = topic.split(separator: "/", omittingEmptySubsequences: false)
        if topic[0].hasPrefix("$"), filter[0] == "+" || filter[0] == "#" { return false }
        for (index, level) in filter.enumerated() {
            if level == "#" { return topic.count >= index }
            guard index < topic.count, level == "+" || level == topic[index] else { return false }
        }
        return filter.count == topic.count
    }

    @Test("Topics that look alike but differ in bytes are different")
    func noNormalisation() throws {
        let composed = try TopicName("\u{E9}")
        let decomposed = try TopicName("e\u{301}")
        #expect(composed.rawValue == decomposed.rawValue)
        #expect(composed != decomposed)
        #expect(Set([composed, decomposed]).count == 2)
    }

    @Test("A shared subscription tells its group and its pattern")
    func share() throws {
        let filter = try TopicFilter("$share/group/a/+")
        #expect(filter.shareName == "group")
        #expect(filter.pattern == "a/+")
        #expect(filter.hasWildcard)
        #expect(try TopicFilter("a/b").shareName == nil)
    }
}
