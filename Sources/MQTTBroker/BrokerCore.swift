import Connections
import Foundation
import Identity
import Logging
import MQTT
import MessageBus
import NIOCore

/// Carries out what the router says, on the one event loop on which all sessions live.
///
/// What is written to a connection within a tick of the loop is gathered in its buffer and flushed once,
/// at the end of the tick, whoever caused it.
final class BrokerCore {
    let eventLoop: any EventLoop
    let limits: BrokerLimits
    var router: Router
    /// Half seconds since start: what deadlines and keep-alives are measured with.
    private(set) var ticks: UInt64 = 0
    private(set) var isShuttingDown = false
    /// Handshakes with an older TLS context let nobody in.
    private(set) var tlsGeneration: UInt64 = 0
    /// What connections count; the router counts the rest.
    var transport = BrokerStatistics()
    var addresses: ConnectionTable<NetworkAddress>
    var identities: ConnectionTable<String>
    /// The router's time is the calendar's at the start, and goes on by a clock that nobody sets: no expiry jumps when
    /// somebody sets the system's.
    private let start = (unix: BrokerCore.unixMilliseconds, uptime: NIODeadline.now())
    private var areFiguresDue = false

    private let store: (any SessionStore)?
    private let durability: BrokerDurability
    private var backlog = StoreBacklog()
    /// Fails when the store has given up.
    private let end: EventLoopPromise<Void>

    private let observer: (@Sendable (BrokerEvent) -> Void)?
    private let logger: Logger
    private var connections: [Connection?] = []
    /// Every handler, with a session or not, for deadlines and shutdown.
    private var handlers: [ObjectIdentifier: Connection] = [:]
    private var inProcess: [Int: LocalSession] = [:]
    private var nextInProcess = 1
    private var dirty: [Connection] = []
    private var dirtyInProcess: [Int] = []
    /// Connections with packets left over from their last turn, in order.
    private var line: [Connection] = []
    private var isTurnScheduled = false
    /// Whether anybody took the broker's figures when they were last published.
    private var hasReaders = false
    private var isFlushScheduled = false
    /// What is told of strangers, and of those who are known.
    private var logs: (strangers: RefusalLog, peers: RefusalLog)
    /// Told when everybody has left, at shutdown.
    private var emptied: EventLoopPromise<Void>?
    private var isPerforming = false
    private var assignedClientIDs: UInt64 = 0
    private let instance = UInt64.random(in: .min ... .max)

    private struct LocalSession {
        let session: InProcessSession
        var pending: [BusEvent] = []
    }

    /// - Parameters:
    ///   - restoring: what the store holds.
    ///   - end: failed when the store can keep nothing any more.
    init(
        eventLoop: any EventLoop, configuration: BrokerConfiguration, store: (any SessionStore)?,
        restoring: StoredState?, end: EventLoopPromise<Void>, logger: Logger
    ) {
        self.eventLoop = eventLoop
        self.limits = configuration.limits
        self.store = store
        self.durability = configuration.store?.durability ?? .safe
        self.end = end
        self.router = Router(
            limits: configuration.limits, authorizer: configuration.authorizer, restoring: restoring,
            waitsForStore: self.durability == .safe, now: Self.unixMilliseconds / 1_000)
        self.observer = configuration.observer
        self.logger = logger
        let limits = configuration.limits
        self.addresses = ConnectionTable(
            maximum: limits.maximumConnectionsPerAddress, rate: limits.connectionRatePerAddress)
        self.identities = ConnectionTable(
            maximum: limits.maximumConnectionsPerIdentity, rate: limits.connectionRatePerIdentity)
        let now = NIODeadline.now().uptimeNanoseconds
        self.logs = (RefusalLog(at: now), RefusalLog(at: now))
    }

    /// Of a clock that never goes back.
    var nanoseconds: UInt64 { NIODeadline.now().uptimeNanoseconds }

    /// Everything that is counted.
    var statistics: BrokerStatistics {
        var all = self.transport
        all.sockets = self.handlers.count
        all.include(self.router.statistics)
        all.queuedMessages = self.router.totals.messages
        all.queuedBytes = self.router.totals.bytes
        self.router.measureQueues(&all)
        return all
    }

    static let ticksPerSecond: UInt64 = 2

    private static var unixMilliseconds: UInt64 { UInt64(max(0, Date().timeIntervalSince1970 * 1_000)) }

    private var milliseconds: UInt64 {
        self.start.unix + UInt64(clamping: (NIODeadline.now() - self.start.uptime).nanoseconds / 1_000_000)
    }

    /// Before packets are dealt with, and before a connection is left: what begins then begins then.
    func updateTime() { self.router.setTime(milliseconds: self.milliseconds) }

    // MARK: Connections

    /// Connections beyond the limit that may come so far that they are told of it in CONNACK.
    private static let waitingRoom = 64

    /// - Returns: `false` if there are too many.
    func add(_ handler: Connection) -> Bool {
        guard self.handlers.count < self.limits.maximumConnections + Self.waitingRoom, !self.isShuttingDown else {
            return false
        }
        self.handlers[ObjectIdentifier(handler)] = handler
        return true
    }

    func remove(_ handler: Connection) {
        self.handlers[ObjectIdentifier(handler)] = nil
        if self.handlers.isEmpty { self.emptied?.succeed(()) }
    }

    /// When everybody has left, or after so long: those who do not hear our goodbye are not waited for.
    func waitUntilEmpty(atMost time: TimeAmount) -> EventLoopFuture<Void> {
        let emptied = self.eventLoop.makePromise(of: Void.self)
        guard !self.handlers.isEmpty else {
            emptied.succeed(())
            return emptied.futureResult
        }
        self.emptied = emptied
        let timer = self.eventLoop.scheduleTask(in: time) { emptied.succeed(()) }
        return emptied.futureResult.map { timer.cancel() }
    }

    func leave(_ id: ConnectionID, reason: String) {
        self.updateTime()
        self.connections[id.index] = nil
        self.router.connectionLost(id, reason: reason)
        self.perform()
    }

    func connect(
        _ packet: Connect, peer: PeerIdentity, handler: Connection
    ) -> Router.ConnectOutcome {
        let outcome = self.router.connect(packet, peer: peer) {
            self.assignedClientIDs += 1
            return "auto-" + String(self.instance, radix: 36) + "-" + String(self.assignedClientIDs)
        }
        self.perform()
        if case .accepted(let id, _, _) = outcome {
            while self.connections.count <= id.index { self.connections.append(nil) }
            self.connections[id.index] = handler
        }
        return outcome
    }

    func report(_ event: BrokerEvent) {
        switch event {
        case .connected, .disconnected:
            self.logger.debug("\(event)", metadata: event.metadata)
        default:
            // Anybody can cause these: what comes too fast is counted in the log, not told one by one. A crowd of
            // strangers does not silence what is said of peers.
            let now = self.nanoseconds
            let decision = event.isOfPeer ? self.logs.peers.next(at: now) : self.logs.strangers.next(at: now)
            switch decision {
            case .tell(let untold):
                if untold > 0 { self.logger.notice("\(untold) more events like these were not logged") }
                self.logger.notice("\(event)", metadata: event.metadata)
            case .skip: break
            }
        }
        self.observer?(event)
    }

    /// Carries out the router's actions. Called after each call into it; never runs inside itself.
    func perform() {
        guard !self.isPerforming else { return }
        self.isPerforming = true
        defer { self.isPerforming = false }
        var index = 0
        while index < self.router.actions.count {
            let action = self.router.actions[index]
            index += 1
            switch action {
            case .acknowledge(let id, let packetID, let code):
                self.handler(id)?.writePubAck(packetID, code)
            case .deliver(let id, let message, let header):
                self.handler(id)?.writePublish(message, header, now: self.router.now)
            case .deliverInProcess(let local, let message, let qos, let retain, let token):
                self.deliver(message, qos, retain: retain, token: token, to: local)
            case .send(let id, let packet):
                self.handler(id)?.write(packet)
            case .persist(let change):
                self.backlog.add(change)
                self.scheduleFlush()
            case .close(let id, let code, let reason):
                self.handler(id)?.close(code, reason)
            case .hold(let id):
                self.handler(id)?.hold()
            case .resume(let id):
                self.handler(id)?.resume()
            case .pumpLater(let id):
                let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
                self.eventLoop.execute {
                    bound.value.router.pump(id)
                    bound.value.perform()
                }
            case .wantFigures:
                self.figuresAreWanted()
            case .event(let event):
                self.report(event)
            }
        }
        self.router.actions.removeAll(keepingCapacity: true)
    }

    private func handler(_ id: ConnectionID) -> Connection? {
        guard id.index < self.connections.count, let handler = self.connections[id.index], handler.id == id else {
            return nil
        }
        return handler
    }

    // MARK: Flushing

    func markDirty(_ handler: Connection) {
        self.dirty.append(handler)
        self.scheduleFlush()
    }

    private func scheduleFlush() {
        guard !self.isFlushScheduled else { return }
        self.isFlushScheduled = true
        // Tasks run after all that was readable in this tick has been read.
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        self.eventLoop.execute { bound.value.flushAll() }
    }

    /// Takes the connection's next turn when everybody else has had theirs.
    func standInLine(_ handler: Connection) {
        self.line.append(handler)
        self.scheduleTurn()
    }

    private func scheduleTurn() {
        guard !self.isTurnScheduled else { return }
        self.isTurnScheduled = true
        // Not `execute`: the loop runs all that is executed before it looks at the sockets again, so that the loud
        // ones would be alone. What lies a moment ahead waits until the others have been read.
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        self.eventLoop.scheduleTask(in: .microseconds(20)) { bound.value.takeTurns() }
    }

    private func takeTurns() {
        var turns: [Connection] = []
        swap(&turns, &self.line)
        for handler in turns { handler.takeTurn() }
        self.flushAll()
        // Scheduled anew at the end, so that its moment has not passed when the loop looks.
        self.isTurnScheduled = false
        if !self.line.isEmpty { self.scheduleTurn() }
    }

    private func flushAll() {
        self.isFlushScheduled = false
        self.appendChanges()
        var handlers: [Connection] = []
        swap(&handlers, &self.dirty)
        for handler in handlers { handler.flush() }
        handlers.removeAll(keepingCapacity: true)
        if self.dirty.isEmpty { swap(&handlers, &self.dirty) }
        for local in self.dirtyInProcess {
            guard var state = self.inProcess[local] else { continue }
            self.inProcess[local]?.pending = []
            if state.session.push(&state.pending, limits: self.limits) {
                self.router.setFull(local, true)
            }
        }
        self.dirtyInProcess.removeAll(keepingCapacity: true)
    }

    // MARK: Storing

    /// Hands the store what has changed in this tick, whole calls into the router only.
    private func appendChanges() {
        guard let store = self.store, let batch = self.backlog.take() else { return }
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        let eventLoop = self.eventLoop
        let (count, bytes, last) = (batch.changes.count, batch.bytes, batch.last)
        store.append(batch.changes) { result in
            eventLoop.execute { bound.value.stored(count, bytes: bytes, through: last, result) }
        }
        self.adjustPressure()
    }

    private func stored(_ count: Int, bytes: Int, through last: UInt64, _ result: Result<Void, any Error>) {
        switch result {
        case .success:
            self.backlog.remove(changes: count, bytes: bytes)
            if self.durability == .safe { self.router.committed(through: last) }
            self.adjustPressure()
            self.perform()
        case .failure(let error):
            // At the end there is nobody left to be told, and the store has logged it.
            if !self.isShuttingDown { self.end.fail(error) }
        }
    }

    private func adjustPressure() {
        guard self.backlog.measure() else { return }
        if self.backlog.isFull { self.logger.warning("the store of sessions lags: publishers wait for it") }
        self.router.setStoreFull(self.backlog.isFull)
        self.perform()
    }

    /// Carries out what the router has to say of what it was restored from.
    func begin() { self.perform() }

    // MARK: $SYS

    /// Somebody has subscribed to the broker's figures: they come at once, and then every ten seconds.
    private func figuresAreWanted() {
        self.hasReaders = true
        guard !self.areFiguresDue else { return }
        self.areFiguresDue = true
        // Once for all that is done before the loop looks again.
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        self.eventLoop.execute { bound.value.publishFigures() }
    }

    private func publishFigures() {
        self.areFiguresDue = false
        guard self.hasReaders else { return }
        var wasTaken = false
        let seconds = self.ticks / Self.ticksPerSecond
        for (name, value) in [("uptime", seconds)] + self.statistics.figures {
            guard let topic = try? TopicName("$SYS/broker/\(name)") else { continue }
            if self.router.publishOwn(topic, ByteBuffer(string: String(value))) { wasTaken = true }
        }
        // Until somebody subscribes again.
        self.hasReaders = wasTaken
        self.perform()
    }

    // MARK: Time

    /// Called twice a second.
    func tick() {
        self.ticks += 1
        self.router.advance(toMilliseconds: self.milliseconds)
        for handler in Array(self.handlers.values) { handler.checkDeadlines() }
        if self.ticks.isMultiple(of: 60 * Self.ticksPerSecond) { self.recheckPeers() }
        if self.ticks.isMultiple(of: 10 * Self.ticksPerSecond) { self.publishFigures() }
        self.perform()
    }

    /// Asks for each live connection whether its peer may stay.
    ///
    /// - Returns: how many were disconnected.
    @discardableResult
    func recheckPeers() -> Int {
        var count = 0
        for handler in Array(self.handlers.values) where handler.closeUnlessStanding() { count += 1 }
        return count
    }

    func disconnect(
        _ code: ReasonCode, _ reason: String, endingSessions: Bool, where isUnwanted: (PeerIdentity) -> Bool
    ) -> Int {
        var count = 0
        for handler in Array(self.handlers.values) {
            guard let peer = handler.peer, isUnwanted(peer) else { continue }
            handler.close(code, reason)
            count += 1
        }
        if endingSessions {
            self.router.removeSessions(where: isUnwanted)
            self.perform()
        }
        return count
    }

    /// What is within a TLS handshake begins anew.
    ///
    /// - Parameter generation: of the new TLS context.
    func endHandshakes(before generation: UInt64) {
        self.tlsGeneration = max(self.tlsGeneration, generation)
        for handler in Array(self.handlers.values) { handler.endHandshake() }
    }

    func shutDown() {
        self.isShuttingDown = true
        self.router.publishWillsAtShutdown()
        self.perform()
        for handler in Array(self.handlers.values) { handler.close(.serverShuttingDown, "the broker shuts down") }
        for (_, state) in self.inProcess { state.session.end() }
        self.inProcess = [:]
        // That everybody has left.
        self.appendChanges()
    }

    // MARK: In-process sessions

    func openInProcess(
        _ session: InProcessSession, peer: PeerIdentity, clientID: String, subscriptions: [Subscription]
    ) -> (Int?, String?) {
        guard !self.isShuttingDown else { return (nil, "the broker has shut down") }
        let local = self.nextInProcess
        self.nextInProcess += 1
        self.inProcess[local] = LocalSession(session: session, pending: [.connected])
        let refusal = self.router.openInProcess(
            local, peer: peer, clientID: clientID, subscriptions: subscriptions)
        if let refusal {
            self.inProcess[local] = nil
            self.router.actions.removeAll(keepingCapacity: true)
            return (nil, refusal)
        }
        self.dirtyInProcess.append(local)
        self.scheduleFlush()
        self.perform()
        return (local, nil)
    }

    func closeInProcess(_ local: Int) {
        self.inProcess.removeValue(forKey: local)?.session.end()
        self.router.closeInProcess(local)
        self.perform()
    }

    private func deliver(_ message: Message, _ qos: QoS, retain: Bool, token: UInt64?, to local: Int) {
        guard let session = self.inProcess[local]?.session else { return }
        if self.inProcess[local]?.pending.isEmpty == true {
            self.dirtyInProcess.append(local)
            self.scheduleFlush()
        }
        self.inProcess[local]?.pending.append(
            .delivery(
                Delivery(
                    topic: message.topic, payload: message.payload, qos: qos, isRetained: retain,
                    sender: message.sender,
                    settlement: token.map { Delivery.Settlement(target: session, token: $0) })))
    }

    func settle(_ tokens: [UInt64]) {
        for token in tokens { self.router.settle(token) }
        self.perform()
    }

    func drained(_ local: Int) {
        self.router.setFull(local, false)
        self.perform()
    }

    func publish(_ messages: [InProcessSession.Outgoing], from local: Int) {
        for message in messages {
            let refusal = self.router.publish(message.publish, fromInProcess: local)
            self.perform()
            message.done(refusal)
        }
    }
}
