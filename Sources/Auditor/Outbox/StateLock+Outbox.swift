import Foundation
import Storage

extension StateLock {
    /// Makes an auditor's state directory, for its owner alone, if it is not there, and takes its lock.
    ///
    /// - Throws: ``OutboxError`` with code `locked` if another process has it, `io` if there can be no such directory.
    static func take(auditorsDirectory directory: String) throws(OutboxError) -> StateLock {
        if mkdir(directory, 0o700) != 0, errno != EEXIST {
            throw OutboxError(.io, "\(directory) cannot be made: \(String(cString: strerror(errno)))")
        }
        do throws(StateLockError) {
            return try StateLock(directory: directory)
        } catch {
            throw OutboxError(error.code == .inUse ? .locked : .io, error.reason)
        }
    }
}
