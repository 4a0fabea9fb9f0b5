package import Identity
package import MQTT
package import NIOCore

/// A message on its way, shared by everyone it goes to. Stays on the broker's event loop.
package final class Message {
    package let topic: TopicName
    package private(set) var payload: ByteBuffer
    /// What is passed on: without topic alias and subscription identifiers.
    package let properties: Properties
    package let sender: PeerIdentity?
    /// The millisecond of the broker's clock from which it is no longer delivered.
    package let expiry: UInt64?
    /// What it counts in a queue, in bytes: topic, properties, payload, and a bit for its own. What is delivered at once
    /// is not measured.
    private(set) lazy var size = self.measure()

    /// Its number in the store; 0 if it has none yet.
    var number: UInt64 = 0

    private var isKept: Bool

    /// - Parameters:
    ///   - now: Unix milliseconds.
    ///   - isKept: The payload's memory is the message's own, not a part of a receive buffer.
    package init(_ publish: Publish, sender: PeerIdentity?, now: UInt64, isKept: Bool = false) {
        self.topic = publish.topic
        self.payload = publish.payload
        self.sender = sender
        self.isKept = isKept
        if publish.properties.isEmpty {
            self.properties = publish.properties
            self.expiry = nil
        } else {
            self.properties = publish.properties.filter {
                switch $0 {
                case .topicAlias, .subscriptionIdentifier, .willDelayInterval: false
                default: true
                }
            }
            self.expiry = publish.properties.messageExpiryInterval.map { now + UInt64($0) * 1_000 }
        }
    }

    /// As a former process stored it.
    init(_ stored: StoredMessage) {
        self.topic = stored.topic
        self.payload = stored.payload
        self.properties = stored.properties
        self.sender = stored.sender
        self.expiry = stored.expiry.map(UnixClock.milliseconds)
        self.number = stored.number
        self.isKept = true
    }

    private func measure() -> Int {
        var size = self.topic.rawValue.utf8.count + self.payload.readableBytes + 64
        if !self.properties.isEmpty {
            let header = Publish(topic: self.topic, payload: ByteBuffer(), properties: self.properties)
            // What cannot be encoded is never sent.
            size += (try? header.encodedHeaderSize(version: .v5_0)) ?? 0
        }
        return size
    }

    /// Whether it is too late to begin to deliver it.
    func hasExpired(_ now: UInt64) -> Bool { self.expiry.map { $0 <= now } ?? false }

    /// Makes the payload the message's own, before it outlives the read that brought it: a slice would keep
    /// a whole receive buffer alive.
    package func keep() {
        guard !self.isKept else { return }
        self.isKept = true
        var copy = ByteBuffer()
        if self.payload.readableBytes > 0 {
            copy.reserveCapacity(self.payload.readableBytes)
            copy.writeImmutableBuffer(self.payload)
        }
        self.payload = copy
    }

    /// The packet that delivers it (MQTT 5.0 section 3.3.2.3.3: the expiry interval is what is left of it).
    package func publish(
        qos: QoS, retain: Bool, isDuplicate: Bool, packetID: UInt16, subscriptionIDs: [UInt32], now: UInt64
    ) -> Publish {
        var properties = self.properties
        if let expiry = self.expiry {
            properties = Properties(
                properties.all.map {
                    if case .messageExpiryInterval = $0 {
                        return .messageExpiryInterval(
                            UInt32(clamping: expiry > now ? UnixClock.seconds(expiry - now) : 0))
                    }
                    return $0
                })
        }
        for id in subscriptionIDs { properties.append(.subscriptionIdentifier(id)) }
        return Publish(
            topic: self.topic, payload: self.payload, qos: qos, retain: retain, isDuplicate: isDuplicate,
            packetID: packetID, properties: properties)
    }
}
