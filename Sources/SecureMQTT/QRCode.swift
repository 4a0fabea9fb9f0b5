// ISO/IEC 18004: a QR code of bytes, error correction M, versions 1 to 16.

/// A QR code, for the sheets of invitations.
struct QRCode: Sendable {
    /// The longest text, in bytes of UTF-8.
    static let maximumLength = 450

    /// A text that is too long.
    struct TooLong: Error {}

    /// Modules a side.
    let size: Int
    private var dark: [Bool]
    /// Modules of patterns and format, which carry no data and are not masked.
    private var isFixed: [Bool]

    init(_ text: String) throws(TooLong) {
        let bytes = Array(text.utf8)
        // Mode (4 bits), length (8 bits, from version 10 on 16), the bytes.
        let fitting = (1...16).first { Self.dataLength($0) >= bytes.count + ($0 < 10 ? 2 : 3) }
        guard let version = fitting else { throw TooLong() }
        self.size = 17 + 4 * version
        self.dark = Array(repeating: false, count: self.size * self.size)
        self.isFixed = self.dark
        self.drawPatterns(version)
        self.drawData(Self.interleaved(Self.data(bytes, version), version))
        let plain = self
        var best = Int.max
        for mask in 0..<8 {
            var masked = plain
            masked.apply(mask)
            let penalty = masked.penalty
            if penalty < best {
                best = penalty
                self.dark = masked.dark
            }
        }
    }

    subscript(row: Int, column: Int) -> Bool { self.dark[row * self.size + column] }

    /// A picture, four modules of margin around it.
    var svg: String {
        var path = ""
        for row in 0..<self.size {
            for column in 0..<self.size where self[row, column] { path += "M\(column + 4) \(row + 4)h1v1h-1z" }
        }
        let side = self.size + 8
        return """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(side) \(side)" shape-rendering="crispEdges">\
            <path fill="#fff" d="M0 0h\(side)v\(side)h-\(side)z"/><path d="\(path)"/></svg>
            """
    }

    // MARK: Codewords (section 7.4 and section 7.5)

    private static let correctionLengths = [10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28]
    private static let blockCounts = [1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10]

    /// Bytes that the symbol holds, data and correction.
    private static func totalLength(_ version: Int) -> Int {
        var modules = (16 * version + 128) * version + 64
        if version >= 2 {
            let alignments = version / 7 + 2
            modules -= (25 * alignments - 10) * alignments - 55
            if version >= 7 { modules -= 36 }
        }
        return modules / 8
    }

    private static func dataLength(_ version: Int) -> Int {
        Self.totalLength(version) - Self.correctionLengths[version - 1] * Self.blockCounts[version - 1]
    }

    private static func data(_ bytes: [UInt8], _ version: Int) -> [UInt8] {
        let length = Self.dataLength(version)
        // The mode's four bits shift everything that follows by half a byte.
        var halves: [UInt8] = [0b0100]
        if version >= 10 { halves += [UInt8(bytes.count >> 12 & 15), UInt8(bytes.count >> 8 & 15)] }
        halves += [UInt8(bytes.count >> 4 & 15), UInt8(bytes.count & 15)]
        for byte in bytes { halves += [byte >> 4, byte & 15] }
        // The terminator.
        halves.append(0)
        var data = stride(from: 0, to: halves.count - 1, by: 2).map { halves[$0] << 4 | halves[$0 + 1] }
        var pad: UInt8 = 0xEC
        while data.count < length {
            data.append(pad)
            pad ^= 0xEC ^ 0x11
        }
        return data
    }

    private static func interleaved(_ data: [UInt8], _ version: Int) -> [UInt8] {
        let blockCount = Self.blockCounts[version - 1]
        let correction = Self.correctionLengths[version - 1]
        let short = data.count / blockCount
        let shortBlocks = blockCount - data.count % blockCount
        let divisor = Self.divisor(correction)
        var blocks: [[UInt8]] = []
        var corrections: [[UInt8]] = []
        var position = 0
        for block in 0..<blockCount {
            let length = block < shortBlocks ? short : short + 1
            let part = Array(data[position..<position + length])
            position += length
            blocks.append(part)
            corrections.append(Self.remainder(part, divisor))
        }
        var result: [UInt8] = []
        for index in 0...short { for block in blocks where index < block.count { result.append(block[index]) } }
        for index in 0..<correction { for block in corrections { result.append(block[index]) } }
        return result
    }

    /// In the field of 256 elements modulo x^8 + x^4 + x^3 + x^2 + 1.
    private static func multiply(_ a: UInt8, _ b: UInt8) -> UInt8 {
        var product = 0
        for bit in (0..<8).reversed() {
            product = product << 1 ^ (product >> 7) * 0x11D
            product ^= Int(b >> bit & 1) * Int(a)
        }
        return UInt8(product)
    }

    /// The coefficients of (x - 1)(x - 2)(x - 4)..., without the leading one.
    private static func divisor(_ degree: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: degree - 1) + [1]
        var root: UInt8 = 1
        for _ in 0..<degree {
            for index in 0..<degree {
                result[index] = Self.multiply(result[index], root)
                if index + 1 < degree { result[index] ^= result[index + 1] }
            }
            root = Self.multiply(root, 2)
        }
        return result
    }

    private static func remainder(_ data: [UInt8], _ divisor: [UInt8]) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: divisor.count)
        for byte in data {
            let factor = byte ^ result.removeFirst()
            result.append(0)
            for index in divisor.indices { result[index] ^= Self.multiply(divisor[index], factor) }
        }
        return result
    }

    // MARK: Modules (section 6.3 and section 7.7)

    private mutating func fix(_ row: Int, _ column: Int, _ isDark: Bool) {
        guard (0..<self.size).contains(row), (0..<self.size).contains(column) else { return }
        self.dark[row * self.size + column] = isDark
        self.isFixed[row * self.size + column] = true
    }

    private mutating func drawPatterns(_ version: Int) {
        for index in 0..<self.size {
            self.fix(6, index, index.isMultiple(of: 2))
            self.fix(index, 6, index.isMultiple(of: 2))
        }
        for (row, column) in [(3, 3), (3, self.size - 4), (self.size - 4, 3)] {
            for y in -4...4 {
                for x in -4...4 {
                    let distance = max(abs(x), abs(y))
                    self.fix(row + y, column + x, distance != 2 && distance != 4)
                }
            }
        }
        let centres = Self.alignmentCentres(version, self.size)
        for row in centres {
            for column in centres {
                let inFinder =
                    (row == 6 && (column == 6 || column == self.size - 7)) || (row == self.size - 7 && column == 6)
                if inFinder { continue }
                for y in -2...2 { for x in -2...2 { self.fix(row + y, column + x, max(abs(x), abs(y)) != 1) } }
            }
        }
        self.drawFormat(0)
        guard version >= 7 else { return }
        var rest = version
        for _ in 0..<12 { rest = rest << 1 ^ (rest >> 11) * 0x1F25 }
        let bits = version << 12 | rest
        for index in 0..<18 {
            let (a, b) = (self.size - 11 + index % 3, index / 3)
            self.fix(a, b, bits >> index & 1 != 0)
            self.fix(b, a, bits >> index & 1 != 0)
        }
    }

    private static func alignmentCentres(_ version: Int, _ size: Int) -> [Int] {
        guard version >= 2 else { return [] }
        let count = version / 7 + 2
        let step = (version * 4 + count * 2 + 1) / (count * 2 - 2) * 2
        return [6] + (0..<count - 1).map { size - 7 - $0 * step }.reversed()
    }

    /// Level M (00) and mask, with their BCH code, twice.
    private mutating func drawFormat(_ mask: Int) {
        var rest = mask
        for _ in 0..<10 { rest = rest << 1 ^ (rest >> 9) * 0x537 }
        let bits = (mask << 10 | rest) ^ 0x5412
        func bit(_ index: Int) -> Bool { bits >> index & 1 != 0 }
        for index in 0...5 { self.fix(index, 8, bit(index)) }
        self.fix(7, 8, bit(6))
        self.fix(8, 8, bit(7))
        self.fix(8, 7, bit(8))
        for index in 9..<15 { self.fix(8, 14 - index, bit(index)) }
        for index in 0..<8 { self.fix(8, self.size - 1 - index, bit(index)) }
        for index in 8..<15 { self.fix(self.size - 15 + index, 8, bit(index)) }
        self.fix(self.size - 8, 8, true)
    }

    private mutating func drawData(_ bytes: [UInt8]) {
        var index = 0
        for pair in stride(from: self.size - 1, through: 1, by: -2) {
            // The column of the timing pattern is left out.
            let right = pair <= 6 ? pair - 1 : pair
            let isUpward = (right + 1) & 2 == 0
            for step in 0..<self.size {
                let row = isUpward ? self.size - 1 - step : step
                for column in [right, right - 1] where !self.isFixed[row * self.size + column] {
                    guard index < bytes.count * 8 else { continue }
                    self.dark[row * self.size + column] = bytes[index / 8] >> (7 - index % 8) & 1 != 0
                    index += 1
                }
            }
        }
    }

    private mutating func apply(_ mask: Int) {
        self.drawFormat(mask)
        for row in 0..<self.size {
            for column in 0..<self.size where !self.isFixed[row * self.size + column] {
                let inverts =
                    switch mask {
                    case 0: (row + column) % 2 == 0
                    case 1: row % 2 == 0
                    case 2: column % 3 == 0
                    case 3: (row + column) % 3 == 0
                    case 4: (row / 2 + column / 3) % 2 == 0
                    case 5: row * column % 2 + row * column % 3 == 0
                    case 6: (row * column % 2 + row * column % 3) % 2 == 0
                    default: ((row + column) % 2 + row * column % 3) % 2 == 0
                    }
                if inverts { self.dark[row * self.size + column].toggle() }
            }
        }
    }

    /// Section 7.8.3: what makes a symbol hard to read, by long runs, blocks, false finders, and imbalance.
    private var penalty: Int {
        var penalty = 0
        let finder: [Bool] = [true, false, true, true, true, false, true]
        let quiet = [Bool](repeating: false, count: 4)
        for line in 0..<self.size {
            for cells in [(0..<self.size).map { self[line, $0] }, (0..<self.size).map { self[$0, line] }] {
                var run = 0
                for index in cells.indices {
                    run = index > 0 && cells[index] == cells[index - 1] ? run + 1 : 1
                    if run == 5 { penalty += 3 } else if run > 5 { penalty += 1 }
                    if index >= 10 {
                        let window = cells[index - 10...index]
                        if window.elementsEqual(finder + quiet) || window.elementsEqual(quiet + finder) {
                            penalty += 40
                        }
                    }
                }
            }
        }
        for row in 1..<self.size {
            for column in 1..<self.size {
                let cell = self[row, column]
                if cell == self[row - 1, column], cell == self[row, column - 1], cell == self[row - 1, column - 1] {
                    penalty += 3
                }
            }
        }
        let share = self.dark.count { $0 } * 100 / self.dark.count
        return penalty + abs(share - 50) / 5 * 10
    }
}
