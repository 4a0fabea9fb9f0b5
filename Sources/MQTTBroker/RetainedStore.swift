import MQTT
import NIOCore

/// The last retained message of each topic (MQTT 5.0 section 3.3.1.3), within bounds.
struct RetainedStore {
    struct Entry {
        var message: Message
        var qos: QoS
    }

    private var entries: [TopicName: Entry] = [:]
    private var topics = TopicTree()
    private var bytes = 0

    /// Keeps a message; an empty payload removes what is there.
    ///
    /// - Returns: `false` if there is no room; then nothing has changed.
    mutating func store(_ message: Message, qos: QoS, limits: BrokerLimits) -> Bool {
        let size = message.size
        let old = self.entries[message.topic]?.message.size
        guard message.payload.readableBytes > 0 else {
            self.remove(message.topic)
            return true
        }
        guard self.entries.count - (old == nil ? 0 : 1) < limits.maximumRetainedMessages,
            self.bytes - (old ?? 0) + size <= limits.maximumRetainedBytes
        else { return false }
        message.keep()
        self.put(message, qos)
        return true
    }

    func matching(_ filter: TopicFilter, now: UInt64) -> [Entry] {
        if !filter.hasWildcard {
            guard let topic = try? TopicName(String(filter.pattern)), let entry = self.entries[topic],
                !entry.message.hasExpired(now)
            else { return [] }
            return [entry]
        }
        return self.topics.matching(filter).compactMap { self.entries[$0] }.filter { !$0.message.hasExpired(now) }
    }

    /// Takes up one that a former process stored, whatever the limits are now.
    mutating func restore(_ message: Message, qos: QoS) {
        self.put(message, qos)
    }

    private mutating func put(_ message: Message, _ qos: QoS) {
        if let old = self.entries.updateValue(Entry(message: message, qos: qos), forKey: message.topic) {
            self.bytes -= old.message.size
        } else {
            self.topics.insert(message.topic)
        }
        self.bytes += message.size
    }

    private mutating func remove(_ topic: TopicName) {
        guard let old = self.entries.removeValue(forKey: topic) else { return }
        self.bytes -= old.message.size
        self.topics.remove(topic)
    }

    func contains(_ topic: TopicName) -> Bool { self.entries[topic] != nil }

    /// - Returns: the topics that have none any more.
    mutating func removeExpired(now: UInt64) -> [TopicName] {
        var removed: [TopicName] = []
        for (topic, entry) in self.entries where entry.message.hasExpired(now) { removed.append(topic) }
        for topic in removed { self.remove(topic) }
        return removed
    }
}
