import MessageBus
import Synchronization

/// What has happened and has not been received yet. Bounded: when it is full, the network is not read.
final class EventQueue: Sendable {
    private struct State {
        var events: [BusEvent] = []
        var deliveries = 0
        var bytes = 0
        /// Somebody was told that there is no room, and is to be told when there is.
        var owesRoom = false
        var isFinished = false
        /// Nobody is to wait for room any more.
        var isEnding = false
        // Unsafe only in that nobody checks that they are resumed exactly once: each is taken out of the state,
        // under the lock, by whoever resumes it.
        var receiver: UnsafeContinuation<[BusEvent]?, any Error>?
        var roomWaiter: UnsafeContinuation<Void, Never>?

        mutating func take() -> [BusEvent]? {
            if self.events.isEmpty { return nil }
            let events = self.events
            self.events = []
            self.deliveries = 0
            self.bytes = 0
            return events
        }
    }

    private let maximumDeliveries: Int
    private let maximumBytes: Int
    private let state = Mutex(State())

    init(maximumDeliveries: Int, maximumBytes: Int) {
        self.maximumDeliveries = maximumDeliveries
        self.maximumBytes = maximumBytes
    }

    private func isFull(_ state: borrowing State) -> Bool {
        state.deliveries >= self.maximumDeliveries || state.bytes >= self.maximumBytes
    }

    /// Adds events in order.
    ///
    /// - Returns: Whether there is room for more. If not, the next ``receive(madeRoom:)`` makes some.
    func push(_ events: [BusEvent], deliveries: Int, bytes: Int) -> Bool {
        let (hasRoom, wake) = self.state.withLock { state in
            guard !state.isFinished else {
                return (true, nil as (UnsafeContinuation<[BusEvent]?, any Error>, [BusEvent]?)?)
            }
            for event in events { Self.append(event, to: &state.events) }
            state.deliveries += deliveries
            state.bytes += bytes
            var wake: (UnsafeContinuation<[BusEvent]?, any Error>, [BusEvent]?)?
            if let receiver = state.receiver, let events = state.take() {
                state.receiver = nil
                wake = (receiver, events)
            }
            let isFull = self.isFull(state)
            state.owesRoom = isFull
            return (!isFull, wake)
        }
        if let (receiver, events) = wake { receiver.resume(returning: events) }
        return hasRoom
    }

    /// A connection that comes and goes while nobody receives must not fill memory: of its ups and downs only
    /// the last is kept.
    private static func append(_ event: BusEvent, to events: inout [BusEvent]) {
        if case .disconnected = event {
            if case .connected = events.last { events.removeLast() }
            if case .disconnected = events.last { events.removeLast() }
        }
        events.append(event)
    }

    /// Waits for events.
    ///
    /// - Parameter madeRoom: Called if somebody waits for room and there is some now.
    func receive(madeRoom: @Sendable () -> Void) async throws -> [BusEvent]? {
        try Task.checkCancellation()
        let events = try await withTaskCancellationHandler {
            try await withUnsafeThrowingContinuation {
                (continuation: UnsafeContinuation<[BusEvent]?, any Error>) in
                let (resumed, result): (UnsafeContinuation<[BusEvent]?, any Error>?, Result<[BusEvent]?, any Error>) =
                    self.state.withLock { state in
                        if let events = state.take() { return (continuation, .success(events)) }
                        if state.isFinished { return (continuation, .success(nil)) }
                        // Cancelled before this lock was taken; later, the handler finds the receiver.
                        if Task.isCancelled { return (continuation, .failure(CancellationError())) }
                        let former = state.receiver
                        state.receiver = continuation
                        return (former, .failure(CancellationError()))
                    }
                resumed?.resume(with: result)
            }
        } onCancel: {
            let receiver = self.state.withLock { state in
                let receiver = state.receiver
                state.receiver = nil
                return receiver
            }
            receiver?.resume(throwing: CancellationError())
        }
        let (owed, waiter) = self.state.withLock { state in
            guard state.owesRoom, !self.isFull(state) else {
                return (false, nil as UnsafeContinuation<Void, Never>?)
            }
            state.owesRoom = false
            let waiter = state.roomWaiter
            state.roomWaiter = nil
            return (true, waiter)
        }
        waiter?.resume()
        if owed { madeRoom() }
        return events
    }

    var hasRoom: Bool { self.state.withLock { !self.isFull($0) } }

    /// Takes out the deliveries that belong elsewhere, in their order.
    func extract(where belongsElsewhere: (Delivery) -> Bool) -> [Delivery] {
        self.state.withLock { state in
            var taken: [Delivery] = []
            state.events.removeAll { event in
                guard case .delivery(let delivery) = event, belongsElsewhere(delivery) else { return false }
                taken.append(delivery)
                state.deliveries -= 1
                state.bytes -= delivery.size
                return true
            }
            return taken
        }
    }

    /// Waits until there is room, or ``stopWaiting()``.
    func waitForRoom() async {
        await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            let resumed: UnsafeContinuation<Void, Never>? = self.state.withLock { state in
                guard self.isFull(state), !state.isEnding else { return continuation }
                state.owesRoom = true
                let former = state.roomWaiter
                state.roomWaiter = continuation
                return former
            }
            resumed?.resume()
        }
    }

    /// Ends ``waitForRoom()`` without room, now and for ever.
    func stopWaiting() {
        let waiter = self.state.withLock { state in
            state.isEnding = true
            let waiter = state.roomWaiter
            state.roomWaiter = nil
            return waiter
        }
        waiter?.resume()
    }

    /// No more events. What is there can still be received.
    func finish() {
        let receiver = self.state.withLock { state in
            state.isFinished = true
            let receiver = state.receiver
            state.receiver = nil
            return receiver
        }
        receiver?.resume(returning: nil)
        self.stopWaiting()
    }
}
