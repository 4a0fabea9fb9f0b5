import Foundation
import MQTT
import NIOCore
import NIOPosix

/// The process at the other end of a Unix socket, as the kernel says.
public struct LocalPeer: Hashable, Sendable, CustomStringConvertible {
    public let processID: Int32
    public let userID: UInt32
    public let groupID: UInt32

    public var description: String { "process \(self.processID) of user \(self.userID)" }
}

/// Binds a Unix socket so that nobody else can reach it for a moment, and removes it afterwards.
struct UnixSocket {
    let path: String
    let mode: UInt32

    /// Binds in a folder of our own, sets the mode, and then moves it to its place in one step: it is never there
    /// with another mode, and a stale one is replaced. A living one is not.
    ///
    /// - Throws: ``BrokerError`` with code `listen`.
    func bind(_ bootstrap: ServerBootstrap) async throws -> any Channel {
        try await self.requireFree()
        let folder = "\(self.path).\(getpid())"
        guard mkdir(folder, 0o700) == 0 else { throw self.failure("cannot create \(folder)") }
        defer { rmdir(folder) }
        let aside = "\(folder)/s"
        let channel: any Channel
        do {
            channel = try await bootstrap.bind(unixDomainSocketPath: aside).get()
        } catch {
            throw BrokerError(
                .listen, "cannot listen on \(self.path): \((error as? IOError)?.words ?? "\(error)")")
        }
        guard chmod(aside, mode_t(self.mode)) == 0, rename(aside, self.path) == 0 else {
            let failure = self.failure("cannot listen on \(self.path)")
            unlink(aside)
            try? await channel.close().get()
            throw failure
        }
        return channel
    }

    /// Removes it, if it is still the one that was bound.
    func remove(_ identity: FileIdentity?) {
        guard let identity, FileIdentity(self.path) == identity else { return }
        unlink(self.path)
    }

    /// A file that is no socket is somebody's; a socket that answers is a running broker's.
    private func requireFree() async throws {
        guard let attributes = try? FileManager.default.attributesOfItem(atPath: self.path) else { return }
        guard attributes[.type] as? FileAttributeType == .typeSocket else {
            throw BrokerError(.listen, "cannot listen on \(self.path): a file that is no socket is in the way")
        }
        let other = try? await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connect(unixDomainSocketPath: self.path).get()
        guard let other else { return }
        try? await other.close().get()
        throw BrokerError(.listen, "cannot listen on \(self.path): another process does")
    }

    private func failure(_ what: String) -> BrokerError {
        BrokerError(.listen, "\(what): \(String(cString: strerror(errno)))")
    }

    /// Which file a path names just now.
    struct FileIdentity: Equatable {
        private let device: Int
        private let number: Int

        init?(_ path: String) {
            guard let attributes = try? FileManager.default.attributesOfItem(atPath: path),
                let device = attributes[.systemNumber] as? Int, let number = attributes[.systemFileNumber] as? Int
            else { return nil }
            self.device = device
            self.number = number
        }
    }

    /// Who is at the other end (unix(7), SO_PEERCRED).
    ///
    /// - Returns: `nil` where the system does not say.
    static func peer(of channel: any Channel) -> EventLoopFuture<LocalPeer?> {
        #if os(Linux)
            guard let provider = channel as? any SocketOptionProvider else {
                return channel.eventLoop.makeSucceededFuture(nil)
            }
            // struct ucred: pid, uid, gid. SO_PEERCRED is 17.
            let credentials: EventLoopFuture<Credentials> = provider.unsafeGetSocketOption(
                level: NIOBSDSocket.OptionLevel.socket, name: NIOBSDSocket.Option(rawValue: 17))
            return credentials.map { LocalPeer(processID: $0.pid, userID: $0.uid, groupID: $0.gid) }
        #else
            return channel.eventLoop.makeSucceededFuture(nil)
        #endif
    }

    private struct Credentials: Sendable {
        var pid: Int32 = 0
        var uid: UInt32 = 0
        var gid: UInt32 = 0
    }
}
