public import NIOCore

/// A control packet of MQTT 3.1.1 or 5.0 (chapter 3 of both standards).
///
/// The values are those of 5.0. In 3.1.1 properties are not written and reason codes are translated or
/// left out, as the packet has room.
public enum Packet: Hashable, Sendable {
    indirect case connect(Connect)
    case connAck(ConnAck)
    case publish(Publish)
    case pubAck(PubAck)
    case pubRec(PubRec)
    case pubRel(PubRel)
    case pubComp(PubComp)
    case subscribe(Subscribe)
    case subAck(SubAck)
    case unsubscribe(Unsubscribe)
    case unsubAck(UnsubAck)
    case pingReq
    case pingResp
    case disconnect(Disconnect)
    case auth(Auth)
}

/// The four bits that say which packet it is.
enum PacketType: UInt8 {
    case connect = 1
    case connAck, publish, pubAck, pubRec, pubRel, pubComp, subscribe, subAck, unsubscribe, unsubAck, pingReq
    case pingResp, disconnect, auth
}

/// A client asks to be let in (section 3.1).
public struct Connect: Hashable, Sendable {
    public var version: ProtocolVersion
    /// May be empty: the server then assigns one.
    public var clientID: String
    /// 3.1.1: Clean Session.
    public var cleanStart: Bool
    /// Seconds; 0 means none.
    public var keepAlive: UInt16
    public var will: Will?
    public var username: String?
    /// At most 65,535 bytes.
    public var password: [UInt8]?
    public var properties: Properties

    public init(
        version: ProtocolVersion, clientID: String, cleanStart: Bool = true, keepAlive: UInt16 = 60, will: Will? = nil,
        username: String? = nil, password: [UInt8]? = nil, properties: Properties = []
    ) {
        self.version = version
        self.clientID = clientID
        self.cleanStart = cleanStart
        self.keepAlive = keepAlive
        self.will = will
        self.username = username
        self.password = password
        self.properties = properties
    }
}

/// What the server publishes for a client that is gone (section 3.1.2.5).
public struct Will: Hashable, Sendable {
    public var topic: TopicName
    /// At most 65,535 bytes.
    public var payload: [UInt8]
    public var qos: QoS
    public var retain: Bool
    public var properties: Properties

    public init(topic: TopicName, payload: [UInt8], qos: QoS, retain: Bool, properties: Properties = []) {
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.properties = properties
    }
}

/// The answer to CONNECT (section 3.2).
public struct ConnAck: Hashable, Sendable {
    public var sessionPresent: Bool
    public var reasonCode: ReasonCode
    public var properties: Properties

    public init(sessionPresent: Bool, reasonCode: ReasonCode, properties: Properties = []) {
        self.sessionPresent = sessionPresent
        self.reasonCode = reasonCode
        self.properties = properties
    }
}

/// An application message (section 3.3).
public struct Publish: Hashable, Sendable {
    /// Topic aliases are resolved by the decoder; the property stays.
    public var topic: TopicName
    public var payload: ByteBuffer
    public var qos: QoS
    public var retain: Bool
    /// DUP: sent before, perhaps received before.
    public var isDuplicate: Bool
    /// Not 0 if and only if `qos` is above 0.
    public var packetID: UInt16
    public var properties: Properties

    public init(
        topic: TopicName, payload: ByteBuffer, qos: QoS = .atMostOnce, retain: Bool = false, isDuplicate: Bool = false,
        packetID: UInt16 = 0, properties: Properties = []
    ) {
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.isDuplicate = isDuplicate
        self.packetID = packetID
        self.properties = properties
    }
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP, which look alike (sections 3.4 to 3.7).
public struct Acknowledgement: Hashable, Sendable {
    /// Not 0.
    public var packetID: UInt16
    public var reasonCode: ReasonCode
    public var properties: Properties

    public init(packetID: UInt16, reasonCode: ReasonCode = .success, properties: Properties = []) {
        self.packetID = packetID
        self.reasonCode = reasonCode
        self.properties = properties
    }
}

/// Answers a PUBLISH of QoS 1.
public typealias PubAck = Acknowledgement
/// First answer to a PUBLISH of QoS 2.
public typealias PubRec = Acknowledgement
/// Answers PUBREC.
public typealias PubRel = Acknowledgement
/// Answers PUBREL.
public typealias PubComp = Acknowledgement

/// Asks for messages (section 3.8).
public struct Subscribe: Hashable, Sendable {
    /// Not 0.
    public var packetID: UInt16
    /// At least one.
    public var subscriptions: [Subscription]
    public var properties: Properties

    public init(packetID: UInt16, subscriptions: [Subscription], properties: Properties = []) {
        self.packetID = packetID
        self.subscriptions = subscriptions
        self.properties = properties
    }
}

/// One line of a SUBSCRIBE, with its options (section 3.8.3.1; 3.1.1 has only the QoS).
public struct Subscription: Hashable, Sendable {
    /// When the server sends the retained messages.
    public enum RetainHandling: UInt8, Hashable, Sendable, CaseIterable {
        case send = 0
        case sendIfNew = 1
        case doNotSend = 2
    }

    public var filter: TopicFilter
    public var maximumQoS: QoS
    /// Not to me what I published myself.
    public var noLocal: Bool
    /// Keep the RETAIN flag of passed-on messages as the publisher set it.
    public var retainAsPublished: Bool
    public var retainHandling: RetainHandling

    public init(
        filter: TopicFilter, maximumQoS: QoS, noLocal: Bool = false, retainAsPublished: Bool = false,
        retainHandling: RetainHandling = .send
    ) {
        self.filter = filter
        self.maximumQoS = maximumQoS
        self.noLocal = noLocal
        self.retainAsPublished = retainAsPublished
        self.retainHandling = retainHandling
    }
}

/// The answer to SUBSCRIBE: a reason code for each line (section 3.9).
public struct SubAck: Hashable, Sendable {
    public var packetID: UInt16
    public var reasonCodes: [ReasonCode]
    public var properties: Properties

    public init(packetID: UInt16, reasonCodes: [ReasonCode], properties: Properties = []) {
        self.packetID = packetID
        self.reasonCodes = reasonCodes
        self.properties = properties
    }
}

/// Wants no more of it (section 3.10).
public struct Unsubscribe: Hashable, Sendable {
    public var packetID: UInt16
    /// At least one.
    public var filters: [TopicFilter]
    public var properties: Properties

    public init(packetID: UInt16, filters: [TopicFilter], properties: Properties = []) {
        self.packetID = packetID
        self.filters = filters
        self.properties = properties
    }
}

/// The answer to UNSUBSCRIBE: a reason code for each filter; none in 3.1.1 (section 3.11).
public struct UnsubAck: Hashable, Sendable {
    public var packetID: UInt16
    public var reasonCodes: [ReasonCode]
    public var properties: Properties

    public init(packetID: UInt16, reasonCodes: [ReasonCode] = [], properties: Properties = []) {
        self.packetID = packetID
        self.reasonCodes = reasonCodes
        self.properties = properties
    }
}

/// The last packet of a connection (section 3.14). 3.1.1: only from the client, without a reason.
public struct Disconnect: Hashable, Sendable {
    public var reasonCode: ReasonCode
    public var properties: Properties

    public init(reasonCode: ReasonCode = .normalDisconnection, properties: Properties = []) {
        self.reasonCode = reasonCode
        self.properties = properties
    }
}

/// A step of extended authentication (section 3.15). Not in 3.1.1.
public struct Auth: Hashable, Sendable {
    public var reasonCode: ReasonCode
    public var properties: Properties

    public init(reasonCode: ReasonCode = .success, properties: Properties = []) {
        self.reasonCode = reasonCode
        self.properties = properties
    }
}
