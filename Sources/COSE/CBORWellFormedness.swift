/// A second, lenient look at bytes that the strict reader refused (RFC 8949 section 3 and appendix C).
///
/// It takes every well-formed item, in whatever length form, definite or not, and knows nothing of
/// validity. Its only use is to name a refusal rightly: what is well-formed but in another form is
/// `not-canonical`, the rest is `format`.
struct CBORScanner {
    let bytes: [UInt8]
    private(set) var position: Int
    let end: Int

    init(_ bytes: [UInt8], in range: Range<Int>) {
        self.bytes = bytes
        self.position = range.lowerBound
        self.end = range.upperBound
    }

    /// What an item's first bytes say; `argument` is nil for an indefinite length or a break.
    struct Head {
        let major: UInt8
        let information: UInt8
        let argument: UInt64?

        var isBreak: Bool { self.major == 7 && self.information == 31 }
        var isIndefinite: Bool { self.argument == nil && !self.isBreak }
    }

    /// - Returns: nil if not well-formed.
    mutating func head() -> Head? {
        guard self.position < self.end else { return nil }
        let initial = self.bytes[self.position]
        let major = initial >> 5
        let information = initial & 0x1F
        switch information {
        case ..<24:
            self.position += 1
            return Head(major: major, information: information, argument: UInt64(information))
        case 24...27:
            let size = 1 << Int(information - 24)
            guard self.end - self.position > size else { return nil }
            var argument: UInt64 = 0
            for index in (self.position + 1)...(self.position + size) {
                argument = argument << 8 | UInt64(self.bytes[index])
            }
            // A simple value below 32 in two bytes is not well-formed.
            if major == 7 && information == 24 && argument < 32 { return nil }
            self.position += 1 + size
            return Head(major: major, information: information, argument: argument)
        case 31 where (2...5).contains(major) || major == 7:
            self.position += 1
            return Head(major: major, information: information, argument: nil)
        default: return nil
        }
    }

    /// Reads over one well-formed item of bounded depth.
    ///
    /// - Returns: Its major type; nil if there is none.
    mutating func item(depth: Int = CBORReader.maximumDepth) -> UInt8? {
        guard depth > 0, let head = self.head(), !head.isBreak else { return nil }
        switch head.major {
        case 2, 3:
            if let length = head.argument {
                guard length <= UInt64(self.end - self.position) else { return nil }
                self.position += Int(length)
            } else {
                // Chunks of the same type with definite lengths, then a break.
                while true {
                    guard let chunk = self.head() else { return nil }
                    if chunk.isBreak { break }
                    guard chunk.major == head.major, let length = chunk.argument,
                        length <= UInt64(self.end - self.position)
                    else { return nil }
                    self.position += Int(length)
                }
            }
        case 4, 5:
            if let count = head.argument {
                guard count <= UInt64(self.end - self.position) / (head.major == 5 ? 2 : 1) else { return nil }
                for _ in 0..<(head.major == 5 ? count * 2 : count) {
                    guard self.item(depth: depth - 1) != nil else { return nil }
                }
            } else {
                var items = 0
                while true {
                    guard self.position < self.end else { return nil }
                    if self.bytes[self.position] == 0xFF {
                        self.position += 1
                        break
                    }
                    guard self.item(depth: depth - 1) != nil else { return nil }
                    items += 1
                }
                guard head.major == 4 || items.isMultiple(of: 2) else { return nil }
            }
        case 6: guard self.item(depth: depth - 1) != nil else { return nil }
        default: break
        }
        return head.major
    }
}

extension CBORReader {
    /// Whether `range` of `bytes` is exactly one well-formed item of CBOR, in any encoding.
    public static func isWellFormed(_ bytes: [UInt8], in range: Range<Int>) -> Bool {
        var scanner = CBORScanner(bytes, in: range)
        return scanner.item() != nil && scanner.position == range.upperBound
    }
}
