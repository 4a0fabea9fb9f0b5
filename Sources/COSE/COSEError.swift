/// Bytes that are not what we take for CBOR or COSE.
///
/// Two errors are equal when their codes are.
public struct COSEError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of wrong.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        /// Not well-formed or not valid CBOR (RFC 8949 sections 3 and 5.3.1): cut short, reserved values,
        /// text that is not UTF-8, a map key twice, lengths beyond the bytes at hand.
        public static let malformed = Code(description: "malformed")
        /// Well-formed, but another encoding of the same data than the deterministic one (RFC 8949
        /// section 4.2.1), or another form of COSE_Sign1 than ours.
        public static let notCanonical = Code(description: "not-canonical")
        /// CBOR that this protocol never uses: floating point, simple values other than false, true
        /// and null.
        public static let unsupported = Code(description: "unsupported")
        /// Another type of item than the caller asked for, or a value out of its range.
        public static let unexpected = Code(description: "unexpected")
        /// Nested deeper than ``CBORReader/maximumDepth``.
        public static let tooDeep = Code(description: "too-deep")
        /// More bytes than the caller allows.
        public static let tooLarge = Code(description: "too-large")
    }

    public let code: Code

    /// One line: what is wrong.
    public let reason: String

    /// Where in the bytes it was found, from 0.
    public let offset: Int

    public init(_ code: Code, _ reason: String, at offset: Int) {
        self.code = code
        self.reason = reason
        self.offset = offset
    }

    public var description: String { "\(self.reason) at byte \(self.offset)" }

    public static func == (a: COSEError, b: COSEError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
