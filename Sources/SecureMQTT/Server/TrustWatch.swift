import ControlCenter
import Foundation
import Logging
import MQTTBroker
import PKI
import ServiceLifecycle
import Synchronization
import UnixSignals

/// Reads files again when they have changed, and all of them on SIGHUP, so that what they say takes effect within a
/// second: revocation lists (live sessions of the revoked are cut, and nothing more of them is stored), the broker's
/// certificate and key, roots and intermediates (live sessions that no longer lead to a root are cut). Good
/// connections stay. What cannot be read, or does not fit together, changes nothing: the former holds.
///
/// The files are looked at twice a second: that works on every file system and however a file is replaced.
struct TrustWatch: Service {
    let parts: ServerParts
    var broker: Broker?
    var controlCenter: ControlCenter?
    /// The lists as the control center publishes them.
    var published: @Sendable ([RevocationList]) -> [[UInt8]] = { _ in [] }
    let logger: Logger

    private var trust: TrustSettings { self.parts.configuration.trust }

    func run() async throws {
        let hangUp = Flag()
        await cancelWhenGracefulShutdown {
            await withDiscardingTaskGroup { group in
                group.addTask {
                    for await _ in await UnixSignalsSequence(trapping: .sighup) {
                        hangUp.value.store(true, ordering: .relaxed)
                    }
                }
                var marks = Marks(self)
                while (try? await Task.sleep(for: .milliseconds(500))) != nil {
                    let isAsked = hangUp.value.exchange(false, ordering: .relaxed)
                    let former = marks
                    marks.look(self)
                    // The trust first: lists of new authorities are known only then.
                    let isAll = isAsked || marks.trust != former.trust
                    if isAll || marks.identity != former.identity { await self.reload(trustHasChanged: isAll) }
                    if !isAll, marks.lists != former.lists { await self.reloadLists() }
                }
                group.cancelAll()
            }
        }
    }

    private func reload(trustHasChanged: Bool) async {
        do {
            // Everything is read before anything is exchanged.
            let tls = try self.broker.map { _ in try self.parts.makeBrokerTLS() }
            let trust = try trustHasChanged ? (self.trust.readRevocationLists(), self.trust.makeVerifier()) : nil
            // TLS first: who was let in by a handshake under the former roots is then looked at once more.
            if let tls { try await self.broker?.reload(tls: tls) }
            if let (lists, _) = trust { try self.parts.replaceTrust(lists) }
            let closed = try await self.broker?.recheckPeers() ?? 0
            if let (lists, verifier) = trust {
                try await self.controlCenter?.replaceTrust(verifier, published: self.published(lists))
            }
            self.logger.notice(
                "certificate, key and roots read again", metadata: ["disconnected": "\(closed)"])
        } catch {
            self.logger.error(
                "certificate, key or roots cannot be used: the former ones hold", metadata: ["reason": "\(error)"])
        }
    }

    private func reloadLists() async {
        guard self.trust.revocationLists != nil else { return }
        do {
            let lists = try self.trust.readRevocationLists()
            try self.parts.gate.update(lists)
            try await self.controlCenter?.update(lists, published: self.published(lists))
            let closed = try await self.broker?.recheckPeers() ?? 0
            self.logger.notice(
                "revocation lists read again",
                metadata: ["revoked": "\(lists.reduce(0) { $0 + $1.entries.count })", "disconnected": "\(closed)"])
        } catch {
            self.logger.error("revocation lists cannot be read: the former ones hold", metadata: ["reason": "\(error)"])
        }
    }

    /// SIGHUP has come.
    private final class Flag: Sendable {
        let value = Atomic(false)
    }

    /// What the files looked like.
    private struct Marks {
        var trust: [FileMark?] = []
        var identity: [FileMark?] = []
        var lists: [FileMark?] = []

        init(_ watch: TrustWatch) { self.look(watch) }

        mutating func look(_ watch: TrustWatch) {
            let trust = watch.trust
            let broker = watch.broker == nil ? nil : watch.parts.configuration.broker
            Self.look(&self.trust, [trust.root, trust.intermediates])
            Self.look(&self.identity, [broker?.certificate, broker?.key])
            Self.look(&self.lists, [trust.revocationLists])
        }

        private static func look(_ marks: inout [FileMark?], _ paths: [String?]) {
            // While a file is being replaced there may be none: then it is as it was.
            marks = paths.enumerated().map { index, path in
                path.flatMap { FileMark($0) } ?? (marks.indices.contains(index) ? marks[index] : nil)
            }
        }
    }
}
