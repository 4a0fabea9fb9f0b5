public import Identity

/// One unbroken numbering of an auditor's statements. Drawn at random by the auditor, 8 bytes, written as
/// 16 lower-case hexadecimal digits.
public struct StreamID: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// Its length in bytes.
    public static let length = 8

    /// The 8 bytes as a number, most significant first.
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// A new stream's id.
    public init(using generator: inout some RandomNumberGenerator) {
        self.rawValue = generator.next()
    }

    /// Nil unless 8 bytes.
    public init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == Self.length else { return nil }
        self.rawValue = bytes.reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Nil unless 16 lower-case hexadecimal digits.
    public init?(hexadecimal text: some StringProtocol) {
        self.init(hexadecimalDigits: text.utf8)
    }

    init?(hexadecimalDigits digits: some Collection<UInt8>) {
        guard digits.count == 16 else { return nil }
        var value: UInt64 = 0
        for digit in digits {
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt64(digit - UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt64(digit - UInt8(ascii: "a") + 10)
            default: return nil
            }
        }
        self.rawValue = value
    }

    /// Its 8 bytes.
    public var bytes: [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: self.rawValue >> UInt64(56 - $0 * 8)) }
    }

    public var description: String { self.bytes.hexadecimal }

    public static func < (a: StreamID, b: StreamID) -> Bool { a.rawValue < b.rawValue }
}

/// A stream and whose it is, as in the `sub` claim: `<SPIFFE ID of the auditor>/stream/<16 hex>`.
public struct StreamName: Hashable, Sendable, CustomStringConvertible {
    public let auditor: SPIFFEID
    public let stream: StreamID

    public init(auditor: SPIFFEID, stream: StreamID) {
        self.auditor = auditor
        self.stream = stream
    }

    public var description: String { "\(self.auditor)\(Self.infix)\(self.stream)" }

    static let infix = "/stream/"
}

/// Where a message stands in a stream.
public struct StreamPosition: Hashable, Sendable {
    /// The highest sequence number: 2^53-1.
    public static let maximumSequence: Int64 = (1 << 53) - 1

    public let stream: StreamID

    /// 1 ... ``maximumSequence``, one more with each message of the stream.
    public let sequence: Int64

    /// The id of the message before. For the first of a stream: the last one known of the auditor's
    /// former stream, ``MessageID/zero`` if there is none.
    public let previous: MessageID

    /// - Precondition: `sequence` is in 1 ... ``maximumSequence``.
    public init(stream: StreamID, sequence: Int64, previous: MessageID) {
        precondition((1...Self.maximumSequence).contains(sequence))
        self.stream = stream
        self.sequence = sequence
        self.previous = previous
    }
}
