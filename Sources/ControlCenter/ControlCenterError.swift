/// What keeps the control center from working. Two errors are equal when their codes are.
///
/// Not for refused messages: those have a `Reason`.
public struct ControlCenterError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of trouble it is.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        /// Another process holds the state directory.
        public static let stateInUse = Code(description: "state-in-use")
        /// The state directory cannot be made, opened or written.
        public static let stateUnusable = Code(description: "state-unusable")
        /// The database is damaged, or not one of ours, or of a newer version.
        public static let storeDamaged = Code(description: "store-damaged")
        /// The database does not promise what we rely on: `synchronous` is not FULL, or no WAL.
        public static let notDurable = Code(description: "not-durable")
        /// A commit or a lookup failed: disk full, or an input/output error.
        public static let storeFailed = Code(description: "store-failed")
        /// The authority answers what is not understood.
        public static let authority = Code(description: "authority")
        /// The control center's own certificate or key does not serve.
        public static let identity = Code(description: "identity")
    }

    public let code: Code
    /// One line: what is wrong and what to do.
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { self.reason }

    public static func == (a: ControlCenterError, b: ControlCenterError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
