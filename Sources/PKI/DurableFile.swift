// On Linux the fields of `stat` belong to this module once Foundation is linked.
import CoreFoundation
import Foundation

/// Small files that must be complete or absent after a power failure.
package enum DurableFile {
    /// The longest file that ``read(_:maximumSize:ownerOnly:)`` reads unless told otherwise: 4 MiB.
    package static let defaultMaximumSize = 4 << 20

    /// Creates a file that must not exist (`O_EXCL`, also no dangling link), with exactly these permissions whatever
    /// the umask, and syncs it and its directory.
    ///
    /// - Throws: ``PKIError`` with code `exists` or `io`.
    package static func create(_ path: String, _ bytes: [UInt8], mode: UInt32) throws(PKIError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode_t(mode))
        guard descriptor >= 0 else {
            guard errno != EEXIST else { throw PKIError(.exists, "\(path) exists already and is not overwritten") }
            throw Self.failure("cannot create", path)
        }
        do {
            defer { close(descriptor) }
            try Self.fill(descriptor, path, bytes, mode: mode)
        } catch {
            unlink(path)
            throw error
        }
        try Self.syncDirectory(of: path)
    }

    /// Replaces a file, or creates it, in one step (write aside, sync, rename): a reader sees the old or the new one.
    ///
    /// - Throws: ``PKIError`` with code `io`.
    package static func replace(_ path: String, _ bytes: [UInt8], mode: UInt32) throws(PKIError) {
        let aside = "\(path).\(getpid()).new"
        unlink(aside)
        try Self.create(aside, bytes, mode: mode)
        guard rename(aside, path) == 0 else {
            let error = Self.failure("cannot replace", path)
            unlink(aside)
            throw error
        }
        try Self.syncDirectory(of: path)
    }

    /// Appends to a file, creating it with `mode` if needed, and syncs it.
    ///
    /// - Throws: ``PKIError`` with code `io`.
    package static func append(_ path: String, _ bytes: [UInt8], mode: UInt32) throws(PKIError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, mode_t(mode))
        guard descriptor >= 0 else { throw Self.failure("cannot append to", path) }
        defer { close(descriptor) }
        try Self.write(descriptor, path, bytes)
        guard fsync(descriptor) == 0 else { throw Self.failure("cannot sync", path) }
        try Self.syncDirectory(of: path)
    }

    /// Reads a whole file.
    ///
    /// - Parameters:
    ///   - maximumSize: in bytes; a longer file is refused before it is read.
    ///   - offset: where to begin, in bytes; behind the end is `io`: the file was shortened.
    ///   - ownerOnly: refuse a file that group or others may read or write.
    ///   - groupMayRead: with `ownerOnly`, a group may read it: so an access list shows in the mode (acl(5)), by which
    ///     systemd lets a service read its credentials.
    /// - Throws: ``PKIError`` with code `missing`, `permissions`, `too-large` or `io`.
    package static func read(
        _ path: String, from offset: Int = 0, maximumSize: Int = Self.defaultMaximumSize, ownerOnly: Bool = false,
        groupMayRead: Bool = false
    ) throws(PKIError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            guard errno != ENOENT else { throw PKIError(.missing, "\(path) does not exist") }
            throw Self.failure("cannot read", path)
        }
        defer { close(descriptor) }
        // The permissions of the open file are judged, so nobody can swap the file between check and use.
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw Self.failure("cannot examine", path) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw PKIError(.io, "\(path) is not a regular file") }
        if ownerOnly, status.st_mode & (groupMayRead ? 0o037 : 0o077) != 0 {
            let mode = String(status.st_mode & 0o777, radix: 8)
            throw PKIError(
                .permissions,
                "\(path) holds a secret and others may access it (mode 0\(mode)): run chmod 600 \(path)")
        }
        if offset > 0 {
            guard Int(status.st_size) >= offset, lseek(descriptor, off_t(offset), SEEK_SET) == off_t(offset) else {
                throw PKIError(.io, "\(path) is shorter than it was")
            }
        }
        guard Int(status.st_size) - offset <= maximumSize else {
            throw PKIError(.tooLarge, "\(path) is longer than \(maximumSize) bytes")
        }
        // One byte more than the limit, to notice a file that grows while it is read.
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: min(maximumSize + 1, 65_536))
        while true {
            let count = chunk.withUnsafeMutableBytes { buffer in
                readBytes(descriptor, buffer)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw Self.failure("cannot read", path) }
            guard count > 0 else { return bytes }
            bytes.append(contentsOf: chunk[..<count])
            guard bytes.count <= maximumSize else {
                throw PKIError(.tooLarge, "\(path) is longer than \(maximumSize) bytes")
            }
        }
    }

    private static func fill(
        _ descriptor: Int32, _ path: String, _ bytes: [UInt8], mode: UInt32
    ) throws(PKIError) {
        guard fchmod(descriptor, mode_t(mode)) == 0 else { throw Self.failure("cannot set permissions of", path) }
        try Self.write(descriptor, path, bytes)
        guard fsync(descriptor) == 0 else { throw Self.failure("cannot sync", path) }
    }

    private static func write(_ descriptor: Int32, _ path: String, _ bytes: [UInt8]) throws(PKIError) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { buffer in
                writeBytes(descriptor, buffer)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw Self.failure("cannot write", path) }
            rest = rest.dropFirst(count)
        }
    }

    /// Makes durable what was created, renamed or removed beside a path.
    package static func syncDirectory(of path: String) throws(PKIError) {
        let directory = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.failure("cannot open the directory of", path) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw Self.failure("cannot sync the directory of", path) }
    }

    private static func failure(_ verb: String, _ path: String) -> PKIError {
        PKIError(.io, "\(verb) \(path): \(String(cString: strerror(errno)))")
    }
}

// Out here, because inside the type the names mean its own functions.
private func readBytes(_ descriptor: Int32, _ buffer: UnsafeMutableRawBufferPointer) -> Int {
    read(descriptor, buffer.baseAddress, buffer.count)
}

private func writeBytes(_ descriptor: Int32, _ buffer: UnsafeRawBufferPointer) -> Int {
    write(descriptor, buffer.baseAddress, buffer.count)
}
