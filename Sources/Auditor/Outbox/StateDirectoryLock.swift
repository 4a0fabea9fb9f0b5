import Foundation

/// Keeps a state directory to one process: an advisory lock (`flock`) on the file `lock` in it, released by the
/// kernel however the process ends.
public final class StateDirectoryLock: Sendable {
    private let descriptor: Int32

    /// Makes the directory, for its owner alone, if it is not there, and takes the lock.
    ///
    /// - Throws: ``OutboxError`` with code `locked` if another process has it, `io` if there can be no such directory.
    public init(directory: String) throws(OutboxError) {
        if mkdir(directory, 0o700) != 0, errno != EEXIST {
            throw OutboxError(.io, "\(directory) cannot be made: \(String(cString: strerror(errno)))")
        }
        let path = directory + "/lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw OutboxError(.io, "\(path) cannot be opened: \(String(cString: strerror(errno)))")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            var buffer = [UInt8](repeating: 0, count: 20)
            let count = max(0, read(descriptor, &buffer, 20))
            close(descriptor)
            let owner = String(decoding: buffer.prefix(count).prefix { (0x30...0x39).contains($0) }, as: UTF8.self)
            throw OutboxError(
                .locked,
                "\(directory) is used by another process\(owner.isEmpty ? "" : " (\(owner))"); stop it, or give this one a state directory of its own"
            )
        }
        // For whoever finds the directory locked.
        let owner = Array("\(getpid())\n".utf8)
        if ftruncate(descriptor, 0) == 0 { _ = pwrite(descriptor, owner, owner.count, 0) }
        self.descriptor = descriptor
    }

    deinit { close(self.descriptor) }
}
