import DequeModule
import MQTT
public import MessageBus
import NIOCore
import Synchronization

/// Where the messages of one dynamic subscription go.
protocol MessageRoute: Sendable {
    /// 5.0: what the server calls the subscription.
    var identifier: UInt32? { get }
    var filters: [TopicFilter] { get }

    /// - Returns: Whether there is room for more. If not, it says so to its link when there is.
    func push(_ delivery: Delivery) -> Bool
    var hasRoom: Bool { get }
    /// No more messages.
    func finish(_ error: MQTTClientError)
}

extension MessageRoute {
    /// Whether a message belongs here. The identifier alone would not do: a resumed session may know a former
    /// subscription by the same one.
    func wants(_ delivery: Delivery) -> Bool {
        if let identifier = self.identifier {
            let identifiers = delivery.properties.subscriptionIdentifiers
            guard identifiers.isEmpty || identifiers.contains(identifier) else { return false }
        }
        return self.filters.contains { $0.matches(delivery.topic) }
    }
}

/// A delivery that several routes got: it is settled when the last of them has.
final class SharedSettlement: SettlementTarget {
    private let delivery: Delivery
    private let missing: Mutex<Set<UInt64>>

    init(_ delivery: Delivery, count: Int) {
        self.delivery = delivery
        self.missing = Mutex(Set((0..<count).map { UInt64($0) }))
    }

    func settle(_ token: UInt64) {
        let isLast = self.missing.withLock { $0.remove(token) != nil && $0.isEmpty }
        if isLast { self.delivery.settle() }
    }

    /// The delivery for one of them.
    func share(_ index: Int) -> Delivery {
        Delivery(
            topic: self.delivery.topic, payload: self.delivery.payload, qos: self.delivery.qos,
            isRetained: self.delivery.isRetained, sender: self.delivery.sender, properties: self.delivery.properties,
            settlement: Delivery.Settlement(target: self, token: UInt64(index)))
    }
}

/// The messages of a subscription, in the order in which they came: an asynchronous sequence for one task.
///
/// At most ``MQTTClientConfiguration/maximumBufferedDeliveries`` wait here; beyond that the network is not read, for
/// no subscription of the connection.
public struct MQTTMessages: AsyncSequence, Sendable {
    public typealias Element = Delivery

    let queue: SubscriptionQueue
    let acknowledgement: Acknowledgement

    /// When a message counts as dealt with.
    public enum Acknowledgement: Hashable, Sendable {
        /// When the next one is asked for, or the subscription's closure returns without an error: what was in
        /// work when a process ended comes again.
        case automatic
        /// When ``MessageBus/Delivery/settle()`` is called.
        case manual
    }

    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(queue: self.queue, acknowledgement: self.acknowledgement)
    }

    public struct AsyncIterator: AsyncIteratorProtocol {
        let queue: SubscriptionQueue
        let acknowledgement: Acknowledgement

        /// The next message.
        ///
        /// - Throws: ``MQTTClientError`` when the connection has ended, `CancellationError`.
        public mutating func next() async throws -> Delivery? {
            if self.acknowledgement == .automatic { self.queue.settleLast() }
            let delivery = try await self.queue.next()
            if self.acknowledgement == .automatic { self.queue.setLast(delivery) }
            return delivery
        }
    }
}

/// A bounded queue between the event loop and the task that reads a subscription.
final class SubscriptionQueue: MessageRoute {
    private struct State {
        var deliveries: Deque<Delivery> = []
        var bytes = 0
        var owesRoom = false
        var end: MQTTClientError?
        var last: Delivery?
        // Unsafe only in that nobody checks that it is resumed exactly once: it is taken out of the state, under
        // the lock, by whoever resumes it.
        var receiver: UnsafeContinuation<Delivery?, any Error>?
    }

    let identifier: UInt32?
    let filters: [TopicFilter]
    private let maximumDeliveries: Int
    private let maximumBytes: Int
    private let madeRoom: @Sendable () -> Void
    private let state = Mutex(State())

    init(
        identifier: UInt32?, filters: [TopicFilter], configuration: MQTTClientConfiguration,
        madeRoom: @escaping @Sendable () -> Void
    ) {
        self.identifier = identifier
        self.filters = filters
        self.maximumDeliveries = configuration.maximumBufferedDeliveries
        self.maximumBytes = configuration.maximumBufferedBytes
        self.madeRoom = madeRoom
    }

    private func isFull(_ state: State) -> Bool {
        state.deliveries.count >= self.maximumDeliveries || state.bytes >= self.maximumBytes
    }

    func push(_ delivery: Delivery) -> Bool {
        let (receiver, hasRoom) = self.state.withLock { state in
            if let receiver = state.receiver {
                state.receiver = nil
                return (Optional(receiver), true)
            }
            state.deliveries.append(delivery)
            state.bytes += delivery.size
            state.owesRoom = self.isFull(state)
            return (nil, !state.owesRoom)
        }
        receiver?.resume(returning: delivery)
        return hasRoom
    }

    var hasRoom: Bool { self.state.withLock { !self.isFull($0) } }

    func finish(_ error: MQTTClientError) {
        let receiver = self.state.withLock { state in
            if state.end == nil { state.end = error }
            let receiver = state.receiver
            state.receiver = nil
            return receiver
        }
        receiver?.resume(throwing: error)
    }

    func next() async throws -> Delivery? {
        try Task.checkCancellation()
        return try await withTaskCancellationHandler {
            try await withUnsafeThrowingContinuation { (continuation: UnsafeContinuation<Delivery?, any Error>) in
                var owed = false
                let (resumed, result): (UnsafeContinuation<Delivery?, any Error>?, Result<Delivery?, any Error>) =
                    self.state.withLock { state in
                        if let delivery = state.deliveries.popFirst() {
                            state.bytes -= delivery.size
                            owed = state.owesRoom && !self.isFull(state)
                            if owed { state.owesRoom = false }
                            return (continuation, .success(delivery))
                        }
                        if let end = state.end { return (continuation, .failure(end)) }
                        // Cancelled before this lock was taken; later, the handler finds the receiver.
                        if Task.isCancelled { return (continuation, .failure(CancellationError())) }
                        let former = state.receiver
                        state.receiver = continuation
                        return (former, .failure(CancellationError()))
                    }
                resumed?.resume(with: result)
                if owed { self.madeRoom() }
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

    func setLast(_ delivery: Delivery?) { self.state.withLock { $0.last = delivery } }

    func settleLast() {
        let last = self.state.withLock { state in
            let last = state.last
            state.last = nil
            return last
        }
        last?.settle()
    }

    /// Nobody reads any more: what is here is dropped, and settled so that it does not hold up the others.
    func discard() {
        let deliveries = self.state.withLock { state in
            let deliveries = state.deliveries
            state.deliveries.removeAll()
            state.bytes = 0
            return deliveries
        }
        for delivery in deliveries { delivery.settle() }
        self.madeRoom()
    }
}

extension Delivery {
    /// What it takes of a buffer's bound.
    var size: Int { self.payload.readableBytes + self.topic.rawValue.utf8.count }
}
