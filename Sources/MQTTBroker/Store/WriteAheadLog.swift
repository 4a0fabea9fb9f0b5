// SQLite's file format, section 4: the write-ahead log.

import Foundation

/// Examines a write-ahead log before SQLite does, which takes the first frame that does not fit for the end.
///
/// That is right for what a crash leaves behind: the last transaction, perhaps half written. With
/// `synchronous = FULL` every transaction before it was on disk before the next was written. So when two or more
/// commits stand behind a frame that does not fit, it is damage, and SQLite would lose them in silence.
enum WriteAheadLog {
    private static let headerSize = 32
    private static let frameHeaderSize = 24

    /// - Parameter path: need not exist.
    /// - Throws: ``BrokerError`` with code `store-damaged` or `store-unusable`.
    static func requireWhole(_ path: String) throws(BrokerError) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT { return }
            throw BrokerError(.storeUnusable, "cannot open \(path): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var header = [UInt8](repeating: 0, count: self.headerSize)
        let count = pread(descriptor, &header, self.headerSize, 0)
        // Nothing, or one that a power failure left without contents: no commit was in it.
        guard count == self.headerSize, header.contains(where: { $0 != 0 }) else { return }

        let pageSize = Int(self.word(header, 8))
        var sum = Checksum(isBigEndian: header[3] & 1 == 1)
        sum.add(header[..<24])
        guard self.word(header, 0) | 1 == 0x377F_0683, self.word(header, 4) == 3_007_000,
            (512...65_536).contains(pageSize), pageSize & (pageSize - 1) == 0,
            sum.first == self.word(header, 24), sum.second == self.word(header, 28)
        else { throw self.damaged(path, "its header is no header") }
        let salt = header[16..<24]

        var frame = [UInt8](repeating: 0, count: self.frameHeaderSize + pageSize)
        var offset = self.headerSize
        var isWhole = true
        var commitsBehind = 0
        while pread(descriptor, &frame, frame.count, off_t(offset)) == frame.count {
            let isOfThisLog = frame[8..<16].elementsEqual(salt)
            if isWhole {
                var next = sum
                next.add(frame[..<8])
                next.add(frame[self.frameHeaderSize...])
                isWhole =
                    isOfThisLog && next.first == self.word(frame, 16) && next.second == self.word(frame, 20)
                if isWhole { sum = next }
            }
            if !isWhole, isOfThisLog, self.word(frame, 4) != 0 { commitsBehind += 1 }
            guard commitsBehind < 2 else {
                throw self.damaged(path, "a page of it does not fit, and commits stand behind it")
            }
            offset += frame.count
        }
    }

    private static func damaged(_ path: String, _ detail: String) -> BrokerError {
        StoreFile.damaged(path.hasSuffix("-wal") ? String(path.dropLast(4)) : path, "its write-ahead log: \(detail)")
    }

    private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
        bytes[offset..<(offset + 4)].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Section 4.2.
    private struct Checksum {
        let isBigEndian: Bool
        var first: UInt32 = 0
        var second: UInt32 = 0

        init(isBigEndian: Bool) { self.isBigEndian = isBigEndian }

        /// - Parameter bytes: a multiple of 8.
        mutating func add(_ bytes: ArraySlice<UInt8>) {
            bytes.withUnsafeBytes { bytes in
                var offset = 0
                while offset + 8 <= bytes.count {
                    let a = bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
                    let b = bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)
                    self.first = self.first &+ (self.isBigEndian ? a.bigEndian : a.littleEndian) &+ self.second
                    self.second = self.second &+ (self.isBigEndian ? b.bigEndian : b.littleEndian) &+ self.first
                    offset += 8
                }
            }
        }
    }
}
