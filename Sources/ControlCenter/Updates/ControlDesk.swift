import Dispatch
public import Identity
public import Logging
import MQTT
public import MessageBus
import NIOCore
public import ServiceLifecycle
import Synchronization
public import Telemetry

/// The part of a control center that acts: sends the updates and alerts that are asked for, links results to them, and
/// watches what is stored by its rules. A thin driver around ``UpdateDispatcher`` and ``AlertWatch``; everything it
/// knows is in the store, so that it can die at any moment.
public final class ControlDesk: Service {
    /// How often the store is looked at: operators write into it from processes of their own.
    private static let interval = Duration.milliseconds(250)

    private let bus: any MessageBus
    private let store: ControlCenterStore
    private let own: Mutex<Own>
    private let clock: @Sendable () -> Timestamp
    private let logger: Logger
    /// The newest nonce of each auditor that has said hello since the last look.
    private let heardHellos = Mutex<[SPIFFEID: Nonce]>([:])
    private let notifier: AlertNotifier
    private let state: Mutex<State>
    /// Where the store is read and written: that waits for the disk, which no thread of the cooperative pool should.
    private let queue = DispatchQueue(label: "control-desk", qos: .utility)

    /// The control center's certificate and intermediate, DER, and its key.
    private struct Own: Sendable {
        let signer: any Signer
        let chain: [[UInt8]]
    }

    private struct State {
        var dispatcher: UpdateDispatcher<ControlCenterStore>
        var watching: AlertDesk
        var trouble: String?
        var isFull = false
        var broadcasts: [Broadcast] = []
    }

    /// An alert to all. Whoever says hello wants what it has not shown, and a fleet that comes back says many hellos.
    private struct Broadcast {
        let message: Outgoing
        var sent = Timestamp(nanoseconds: 0)
        var isWanted = true
    }

    /// One alert is sent to all so often at most.
    private static let broadcastEvery: Int64 = 10_000_000_000

    /// - Parameters:
    ///   - signer: the control center's own certificate and key.
    ///   - chain: the control center's certificate and intermediate, DER.
    ///   - rules: when people are to be told of something.
    ///   - notifications: how they are told.
    public init(
        bus: any MessageBus, store: ControlCenterStore, signer: any Signer, chain: [[UInt8]],
        rules: AlertRules = AlertRules(), notifications: NotificationSettings = NotificationSettings(),
        logger: Logger = Logger(label: "control-desk"), clock: @escaping @Sendable () -> Timestamp = systemClock
    ) {
        self.bus = bus
        self.store = store
        self.own = Mutex(Own(signer: signer, chain: chain))
        self.clock = clock
        self.logger = logger
        self.notifier = AlertNotifier(store: store, settings: notifications, clock: clock, logger: logger)
        self.state = Mutex(
            State(
                dispatcher: UpdateDispatcher(store: store),
                watching: AlertDesk(store: store, rules: rules, channels: notifications.channels)))
    }

    /// A hello was verified and its commit is durable.
    public func heard(_ auditor: SPIFFEID, _ nonce: Nonce) {
        self.heardHellos.withLock { $0[auditor] = nonce }
    }

    /// Signs with another certificate of the same control center, from the next look on.
    ///
    /// - Parameter chain: the certificate and its intermediate, DER.
    public func renew(_ signer: any Signer, chain: [[UInt8]]) {
        self.own.withLock { $0 = Own(signer: signer, chain: chain) }
    }

    /// Works until shut down gracefully or cancelled.
    public func run() async throws {
        await cancelWhenGracefulShutdown {
            await withTaskGroup(of: Void.self) { group in
                // A mail server that does not answer holds up nothing else.
                group.addTask { await self.notifier.run() }
                group.addTask {
                    while !Task.isCancelled {
                        guard await !self.turn() else { continue }
                        try? await Task.sleep(for: Self.interval)
                    }
                }
            }
        }
    }

    /// - Returns: Whether there is more to do at once.
    private func turn() async -> Bool {
        let (outgoing, isBehind, failure) = await withCheckedContinuation { continuation in
            self.queue.async { continuation.resume(returning: self.work()) }
        }
        for message in outgoing { await self.publish(message) }
        self.trouble(failure.map { "\($0)" })
        return isBehind && failure == nil
    }

    /// Said once, until it is over.
    private func trouble(_ reason: String?) {
        let former = self.state.withLock { state in
            defer { state.trouble = reason }
            return state.trouble
        }
        guard let reason, former != reason else { return }
        self.logger.error("updates and alerts wait", metadata: ["reason": "\(reason)"])
    }

    /// One look at everything. Reads and writes the store. A step that fails holds up no other:
    /// what one has recorded leaves, whatever becomes of the next.
    private func work() -> (outgoing: [Outgoing], isBehind: Bool, failure: (any Error)?) {
        let now = self.clock()
        let own = self.own.withLock { $0 }
        let signer = AnySigner(own.signer)
        var outgoing: [Outgoing] = []
        var isBehind = false
        var failure: (any Error)?
        func step(_ body: () throws -> Void) {
            do { try body() } catch { failure = failure ?? error }
        }
        step {
            var isMore = true
            while isMore {
                let linked = try self.store.linkResults(at: now)
                isMore = linked.isMore
                self.state.withLock { state in
                    for (id, auditor) in linked.late { state.dispatcher.refusedAsLate(id, by: auditor) }
                }
            }
        }
        let hellos = self.heardHellos.withLock { hellos in
            defer { hellos = [:] }
            return hellos
        }
        step {
            outgoing += try self.state.withLock { state in
                for (auditor, nonce) in hellos { state.dispatcher.heard(nonce, of: auditor) }
                return try state.dispatcher.work(at: now, signer: signer, chain: own.chain)
            }
        }
        for auditor in hellos.keys {
            step {
                for message in try self.store.unshownAlerts(of: auditor, at: now) {
                    if case .alertsToAll = message.topic { self.want(message) } else { outgoing.append(message) }
                }
            }
        }
        outgoing += self.wantedBroadcasts(at: now)
        step {
            let alerts = try self.store.unsignedAlerts(at: now)
            if !alerts.isEmpty { outgoing += try self.store.sign(alerts, at: now, by: signer) }
        }
        step {
            isBehind = try self.state.withLock { try $0.watching.work(at: now) }
        }
        self.sayIfFull()
        return (outgoing, isBehind, failure)
    }

    private func want(_ message: Outgoing) {
        self.state.withLock { state in
            if let index = state.broadcasts.firstIndex(where: { $0.message.bytes == message.bytes }) {
                state.broadcasts[index].isWanted = true
            } else {
                state.broadcasts.append(Broadcast(message: message))
            }
        }
    }

    private func wantedBroadcasts(at now: Timestamp) -> [Outgoing] {
        self.state.withLock { state in
            var outgoing: [Outgoing] = []
            for index in state.broadcasts.indices
            where now.nanoseconds - state.broadcasts[index].sent.nanoseconds >= Self.broadcastEvery {
                guard state.broadcasts[index].isWanted else { continue }
                outgoing.append(state.broadcasts[index].message)
                state.broadcasts[index].sent = now
                state.broadcasts[index].isWanted = false
            }
            state.broadcasts.removeAll {
                !$0.isWanted && now.nanoseconds - $0.sent.nanoseconds >= Self.broadcastEvery
            }
            return outgoing
        }
    }

    /// Said once.
    private func sayIfFull() {
        let isNew = self.state.withLock { state in
            defer { state.isFull = state.watching.isFull }
            return state.watching.isFull && !state.isFull
        }
        if isNew { self.logger.warning("the rules do not watch everything: auditors send too many series or alerts") }
    }

    private func publish(_ message: Outgoing) async {
        do {
            try await self.bus.publish(
                topic: try TopicName(message.topic.description), payload: ByteBuffer(bytes: message.bytes),
                qos: .atLeastOnce, retain: message.isRetained)
        } catch {
            // It is sent again at the next hello, or after a minute.
            self.logger.notice("cannot publish", metadata: ["topic": "\(message.topic)", "reason": "\(error)"])
        }
    }
}
