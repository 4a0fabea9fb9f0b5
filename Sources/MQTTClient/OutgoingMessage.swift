public import MQTT
public import NIOCore

/// A message of ours for the server.
public struct OutgoingMessage: Hashable, Sendable {
    public var topic: TopicName
    public var payload: ByteBuffer
    public var qos: QoS
    public var retain: Bool
    /// What goes beside the payload. Only 5.0: in 3.1.1 a message with properties is refused.
    public var properties: MessageProperties

    public init(
        topic: TopicName, payload: ByteBuffer, qos: QoS = .atLeastOnce, retain: Bool = false,
        properties: MessageProperties = MessageProperties()
    ) {
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.properties = properties
    }

    /// With a text as payload.
    ///
    /// - Throws: `MQTTError` with code `topic-name-invalid` or `malformed-packet` if the topic is none.
    public init(
        topic: String, text: String, qos: QoS = .atLeastOnce, retain: Bool = false,
        properties: MessageProperties = MessageProperties()
    ) throws(MQTTError) {
        self.init(
            topic: try TopicName(topic), payload: ByteBuffer(string: text), qos: qos, retain: retain,
            properties: properties)
    }

    /// What was published, to be published anew.
    init(_ publish: Publish) {
        self.init(
            topic: publish.topic, payload: publish.payload, qos: publish.qos, retain: publish.retain,
            properties: MessageProperties(wire: publish.properties))
    }

    /// The packet that carries it.
    func publish(packetID: UInt16) -> Publish {
        Publish(
            topic: self.topic, payload: self.payload, qos: self.qos, retain: self.retain, packetID: packetID,
            properties: self.properties.wire)
    }
}
