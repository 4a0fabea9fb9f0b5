// The fields of a packet's body, each with the limits of MQTT 3.1.1 and 5.0 chapters 1 to 3.

import NIOCore

/// Reads one packet's body. Every read is bounded by the body: it never asks for more bytes.
struct PacketReader {
    private var bytes: ByteBuffer
    private var version: ProtocolVersion
    /// What a CONNECT says, as soon as it was read.
    private(set) var connectVersion: ProtocolVersion?

    init(bytes: ByteBuffer, version: ProtocolVersion) {
        self.bytes = bytes
        self.version = version
    }

    var isAtEnd: Bool { self.bytes.readableBytes == 0 }

    /// What is left, as a buffer of its own that shares its memory.
    func rest() -> ByteBuffer { self.bytes.slice() }

    // MARK: Data types (section 1.5)

    mutating func byte() throws(MQTTError) -> UInt8 {
        guard let value = self.bytes.readInteger(as: UInt8.self) else { throw Self.endsEarly }
        return value
    }

    mutating func short() throws(MQTTError) -> UInt16 {
        guard let value = self.bytes.readInteger(as: UInt16.self) else { throw Self.endsEarly }
        return value
    }

    mutating func long() throws(MQTTError) -> UInt32 {
        guard let value = self.bytes.readInteger(as: UInt32.self) else { throw Self.endsEarly }
        return value
    }

    mutating func slice(_ length: Int) throws(MQTTError) -> ByteBuffer {
        guard let value = self.bytes.readSlice(length: length) else { throw Self.endsEarly }
        return value
    }

    mutating func variableByteInteger() throws(MQTTError) -> Int {
        var value = 0
        for index in 0..<4 {
            let byte = try self.byte()
            value |= Int(byte & 0x7F) << (7 * index)
            if byte & 0x80 == 0 {
                guard byte != 0 || index == 0 else {
                    throw .malformed("a length has more bytes than it needs (MQTT-1.5.5-1)")
                }
                return value
            }
        }
        throw .malformed("a length has more than 4 bytes (section 1.5.5)")
    }

    mutating func string() throws(MQTTError) -> String {
        let bytes = try self.slice(Int(try self.short()))
        guard !bytes.readableBytesView.contains(0) else {
            throw .malformed("a string has U+0000 (MQTT-1.5.4-2)")
        }
        guard let text = String(validating: bytes.readableBytesView, as: UTF8.self) else {
            throw .malformed("a string is not well-formed UTF-8 (MQTT-1.5.4-1)")
        }
        return text
    }

    mutating func binary() throws(MQTTError) -> [UInt8] {
        Array(try self.slice(Int(try self.short())).readableBytesView)
    }

    mutating func topicName() throws(MQTTError) -> TopicName {
        try TopicName(validating: try self.slice(Int(try self.short())).readableBytesView)
    }

    mutating func topicFilter() throws(MQTTError) -> TopicFilter {
        try TopicFilter(try self.string())
    }

    mutating func packetID() throws(MQTTError) -> UInt16 {
        let id = try self.short()
        guard id != 0 else { throw .protocolError("a packet identifier is 0 (MQTT-2.2.1-3)") }
        return id
    }

    mutating func reasonCode(_ allowed: Set<UInt8>) throws(MQTTError) -> ReasonCode {
        let code = ReasonCode(rawValue: try self.byte())
        guard allowed.contains(code.rawValue) else {
            throw .malformed("reason code \(code) does not belong in this packet (section 2.4)")
        }
        return code
    }

    private static let endsEarly = MQTTError.malformed("a packet ends in the middle of a field")

    private static func tooMany(_ what: String) -> MQTTError {
        MQTTError(.packetTooLarge, "a packet has more than \(packetItemLimit) \(what)")
    }

    // MARK: Properties (section 2.2.2)

    mutating func properties(_ place: PropertyPlace) throws(MQTTError) -> Properties {
        guard self.version == .v5_0 else { return Properties() }
        let length = try self.variableByteInteger()
        guard length > 0 else { return Properties() }
        var inner = PacketReader(bytes: try self.slice(length), version: self.version)
        var seen: UInt64 = 0
        var all: [Property] = []
        var userProperties = 0
        while !inner.isAtEnd {
            let identifier = try inner.byte()
            guard let allowed = PropertyPlace.allowed(for: identifier) else {
                throw .malformed("there is no property \(identifier) (section 2.2.2.2)")
            }
            guard allowed.contains(place) else {
                throw .malformed("property \(identifier) does not belong in this packet (section 2.2.2.2)")
            }
            let bit: UInt64 = 1 << UInt64(identifier)
            guard seen & bit == 0 || identifier == 0x26 || (identifier == 0x0B && place == .publish) else {
                throw .protocolError("property \(identifier) stands twice (section 2.2.2.2)")
            }
            seen |= bit
            // The others come once, but for the subscription identifiers that a server adds.
            if identifier == 0x26 {
                guard userProperties < packetItemLimit else { throw Self.tooMany("user properties") }
                userProperties += 1
            } else {
                guard all.count - userProperties < packetItemLimit else { throw Self.tooMany("properties") }
            }
            all.append(try inner.property(identifier))
        }
        guard seen & (1 << 0x16) == 0 || seen & (1 << 0x15) != 0 else {
            throw .protocolError("authentication data comes without a method (section 3.1.2.11.10)")
        }
        return Properties(all)
    }

    private mutating func property(_ identifier: UInt8) throws(MQTTError) -> Property {
        switch identifier {
        case 0x01: .payloadFormatIndicator(try self.flag())
        case 0x02: .messageExpiryInterval(try self.long())
        case 0x03: .contentType(try self.string())
        case 0x08: .responseTopic(try self.topicName())
        case 0x09: .correlationData(try self.binary())
        case 0x0B: .subscriptionIdentifier(UInt32(try self.notZero(try self.variableByteInteger())))
        case 0x11: .sessionExpiryInterval(try self.long())
        case 0x12: .assignedClientIdentifier(try self.string())
        case 0x13: .serverKeepAlive(try self.short())
        case 0x15: .authenticationMethod(try self.string())
        case 0x16: .authenticationData(try self.binary())
        case 0x17: .requestProblemInformation(try self.flag())
        case 0x18: .willDelayInterval(try self.long())
        case 0x19: .requestResponseInformation(try self.flag())
        case 0x1A: .responseInformation(try self.string())
        case 0x1C: .serverReference(try self.string())
        case 0x1F: .reasonString(try self.string())
        case 0x21: .receiveMaximum(try self.notZero(try self.short()))
        case 0x22: .topicAliasMaximum(try self.short())
        case 0x23: .topicAlias(try self.alias())
        case 0x24: .maximumQoS(try self.maximumQoS())
        case 0x25: .retainAvailable(try self.flag())
        case 0x26: .userProperty(name: try self.string(), value: try self.string())
        case 0x27: .maximumPacketSize(try self.notZero(try self.long()))
        case 0x28: .wildcardSubscriptionAvailable(try self.flag())
        case 0x29: .subscriptionIdentifiersAvailable(try self.flag())
        case 0x2A: .sharedSubscriptionAvailable(try self.flag())
        default: throw .malformed("there is no property \(identifier) (section 2.2.2.2)")
        }
    }

    private mutating func flag() throws(MQTTError) -> Bool {
        switch try self.byte() {
        case 0: return false
        case 1: return true
        default: throw .protocolError("a property that is 0 or 1 is neither")
        }
    }

    private mutating func maximumQoS() throws(MQTTError) -> QoS {
        guard let qos = QoS(rawValue: try self.byte()), qos != .exactlyOnce else {
            throw .protocolError("Maximum QoS is neither 0 nor 1 (section 3.2.2.3.4)")
        }
        return qos
    }

    private mutating func alias() throws(MQTTError) -> UInt16 {
        let alias = try self.short()
        guard alias != 0 else { throw MQTTError(.topicAliasInvalid, "a topic alias is 0 (MQTT-3.3.2-8)") }
        return alias
    }

    private func notZero<Value: BinaryInteger>(_ value: Value) throws(MQTTError) -> Value {
        guard value != 0 else { throw .protocolError("a property that may not be 0 is") }
        return value
    }

    // MARK: Packets (chapter 3)

    /// Section 3.1.
    mutating func connect() throws(MQTTError) -> Connect {
        let name = try self.string()
        let level = try self.byte()
        guard name == "MQTT", let version = ProtocolVersion(rawValue: level) else {
            // 5.0 and whatever comes behind it (the highest bit is a bridge's of 3.1.1) are answered as 5.0 answers.
            if 5...0x7F ~= level { self.connectVersion = .v5_0 }
            throw MQTTError(.unsupportedVersion, "only MQTT 3.1.1 and 5.0 are spoken here (MQTT-3.1.2-1, 3.1.2-2)")
        }
        self.version = version
        self.connectVersion = version
        let flags = try self.byte()
        guard flags & 0x01 == 0 else { throw .malformed("CONNECT's reserved flag is set (MQTT-3.1.2-3)") }
        let hasWill = flags & 0x04 != 0
        guard let willQoS = QoS(rawValue: flags >> 3 & 0x03) else {
            throw .malformed("CONNECT's will has both QoS bits set (MQTT-3.1.2-12)")
        }
        guard hasWill || flags & 0x38 == 0 else {
            throw .malformed("CONNECT has flags for a will but no will (MQTT-3.1.2-11, 3.1.2-13)")
        }
        let hasUsername = flags & 0x80 != 0
        let hasPassword = flags & 0x40 != 0
        guard version == .v5_0 || hasUsername || !hasPassword else {
            throw .malformed("CONNECT has a password without a user name (MQTT-3.1.2-22 of 3.1.1)")
        }
        let keepAlive = try self.short()
        let properties = try self.properties(.connect)
        let clientID = try self.string()
        var will: Will?
        if hasWill {
            let willProperties = try self.properties(.will)
            let topic = try self.topicName()
            will = Will(
                topic: topic, payload: try self.binary(), qos: willQoS, retain: flags & 0x20 != 0,
                properties: willProperties)
        }
        return Connect(
            version: version, clientID: clientID, cleanStart: flags & 0x02 != 0, keepAlive: keepAlive, will: will,
            username: hasUsername ? try self.string() : nil, password: hasPassword ? try self.binary() : nil,
            properties: properties)
    }

    /// Section 3.2.
    mutating func connAck() throws(MQTTError) -> ConnAck {
        let flags = try self.byte()
        guard flags & 0xFE == 0 else { throw .malformed("CONNACK's reserved flags are set (MQTT-3.2.2-1)") }
        let code: ReasonCode
        if self.version == .v5_0 {
            code = try self.reasonCode(ReasonCodes.connAck)
        } else {
            let number = Int(try self.byte())
            guard number < ReasonCodes.connectReturnCodes.count else {
                throw .malformed("CONNACK return code \(number) is reserved (3.1.1 table 3.1)")
            }
            code = ReasonCodes.connectReturnCodes[number]
        }
        guard flags == 0 || code == .success else {
            throw .protocolError("CONNACK refuses and yet says a session is present (MQTT-3.2.2-6)")
        }
        return ConnAck(sessionPresent: flags == 1, reasonCode: code, properties: try self.properties(.connAck))
    }

    /// Sections 3.4 to 3.7: what is left out at the end means success and no properties.
    mutating func acknowledgement(_ codes: Set<UInt8>) throws(MQTTError) -> Acknowledgement {
        let packetID = try self.packetID()
        guard self.version == .v5_0, !self.isAtEnd else { return Acknowledgement(packetID: packetID) }
        let code = try self.reasonCode(codes)
        let properties = self.isAtEnd ? Properties() : try self.properties(.acknowledgement)
        return Acknowledgement(packetID: packetID, reasonCode: code, properties: properties)
    }

    /// Section 3.8.
    mutating func subscribe() throws(MQTTError) -> Subscribe {
        let packetID = try self.packetID()
        let properties = try self.properties(.subscribe)
        guard !self.isAtEnd else { throw .protocolError("a SUBSCRIBE asks for nothing (MQTT-3.8.3-2)") }
        var subscriptions: [Subscription] = []
        repeat {
            guard subscriptions.count < packetItemLimit else { throw Self.tooMany("filters") }
            let filter = try self.topicFilter()
            subscriptions.append(try self.subscription(filter, options: try self.byte()))
        } while !self.isAtEnd
        return Subscribe(packetID: packetID, subscriptions: subscriptions, properties: properties)
    }

    private func subscription(_ filter: TopicFilter, options: UInt8) throws(MQTTError) -> Subscription {
        let reserved: UInt8 = self.version == .v5_0 ? 0xC0 : 0xFC
        guard options & reserved == 0 else {
            throw .malformed("subscription options have reserved bits (MQTT-3.8.3-5)")
        }
        guard let qos = QoS(rawValue: options & 0x03),
            let handling = Subscription.RetainHandling(rawValue: options >> 4 & 0x03)
        else {
            throw .protocolError("a subscription's QoS or Retain Handling is 3 (section 3.8.3.1)")
        }
        guard filter.shareName == nil || options & 0x04 == 0 else {
            throw .protocolError("No Local is set on a shared subscription (MQTT-3.8.3-4)")
        }
        return Subscription(
            filter: filter, maximumQoS: qos, noLocal: options & 0x04 != 0, retainAsPublished: options & 0x08 != 0,
            retainHandling: handling)
    }

    /// Section 3.9.
    mutating func subAck() throws(MQTTError) -> SubAck {
        let packetID = try self.packetID()
        let properties = try self.properties(.subAck)
        let codes = self.version == .v5_0 ? ReasonCodes.subAck : ReasonCodes.subAck3
        var reasonCodes: [ReasonCode] = []
        repeat {
            reasonCodes.append(try self.reasonCode(codes))
        } while !self.isAtEnd
        return SubAck(packetID: packetID, reasonCodes: reasonCodes, properties: properties)
    }

    /// Section 3.10.
    mutating func unsubscribe() throws(MQTTError) -> Unsubscribe {
        let packetID = try self.packetID()
        let properties = try self.properties(.unsubscribe)
        guard !self.isAtEnd else { throw .protocolError("an UNSUBSCRIBE names nothing (MQTT-3.10.3-2)") }
        var filters: [TopicFilter] = []
        repeat {
            guard filters.count < packetItemLimit else { throw Self.tooMany("filters") }
            filters.append(try self.topicFilter())
        } while !self.isAtEnd
        return Unsubscribe(packetID: packetID, filters: filters, properties: properties)
    }

    /// Section 3.11.
    mutating func unsubAck() throws(MQTTError) -> UnsubAck {
        let packetID = try self.packetID()
        guard self.version == .v5_0 else { return UnsubAck(packetID: packetID) }
        let properties = try self.properties(.unsubAck)
        var reasonCodes: [ReasonCode] = []
        repeat {
            reasonCodes.append(try self.reasonCode(ReasonCodes.unsubAck))
        } while !self.isAtEnd
        return UnsubAck(packetID: packetID, reasonCodes: reasonCodes, properties: properties)
    }

    /// Section 3.14.
    mutating func disconnect(from sender: Endpoint) throws(MQTTError) -> Disconnect {
        guard self.version == .v5_0, !self.isAtEnd else { return Disconnect() }
        let code = try self.reasonCode(
            sender == .client ? ReasonCodes.disconnectFromClient : ReasonCodes.disconnectFromServer)
        let properties = self.isAtEnd ? Properties() : try self.properties(.disconnect)
        for property in properties.all {
            switch property {
            case .sessionExpiryInterval where sender == .server:
                throw .protocolError("a server sends no Session Expiry Interval in DISCONNECT (MQTT-3.14.2-2)")
            case .serverReference where sender == .client:
                throw .protocolError("a client sends no Server Reference (section 3.14.2.2.5)")
            default:
                continue
            }
        }
        return Disconnect(reasonCode: code, properties: properties)
    }

    /// Section 3.15.
    mutating func auth() throws(MQTTError) -> Auth {
        guard !self.isAtEnd else { return Auth() }
        let code = try self.reasonCode(ReasonCodes.auth)
        return Auth(reasonCode: code, properties: self.isAtEnd ? Properties() : try self.properties(.auth))
    }
}

/// Which reason codes may stand in which packet (MQTT 5.0 section 2.4, table 2.6).
enum ReasonCodes {
    /// PUBACK and PUBREC.
    static let pubAck: Set<UInt8> = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
    /// PUBREL and PUBCOMP.
    static let pubRel: Set<UInt8> = [0x00, 0x92]
    static let connAck: Set<UInt8> = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A,
        0x9B, 0x9C, 0x9D, 0x9F,
    ]
    static let connectReturnCodes: [ReasonCode] = [
        .success, .unsupportedProtocolVersion, .clientIdentifierNotValid, .serverUnavailable, .badUserNameOrPassword,
        .notAuthorized,
    ]
    static let subAck: Set<UInt8> = [
        0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
    ]
    static let subAck3: Set<UInt8> = [0x00, 0x01, 0x02, 0x80]
    static let unsubAck: Set<UInt8> = [0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]
    static let disconnectFromClient: Set<UInt8> = [
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    ]
    static let disconnectFromServer: Set<UInt8> = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
        0x98,
        0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ]
    static let auth: Set<UInt8> = [0x00, 0x18, 0x19]
}

/// The most user properties or filters in one packet. Each is an object here and work, and only a byte or two there.
let packetItemLimit = 1_024
