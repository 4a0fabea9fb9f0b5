import Connections
import Identity
import MQTT
import NIOCore
import PKI

/// One client's connection: bytes to packets, packets to the router, and what the router answers to bytes.
///
/// Lives on the event loop of the sessions; ``ConnectionHandler`` brings it what comes from its socket. Packets are
/// parsed where their bytes arrive, and nothing is passed from handler to handler per packet.
final class Connection {
    private enum Phase {
        /// TLS has not finished.
        case handshake
        /// The peer is known by its certificate, or nothing is asked of it; CONNECT has not come.
        case waiting
        case open
        case closed
    }

    private let core: BrokerCore
    private let socket: Socket
    /// `nil` until a load balancer has said it.
    private var origin: Origin?
    /// With TLS, who decides about the peer,
    private let admission: PeerAdmission?
    /// which of the broker's TLS contexts it speaks with,
    private let generation: UInt64
    /// and who does without.
    private let identify: (@Sendable (Connect) -> PeerIdentity?)?
    private var decoder: PacketDecoder
    private var phase: Phase
    private var admitted: PeerAdmission.Peer?
    private(set) var peer: PeerIdentity?
    private(set) var id: ConnectionID?
    /// The socket is closed, and what it brought may not be dealt with yet.
    private var isGone = false
    private var version = ProtocolVersion.v3_1_1
    /// The largest packet that the client takes, in bytes.
    private var maximumPacketSize = Int.max
    private var aliases = OutboundAliases(maximum: 0)

    private var out = ByteBuffer()
    private var isDirty = false
    /// What the last flush wrote: the next one is likely to be alike.
    private var lastFlush = 0
    /// Reasons to read no further, each of its own: an in-process session that lags,
    private var isHeld = false
    /// more packets or bytes a second than are allowed,
    private var isPaused = false
    /// a client that sends without taking what it is answered,
    private var isChoked = false
    /// and more received than its turns have dealt with.
    private var isBacklogged = false
    private var isAutoRead = true
    private var isReading = false
    /// Has packets left from its last turn, and waits for the next.
    private var isInLine = false
    private var pace: Pace?
    /// What was written since the client stopped taking it.
    private var untaken = 0
    private var countedAddress: NetworkAddress?
    private var countedIdentity: String?

    private let acceptedAt: UInt64
    /// When its last whole packet came: bytes alone keep nothing alive.
    private var lastPacketAt: UInt64
    /// In ticks; 0 is none.
    private var keepAlive: UInt64 = 0
    private var closeReason = "the client closed the connection"

    /// What ``BrokerLimits/packetRatePerConnection`` and its neighbour need.
    private struct Pace {
        var packets: TokenBucket?
        var bytes: TokenBucket?
    }

    /// - Parameters:
    ///   - origin: `nil` behind a load balancer: then ``comes(from:)`` follows.
    ///   - admission: over TLS, who decides about the peer.
    ///   - generation: of the TLS context.
    ///   - identify: without TLS, who decides.
    init(
        core: BrokerCore, socket: Socket, origin: Origin?, admission: PeerAdmission?, generation: UInt64,
        identify: (@Sendable (Connect) -> PeerIdentity?)?
    ) {
        self.core = core
        self.socket = socket
        self.origin = origin
        self.admission = admission
        self.generation = generation
        self.identify = identify
        self.phase = admission == nil ? .waiting : .handshake
        self.decoder = PacketDecoder(sender: .client, maximumPacketSize: core.limits.maximumPacketSize)
        self.acceptedAt = core.ticks
        self.lastPacketAt = core.ticks
        let limits = core.limits
        if limits.packetRatePerConnection != nil || limits.byteRatePerConnection != nil {
            let now = core.nanoseconds
            self.pace = Pace(
                packets: limits.packetRatePerConnection.map { TokenBucket($0, at: now) },
                bytes: limits.byteRatePerConnection.map { TokenBucket($0, at: now) })
        }
    }

    private var address: String { self.origin?.description ?? "a load balancer" }

    /// Let in, and without a session yet.
    var isWaiting: Bool { self.phase == .waiting }

    /// The socket is there: takes its place among the others.
    func begin() {
        if !self.core.add(self) {
            self.refuse(.tooMany, "too many connections, at \(self.address)")
        } else if let origin = self.origin {
            self.comes(from: origin)
        }
    }

    /// Says where it comes from, before anything of it is looked at.
    ///
    /// - Returns: whether it may.
    @discardableResult
    func comes(from origin: Origin) -> Bool {
        guard self.phase != .closed else { return false }
        self.origin = origin
        guard let key = origin.address?.limitKey else { return true }
        switch self.core.addresses.open(key, at: self.core.nanoseconds) {
        case nil:
            self.countedAddress = key
            return true
        case .tooMany?: self.refuse(.tooManyOfAddress, "too many connections from \(origin.address ?? key)")
        case .tooFast?: self.refuse(.tooFastOfAddress, "too many new connections from \(origin.address ?? key)")
        }
        return false
    }

    /// Ends a connection that never had a session.
    func refuse(_ reason: RefusalReason, _ words: String) {
        guard self.phase != .closed else { return }
        self.phase = .closed
        self.core.transport.connectionsRefused[reason, default: 0] += 1
        self.core.report(.connectRefused(peer: self.peer, clientID: "", reason: words))
        self.socket.close()
    }

    /// The socket is closed. May be called again.
    func finish() {
        if self.phase == .handshake {
            self.refuseHandshake(.aborted, "the connection ended within the TLS handshake")
        }
        // What the client sent before it went is dealt with, in its turns as ever: its DISCONNECT may be the last of it.
        self.isGone = true
        if self.isReading {
            // Within its turn, by an error in writing.
            self.isInLine = true
            return self.core.standInLine(self)
        }
        self.isInLine = false
        let packets = self.process()
        if self.pace != nil { self.slowDown(packets, 0) }
        guard self.phase == .closed || !(self.isInLine || self.isHeld || self.isPaused) else { return }
        self.leave()
        self.core.remove(self)
        if let key = self.countedAddress {
            self.countedAddress = nil
            self.core.addresses.close(key)
        }
        if let key = self.countedIdentity {
            self.countedIdentity = nil
            self.core.identities.close(key)
        }
    }

    /// Gives up the session at once; the socket may take a moment longer, for TLS says goodbye.
    private func leave() {
        self.phase = .closed
        self.out = ByteBuffer()
        guard let id = self.id else { return }
        self.id = nil
        self.core.leave(id, reason: self.closeReason)
    }

    // MARK: TLS

    /// The only place that every handshake passes: a resumed one calls no verification callback.
    ///
    /// - Parameter certificate: the client's, DER.
    func handshakeCompleted(_ certificate: [UInt8]?) {
        guard self.phase == .handshake else { return }
        guard self.generation >= self.core.tlsGeneration else { return self.endHandshake() }
        do {
            guard let certificate, let admission = self.admission else {
                return self.refuseHandshake(.noCertificate, "no client certificate")
            }
            let admitted = try admission.admit(certificate)
            if let (reason, words) = self.refusalToCount(admitted.identity) {
                return self.refuseHandshake(reason, words)
            }
            self.admitted = admitted
            self.peer = admitted.identity
            self.phase = .waiting
        } catch let error as PKIError {
            self.refuseHandshake(RefusalReason(error.code.description), "\(error)")
        } catch {
            self.refuseHandshake(.certificate, "\(error)")
        }
    }

    /// Counts it as a connection of an identity, if that may have one more.
    private func refusalToCount(_ peer: PeerIdentity) -> (RefusalReason, String)? {
        guard self.countedIdentity == nil else { return nil }
        let key = peer.spiffeID.rawValue
        switch self.core.identities.open(key, at: self.core.nanoseconds) {
        case nil:
            self.countedIdentity = key
            return nil
        case .tooMany?: return (.tooManyOfIdentity, "too many connections of \(peer)")
        case .tooFast?: return (.tooFastOfIdentity, "too many new connections of \(peer)")
        }
    }

    private func refuseHandshake(_ reason: RefusalReason, _ words: String) {
        guard self.phase != .closed else { return }
        self.phase = .closed
        self.core.transport.handshakesRefused[reason, default: 0] += 1
        self.core.report(.handshakeRefused(address: self.address, reason: words))
        self.socket.close()
    }

    /// The certificates have been exchanged: what began under the old ones begins again.
    func endHandshake() {
        guard self.phase == .handshake, self.generation < self.core.tlsGeneration else { return }
        self.refuseHandshake(.aborted, "the broker's certificates or roots were exchanged within the TLS handshake")
    }

    /// The socket or its TLS has failed.
    func failed(_ reason: RefusalReason, _ words: String) {
        if self.phase == .handshake {
            self.refuseHandshake(reason, words)
        } else {
            self.closeReason = words
            self.socket.close()
        }
    }

    /// - Returns: whether it was closed.
    func closeUnlessStanding() -> Bool {
        guard self.phase != .closed, let admitted = self.admitted else { return false }
        do {
            try admitted.requireStanding()
            return false
        } catch {
            self.close(.notAuthorized, "\(error)")
            return true
        }
    }

    // MARK: Reading

    func received(_ bytes: ByteBuffer) {
        // Without a peer that was let in, nothing is even looked at.
        guard self.phase == .open || self.phase == .waiting else { return }
        self.core.transport.bytesReceived &+= UInt64(bytes.readableBytes)
        let size = bytes.readableBytes
        self.decoder.append(bytes)
        let packets = self.process()
        if self.pace != nil { self.slowDown(packets, size) }
        if self.isInLine, self.decoder.bufferedBytes > 2 * self.core.limits.maximumPacketSize {
            self.isBacklogged = true
            self.updateReading()
        }
    }

    /// One turn: as many packets as one may take at a time; for the rest it goes to the end of the line.
    ///
    /// - Returns: how many there were.
    @discardableResult
    private func process() -> Int {
        guard !self.isReading, !self.isInLine else { return 0 }
        self.isReading = true
        defer { self.isReading = false }
        self.core.updateTime()
        var count = 0
        do throws(MQTTError) {
            var turn = 0
            while self.phase != .closed, !self.isHeld, !self.isPaused, !self.isChoked || self.isGone {
                if turn >= self.core.limits.packetsPerTurn {
                    self.isInLine = true
                    self.core.standInLine(self)
                    break
                }
                guard let packet = try self.decoder.next() else { break }
                count += 1
                turn += 1
                if case .publish(let publish) = packet { self.core.transport.messagesReceivedByQoS.add(publish.qos) }
                self.handle(packet)
                // It may have many filters, and each may match all that is retained.
                if case .subscribe = packet { turn = self.core.limits.packetsPerTurn }
            }
        } catch {
            self.fail(error)
        }
        if count > 0 { self.lastPacketAt = self.core.ticks }
        return count
    }

    /// Its turn has come again.
    func takeTurn() {
        self.isInLine = false
        guard self.phase != .closed else { return }
        if self.isGone { return self.finish() }
        let packets = self.process()
        if self.pace != nil { self.slowDown(packets, 0) }
        if self.isBacklogged, !self.isInLine {
            self.isBacklogged = false
            self.updateReading()
        }
    }

    /// Who has sent more than its rate allows is read no further until that is made up for.
    private func slowDown(_ packets: Int, _ bytes: Int) {
        let now = self.core.nanoseconds
        var wait: UInt64 = 0
        if let rate = self.core.limits.packetRatePerConnection {
            wait = max(wait, self.pace?.packets?.spend(packets, of: rate, at: now) ?? 0)
        }
        if let rate = self.core.limits.byteRatePerConnection {
            wait = max(wait, self.pace?.bytes?.spend(bytes, of: rate, at: now) ?? 0)
        }
        guard wait > 0, !self.isPaused, self.phase != .closed else { return }
        self.isPaused = true
        self.updateReading()
        let bound = NIOLoopBound(self, eventLoop: self.core.eventLoop)
        self.core.eventLoop.scheduleTask(in: .nanoseconds(Int64(clamping: wait))) { bound.value.goOn() }
    }

    private func goOn() {
        guard self.isPaused else { return }
        self.isPaused = false
        guard self.phase != .closed else { return }
        self.lastPacketAt = self.core.ticks
        if self.isGone { return self.finish() }
        let packets = self.process()
        self.slowDown(packets, 0)
        self.updateReading()
    }

    private func handle(_ packet: Packet) {
        guard let id = self.id else {
            if case .connect(let connect) = packet { self.connect(connect) }
            return
        }
        switch packet {
        case .publish(let publish):
            self.core.router.publish(publish, from: id)
        case .pubAck(let acknowledgement):
            self.core.router.acknowledged(acknowledgement.packetID, from: id)
        case .pingReq:
            self.markDirty()
            self.out.writeInteger(UInt16(0xD000))
            return
        case .subscribe(let subscribe):
            self.core.router.subscribe(subscribe, from: id)
        case .unsubscribe(let unsubscribe):
            self.core.router.unsubscribe(unsubscribe, from: id)
        case .disconnect(let disconnect):
            self.core.router.disconnect(disconnect, from: id)
            self.core.perform()
            if self.phase != .closed {
                self.closeReason = "the client disconnected"
                self.closeAfterFlush()
            }
            return
        case .pubRec(let pubRec):
            self.core.router.received(pubRec, from: id)
        case .pubRel(let pubRel):
            self.core.router.release(pubRel.packetID, from: id)
        case .pubComp(let pubComp):
            self.core.router.completed(pubComp.packetID, from: id)
        case .auth:
            self.close(.protocolError, "AUTH without an authentication method (section 4.12)")
            return
        case .connect, .connAck, .subAck, .unsubAck, .pingResp:
            // The decoder lets none of these through.
            return
        }
        self.core.perform()
    }

    private func connect(_ connect: Connect) {
        self.version = connect.version
        self.maximumPacketSize = connect.properties.maximumPacketSize.map { Int($0) } ?? .max
        guard let peer = self.peer ?? self.identify?(connect) else {
            self.refuse(.notAuthorized, "nobody that is known here", connect)
            return
        }
        self.peer = peer
        if let (reason, words) = self.refusalToCount(peer) {
            self.core.transport.connectionsRefused[reason, default: 0] += 1
            self.refuse(.quotaExceeded, words, connect)
            return
        }
        switch self.core.connect(connect, peer: peer, handler: self) {
        case .refused(let code, let reason):
            self.refuse(code, reason, connect)
        case .accepted(let id, let connAck, let keepAlive):
            self.id = id
            self.phase = .open
            self.core.transport.connectionsAccepted += 1
            self.decoder.topicAliasMaximum = connect.version == .v5_0 ? self.core.limits.topicAliasMaximum : 0
            self.aliases = OutboundAliases(
                maximum: min(connect.properties.topicAliasMaximum ?? 0, self.core.limits.topicAliasMaximum))
            // One and a half times what was agreed on (MQTT-3.1.2-22), to the next tick.
            self.keepAlive = (UInt64(keepAlive) * 3 * BrokerCore.ticksPerSecond + 1) / 2
            self.write(.connAck(connAck))
            self.core.router.start(id)
            self.core.perform()
        }
    }

    private func refuse(_ code: ReasonCode, _ reason: String, _ connect: Connect) {
        self.core.transport.connectionsRefused[.connect, default: 0] += 1
        self.core.report(.connectRefused(peer: self.peer, clientID: connect.clientID, reason: reason))
        self.write(
            .connAck(ConnAck(sessionPresent: false, reasonCode: code, properties: [.reasonString(reason)])))
        self.closeAfterFlush()
    }

    /// The client broke the protocol: tell it why if it can be told, and end.
    private func fail(_ error: MQTTError) {
        if self.phase == .waiting { self.core.transport.connectionsRefused[.malformed, default: 0] += 1 }
        if error.code == .packetTooLarge {
            self.core.report(.packetTooLarge(peer: self.peer, address: self.address, reason: error.reason))
        } else {
            self.core.report(.malformed(peer: self.peer, address: self.address, error: error))
        }
        if self.phase == .waiting, self.decoder.refusedVersion == .v5_0 {
            self.version = .v5_0
            self.write(
                .connAck(
                    ConnAck(
                        sessionPresent: false, reasonCode: error.reasonCode, properties: [.reasonString(error.reason)]))
            )
        } else if self.phase == .waiting, error.code == .unsupportedVersion {
            // 3.1.1 has no return code for anything else: there the connection just ends.
            self.write(.connAck(ConnAck(sessionPresent: false, reasonCode: .unsupportedProtocolVersion)))
        }
        self.close(error.reasonCode, error.reason)
    }

    /// Back-pressure: what is not read stays with its sender.
    func hold() {
        guard !self.isHeld else { return }
        self.isHeld = true
        self.updateReading()
    }

    func resume() {
        guard self.isHeld else { return }
        self.isHeld = false
        self.lastPacketAt = self.core.ticks
        self.updateReading()
        // The caller is inside the router's actions: the packets that wait come in a moment of their own.
        let bound = NIOLoopBound(self, eventLoop: self.core.eventLoop)
        self.core.eventLoop.execute {
            if bound.value.isGone { bound.value.finish() } else { bound.value.process() }
        }
    }

    private func updateReading() {
        // Behind the end what still comes is read and forgotten.
        let isOn = self.phase == .closed || !(self.isHeld || self.isPaused || self.isChoked || self.isBacklogged)
        guard isOn != self.isAutoRead else { return }
        self.isAutoRead = isOn
        self.socket.setReading(isOn)
    }

    // MARK: Deadlines

    func checkDeadlines() {
        let now = self.core.ticks
        switch self.phase {
        case .handshake, .waiting:
            guard now - self.acceptedAt > UInt64(self.core.limits.connectDeadline) * BrokerCore.ticksPerSecond else {
                return
            }
            if self.phase == .handshake {
                self.refuseHandshake(.deadline, "no TLS handshake within \(self.core.limits.connectDeadline) s")
            } else {
                self.refuse(.deadline, "no CONNECT within \(self.core.limits.connectDeadline) s")
            }
        case .open:
            // Who is not read because of us cannot be blamed for its silence.
            guard self.keepAlive > 0, !self.isHeld, !self.isPaused, !self.isInLine,
                now - self.lastPacketAt > self.keepAlive
            else { return }
            self.close(.keepAliveTimeout, "silent for longer than its keep-alive")
        case .closed:
            return
        }
    }

    // MARK: Writing

    func write(_ packet: Packet) {
        guard self.phase != .closed else { return }
        self.markDirty()
        let start = self.out.writerIndex
        do throws(MQTTError) {
            try packet.encode(into: &self.out, version: self.version)
            guard self.out.writerIndex - start > self.maximumPacketSize else { return }
            // Too large for this client (MQTT-3.1.2-24): without its words it may fit (MQTT-3.2.2-19, 3.14.2-3).
            self.out.moveWriterIndex(to: start)
            switch packet {
            case .disconnect(let disconnect):
                let short = Packet.disconnect(Disconnect(reasonCode: disconnect.reasonCode))
                guard try short.encodedSize(version: self.version) <= self.maximumPacketSize else { return }
                try short.encode(into: &self.out, version: self.version)
            case .connAck(let connAck) where connAck.reasonCode.isFailure:
                let short = Packet.connAck(ConnAck(sessionPresent: false, reasonCode: connAck.reasonCode))
                guard try short.encodedSize(version: self.version) <= self.maximumPacketSize else { return }
                try short.encode(into: &self.out, version: self.version)
            case .connAck:
                // DISCONNECT may not come before CONNACK (MQTT-3.14.0-1).
                self.closeReason = "CONNACK is larger than the client takes"
                self.closeAfterFlush()
            default:
                self.close(.packetTooLarge, "an answer is larger than the client takes")
            }
        } catch {
            self.close(.implementationSpecificError, "\(error)")
        }
    }

    /// Four bytes, and by far the most frequent answer.
    func writePubAck(_ packetID: UInt16, _ code: ReasonCode) {
        guard self.phase == .open else { return }
        guard code == .success else {
            self.write(.pubAck(PubAck(packetID: packetID, reasonCode: code)))
            return
        }
        self.markDirty()
        self.out.writeInteger(UInt32(0x4002_0000) | UInt32(packetID))
    }

    func writePublish(_ message: Message, _ header: Router.Header, now: UInt64) {
        guard self.phase == .open else { return }
        self.markDirty()
        self.core.transport.messagesSentByQoS.add(header.qos)
        var publish = message.publish(
            qos: header.qos, retain: header.retain, isDuplicate: header.isDuplicate, packetID: header.packetID,
            subscriptionIDs: header.subscriptionIDs, now: now)
        do throws(MQTTError) {
            let isKnown = try self.aliases.apply(to: &publish, maximumPacketSize: self.maximumPacketSize)
            try publish.encode(into: &self.out, version: self.version, omitsTopic: isKnown)
        } catch {
            self.close(.implementationSpecificError, "\(error)")
        }
        // Enough for now: what more comes in this tick must see whether the client still takes it.
        if self.out.readableBytes > self.core.limits.slowConsumerBytes / 2 { self.flush() }
    }

    private func markDirty() {
        guard !self.isDirty else { return }
        self.isDirty = true
        self.out.reserveCapacity(min(self.lastFlush, 16_384))
        self.core.markDirty(self)
    }

    /// Hands over what was gathered.
    func flush() {
        self.isDirty = false
        guard self.out.readableBytes > 0 else { return }
        let out = self.out
        self.out = ByteBuffer()
        self.lastFlush = out.readableBytes
        self.core.transport.bytesSent &+= UInt64(out.readableBytes)
        self.socket.write(out)
        // The router sends nothing more to a slow client. Answers go on: who sends without taking them is read no
        // further, so that they cannot pile up.
        guard !self.socket.isWritable else { return }
        // A channel says so itself; of what is on its way to another loop nobody else does.
        if !self.socket.isNear, let id = self.id, self.phase == .open { self.core.router.setWritable(id, false) }
        self.untaken += self.lastFlush
        if self.untaken > 2 * self.core.limits.slowConsumerBytes, !self.isChoked {
            self.isChoked = true
            self.updateReading()
        }
    }

    /// The client has begun or stopped to take what it is sent.
    func writabilityChanged() {
        let isWritable = self.socket.isWritable
        if isWritable {
            self.untaken = 0
            if self.isChoked {
                self.isChoked = false
                self.process()
            }
            self.updateReading()
        }
        if let id = self.id, self.phase == .open {
            self.core.router.setWritable(id, isWritable)
            self.core.perform()
        }
    }

    // MARK: Closing

    /// Says why, if the client's version can be told, and closes.
    func close(_ code: ReasonCode, _ reason: String) {
        guard self.phase != .closed else { return }
        self.closeReason = reason
        if self.phase == .open, self.version == .v5_0 {
            self.write(.disconnect(Disconnect(reasonCode: code, properties: [.reasonString(reason)])))
        }
        self.closeAfterFlush()
    }

    private func closeAfterFlush() {
        guard self.phase != .closed else { return }
        self.flush()
        self.leave()
        if self.isGone { return self.finish() }
        guard self.admission == nil else { return self.socket.close() }
        // Closed with bytes of the client unread, the socket would throw away what was said last. So the client is
        // told that no more comes, and reads on its own time, for a moment. (TLS waits for its goodbye by itself.)
        self.updateReading()
        self.socket.closeOutput(thenAfter: Self.lingering)
    }

    private static let lingering = TimeAmount.seconds(1)
}
