public import MQTT
public import MessageBus
public import NIOCore
import Synchronization

/// A session of this process in the embedded broker: a ``MessageBus`` without a socket.
///
/// Its deliveries know their sender's TLS identity. The publisher's PUBACK waits until a delivery of QoS 1
/// is settled, and for no other subscriber; acknowledgements go to each publisher in its order whatever the
/// order of settling. When more waits to be received than ``BrokerLimits/maximumInProcessMessages``, the
/// publishers are read no further: nothing is dropped. One task receives.
public final class InProcessSession: MessageBus, SettlementTarget {
    /// A message on its way to the broker's event loop.
    struct Outgoing: Sendable {
        let publish: Publish
        let done: @Sendable (String?) -> Void
    }

    private struct State {
        var local: Int?
        var isClosed = false
        var inbox: [BusEvent] = []
        var inboxBytes = 0
        /// The broker wants to know when the inbox was taken.
        var isFull = false
        var receiver: CheckedContinuation<[BusEvent]?, any Error>?
        var settled: [UInt64] = []
        var outgoing: [Outgoing] = []
        var isHopScheduled = false
    }

    private let core: NIOLoopBoundBox<BrokerCore>
    private let eventLoop: any EventLoop
    private let state = Mutex(State())

    init(core: NIOLoopBoundBox<BrokerCore>, eventLoop: any EventLoop) {
        self.core = core
        self.eventLoop = eventLoop
    }

    func opened(as local: Int) { self.state.withLock { $0.local = local } }

    // MARK: Receiving

    /// Waits until there are deliveries and returns all of them.
    ///
    /// - Returns: `nil` once the session or the broker has closed.
    /// - Throws: `CancellationError`.
    public func receive() async throws -> [BusEvent]? {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let ready: Result<[BusEvent]?, any Error>? = self.state.withLock { state in
                    if Task.isCancelled { return .failure(CancellationError()) }
                    if !state.inbox.isEmpty { return .success(self.takeInbox(&state)) }
                    if state.isClosed { return .success(nil) }
                    precondition(state.receiver == nil, "only one task receives from a session")
                    state.receiver = continuation
                    return nil
                }
                if let ready { continuation.resume(with: ready) }
            }
        } onCancel: {
            let receiver = self.state.withLock { state in
                let receiver = state.receiver
                state.receiver = nil
                return receiver
            }
            receiver?.resume(throwing: CancellationError())
        }
    }

    private func takeInbox(_ state: inout State) -> [BusEvent] {
        let events = state.inbox
        state.inbox = []
        state.inboxBytes = 0
        if state.isFull, let local = state.local {
            state.isFull = false
            self.eventLoop.execute { self.core.value.drained(local) }
        }
        return events
    }

    /// Hands events over, on the event loop, once a tick.
    ///
    /// - Returns: whether the session is full now; then ``BrokerCore/drained(_:)`` follows.
    func push(_ events: inout [BusEvent], limits: BrokerLimits) -> Bool {
        var bytes = 0
        for case .delivery(let delivery) in events { bytes += delivery.payload.readableBytes }
        let (receiver, batch, isFull) = self.state.withLock { state in
            if let receiver = state.receiver, state.inbox.isEmpty {
                state.receiver = nil
                return (Optional(receiver), events, false)
            }
            if state.inbox.isEmpty { swap(&state.inbox, &events) } else { state.inbox += events }
            state.inboxBytes += bytes
            let isFull =
                state.inbox.count >= limits.maximumInProcessMessages
                || state.inboxBytes >= limits.maximumInProcessBytes
            if isFull { state.isFull = true }
            return (nil, [], isFull)
        }
        receiver?.resume(returning: batch)
        return isFull
    }

    // MARK: Settling

    /// Called by ``Delivery/settle()``, from any thread.
    public func settle(_ token: UInt64) {
        let isFirst = self.state.withLock { state in
            state.settled.append(token)
            return Self.needsHop(&state)
        }
        if isFirst { self.hop() }
    }

    // MARK: Publishing

    /// Publishes; returns when the broker has handed the message to every subscriber's session.
    ///
    /// - Throws: ``BusError`` with code `refused` or `closed`.
    public func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws {
        let publish = Publish(
            topic: topic, payload: payload, qos: min(qos, .atLeastOnce), retain: retain,
            packetID: qos == .atMostOnce ? 0 : 1)
        let refusal: String? = try await withCheckedThrowingContinuation { continuation in
            let outgoing = Outgoing(publish: publish) { continuation.resume(returning: $0) }
            let isFirst: Bool? = self.state.withLock { state in
                if state.isClosed { return nil }
                state.outgoing.append(outgoing)
                return Self.needsHop(&state)
            }
            guard let isFirst else {
                continuation.resume(throwing: BusError(.closed, "the broker's session has closed"))
                return
            }
            if isFirst { self.hop() }
        }
        if let refusal {
            throw BusError(
                refusal == "closed" ? .closed : .refused, "the broker refuses a message on \(topic): \(refusal)")
        }
    }

    // MARK: The way to the event loop

    /// One hop carries all that has gathered until it arrives.
    private static func needsHop(_ state: inout State) -> Bool {
        defer { state.isHopScheduled = true }
        return !state.isHopScheduled
    }

    private func hop() {
        self.eventLoop.execute {
            let (settled, outgoing, local) = self.state.withLock { state in
                defer {
                    state.settled = []
                    state.outgoing = []
                    state.isHopScheduled = false
                }
                return (state.settled, state.outgoing, state.local)
            }
            if !settled.isEmpty { self.core.value.settle(settled) }
            self.core.value.publish(outgoing, from: local ?? 0)
        }
    }

    // MARK: Closing

    /// Ends the session. Publishers whose messages were not settled are disconnected, and will send again.
    public func close() async {
        let local = self.state.withLock { $0.local }
        guard let local else { return }
        try? await self.eventLoop.submit { self.core.value.closeInProcess(local) }.get()
    }

    /// No more comes. What waits to be received still can be.
    func end() {
        let (receiver, outgoing) = self.state.withLock { state in
            defer {
                state.isClosed = true
                state.receiver = nil
                state.outgoing = []
            }
            return (state.receiver, state.outgoing)
        }
        receiver?.resume(returning: nil)
        for message in outgoing { message.done("closed") }
    }
}
