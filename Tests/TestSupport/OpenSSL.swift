/// The `openssl` program: an independent opinion on certificates, signatures and TLS.
public enum OpenSSL {
    /// For `.enabled(if:)`.
    public static let isInstalled = ChildProcess.find("openssl") != nil

    /// What a run of it gave.
    public struct Result: Sendable {
        /// Its exit status; 0 is success.
        public let status: Int32
        /// Its standard output, as text.
        public let output: String
        /// Its standard output, byte for byte.
        public let outputBytes: [UInt8]
        /// Its standard error, as text.
        public let errorOutput: String
    }

    /// Runs `openssl` to its end.
    ///
    /// - Parameters:
    ///   - arguments: As on a command line, such as `["x509", "-text", "-in", path]`.
    ///   - input: Its standard input.
    ///   - directory: Where it runs.
    /// - Throws: ``DeadlineExceeded``, or a ``SystemError`` if it is not installed.
    public static func run(
        _ arguments: [String], input: [UInt8] = [], directory: String? = nil, within limit: Duration = .seconds(30)
    ) async throws -> Result {
        let process = try ChildProcess("openssl", arguments, directory: directory, input: input)
        let exit = try await process.wait(within: limit)
        let status: Int32 =
            switch exit {
            case .exited(let status): status
            case .signalled(let signal): 128 + signal
            }
        return Result(
            status: status, output: process.output, outputBytes: process.outputBytes,
            errorOutput: process.errorOutput)
    }
}
