/// One property of an MQTT 5.0 packet (section 2.2.2.2), with the identifier and type the standard gives it.
public enum Property: Hashable, Sendable {
    /// 0x01: `true` says that the payload is UTF-8 text.
    case payloadFormatIndicator(Bool)
    /// 0x02: seconds.
    case messageExpiryInterval(UInt32)
    /// 0x03
    case contentType(String)
    /// 0x08
    case responseTopic(TopicName)
    /// 0x09: at most 65,535 bytes.
    case correlationData([UInt8])
    /// 0x0B: 1 ... 268,435,455.
    case subscriptionIdentifier(UInt32)
    /// 0x11: seconds; `UInt32.max` means for ever.
    case sessionExpiryInterval(UInt32)
    /// 0x12
    case assignedClientIdentifier(String)
    /// 0x13: seconds.
    case serverKeepAlive(UInt16)
    /// 0x15
    case authenticationMethod(String)
    /// 0x16: at most 65,535 bytes.
    case authenticationData([UInt8])
    /// 0x17
    case requestProblemInformation(Bool)
    /// 0x18: seconds.
    case willDelayInterval(UInt32)
    /// 0x19
    case requestResponseInformation(Bool)
    /// 0x1A
    case responseInformation(String)
    /// 0x1C
    case serverReference(String)
    /// 0x1F
    case reasonString(String)
    /// 0x21: 1 ... 65,535.
    case receiveMaximum(UInt16)
    /// 0x22
    case topicAliasMaximum(UInt16)
    /// 0x23: 1 ... 65,535.
    case topicAlias(UInt16)
    /// 0x24: at most once or at least once.
    case maximumQoS(QoS)
    /// 0x25
    case retainAvailable(Bool)
    /// 0x26: the only one that may always be repeated; order is kept.
    case userProperty(name: String, value: String)
    /// 0x27: bytes of a whole packet; not 0.
    case maximumPacketSize(UInt32)
    /// 0x28
    case wildcardSubscriptionAvailable(Bool)
    /// 0x29
    case subscriptionIdentifiersAvailable(Bool)
    /// 0x2A
    case sharedSubscriptionAvailable(Bool)

    /// The property's identifier on the wire.
    public var identifier: UInt8 {
        switch self {
        case .payloadFormatIndicator: 0x01
        case .messageExpiryInterval: 0x02
        case .contentType: 0x03
        case .responseTopic: 0x08
        case .correlationData: 0x09
        case .subscriptionIdentifier: 0x0B
        case .sessionExpiryInterval: 0x11
        case .assignedClientIdentifier: 0x12
        case .serverKeepAlive: 0x13
        case .authenticationMethod: 0x15
        case .authenticationData: 0x16
        case .requestProblemInformation: 0x17
        case .willDelayInterval: 0x18
        case .requestResponseInformation: 0x19
        case .responseInformation: 0x1A
        case .serverReference: 0x1C
        case .reasonString: 0x1F
        case .receiveMaximum: 0x21
        case .topicAliasMaximum: 0x22
        case .topicAlias: 0x23
        case .maximumQoS: 0x24
        case .retainAvailable: 0x25
        case .userProperty: 0x26
        case .maximumPacketSize: 0x27
        case .wildcardSubscriptionAvailable: 0x28
        case .subscriptionIdentifiersAvailable: 0x29
        case .sharedSubscriptionAvailable: 0x2A
        }
    }
}

/// Where properties may stand, for the table of section 2.2.2.2.
struct PropertyPlace: OptionSet {
    let rawValue: UInt32

    static let connect = PropertyPlace(rawValue: 1 << 0)
    static let connAck = PropertyPlace(rawValue: 1 << 1)
    static let publish = PropertyPlace(rawValue: 1 << 2)
    static let will = PropertyPlace(rawValue: 1 << 3)
    static let acknowledgement = PropertyPlace(rawValue: 1 << 4)
    static let subscribe = PropertyPlace(rawValue: 1 << 5)
    static let subAck = PropertyPlace(rawValue: 1 << 6)
    static let unsubscribe = PropertyPlace(rawValue: 1 << 7)
    static let unsubAck = PropertyPlace(rawValue: 1 << 8)
    static let disconnect = PropertyPlace(rawValue: 1 << 9)
    static let auth = PropertyPlace(rawValue: 1 << 10)

    static let everywhere: PropertyPlace = [
        .connect, .connAck, .publish, .will, .acknowledgement, .subscribe, .subAck, .unsubscribe, .unsubAck,
        .disconnect, .auth,
    ]

    /// - Returns: where the property may stand; `nil` if there is no such property.
    static func allowed(for identifier: UInt8) -> PropertyPlace? {
        switch identifier {
        case 0x01, 0x02, 0x03, 0x08, 0x09: [.publish, .will]
        case 0x0B: [.publish, .subscribe]
        case 0x11: [.connect, .connAck, .disconnect]
        case 0x12, 0x13, 0x1A, 0x24, 0x25, 0x28, 0x29, 0x2A: .connAck
        case 0x15, 0x16: [.connect, .connAck, .auth]
        case 0x17, 0x19: .connect
        case 0x18: .will
        case 0x1C: [.connAck, .disconnect]
        case 0x1F: [.connAck, .acknowledgement, .subAck, .unsubAck, .disconnect, .auth]
        case 0x21, 0x22, 0x27: [.connect, .connAck]
        case 0x23: .publish
        case 0x26: .everywhere
        default: nil
        }
    }
}
