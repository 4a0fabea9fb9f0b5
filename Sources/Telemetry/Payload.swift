import COSE
public import Identity

/// What a message of a stream says, encoded, not yet bound to a place in a stream nor signed. It can be signed
/// again at another place.
public struct Payload: Hashable, Sendable {
    /// The most readings in one statement.
    public static let maximumReadings = 1_024

    /// The longest payload, in bytes: leaves 1,024 bytes of ``Envelope/maximumSize`` for header and signature.
    public static let maximumSize = Envelope.maximumSize - 1_024

    /// ``Envelope/Kind/statement``, `heartbeat` or `result`.
    public let kind: Envelope.Kind

    public let bytes: [UInt8]

    /// Whose it is.
    public let auditor: Identifier

    init(kind: Envelope.Kind, bytes: [UInt8], auditor: Identifier) {
        self.kind = kind
        self.bytes = bytes
        self.auditor = auditor
    }

    /// A payload that was stored apart from its message.
    ///
    /// - Throws: ``Refusal`` `format` if it breaks the rules of its kind, `too-large` above ``maximumSize``.
    public init(kind: Envelope.Kind, checking bytes: [UInt8], auditor: Identifier) throws(Refusal) {
        guard bytes.count <= Self.maximumSize else { throw Self.tooLarge(bytes.count) }
        do throws(COSEError) {
            var reader = CBORReader(bytes)
            switch kind {
            case .statement:
                // The owner's name is looked for in the same bytes, so it is put behind them.
                let withOwner = bytes + Array(auditor.rawValue.utf8)
                var parser = try SenMLParser(
                    withOwner, in: 0..<bytes.count, owner: bytes.count..<withOwner.count)
                while try parser.next() != nil {}
            case .heartbeat: _ = try Heartbeat(reading: &reader)
            case .result: _ = try UpdateResult(reading: &reader)
            case .hello, .receipts, .update, .alert: throw COSEError(.unexpected, "a \(kind) is not in a stream", at: 0)
            }
        } catch {
            throw Refusal(.format, error.description)
        }
        self.init(kind: kind, bytes: bytes, auditor: auditor)
    }

    /// The payload of one statement.
    ///
    /// - Parameter readings: 1 ... ``maximumReadings``, in the order of time.
    /// - Throws: ``Refusal`` `format` or `too-large`; see ``statements(_:of:)``, which splits.
    public static func statement(
        _ readings: some Collection<Reading>, of auditor: Identifier
    ) throws(Refusal) -> Payload {
        let bytes = try SenML.encode(readings, of: auditor)
        guard bytes.count <= Self.maximumSize else { throw Self.tooLarge(bytes.count) }
        return Payload(kind: .statement, bytes: bytes, auditor: auditor)
    }

    /// As many statements as the limits ask for.
    ///
    /// - Parameter readings: In any order; they are sorted by time, those of equal time stay as they are.
    /// - Returns: None for no readings.
    /// - Throws: ``Refusal`` `format` if a reading breaks the rules (see ``Reading/flaw``).
    public static func statements(
        _ readings: some Collection<Reading>, of auditor: Identifier
    ) throws(Refusal) -> [Payload] {
        let sorted = readings.enumerated()
            .sorted { ($0.element.time, $0.offset) < ($1.element.time, $1.offset) }.map(\.element)
        var payloads: [Payload] = []
        var start = 0
        while start < sorted.count {
            var count = min(Self.maximumReadings, sorted.count - start)
            while true {
                do {
                    payloads.append(try Self.statement(sorted[start..<(start + count)], of: auditor))
                    break
                } catch {
                    // One reading alone always fits: it has less than 300 bytes.
                    guard error.reason == .tooLarge, count > 1 else { throw error }
                    count = (count + 1) / 2
                }
            }
            start += count
        }
        return payloads
    }

    /// The payload of a heartbeat.
    ///
    /// - Throws: ``Refusal`` `format` if something is out of its range.
    public static func heartbeat(_ heartbeat: Heartbeat, of auditor: Identifier) throws(Refusal) -> Payload {
        try Payload(kind: .heartbeat, checking: heartbeat.encoded(), auditor: auditor)
    }

    /// The payload of a result.
    ///
    /// - Throws: ``Refusal`` `format` or `too-large`.
    public static func result(_ result: UpdateResult, of auditor: Identifier) throws(Refusal) -> Payload {
        try Payload(kind: .result, checking: result.encoded(), auditor: auditor)
    }

    private static func tooLarge(_ count: Int) -> Refusal {
        Refusal(.tooLarge, "a payload of \(count) bytes, at most \(Self.maximumSize) are allowed")
    }
}

extension Payload {
    /// The readings of a statement's payload; empty for the other kinds.
    public var readings: Readings {
        // Checked when the payload was made.
        Readings(self.kind == .statement ? try? SenMLParser(self.bytes, in: 0..<self.bytes.count, owner: nil) : nil)
    }
}
