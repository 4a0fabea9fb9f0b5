import Foundation
import TestSupport

/// The program under test, as built beside the tests.
enum Program {
    /// Absolute path of `secure-mqtt`.
    static let path: String = {
        let own =
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
            ?? CommandLine.arguments[0]
        return URL(fileURLWithPath: own).deletingLastPathComponent().path + "/secure-mqtt"
    }()

    /// What a run of it gave.
    struct Result: Sendable {
        let status: Int32
        let output: String
        let errorOutput: String

        /// Its standard output's last line.
        var lastLine: String { self.output.split(separator: "\n").last.map(String.init) ?? "" }
    }

    /// Starts it.
    static func start(
        _ arguments: [String], environment: [String: String] = [:], directory: String? = nil
    ) throws -> ChildProcess {
        try ChildProcess(
            Self.path, arguments,
            environment: ProcessInfo.processInfo.environment.merging(environment) { $1 }, directory: directory)
    }

    /// Runs it to its end.
    static func run(
        _ arguments: [String], environment: [String: String] = [:], directory: String? = nil,
        within limit: Duration = .seconds(60)
    ) async throws -> Result {
        let process = try Self.start(arguments, environment: environment, directory: directory)
        let status: Int32 =
            switch try await process.wait(within: limit) {
            case .exited(let status): status
            case .signalled(let signal): 128 + signal
            }
        return Result(status: status, output: process.output, errorOutput: process.errorOutput)
    }
}
