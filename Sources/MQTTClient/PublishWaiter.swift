import Synchronization

/// Who waits for a publish or another request.
enum PublishWaiter: Sendable {
    /// A task, suspended. Unsafe only in that nobody checks that it is resumed exactly once: `ClientSession`
    /// hands each waiter back exactly once.
    case single(UnsafeContinuation<Outcome, Never>, id: UInt64)
    case batch(PublishBatch, index: Int)

    /// What ``ClientLink/cancel(_:)`` knows it by.
    var id: UInt64 {
        switch self {
        case .single(_, let id): id
        case .batch(let batch, _): batch.id
        }
    }

    func resume(_ outcome: Outcome) {
        switch self {
        case .single(let continuation, _): continuation.resume(returning: outcome)
        case .batch(let batch, let index): batch.complete(index, outcome)
        }
    }
}

/// A task that waits for many publishes at once.
final class PublishBatch: Sendable {
    private struct State {
        var outcomes: [Outcome]
        var missing: Int
        var continuation: UnsafeContinuation<[Outcome], Never>?
    }

    let id: UInt64
    private let state: Mutex<State>

    init(id: UInt64, count: Int, continuation: UnsafeContinuation<[Outcome], Never>) {
        self.id = id
        self.state = Mutex(
            State(outcomes: Array(repeating: .cancelled, count: count), missing: count, continuation: continuation))
    }

    func complete(_ index: Int, _ outcome: Outcome) {
        let finished: (UnsafeContinuation<[Outcome], Never>, [Outcome])? = self.state.withLock { state in
            state.outcomes[index] = outcome
            state.missing -= 1
            guard state.missing == 0, let continuation = state.continuation else { return nil }
            state.continuation = nil
            return (continuation, state.outcomes)
        }
        if let (continuation, outcomes) = finished { continuation.resume(returning: outcomes) }
    }
}
