/// Why a message is not stored: one word, the same in receipt, log, metric, quarantine and page.
///
/// An open set: words that a newer peer sends are kept as they are.
public struct Reason: Hashable, Sendable, CustomStringConvertible {
    /// The word: 1...32 characters of `[a-z-]`.
    public let rawValue: String

    /// The longest word, in bytes.
    public static let maximumLength = 32

    /// Nil if not such a word.
    public init?(_ word: some StringProtocol) {
        guard (1...Self.maximumLength).contains(word.utf8.count),
            word.utf8.allSatisfy({ (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0) || $0 == UInt8(ascii: "-") })
        else { return nil }
        self.rawValue = String(word)
    }

    private init(known word: String) { self.rawValue = word }

    public var description: String { self.rawValue }

    // In the order of checking.

    /// More than 65,535 bytes. Checked before anything is parsed.
    public static let tooLarge = Reason(known: "too-large")
    /// Not a message of ours: first byte, CBOR, COSE, unknown `typ`, or a payload that breaks its rules.
    public static let format = Reason(known: "format")
    /// One of ours by content, in another encoding than the one form.
    public static let notCanonical = Reason(known: "not-canonical")
    /// The protected header misses something, or says what this kind of message cannot say.
    public static let header = Reason(known: "header")
    /// This kind of message does not belong to that topic, or the topic names another auditor.
    public static let topic = Reason(known: "topic")
    /// Published as retained where that is not allowed.
    public static let retained = Reason(known: "retained")
    /// The TLS identity of the sender is not the issuer.
    public static let sender = Reason(known: "sender")
    /// Held, not refused: the certificate that the message names is not known yet.
    public static let certificateUnknown = Reason(known: "certificate-unknown")
    /// The issuer is not the one that the certificate names.
    public static let issuer = Reason(known: "issuer")
    /// The certificate's role may not sign this.
    public static let role = Reason(known: "role")
    /// The signature does not verify.
    public static let signature = Reason(known: "signature")
    /// The certificate is revoked.
    public static let revoked = Reason(known: "revoked")
    /// The certificate is outside of its validity.
    public static let expired = Reason(known: "expired")
    /// Already stored, byte for byte: counted, receipted again.
    public static let duplicate = Reason(known: "duplicate")
    /// Contradicts what is stored: another message with this number, or another predecessor.
    public static let fork = Reason(known: "fork")
    /// In the original's format: another value is stored for this ID, date and type.
    public static let conflict = Reason(known: "conflict")
    /// The stream was closed by a newer one.
    public static let streamClosed = Reason(known: "stream-closed")
    /// Held, not refused: no room at the moment.
    public static let busy = Reason(known: "busy")

    // What only an auditor finds, in an update or an alert.

    /// It is for somebody else.
    public static let audience = Reason(known: "audience")
    /// Not bound to the newest hello: it is older than this connection.
    public static let nonce = Reason(known: "nonce")
    /// Not above the last number of this signer.
    public static let sequence = Reason(known: "sequence")
    /// There is no such parameter.
    public static let parameter = Reason(known: "parameter")
    /// The value is of another type or unit, or out of its bounds.
    public static let value = Reason(known: "value")

    /// Every word that a control center finds, in the order of checking.
    public static let all: [Reason] = [
        .tooLarge, .format, .notCanonical, .header, .topic, .retained, .sender, .certificateUnknown, .issuer, .role,
        .signature, .revoked, .expired, .duplicate, .conflict, .fork, .streamClosed, .busy,
    ]

    /// Whether a message so refused is refused for good, and sending it again is useless.
    public var isForGood: Bool {
        self != .certificateUnknown && self != .busy && self != .duplicate
    }
}

/// A message refused, or held: one reason, and what was found.
///
/// Two refusals are equal when their reasons are.
public struct Refusal: Error, Hashable, Sendable, CustomStringConvertible {
    public let reason: Reason

    /// One line for people: what was found, what was expected.
    public let detail: String

    public init(_ reason: Reason, _ detail: String) {
        self.reason = reason
        self.detail = detail
    }

    public var description: String { "\(self.reason): \(self.detail)" }

    public static func == (a: Refusal, b: Refusal) -> Bool { a.reason == b.reason }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.reason) }
}
