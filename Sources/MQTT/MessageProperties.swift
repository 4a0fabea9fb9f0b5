/// A name and a value that MQTT carries and does not read (MQTT 5.0 section 3.3.2.3.7). Names may be repeated.
public struct UserProperty: Hashable, Sendable {
    /// At most 65,535 bytes of UTF-8.
    public var name: String
    /// At most 65,535 bytes of UTF-8.
    public var value: String

    public init(_ name: String, _ value: String) {
        self.name = name
        self.value = value
    }
}

/// What a message may carry beside its payload (MQTT 5.0 section 3.3.2.3). 3.1.1 has no place for it.
///
/// A message without any costs nothing: the fields are views of the packet's own properties.
public struct MessageProperties: Hashable, Sendable {
    /// As they are on the wire.
    package private(set) var wire: Properties

    /// None.
    public init() { self.wire = Properties() }

    /// - Parameters:
    ///   - contentType: What the payload is, such as `application/cbor`.
    ///   - responseTopic: Where an answer is expected.
    ///   - correlationData: What the answer is to bring back; at most 65,535 bytes.
    ///   - expiry: As ``expiry``.
    ///   - userProperties: In their order.
    public init(
        contentType: String? = nil, responseTopic: TopicName? = nil, correlationData: [UInt8]? = nil,
        expiry: Duration? = nil, userProperties: [UserProperty] = []
    ) {
        self.init()
        self.contentType = contentType
        self.responseTopic = responseTopic
        self.correlationData = correlationData
        self.expiry = expiry
        self.userProperties = userProperties
    }

    /// Those of a PUBLISH.
    package init(wire: Properties) { self.wire = wire }

    /// Whether there are none.
    public var isEmpty: Bool { self.wire.isEmpty }

    /// Whether the sender says that the payload is UTF-8 text (section 3.3.2.3.2).
    public var isText: Bool {
        get { self.first { if case .payloadFormatIndicator(let value) = $0 { value } else { nil } } ?? false }
        set { self.replace(0x01, with: newValue ? .payloadFormatIndicator(true) : nil) }
    }

    /// How long the server may keep the message for somebody who is away; of a delivery, how long that still is.
    /// Whole seconds, 0 ... `UInt32.max`; others are held to that (section 3.3.2.3.3).
    public var expiry: Duration? {
        get { self.wire.messageExpiryInterval.map { .seconds(Int64($0)) } }
        set {
            self.replace(
                0x02,
                with: newValue.map {
                    .messageExpiryInterval(UInt32(min(max($0.components.seconds, 0), Int64(UInt32.max))))
                })
        }
    }

    /// What the payload is; MQTT does not read it (section 3.3.2.3.9).
    public var contentType: String? {
        get { self.first { if case .contentType(let value) = $0 { value } else { nil } } }
        set { self.replace(0x03, with: newValue.map { .contentType($0) }) }
    }

    /// Where an answer is expected (section 3.3.2.3.5).
    public var responseTopic: TopicName? {
        get { self.first { if case .responseTopic(let value) = $0 { value } else { nil } } }
        set { self.replace(0x08, with: newValue.map { .responseTopic($0) }) }
    }

    /// What an answer brings back, so that the asker knows the question; at most 65,535 bytes (section 3.3.2.3.6).
    public var correlationData: [UInt8]? {
        get { self.first { if case .correlationData(let value) = $0 { value } else { nil } } }
        set { self.replace(0x09, with: newValue.map { .correlationData($0) }) }
    }

    /// In their order (section 3.3.2.3.7).
    public var userProperties: [UserProperty] {
        get {
            self.wire.all.compactMap {
                if case .userProperty(let name, let value) = $0 { UserProperty(name, value) } else { nil }
            }
        }
        set {
            self.replace(0x26, with: nil)
            for property in newValue { self.wire.append(.userProperty(name: property.name, value: property.value)) }
        }
    }

    /// Of a delivery: the identifiers of the subscriptions it belongs to (section 3.3.2.3.8).
    public var subscriptionIdentifiers: [UInt32] { self.wire.isEmpty ? [] : self.wire.subscriptionIdentifiers }

    private func first<Value>(_ value: (Property) -> Value?) -> Value? {
        for property in self.wire.all {
            if let found = value(property) { return found }
        }
        return nil
    }

    private mutating func replace(_ identifier: UInt8, with property: Property?) {
        guard property != nil || !self.wire.isEmpty else { return }
        self.wire = self.wire.filter { $0.identifier != identifier }
        if let property { self.wire.append(property) }
    }
}
