/// The name of a topic: 1 to 65,535 bytes of UTF-8, no wildcard, no U+0000 (MQTT 5.0 section 4.7.3).
///
/// Topics are compared byte by byte, without Unicode normalisation, as the standard demands.
public struct TopicName: Sendable {
    /// The longest topic name, in bytes of UTF-8.
    public static let maximumLength = 65_535

    /// The name as written.
    public let rawValue: String

    package init(unchecked rawValue: String) { self.rawValue = rawValue }

    /// - Throws: ``MQTTError`` with code `topic-name-invalid`.
    public init(_ text: String) throws(MQTTError) {
        var text = text
        text.makeContiguousUTF8()
        try Self.check(text.utf8)
        self.rawValue = text
    }

    /// From bytes off the wire.
    ///
    /// - Throws: ``MQTTError`` with code `malformed-packet` (not UTF-8, U+0000) or `topic-name-invalid`.
    init(validating bytes: some Collection<UInt8>) throws(MQTTError) {
        try Self.check(bytes)
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw .malformed("a topic name is not well-formed UTF-8 (MQTT-1.5.4-1)")
        }
        self.rawValue = text
    }

    private static func check(_ bytes: some Collection<UInt8>) throws(MQTTError) {
        guard !bytes.isEmpty, bytes.count <= Self.maximumLength else {
            throw MQTTError(.topicNameInvalid, "a topic name has 1 to 65,535 bytes (MQTT-4.7.3-1)")
        }
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "+"), UInt8(ascii: "#"):
                throw MQTTError(.topicNameInvalid, "a topic name has no wildcards (MQTT-3.3.2-2)")
            case 0:
                throw .malformed("a topic name has no U+0000 (MQTT-1.5.4-2)")
            default:
                continue
            }
        }
    }
}

extension TopicName: Hashable {
    public static func == (a: TopicName, b: TopicName) -> Bool { a.rawValue.hasSameBytes(as: b.rawValue) }

    public func hash(into hasher: inout Hasher) { self.rawValue.hashBytes(into: &hasher) }
}

extension TopicName: CustomStringConvertible {
    public var description: String { self.rawValue }
}

extension String {
    /// Equality as MQTT means it. Swift's `==` on `String` is canonical equivalence, under which two
    /// different topics can be equal.
    package func hasSameBytes(as other: String) -> Bool {
        let same = self.utf8.withContiguousStorageIfAvailable { a in
            other.utf8.withContiguousStorageIfAvailable { b in a.count == b.count && a.elementsEqual(b) }
        }
        return (same ?? nil) ?? self.utf8.elementsEqual(other.utf8)
    }

    package func hashBytes(into hasher: inout Hasher) {
        let done: Void? = self.utf8.withContiguousStorageIfAvailable {
            hasher.combine(bytes: UnsafeRawBufferPointer($0))
        }
        if done == nil {
            for byte in self.utf8 { hasher.combine(byte) }
        }
    }
}
