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
            var buffer = [UInt8](repeating: 0, count: 20)
            let count = max(0, read(descriptor, &buffer, 20))
            close(descriptor)
            let owner = String(decoding: buffer.prefix(count).prefix { (0x30...0x39).contains($0) }, as: UTF8.self)
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
