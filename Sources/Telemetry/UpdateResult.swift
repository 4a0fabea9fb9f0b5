import COSE

/// What an auditor did with an update; in the stream of its statements.
public struct UpdateResult: Hashable, Sendable {
    /// The longest ``reason``, in bytes.
    public static let maximumReasonLength = 200

    /// The id of the update.
    public var update: MessageID
    public var isApplied: Bool
    /// Why not, or what else there is to say.
    public var reason: String?
    /// The parameter's value now, if it is known.
    public var value: ParameterValue?

    public init(update: MessageID, isApplied: Bool, reason: String? = nil, value: ParameterValue? = nil) {
        self.update = update
        self.isApplied = isApplied
        self.reason = reason
        self.value = value
    }

    /// {1: id, 2: applied?, ? 3: reason, ? 4: value now}
    func encoded() -> [UInt8] {
        var writer = CBORWriter(capacity: 64)
        writer.map(2 + (self.reason == nil ? 0 : 1) + (self.value == nil ? 0 : 1))
        writer.unsigned(1)
        writer.byteString(self.update.bytes)
        writer.unsigned(2)
        writer.bool(self.isApplied)
        if let reason = self.reason {
            writer.unsigned(3)
            writer.text(reason)
        }
        if let value = self.value {
            writer.unsigned(4)
            value.write(to: &writer)
        }
        return writer.bytes
    }

    init(reading reader: inout CBORReader) throws(COSEError) {
        let start = reader.position
        var update: MessageID?
        var isApplied: Bool?
        var labels = PayloadLabels(count: try reader.mapCount())
        while let label = try labels.next(&reader) {
            switch label {
            case 1: update = try reader.messageID()
            case 2: isApplied = try reader.bool()
            case 3: self.reason = try reader.string(upTo: Self.maximumReasonLength, "the reason")
            case 4: self.value = try ParameterValue(reading: &reader)
            default: throw labels.unknown(reader)
            }
        }
        guard let update, let isApplied else {
            throw COSEError(.unexpected, "a result needs labels 1 and 2", at: start)
        }
        self.update = update
        self.isApplied = isApplied
        try reader.finish()
    }
}

/// The value of a parameter: integer or exact decimal, text, truth value, or a list of texts. Never floating
/// point.
public enum ParameterValue: Hashable, Sendable {
    case number(ExactDecimal)
    case text(String)
    case flag(Bool)
    case texts([String])

    /// The longest text, in bytes.
    public static let maximumTextLength = 1_024

    /// The longest list.
    public static let maximumTexts = 64

    /// As the wire has it.
    public var encoded: [UInt8] {
        var writer = CBORWriter(capacity: 16)
        self.write(to: &writer)
        return writer.bytes
    }

    /// Reads what ``encoded`` gives; nil for anything else.
    public init?(encoded bytes: [UInt8]) {
        var reader = CBORReader(bytes)
        guard let value = try? ParameterValue(reading: &reader), (try? reader.finish()) != nil else { return nil }
        self = value
    }

    func write(to writer: inout CBORWriter) {
        switch self {
        case .number(let value): writer.decimal(value)
        case .text(let text): writer.text(text)
        case .flag(let flag): writer.bool(flag)
        case .texts(let texts):
            writer.array(texts.count)
            for text in texts { writer.text(text) }
        }
    }

    init(reading reader: inout CBORReader) throws(COSEError) {
        switch reader.nextMajorType {
        case 0, 1, 6: self = .number(try reader.decimal())
        case 3: self = .text(try reader.string(upTo: Self.maximumTextLength, "a text"))
        case 4:
            let start = reader.position
            let count = try reader.arrayCount()
            guard count <= Self.maximumTexts else {
                throw COSEError(.unexpected, "a list of more than \(Self.maximumTexts) texts", at: start)
            }
            var texts: [String] = []
            texts.reserveCapacity(count)
            for _ in 0..<count {
                texts.append(try reader.string(upTo: Self.maximumTextLength, "a text"))
            }
            self = .texts(texts)
        default: self = .flag(try reader.bool())
        }
    }

    /// What the wire format does not take, in one line; nil if it takes this value.
    package var flaw: String? {
        let texts: [String] =
            switch self {
            case .number, .flag: []
            case .text(let text): [text]
            case .texts(let texts): texts
            }
        if texts.count > Self.maximumTexts { return "a list of more than \(Self.maximumTexts) texts" }
        return texts.contains { $0.utf8.count > Self.maximumTextLength }
            ? "a text of more than \(Self.maximumTextLength) bytes" : nil
    }
}

extension ParameterValue: CustomStringConvertible {
    /// As people write it: digits as they are, texts between commas.
    public var description: String {
        switch self {
        case .number(let value): value.description
        case .text(let text): text
        case .flag(let flag): flag ? "true" : "false"
        case .texts(let texts): texts.joined(separator: ",")
        }
    }
}
