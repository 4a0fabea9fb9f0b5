/// A name that is not one.
///
/// Two errors are equal when their codes are.
public struct IdentityError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of name is wrong.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        public static let identifier = Code(description: "identifier")
        public static let meter = Code(description: "meter")
        public static let trustDomain = Code(description: "trust-domain")
        public static let spiffeID = Code(description: "spiffe-id")
    }

    public let code: Code

    /// One line: what is wrong, and what would be right.
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { self.reason }

    public static func == (a: IdentityError, b: IdentityError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
