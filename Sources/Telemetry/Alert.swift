import COSE
public import Identity

/// Something that the other side should know: of a control center to one or all of its auditors, or of an auditor to
/// its control center. It is shown, and never changes state. Not part of a stream.
public struct Alert: Hashable, Sendable {
    /// The longest ``text``, in bytes.
    public static let maximumTextLength = 1_024

    /// What it is about: one word, 1...32 characters of `[a-z-]`.
    public var word: Reason
    /// One line: what happened and what to do.
    public var text: String
    /// Whether it lasts; false says that what was raised is over.
    public var isRaised: Bool

    public init(_ word: Reason, _ text: String, isRaised: Bool = true) {
        self.word = word
        self.text = text
        self.isRaised = isRaised
    }

    /// {1: word, 2: text, 3: raised?}
    func encoded() -> [UInt8] {
        var writer = CBORWriter(capacity: 64 + self.text.utf8.count)
        writer.map(3)
        writer.unsigned(1)
        writer.text(self.word.rawValue)
        writer.unsigned(2)
        writer.text(self.text)
        writer.unsigned(3)
        writer.bool(self.isRaised)
        return writer.bytes
    }

    init(reading reader: inout CBORReader) throws(COSEError) {
        let start = reader.position
        var word: Reason?
        var text: String?
        var isRaised: Bool?
        var labels = PayloadLabels(count: try reader.mapCount())
        while let label = try labels.next(&reader) {
            switch label {
            case 1:
                let position = reader.position
                word = Reason(try reader.string(upTo: Reason.maximumLength, "the word"))
                guard word != nil else { throw COSEError(.unexpected, "not a word", at: position) }
            case 2:
                let position = reader.position
                text = try reader.string(upTo: Self.maximumTextLength, "the text")
                // It is shown on terminals.
                guard text.map(Self.isPlain) ?? false else {
                    throw COSEError(.unexpected, "the text has control characters", at: position)
                }
            case 3: isRaised = try reader.bool()
            default: throw labels.unknown(reader)
            }
        }
        guard let word, let text, let isRaised else {
            throw COSEError(.unexpected, "an alert needs labels 1, 2 and 3", at: start)
        }
        self.word = word
        self.text = text
        self.isRaised = isRaised
        try reader.finish()
    }

    /// Whether a text is one line without control characters.
    private static func isPlain(_ text: String) -> Bool {
        !text.unicodeScalars.contains { $0.properties.generalCategory == .control }
    }

    /// Signs an alert.
    ///
    /// - Parameters:
    ///   - target: The auditor that it is for; nil for every auditor, and for one of an auditor.
    ///   - sequence: 1 ... 2^53-1, above all that the signer has used for alerts.
    ///   - expires: From then on it is not shown; whole seconds are kept.
    ///   - issuedAt: Now, by the signer's clock; whole seconds are kept.
    /// - Throws: ``Refusal`` `header` if a number or a time is out of range, or an auditor names a target; `format` for
    ///   a text that is too long; else what the signer throws.
    public func signed(
        for target: SPIFFEID? = nil, sequence: Int64, expires: Timestamp, issuedAt: Timestamp, by signer: some Signer
    ) throws -> SignedMessage {
        guard self.text.utf8.count <= Self.maximumTextLength, Self.isPlain(self.text) else {
            throw Refusal(.format, "a text of more than \(Self.maximumTextLength) bytes, or with control characters")
        }
        guard target == nil || signer.issuer.role != .auditor else {
            throw Refusal(.header, "an auditor's alert is for its control center and names nobody")
        }
        let header = ProtectedHeader.encode(
            kind: .alert, issuer: signer.issuer, subject: nil, audience: target, expires: try checked(expires),
            issuedAt: try checked(issuedAt), certificateHash: signer.certificateHash, sequence: try checked(sequence))
        return try sign(header, self.encoded(), by: signer)
    }
}
