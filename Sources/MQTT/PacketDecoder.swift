// MQTT 3.1.1 and 5.0, chapters 2 and 3: bytes to values.

public import NIOCore

/// Which end of a connection.
public enum Endpoint: Hashable, Sendable {
    case client
    case server
}

/// Bytes in, packets out. Strict: what the standards forbid is an error, after which nothing more comes.
///
/// What one end may not send is refused as well: a server's decoder takes no CONNACK, and takes CONNECT
/// exactly once and first. Memory is bounded by ``maximumPacketSize``: a packet that says it is larger is
/// refused when its fixed header is there, before anything of it is kept.
///
///     var decoder = PacketDecoder(sender: .client, maximumPacketSize: 131_072)
///     decoder.append(buffer)
///     while let packet = try decoder.next() { ... }
public struct PacketDecoder: Sendable {
    /// Who sends what is decoded here.
    public let sender: Endpoint

    /// Of the packets that come; `nil` until CONNECT has said it.
    public private(set) var version: ProtocolVersion?

    /// At a server: what a CONNECT that was refused said it was, so that the refusal can be said in its version.
    public private(set) var refusedVersion: ProtocolVersion?

    /// The largest packet that is taken, in bytes with its fixed header.
    public var maximumPacketSize: Int

    /// The highest topic alias that the sender may use (MQTT 5.0 section 3.3.2.3.4). At most this many
    /// topic names are kept.
    public var topicAliasMaximum: UInt16 = 0

    private var buffer = ByteBuffer()
    private var failure: MQTTError?
    /// How many bytes must be there before it is worth looking at them again.
    private var needed = 1
    private var aliases: [UInt16: TopicName] = [:]
    /// The last topic that was decoded: who publishes mostly goes on with the same one.
    private var lastTopic: TopicName?

    /// - Parameters:
    ///   - sender: who sends what is decoded here.
    ///   - version: `nil` at a server, which learns it from CONNECT, its client's first packet.
    ///   - maximumPacketSize: bytes of a whole packet.
    public init(sender: Endpoint, version: ProtocolVersion? = nil, maximumPacketSize: Int) {
        self.sender = sender
        self.version = version
        self.maximumPacketSize = maximumPacketSize
    }

    /// Adds bytes as they came. Copies nothing if all that came before was used up.
    public mutating func append(_ bytes: ByteBuffer) {
        if self.buffer.readableBytes == 0 {
            self.buffer = bytes
        } else {
            // Under a steady stream the buffer may never run empty.
            if self.buffer.readerIndex > self.buffer.readableBytes { self.buffer.discardReadBytes() }
            self.buffer.writeImmutableBuffer(bytes)
        }
    }

    /// How many bytes wait for the rest of their packet.
    public var bufferedBytes: Int { self.buffer.readableBytes }

    /// Takes the next packet out.
    ///
    /// Payloads share memory with what was appended: copy what is kept longer than a moment.
    ///
    /// - Returns: `nil` if no whole packet is there.
    /// - Throws: ``MQTTError``; from then on always the same.
    public mutating func next() throws(MQTTError) -> Packet? {
        if let failure = self.failure { throw failure }
        guard self.buffer.readableBytes >= self.needed else { return nil }
        do throws(MQTTError) {
            guard let header = try self.fixedHeader() else { return nil }
            let size = header.headerSize + header.remainingLength
            guard self.buffer.readableBytes >= size else {
                self.wait(for: size)
                return nil
            }
            self.buffer.moveReaderIndex(forwardBy: header.headerSize)
            guard let body = self.buffer.readSlice(length: header.remainingLength) else {
                throw .malformed("a packet ends early")
            }
            self.needed = 1
            let packet = try self.packet(header, body)
            if self.buffer.readableBytes == 0 { self.buffer = ByteBuffer() }
            return packet
        } catch {
            self.failure = error
            self.buffer = ByteBuffer()
            self.aliases = [:]
            throw error
        }
    }

    private struct FixedHeader {
        var type: PacketType
        var flags: UInt8
        var remainingLength: Int
        var headerSize: Int
    }

    /// Section 2.1. Everything that one byte can tell is checked before the next is waited for.
    private mutating func fixedHeader() throws(MQTTError) -> FixedHeader? {
        let start = self.buffer.readerIndex
        guard let first = self.buffer.getInteger(at: start, as: UInt8.self) else { return nil }
        guard let type = PacketType(rawValue: first >> 4) else {
            throw .malformed("packet type 0 is reserved (section 2.1.2)")
        }
        try self.checkType(type, flags: first & 0x0F)

        var remainingLength = 0
        var shift = 0
        var headerSize = 1
        while true {
            guard let byte = self.buffer.getInteger(at: start + headerSize, as: UInt8.self) else {
                self.needed = self.buffer.readableBytes + 1
                return nil
            }
            headerSize += 1
            remainingLength |= Int(byte & 0x7F) << shift
            if byte & 0x80 == 0 {
                // 3.1.1 does not ask for the shortest form.
                guard byte != 0 || headerSize == 2 || self.version == .v3_1_1 else {
                    throw .malformed("a length has more bytes than it needs (MQTT-1.5.5-1)")
                }
                break
            }
            guard headerSize < 5 else {
                throw .malformed("a length has more than 4 bytes (section 1.5.5)")
            }
            shift += 7
        }
        guard headerSize + remainingLength <= self.maximumPacketSize else {
            throw MQTTError(
                .packetTooLarge,
                "a packet of \(headerSize + remainingLength) bytes is above the limit of \(self.maximumPacketSize)")
        }
        return FixedHeader(
            type: type, flags: first & 0x0F, remainingLength: remainingLength, headerSize: headerSize)
    }

    private func checkType(_ type: PacketType, flags: UInt8) throws(MQTTError) {
        let expectedFlags: UInt8? =
            switch type {
            case .publish: nil
            case .pubRel, .subscribe, .unsubscribe: 0b0010
            default: 0
            }
        guard expectedFlags == nil || flags == expectedFlags else {
            throw .malformed("reserved flags of a fixed header are wrong (MQTT-2.1.3-1)")
        }
        let legalSender: Bool =
            switch type {
            case .connect, .subscribe, .unsubscribe, .pingReq: self.sender == .client
            case .connAck, .subAck, .unsubAck, .pingResp: self.sender == .server
            case .disconnect: self.sender == .client || self.version == .v5_0
            case .auth: self.version != .v3_1_1
            case .publish, .pubAck, .pubRec, .pubRel, .pubComp: true
            }
        guard legalSender else {
            throw .protocolError("a \(self.sender) does not send a packet of type \(type.rawValue)")
        }
        if self.sender == .client {
            guard (type == .connect) == (self.version == nil) else {
                throw .protocolError("CONNECT comes first and only once (MQTT-3.1.0-1, 3.1.0-2)")
            }
        }
    }

    /// Keeps what is there until the rest comes, without holding on to a much larger receive buffer.
    private mutating func wait(for size: Int) {
        self.needed = size
        if self.buffer.storageCapacity > 4 * self.buffer.readableBytes + 512 {
            var copy = ByteBuffer()
            copy.reserveCapacity(min(size, 2 * self.buffer.readableBytes + 64))
            copy.writeImmutableBuffer(self.buffer)
            self.buffer = copy
        }
    }

    private mutating func packet(_ header: FixedHeader, _ body: ByteBuffer) throws(MQTTError) -> Packet {
        if header.type == .publish, let version = self.version {
            return .publish(try self.publish(flags: header.flags, body: body, version: version))
        }
        var reader = PacketReader(bytes: body, version: self.version ?? .v5_0)
        let packet: Packet
        switch header.type {
        case .connect:
            let connect: Connect
            do throws(MQTTError) {
                connect = try reader.connect()
                guard reader.isAtEnd else { throw .malformed("bytes are left over behind CONNECT's last field") }
            } catch {
                self.refusedVersion = reader.connectVersion
                throw error
            }
            self.version = connect.version
            packet = .connect(connect)
        case .connAck: packet = .connAck(try reader.connAck())
        case .publish: throw .protocolError("CONNECT comes first (MQTT-3.1.0-1)")
        case .pubAck: packet = .pubAck(try reader.acknowledgement(ReasonCodes.pubAck))
        case .pubRec: packet = .pubRec(try reader.acknowledgement(ReasonCodes.pubAck))
        case .pubRel: packet = .pubRel(try reader.acknowledgement(ReasonCodes.pubRel))
        case .pubComp: packet = .pubComp(try reader.acknowledgement(ReasonCodes.pubRel))
        case .subscribe: packet = .subscribe(try reader.subscribe())
        case .subAck: packet = .subAck(try reader.subAck())
        case .unsubscribe: packet = .unsubscribe(try reader.unsubscribe())
        case .unsubAck: packet = .unsubAck(try reader.unsubAck())
        case .pingReq: packet = .pingReq
        case .pingResp: packet = .pingResp
        case .disconnect: packet = .disconnect(try reader.disconnect(from: self.sender))
        case .auth: packet = .auth(try reader.auth())
        }
        guard reader.isAtEnd else {
            throw .malformed("bytes are left over behind a packet's last field")
        }
        return packet
    }

    /// Section 3.3, written for speed: it is what nearly all packets are.
    private mutating func publish(
        flags: UInt8, body: ByteBuffer, version: ProtocolVersion
    ) throws(MQTTError) -> Publish {
        guard let qos = QoS(rawValue: flags >> 1 & 0x03) else {
            throw .malformed("a PUBLISH has both QoS bits set (MQTT-3.3.1-4)")
        }
        let isDuplicate = flags & 0x08 != 0
        guard !isDuplicate || qos != .atMostOnce else {
            throw .malformed("a PUBLISH of QoS 0 is never a duplicate (MQTT-3.3.1-2)")
        }
        var reader = PacketReader(bytes: body, version: version)
        let topicLength = Int(try reader.short())
        let named = topicLength == 0 ? nil : try self.topic(length: topicLength, &reader)
        var packetID: UInt16 = 0
        if qos != .atMostOnce { packetID = try reader.packetID() }
        let properties = try reader.properties(.publish)
        if !properties.isEmpty, self.sender == .client, !properties.subscriptionIdentifiers.isEmpty {
            throw .protocolError("a client sends no subscription identifier in a PUBLISH (MQTT-3.3.4-6)")
        }
        let topic = try self.resolve(named, alias: properties.isEmpty ? nil : properties.topicAlias)
        return Publish(
            topic: topic, payload: reader.rest(), qos: qos, retain: flags & 0x01 != 0, isDuplicate: isDuplicate,
            packetID: packetID, properties: properties)
    }

    private mutating func topic(length: Int, _ reader: inout PacketReader) throws(MQTTError) -> TopicName {
        let bytes = try reader.slice(length)
        if let last = self.lastTopic, last.rawValue.utf8.count == length {
            let same = bytes.withUnsafeReadableBytes { bytes in
                last.rawValue.utf8.withContiguousStorageIfAvailable { $0.elementsEqual(bytes) } ?? false
            }
            if same { return last }
        }
        let topic = try TopicName(validating: bytes.readableBytesView)
        self.lastTopic = topic
        return topic
    }

    private mutating func resolve(_ topic: TopicName?, alias: UInt16?) throws(MQTTError) -> TopicName {
        guard let alias else {
            guard let topic else {
                throw .protocolError("a topic name is empty, and there is no alias (MQTT-4.7.3-1, section 3.3.2.1)")
            }
            return topic
        }
        guard alias <= self.topicAliasMaximum else {
            throw MQTTError(.topicAliasInvalid, "topic alias \(alias) is above our maximum (MQTT-3.3.2-9)")
        }
        if let topic {
            self.aliases[alias] = topic
            return topic
        }
        guard let known = self.aliases[alias] else {
            throw .protocolError("topic alias \(alias) stands for nothing (section 3.3.4)")
        }
        return known
    }
}
