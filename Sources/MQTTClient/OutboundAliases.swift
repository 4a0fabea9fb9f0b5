import MQTT

/// Numbers for topic names that come often (MQTT 5.0 section 3.3.2.3.4), first come, first served: on each
/// connection the first topics get one, as many as the server allows.
struct OutboundAliases: Sendable {
    let maximum: UInt16
    private var aliases: [TopicName: UInt16] = [:]

    init(maximum: UInt16) { self.maximum = maximum }

    /// - Returns: The message as it is to be sent: unchanged, with a new alias, or with an alias in place of its topic.
    mutating func apply(to publish: Publish, maximumPacketSize: UInt32?) -> Publish {
        var result = publish
        if let alias = self.aliases[publish.topic] {
            result.properties.append(.topicAlias(alias))
            result.topic = TopicName(unchecked: "")
            // It may take more than a short topic does.
            guard publish.topic.rawValue.utf8.count < 5, let maximumPacketSize,
                let size = try? Packet.publish(result).encodedSize(version: .v5_0), size > Int(maximumPacketSize)
            else { return result }
            return publish
        }
        guard self.aliases.count < Int(self.maximum) else { return publish }
        let alias = UInt16(self.aliases.count + 1)
        result.properties.append(.topicAlias(alias))
        // The alias makes this one packet larger, which must not be what makes it too large.
        guard let size = try? Packet.publish(result).encodedSize(version: .v5_0),
            size <= maximumPacketSize.map(Int.init) ?? .max
        else { return publish }
        self.aliases[publish.topic] = alias
        return result
    }
}
