/// Why a source of readings cannot go on. Two errors are equal when their codes are.
public struct MeterSourceError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of thing is wrong.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        /// The file cannot be opened or read.
        public static let io = Code(description: "io")
        /// The text is in an encoding that is not read: UTF-16, control characters.
        public static let encoding = Code(description: "encoding")
        /// A record is longer, or has more fields, than allowed.
        public static let tooLong = Code(description: "too-long")
        /// A quotation mark that is not closed, or stands in the middle of a field.
        public static let quote = Code(description: "quote")
        /// The first line does not fit the form of the file.
        public static let header = Code(description: "header")
        /// A record has another number of fields than it should.
        public static let fields = Code(description: "fields")
        /// Text that is no time.
        public static let time = Code(description: "time")
        /// A local time that never was: clocks were put forward over it.
        public static let timeSkipped = Code(description: "time-skipped")
        /// A local time that was twice: clocks were put back.
        public static let timeAmbiguous = Code(description: "time-ambiguous")
        /// A time that is not later than the one before it.
        public static let order = Code(description: "order")
        /// Text that is no decimal number, or one with too many digits.
        public static let value = Code(description: "value")
        /// A type other than 0 (consumption) and 1 (production).
        public static let type = Code(description: "type")
        /// An identifier that the file does not have, or that is not an identifier.
        public static let identifier = Code(description: "identifier")
        /// Options that do not fit each other or the file.
        public static let options = Code(description: "options")
        /// The source is not the one that the position belongs to.
        public static let changed = Code(description: "changed")
    }

    public let code: Code
    /// The file, as it was named by whoever opened it.
    public let file: String?
    /// The line, counted from 1.
    public let line: Int?
    /// The field within the line, counted from 1.
    public let column: Int?
    /// One line: what is wrong and what to do.
    public let reason: String

    public init(_ code: Code, file: String? = nil, line: Int? = nil, column: Int? = nil, _ reason: String) {
        self.code = code
        self.file = file
        self.line = line
        self.column = column
        self.reason = reason
    }

    /// `file, line 7, column 3: reason`, as far as the place is known.
    public var description: String {
        var place: [String] = []
        if let file = self.file { place.append(file) }
        if let line = self.line { place.append("line \(line)") }
        if let column = self.column { place.append("column \(column)") }
        return place.isEmpty ? self.reason : place.joined(separator: ", ") + ": " + self.reason
    }

    public static func == (a: MeterSourceError, b: MeterSourceError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}

/// Bytes from outside, fit for one line of an error message.
func shown(_ bytes: some Collection<UInt8>) -> String {
    let text = String(decoding: bytes.prefix(200), as: UTF8.self)
    let scalars = text.unicodeScalars.prefix(60).map {
        $0.properties.generalCategory == .control ? "\u{FFFD}" : String($0)
    }
    return "'" + scalars.joined() + (text.unicodeScalars.count > 60 ? "…" : "") + "'"
}
