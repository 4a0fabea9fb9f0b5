import Foundation

/// Where the bytes of a CSV text come from: a file, or memory in tests and fuzzing.
enum CSVInput: Sendable {
    case file(path: String)
    case memory([UInt8])

    func stream(named name: String) throws(MeterSourceError) -> CSVByteStream {
        switch self {
        case .memory(let bytes):
            return CSVByteStream(name: name, origin: .memory(bytes))
        case .file(let path):
            let descriptor = open(path, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else {
                throw MeterSourceError(.io, file: name, "cannot be opened: \(String(cString: strerror(errno)))")
            }
            return CSVByteStream(name: name, origin: .file(OpenFile(descriptor)))
        }
    }
}

/// Closes a file descriptor when nobody needs it any more.
final class OpenFile: Sendable {
    let descriptor: Int32

    init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(self.descriptor) }
}

/// Bytes in pieces of 64 KiB. A value: a copy goes on from the same place.
struct CSVByteStream: Sendable {
    static let pieceSize = 65_536

    enum Origin {
        case memory([UInt8])
        case file(OpenFile)
    }

    let name: String
    let origin: Origin
    private var offset = 0

    init(name: String, origin: Origin) {
        self.name = name
        self.origin = origin
    }

    /// The next piece, empty at the end.
    mutating func nextPiece() throws(MeterSourceError) -> [UInt8] {
        switch self.origin {
        case .memory(let bytes):
            defer { self.offset = bytes.count }
            return self.offset == 0 ? bytes : []
        case .file(let file):
            var buffer = [UInt8](repeating: 0, count: Self.pieceSize)
            var count = 0
            repeat {
                count = pread(file.descriptor, &buffer, Self.pieceSize, off_t(self.offset))
            } while count < 0 && errno == EINTR
            guard count >= 0 else {
                throw MeterSourceError(.io, file: self.name, "cannot be read: \(String(cString: strerror(errno)))")
            }
            self.offset += count
            buffer.removeLast(Self.pieceSize - count)
            return buffer
        }
    }
}

/// Limits of one CSV text. The number of records has none.
public struct CSVLimits: Hashable, Sendable {
    /// The longest record, in bytes, quoted line breaks included.
    public var recordBytes = 65_536
    /// The most fields in a record.
    public var fields = 1_024

    public init() {}
}

/// One record after another, as RFC 4180 has them, with any one-byte delimiter.
///
/// Lines end with LF or CRLF; empty lines are passed over; a byte order mark of UTF-8 at the beginning is
/// too. A field that begins with `"` ends with `"` and may hold delimiters, line breaks and, doubled, `"`.
/// Blanks around a field are not part of it (the original's header has one behind `Mes`).
struct CSVRecordReader: Sendable {
    let name: String
    let limits: CSVLimits
    var delimiter: UInt8

    /// The line on which the current record begins, counted from 1; 0 before the first.
    private(set) var line = 0
    /// The fields of the current record, one behind the other, and where each ends.
    private(set) var bytes: [UInt8] = []
    private(set) var ends: [Int] = []

    private var stream: CSVByteStream
    private var piece: [UInt8] = []
    private var index = 0
    private var linesRead = 0
    private var isAtStart = true

    init(_ input: CSVInput, name: String, delimiter: UInt8, limits: CSVLimits) throws(MeterSourceError) {
        self.name = name
        self.limits = limits
        self.delimiter = delimiter
        self.stream = try input.stream(named: name)
    }

    var fieldCount: Int { self.ends.count }

    /// The bytes of a field of the current record, blanks at both ends removed.
    func field(_ number: Int) -> ArraySlice<UInt8> {
        var lower = number == 0 ? 0 : self.ends[number - 1]
        var upper = self.ends[number]
        while lower < upper, Self.isBlank(self.bytes[lower]) { lower += 1 }
        while upper > lower, Self.isBlank(self.bytes[upper - 1]) { upper -= 1 }
        return self.bytes[lower..<upper]
    }

    func error(_ code: MeterSourceError.Code, field: Int? = nil, _ reason: String) -> MeterSourceError {
        MeterSourceError(code, file: self.name, line: self.line, column: field.map { $0 + 1 }, reason)
    }

    /// Moves to the next record that is not empty.
    ///
    /// - Returns: `false` at the end.
    mutating func next() throws(MeterSourceError) -> Bool {
        if self.isAtStart { try self.skipByteOrderMark() }
        repeat {
            guard try self.readRecord() else { return false }
        } while self.ends.count == 1 && self.field(0).isEmpty
        return true
    }

    private enum State {
        case fieldStart, plain, quoted, quoteInQuoted
    }

    private mutating func readRecord() throws(MeterSourceError) -> Bool {
        self.bytes.removeAll(keepingCapacity: true)
        self.ends.removeAll(keepingCapacity: true)
        self.line = self.linesRead + 1
        var state = State.fieldStart
        var consumed = 0
        while let byte = try self.nextByte() {
            consumed += 1
            guard consumed <= self.limits.recordBytes else {
                throw self.error(
                    .tooLong, "longer than \(self.limits.recordBytes) bytes; is a quotation mark left open?")
            }
            switch (state, byte) {
            case (.quoted, UInt8(ascii: "\"")):
                state = .quoteInQuoted
            case (.quoted, _):
                if byte == UInt8(ascii: "\n") { self.linesRead += 1 }
                try self.append(byte)
            case (.quoteInQuoted, UInt8(ascii: "\"")):
                try self.append(byte)
                state = .quoted
            case (_, self.delimiter):
                try self.endField()
                state = .fieldStart
            case (_, UInt8(ascii: "\n")):
                self.linesRead += 1
                try self.endRecord()
                return true
            case (.quoteInQuoted, UInt8(ascii: "\r")), (.plain, UInt8(ascii: "\r")), (.fieldStart, UInt8(ascii: "\r")):
                // Only as the first half of CRLF; what follows is checked when the field ends.
                self.bytes.append(byte)
                if state == .fieldStart { state = .plain }
            case (.quoteInQuoted, _):
                guard Self.isBlank(byte) else {
                    throw self.error(
                        .quote, field: self.ends.count,
                        "text behind a closing quotation mark; write a quotation mark inside a field twice")
                }
            case (.fieldStart, UInt8(ascii: "\"")):
                state = .quoted
            case (.fieldStart, _):
                guard !Self.isBlank(byte) else { continue }
                try self.append(byte)
                state = .plain
            case (.plain, _):
                if self.bytes.last == UInt8(ascii: "\r") {
                    throw self.error(.encoding, field: self.ends.count, "a carriage return without a line feed")
                }
                try self.append(byte)
            }
        }
        if state == .quoted {
            throw self.error(.quote, field: self.ends.count, "a quotation mark is opened and never closed")
        }
        guard consumed > 0 else { return false }
        self.linesRead += 1
        try self.endRecord()
        return true
    }

    /// Without the first half of CRLF, if that is in the last field: one in the field before was quoted.
    private mutating func endRecord() throws(MeterSourceError) {
        if self.bytes.last == UInt8(ascii: "\r"), self.bytes.count > (self.ends.last ?? 0) { self.bytes.removeLast() }
        try self.endField()
    }

    private mutating func append(_ byte: UInt8) throws(MeterSourceError) {
        guard byte >= 0x20 || byte == UInt8(ascii: "\t") || byte == UInt8(ascii: "\n") || byte == UInt8(ascii: "\r")
        else {
            throw self.error(
                .encoding, field: self.ends.count,
                byte == 0
                    ? "a zero byte; is the file UTF-16? Save it as UTF-8" : "control character \(byte); save it as text"
            )
        }
        self.bytes.append(byte)
    }

    private mutating func endField() throws(MeterSourceError) {
        guard self.ends.count < self.limits.fields else {
            throw self.error(.tooLong, "more than \(self.limits.fields) fields; is the delimiter right?")
        }
        self.ends.append(self.bytes.count)
    }

    private mutating func nextByte() throws(MeterSourceError) -> UInt8? {
        if self.index == self.piece.count {
            self.piece = try self.stream.nextPiece()
            self.index = 0
            guard !self.piece.isEmpty else { return nil }
        }
        defer { self.index += 1 }
        return self.piece[self.index]
    }

    private mutating func skipByteOrderMark() throws(MeterSourceError) {
        self.isAtStart = false
        self.piece = try self.stream.nextPiece()
        if self.piece.starts(with: [0xEF, 0xBB, 0xBF]) { self.index = 3 }
        try Self.refuseUTF16(self.piece, name: self.name)
    }

    /// - Parameter start: The first bytes of a file.
    static func refuseUTF16(_ start: some Collection<UInt8>, name: String) throws(MeterSourceError) {
        guard start.starts(with: [0xFF, 0xFE]) || start.starts(with: [0xFE, 0xFF]) else { return }
        throw MeterSourceError(.encoding, file: name, line: 1, "is UTF-16; save it as UTF-8")
    }

    private static func isBlank(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t")
    }
}
