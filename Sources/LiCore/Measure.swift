public import Crypto
public import Identity
public import Telemetry

/// A reading in the original's form: `ID/date/type/value`, for example `mona/2011-07-01 00:15:00/0/0.098`.
///
/// The value is energy in kWh over an interval that begins at the date; how long it is, the format does not say.
/// Dates have no zone. Python writes small numbers as `5e-05`: an exponent is taken, and the digits are kept.
public struct Measure: Hashable, Sendable {
    /// What was measured.
    public enum Kind: UInt8, Hashable, Sendable, CaseIterable {
        case consumption = 0
        case production = 1

        public var quantity: Quantity { self == .consumption ? .consumption : .production }
    }

    public let id: Identifier
    /// As the auditor's clock shows it; without an offset.
    public let date: LocalTime
    public let kind: Kind
    public let value: ExactDecimal

    /// - Parameter date: from 1970 to 2242; an offset is dropped.
    /// - Throws: ``LiCoreError`` with code `date` for one outside of these years.
    public init(id: Identifier, date: LocalTime, kind: Kind, value: ExactDecimal) throws(LiCoreError) {
        guard (0..<Timestamp.wireSecondsLimit).contains(date.seconds), (0..<1_000_000_000).contains(date.nanoseconds)
        else {
            throw LiCoreError(.date, "the date is not between 1970 and 2242")
        }
        self.id = id
        self.date = LocalTime(seconds: date.seconds, nanoseconds: date.nanoseconds)
        self.kind = kind
        self.value = value
    }

    /// Reads the text before `||`.
    ///
    /// - Throws: ``LiCoreError`` with code `shape`, `identifier`, `date`, `type` or `value`.
    public init(text: [UInt8]) throws(LiCoreError) {
        let fields = text.split(separator: UInt8(ascii: "/"), maxSplits: 4, omittingEmptySubsequences: false)
        guard fields.count == 4 else {
            throw LiCoreError(.shape, "not ID/date/type/value, but \(fields.count) fields")
        }
        guard let id = try? Identifier(String(decoding: fields[0], as: UTF8.self)) else {
            throw LiCoreError(.identifier, "the first field is not an identifier")
        }
        // A date alone is midnight; Unix seconds and an offset would be a zone, which this format does not have.
        guard fields[1].count <= 32, fields[1].prefix(4).allSatisfy({ (0x30...0x39).contains($0) }),
            let date = LocalTime(fields[1]), date.offset == nil
        else {
            throw LiCoreError(.date, "the date is not like 2011-07-01 00:15:00")
        }
        guard fields[2].count == 1, let digit = fields[2].first, digit >= 0x30, let kind = Kind(rawValue: digit - 0x30)
        else {
            throw LiCoreError(.type, "the type is neither 0 (consumption) nor 1 (production)")
        }
        let decimal: DecimalText
        do throws(DecimalText.Failure) {
            guard fields[3].count <= 32 else { throw .tooManyDigits }
            decimal = try DecimalText(fields[3], allowsComma: false)
        } catch {
            throw LiCoreError(
                .value,
                error == .malformed
                    ? "the value is not a decimal number"
                    : "the value has too many digits: at most 18, and 18 behind the point")
        }
        guard let value = ExactDecimal(mantissa: decimal.mantissa, exponent: decimal.exponent) else {
            throw LiCoreError(.value, "the value is out of range")
        }
        try self.init(id: id, date: date, kind: kind, value: value)
    }

    /// The text that is signed.
    public var text: String { "\(self.id)/\(Self.text(of: self.date))/\(self.kind.rawValue)/\(self.value)" }

    /// The whole message.
    ///
    /// - Parameter sign: makes an ECDSA signature on a digest.
    /// - Throws: what `sign` throws.
    public func message(
        signedBy sign: (BLAKE2b512Digest) throws -> P256.Signing.ECDSASignature
    ) rethrows -> [UInt8] {
        try SignedText.message(Array(self.text.utf8), signedBy: sign)
    }

    /// `2011-07-01 00:15:00`, with as many digits behind the second as are needed.
    static func text(of date: LocalTime) -> String {
        let moment = Timestamp(nanoseconds: date.seconds * 1_000_000_000 + date.nanoseconds)
        return String(moment.description.dropLast()).replacing("T", with: " ")
    }
}

/// An update of a parameter in the original's form: `<value>||<signature>`, on the topic
/// `control_center/updates/<ID>/<controller>/<PARAMETER>`. The topic is not signed: this format cannot do better.
public struct ParameterUpdate: Hashable, Sendable {
    /// The longest value, in bytes.
    public static let maximumValueSize = 64

    /// 1...64 characters of printable ASCII, `|` not among them.
    public let value: String

    /// For a parameter that the original has: `SAMPLE_RATE`, seconds between readings, 0.05 to 86,400. Its publisher
    /// takes whatever was signed, and ends on what is no such number.
    ///
    /// - Throws: ``LiCoreError`` with code `value`.
    public init(_ parameter: Topic.Parameter, value: String) throws(LiCoreError) {
        try self.init(value: value)
        guard parameter == .sampleRate else { return }
        guard value.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == UInt8(ascii: ".") }),
            let seconds = Double(value), Self.sampleRates.contains(seconds)
        else {
            throw LiCoreError(.value, "SAMPLE_RATE is in seconds, 0.05 to 86400, written like 0.2")
        }
    }

    /// Seconds between readings that are sensible.
    public static let sampleRates: ClosedRange<Double> = 0.05...86_400

    /// - Throws: ``LiCoreError`` with code `value`.
    public init(value: String) throws(LiCoreError) {
        guard (1...Self.maximumValueSize).contains(value.utf8.count),
            value.utf8.allSatisfy({ (0x20...0x7E).contains($0) && $0 != UInt8(ascii: "|") })
        else {
            throw LiCoreError(
                .value, "a value has 1 to \(Self.maximumValueSize) characters of ASCII, and no '|' among them")
        }
        self.value = value
    }

    /// Reads the text before `||`.
    ///
    /// - Throws: ``LiCoreError`` with code `value`.
    public init(text: [UInt8]) throws(LiCoreError) {
        try self.init(value: String(decoding: text, as: UTF8.self))
    }

    /// The whole message.
    ///
    /// - Parameter sign: makes an ECDSA signature on a digest, by the key of the controller that the topic names.
    /// - Throws: what `sign` throws.
    public func message(
        signedBy sign: (BLAKE2b512Digest) throws -> P256.Signing.ECDSASignature
    ) rethrows -> [UInt8] {
        try SignedText.message(Array(self.value.utf8), signedBy: sign)
    }
}
