import MQTT
import MessageBus
import NIOCore
import Synchronization

/// Between the tasks that publish, receive and settle, and the connection's event loop. It outlives
/// connections, and keeps the session between them.
///
/// What the tasks ask for is collected; the event loop is woken once for all of it.
final class ClientLink: SettlementTarget {
    typealias Session = ClientSession<PublishWaiter>

    /// What the event loop is to do. Arrays swap places with the event loop's, so that they keep their capacity.
    struct Work: Sendable {
        var messages: [(message: OutgoingMessage, waiter: PublishWaiter)] = []
        /// Messages to be taken over for later delivery.
        var enqueued: [(message: OutgoingMessage, waiter: PublishWaiter)] = []
        var requests: [(request: Session.Request, waiter: PublishWaiter)] = []
        /// Where deliveries go has changed: all routes that there are now.
        var routes: [any MessageRoute]?
        var settled: [UInt64] = []
        var cancelled: [UInt64] = []
        var madeRoom = false
        var shutsDown = false
        var aborts = false
        /// What is said at the end.
        var farewell = Disconnect()

        /// Whether there is something to do without a connection.
        var isForOffline: Bool {
            !self.messages.isEmpty || !self.enqueued.isEmpty || !self.requests.isEmpty || !self.cancelled.isEmpty
                || !self.settled.isEmpty
        }

        mutating func removeAll() {
            self.messages.removeAll(keepingCapacity: true)
            self.enqueued.removeAll(keepingCapacity: true)
            self.requests.removeAll(keepingCapacity: true)
            self.routes = nil
            self.settled.removeAll(keepingCapacity: true)
            self.cancelled.removeAll(keepingCapacity: true)
            self.madeRoom = false
        }
    }

    private struct State: Sendable {
        /// While there is no connection.
        var session: Session?
        /// While there is one.
        var handler: NIOLoopBound<ClientHandler>?
        var work = Work()
        var isScheduled = false
        var isClosed = false
        var routes: [any MessageRoute] = []
        var lastIdentifier: UInt32 = 0
        var responses: Task<PendingResponses, any Error>?
        /// Why the client had to stop.
        var failure: MQTTClientError?
        /// Channels that are not connected yet, and a wait for the next attempt: what a shutdown interrupts.
        var connecting: [any Channel] = []
        var pause: Task<Void, Never>?
    }

    let events: EventQueue
    let configuration: MQTTClientConfiguration
    /// The one thread on which a session with a store is used.
    private let home: (any EventLoop)?
    private let state: Mutex<State>
    private let lastID = Atomic<UInt64>(0)

    /// - Parameter home: With a session store: where all connections live, and what may be blocked.
    /// - Throws: ``MQTTClientError`` with code `session-store`.
    init(configuration: MQTTClientConfiguration, home: (any EventLoop)?) throws(MQTTClientError) {
        self.configuration = configuration
        self.home = home
        var stored: StoredSession?
        do {
            stored = try configuration.sessionStore?.load(clientID: configuration.clientID)
        } catch {
            throw MQTTClientError(.sessionStore, "\(error)")
        }
        self.events = EventQueue(
            maximumDeliveries: configuration.maximumBufferedDeliveries, maximumBytes: configuration.maximumBufferedBytes
        )
        self.state = Mutex(State(session: Session(configuration: configuration, stored: stored)))
    }

    // MARK: For the tasks

    /// Publishes and waits for the outcome.
    func publish(_ message: OutgoingMessage) async throws {
        _ = try await self.outcome { waiter in self.post(CollectionOfOne(message)) { _ in waiter } }
    }

    /// Takes a message over and waits until it is in the store.
    func enqueue(_ message: OutgoingMessage) async throws {
        _ = try await self.outcome { waiter in
            var actions: [Session.Action] = []
            self.change { state in
                if state.isClosed {
                    actions.append(.complete(waiter, .failed(Self.closed)))
                } else if state.handler != nil || self.home != nil {
                    state.work.enqueued.append((message, waiter))
                } else {
                    state.session?.enqueue(message, for: waiter, into: &actions)
                }
            }
            Self.complete(actions)
        }
    }

    /// Asks the server and waits for its answer.
    func ask(_ request: Session.Request) async throws -> [ReasonCode] {
        let outcome = try await self.outcome { waiter in
            let isConnected = self.change { state in
                guard state.handler != nil else { return false }
                state.work.requests.append((request, waiter))
                return true
            }
            if !isConnected { waiter.resume(.failed(MQTTClientError(.notConnected, "not connected"))) }
        }
        if case .answered(let codes) = outcome { return codes }
        return []
    }

    private func outcome(_ post: (PublishWaiter) -> Void) async throws -> Outcome {
        try Task.checkCancellation()
        let id = self.lastID.add(1, ordering: .relaxed).newValue
        let outcome = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in post(.single(continuation, id: id)) }
        } onCancel: {
            self.cancel(id)
        }
        switch outcome {
        case .done, .answered: return outcome
        case .failed(let error): throw error
        case .cancelled: throw CancellationError()
        }
    }

    /// Publishes many and waits for all outcomes, in the order of the messages.
    func publish(batch messages: [OutgoingMessage]) async throws -> [BusError?] {
        try Task.checkCancellation()
        guard !messages.isEmpty else { return [] }
        let id = self.lastID.add(1, ordering: .relaxed).newValue
        let outcomes = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                let batch = PublishBatch(id: id, count: messages.count, continuation: continuation)
                self.post(messages) { .batch(batch, index: $0) }
            }
        } onCancel: {
            self.cancel(id)
        }
        return try outcomes.map { outcome in
            switch outcome {
            case .done, .answered: return nil
            case .failed(let error): return error.busError
            case .cancelled: throw CancellationError()
            }
        }
    }

    private static let closed = MQTTClientError(.closed, "the client has shut down")

    private func post(_ messages: some Collection<OutgoingMessage>, waiter: (Int) -> PublishWaiter) {
        var actions: [Session.Action] = []
        self.change { state in
            for (index, message) in messages.enumerated() {
                if state.isClosed {
                    actions.append(.complete(waiter(index), .failed(Self.closed)))
                } else if state.handler != nil || self.home != nil {
                    state.work.messages.append((message, waiter(index)))
                } else {
                    state.session?.publish(message, for: waiter(index), into: &actions)
                }
            }
        }
        Self.complete(actions)
    }

    private func cancel(_ id: UInt64) {
        var actions: [Session.Action] = []
        self.change { state in
            if state.handler != nil || self.home != nil {
                state.work.cancelled.append(id)
            } else {
                state.session?.cancel(where: { $0.id == id }, into: &actions)
            }
        }
        Self.complete(actions)
    }

    // MARK: Routes

    /// An identifier for a subscription; `nil` where the server knows none.
    func nextIdentifier(_ server: ServerInformation) -> UInt32? {
        guard self.configuration.version == .v5_0, server.subscriptionIdentifiersAvailable else { return nil }
        return self.state.withLock { state in
            state.lastIdentifier = state.lastIdentifier == 268_435_455 ? 1 : state.lastIdentifier + 1
            return state.lastIdentifier
        }
    }

    /// From now on messages go there if it wants them. Those of a resumed session that came before are handed over.
    func add(_ route: some MessageRoute) {
        // The event loop, when it sees the new route, moves what came before: nothing is pushed in between.
        self.change { state in
            guard !state.isClosed else {
                route.finish(Self.closed)
                return
            }
            state.routes.append(route)
            state.work.routes = state.routes
        }
    }

    func remove(_ route: some MessageRoute & AnyObject) {
        self.change { state in
            state.routes.removeAll { ($0 as AnyObject) === route }
            state.work.routes = state.routes
        }
    }

    /// All routes, for a connection that begins.
    var routes: [any MessageRoute] { self.state.withLock { $0.routes } }

    /// A route has room again.
    func routeMadeRoom() { self.change { $0.work.madeRoom = true } }

    /// The answers to our requests, subscribed to once for each connection.
    func responses(_ make: @escaping @Sendable () async throws -> PendingResponses) async throws -> PendingResponses {
        let task = self.state.withLock { state in
            if let task = state.responses { return task }
            let task = Task { try await make() }
            state.responses = task
            return task
        }
        do {
            return try await task.value
        } catch {
            // The next request tries again.
            self.state.withLock { if $0.responses == task { $0.responses = nil } }
            throw error
        }
    }

    func receive() async throws -> [BusEvent]? {
        try await self.events.receive { self.change { $0.work.madeRoom = true } }
    }

    func settle(_ token: UInt64) {
        // Without a connection there is nothing to acknowledge: the message will come again. Of a QoS 2 message the
        // session remembers that it is settled, and does not deliver it again.
        self.change { state in
            guard !state.isClosed else { return }
            if state.handler != nil || self.home != nil {
                state.work.settled.append(token)
            } else {
                var actions: [Session.Action] = []
                state.session?.settle(token, into: &actions)
            }
        }
    }

    /// Outstanding publishes are waited for, then the connection is closed in good order.
    func shutDown() { self.end { $0.shutsDown = true } }

    /// The connection is closed at once.
    func abort() { self.end { $0.aborts = true } }

    /// What is said to the server at the end.
    func setFarewell(_ farewell: Disconnect) { self.change { $0.work.farewell = farewell } }

    /// Whether it is to end, one way or the other.
    var isEnding: Bool { self.state.withLock { $0.work.shutsDown || $0.work.aborts || $0.failure != nil } }

    /// Why the client had to stop by itself; `nil` if it had not.
    var failure: MQTTClientError? { self.state.withLock { $0.failure } }

    private func end(_ how: (inout Work) -> Void) {
        var connecting: [any Channel] = []
        var pause: Task<Void, Never>?
        self.change { state in
            how(&state.work)
            connecting = state.connecting
            state.connecting = []
            pause = state.pause
        }
        for channel in connecting { channel.close(promise: nil) }
        pause?.cancel()
        self.events.stopWaiting()
    }

    /// Changes the state, and wakes the event loop unless it is about to look anyway.
    @discardableResult
    private func change<Value>(_ body: (inout State) -> Value) -> Value {
        let (value, handler, isOffline): (Value, NIOLoopBound<ClientHandler>?, Bool) = self.state.withLock { state in
            let value = body(&state)
            guard !state.isScheduled else { return (value, nil, false) }
            if let handler = state.handler {
                state.isScheduled = true
                return (value, handler, false)
            }
            guard self.home != nil, !state.isClosed, state.work.isForOffline else { return (value, nil, false) }
            state.isScheduled = true
            return (value, nil, true)
        }
        if let handler {
            handler.eventLoop.execute { handler.value.drain() }
        } else if isOffline {
            self.home?.execute { self.drainOffline() }
        }
        return value
    }

    /// With a store, also what is asked without a connection is done on the home thread: nobody else is blocked.
    private func drainOffline() {
        var actions: [Session.Action] = []
        let changes: [SessionChange] = self.state.withLock { state in
            state.isScheduled = false
            guard state.handler == nil, var session = state.session else { return [] }
            state.session = nil
            Self.perform(&state.work, on: &session, into: &actions)
            let changes = session.takeChanges()
            state.session = session
            return changes
        }
        Self.complete(actions, error: self.commit(changes))
    }

    /// Makes changes durable.
    ///
    /// - Returns: Why that failed: the client has stopped then.
    func commit(_ changes: [SessionChange]) -> MQTTClientError? {
        guard !changes.isEmpty, let store = self.configuration.sessionStore else { return nil }
        do {
            if let failure = self.failure { throw failure }
            try store.commit(changes)
            return nil
        } catch {
            let failure = (error as? MQTTClientError) ?? MQTTClientError(.sessionStore, "\(error)")
            self.state.withLock { if $0.failure == nil { $0.failure = failure } }
            self.abort()
            return failure
        }
    }

    private static func perform(_ work: inout Work, on session: inout Session, into actions: inout [Session.Action]) {
        for (message, waiter) in work.messages { session.publish(message, for: waiter, into: &actions) }
        for (message, waiter) in work.enqueued { session.enqueue(message, for: waiter, into: &actions) }
        for token in work.settled { session.settle(token, into: &actions) }
        for (request, waiter) in work.requests { session.ask(request, for: waiter, into: &actions) }
        for id in work.cancelled { session.cancel(where: { $0.id == id }, into: &actions) }
        work.removeAll()
    }

    /// - Parameter error: Why what was to be done first has failed.
    static func complete(_ actions: [Session.Action], error: MQTTClientError? = nil) {
        for case .complete(let waiter, let outcome) in actions { waiter.resume(error.map { .failed($0) } ?? outcome) }
    }

    // MARK: For the event loop

    /// A connection begins: takes the session.
    ///
    /// - Returns: `nil` if there is another connection or the link is closed.
    func attach(_ handler: NIOLoopBound<ClientHandler>) -> Session? {
        self.state.withLock { state in
            guard let session = state.session else { return nil }
            state.session = nil
            state.handler = handler
            state.connecting = []
            return session
        }
    }

    /// Swaps `work`, which must be empty, for what there is to do.
    func take(_ work: inout Work) {
        self.state.withLock { state in
            state.isScheduled = false
            work.shutsDown = state.work.shutsDown
            work.aborts = state.work.aborts
            work.farewell = state.work.farewell
            swap(&state.work, &work)
        }
    }

    /// The connection has ended: gives the session back.
    func detach(_ session: consuming Session, error: MQTTClientError) {
        var actions: [Session.Action] = []
        let returned = session
        let changes: [SessionChange] = self.state.withLock { state in
            var session = returned
            // These came after the event loop last looked.
            let cancelled = state.work.cancelled
            state.work.cancelled = []
            Self.perform(&state.work, on: &session, into: &actions)
            session.disconnected(error, isFinal: state.isClosed, into: &actions)
            for id in cancelled { session.cancel(where: { $0.id == id }, into: &actions) }
            let changes = session.takeChanges()
            state.session = session
            state.handler = nil
            state.isScheduled = false
            return changes
        }
        Self.complete(actions, error: self.commit(changes))
    }

    /// No connection will follow.
    func close(_ error: MQTTClientError) {
        var actions: [Session.Action] = []
        let routes: [any MessageRoute] = self.state.withLock { state in
            state.isClosed = true
            if state.handler == nil, var session = state.session {
                state.session = nil
                Self.perform(&state.work, on: &session, into: &actions)
                session.disconnected(error, isFinal: true, into: &actions)
                // Nothing is accepted any more: what these would store is lost, and they are told so.
                if !session.takeChanges().isEmpty { actions = actions.map { Self.failing($0, error) } }
                state.session = session
            }
            let routes = state.routes
            state.routes = []
            return routes
        }
        Self.complete(actions)
        for route in routes { route.finish(error) }
        self.events.finish()
    }

    private static func failing(_ action: Session.Action, _ error: MQTTClientError) -> Session.Action {
        if case .complete(let waiter, .done) = action { return .complete(waiter, .failed(error)) }
        return action
    }

    // MARK: For whoever connects

    /// Another attempt: the channels of the one before are closed.
    func beginAttempt() { self.state.withLock { $0.connecting = [] } }

    /// A channel that a shutdown is to close before it is connected.
    func isConnecting(_ channel: any Channel) {
        let isTooLate = self.state.withLock { state in
            if state.work.shutsDown || state.work.aborts { return true }
            state.connecting.append(channel)
            return false
        }
        if isTooLate { channel.close(promise: nil) }
    }

    /// Waits for a sleep that a shutdown cuts short.
    func pause(_ sleep: @escaping @Sendable () async -> Void) async {
        let task = Task { await sleep() }
        let isTooLate = self.state.withLock { state in
            state.pause = task
            return state.work.shutsDown || state.work.aborts
        }
        if isTooLate { task.cancel() }
        await withTaskCancellationHandler {
            await task.value
        } onCancel: {
            task.cancel()
        }
        self.state.withLock { $0.pause = nil }
    }
}
