import ControlCenter
import Foundation
import Identity
import LiCore
import Logging
import MQTTBroker
import PKI
import ServiceLifecycle

/// The file that says who may still use the original's format. There is none unless somebody was allowed.
struct FleetFile: Sendable {
    let path: String

    /// - Returns: nobody, if there is no such file.
    func read() throws -> Fleet {
        do {
            return try Fleet(json: try DurableFile.read(self.path, maximumSize: Fleet.maximumFileSize))
        } catch let error as PKIError where error.code == .missing {
            return .none
        } catch let error as LiCoreError {
            throw CommandError(.configuration, "\(self.path): \(error.reason)")
        }
    }

    func write(_ fleet: Fleet) throws { try DurableFile.replace(self.path, try fleet.json, mode: 0o644) }
}

/// Reads the fleet file again when it has changed, so that who is allowed or ended is so within a second; and says, at
/// the start and each day, whose time runs out.
struct FleetWatch: Service {
    /// From so many days on it is said each day.
    static let warningDays = 30

    let file: FleetFile
    let register: FleetRegister
    var broker: Broker?
    var controlCenter: ControlCenter?
    let logger: Logger

    func run() async throws {
        await cancelWhenGracefulShutdown {
            // It may have changed since the server read it.
            var known: FileMark??
            var warned = UnixTime.min
            repeat {
                if UnixTime.now - 86_400 >= warned {
                    warned = UnixTime.now
                    self.warn()
                }
                let mark = FileMark(self.file.path)
                if let known, known == mark { continue }
                known = .some(mark)
                await self.reload()
            } while (try? await Task.sleep(for: .milliseconds(500))) != nil
        }
    }

    private func warn() {
        let now = UnixTime.now
        for member in self.register.current.members {
            let days = member.daysLeft(at: now)
            guard days < Self.warningDays else { continue }
            let said: Logger.Metadata = ["id": "\(member.id)", "until": "\(member.lastSecond.iso8601)"]
            if days < 0 {
                self.logger.warning("the original's format is no longer allowed", metadata: said)
            } else {
                self.logger.warning("the original's format is allowed for \(days) more days", metadata: said)
            }
        }
    }

    private func reload() async {
        do {
            let fleet = try self.file.read()
            let changed = self.register.replace(with: fleet)
            guard !changed.ids.isEmpty else { return }
            // What they were answered before does not hold any more: they come again, and are answered anew.
            let closed =
                try await self.broker?.disconnect(reason: "the fleet was changed") { peer in
                    changed.certificates.contains(peer.certificateHash) || changed.ids.contains(peer.spiffeID.id)
                } ?? 0
            try await self.controlCenter?.update(fleet)
            self.logger.notice(
                "fleet read again", metadata: ["members": "\(fleet.members.count)", "disconnected": "\(closed)"])
        } catch {
            self.logger.error("the fleet cannot be read: the former one holds", metadata: ["reason": "\(error)"])
        }
    }
}
