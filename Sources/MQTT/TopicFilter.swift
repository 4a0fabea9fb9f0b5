/// What a subscription asks for: a topic name in which `+` stands for one level and a last `#` for any
/// number of them (MQTT 5.0 section 4.7), or a shared subscription `$share/<name>/<filter>` (section 4.8.2).
///
/// A filter that begins with a wildcard matches no topic that begins with `$` (MQTT-4.7.2-1).
public struct TopicFilter: Sendable {
    /// The longest filter, in bytes of UTF-8.
    public static let maximumLength = 65_535

    /// The filter as written, with `$share/<name>/` if it is shared.
    public let rawValue: String

    /// The name of the group that shares the messages, if it is a shared subscription.
    public let shareName: String?

    /// `true` if there is a `+` or `#`.
    public let hasWildcard: Bool

    /// Where in the bytes of `rawValue` the part begins that is matched with topics.
    private let start: Int

    /// - Throws: ``MQTTError`` with code `topic-filter-invalid`.
    public init(_ text: String) throws(MQTTError) {
        var text = text
        text.makeContiguousUTF8()
        let bytes = Array(text.utf8)
        guard !bytes.isEmpty, bytes.count <= Self.maximumLength, !bytes.contains(0) else {
            throw MQTTError(
                .topicFilterInvalid, "a topic filter has 1 to 65,535 bytes and no U+0000 (MQTT-4.7.3-1, 4.7.3-2)")
        }
        var start = 0
        var shareName: String?
        if bytes.starts(with: Self.sharePrefix) {
            let rest = bytes[Self.sharePrefix.count...]
            guard let slash = rest.firstIndex(of: Self.slash), slash > rest.startIndex, slash + 1 < bytes.endIndex,
                !rest[..<slash].contains(where: { $0 == Self.plus || $0 == Self.hash })
            else {
                throw MQTTError(
                    .topicFilterInvalid, "a shared subscription is $share/<name>/<filter> (MQTT-4.8.2-1, 4.8.2-2)")
            }
            start = slash + 1
            shareName = String(decoding: rest[..<slash], as: UTF8.self)
        }
        var hasWildcard = false
        for index in start..<bytes.count where bytes[index] == Self.plus || bytes[index] == Self.hash {
            hasWildcard = true
            let startsLevel = index == start || bytes[index - 1] == Self.slash
            let endsLevel = index + 1 == bytes.count || bytes[index + 1] == Self.slash
            guard startsLevel, endsLevel, bytes[index] == Self.plus || index + 1 == bytes.count else {
                throw MQTTError(
                    .topicFilterInvalid,
                    "'+' stands for a whole level and '#' for the last ones (MQTT-4.7.1-1, 4.7.1-2)")
            }
        }
        self.rawValue = text
        self.shareName = shareName
        self.hasWildcard = hasWildcard
        self.start = start
    }

    /// The filter that matches exactly one topic.
    public init(_ topic: TopicName) throws(MQTTError) {
        try self.init(topic.rawValue)
    }

    /// The filter without `$share/<name>/`.
    public var pattern: Substring { Substring(self.rawValue.utf8.dropFirst(self.start)) }

    /// Whether a message on this topic belongs to the subscription.
    public func matches(_ topic: TopicName) -> Bool {
        let answer = self.rawValue.utf8.withContiguousStorageIfAvailable { filter in
            topic.rawValue.utf8.withContiguousStorageIfAvailable { topic in
                Self.matches(filter: filter[self.start...], topic: topic)
            }
        }
        return (answer ?? nil)
            ?? Self.matches(filter: Array(self.rawValue.utf8)[self.start...], topic: Array(topic.rawValue.utf8))
    }

    /// Whether every topic that `other` can match is matched by this filter too.
    public func covers(_ other: TopicFilter) -> Bool {
        Self.covers(
            outer: Array(self.rawValue.utf8)[self.start...], inner: Array(other.rawValue.utf8)[other.start...])
    }

    private static let sharePrefix = Array("$share/".utf8)
    private static let slash = UInt8(ascii: "/")
    private static let plus = UInt8(ascii: "+")
    private static let hash = UInt8(ascii: "#")
    private static let dollar = UInt8(ascii: "$")

    private static func matches<Filter, Topic>(filter: Filter, topic: Topic) -> Bool
    where
        Filter: RandomAccessCollection<UInt8>, Filter.Index == Int,
        Topic: RandomAccessCollection<UInt8>, Topic.Index == Int
    {
        var f = filter.startIndex
        var t = topic.startIndex
        if topic[t] == Self.dollar, filter[f] == Self.plus || filter[f] == Self.hash { return false }
        while f < filter.endIndex {
            switch filter[f] {
            case Self.hash:
                return true
            case Self.plus:
                f += 1
                while t < topic.endIndex, topic[t] != Self.slash { t += 1 }
            default:
                while f < filter.endIndex, filter[f] != Self.slash {
                    guard t < topic.endIndex, topic[t] == filter[f] else { return false }
                    f += 1
                    t += 1
                }
                guard t == topic.endIndex || topic[t] == Self.slash else { return false }
            }
            if t == topic.endIndex {
                // `a/#` matches `a` as well: the parent level is included (section 4.7.1.2).
                return f == filter.endIndex
                    || (f + 2 == filter.endIndex && filter[f] == Self.slash && filter[f + 1] == Self.hash)
            }
            guard f < filter.endIndex else { return false }
            f += 1
            t += 1
            if f == filter.endIndex { return t == topic.endIndex }
        }
        return t == topic.endIndex
    }

    private static func covers(outer: ArraySlice<UInt8>, inner: ArraySlice<UInt8>) -> Bool {
        let outer = outer.split(separator: Self.slash, omittingEmptySubsequences: false)
        let inner = inner.split(separator: Self.slash, omittingEmptySubsequences: false)
        // The standard's wildcards: `[+]` and `[#]` as whole levels.
        func isLevel(_ level: ArraySlice<UInt8>, _ wildcard: UInt8) -> Bool {
            level.count == 1 && level.first == wildcard
        }
        if let first = outer.first, isLevel(first, Self.plus) || isLevel(first, Self.hash),
            inner.first?.first == Self.dollar
        {
            return false
        }
        for index in outer.indices {
            if isLevel(outer[index], Self.hash) { return true }
            guard index < inner.endIndex, !isLevel(inner[index], Self.hash) else {
                return false
            }
            if isLevel(outer[index], Self.plus) { continue }
            guard !isLevel(inner[index], Self.plus), inner[index] == outer[index] else { return false }
        }
        return outer.count == inner.count
    }
}

extension TopicFilter: Hashable {
    public static func == (a: TopicFilter, b: TopicFilter) -> Bool { a.rawValue.hasSameBytes(as: b.rawValue) }

    public func hash(into hasher: inout Hasher) { self.rawValue.hashBytes(into: &hasher) }
}

extension TopicFilter: CustomStringConvertible {
    public var description: String { self.rawValue }
}
