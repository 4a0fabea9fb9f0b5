import ControlCenter
import Foundation
import Logging
import MQTTBroker
import PKI
import ServiceLifecycle

/// Reads the revocation lists again when their file has changed, so that `pki revoke` takes effect within a second:
/// live sessions are cut, and nothing more of the revoked is stored.
///
/// The file is looked at twice a second: that works on every file system and however the file is replaced.
struct RevocationWatch: Service {
    let trust: TrustSettings
    let gate: PeerGate
    var broker: Broker?
    var controlCenter: ControlCenter?
    /// The list of these that the control center publishes.
    var published: @Sendable ([RevocationList]) -> [UInt8]? = { _ in nil }
    let logger: Logger

    func run() async throws {
        guard let path = self.trust.revocationLists else {
            try? await gracefulShutdown()
            return
        }
        await cancelWhenGracefulShutdown {
            var known = Mark(path)
            while (try? await Task.sleep(for: .milliseconds(500))) != nil {
                // While a file is being replaced there may be none.
                guard let mark = Mark(path), mark != known else { continue }
                known = mark
                await self.reload()
            }
        }
    }

    private func reload() async {
        do {
            let lists = try self.trust.readRevocationLists()
            try self.gate.update(lists)
            try await self.controlCenter?.update(lists, published: self.published(lists))
            let closed = try await self.broker?.recheckPeers() ?? 0
            self.logger.notice(
                "revocation lists read again",
                metadata: ["revoked": "\(lists.reduce(0) { $0 + $1.entries.count })", "disconnected": "\(closed)"])
        } catch {
            self.logger.error("revocation lists cannot be read: the former ones hold", metadata: ["reason": "\(error)"])
        }
    }

    /// What changes when a file is replaced or written.
    private struct Mark: Equatable {
        let number: Int?
        let size: Int?
        let date: Date?

        init?(_ path: String) {
            guard let attributes = try? FileManager.default.attributesOfItem(atPath: path) else { return nil }
            self.number = attributes[.systemFileNumber] as? Int
            self.size = attributes[.size] as? Int
            self.date = attributes[.modificationDate] as? Date
        }
    }
}
