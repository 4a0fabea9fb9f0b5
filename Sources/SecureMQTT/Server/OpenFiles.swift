import Foundation
import Logging

/// The limit of open files, of which each connection is one.
enum OpenFiles {
    /// Raises it as far as the system lets us, and says so if the configured connections do not fit.
    ///
    /// - Parameters:
    ///   - connections: that there may be at once.
    ///   - setting: what says so.
    /// - Returns: how many there can be.
    @discardableResult
    static func raiseLimit(for connections: Int, setting: String = "broker.max-connections", logger: Logger) -> Int {
        var limit = rlimit()
        guard getrlimit(Self.resource, &limit) == 0 else { return connections }
        if limit.rlim_cur < limit.rlim_max {
            let raised = rlimit(rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max)
            withUnsafePointer(to: raised) { if setrlimit(Self.resource, $0) == 0 { limit = raised } }
        }
        // Databases, listeners and the like take a few dozen.
        let others: UInt64 = 256
        guard limit.rlim_cur < UInt64(connections) + others else { return connections }
        logger.warning(
            "the system allows fewer open files than \(setting): raise the hard limit (LimitNOFILE in systemd)",
            metadata: ["open-files": "\(limit.rlim_cur)", "max-connections": "\(connections)"])
        return max(16, Int(clamping: limit.rlim_cur) - Int(others))
    }

    #if os(Linux)
        private static let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    #else
        private static let resource = RLIMIT_NOFILE
    #endif
}
