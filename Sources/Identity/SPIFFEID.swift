/// What a party is. A certificate names exactly one role, as the first segment of its SPIFFE path.
public enum Role: String, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// Reads meters, signs, sends.
    case auditor
    /// Verifies, stores, answers.
    case controlCenter = "control-center"
    /// Delivers. Its certificate opens no session.
    case broker
    /// A person or program that acts through the control center's API; reads topics, writes none.
    case `operator`
    /// Certifies, over HTTPS. Its certificate opens no session at a broker.
    case authority

    public var description: String { self.rawValue }
}

/// The namespace of one installation: a lower-case DNS name of two labels or more.
public struct TrustDomain: Hashable, Sendable, CustomStringConvertible {
    public let rawValue: String

    /// - Throws: ``IdentityError`` with code `trust-domain`.
    public init(_ text: some StringProtocol) throws(IdentityError) {
        let labels = Array(text.utf8).split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        let wellFormed =
            labels.count >= 2 && text.utf8.count <= 253
            && labels.allSatisfy { label in
                (1...63).contains(label.count)
                    && label.allSatisfy { $0.isASCIILowercaseOrDigit || $0 == UInt8(ascii: "-") }
                    && label.first != UInt8(ascii: "-") && label.last != UInt8(ascii: "-")
            }
        guard wellFormed else {
            throw IdentityError(
                .trustDomain,
                "\(quoted(text)) is not a trust domain: use a lower-case DNS name of two labels or more, such as energy.example"
            )
        }
        self.rawValue = String(text)
    }

    /// For bytes that were checked already, by the same rules, where they lay.
    package init(checked text: String) { self.rawValue = text }

    public var description: String { self.rawValue }
}

/// `spiffe://<trust-domain>/<role>/<id>`: the one name by which a party is known in its certificate's
/// URI SAN and as issuer and audience of what it signs. Compared byte for byte.
///
/// The form is that of the SPIFFE ID standard, section 2, with a path of exactly two segments.
public struct SPIFFEID: Hashable, Sendable, CustomStringConvertible {
    public let trustDomain: TrustDomain
    public let role: Role
    public let id: Identifier

    /// The whole URI.
    public let rawValue: String

    public init(trustDomain: TrustDomain, role: Role, id: Identifier) {
        self.trustDomain = trustDomain
        self.role = role
        self.id = id
        self.rawValue = "spiffe://\(trustDomain)/\(role)/\(id)"
    }

    /// - Throws: ``IdentityError`` with code `spiffe-id`, `trust-domain` or `identifier`.
    public init(_ text: some StringProtocol) throws(IdentityError) {
        let prefix = "spiffe://"
        guard text.hasPrefix(prefix) else {
            throw IdentityError(.spiffeID, "\(quoted(text)) is not a SPIFFE ID: it must begin with \(prefix)")
        }
        let parts = text.dropFirst(prefix.count).split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 3, let role = Role(rawValue: String(parts[1])) else {
            throw IdentityError(
                .spiffeID,
                "\(quoted(text)) is not one of our SPIFFE IDs: spiffe://<trust-domain>/<auditor|control-center|broker|operator|authority>/<id>"
            )
        }
        self.init(trustDomain: try TrustDomain(parts[0]), role: role, id: try Identifier(parts[2]))
    }

    public var description: String { self.rawValue }
}
