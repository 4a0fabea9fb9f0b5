#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Holds a state directory for this process: a lock on the file `lock` in it, gone with the process.
public final class StateLock: Sendable {
    private let descriptor: CInt

    /// - Parameter directory: an existing folder.
    /// - Throws: ``ControlCenterError`` with code `state-in-use` if another process (or another part of this
    ///   one) holds it, `state-unusable` if the file cannot be made.
    public init(directory: String) throws(ControlCenterError) {
        let path = directory + "/lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw ControlCenterError(
                .stateUnusable, "cannot open \(path): \(String(cString: strerror(errno))); check the folder's owner")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw ControlCenterError(
                .stateInUse, "\(directory) is in use by another process: stop that one, or give this one its own folder"
            )
        }
        self.descriptor = descriptor
    }

    deinit {
        close(self.descriptor)
    }
}
