import Dispatch
import Foundation
import MQTT
import Synchronization

/// Where a server's log lines go: standard error, without ever waiting for whoever reads it.
///
/// What is logged holds words of strangers (topics, client identifiers), so no control character gets through: a line is
/// a line, and a terminal obeys nobody but its user. A reader that does not read (a pipe that nobody empties) costs log
/// lines, which are counted, and stops nothing.
final class LogOutput: TextOutputStream, Sendable {
    static let standardError = LogOutput(descriptor: STDERR_FILENO)

    /// Bytes that may wait to be written.
    private static let capacity = 4 << 20
    /// How long the end of the process waits for them, in milliseconds.
    private static let patience = 500

    private struct State {
        var waiting: [UInt8] = []
        /// Lines for which there was no room.
        var lost = 0
        var isWriting = false
    }

    private let descriptor: Int32
    private let state = Mutex(State())
    private let queue = DispatchQueue(label: "log")

    init(descriptor: Int32) { self.descriptor = descriptor }

    /// From here on lines that were written are waited for, for a moment, when the process ends; a reader that went away
    /// is no reason to end.
    func begin() {
        signal(SIGPIPE, SIG_IGN)
        atexit { LogOutput.standardError.end() }
    }

    /// Takes one line, with its end.
    func write(_ text: String) {
        // The line's own end is the only control character of it.
        let bytes =
            text.hasSuffix("\n")
            ? Array((String(text.dropLast()).withoutControls + "\n").utf8) : Array(text.withoutControls.utf8)
        let isFirst = self.state.withLock { state in
            guard state.waiting.count + bytes.count <= Self.capacity else {
                state.lost += 1
                return false
            }
            state.waiting += bytes
            defer { state.isWriting = true }
            return !state.isWriting
        }
        if isFirst { self.queue.async { self.drain() } }
    }

    private func drain() {
        while let bytes = self.next() { self.writeAll(bytes) }
    }

    private func next() -> [UInt8]? {
        self.state.withLock { state in
            var bytes: [UInt8] = []
            swap(&bytes, &state.waiting)
            if state.lost > 0 {
                bytes += Array("secure-mqtt: \(state.lost) log lines are missing here: nobody read them\n".utf8)
                state.lost = 0
            }
            if bytes.isEmpty { state.isWriting = false }
            return bytes.isEmpty ? nil : bytes
        }
    }

    private func writeAll(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Foundation.write(self.descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            if count < 0, errno == EAGAIN {
                // Whoever shares it has made it so. Here waiting is no harm.
                var wanted = pollfd(fd: self.descriptor, events: Int16(POLLOUT), revents: 0)
                poll(&wanted, 1, -1)
                continue
            }
            // Nobody is there any more.
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    private func end() {
        let done = DispatchSemaphore(value: 0)
        self.queue.async { done.signal() }
        _ = done.wait(timeout: .now() + .milliseconds(Self.patience))
    }
}
