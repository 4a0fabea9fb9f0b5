/// Why a device could not join or renew. Two errors are equal when their codes are.
public struct EnrolmentError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kind of fault. An open set.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        public init(_ description: String) { self.description = description }

        /// Not the address of an authority.
        public static let address = Code("address")
        /// Not the fingerprint of a certificate, or the authority has no root with this one.
        public static let fingerprint = Code("fingerprint")
        /// The authority cannot be reached, or does not answer in time.
        public static let unreachable = Code("unreachable")
        /// What answers there is not the authority of this root, or its answers are not to be believed.
        public static let untrusted = Code("untrusted")
        /// This device's clock is wrong.
        public static let clock = Code("clock")
        /// An answer that is not what the protocol says.
        public static let format = Code("format")
        /// The certificate that came is not the one that was asked for.
        public static let identity = Code("identity")
        /// 400: the authority does not understand the request.
        public static let request = Code("request")
        /// 401: the token is wrong, used or expired; or the certificate is not accepted.
        public static let token = Code("token")
        /// 403: the authority does not allow it: another's token, a revoked identity.
        public static let forbidden = Code("forbidden")
        /// 409, but for a token that was used: what is asked for contradicts what there is.
        public static let conflict = Code("conflict")
        /// 429, 503: the authority is busy; later.
        public static let busy = Code("busy")
        /// Any other answer.
        public static let server = Code("server")
    }

    public let code: Code

    /// One line: what is wrong and what to do.
    public let reason: String

    /// The authority's own word for its refusal, such as `token-used`; `nil` if it gave none.
    public let word: String?

    public init(_ code: Code, _ reason: String, word: String? = nil) {
        self.code = code
        self.reason = reason
        self.word = word
    }

    public var description: String { self.reason }

    /// Whether trying again by itself may help.
    public var isPassing: Bool {
        [.unreachable, .busy, .server, .format, .clock].contains(self.code)
    }

    public static func == (a: EnrolmentError, b: EnrolmentError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
