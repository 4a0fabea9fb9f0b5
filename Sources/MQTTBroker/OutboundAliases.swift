import MQTT
import NIOCore

/// The topic aliases of what one client of 5.0 is sent (MQTT 5.0 section 3.3.2.3.4): the first topics that come get
/// one, for as long as the connection lives. Most clients are sent few topics, and those often.
struct OutboundAliases {
    private let maximum: UInt16
    private var aliases: [TopicName: UInt16] = [:]

    /// - Parameter maximum: the client's, or less; 0 is none.
    init(maximum: UInt16) { self.maximum = maximum }

    /// Gives a message its topic's alias.
    ///
    /// - Returns: whether the client knows the alias, so that the topic may be left out.
    mutating func apply(to publish: inout Publish, maximumPacketSize: Int) throws(MQTTError) -> Bool {
        guard self.maximum > 0 else { return false }
        if let known = self.aliases[publish.topic] {
            let plain = publish
            publish.properties.append(.topicAlias(known))
            // The alias may take more than a short topic does.
            guard maximumPacketSize != .max, publish.topic.rawValue.utf8.count < Self.largestGrowth,
                try publish.encodedHeaderSize(version: .v5_0) + publish.payload.readableBytes > maximumPacketSize
            else { return true }
            publish = plain
            return false
        }
        guard self.aliases.count < Int(self.maximum) else { return false }
        if maximumPacketSize != .max {
            // What just fits without an alias is sent without.
            let size = try publish.encodedHeaderSize(version: .v5_0) + publish.payload.readableBytes
            guard size + Self.largestGrowth <= maximumPacketSize else { return false }
        }
        let alias = UInt16(self.aliases.count + 1)
        self.aliases[publish.topic] = alias
        publish.properties.append(.topicAlias(alias))
        return false
    }

    /// The property, and a byte more for each of the two lengths before it.
    private static let largestGrowth = 5
}
