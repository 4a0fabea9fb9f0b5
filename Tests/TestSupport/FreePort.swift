import Foundation
import Synchronization

/// What the operating system refused, in its own words.
public struct SystemError: Error, Sendable, CustomStringConvertible {
    public let description: String

    init(_ what: String, errno code: Int32 = errno) {
        self.description = "\(what): \(String(cString: strerror(code)))"
    }
}

private let handedOut = Mutex<Set<Int>>([])

/// A TCP port of 127.0.0.1 that nobody listens on now. Never the same twice in one process, so that tests
/// running side by side don't meet.
public func freePort() throws -> Int {
    while true {
        let port = try unusedPort()
        if handedOut.withLock({ $0.insert(port).inserted }) { return port }
    }
}

private func unusedPort() throws -> Int {
    let descriptor = try streamSocket()
    defer { close(descriptor) }
    var address = loopback(port: 0)
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let status = withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { rebound in
            bind(descriptor, rebound, length) == 0 && getsockname(descriptor, rebound, &length) == 0
        }
    }
    guard status else { throw SystemError("bind a free port") }
    return Int(UInt16(bigEndian: address.sin_port))
}

/// Whether something listens on that port of an address of loopback.
public func isListening(port: Int, address host: String = "127.0.0.1") -> Bool {
    guard let descriptor = try? streamSocket() else { return false }
    defer { close(descriptor) }
    var address = loopback(port: port)
    address.sin_addr.s_addr = inet_addr(host)
    return withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { rebound in
            connect(descriptor, rebound, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
    }
}

private func streamSocket() throws -> Int32 {
    #if canImport(Glibc)
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    #else
        let descriptor = socket(AF_INET, SOCK_STREAM, 0)
    #endif
    guard descriptor >= 0 else { throw SystemError("open a socket") }
    return descriptor
}

private func loopback(port: Int) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return address
}
