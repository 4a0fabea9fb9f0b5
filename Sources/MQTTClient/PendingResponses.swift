import MQTT
import MessageBus
import Synchronization

/// Who waits for an answer to a request (MQTT 5.0 section 4.10). Answers are told apart by their correlation data.
final class PendingResponses: MessageRoute {
    private struct State {
        var lastNumber: UInt64 = 0
        var waiting: [[UInt8]: UnsafeContinuation<Result<Delivery, MQTTClientError>, Never>] = [:]
        var end: MQTTClientError?
    }

    let identifier: UInt32?
    let topic: TopicName
    let filters: [TopicFilter]
    /// A request of an earlier connection may still be answered: its correlation data must not be one of ours.
    private let prefix: [UInt8]
    private let state = Mutex(State())

    init(identifier: UInt32?, topic: TopicName, filter: TopicFilter) {
        self.identifier = identifier
        self.topic = topic
        self.filters = [filter]
        self.prefix = (0..<8).map { _ in UInt8.random(in: 0...255) }
    }

    let hasRoom = true

    func nextCorrelation() -> [UInt8] {
        let number = self.state.withLock { state in
            state.lastNumber += 1
            return state.lastNumber
        }
        return self.prefix + withUnsafeBytes(of: number.bigEndian) { Array($0) }
    }

    /// Waits for the answer. Call it in a task of its own before the request is published.
    func response(to correlation: [UInt8]) async throws -> Delivery {
        let result = await withTaskCancellationHandler {
            await withUnsafeContinuation { (continuation: UnsafeContinuation<_, Never>) in
                let error: MQTTClientError? = self.state.withLock { state in
                    if let end = state.end { return end }
                    if Task.isCancelled { return MQTTClientError(.closed, "cancelled") }
                    state.waiting[correlation] = continuation
                    return nil
                }
                if let error { continuation.resume(returning: .failure(error)) }
            }
        } onCancel: {
            self.resume(correlation, .failure(MQTTClientError(.closed, "cancelled")))
        }
        try Task.checkCancellation()
        return try result.get()
    }

    private func resume(_ correlation: [UInt8], _ result: Result<Delivery, MQTTClientError>) {
        let continuation = self.state.withLock { $0.waiting.removeValue(forKey: correlation) }
        continuation?.resume(returning: result)
    }

    func push(_ delivery: Delivery) -> Bool {
        // Whoever asked will not ask again: an answer needs no acknowledgement but the transport's.
        delivery.settle()
        if let correlation = delivery.properties.correlationData { self.resume(correlation, .success(delivery)) }
        return true
    }

    func finish(_ error: MQTTClientError) {
        let waiting = self.state.withLock { state in
            state.end = error
            let waiting = state.waiting
            state.waiting = [:]
            return waiting
        }
        for continuation in waiting.values { continuation.resume(returning: .failure(error)) }
    }
}
