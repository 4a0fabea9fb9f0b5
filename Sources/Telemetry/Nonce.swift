import Identity

/// 16 random bytes that an auditor puts into each hello and expects back.
public struct Nonce: Hashable, Sendable, CustomStringConvertible {
    /// Its length in bytes.
    public static let length = 16

    private let high: UInt64
    private let low: UInt64

    public init(using generator: inout some RandomNumberGenerator) {
        self.high = generator.next()
        self.low = generator.next()
    }

    /// Nil unless 16 bytes.
    public init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == Self.length else { return nil }
        self.high = bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
        self.low = bytes.dropFirst(8).reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Its 16 bytes.
    public var bytes: [UInt8] {
        (0..<16).map { index in
            UInt8(truncatingIfNeeded: (index < 8 ? self.high : self.low) >> UInt64(56 - index % 8 * 8))
        }
    }

    /// 32 hexadecimal digits.
    public var description: String { self.bytes.hexadecimal }
}
