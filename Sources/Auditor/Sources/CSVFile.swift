public import Identity
public import Telemetry

/// How a file of readings is to be read. What is `nil` is found out from the file.
public struct CSVOptions: Hashable, Sendable {
    /// The form of the file; see ``CSVFile/Form``.
    public var form: CSVFile.Form?
    /// The byte between two fields.
    public var delimiter: UInt8?
    /// Over how many seconds a reading was taken, 1 to 86,400. Energy over an interval needs it (a quarter of an
    /// hour if not given); for other quantities it says that the values are means over it.
    public var interval: Int?
    /// How times without a zone are to be read.
    public var timeZone = LocalTimeZone.utc
    /// The columns of a plain time series that are readings; the long and the wide form have none to choose.
    public var columns: [CSVColumn] = []
    /// The meter that the readings are of.
    public var meter: MeterName
    /// The limits of a record.
    public var limits = CSVLimits()

    public init(meter: MeterName) { self.meter = meter }

    /// The interval of energy readings, in seconds.
    var energyInterval: Int { self.interval ?? 900 }
}

extension LocalTimeZone {
    /// As ``init(name:)``, with an error that says what would be right.
    ///
    /// - Throws: ``MeterSourceError`` with code `options`.
    public init(_ text: String) throws(MeterSourceError) {
        guard let zone = LocalTimeZone(name: text) else {
            throw MeterSourceError(
                .options,
                "\(shown(text.utf8)) is not a time zone: write UTC, an offset such as +02:00, or a name such as Europe/Madrid"
            )
        }
        self = zone
    }
}

/// One column of a plain time series: `GC=power_consumed:kW`.
public struct CSVColumn: Hashable, Sendable {
    /// The column's name in the first line of the file.
    public var name: String
    public var quantity: Quantity
    /// The line or tariff; the whole if the text says none.
    public var part: Part
    public var unit: Unit

    public init(name: String, quantity: Quantity, part: Part = .whole, unit: Unit) {
        self.name = name
        self.quantity = quantity
        self.part = part
        self.unit = unit
    }

    /// Reads `NAME=QUANTITY[/PHASE OR TARIFF]:UNIT`. The name may hold `=` and `:`: the last ones count.
    ///
    /// - Throws: ``MeterSourceError`` with code `options`.
    public init(_ text: String) throws(MeterSourceError) {
        guard let equals = text.lastIndex(of: "="), let colon = text[equals...].lastIndex(of: ":") else {
            throw MeterSourceError(
                .options,
                "\(shown(text.utf8)) is not a column: write NAME=QUANTITY:UNIT, for example GC=power_consumed:kW"
            )
        }
        let name = text[text.index(after: equals)..<colon].split(
            separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        let unitName = text[text.index(after: colon)...]
        guard let quantity = Quantity(name[0]) else {
            let all = Quantity.allCases.map(\.description).joined(separator: ", ")
            throw MeterSourceError(.options, "\(shown(name[0].utf8)) is not a quantity: one of \(all)")
        }
        guard let part = Part(name.count > 1 ? name[1] : ""), name.count == 1 || part != .whole,
            !part.isTariff || quantity.kind != .momentary
        else {
            throw MeterSourceError(
                .options,
                "\(shown(name[name.count - 1].utf8)) is not a part of \(quantity): l1, l2, l3; energies also t1 to t99")
        }
        guard let unit = Unit(unitName), quantity.allows(unit) else {
            let all = Unit.allCases.filter(quantity.allows).map(\.description).joined(separator: ", ")
            throw MeterSourceError(.options, "\(shown(unitName.utf8)) is not a unit of \(quantity): \(all)")
        }
        self.init(name: String(text[..<equals]), quantity: quantity, part: part, unit: unit)
    }
}

/// A file of readings in one of three forms of CSV. Several auditors' readings may be in one file.
///
/// - **long**, the original's: `id,datetime,type,value` in each line, with or without that line of names at the
///   top; type 0 is consumption, 1 production; energy in kWh over the interval that begins at the time.
/// - **wide**, the original's: `ID;Consumo (0) / Producción (1);Dia;Mes;Año;0;1;...;95`: a line a day, a field a
///   quarter of an hour, energy in kWh.
/// - **series**: the first field is the time, whatever its name; other fields are chosen by name.
///
/// Text is UTF-8; a first line that is not is read as ISO 8859-1, which old spreadsheets write. An empty field is
/// a reading that is missing (quality `m`), except at a local time that never was, where it is nothing. With
/// another delimiter than the comma, the comma may be the decimal point.
public struct CSVFile: Sendable {
    public enum Form: String, Hashable, Sendable, CaseIterable {
        case long, wide, series
    }

    /// The most identifiers looked for in one file.
    static let maximumIdentifiers = 10_000

    public let form: Form
    /// The name used in errors.
    public let name: String
    let delimiter: UInt8
    let options: CSVOptions
    let input: CSVInput
    /// Whether the first record is names.
    let hasHeader: Bool
    /// Where the chosen columns of a series are.
    let columns: [(field: Int, column: CSVColumn)]
    let fieldCount: Int

    /// Opens a file and reads its first line.
    public init(path: String, options: CSVOptions) throws(MeterSourceError) {
        try self.init(.file(path: path), name: path, options: options)
    }

    /// Reads from memory.
    public init(bytes: [UInt8], name: String, options: CSVOptions) throws(MeterSourceError) {
        try self.init(.memory(bytes), name: name, options: options)
    }

    private init(_ input: CSVInput, name: String, options: CSVOptions) throws(MeterSourceError) {
        if let interval = options.interval, !(1...86_400).contains(interval) {
            throw MeterSourceError(.options, "the interval must be 1 s to one day")
        }
        var delimiter = options.delimiter
        if delimiter == nil { delimiter = Self.likelyDelimiter(try Self.firstLine(input, name: name, options.limits)) }
        guard let delimiter else {
            throw MeterSourceError(
                .header, file: name, line: 1, "there is only one column; say which delimiter is between the fields")
        }
        var reader = try CSVRecordReader(input, name: name, delimiter: delimiter, limits: options.limits)
        guard try reader.next() else { throw MeterSourceError(.header, file: name, line: 1, "the file is empty") }
        let header = (0..<reader.fieldCount).map { Self.text(reader.field($0)) }
        let form = options.form ?? Self.likelyForm(header, reader: reader)
        self.form = form
        self.name = name
        self.delimiter = delimiter
        self.options = options
        self.input = input
        self.fieldCount = header.count
        switch form {
        case .long:
            guard header.count == 4 else {
                throw reader.error(
                    .header, "the long form has 4 fields (id, datetime, type, value), this line has \(header.count)")
            }
            self.hasHeader = Self.isLongHeader(header)
            self.columns = []
        case .wide:
            try Self.checkWideHeader(header, reader: reader)
            self.hasHeader = true
            self.columns = []
        case .series:
            self.hasHeader = true
            self.columns = try Self.choose(options.columns, from: header, reader: reader)
        }
    }

    /// The identifiers in the file, in the order of their first lines; none in a plain time series.
    ///
    /// Reads the whole file.
    public func identifiers() throws(MeterSourceError) -> [Identifier] {
        guard self.form != .series else { return [] }
        var reader = try self.reader()
        var known: Set<[UInt8]> = []
        var last: [UInt8] = []
        var identifiers: [Identifier] = []
        while try reader.next() {
            let bytes = reader.field(0)
            guard !bytes.elementsEqual(last) else { continue }
            last = Array(bytes)
            guard known.insert(last).inserted else { continue }
            guard let identifier = try? Identifier(Self.text(bytes)) else {
                throw reader.error(
                    .identifier, field: 0,
                    "\(shown(bytes)) is not an identifier: a letter or digit, then up to 63 letters, digits, '.', '_', '-'"
                )
            }
            guard identifiers.count < Self.maximumIdentifiers else {
                throw reader.error(
                    .identifier, field: 0, "more than \(Self.maximumIdentifiers) identifiers in one file")
            }
            identifiers.append(identifier)
        }
        return identifiers
    }

    /// The readings of one auditor.
    ///
    /// - Parameter identifier: Whose lines to read; a plain time series has no identifiers and takes any.
    /// - Throws: ``MeterSourceError``, with code `identifier` if the file has no line of that identifier.
    public func source(for identifier: Identifier) throws(MeterSourceError) -> CSVMeterSource {
        if self.form != .series {
            let all = try self.identifiers()
            guard all.contains(identifier) else {
                let some = all.prefix(8).map(\.rawValue).joined(separator: ", ")
                throw MeterSourceError(
                    .identifier, file: self.name,
                    "has no line of \(identifier); it has \(some)\(all.count > 8 ? " and others" : "")")
            }
        }
        return try CSVMeterSource(file: self, identifier: identifier)
    }

    /// A reader that stands before the first record of readings.
    func reader() throws(MeterSourceError) -> CSVRecordReader {
        var reader = try CSVRecordReader(
            self.input, name: self.name, delimiter: self.delimiter, limits: self.options.limits)
        if self.hasHeader { _ = try reader.next() }
        return reader
    }

    // MARK: The first line

    /// UTF-8, or else ISO 8859-1.
    static func text(_ bytes: ArraySlice<UInt8>) -> String {
        String(validating: bytes, as: UTF8.self)
            ?? String(String.UnicodeScalarView(bytes.map { Unicode.Scalar($0) }))
    }

    /// The first line that is not empty, without what is between quotation marks: only delimiters are looked for.
    private static func firstLine(
        _ input: CSVInput, name: String, _ limits: CSVLimits
    ) throws(MeterSourceError) -> [UInt8] {
        var stream = try input.stream(named: name)
        var line: [UInt8] = []
        var isQuoted = false
        while line.count < limits.recordBytes {
            let piece = try stream.nextPiece()
            guard !piece.isEmpty else { break }
            for byte in piece {
                if byte == UInt8(ascii: "\"") { isQuoted.toggle() }
                if byte == UInt8(ascii: "\n"), !isQuoted {
                    guard line.isEmpty || line.elementsEqual([UInt8(ascii: "\r")]) else { return line }
                    line.removeAll()
                } else if !isQuoted, line.count < limits.recordBytes {
                    line.append(byte)
                }
            }
        }
        guard !line.isEmpty else { throw MeterSourceError(.header, file: name, line: 1, "the file is empty") }
        try CSVRecordReader.refuseUTF16(line, name: name)
        return line
    }

    private static func likelyDelimiter(_ line: [UInt8]) -> UInt8? {
        var best: (delimiter: UInt8, count: Int)?
        for delimiter in ";\t,|".utf8 {
            let count = line.count { $0 == delimiter }
            if count > best?.count ?? 0 { best = (delimiter, count) }
        }
        return best?.delimiter
    }

    private static func isLongHeader(_ header: [String]) -> Bool {
        header.map { $0.lowercased() } == ["id", "datetime", "type", "value"]
    }

    private static func likelyForm(_ header: [String], reader: CSVRecordReader) -> Form {
        if Self.isLongHeader(header) { return .long }
        if header.count == 4, LocalTime(reader.field(1)) != nil, header[2] == "0" || header[2] == "1",
            (try? Identifier(header[0])) != nil
        {
            return .long
        }
        if header.count > 5, header[0].lowercased() == "id", header[1].lowercased().hasPrefix("consumo") {
            return .wide
        }
        return .series
    }

    /// The names are fixed, but for case and accents: only their letters are compared.
    private static func checkWideHeader(_ header: [String], reader: CSVRecordReader) throws(MeterSourceError) {
        guard header.count == 101 else {
            throw reader.error(
                .header,
                "the wide form has 101 fields (5 and then 96 quarters of an hour), this line has \(header.count)")
        }
        let names: [[String]] = [
            ["ID", "id", "Id"], [], ["Dia", "Día", "dia", "día"], ["Mes", "mes"], ["Año", "Ano", "año", "ano"],
        ]
        for (field, allowed) in names.enumerated() where !allowed.isEmpty {
            guard allowed.contains(header[field]) else {
                throw reader.error(
                    .header, field: field,
                    "\(shown(header[field].utf8)) instead of \(allowed[0]): the wide form begins ID;Consumo (0) / Producción (1);Dia;Mes;Año"
                )
            }
        }
        for quarter in 0..<96 where header[5 + quarter] != String(quarter) {
            throw reader.error(
                .header, field: 5 + quarter,
                "\(shown(header[5 + quarter].utf8)) instead of \(quarter): quarters of an hour are named 0 to 95")
        }
    }

    private static func choose(
        _ columns: [CSVColumn], from header: [String], reader: CSVRecordReader
    ) throws(MeterSourceError) -> [(field: Int, column: CSVColumn)] {
        let names = header.dropFirst().prefix(12).map { "'\($0)'" }.joined(separator: ", ")
        guard !columns.isEmpty else {
            throw reader.error(
                .options,
                "say which columns are readings, for example --column 'GC=power_consumed:kW'; the file has \(names)")
        }
        guard columns.count <= SourceBatch.maximumReadings else {
            throw reader.error(.options, "more than \(SourceBatch.maximumReadings) columns")
        }
        var chosen: [(field: Int, column: CSVColumn)] = []
        for column in columns {
            let fields = header.indices.dropFirst().filter { header[$0] == column.name }
            guard let field = fields.first else {
                throw reader.error(.header, "there is no column \(shown(column.name.utf8)); the file has \(names)")
            }
            guard fields.count == 1 else {
                throw reader.error(.header, "there are \(fields.count) columns \(shown(column.name.utf8))")
            }
            guard
                !chosen.contains(where: {
                    $0.column.quantity == column.quantity && $0.column.part == column.part
                })
            else {
                throw reader.error(
                    .options, "two columns are \(column.quantity)\(column.part == .whole ? "" : "/\(column.part)")")
            }
            chosen.append((field, column))
        }
        return chosen
    }
}
