import Connections
import NIOCore

/// Where a connection comes from: for logs, and for limits.
struct Origin: Sendable, CustomStringConvertible {
    /// `nil`: not over a network.
    let address: NetworkAddress?
    let description: String

    private init(address: NetworkAddress?, description: String) {
        self.address = address
        self.description = description
    }

    init(address: NetworkAddress, port: Int) {
        self.init(
            address: address, description: address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)")
    }

    /// - Parameter local: the process behind a Unix socket.
    init(local: LocalPeer) { self.init(address: nil, description: "\(local)") }

    init(_ address: SocketAddress?) {
        if let text = address?.ipAddress, let parsed = NetworkAddress(text) {
            self.init(address: parsed, port: address?.port ?? 0)
        } else {
            self.init(address: nil, description: "?")
        }
    }
}
