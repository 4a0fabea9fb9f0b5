/// Writes deterministically encoded CBOR (RFC 8949 section 4.2.1): shortest heads, definite lengths.
///
/// The caller writes the keys of a map in their bytewise order and as many items as it announced;
/// ``CBORReader`` refuses what breaks that.
public struct CBORWriter: Sendable {
    /// What was written so far.
    public private(set) var bytes: [UInt8] = []

    public init(capacity: Int = 0) {
        self.bytes.reserveCapacity(capacity)
    }

    public mutating func unsigned(_ value: UInt64) { self.head(0, value) }

    public mutating func integer(_ value: Int64) {
        if value >= 0 {
            self.head(0, UInt64(value))
        } else {
            self.head(1, UInt64(-1 - value))
        }
    }

    public mutating func byteString(_ value: some Collection<UInt8>) {
        self.head(2, UInt64(value.count))
        self.bytes.append(contentsOf: value)
    }

    public mutating func text(_ value: String) {
        self.head(3, UInt64(value.utf8.count))
        self.bytes.append(contentsOf: value.utf8)
    }

    /// Announces an array of `count` items.
    public mutating func array(_ count: Int) { self.head(4, UInt64(count)) }

    /// Announces a map of `count` pairs.
    public mutating func map(_ count: Int) { self.head(5, UInt64(count)) }

    /// Announces a tag on the item that follows.
    public mutating func tag(_ number: UInt64) { self.head(6, number) }

    public mutating func bool(_ value: Bool) { self.bytes.append(value ? 0xF5 : 0xF4) }

    public mutating func null() { self.bytes.append(0xF6) }

    /// Appends what is encoded already.
    public mutating func encoded(_ item: some Collection<UInt8>) { self.bytes.append(contentsOf: item) }

    private mutating func head(_ major: UInt8, _ argument: UInt64) {
        let initial = major << 5
        switch argument {
        case ..<24: self.bytes.append(initial | UInt8(argument))
        case ...0xFF:
            self.bytes.append(initial | 24)
            self.bytes.append(UInt8(argument))
        case ...0xFFFF: self.bigEndian(initial | 25, argument, 2)
        case ...0xFFFF_FFFF: self.bigEndian(initial | 26, argument, 4)
        default: self.bigEndian(initial | 27, argument, 8)
        }
    }

    private mutating func bigEndian(_ initial: UInt8, _ argument: UInt64, _ size: Int) {
        self.bytes.append(initial)
        for shift in stride(from: (size - 1) * 8, through: 0, by: -8) {
            self.bytes.append(UInt8(truncatingIfNeeded: argument >> UInt64(shift)))
        }
    }
}
