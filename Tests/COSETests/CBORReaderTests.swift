import COSE
import Foundation
import TestSupport
import Testing

/// Encodings and what the strict reader says of them. nil: taken.
private struct Case: CustomTestStringConvertible, Sendable {
    let hex: String
    let code: COSEError.Code?
    let what: String

    init(_ hex: String, _ code: COSEError.Code?, _ what: String) {
        (self.hex, self.code, self.what) = (hex, code, what)
    }

    var testDescription: String { "\(self.what): \(self.hex)" }
}

@Suite("Deterministic CBOR is read, and nothing else")
struct CBORReaderTests {
    @Test(
        "One item is taken, or refused with the right name",
        arguments: [
            Case("00", nil, "0"), Case("17", nil, "23"), Case("1818", nil, "24"), Case("18ff", nil, "255"),
            Case("190100", nil, "256"), Case("1a00010000", nil, "65536"), Case("1b0000000100000000", nil, "2^32"),
            Case("1bffffffffffffffff", nil, "2^64-1"), Case("3bffffffffffffffff", nil, "-2^64"),
            Case("40", nil, "empty bytes"), Case("60", nil, "empty text"), Case("62c3bc", nil, "ü"),
            Case("63e6b0b4", nil, "a sign of three bytes"), Case("64f0908591", nil, "a sign of four bytes"),
            Case("64f48fbfbf", nil, "the last code point"), Case("80", nil, "empty array"),
            Case("a0", nil, "empty map"), Case("a2010220f4", nil, "keys in order"), Case("c001", nil, "a tag"),
            Case("f4", nil, "false"), Case("f5", nil, "true"), Case("f6", nil, "null"),
            Case("1817", .notCanonical, "23 in two bytes"), Case("1900ff", .notCanonical, "255 in three"),
            Case("1a0000ffff", .notCanonical, "65535 in five"),
            Case("1b00000000ffffffff", .notCanonical, "2^32-1 in nine"),
            Case("3800", .notCanonical, "-1 in two"), Case("580161", .notCanonical, "a length in two bytes"),
            Case("7800", .notCanonical, "a text's length in two"),
            Case("980100", .notCanonical, "an array's count in two"),
            Case("b800", .notCanonical, "a map's count in two"), Case("d80101", .notCanonical, "a tag in two"),
            Case("5f4161ff", .notCanonical, "bytes in chunks"), Case("7f6161ff", .notCanonical, "text in chunks"),
            Case("9fff", .notCanonical, "an array without a count"),
            Case("bfff", .notCanonical, "a map without a count"),
            Case("a220010102", .notCanonical, "keys out of order"),
            Case("a2616101200a", .notCanonical, "text before number"),
            Case("a201020103", .malformed, "a key twice"), Case("a1", .malformed, "a map of nothing"),
            Case("", .malformed, "nothing"), Case("18", .malformed, "a number cut short"),
            Case("1b00", .malformed, "a long number cut short"), Case("41", .malformed, "bytes cut short"),
            Case("5bffffffffffffffff", .malformed, "2^64-1 bytes announced"),
            Case("9bffffffffffffffff", .malformed, "2^64-1 items announced"),
            Case("bb7fffffffffffffff", .malformed, "2^63-1 pairs announced"),
            Case("8200", .malformed, "an item is missing"),
            Case("c0", .malformed, "a tag on nothing"), Case("ff", .malformed, "a break alone"),
            Case("1c", .malformed, "28 is reserved"), Case("1f", .malformed, "a number without a length"),
            Case("df", .malformed, "a tag without a length"), Case("fc", .malformed, "28 is reserved"),
            Case("61ff", .malformed, "not UTF-8"), Case("62c080", .malformed, "overlong UTF-8"),
            Case("63eda080", .malformed, "a surrogate"), Case("64f4908080", .malformed, "above the last code point"),
            Case("61c3", .malformed, "UTF-8 cut short"), Case("6261ff", .malformed, "not UTF-8 behind ASCII"),
            Case("f7", .unsupported, "undefined"), Case("f0", .unsupported, "simple value 16"),
            Case("f8ff", .unsupported, "simple value 255"), Case("f90000", .unsupported, "a half float"),
            Case("fa00000000", .unsupported, "a float"), Case("fb0000000000000000", .unsupported, "a double"),
        ])
    fileprivate func takesOrRefuses(_ item: Case) throws {
        let bytes = try #require(Hex.bytes(item.hex))
        var reader = CBORReader(bytes)
        do {
            try reader.skip()
            try reader.finish()
            #expect(item.code == nil)
        } catch {
            #expect(error.code == item.code, "\(error)")
            #expect(error.offset <= bytes.count)
        }
    }

    @Test("Items nested deeper than the limit are refused", arguments: [UInt8(0x81), 0xA1, 0xC1])
    func boundsDepth(_ opener: UInt8) throws {
        func nested(_ levels: Int) -> [UInt8] {
            let level: [UInt8] = opener == 0xA1 ? [0xA1, 0x00] : [opener]
            return Array(repeatElement(level, count: levels).joined()) + [0x00]
        }
        var reader = CBORReader(nested(CBORReader.maximumDepth - 1))
        try reader.skip()
        reader = CBORReader(nested(CBORReader.maximumDepth))
        #expect(throws: COSEError(.tooDeep, "", at: 0)) { try reader.skip() }
        reader = CBORReader(nested(100_000))
        #expect(throws: COSEError(.tooDeep, "", at: 0)) { try reader.skip() }
    }

    @Test("An item of another type than asked for is unexpected")
    func namesUnexpectedTypes() throws {
        let unexpected = COSEError(.unexpected, "", at: 0)
        #expect(throws: unexpected) {
            var r = CBORReader([0x20]); _ = try r.unsigned()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0x40]); _ = try r.integer()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0x60]); _ = try r.byteString()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0x40]); _ = try r.text()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0xA0]); _ = try r.arrayCount()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0x80]); _ = try r.mapCount()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0x00]); _ = try r.tag()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0x00]); _ = try r.bool()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0xC4, 0x00]); _ = try r.integer()
        }
        #expect(throws: unexpected) {
            var r = CBORReader([0x1B, 0x80, 0, 0, 0, 0, 0, 0, 0])
            _ = try r.integer()
        }
    }

    @Test("The whole range of 64-bit integers comes back", arguments: [Int64.min, -1, 0, 23, 24, 255, 256, .max])
    func integersComeBack(_ value: Int64) throws {
        var writer = CBORWriter()
        writer.integer(value)
        var reader = CBORReader(writer.bytes)
        #expect(try reader.integer() == value)
        #expect(reader.isAtEnd)
    }

    @Test("A part of a byte array is read without looking beyond it")
    func staysWithinItsPart() throws {
        var reader = CBORReader([0x00, 0x42, 0x01, 0x02], in: 1..<3)
        #expect(throws: COSEError(.malformed, "", at: 0)) { _ = try reader.byteString() }
        reader = CBORReader([0x18, 0x18], in: 0..<1)
        #expect(throws: COSEError(.malformed, "", at: 0)) { _ = try reader.unsigned() }
    }

    @Test(
        "The examples of RFC 8949 appendix A are taken, or refused with the right name",
        .enabled(if: SharedData.path("vectors/cbor/appendix_a.json") != nil, "no shared vectors"))
    func appendixA() throws {
        struct Example: Decodable {
            let hex: String
        }
        let path = try #require(SharedData.path("vectors/cbor/appendix_a.json"))
        let examples = try JSONDecoder().decode([Example].self, from: Data(contentsOf: URL(fileURLWithPath: path)))
        // Everything not named here is taken.
        let refused: [String: COSEError.Code] = [
            "f0": .unsupported, "f7": .unsupported, "f818": .unsupported, "f8ff": .unsupported,
            "c1fb41d452d9ec200000": .unsupported,
            "5f42010243030405ff": .notCanonical, "7f657374726561646d696e67ff": .notCanonical,
            "9fff": .notCanonical, "9f018202039f0405ffff": .notCanonical, "9f01820203820405ff": .notCanonical,
            "83018202039f0405ff": .notCanonical, "83019f0203ff820405": .notCanonical,
            "9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff": .notCanonical,
            "bf61610161629f0203ffff": .notCanonical, "826161bf61626163ff": .notCanonical,
            "bf6346756ef563416d7421ff": .notCanonical,
        ]
        var taken = 0
        for example in examples {
            let bytes = try #require(Hex.bytes(example.hex))
            // The file still has this one of RFC 7049, which RFC 8949 calls not well-formed.
            let isWellFormed = example.hex != "f818"
            #expect(CBORReader.isWellFormed(bytes, in: 0..<bytes.count) == isWellFormed, "\(example.hex)")
            let isFloat = bytes[0] >= 0xF9 && bytes[0] <= 0xFB
            let expected = isFloat ? .unsupported : refused[example.hex]
            var reader = CBORReader(bytes)
            do {
                try reader.skip()
                try reader.finish()
                #expect(expected == nil, "\(example.hex) was taken")
                taken += 1
            } catch {
                #expect(error.code == expected, "\(example.hex): \(error)")
            }
        }
        #expect(examples.count == 82)
        #expect(taken == 44)
    }
}

/// Hexadecimal digits in vectors.
enum Hex {
    static func bytes(_ hex: String) -> [UInt8]? {
        let digits = Array(hex.utf8)
        guard digits.count.isMultiple(of: 2) else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let byte = UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16) else {
                return nil
            }
            bytes.append(byte)
        }
        return bytes
    }
}
