import DequeModule
import Synchronization

/// A bounded queue between two tasks, one that sends and one that takes.
///
/// Whoever sends waits while it is full, which is how a slow disk is felt by the network.
final class Mailbox<Element: Sendable>: Sendable {
    private struct State {
        var elements = Deque<Element>()
        var isFinished = false
        var sender: CheckedContinuation<Void, Never>?
        var taker: CheckedContinuation<Void, Never>?

        /// Both sides look again at the state when they are woken.
        mutating func wake(sender wakesSender: Bool, taker wakesTaker: Bool) -> [CheckedContinuation<Void, Never>] {
            var woken: [CheckedContinuation<Void, Never>] = []
            if wakesSender, let sender = self.sender {
                woken.append(sender)
                self.sender = nil
            }
            if wakesTaker, let taker = self.taker {
                woken.append(taker)
                self.taker = nil
            }
            return woken
        }
    }

    private let state = Mutex(State())
    private let capacity: Int

    /// - Parameter capacity: how many elements wait at most; one call of ``send(_:)`` may go over it once.
    init(capacity: Int) {
        self.capacity = capacity
    }

    /// Adds elements as soon as there is room for one.
    ///
    /// - Returns: `false` if the box is finished or the task is cancelled; then nothing was added.
    func send(_ elements: [Element]) async -> Bool {
        while true {
            // Nil while it is full.
            let (sent, woken) = self.state.withLock { state in
                if state.isFinished { return (Bool?.some(false), [CheckedContinuation<Void, Never>]()) }
                if state.elements.count >= self.capacity { return (nil, []) }
                state.elements.append(contentsOf: elements)
                return (true, state.wake(sender: false, taker: true))
            }
            for continuation in woken { continuation.resume() }
            if let sent { return sent }
            if Task.isCancelled { return false }
            await self.wait { state, continuation in
                guard !state.isFinished, state.elements.count >= self.capacity else { return false }
                state.sender = continuation
                return true
            }
        }
    }

    /// Adds an element if there is room at once.
    func offer(_ element: Element) -> Bool {
        let (sent, woken) = self.state.withLock { state in
            guard !state.isFinished, state.elements.count < self.capacity else {
                return (false, [CheckedContinuation<Void, Never>]())
            }
            state.elements.append(element)
            return (true, state.wake(sender: false, taker: true))
        }
        for continuation in woken { continuation.resume() }
        return sent
    }

    /// Waits for at least one element and takes as many as there are, up to `limit`.
    ///
    /// - Returns: `nil` once the box is finished and empty, or the task is cancelled.
    func take(upTo limit: Int) async -> [Element]? {
        while true {
            let (taken, ended, woken) = self.state.withLock { state in
                guard !state.elements.isEmpty else {
                    return ([Element](), state.isFinished, [CheckedContinuation<Void, Never>]())
                }
                let count = min(limit, state.elements.count)
                let taken = Array(state.elements.prefix(count))
                state.elements.removeFirst(count)
                return (taken, false, state.wake(sender: true, taker: false))
            }
            for continuation in woken { continuation.resume() }
            if !taken.isEmpty { return taken }
            if ended || Task.isCancelled { return nil }
            await self.wait { state, continuation in
                guard state.elements.isEmpty, !state.isFinished else { return false }
                state.taker = continuation
                return true
            }
        }
    }

    /// Nothing more comes: what is in the box can still be taken.
    func finish() {
        let woken = self.state.withLock { state in
            state.isFinished = true
            return state.wake(sender: true, taker: true)
        }
        for continuation in woken { continuation.resume() }
    }

    /// Waits until woken; `register` keeps the continuation under the lock, or says that there is no need to wait.
    private func wait(
        _ register: @escaping @Sendable (inout State, CheckedContinuation<Void, Never>) -> Bool
    ) async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
                let waits = self.state.withLock { state in
                    // The cancellation handler may have run before there was anything to wake.
                    !Task.isCancelled && register(&state, continuation)
                }
                if !waits { continuation.resume() }
            }
        } onCancel: {
            let woken = self.state.withLock { $0.wake(sender: true, taker: true) }
            for continuation in woken { continuation.resume() }
        }
    }
}
