public import MQTT
public import NIOCore

/// A message of ours for the server.
public struct OutgoingMessage: Hashable, Sendable {
    public var topic: TopicName
    public var payload: ByteBuffer
    /// QoS 2 is not offered.
    public var qos: QoS
    public var retain: Bool

    public init(topic: TopicName, payload: ByteBuffer, qos: QoS = .atLeastOnce, retain: Bool = false) {
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
    }
}
