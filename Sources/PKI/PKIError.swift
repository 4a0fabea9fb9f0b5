/// Why a certificate, a revocation list or a key is not accepted.
///
/// Two errors are equal when their codes are.
public struct PKIError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kind of fault: one word for each way to fail. An open set.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        public init(_ description: String) { self.description = description }

        /// Longer than the limit of its kind; refused before it was parsed.
        public static let tooLarge = Code("too-large")
        /// Not DER or PEM, or not the structure that was expected.
        public static let format = Code("format")
        /// Too many certificates, or none.
        public static let chain = Code("chain")
        /// An X.509 version other than 3.
        public static let version = Code("version")
        /// A public key other than P-256.
        public static let weakKey = Code("weak-key")
        /// A signature algorithm other than ecdsa-with-SHA256.
        public static let algorithm = Code("algorithm")
        /// An extension is missing, malformed, or critical and not understood.
        public static let `extension` = Code("extension")
        /// Basic constraints, key usage or extended key usage do not allow this use.
        public static let keyUsage = Code("key-usage")
        /// Not exactly one URI SAN, not a SPIFFE ID, a common name that differs from its ID, or an alternative name
        /// that the role may not have.
        public static let name = Code("name")
        /// A SPIFFE ID of another trust domain.
        public static let trustDomain = Code("trust-domain")
        /// A role that is not accepted here.
        public static let role = Code("role")
        /// No path of the fixed shape leaf, intermediate, root leads to a trusted root.
        public static let unknownIssuer = Code("unknown-issuer")
        /// The issuer is known, its signature is not.
        public static let signature = Code("signature")
        /// The time is before the validity of a certificate of the chain.
        public static let notYetValid = Code("not-yet-valid")
        /// The time is after the validity of a certificate of the chain.
        public static let expired = Code("expired")
        /// On the revocation list of its issuer.
        public static let revoked = Code("revoked")
        /// A current revocation list is demanded, and the one at hand is past its next update.
        public static let crlExpired = Code("crl-expired")
        /// A revocation list is demanded of each issuer, and there is none.
        public static let crlMissing = Code("crl-missing")
        /// A revocation list with a lower number than the one at hand.
        public static let crlOutdated = Code("crl-outdated")
        /// A key file that others than its owner may read.
        public static let permissions = Code("permissions")
        /// A file that should not exist yet does.
        public static let exists = Code("exists")
        /// A file that should exist does not.
        public static let missing = Code("missing")
        /// The operating system refused to read or write.
        public static let io = Code("io")
        /// A key file is encrypted, and there is no passphrase or a wrong one.
        public static let passphrase = Code("passphrase")
        /// A signing request whose signature does not prove that its sender holds the key.
        public static let possession = Code("possession")
        /// No such invitation: the ID or the token is wrong.
        public static let token = Code("token")
        /// The invitation has expired.
        public static let tokenExpired = Code("token-expired")
        /// The invitation was used, for another key.
        public static let tokenUsed = Code("token-used")
        /// Too much was asked for in a short time.
        public static let busy = Code("busy")
        /// A token with keys is not there, or cannot be used, or its module.
        public static let hardware = Code("hardware")
        /// The key, software or hardware, could not sign.
        public static let signing = Code("signing")
    }

    public let code: Code

    /// One line: what is wrong, and with what.
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { self.reason }

    public static func == (a: PKIError, b: PKIError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
