/// The name of a party: an auditor, a control center, a broker or an operator.
///
/// `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, at most 64 bytes of ASCII, and never the reserved word `all`
/// (in any case). The characters are chosen so that an identifier is at once a safe MQTT topic
/// level, an X.509 common name, a SPIFFE path segment and a file name.
///
/// Identifiers are *written* with their case and compared with it on the wire, where names must agree
/// byte for byte. An authority gives an identifier out once without regard to case: see ``folded``.
public struct Identifier: Hashable, Sendable {
    /// The longest identifier, in bytes.
    public static let maximumLength = 64

    /// The identifier as written.
    public let rawValue: String

    /// - Throws: ``IdentityError`` with code `identifier` if the text is not an identifier.
    public init(_ text: some StringProtocol) throws(IdentityError) {
        guard Self.isWellFormed(text.utf8, maximumLength: Self.maximumLength) else {
            throw IdentityError(
                .identifier,
                "\(quoted(text)) is not an identifier: use a letter or digit, then up to 63 letters, digits, '.', '_' or '-'"
            )
        }
        let text = String(text)
        guard text.lowercased() != "all" else {
            throw IdentityError(.identifier, "\(quoted(text)) is reserved: it addresses every auditor")
        }
        self.rawValue = text
    }

    /// For bytes that were checked already, by the same rules, where they lay.
    package init(checked text: String) { self.rawValue = text }

    /// The form under which an authority keeps identifiers unique: lower case.
    public var folded: String { self.rawValue.lowercased() }

    static func isWellFormed(_ bytes: some Collection<UInt8>, maximumLength: Int) -> Bool {
        guard let first = bytes.first, first.isASCIIAlphanumeric, bytes.count <= maximumLength else { return false }
        return bytes.allSatisfy {
            $0.isASCIIAlphanumeric || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: "-")
        }
    }
}

extension Identifier: CustomStringConvertible {
    public var description: String { self.rawValue }
}

extension Identifier: Comparable {
    public static func < (a: Identifier, b: Identifier) -> Bool { a.rawValue < b.rawValue }
}

/// The name of a meter at an auditor's site: as ``Identifier``, at most 32 bytes.
public struct MeterName: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The longest meter name, in bytes.
    public static let maximumLength = 32

    public let rawValue: String

    /// - Throws: ``IdentityError`` with code `meter` if the text is not a meter name.
    public init(_ text: some StringProtocol) throws(IdentityError) {
        guard Identifier.isWellFormed(text.utf8, maximumLength: Self.maximumLength) else {
            throw IdentityError(
                .meter,
                "\(quoted(text)) is not a meter name: use a letter or digit, then up to 31 letters, digits, '.', '_' or '-'"
            )
        }
        self.rawValue = String(text)
    }

    /// For bytes that were checked already, by the same rules, where they lay.
    package init(checked text: String) { self.rawValue = text }

    public var description: String { self.rawValue }

    public static func < (a: MeterName, b: MeterName) -> Bool { a.rawValue < b.rawValue }
}

extension UInt8 {
    var isASCIILowercaseOrDigit: Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(self) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self)
    }

    var isASCIIAlphanumeric: Bool {
        self.isASCIILowercaseOrDigit || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(self)
    }
}

/// Text from outside, fit for one line of an error message.
func quoted(_ text: some StringProtocol) -> String {
    let shown = text.unicodeScalars.prefix(80).map {
        $0.properties.generalCategory == .control ? "\u{FFFD}" : String($0)
    }
    return "'" + shown.joined() + (text.unicodeScalars.count > 80 ? "…" : "") + "'"
}
