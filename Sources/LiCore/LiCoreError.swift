/// Why something is not of the original's format, or not allowed. Two errors are equal when their codes are.
public struct LiCoreError: Error, Hashable, Sendable, CustomStringConvertible {
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        /// Longer than any message of this format.
        public static let tooLarge = Code(description: "too-large")
        /// Not `ID/date/type/value||signature`, or not `value||signature`.
        public static let shape = Code(description: "shape")
        /// The ID is not an identifier.
        public static let identifier = Code(description: "identifier")
        /// Not a date and time of day without a zone.
        public static let date = Code(description: "date")
        /// A type other than 0 (consumption) and 1 (production).
        public static let type = Code(description: "type")
        /// Not a decimal number, or one with more digits than are kept.
        public static let value = Code(description: "value")
        /// Not lower-case hexadecimal digits of one DER signature of P-256.
        public static let signature = Code(description: "signature")
        /// A fleet file that cannot be read, or a member that contradicts itself or another.
        public static let fleet = Code(description: "fleet")
        /// Not a member of the fleet, or not one of that kind.
        public static let notAllowed = Code(description: "not-allowed")
        /// It was allowed, until an end that has passed.
        public static let ended = Code(description: "ended")
    }

    public let code: Code
    /// One line: what is wrong and, where we know it, what to do.
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { self.reason }

    public static func == (a: LiCoreError, b: LiCoreError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
