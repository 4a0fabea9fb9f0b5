/// The two versions of the protocol that are spoken here; the raw value is the one in CONNECT.
public enum ProtocolVersion: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// MQTT 3.1.1, OASIS standard of 2014.
    // swift-format-ignore: AlwaysUseLowerCamelCase
    case v3_1_1 = 4
    /// MQTT 5.0, OASIS standard of 2019.
    // swift-format-ignore: AlwaysUseLowerCamelCase
    case v5_0 = 5

    public var description: String { self == .v5_0 ? "5.0" : "3.1.1" }
}
