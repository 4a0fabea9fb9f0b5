import ArgumentParser
import Logging

/// `--log-level`, for the commands that run until they are stopped. They log to standard error.
struct LoggingOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "How much to log: trace, debug, info, notice, warning, error or critical.", valueName: "level"))
    var logLevel: LogLevel = .info

    /// To be called once, before the first logger is made.
    func bootstrap() {
        let level = self.logLevel.level
        LogOutput.standardError.begin()
        LoggingSystem.bootstrap { label in
            var handler = StreamLogHandler(label: label, stream: LogOutput.standardError)
            handler.logLevel = level
            return handler
        }
    }
}

/// swift-log's levels, as an argument.
enum LogLevel: String, ExpressibleByArgument, CaseIterable {
    case trace, debug, info, notice, warning, error, critical

    var level: Logger.Level { Logger.Level(rawValue: self.rawValue) ?? .info }
}
