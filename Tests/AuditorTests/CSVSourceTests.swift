import Auditor
import Foundation
import Identity
import Telemetry
import TestSupport
import Testing

/// Everything a source gives.
func readAll(_ source: some MeterSource) throws -> [Reading] {
    var source = source
    var readings: [Reading] = []
    while let batch = try source.next() { readings.append(contentsOf: batch.readings) }
    return readings
}

func options(_ change: (inout CSVOptions) throws -> Void = { _ in }) throws -> CSVOptions {
    var options = CSVOptions(meter: try MeterName("main"))
    try change(&options)
    return options
}

func read(_ text: String, id: String = "home-1", _ options: CSVOptions) throws -> [Reading] {
    try read(Array(text.utf8), id: id, options)
}

func read(_ bytes: [UInt8], id: String = "home-1", _ options: CSVOptions) throws -> [Reading] {
    let file = try CSVFile(bytes: bytes, name: "file.csv", options: options)
    return try readAll(try file.source(for: try Identifier(id)))
}

/// The wide form's first line.
let wideHeader =
    "ID;Consumo (0) / Producción (1);Dia;Mes ;Año;" + (0..<96).map(String.init).joined(separator: ";")

func wideLine(_ id: String, _ type: Int, _ day: String, _ value: (Int) -> String) -> String {
    "\(id);\(type);\(day);" + (0..<96).map(value).joined(separator: ";")
}

@Suite("CSV: long form") struct CSVLongFormTests {
    @Test("lines are readings of energy over the interval that begins at their time")
    func longForm() throws {
        let readings = try read(
            "id,datetime,type,value\nhome-1,2011-07-01 00:30:00,0,0.48200000000000004\n", try options())
        #expect(
            readings == [
                Reading(
                    meter: try MeterName("main"), quantity: .consumption, unit: .kilowattHour,
                    time: Timestamp(seconds: 1_309_480_200), interval: 900_000_000_000,
                    value: ExactDecimal("0.48200000000000004"))
            ])
    }

    @Test("the line of names may be missing")
    func noHeader() throws {
        let readings = try read("home-1,2011-07-01 00:00,1,1.50\nhome-1,2011-07-01 00:15,1,0\n", try options())
        #expect(readings.map(\.value?.description) == ["1.50", "0"])
        #expect(readings.allSatisfy { $0.quantity == .production })
    }

    @Test("consumption and production in any mixture come in order of time")
    func merged() throws {
        let separate = """
            id,datetime,type,value
            home-1,2020-01-01 00:00,0,1
            home-1,2020-01-01 00:15,0,2
            home-1,2020-01-01 00:00,1,3
            home-1,2020-01-01 00:15,1,4
            """
        #expect(try read(separate, try options()).map(\.value?.description) == ["1", "3", "2", "4"])
    }

    @Test("each auditor gets its own lines and the file names its auditors")
    func identifiers() throws {
        let text = "id,datetime,type,value\nb,2020-01-01 00:00,0,1\na,2020-01-01 00:00,0,2\nb,2020-01-01 00:15,0,3\n"
        let file = try CSVFile(bytes: Array(text.utf8), name: "f", options: try options())
        #expect(try file.identifiers().map(\.rawValue) == ["b", "a"])
        #expect(try readAll(try file.source(for: try Identifier("a"))).map(\.value?.description) == ["2"])
        #expect(throws: MeterSourceError(.identifier, "")) { try file.source(for: try Identifier("c")) }
    }
}

@Suite("CSV: how it may be written") struct CSVDialectTests {
    @Test(
        "delimiters, line ends, marks, quotation and blanks do not matter",
        arguments: [
            "id;datetime;type;value\nhome-1;2020-01-01 00:00;0;1.25\n",
            "id\tdatetime\ttype\tvalue\r\nhome-1\t2020-01-01 00:00\t0\t1.25",
            "\u{FEFF}id,datetime,type,value\r\nhome-1,2020-01-01T00:00:00Z,0,1.25\r\n",
            "\"id\",\"datetime\",\"type\",\"value\"\n\"home-1\",\"2020-01-01 00:00\",\"0\",\"1.25\"\n",
            "id , datetime ,type, value\n\n home-1 ,2020-01-01 00:00,0, 1.25 \n\n",
            "id;datetime;type;value\nhome-1;01/01/2020 00:00;0;1,25\n",
            "id|datetime|type|value\nhome-1|1577836800|0|125e-2\n",
            "id,datetime,type,value\nhome-1,2020-01-01 02:00+02:00,0,1.25\n",
        ])
    func dialects(_ text: String) throws {
        let readings = try read(text, try options())
        #expect(readings.map(\.value) == [ExactDecimal("1.25")])
        #expect(readings.map(\.time.seconds) == [1_577_836_800])
    }

    @Test("a named delimiter is taken as told")
    func delimiter() throws {
        let readings = try read(
            "home-1 2020-01-01 0 1".replacing(" ", with: "!"),
            try options {
                $0.delimiter = UInt8(ascii: "!")
                $0.form = .long
            })
        #expect(readings.count == 1)
    }

    @Test(
        "digits are kept as written",
        arguments: [
            ("0.48200000000000004", "0.48200000000000004"), ("0.0", "0.0"), ("10", "10"), ("-1.50", "-1.50"),
            ("+3.000", "3.000"), (".5", "0.5"), ("1e3", "1000"), ("1.5E-3", "0.0015"),
            ("9223372036854775807", "9223372036854775807"),
            ("0.000000000000000001", "0.000000000000000001"),
        ])
    func digits(_ text: String, _ kept: String) throws {
        let readings = try read("id,datetime,type,value\nhome-1,2020-01-01 00:00,0,\(text)\n", try options())
        #expect(readings.map(\.value?.description) == [kept])
    }

    @Test("an empty field is a missing reading")
    func missing() throws {
        let readings = try read("id,datetime,type,value\nhome-1,2020-01-01 00:00,0,\n", try options())
        #expect(readings.map(\.quality) == [.missing])
        #expect(readings.map(\.value) == [nil])
    }
}

@Suite("CSV: wide form") struct CSVWideFormTests {
    @Test(
        "the first line is taken with and without the blank, with a mark, and in ISO 8859-1",
        arguments: ["blank", "no blank", "mark", "latin-1"])
    func headers(_ kind: String) throws {
        var text = wideHeader + "\n" + wideLine("home-1", 0, "1;7;2011") { "0.\($0)" } + "\n"
        if kind == "no blank" { text = text.replacing("Mes ;", with: "Mes;") }
        if kind == "mark" { text = "\u{FEFF}" + text }
        let bytes =
            kind == "latin-1"
            ? text.unicodeScalars.map { UInt8(truncatingIfNeeded: $0.value) } : Array(text.utf8)
        let readings = try read(bytes, try options())
        #expect(readings.count == 96)
        #expect(readings.last?.time == Timestamp(seconds: 1_309_478_400 + 95 * 900))
        #expect(readings.last?.value?.description == "0.95")
        #expect(readings.allSatisfy { $0.interval == 900_000_000_000 && $0.unit == .kilowattHour })
    }

    @Test("days of consumption and production are merged")
    func merged() throws {
        let text = [
            wideHeader, wideLine("home-1", 0, "1;7;2011") { _ in "1" }, wideLine("home-1", 0, "2;7;2011") { _ in "2" },
            wideLine("other", 0, "1;7;2011") { _ in "9" }, wideLine("home-1", 1, "1;7;2011") { _ in "3" },
            wideLine("home-1", 1, "2;7;2011") { _ in "4" },
        ].joined(separator: "\n")
        let readings = try read(text, try options())
        #expect(readings.count == 4 * 96)
        #expect(readings.prefix(4).map(\.value?.description) == ["1", "3", "1", "3"])
        #expect(readings.suffix(2).map(\.value?.description) == ["2", "4"])
        #expect(zip(readings, readings.dropFirst()).allSatisfy { $0.time <= $1.time })
    }
}

@Suite("CSV: time series") struct CSVSeriesTests {
    @Test("columns are chosen by name, the first column is the time whatever its name")
    func series() throws {
        let readings = try read(
            ",GC,GG\n2011-07-01 00:00:00,0.392,0.0\n2011-07-01 00:30:00,0.578,0.1\n",
            try options {
                $0.columns = [try CSVColumn("GG=power_produced:kW"), try CSVColumn("GC=power_consumed:kW")]
                $0.interval = 1_800
                $0.timeZone = try LocalTimeZone("+10:00")
            })
        #expect(readings.map(\.value?.description) == ["0.0", "0.392", "0.1", "0.578"])
        #expect(readings.map(\.quantity) == [.powerProduced, .powerConsumed, .powerProduced, .powerConsumed])
        #expect(readings.first?.time == Timestamp(seconds: 1_309_478_400 - 36_000))
        #expect(readings.allSatisfy { $0.interval == 1_800_000_000_000 && $0.unit == .kilowatt })
    }

    @Test("registers have no interval, momentary values none unless told, energies always one")
    func intervals() throws {
        let readings = try read(
            "time,a,b,c\n2020-01-01,1,2,3\n",
            try options {
                $0.columns = [
                    try CSVColumn("a=consumption_total/t1:kWh"), try CSVColumn("b=voltage/l2:V"),
                    try CSVColumn("c=consumption:Wh"),
                ]
            })
        #expect(readings.map(\.interval) == [nil, nil, 900_000_000_000])
        #expect(readings.map(\.part.description) == ["t1", "l2", ""])
        #expect(readings.allSatisfy { $0.flaw == nil })
    }

    @Test(
        "a column that cannot be is refused with what would be right",
        arguments: [
            "GC", "GC=power_consumed", "GC=watts:kW", "GC=power_consumed:kWh", "GC=power_consumed/t1:kW",
            "GC=consumption/l4:kWh", "GC=consumption/:kWh",
        ])
    func badColumns(_ text: String) {
        #expect(throws: MeterSourceError(.options, "")) { try CSVColumn(text) }
    }

    @Test("a name may hold the signs of the syntax")
    func oddNames() throws {
        let column = try CSVColumn("a=b:c=consumption:kWh")
        #expect(column.name == "a=b:c")
        #expect(column.quantity == .consumption)
    }

    @Test("a column that is not there, or twice, is refused")
    func absent() throws {
        let chosen = try options { $0.columns = [try CSVColumn("GC=power:kW")] }
        #expect(throws: MeterSourceError(.header, "")) { try read("t,A\n2020-01-01,1\n", chosen) }
        #expect(throws: MeterSourceError(.header, "")) { try read("t,GC,GC\n2020-01-01,1,2\n", chosen) }
        #expect(throws: MeterSourceError(.options, "")) { try read("t,GC\n2020-01-01,1\n", try options()) }
    }
}

@Suite("CSV: local times") struct CSVTimeZoneTests {
    private func times(_ local: [String], _ zone: String) throws -> [Int64] {
        let lines = local.map { "home-1,\($0),0,1" }.joined(separator: "\n")
        return try read(
            "id,datetime,type,value\n" + lines, try options { $0.timeZone = try LocalTimeZone(zone) }
        ).map(\.time.seconds)
    }

    @Test(
        "local times become UTC",
        arguments: [
            ("Europe/Madrid", "2020-01-15 12:00", 1_579_086_000 as Int64),
            ("Europe/Madrid", "2020-07-15 12:00", 1_594_807_200),
            ("Europe/Madrid", "2020-03-29 01:59", 1_585_443_540),
            ("Europe/Madrid", "2020-03-29 03:00", 1_585_443_600),
            ("Europe/Madrid", "2020-10-25 01:59", 1_603_583_940),
            ("Europe/Madrid", "2020-10-25 03:00", 1_603_591_200),
            ("Australia/Sydney", "2011-07-01 00:00", 1_309_442_400),
            ("Australia/Sydney", "2011-10-02 03:00", 1_317_484_800),
            ("-03:30", "2020-01-01 00:00", 1_577_849_400), ("UTC", "2020-01-01 00:00", 1_577_836_800),
        ])
    func resolved(_ zone: String, _ local: String, _ seconds: Int64) throws {
        #expect(try self.times([local], zone) == [seconds])
    }

    @Test(
        "a local time that never was is an error with its line",
        arguments: [("Europe/Madrid", "2020-03-29 02:30"), ("Australia/Sydney", "2011-10-02 02:00")])
    func skipped(_ zone: String, _ local: String) throws {
        let error = #expect(throws: MeterSourceError(.timeSkipped, "")) {
            try self.times(["2010-01-01 00:00", local], zone)
        }
        #expect(error?.line == 3)
        #expect(error?.column == 2)
        #expect(error?.description.contains("file.csv, line 3, column 2: ") == true)
    }

    @Test(
        "a local time that was twice is an error with its line",
        arguments: [("Europe/Madrid", "2020-10-25 02:30"), ("Australia/Sydney", "2012-04-01 02:30")])
    func ambiguous(_ zone: String, _ local: String) throws {
        let error = #expect(throws: MeterSourceError(.timeAmbiguous, "")) { try self.times([local], zone) }
        #expect(error?.line == 2)
    }

    @Test("an offset in the text decides an ambiguous time")
    func decided() throws {
        #expect(
            try self.times(["2020-10-25 02:30+02:00", "2020-10-25 02:30+01:00"], "Europe/Madrid")
                == [1_603_585_800, 1_603_589_400])
    }

    @Test("an empty field at a time that never was is nothing")
    func emptyAtSkipped() throws {
        let text =
            wideHeader + "\n" + wideLine("home-1", 0, "29;3;2020") { (8..<12).contains($0) ? "" : "1" } + "\n"
        let readings = try read(text, try options { $0.timeZone = try LocalTimeZone("Europe/Madrid") })
        #expect(readings.count == 92)
        #expect(readings.allSatisfy { $0.quality == .good })
    }

    @Test("what is no zone is refused", arguments: ["Mars/Olympus", "CET!", "+25:00", "+2", ""])
    func noZone(_ text: String) {
        #expect(throws: MeterSourceError(.options, "")) { try LocalTimeZone(text) }
    }
}

@Suite("CSV: malformed") struct CSVMalformedTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let text: String
        let code: MeterSourceError.Code
        let line: Int?
        let column: Int?

        init(_ text: String, _ code: MeterSourceError.Code, _ line: Int?, _ column: Int? = nil) {
            self.text = text
            self.code = code
            self.line = line
            self.column = column
        }

        var testDescription: String { "\(self.code): \(self.text.prefix(60).debugDescription)" }
    }

    static let head = "id,datetime,type,value\n"

    @Test(
        "has one error that names line and column",
        arguments: [
            Case("", .header, 1), Case("\n\n", .header, 1), Case("one\n", .header, 1),
            Case(head + "home-1,2020-01-01,0\n", .fields, 2), Case(head + "home-1,2020-01-01,0,1,2\n", .fields, 2),
            Case(head + "home-1,yesterday,0,1\n", .time, 2, 2), Case(head + "home-1,2020-02-30,0,1\n", .time, 2, 2),
            Case(head + "home-1,2020-01-01 24:00,0,1\n", .time, 2, 2),
            Case(head + "home-1,2020-01-01 00:60,0,1\n", .time, 2, 2),
            Case(head + "home-1,1969-01-01,0,1\n", .time, 2, 2), Case(head + "home-1,1975-01-01,0,1\n", .time, 2, 2),
            Case(head + "home-1,2300-01-01,0,1\n", .time, 2, 2), Case(head + "home-1,,0,1\n", .time, 2, 2),
            Case(head + "home-1,2020-01-01 00:00 PM,0,1\n", .time, 2, 2),
            Case(head + "home-1,13/13/2020,0,1\n", .time, 2, 2),
            Case(head + "home-1,2020-01-01,2,1\n", .type, 2, 3), Case(head + "home-1,2020-01-01,,1\n", .type, 2, 3),
            Case(head + "home-1,2020-01-01,0,x\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,1.2.3\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,NaN\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,0x10\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,1e\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,1e9999\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,1e40\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,9223372036854775808\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,0.1234567890123456789\n", .value, 2, 4),
            Case(head + "home-1,2020-01-01,0,\"1,5\"\n", .value, 2, 4),
            Case(head + "home-1,2020-01-02,0,1\n\nhome-1,2020-01-01,0,1\n", .order, 4, 2),
            Case(head + "home-1,2020-01-01,0,1\nhome-1,2020-01-01,0,1\n", .order, 3, 2),
            Case(head + "home 1,2020-01-01,0,1\n", .identifier, 2, 1),
            Case(head + "all,2020-01-01,0,1\n", .identifier, 2, 1),
            Case(head + "home-1,2020-01-01,0,\"1\n", .quote, 2, 4),
            Case(head + "home-1,\"2020-01-01\"x,0,1\n", .quote, 2, 2),
            Case(head + "home-1,2020-01-01,0,1\u{0}\n", .encoding, 2, 4),
            Case(head + "home-1,2020-01-01,0,1\rhome-1\n", .encoding, 2, 4),
            // A quoted carriage return, and the file ends behind the next delimiter.
            Case(head + "home-1,2020-01-01,\"0\r\",", .type, 2, 3),
            Case(head + "home-1,2020-01-01,0," + String(repeating: "1", count: 70_000), .tooLong, 2),
            Case(head + "home-1" + String(repeating: ",", count: 2_000) + "\n", .tooLong, 2),
            Case(wideHeader.replacing(";95", with: "") + "\n", .header, 1),
            Case(wideHeader.replacing(";17;", with: ";x;") + "\n", .header, 1, 23),
            Case(wideHeader.replacing("Mes", with: "Month") + "\n", .header, 1, 4),
            Case(wideHeader + "\n" + wideLine("home-1", 0, "31;2;2011") { _ in "1" }, .time, 2, 3),
            Case(wideHeader + "\n" + wideLine("home-1", 0, "1;7;11") { _ in "1" }, .time, 2, 3),
            Case(wideHeader + "\n" + wideLine("home-1", 3, "1;7;2011") { _ in "1" }, .type, 2, 2),
            Case(wideHeader + "\n" + wideLine("home-1", 0, "1;7;2011") { $0 == 50 ? "?" : "1" }, .value, 2, 56),
            Case(
                wideHeader + "\n" + wideLine("home-1", 0, "2;7;2011") { _ in "1" } + "\n"
                    + wideLine("home-1", 0, "2;7;2011") { _ in "1" }, .order, 3, 6),
        ])
    func malformed(_ example: Case) throws {
        let error = #expect(throws: MeterSourceError.self) { try read(example.text, try options()) }
        #expect(error?.code == example.code)
        #expect(error?.line == example.line)
        #expect(error?.column == example.column)
        #expect(error?.file == "file.csv")
        #expect(error?.reason.contains("\n") == false)
    }

    @Test("a file that is but a quoted carriage return and a delimiter has an error too")
    func quotedCarriageReturn() throws {
        #expect(throws: MeterSourceError.self) { try read("\"a\r\",", try options()) }
    }

    @Test("UTF-16 is named as such", arguments: [[0xFF, 0xFE, 0x69, 0], [0xFE, 0xFF, 0, 0x69]] as [[UInt8]])
    func utf16(_ bytes: [UInt8]) throws {
        let error = #expect(throws: MeterSourceError(.encoding, "")) { try read(bytes, try options()) }
        #expect(error?.reason.contains("UTF-16") == true)
    }

    @Test("a file that is not there is named")
    func absent() throws {
        let error = #expect(throws: MeterSourceError(.io, "")) {
            try CSVFile(path: "/nonexistent/file.csv", options: try options())
        }
        #expect(error?.description.hasPrefix("/nonexistent/file.csv") == true)
    }
}

@Suite("CSV: going on where it ended") struct CSVPositionTests {
    static let text =
        wideHeader + "\n" + wideLine("home-1", 0, "1;7;2011") { "\($0)" } + "\n"
        + wideLine("home-1", 1, "1;7;2011") { "0.\($0)" }

    private func source(_ text: String) throws -> CSVMeterSource {
        try CSVFile(bytes: Array(text.utf8), name: "f", options: try options()).source(for: try Identifier("home-1"))
    }

    @Test("after any number of batches a new source gives the rest", arguments: [0, 1, 50, 95, 96])
    func resumes(_ count: Int) throws {
        var first = try self.source(Self.text)
        var position: SourcePosition?
        var given: [Reading] = []
        for _ in 0..<count {
            let batch = try #require(try first.next())
            given += batch.readings
            position = batch.position
        }
        var second = try self.source(Self.text)
        if let position { try second.resume(at: position) }
        let rest = try readAll(second)
        #expect(given + rest == (try readAll(try self.source(Self.text))))
    }

    @Test("a file that has grown goes on")
    func grown() throws {
        var source = try self.source(Self.text)
        var position: SourcePosition?
        while let batch = try source.next() { position = batch.position }
        var longer = try self.source(Self.text + "\n" + wideLine("home-1", 0, "2;7;2011") { _ in "7" })
        try longer.resume(at: try #require(position))
        #expect(try readAll(longer).count == 96)
    }

    @Test("a file that has changed, or another kind of position, is refused")
    func changed() throws {
        var source = try self.source(Self.text)
        let position = try #require(try source.next()).position
        var other = try self.source(
            Self.text.replacing(";0;1;2;", with: ";5;1;2;").replacing(
                wideHeader.replacing(";0;1;2;", with: ";5;1;2;"), with: wideHeader))
        #expect(throws: MeterSourceError(.changed, "")) { try other.resume(at: position) }
        #expect(throws: MeterSourceError(.changed, "")) { try source.resume(at: SourcePosition(bytes: [2, 3])) }
        var home = SimulatedHome(
            .init(seed: 1, meter: try MeterName("m"), start: Timestamp(seconds: 1_600_000_000)))
        #expect(throws: MeterSourceError(.changed, "")) { try home.resume(at: position) }
    }
}
