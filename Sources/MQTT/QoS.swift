/// How hard the next hop tries to deliver (MQTT 5.0 section 4.3).
public enum QoS: UInt8, Hashable, Sendable, CaseIterable, Comparable {
    /// Sent once, never acknowledged.
    case atMostOnce = 0
    /// Sent until acknowledged by PUBACK; may arrive more than once.
    case atLeastOnce = 1
    /// Arrives exactly once as long as both ends keep their session.
    case exactlyOnce = 2

    public static func < (a: QoS, b: QoS) -> Bool { a.rawValue < b.rawValue }
}
