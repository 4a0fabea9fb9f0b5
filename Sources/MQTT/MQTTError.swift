/// What a peer did wrong, or what cannot be encoded. Two errors are equal when their codes are.
public struct MQTTError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of mistake. Each has the MQTT 5.0 reason code with which it is answered.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String
        /// The reason code for the DISCONNECT or CONNACK that answers it.
        public let reasonCode: ReasonCode

        /// The bytes are no packet (MQTT 5.0 section 4.13.1).
        public static let malformedPacket = Code(description: "malformed-packet", reasonCode: .malformedPacket)
        /// A well-formed packet that may not come here or now.
        public static let protocolError = Code(description: "protocol-error", reasonCode: .protocolError)
        /// Larger than the limit, which is found from the fixed header before the rest is buffered; or of more than 1,024
        /// user properties or filters.
        public static let packetTooLarge = Code(description: "packet-too-large", reasonCode: .packetTooLarge)
        /// Neither 3.1.1 nor 5.0.
        public static let unsupportedVersion = Code(
            description: "unsupported-version", reasonCode: .unsupportedProtocolVersion)
        /// Empty, too long, or with a wildcard or U+0000.
        public static let topicNameInvalid = Code(description: "topic-name-invalid", reasonCode: .topicNameInvalid)
        /// Empty, too long, or with a wildcard where none may stand.
        public static let topicFilterInvalid = Code(
            description: "topic-filter-invalid", reasonCode: .topicFilterInvalid)
        /// Zero, above the maximum we announced, or never defined.
        public static let topicAliasInvalid = Code(description: "topic-alias-invalid", reasonCode: .topicAliasInvalid)
        /// One of our own values has no encoding, such as a string of more than 65,535 bytes; or more than 1,024 user
        /// properties.
        public static let notEncodable = Code(
            description: "not-encodable", reasonCode: .implementationSpecificError)
    }

    public let code: Code
    /// One line: what is wrong, with the standard's statement number where there is one.
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    /// The MQTT 5.0 reason code to answer with.
    public var reasonCode: ReasonCode { self.code.reasonCode }

    public var description: String { "\(self.code): \(self.reason)" }

    public static func == (a: MQTTError, b: MQTTError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }

    static func malformed(_ reason: String) -> MQTTError { MQTTError(.malformedPacket, reason) }
    static func protocolError(_ reason: String) -> MQTTError { MQTTError(.protocolError, reason) }
}
