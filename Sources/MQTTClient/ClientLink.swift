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
        var settled: [UInt64] = []
        var cancelled: [UInt64] = []
        var madeRoom = false
        var shutsDown = false
        var aborts = false

        mutating func removeAll() {
            self.messages.removeAll(keepingCapacity: true)
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
        /// Channels that are not connected yet, and a wait for the next attempt: what a shutdown interrupts.
        var connecting: [any Channel] = []
        var pause: Task<Void, Never>?
    }

    let events: EventQueue
    private let state: Mutex<State>
    private let lastID = Atomic<UInt64>(0)

    init(configuration: MQTTClientConfiguration) {
        self.events = EventQueue(
            maximumDeliveries: configuration.maximumBufferedDeliveries, maximumBytes: configuration.maximumBufferedBytes
        )
        self.state = Mutex(State(session: Session(configuration: configuration)))
    }

    // MARK: For the tasks

    /// Publishes and waits for the outcome.
    func publish(_ message: OutgoingMessage) async throws {
        try Task.checkCancellation()
        let id = self.lastID.add(1, ordering: .relaxed).newValue
        let outcome = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                self.post(CollectionOfOne(message)) { _ in .single(continuation, id: id) }
            }
        } onCancel: {
            self.cancel(id)
        }
        switch outcome {
        case .done: return
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
            case .done: return nil
            case .failed(let error): return error
            case .cancelled: throw CancellationError()
            }
        }
    }

    private func post(_ messages: some Collection<OutgoingMessage>, waiter: (Int) -> PublishWaiter) {
        var actions: [Session.Action] = []
        self.change { state in
            for (index, message) in messages.enumerated() {
                if state.isClosed {
                    let error = BusError(.closed, "the client has shut down")
                    actions.append(.complete(waiter(index), .failed(error)))
                } else if state.handler != nil {
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
            if state.handler != nil {
                state.work.cancelled.append(id)
            } else {
                state.session?.cancel(where: { $0.id == id }, into: &actions)
            }
        }
        Self.complete(actions)
    }

    func receive() async throws -> [BusEvent]? {
        try await self.events.receive { self.change { $0.work.madeRoom = true } }
    }

    func settle(_ token: UInt64) {
        // Without a connection there is nothing to acknowledge: the message will come again.
        self.change { if $0.handler != nil { $0.work.settled.append(token) } }
    }

    /// Outstanding publishes are waited for, then the connection is closed in good order.
    func shutDown() { self.end { $0.shutsDown = true } }

    /// The connection is closed at once.
    func abort() { self.end { $0.aborts = true } }

    /// Whether it is to end, one way or the other.
    var isEnding: Bool { self.state.withLock { $0.work.shutsDown || $0.work.aborts } }

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
    private func change(_ body: (inout State) -> Void) {
        let handler: NIOLoopBound<ClientHandler>? = self.state.withLock { state in
            body(&state)
            guard !state.isScheduled, let handler = state.handler else { return nil }
            state.isScheduled = true
            return handler
        }
        if let handler {
            handler.eventLoop.execute { handler.value.drain() }
        }
    }

    private static func complete(_ actions: [Session.Action]) {
        for case .complete(let waiter, let outcome) in actions { waiter.resume(outcome) }
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
            swap(&state.work, &work)
        }
    }

    /// The connection has ended: gives the session back.
    func detach(_ session: consuming Session, error: BusError) {
        var actions: [Session.Action] = []
        let returned = session
        self.state.withLock { state in
            var session = returned
            // These came after the event loop last looked.
            for (message, waiter) in state.work.messages { session.publish(message, for: waiter, into: &actions) }
            session.disconnected(error, isFinal: state.isClosed, into: &actions)
            for id in state.work.cancelled { session.cancel(where: { $0.id == id }, into: &actions) }
            state.work.removeAll()
            state.session = session
            state.handler = nil
            state.isScheduled = false
        }
        Self.complete(actions)
    }

    /// No connection will follow.
    func close(_ error: BusError) {
        var actions: [Session.Action] = []
        self.state.withLock { state in
            state.isClosed = true
            state.session?.disconnected(error, isFinal: true, into: &actions)
        }
        Self.complete(actions)
        self.events.finish()
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
