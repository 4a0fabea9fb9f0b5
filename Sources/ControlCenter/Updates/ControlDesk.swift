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
    public static let interval = Duration.milliseconds(250)

    private let bus: any MessageBus
    private let store: ControlCenterStore
    private let signer: any Signer
    private let chain: [[UInt8]]
    private let clock: @Sendable () -> Timestamp
    private let logger: Logger
    private let heardHellos = Mutex<[(auditor: SPIFFEID, nonce: Nonce)]>([])
    private let notifier: AlertNotifier
    private let state: Mutex<State>

    private struct State {
        var dispatcher: UpdateDispatcher<ControlCenterStore>
        var watching: AlertDesk
        var trouble: String?
    }

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
        self.signer = signer
        self.chain = chain
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
        self.heardHellos.withLock { $0.append((auditor, nonce)) }
    }

    /// Works until shut down gracefully or cancelled.
    public func run() async throws {
        await cancelWhenGracefulShutdown {
            await withTaskGroup(of: Void.self) { group in
                // A mail server that does not answer holds up nothing else.
                group.addTask { await self.notifier.run() }
                group.addTask {
                    while !Task.isCancelled {
                        await self.turn()
                        try? await Task.sleep(for: Self.interval)
                    }
                }
            }
        }
    }

    private func turn() async {
        do {
            for message in try self.work() { await self.publish(message) }
            self.trouble(nil)
        } catch {
            self.trouble("\(error)")
        }
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

    /// One look at everything. Reads and writes the store: not for an event loop.
    private func work() throws -> [Outgoing] {
        let now = self.clock()
        let signer = AnySigner(self.signer)
        while try self.store.linkResults(at: now) {}
        let hellos = self.heardHellos.withLock { hellos in
            defer { hellos = [] }
            return hellos
        }
        var outgoing = try self.state.withLock { state in
            for hello in hellos { state.dispatcher.heard(hello.nonce, of: hello.auditor) }
            return try state.dispatcher.work(at: now, signer: signer, chain: self.chain)
        }
        for hello in hellos { outgoing += try self.store.unshownAlerts(of: hello.auditor, at: now) }
        let alerts = try self.store.unsignedAlerts(at: now)
        if !alerts.isEmpty { outgoing += try self.store.sign(alerts, at: now, by: signer) }
        try self.state.withLock { try $0.watching.work(at: now) }
        return outgoing
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
