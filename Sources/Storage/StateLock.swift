import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Keeps a state directory to one process: an advisory lock (`flock`) on the file `lock` in it, released by the
/// kernel however the process ends.
package final class StateLock: Sendable {
    private let descriptor: Mutex<CInt?>

    /// - Parameter directory: an existing folder.
    /// - Throws: ``StateLockError``.
    package init(directory: String) throws(StateLockError) {
        let path = directory + "/lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw StateLockError(
                .unusable,
                "cannot open \(path): \(String(cString: strerror(errno))); check the folder's owner and rights")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let owner = Self.owner(descriptor)
            close(descriptor)
            throw StateLockError(
                .inUse,
                "\(directory) is in use by another process\(owner.isEmpty ? "" : " (\(owner))"): stop it, or give this one a folder of its own"
            )
        }
        // For whoever finds the directory locked.
        let owner = Array("\(getpid())\n".utf8)
        if ftruncate(descriptor, 0) == 0 { _ = pwrite(descriptor, owner, owner.count, 0) }
        self.descriptor = Mutex(descriptor)
    }

    /// Whether a process has a directory now. Takes the lock for a moment only where the process that had it last may
    /// still be there, so that nobody who starts meets it.
    package static func isHeld(directory: String) -> Bool {
        let descriptor = open(directory + "/lock", O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        if let owner = Int32(Self.owner(descriptor)), owner > 0, kill(owner, 0) != 0, errno == ESRCH { return false }
        return flock(descriptor, LOCK_EX | LOCK_NB) != 0
    }

    /// The digits of the process that had it last.
    private static func owner(_ descriptor: CInt) -> String {
        var buffer = [UInt8](repeating: 0, count: 20)
        let count = max(0, pread(descriptor, &buffer, 20, 0))
        return String(decoding: buffer.prefix(count).prefix { (0x30...0x39).contains($0) }, as: UTF8.self)
    }

    /// Lets the directory go before this object does.
    package func release() {
        self.descriptor.withLock { descriptor in
            if let open = descriptor { close(open) }
            descriptor = nil
        }
    }

    deinit { self.release() }
}

/// Why a state directory cannot be had.
package struct StateLockError: Error, CustomStringConvertible {
    package enum Code: Sendable {
        /// Another process holds it, or another part of this one.
        case inUse
        /// The lock file cannot be made or opened.
        case unusable
    }

    package let code: Code
    /// One line: what is wrong and what to do.
    package let reason: String

    package init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    package var description: String { self.reason }
}
