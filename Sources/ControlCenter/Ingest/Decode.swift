import Identity
public import Telemetry

/// The second step: bytes become a message of ours in its one form, on a topic where it belongs.
public struct Decoded: Sendable {
    public let arrival: Arrival
    public let envelope: Envelope

    /// Checks all that needs no certificate: size, encoding, header, payload, topic, retained flag.
    ///
    /// - Throws: `Refusal` with `too-large`, `format`, `not-canonical`, `header`, `topic` or `retained`.
    public init(_ arrival: Arrival) throws(Refusal) {
        let envelope = try Envelope.decode(arrival.bytes)
        // Only auditors speak to us. Our own receipts, sent back to us, belong nowhere.
        guard envelope.kind.signerRoles.contains(.auditor) else {
            throw Refusal(.topic, "a \(envelope.kind) is not for the control center")
        }
        try envelope.checkTopic(named: arrival.topic, isRetained: arrival.isRetained)
        self.arrival = arrival
        self.envelope = envelope
    }
}
