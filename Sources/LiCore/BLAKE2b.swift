// BLAKE2b (RFC 7693): the hash function of the original system's signatures, which swift-crypto does not have.

public import Crypto
import Foundation
import Identity

/// BLAKE2b with any output length and key (RFC 7693 section 2).
///
///     var hash = BLAKE2b(outputByteCount: 32)
///     hash.update(bytes)
///     let digest = hash.finalize()
///
/// For signatures there is ``BLAKE2b512``, a hash function of swift-crypto's.
public struct BLAKE2b: Sendable {
    /// The bytes of one block.
    public static let blockByteCount = 128

    /// The most bytes of output, and of a key.
    public static let maximumByteCount = 64

    /// The length of the digest in bytes.
    public let outputByteCount: Int

    private var state: InlineArray<8, UInt64>
    private var counter: UInt64 = 0
    /// What has come and is not compressed yet: the last block is compressed differently, so a full block waits
    /// until more comes.
    private var block = InlineArray<128, UInt8>(repeating: 0)
    private var filled = 0

    /// - Parameters:
    ///   - outputByteCount: 1 ... 64.
    ///   - key: at most 64 bytes; empty for a hash without key.
    /// - Precondition: both are in range.
    public init(outputByteCount: Int = BLAKE2b.maximumByteCount, key: [UInt8] = []) {
        precondition((1...Self.maximumByteCount).contains(outputByteCount) && key.count <= Self.maximumByteCount)
        self.outputByteCount = outputByteCount
        self.state = Self.initialization
        // The parameter block (section 2.5): sequential, no salt.
        self.state[0] ^= 0x0101_0000 ^ UInt64(key.count) << 8 ^ UInt64(outputByteCount)
        if !key.isEmpty {
            self.update(key)
            self.filled = Self.blockByteCount
        }
    }

    /// Takes more input.
    public mutating func update(_ bytes: some Sequence<UInt8>) {
        let contiguous: Void? = bytes.withContiguousStorageIfAvailable { self.update(UnsafeRawBufferPointer($0)) }
        if contiguous == nil { Array(bytes).withUnsafeBytes { self.update($0) } }
    }

    /// Takes more input.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        var position = 0
        while position < bytes.count {
            if self.filled == Self.blockByteCount {
                self.counter += UInt64(Self.blockByteCount)
                self.compress(isLast: false)
                self.filled = 0
            }
            let count = min(Self.blockByteCount - self.filled, bytes.count - position)
            for offset in 0..<count { self.block[self.filled + offset] = bytes[position + offset] }
            self.filled += count
            position += count
        }
    }

    /// The digest of what has come.
    public func finalize() -> [UInt8] {
        var last = self
        for index in last.filled..<Self.blockByteCount { last.block[index] = 0 }
        last.counter += UInt64(last.filled)
        last.compress(isLast: true)
        return (0..<self.outputByteCount).map { UInt8(truncatingIfNeeded: last.state[$0 / 8] >> UInt64($0 % 8 * 8)) }
    }

    /// Section 2.6: the first 64 bits of the fractional parts of the square roots of the first eight primes.
    private static let initialization: InlineArray<8, UInt64> = [
        0x6A09_E667_F3BC_C908, 0xBB67_AE85_84CA_A73B, 0x3C6E_F372_FE94_F82B, 0xA54F_F53A_5F1D_36F1,
        0x510E_527F_ADE6_82D1, 0x9B05_688C_2B3E_6C1F, 0x1F83_D9AB_FB41_BD6B, 0x5BE0_CD19_137E_2179,
    ]

    /// Section 2.7, round after round; the eleventh and twelfth are the first and second again.
    private static let schedule: InlineArray<160, UInt8> = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3,
        11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4,
        7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8,
        9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13,
        2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9,
        12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11,
        13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10,
        6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5,
        10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0,
    ]

    /// The compression function F (section 3.2).
    private mutating func compress(isLast: Bool) {
        var words = InlineArray<16, UInt64>(repeating: 0)
        for word in 0..<16 {
            var value: UInt64 = 0
            for offset in 0..<8 { value |= UInt64(self.block[word * 8 + offset]) << UInt64(offset * 8) }
            words[word] = value
        }
        let iv = Self.initialization
        var a = SIMD4(self.state[0], self.state[1], self.state[2], self.state[3])
        var b = SIMD4(self.state[4], self.state[5], self.state[6], self.state[7])
        var c = SIMD4(iv[0], iv[1], iv[2], iv[3])
        // No input of ours is as long as 2^64 bytes: the counter's upper half stays zero.
        var d = SIMD4(iv[4] ^ self.counter, iv[5], isLast ? ~iv[6] : iv[6], iv[7])
        let schedule = Self.schedule
        for round in 0..<12 {
            let start = round % 10 * 16
            func take(_ offset: Int) -> SIMD4<UInt64> {
                SIMD4(
                    words[Int(schedule[start + offset])], words[Int(schedule[start + offset + 2])],
                    words[Int(schedule[start + offset + 4])], words[Int(schedule[start + offset + 6])])
            }
            // The columns of the 4 x 4 matrix, then its diagonals as columns of the matrix turned row by row.
            Self.mix(&a, &b, &c, &d, take(0), take(1))
            b = SIMD4(b[1], b[2], b[3], b[0])
            c = SIMD4(c[2], c[3], c[0], c[1])
            d = SIMD4(d[3], d[0], d[1], d[2])
            Self.mix(&a, &b, &c, &d, take(8), take(9))
            b = SIMD4(b[3], b[0], b[1], b[2])
            c = SIMD4(c[2], c[3], c[0], c[1])
            d = SIMD4(d[1], d[2], d[3], d[0])
        }
        for index in 0..<4 {
            self.state[index] ^= a[index] ^ c[index]
            self.state[index + 4] ^= b[index] ^ d[index]
        }
    }

    /// The mixing function G (section 3.1) on four columns at once.
    @inline(__always)
    private static func mix(
        _ a: inout SIMD4<UInt64>, _ b: inout SIMD4<UInt64>, _ c: inout SIMD4<UInt64>, _ d: inout SIMD4<UInt64>,
        _ x: SIMD4<UInt64>, _ y: SIMD4<UInt64>
    ) {
        a = a &+ b &+ x
        d = Self.rotate(d ^ a, by: 32)
        c = c &+ d
        b = Self.rotate(b ^ c, by: 24)
        a = a &+ b &+ y
        d = Self.rotate(d ^ a, by: 16)
        c = c &+ d
        b = Self.rotate(b ^ c, by: 63)
    }

    @inline(__always)
    private static func rotate(_ value: SIMD4<UInt64>, by count: UInt64) -> SIMD4<UInt64> {
        value &>> SIMD4(repeating: count) | value &<< SIMD4(repeating: 64 - count)
    }
}

/// BLAKE2b-512 without key, as a hash function of swift-crypto's: its digests can be signed and verified.
///
///     key.publicKey.isValidSignature(signature, for: BLAKE2b512.hash(data: text))
///
/// ECDSA over P-256 takes the leftmost 32 bytes of such a digest (FIPS 186-5 section 6.4).
public struct BLAKE2b512: HashFunction {
    public typealias Digest = BLAKE2b512Digest

    public static let blockByteCount = BLAKE2b.blockByteCount

    private var hash = BLAKE2b()

    public init() {}

    public mutating func update(bufferPointer: UnsafeRawBufferPointer) { self.hash.update(bufferPointer) }

    public func finalize() -> BLAKE2b512Digest { BLAKE2b512Digest(self.hash.finalize()) }
}

/// The 64 bytes of a ``BLAKE2b512``.
public struct BLAKE2b512Digest: Digest {
    public static let byteCount = 64

    private let bytes: [UInt8]

    fileprivate init(_ bytes: [UInt8]) { self.bytes = bytes }

    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try self.bytes.withUnsafeBytes(body)
    }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.bytes) }

    public var description: String { "BLAKE2b-512: " + self.bytes.hexadecimal }
}
