// X.690 section 8.1 and section 10.1: tag, definite length in its shortest form, content.

import SwiftASN1

/// Walks over the elements of one level of DER without building a tree: for revocation lists, which may hold a hundred
/// thousand entries. Everything else is parsed by swift-asn1.
struct DERCursor {
    struct Element {
        let tag: UInt8
        /// From the tag to the end of the content.
        let start: Int
        let content: Range<Int>
    }

    struct Malformed: Error {}

    let bytes: [UInt8]
    private(set) var position: Int
    private let end: Int

    init(_ bytes: [UInt8], in range: Range<Int>) {
        self.bytes = bytes
        self.position = range.lowerBound
        self.end = range.upperBound
    }

    var isAtEnd: Bool { self.position == self.end }

    /// The tag of what comes next; nil at the end.
    var nextTag: UInt8? { self.isAtEnd ? nil : self.bytes[self.position] }

    /// - Throws: ``Malformed`` at the end, for a tag of more than one byte, and for a length that is not definite, not
    ///   the shortest, or reaches beyond the end.
    mutating func next() throws(Malformed) -> Element {
        let start = self.position
        guard self.end - start >= 2 else { throw Malformed() }
        let tag = self.bytes[start]
        guard tag & 0x1F != 0x1F else { throw Malformed() }
        var length = Int(self.bytes[start + 1])
        var position = start + 2
        if length >= 0x80 {
            let count = length & 0x7F
            guard (1...4).contains(count), self.end - position >= count else { throw Malformed() }
            length = 0
            for _ in 0..<count {
                length = length << 8 | Int(self.bytes[position])
                position += 1
            }
            guard length >= 0x80, length >> (8 * (count - 1)) != 0 else { throw Malformed() }
        }
        guard self.end - position >= length else { throw Malformed() }
        self.position = position + length
        return Element(tag: tag, start: start, content: position..<position + length)
    }

    /// As ``next()``, of this very tag.
    mutating func next(_ tag: UInt8) throws(Malformed) -> Element {
        let element = try self.next()
        guard element.tag == tag else { throw Malformed() }
        return element
    }
}

extension DER {
    /// The next node, as a sequence.
    static func sequence<T>(
        in nodes: inout ASN1NodeCollection.Iterator, _ builder: (inout ASN1NodeCollection.Iterator) throws -> T
    ) throws -> T {
        guard let node = nodes.next() else { throw PKIError(.format, "a structure that ends too early") }
        return try DER.sequence(node, identifier: .sequence, builder)
    }
}
