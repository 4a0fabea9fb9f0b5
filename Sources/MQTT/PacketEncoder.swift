// MQTT 3.1.1 and 5.0, chapters 2 and 3: values to bytes.
//
// Each packet's fields are written down once, for any `WireSink`. One sink counts, the other writes:
// so the length in front is right by construction and the buffer grows at most once.

public import NIOCore

extension Packet {
    /// The bytes that ``encode(into:version:)`` will write.
    ///
    /// - Throws: ``MQTTError`` with code `not-encodable`.
    public func encodedSize(version: ProtocolVersion) throws(MQTTError) -> Int {
        let body = try self.bodySize(version: version)
        return 1 + variableByteIntegerSize(body) + body
    }

    /// Appends the packet's encoding.
    ///
    /// - Throws: ``MQTTError`` with code `not-encodable` (a string too long, a packet identifier of 0, AUTH in
    ///   3.1.1); then nothing was written.
    public func encode(into buffer: inout ByteBuffer, version: ProtocolVersion) throws(MQTTError) {
        let body = try self.bodySize(version: version)
        buffer.reserveCapacity(minimumWritableBytes: 1 + variableByteIntegerSize(body) + body)
        buffer.write(byte: self.firstByte)
        buffer.write(variable: body)
        self.write(to: &buffer, version: version)
    }

    private func bodySize(version: ProtocolVersion) throws(MQTTError) -> Int {
        var counter = SizeCounter()
        self.write(to: &counter, version: version)
        try self.check(version: version)
        try counter.check()
        return counter.count
    }

    /// What the types cannot rule out.
    private func check(version: ProtocolVersion) throws(MQTTError) {
        let hasID: Bool
        switch self {
        case .publish(let packet):
            hasID = (packet.packetID != 0) == (packet.qos != .atMostOnce)
            guard packet.qos != .atMostOnce || !packet.isDuplicate else {
                throw MQTTError(.notEncodable, "a PUBLISH of QoS 0 is never a duplicate (MQTT-3.3.1-2)")
            }
        case .pubAck(let packet), .pubRec(let packet), .pubRel(let packet), .pubComp(let packet):
            hasID = packet.packetID != 0
        case .subscribe(let packet):
            hasID = packet.packetID != 0
            guard !packet.subscriptions.isEmpty else {
                throw MQTTError(.notEncodable, "a SUBSCRIBE asks for at least one filter (MQTT-3.8.3-2)")
            }
        case .subAck(let packet): hasID = packet.packetID != 0
        case .unsubscribe(let packet):
            hasID = packet.packetID != 0
            guard !packet.filters.isEmpty else {
                throw MQTTError(.notEncodable, "an UNSUBSCRIBE names at least one filter (MQTT-3.10.3-2)")
            }
        case .unsubAck(let packet): hasID = packet.packetID != 0
        case .connect(let packet):
            hasID = true
            guard packet.version == version else {
                throw MQTTError(.notEncodable, "a CONNECT is written in its own version")
            }
            guard version == .v5_0 || packet.username != nil || packet.password == nil else {
                throw MQTTError(.notEncodable, "3.1.1 has no password without a user name (MQTT-3.1.2-22)")
            }
        case .auth:
            hasID = true
            guard version == .v5_0 else { throw MQTTError(.notEncodable, "there is no AUTH in 3.1.1") }
        case .connAck, .pingReq, .pingResp, .disconnect:
            hasID = true
        }
        guard hasID else {
            throw MQTTError(.notEncodable, "a packet identifier is 0, or not 0 with QoS 0 (MQTT-2.2.1-2, 2.2.1-3)")
        }
    }

    private var firstByte: UInt8 {
        switch self {
        case .connect: 0x10
        case .connAck: 0x20
        case .publish(let packet): packet.firstByte
        case .pubAck: 0x40
        case .pubRec: 0x50
        case .pubRel: 0x62
        case .pubComp: 0x70
        case .subscribe: 0x82
        case .subAck: 0x90
        case .unsubscribe: 0xA2
        case .unsubAck: 0xB0
        case .pingReq: 0xC0
        case .pingResp: 0xD0
        case .disconnect: 0xE0
        case .auth: 0xF0
        }
    }

    private func write(to sink: inout some WireSink, version: ProtocolVersion) {
        switch self {
        case .connect(let packet):
            packet.write(to: &sink)
        case .connAck(let packet):
            sink.write(byte: packet.sessionPresent ? 1 : 0)
            sink.write(byte: version == .v5_0 ? packet.reasonCode.rawValue : packet.reasonCode.connectReturnCode)
            sink.write(properties: packet.properties, version: version)
        case .publish(let packet):
            packet.writeHeader(to: &sink, version: version)
            sink.write(buffer: packet.payload)
        case .pubAck(let packet), .pubRec(let packet), .pubRel(let packet), .pubComp(let packet):
            sink.write(short: packet.packetID)
            sink.write(reasonCode: packet.reasonCode, properties: packet.properties, version: version)
        case .subscribe(let packet):
            sink.write(short: packet.packetID)
            sink.write(properties: packet.properties, version: version)
            for subscription in packet.subscriptions {
                sink.write(checked: subscription.filter.rawValue)
                sink.write(byte: subscription.options(version: version))
            }
        case .subAck(let packet):
            sink.write(short: packet.packetID)
            sink.write(properties: packet.properties, version: version)
            for code in packet.reasonCodes {
                sink.write(byte: version == .v3_1_1 && code.isFailure ? 0x80 : code.rawValue)
            }
        case .unsubscribe(let packet):
            sink.write(short: packet.packetID)
            sink.write(properties: packet.properties, version: version)
            for filter in packet.filters {
                sink.write(checked: filter.rawValue)
            }
        case .unsubAck(let packet):
            sink.write(short: packet.packetID)
            if version == .v5_0 {
                sink.write(properties: packet.properties, version: version)
                for code in packet.reasonCodes {
                    sink.write(byte: code.rawValue)
                }
            }
        case .pingReq, .pingResp:
            break
        case .disconnect(let packet):
            sink.write(reasonCode: packet.reasonCode, properties: packet.properties, version: version)
        case .auth(let packet):
            sink.write(reasonCode: packet.reasonCode, properties: packet.properties, version: version)
        }
    }
}

extension Publish {
    /// The bytes that ``encodeHeader(into:version:)`` will write.
    ///
    /// - Throws: ``MQTTError`` with code `not-encodable`.
    public func encodedHeaderSize(version: ProtocolVersion) throws(MQTTError) -> Int {
        let header = try self.headerSize(version: version)
        return 1 + variableByteIntegerSize(header + self.payload.readableBytes) + header
    }

    /// Appends everything but the payload, so that one payload can be sent to many without a copy.
    ///
    /// - Throws: ``MQTTError`` with code `not-encodable`; then nothing was written.
    public func encodeHeader(into buffer: inout ByteBuffer, version: ProtocolVersion) throws(MQTTError) {
        let header = try self.headerSize(version: version)
        let body = header + self.payload.readableBytes
        buffer.reserveCapacity(minimumWritableBytes: 1 + variableByteIntegerSize(body) + header)
        buffer.write(byte: self.firstByte)
        buffer.write(variable: body)
        self.writeHeader(to: &buffer, version: version)
    }

    /// As ``Packet/encode(into:version:)``, without the detour over ``Packet``.
    ///
    /// - Parameter omitsTopic: the receiver knows it by the topic alias in the properties (MQTT 5.0 section 3.3.2.3.4).
    /// - Throws: ``MQTTError`` with code `not-encodable`; then nothing was written.
    public func encode(
        into buffer: inout ByteBuffer, version: ProtocolVersion, omitsTopic: Bool = false
    ) throws(MQTTError) {
        let header = try self.headerSize(version: version, omitsTopic: omitsTopic)
        let body = header + self.payload.readableBytes
        buffer.reserveCapacity(minimumWritableBytes: 1 + variableByteIntegerSize(body) + body)
        buffer.write(byte: self.firstByte)
        buffer.write(variable: body)
        self.writeHeader(to: &buffer, version: version, omitsTopic: omitsTopic)
        buffer.write(buffer: self.payload)
    }

    private func headerSize(version: ProtocolVersion, omitsTopic: Bool = false) throws(MQTTError) -> Int {
        guard (self.packetID != 0) == (self.qos != .atMostOnce), self.qos != .atMostOnce || !self.isDuplicate else {
            throw MQTTError(
                .notEncodable, "a PUBLISH has a packet identifier and may be a duplicate only above QoS 0")
        }
        guard !omitsTopic || (version == .v5_0 && self.properties.topicAlias != nil) else {
            throw MQTTError(.notEncodable, "a PUBLISH without a topic needs a topic alias (MQTT-3.3.2-8)")
        }
        var counter = SizeCounter()
        self.writeHeader(to: &counter, version: version, omitsTopic: omitsTopic)
        let header = counter.count
        counter.write(buffer: self.payload)
        try counter.check()
        return header
    }

    fileprivate var firstByte: UInt8 {
        0x30 | (self.isDuplicate ? 8 : 0) | self.qos.rawValue << 1 | (self.retain ? 1 : 0)
    }

    fileprivate func writeHeader(to sink: inout some WireSink, version: ProtocolVersion, omitsTopic: Bool = false) {
        if omitsTopic { sink.write(short: 0) } else { sink.write(checked: self.topic.rawValue) }
        if self.qos != .atMostOnce { sink.write(short: self.packetID) }
        sink.write(properties: self.properties, version: version)
    }
}

extension Connect {
    fileprivate func write(to sink: inout some WireSink) {
        sink.write(string: "MQTT")
        sink.write(byte: self.version.rawValue)
        var flags: UInt8 = self.cleanStart ? 0x02 : 0
        if let will = self.will {
            flags |= 0x04 | will.qos.rawValue << 3 | (will.retain ? 0x20 : 0)
        }
        if self.password != nil { flags |= 0x40 }
        if self.username != nil { flags |= 0x80 }
        sink.write(byte: flags)
        sink.write(short: self.keepAlive)
        sink.write(properties: self.properties, version: self.version)
        sink.write(string: self.clientID)
        if let will = self.will {
            sink.write(properties: will.properties, version: self.version)
            sink.write(checked: will.topic.rawValue)
            sink.write(binary: will.payload)
        }
        if let username = self.username { sink.write(string: username) }
        if let password = self.password { sink.write(binary: password) }
    }
}

extension Subscription {
    fileprivate func options(version: ProtocolVersion) -> UInt8 {
        guard version == .v5_0 else { return self.maximumQoS.rawValue }
        return self.maximumQoS.rawValue | (self.noLocal ? 0x04 : 0) | (self.retainAsPublished ? 0x08 : 0)
            | self.retainHandling.rawValue << 4
    }
}

extension ReasonCode {
    /// The nearest return code of 3.1.1's CONNACK (3.1.1 table 3.1).
    fileprivate var connectReturnCode: UInt8 {
        switch self {
        case .success: 0
        case .unsupportedProtocolVersion: 1
        case .clientIdentifierNotValid: 2
        case .badUserNameOrPassword: 4
        case .notAuthorized, .banned: 5
        default: self.isFailure ? 3 : 0
        }
    }
}

/// The bytes of a variable byte integer (section 1.5.5): 1 to 4.
@inlinable
package func variableByteIntegerSize(_ value: Int) -> Int {
    value < 128 ? 1 : value < 16_384 ? 2 : value < 2_097_152 ? 3 : 4
}

/// The largest remaining length: 268,435,455 (section 2.1.4).
package let maximumRemainingLength = 268_435_455

/// Takes a packet's fields, in their order.
private protocol WireSink {
    mutating func write(byte: UInt8)
    mutating func write(short: UInt16)
    mutating func write(long: UInt32)
    mutating func write(variable: Int)
    mutating func write(string: String)
    /// A string that is known to be a legal one: a topic name or filter.
    mutating func write(checked string: String)
    mutating func write(binary: [UInt8])
    mutating func write(buffer: ByteBuffer)
    /// What cannot be written was found. Told to whoever counts first; there is nobody to be told later.
    mutating func refuse(_ reason: String)
}

extension WireSink {
    fileprivate mutating func write(properties: Properties, version: ProtocolVersion) {
        guard version == .v5_0 else { return }
        if properties.isEmpty {
            self.write(byte: 0)
            return
        }
        if properties.all.count > packetItemLimit {
            let count = properties.all.count { if case .userProperty = $0 { true } else { false } }
            // Nobody of ours would read it.
            if count > packetItemLimit { self.refuse("more than \(packetItemLimit) user properties") }
        }
        var counter = SizeCounter()
        for property in properties.all { counter.write(property: property) }
        self.write(variable: counter.count)
        for property in properties.all { self.write(property: property) }
    }

    /// The end of an acknowledgement, DISCONNECT or AUTH: success without properties is left out
    /// (sections 3.4.2.1, 3.14.2.1, 3.15.2.1).
    fileprivate mutating func write(reasonCode: ReasonCode, properties: Properties, version: ProtocolVersion) {
        guard version == .v5_0, reasonCode != .success || !properties.isEmpty else { return }
        self.write(byte: reasonCode.rawValue)
        if !properties.isEmpty { self.write(properties: properties, version: version) }
    }

    fileprivate mutating func write(property: Property) {
        self.write(byte: property.identifier)
        switch property {
        case .payloadFormatIndicator(let value), .requestProblemInformation(let value),
            .requestResponseInformation(let value), .retainAvailable(let value),
            .wildcardSubscriptionAvailable(let value), .subscriptionIdentifiersAvailable(let value),
            .sharedSubscriptionAvailable(let value):
            self.write(byte: value ? 1 : 0)
        case .messageExpiryInterval(let value), .sessionExpiryInterval(let value), .willDelayInterval(let value),
            .maximumPacketSize(let value):
            self.write(long: value)
        case .contentType(let value), .assignedClientIdentifier(let value), .authenticationMethod(let value),
            .responseInformation(let value), .serverReference(let value), .reasonString(let value):
            self.write(string: value)
        case .responseTopic(let value):
            self.write(checked: value.rawValue)
        case .correlationData(let value), .authenticationData(let value):
            self.write(binary: value)
        case .subscriptionIdentifier(let value):
            self.write(variable: Int(value))
        case .serverKeepAlive(let value), .receiveMaximum(let value), .topicAliasMaximum(let value),
            .topicAlias(let value):
            self.write(short: value)
        case .maximumQoS(let value):
            self.write(byte: value.rawValue)
        case .userProperty(let name, let value):
            self.write(string: name)
            self.write(string: value)
        }
    }
}

private struct SizeCounter: WireSink {
    var count = 0
    private var problem: MQTTError?

    mutating func write(byte: UInt8) { self.count += 1 }
    mutating func write(short: UInt16) { self.count += 2 }
    mutating func write(long: UInt32) { self.count += 4 }

    mutating func write(variable: Int) {
        if variable > maximumRemainingLength { self.fail("a number above 268,435,455") }
        self.count += variableByteIntegerSize(variable)
    }

    mutating func write(string: String) {
        if string.utf8.contains(0) { self.fail("U+0000") }
        self.add(string.utf8.count)
    }

    mutating func write(checked string: String) { self.count += 2 + string.utf8.count }
    mutating func write(binary: [UInt8]) { self.add(binary.count) }
    mutating func write(buffer: ByteBuffer) { self.count += buffer.readableBytes }

    private mutating func add(_ length: Int) {
        if length > 65_535 { self.fail("a string or field of more than 65,535 bytes") }
        self.count += 2 + length
    }

    private mutating func fail(_ what: String) { self.refuse("MQTT has no encoding for \(what)") }

    mutating func refuse(_ reason: String) { self.problem = MQTTError(.notEncodable, reason) }

    func check() throws(MQTTError) {
        if let problem = self.problem { throw problem }
        guard self.count <= maximumRemainingLength else {
            throw MQTTError(.notEncodable, "MQTT has no encoding for a packet of more than 268,435,455 bytes")
        }
    }
}

extension ByteBuffer: WireSink {
    fileprivate mutating func write(byte: UInt8) { self.writeInteger(byte) }
    fileprivate mutating func write(short: UInt16) { self.writeInteger(short) }
    fileprivate mutating func write(long: UInt32) { self.writeInteger(long) }

    fileprivate mutating func write(variable: Int) {
        var rest = UInt32(truncatingIfNeeded: variable)
        while rest >= 0x80 {
            self.writeInteger(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        self.writeInteger(UInt8(truncatingIfNeeded: rest))
    }

    fileprivate mutating func write(string: String) {
        self.writeInteger(UInt16(truncatingIfNeeded: string.utf8.count))
        self.writeString(string)
    }

    fileprivate mutating func write(checked string: String) { self.write(string: string) }

    fileprivate mutating func write(binary: [UInt8]) {
        self.writeInteger(UInt16(truncatingIfNeeded: binary.count))
        self.writeBytes(binary)
    }

    fileprivate mutating func write(buffer: ByteBuffer) { self.writeImmutableBuffer(buffer) }
    fileprivate mutating func refuse(_ reason: String) {}
}
