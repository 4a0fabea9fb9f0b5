/// The name of a topic: 1 to 65,535 bytes of UTF-8, no wildcard, no U+0000.
public struct TopicName: Hashable, Sendable {
    public let rawValue: String

    package init(unchecked rawValue: String) { self.rawValue = rawValue }
}
