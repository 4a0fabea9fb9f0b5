import Foundation
import Synchronization

/// A real program that a test runs: its output is collected, it can be waited for with a deadline,
/// signalled and killed. It is killed when the last reference goes.
public final class ChildProcess: Sendable {
    /// How a program ended.
    public enum Exit: Hashable, Sendable {
        /// It ended by itself, with this status.
        case exited(Int32)
        /// A signal ended it.
        case signalled(Int32)
    }

    private struct State {
        var output: [UInt8] = []
        var errors: [UInt8] = []
        var openStreams = 2
        var exit: Exit?
        var watchers: [UUID: AsyncStream<Void>.Continuation] = [:]

        /// Ended, and all it wrote has been read.
        var finished: Exit? { self.openStreams == 0 ? self.exit : nil }
    }

    /// Shared with the threads that read and wait, so that they don't keep the process itself alive.
    private final class Shared: Sendable {
        let state = Mutex(State())

        func change(_ body: (inout sending State) -> Void) {
            let watchers = self.state.withLock { state in
                body(&state)
                return Array(state.watchers.values)
            }
            for watcher in watchers { watcher.yield() }
        }
    }

    private let shared = Shared()
    private let process: Process

    /// The program, for messages.
    public let name: String

    /// Starts a program.
    ///
    /// - Parameters:
    ///   - program: Absolute path, or a name to look for in `PATH`.
    ///   - environment: Replaces ours; `nil` inherits it.
    ///   - directory: Where it runs; `nil` where we do.
    ///   - input: What it reads from its standard input, which ends behind it.
    public init(
        _ program: String, _ arguments: [String] = [], environment: [String: String]? = nil,
        directory: String? = nil, input: [UInt8] = []
    ) throws {
        let name = program.split(separator: "/").last.map(String.init) ?? program
        guard let path = Self.find(program) else {
            throw SystemError("start \(program)", errno: ENOENT)
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        if let environment { process.environment = environment }
        if let directory { process.currentDirectoryURL = URL(fileURLWithPath: directory) }
        let standardInput = Pipe()
        let output = Pipe()
        let errors = Pipe()
        process.standardInput = standardInput
        process.standardOutput = output
        process.standardError = errors
        let shared = self.shared
        process.terminationHandler = { process in
            let exit: Exit =
                process.terminationReason == .exit
                ? .exited(process.terminationStatus) : .signalled(process.terminationStatus)
            shared.change { $0.exit = exit }
        }
        self.process = process
        self.name = name
        try Self.withoutBlockedSignals { try process.run() }
        Self.read(output.fileHandleForReading, into: shared) { $0.output += $1 }
        Self.read(errors.fileHandleForReading, into: shared) { $0.errors += $1 }
        Thread.detachNewThread {
            // A program that ends without reading its input is no error of ours.
            signal(SIGPIPE, SIG_IGN)
            try? standardInput.fileHandleForWriting.write(contentsOf: Data(input))
            try? standardInput.fileHandleForWriting.close()
        }
    }

    deinit { self.kill() }

    /// The threads that Swift's tasks run on block most signals, and a child inherits that: it would never
    /// see a SIGTERM.
    private static func withoutBlockedSignals(_ body: () throws -> Void) rethrows {
        var none = sigset_t()
        var former = sigset_t()
        sigemptyset(&none)
        pthread_sigmask(SIG_SETMASK, &none, &former)
        defer { pthread_sigmask(SIG_SETMASK, &former, nil) }
        try body()
    }

    /// The absolute path of a program of `PATH`, `/usr/sbin` included; `nil` if it is not installed.
    public static func find(_ program: String) -> String? {
        if program.hasPrefix("/") {
            return FileManager.default.isExecutableFile(atPath: program) ? program : nil
        }
        let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin"
        return (path + ":/usr/sbin:/sbin").split(separator: ":").map { "\($0)/\(program)" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    private static func read(
        _ handle: FileHandle, into shared: Shared,
        _ store: @escaping @Sendable (inout State, [UInt8]) -> Void
    ) {
        Thread.detachNewThread {
            // Not `read(upToCount:)`: that waits until so much has come, or the end.
            while true {
                let data = handle.availableData
                if data.isEmpty { break }
                shared.change { store(&$0, [UInt8](data)) }
            }
            shared.change { $0.openStreams -= 1 }
        }
    }

    /// Its process id.
    public var processIdentifier: Int32 { self.process.processIdentifier }

    /// Whether it has not ended.
    public var isRunning: Bool { self.shared.state.withLock { $0.exit == nil } }

    /// What it wrote to its standard output until now.
    public var outputBytes: [UInt8] { self.shared.state.withLock { $0.output } }

    /// What it wrote to its standard output until now, as text.
    public var output: String { self.shared.state.withLock { String(decoding: $0.output, as: UTF8.self) } }

    /// What it wrote to its standard error until now, as text.
    public var errorOutput: String {
        self.shared.state.withLock { String(decoding: $0.errors, as: UTF8.self) }
    }

    /// Sends it a signal, unless it has ended.
    public func send(signal: Int32) {
        if self.isRunning { _ = Foundation.kill(self.process.processIdentifier, signal) }
    }

    /// Ends it at once (SIGKILL).
    public func kill() { self.send(signal: SIGKILL) }

    /// Waits until it has ended and all of its output has been read.
    ///
    /// - Throws: ``DeadlineExceeded``; the program goes on running.
    @discardableResult
    public func wait(within limit: Duration = .seconds(60)) async throws -> Exit {
        try await self.wait("\(self.name) ends", within: limit) { $0.finished }
    }

    /// Waits until its output, standard or error, contains a text.
    ///
    /// - Returns: Its standard output and error until then.
    /// - Throws: ``DeadlineExceeded``; a ``SystemError`` if it ended without.
    @discardableResult
    public func waitForOutput(_ text: String, within limit: Duration = .seconds(60)) async throws -> String {
        let found: String? = try await self.wait("\(self.name) says '\(text)'", within: limit) { state in
            let all = String(decoding: state.output + state.errors, as: UTF8.self)
            if all.contains(text) { return .some(all) }
            return state.finished == nil ? nil : .some(nil)
        }
        guard let found else {
            throw SystemError("\(self.name) ended without saying '\(text)': \(self.errorOutput)", errno: 0)
        }
        return found
    }

    private func wait<Value: Sendable>(
        _ what: String, within limit: Duration, until condition: @escaping @Sendable (State) -> Value?
    ) async throws -> Value {
        let shared = self.shared
        let id = UUID()
        let (stream, continuation) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        shared.state.withLock { $0.watchers[id] = continuation }
        continuation.yield()
        defer { shared.state.withLock { $0.watchers[id] = nil } }
        return try await withDeadline(limit, what) {
            for await _ in stream {
                if let value = shared.state.withLock({ condition($0) }) { return value }
            }
            throw CancellationError()
        }
    }
}
