/// Reads deterministically encoded CBOR (RFC 8949 section 4.2.1) out of a byte array, item by item.
///
/// What it takes: integers, byte and text strings, arrays, maps, false, true, null, and a tag where the
/// caller asks for one; lengths and numbers in their shortest form, no indefinite lengths, no floating
/// point, text in UTF-8. Maps are read by the caller key by key; ``MapKeys`` holds the keys to their order.
///
/// Nothing is allocated but where the caller takes a ``string()`` or ``byteArray()``. Strings come back as
/// ranges of ``bytes``. Every length and count is checked against the bytes that are left before it is
/// returned, so a count may safely be used to reserve memory.
public struct CBORReader: Sendable {
    /// How deep ``skip()`` follows arrays, maps and tags.
    public static let maximumDepth = 16

    /// The whole array read from.
    public let bytes: [UInt8]

    /// Where the next item begins.
    public private(set) var position: Int

    /// Where reading ends.
    public let end: Int

    /// Reads all of `bytes`.
    public init(_ bytes: [UInt8]) {
        self.bytes = bytes
        self.position = 0
        self.end = bytes.count
    }

    /// Reads a part of `bytes`; offsets in ranges and errors still count from its start.
    ///
    /// - Precondition: `range` lies within `bytes`.
    public init(_ bytes: [UInt8], in range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count)
        self.bytes = bytes
        self.position = range.lowerBound
        self.end = range.upperBound
    }

    /// Whether everything was read.
    public var isAtEnd: Bool { self.position == self.end }

    /// Bytes not yet read.
    public var remaining: Int { self.end - self.position }

    /// The major type (0...7) of the next item without reading it; nil at the end.
    public var nextMajorType: UInt8? {
        self.position < self.end ? self.bytes[self.position] >> 5 : nil
    }

    /// - Throws: ``COSEError`` `malformed` if bytes are left.
    public func finish() throws(COSEError) {
        guard self.isAtEnd else {
            throw COSEError(.malformed, "bytes behind the end of the data", at: self.position)
        }
    }

    // MARK: Items

    /// An integer 0 ... 2^64-1 (major type 0).
    public mutating func unsigned() throws(COSEError) -> UInt64 {
        try self.argument(of: 0, "an unsigned integer")
    }

    /// An integer -2^63 ... 2^63-1 (major types 0 and 1).
    ///
    /// - Throws: also `unexpected` for integers beyond.
    public mutating func integer() throws(COSEError) -> Int64 {
        let start = self.position
        let (major, argument) = try self.head()
        guard major <= 1 else { throw self.unexpected("an integer", start) }
        guard argument <= UInt64(Int64.max) else {
            throw COSEError(.unexpected, "an integer beyond 64 bits with sign", at: start)
        }
        return major == 0 ? Int64(argument) : -1 - Int64(argument)
    }

    /// A byte string (major type 2): where in ``bytes`` its content lies.
    public mutating func byteString() throws(COSEError) -> Range<Int> {
        let length = try self.argument(of: 2, "a byte string")
        return try self.take(length)
    }

    /// A byte string, copied out.
    public mutating func byteArray() throws(COSEError) -> [UInt8] {
        [UInt8](self.bytes[try self.byteString()])
    }

    /// A text string (major type 3): where in ``bytes`` its UTF-8 lies.
    public mutating func text() throws(COSEError) -> Range<Int> {
        let length = try self.argument(of: 3, "a text string")
        let range = try self.take(length)
        try self.checkUTF8(range)
        return range
    }

    /// A text string, copied out.
    public mutating func string() throws(COSEError) -> String {
        String(decoding: self.bytes[try self.text()], as: UTF8.self)
    }

    /// The number of items of an array (major type 4), at most ``remaining``.
    public mutating func arrayCount() throws(COSEError) -> Int {
        let start = self.position
        let count = try self.argument(of: 4, "an array")
        return try self.checked(count, itemsEach: 1, start)
    }

    /// The number of pairs of a map (major type 5), at most half of ``remaining``.
    public mutating func mapCount() throws(COSEError) -> Int {
        let start = self.position
        let count = try self.argument(of: 5, "a map")
        return try self.checked(count, itemsEach: 2, start)
    }

    /// The number of a tag (major type 6); its content is the next item.
    public mutating func tag() throws(COSEError) -> UInt64 {
        try self.argument(of: 6, "a tag")
    }

    /// `false` or `true`.
    public mutating func bool() throws(COSEError) -> Bool {
        guard self.position < self.end else { throw self.truncated() }
        switch self.bytes[self.position] {
        case 0xF4:
            self.position += 1
            return false
        case 0xF5:
            self.position += 1
            return true
        default: throw self.unexpected("a boolean", self.position)
        }
    }

    /// Reads `null` if it is next.
    ///
    /// - Returns: Whether it was.
    public mutating func takeNull() -> Bool {
        guard self.position < self.end, self.bytes[self.position] == 0xF6 else { return false }
        self.position += 1
        return true
    }

    /// Reads over one item of any kind, tags included, with all checks of deterministic encoding.
    ///
    /// - Throws: also `tooDeep` beyond ``maximumDepth``.
    public mutating func skip() throws(COSEError) {
        try self.skip(depth: Self.maximumDepth)
    }

    private mutating func skip(depth: Int) throws(COSEError) {
        let start = self.position
        guard depth > 0 else { throw COSEError(.tooDeep, "nested too deep", at: start) }
        let (major, argument) = try self.head()
        switch major {
        case 0, 1, 7: break
        case 2: _ = try self.take(argument)
        case 3: try self.checkUTF8(try self.take(argument))
        case 4:
            for _ in 0..<(try self.checked(argument, itemsEach: 1, start)) {
                try self.skip(depth: depth - 1)
            }
        case 5:
            var keys = MapKeys()
            for _ in 0..<(try self.checked(argument, itemsEach: 2, start)) {
                let key = self.position
                try self.skip(depth: depth - 1)
                try keys.next(key..<self.position, in: self)
                try self.skip(depth: depth - 1)
            }
        default: try self.skip(depth: depth - 1)
        }
    }

    // MARK: Keys of maps

    /// Holds the keys of one map to the deterministic order: bytewise ascending, none twice.
    public struct MapKeys: Sendable {
        private var last = 0..<0

        public init() {}

        /// Takes the next key, given as the range of its encoding.
        ///
        /// - Throws: ``COSEError`` `notCanonical` if it should have come before the last one, `malformed`
        ///   if it is the last one again.
        public mutating func next(_ key: Range<Int>, in reader: CBORReader) throws(COSEError) {
            defer { self.last = key }
            guard !self.last.isEmpty else { return }
            var a = self.last.lowerBound
            var b = key.lowerBound
            while a < self.last.upperBound && b < key.upperBound {
                let x = reader.bytes[a]
                let y = reader.bytes[b]
                if x < y { return }
                if x > y { throw COSEError(.notCanonical, "map keys out of order", at: key.lowerBound) }
                a += 1
                b += 1
            }
            // One encoding of CBOR is never the beginning of another, so equal so far is equal.
            throw COSEError(.malformed, "a map key twice", at: key.lowerBound)
        }
    }

    // MARK: Parts of items

    /// The first bytes of an item: major type and argument, in shortest form.
    private mutating func head() throws(COSEError) -> (major: UInt8, argument: UInt64) {
        let start = self.position
        guard start < self.end else { throw self.truncated() }
        let initial = self.bytes[start]
        let major = initial >> 5
        let information = initial & 0x1F
        if major == 7 {
            guard (20...22).contains(information) else {
                throw information == 31
                    ? COSEError(.malformed, "a break outside of an indefinite length", at: start)
                    : (28...30).contains(information)
                        ? COSEError(.malformed, "a reserved length", at: start)
                        : COSEError(.unsupported, "floating point or an unused simple value", at: start)
            }
            self.position = start + 1
            return (major, UInt64(information))
        }
        if information < 24 {
            self.position = start + 1
            return (major, UInt64(information))
        }
        guard information <= 27 else {
            throw information == 31 && (2...5).contains(major)
                ? COSEError(.notCanonical, "an indefinite length", at: start)
                : COSEError(.malformed, "a reserved length", at: start)
        }
        let size = 1 << Int(information - 24)
        guard self.end - start > size else { throw self.truncated() }
        var argument: UInt64 = 0
        for index in (start + 1)...(start + size) {
            argument = argument << 8 | UInt64(self.bytes[index])
        }
        // The largest argument that would have fitted the next shorter form: 23, 2^8-1, 2^16-1, 2^32-1.
        let shorter: UInt64 = information == 24 ? 23 : (1 << (UInt64(size) * 4)) - 1
        guard argument > shorter else {
            throw COSEError(.notCanonical, "a number or length not in its shortest form", at: start)
        }
        self.position = start + 1 + size
        return (major, argument)
    }

    private mutating func argument(of major: UInt8, _ wanted: StaticString) throws(COSEError) -> UInt64 {
        let start = self.position
        let (found, argument) = try self.head()
        guard found == major else { throw self.unexpected(wanted, start) }
        return argument
    }

    private mutating func take(_ length: UInt64) throws(COSEError) -> Range<Int> {
        guard length <= UInt64(self.remaining) else { throw self.truncated() }
        let range = self.position..<(self.position + Int(length))
        self.position = range.upperBound
        return range
    }

    private func checked(_ count: UInt64, itemsEach: UInt64, _ start: Int) throws(COSEError) -> Int {
        // Each item takes a byte or more.
        guard count <= UInt64(self.remaining) / itemsEach else {
            throw COSEError(.malformed, "more items announced than bytes are left", at: start)
        }
        return Int(count)
    }

    private func checkUTF8(_ range: Range<Int>) throws(COSEError) {
        guard isUTF8(self.bytes, in: range) else {
            throw COSEError(.malformed, "text that is not UTF-8", at: range.lowerBound)
        }
    }

    private func truncated() -> COSEError {
        COSEError(.malformed, "the data ends within an item", at: self.end)
    }

    private func unexpected(_ wanted: StaticString, _ start: Int) -> COSEError {
        COSEError(.unexpected, "expected \(wanted)", at: start)
    }
}

/// Whether bytes are UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF).
func isUTF8(_ bytes: [UInt8], in range: Range<Int>) -> Bool {
    let isASCII = bytes.withUnsafeBytes { raw in
        var index = range.lowerBound
        while range.upperBound - index >= 8 {
            let word = raw.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            guard word & 0x8080_8080_8080_8080 == 0 else { return false }
            index += 8
        }
        while index < range.upperBound {
            guard raw[index] < 0x80 else { return false }
            index += 1
        }
        return true
    }
    return isASCII || isUTF8BeyondASCII(bytes, in: range)
}

private func isUTF8BeyondASCII(_ bytes: [UInt8], in range: Range<Int>) -> Bool {
    var index = range.lowerBound
    let end = range.upperBound
    while index < end {
        let first = bytes[index]
        if first < 0x80 {
            index += 1
            continue
        }
        let length: Int
        var second: ClosedRange<UInt8> = 0x80...0xBF
        switch first {
        case 0xC2...0xDF: length = 2
        case 0xE0:
            length = 3
            second = 0xA0...0xBF
        case 0xED:
            length = 3
            second = 0x80...0x9F
        case 0xE1...0xEF: length = 3
        case 0xF0:
            length = 4
            second = 0x90...0xBF
        case 0xF4:
            length = 4
            second = 0x80...0x8F
        case 0xF1...0xF3: length = 4
        default: return false
        }
        guard end - index >= length, second.contains(bytes[index + 1]) else { return false }
        for offset in 2..<max(length, 2) where bytes[index + offset] & 0xC0 != 0x80 { return false }
        index += length
    }
    return true
}
