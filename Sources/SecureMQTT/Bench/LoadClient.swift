import MQTT
import NIOCore

/// What the clients of one measurement share. Lives on their event loop.
final class LoadRun {
    /// Published and not yet delivered, at most. At QoS 0 nothing acknowledges them; above, a broker that acknowledges
    /// faster than the subscriber takes would only fill its queue, and then drop.
    static let outstanding = 1_000

    let qos: QoS
    /// Subscribers to each message.
    let fan: Int
    var published = 0
    var delivered = 0
    var isRunning = false
    /// Nanoseconds from sending to delivery, while ``isTimed``.
    var latencies: [UInt64] = []
    var isTimed = false
    var publishers: [LoadClient] = []
    /// Whose messages were acknowledged and whose next ones wait for deliveries.
    private var waiting: [LoadClient] = []

    init(qos: QoS, fan: Int) {
        self.qos = qos
        self.fan = fan
    }

    /// Nobody publishes any more.
    func stop() {
        self.isRunning = false
        self.publishers = []
        self.waiting = []
    }

    private var hasRoom: Bool {
        self.published * self.fan - self.delivered < Self.outstanding * self.fan
    }

    /// A message above QoS 0 is dealt with: the next one of that publisher.
    func acknowledged(_ publisher: LoadClient) {
        guard self.isRunning else { return }
        if self.hasRoom { publisher.publish() } else { self.waiting.append(publisher) }
    }

    /// Deliveries have come: those who wait for them may go on.
    func pump() {
        guard self.isRunning, !self.publishers.isEmpty else { return }
        while self.hasRoom, let publisher = self.waiting.popLast() {
            publisher.publish()
            publisher.flush()
        }
        guard self.qos == .atMostOnce else { return }
        // Sixteen at a time: as many as a busy client would have ready.
        while self.hasRoom {
            let publisher = self.publishers[self.published / 16 % self.publishers.count]
            for _ in 0..<16 { publisher.publish() }
            publisher.flush()
        }
    }
}

/// One MQTT 3.1.1 client of the load generator: it looks at no more of a packet than it must, so that the broker is
/// what is measured.
final class LoadClient: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    enum Role {
        case idle
        case subscriber(filter: String)
        /// `window`: messages of QoS 1 and 2 under way.
        case publisher(topic: String, window: Int)
    }

    private let run: LoadRun
    private let clientID: String
    private let role: Role
    private let payloadSize: Int
    private let ready: EventLoopPromise<Void>
    private var isReady = false
    private var context: ChannelHandlerContext?
    private var input = ByteBuffer()
    private var output = ByteBuffer()
    private var nextPacketID: UInt16 = 1
    private var template = ByteBuffer()
    /// Where identifier and time are in ``template``.
    private var identifierIndex = 0
    private var timeIndex = 0

    init(run: LoadRun, clientID: String, role: Role, payloadSize: Int, ready: EventLoopPromise<Void>) {
        self.run = run
        self.clientID = clientID
        self.role = role
        self.payloadSize = max(8, payloadSize)
        self.ready = ready
        if case .publisher(let topic, _) = role { self.makeTemplate(topic) }
    }

    private func makeTemplate(_ topic: String) {
        let hasID = self.run.qos != .atMostOnce
        var length = 2 + topic.utf8.count + (hasID ? 2 : 0) + self.payloadSize
        self.template.writeInteger(UInt8(0x30 | self.run.qos.rawValue << 1))
        repeat {
            let byte = UInt8(length & 0x7F)
            length >>= 7
            self.template.writeInteger(length > 0 ? byte | 0x80 : byte)
        } while length > 0
        self.template.writeInteger(UInt16(topic.utf8.count))
        self.template.writeString(topic)
        self.identifierIndex = self.template.writerIndex
        if hasID { self.template.writeInteger(UInt16(0)) }
        self.timeIndex = self.template.writerIndex
        self.template.writeRepeatingByte(0x78, count: self.payloadSize)
    }

    func channelActive(context: ChannelHandlerContext) {
        self.context = context
        do {
            try Packet.connect(Connect(version: .v3_1_1, clientID: self.clientID, cleanStart: true, keepAlive: 600))
                .encode(into: &self.output, version: .v3_1_1)
            self.flush()
        } catch {
            self.fail(error)
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(CommandError(.unavailable, "the broker closed a connection of the load generator"))
        self.context = nil
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.fail(error)
        context.close(promise: nil)
    }

    private func fail(_ error: any Error) {
        guard !self.isReady else { return }
        self.isReady = true
        self.ready.fail(error)
    }

    private func succeed() {
        guard !self.isReady else { return }
        self.isReady = true
        self.ready.succeed()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        if self.input.readableBytes == 0 { self.input = bytes } else { self.input.writeBuffer(&bytes) }
        while self.takePacket() {}
        if self.input.readableBytes == 0 { self.input = ByteBuffer() }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.flush()
        if case .subscriber = self.role { self.run.pump() }
    }

    private func takePacket() -> Bool {
        let start = self.input.readerIndex
        guard let first: UInt8 = self.input.getInteger(at: start) else { return false }
        var length = 0
        var size = 1
        while true {
            guard size <= 4, let byte: UInt8 = self.input.getInteger(at: start + size) else { return false }
            length |= Int(byte & 0x7F) << (7 * (size - 1))
            size += 1
            if byte & 0x80 == 0 { break }
        }
        guard self.input.readableBytes >= size + length else { return false }
        self.handle(first, at: start + size)
        self.input.moveReaderIndex(forwardBy: size + length)
        return true
    }

    private func handle(_ first: UInt8, at index: Int) {
        func identifier(_ index: Int) -> UInt16 { self.input.getInteger(at: index) ?? 0 }
        switch first >> 4 {
        case 2:
            guard identifier(index) & 0xFF == 0 else {
                return self.fail(CommandError(.unavailable, "the broker refused a connection of the load generator"))
            }
            if case .subscriber(let filter) = self.role {
                self.subscribe(filter)
            } else {
                self.succeed()
            }
        case 9: self.succeed()
        case 3:
            self.run.delivered += 1
            let topic = Int(identifier(index))
            let qos = first >> 1 & 3
            let packetID = index + 2 + topic
            if qos == 1 { self.output.writeInteger(0x4002_0000 | UInt32(identifier(packetID))) }
            if qos == 2 { self.output.writeInteger(0x5002_0000 | UInt32(identifier(packetID))) }
            if self.run.isTimed, let sent: UInt64 = self.input.getInteger(at: packetID + (qos > 0 ? 2 : 0)) {
                self.run.latencies.append(NIODeadline.now().uptimeNanoseconds - sent)
            }
        case 4, 7: self.run.acknowledged(self)
        case 5: self.output.writeInteger(0x6202_0000 | UInt32(identifier(index)))
        case 6: self.output.writeInteger(0x7002_0000 | UInt32(identifier(index)))
        default: break
        }
    }

    private func subscribe(_ filter: String) {
        do {
            try Packet.subscribe(
                Subscribe(
                    packetID: 1,
                    subscriptions: [Subscription(filter: try TopicFilter(filter), maximumQoS: self.run.qos)])
            ).encode(into: &self.output, version: .v3_1_1)
        } catch {
            self.fail(error)
        }
    }

    /// Fills the window.
    func begin() {
        guard case .publisher(_, let window) = self.role else { return }
        for _ in 0..<window { self.publish() }
        self.flush()
    }

    func publish() {
        self.run.published += 1
        if self.run.qos != .atMostOnce {
            self.template.setInteger(self.nextPacketID, at: self.identifierIndex)
            self.nextPacketID = self.nextPacketID == .max ? 1 : self.nextPacketID + 1
        }
        if self.run.isTimed {
            self.template.setInteger(NIODeadline.now().uptimeNanoseconds, at: self.timeIndex)
        }
        self.output.writeImmutableBuffer(self.template)
    }

    func flush() {
        guard let context = self.context, self.output.readableBytes > 0 else { return }
        // Taken out first: what is written may be answered before the call returns.
        let output = self.output
        self.output = ByteBuffer()
        context.writeAndFlush(self.wrapOutboundOut(output), promise: nil)
    }

    func close() { self.context?.close(promise: nil) }
}
