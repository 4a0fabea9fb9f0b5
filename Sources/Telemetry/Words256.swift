/// 32 bytes held in place, so that hashes are values without a heap allocation.
struct Words256: Hashable, Sendable {
    var a: UInt64
    var b: UInt64
    var c: UInt64
    var d: UInt64

    static let zero = Words256(a: 0, b: 0, c: 0, d: 0)

    init(a: UInt64, b: UInt64, c: UInt64, d: UInt64) {
        (self.a, self.b, self.c, self.d) = (a, b, c, d)
    }

    /// - Precondition: 32 bytes.
    init(_ raw: UnsafeRawBufferPointer) {
        precondition(raw.count == 32)
        self.a = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        self.b = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        self.c = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        self.d = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
    }

    init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == 32 else { return nil }
        self = .zero
        for (index, byte) in bytes.enumerated() {
            switch index >> 3 {
            case 0: self.a = self.a << 8 | UInt64(byte)
            case 1: self.b = self.b << 8 | UInt64(byte)
            case 2: self.c = self.c << 8 | UInt64(byte)
            default: self.d = self.d << 8 | UInt64(byte)
            }
        }
    }

    var bytes: [UInt8] {
        [UInt8](unsafeUninitializedCapacity: 32) { buffer, count in
            let raw = UnsafeMutableRawBufferPointer(buffer)
            raw.storeBytes(of: self.a.bigEndian, toByteOffset: 0, as: UInt64.self)
            raw.storeBytes(of: self.b.bigEndian, toByteOffset: 8, as: UInt64.self)
            raw.storeBytes(of: self.c.bigEndian, toByteOffset: 16, as: UInt64.self)
            raw.storeBytes(of: self.d.bigEndian, toByteOffset: 24, as: UInt64.self)
            count = 32
        }
    }

    func isLess(than other: Words256) -> Bool {
        (self.a, self.b, self.c, self.d) < (other.a, other.b, other.c, other.d)
    }
}
