import Identity
import MQTT
import NIOCore

// Wills (MQTT 5.0 sections 3.1.2.5 and 3.1.3.2).
extension Router {
    /// A will is refused when the client connects, not when it is due: then there is nobody to tell.
    func refusal(of will: Will, _ peer: PeerIdentity) -> (ReasonCode, String)? {
        guard will.qos <= self.limits.maximumQoS else {
            return (.qosNotSupported, "the will's QoS is above the maximum (MQTT-3.2.2-12)")
        }
        guard !will.retain || self.limits.isRetainAvailable else {
            return (.retainNotSupported, "the will is retained, which is not available (MQTT-3.2.2-13)")
        }
        guard will.payload.count <= self.limits.maximumPayloadSize else {
            return (.quotaExceeded, "the will's payload is too large")
        }
        return self.authorizer.refusalOfWill(will.topic, isRetained: will.retain, by: peer)
            .map { (.notAuthorized, "may not have a will there: \($0)") }
    }

    /// Publishes a session's will, once.
    mutating func publishWill(of session: Session) {
        guard let will = session.will else { return }
        session.will = nil
        let message = Message(
            Publish(
                topic: will.topic, payload: ByteBuffer(bytes: will.payload), qos: will.qos, retain: will.retain,
                packetID: will.qos == .atMostOnce ? 0 : 1, properties: will.properties),
            sender: session.peer, now: self.now, isKept: true)
        if will.retain, !self.retain(message, qos: will.qos) { self.statistics.drop(.retainedFull) }
        let isAlive = self.sessions[session.index] === session
        self.distribute(
            message, qos: will.qos, retain: will.retain,
            to: self.targets(will.topic, publisher: isAlive ? session.index : nil), settlement: nil)
        if session.isDurable { self.persist(.openSession(session.stored)) }
    }

    /// The server is about to end every connection: wills without delay are published while others can still take
    /// them; the rest stays with its session.
    package mutating func publishWillsAtShutdown() {
        for connection in self.connections where connection.isOpen {
            guard let session = self.sessions[connection.session], session.willDelay == 0 || session.expiry == 0 else {
                continue
            }
            self.publishWill(of: session)
        }
    }
}
