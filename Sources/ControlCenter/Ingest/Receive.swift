public import Identity

/// The first step: a message as it arrived, before anything of it is believed.
public struct Arrival: Sendable {
    /// The topic's name.
    public var topic: String
    public var bytes: [UInt8]
    /// Stored by the broker before we subscribed, or passed on as such.
    public var isRetained: Bool
    /// The publisher's TLS identity: only the embedded broker tells it.
    public var sender: PeerIdentity?

    public init(topic: String, bytes: [UInt8], isRetained: Bool = false, sender: PeerIdentity? = nil) {
        self.topic = topic
        self.bytes = bytes
        self.isRetained = isRetained
        self.sender = sender
    }
}
