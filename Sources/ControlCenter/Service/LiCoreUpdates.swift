public import Crypto
public import Identity
public import LiCore
import Logging
import MQTT
import MessageBus
import NIOCore
import Telemetry

/// Somebody whose updates auditors in the original's format obey: a name, and the key behind the certificate that they
/// have under it.
public struct LiCoreController: Sendable {
    public let name: Identifier
    let sign: @Sendable (BLAKE2b512Digest) throws -> P256.Signing.ECDSASignature

    /// - Parameter sign: ECDSA over P-256 on the digest.
    public init(
        name: Identifier, sign: @escaping @Sendable (BLAKE2b512Digest) throws -> P256.Signing.ECDSASignature
    ) {
        self.name = name
        self.sign = sign
    }

    /// One update as a message.
    ///
    /// - Throws: ``LiCoreError`` with code `value`; what signing throws.
    func message(_ parameter: Topic.Parameter, _ value: String) throws -> [UInt8] {
        try ParameterUpdate(parameter, value: value).message(signedBy: self.sign)
    }
}

extension ControlCenter {
    /// Publishes what `secure-mqtt fleet update` ordered. Another process orders by a row: asking for it is the only
    /// way to know, and only where there is a fleet.
    func publishingLiCoreUpdates() async {
        while (try? await Task.sleep(for: .seconds(1))) != nil {
            guard !self.fleet.isEmpty else { continue }
            do {
                for order in try self.store.openLiCoreOrders(at: self.clock()) {
                    guard let outcome = await self.publish(order) else { break }
                    try self.store.closeLiCoreOrder(order.number, outcome: outcome, at: self.clock())
                    self.logger.notice(
                        "update in the original's form",
                        metadata: [
                            "auditor": "\(order.auditor)", "parameter": "\(order.parameter)", "outcome": "\(outcome)",
                        ])
                }
            } catch {
                self.logger.error("updates in the original's form", metadata: ["reason": "\(error)"])
            }
        }
    }

    /// - Returns: what became of it; nil if it should be tried again.
    private func publish(_ order: LiCoreOrder) async -> String? {
        guard let member = self.fleet.auditor(order.auditor), let name = member.controller else {
            return "\(order.auditor) is not in the fleet"
        }
        guard let controller = self.configuration.liCoreControllers.first(where: { $0.name == name }) else {
            return "there is no key of its controller \(name) here: set licore.controller-key"
        }
        let topic = Topic.update(order.auditor, controller: name, parameter: order.parameter)
        do {
            // Retained, as the original does it: the auditor keeps no session. Without a value, the broker forgets it.
            try await self.bus.publish(
                topic: try TopicName(topic.description),
                payload: ByteBuffer(
                    bytes: order.value.isEmpty ? [] : try controller.message(order.parameter, order.value)),
                qos: .atLeastOnce, retain: true)
            return "published"
        } catch let error as BusError where error.code == .disconnected || error.code == .closed {
            return nil
        } catch is CancellationError {
            return nil
        } catch {
            return "\(error)"
        }
    }
}
