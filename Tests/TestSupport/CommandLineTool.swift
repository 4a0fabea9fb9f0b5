import Foundation

/// The program itself, as built beside the tests, run as a user would.
public enum CommandLineTool {
    /// The absolute path of `secure-mqtt`: in the folder of the running test bundle, or as the environment variable
    /// `SECURE_MQTT_PROGRAM` says.
    public static let secureMQTT: String = {
        if let path = ProcessInfo.processInfo.environment["SECURE_MQTT_PROGRAM"] { return path }
        let running = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let folders = ([running].compactMap { $0 } + CommandLine.arguments).filter { $0.hasPrefix("/") }
            .map { URL(fileURLWithPath: $0).deletingLastPathComponent().path }
        return folders.map { $0 + "/secure-mqtt" }.first { FileManager.default.isExecutableFile(atPath: $0) }
            ?? "secure-mqtt"
    }()

    /// What a run of it gave.
    public struct Result: Sendable {
        /// Its exit status; 128 and more for a signal.
        public let status: Int32
        public let output: String
        public let errorOutput: String

        /// The lines of its standard error.
        public var errorLines: [Substring] { self.errorOutput.split(separator: "\n") }
    }

    /// Runs it to its end, without a terminal.
    ///
    /// - Parameters:
    ///   - environment: added to ours, from which every `SECURE_MQTT_` variable is removed.
    /// - Throws: ``DeadlineExceeded``, or a ``SystemError`` if it was not built.
    public static func run(
        _ arguments: [String], directory: String? = nil, environment: [String: String] = [:],
        within limit: Duration = .seconds(60)
    ) async throws -> Result {
        let inherited = ProcessInfo.processInfo.environment.filter { !$0.key.hasPrefix("SECURE_MQTT_") }
        let process = try ChildProcess(
            Self.secureMQTT, arguments, environment: inherited.merging(environment) { $1 }, directory: directory)
        let status: Int32 =
            switch try await process.wait(within: limit) {
            case .exited(let status): status
            case .signalled(let signal): 128 + signal
            }
        return Result(status: status, output: process.output, errorOutput: process.errorOutput)
    }
}
