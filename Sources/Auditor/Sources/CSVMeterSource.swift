import Identity
import Telemetry

/// The readings of one auditor in a ``CSVFile``, in order of time.
///
/// Lines of consumption and lines of production may be mixed or one behind the other: each of the two has a
/// cursor of its own that must find its lines in order of time, and the two are merged. So the file is read as a
/// stream, whatever its length. The position is the number of readings given and a checksum of them: a source
/// that resumes reads from the beginning, and notices if what it had read has changed since.
public struct CSVMeterSource: MeterSource {
    private let file: CSVFile
    private let identifier: Identifier
    private var cursors: [CSVCursor]
    private var heads: [CSVSample?]
    private var given: UInt64 = 0
    private var checksum = Checksum()
    /// Found while looking ahead; told when everything before it has been given.
    private var failure: MeterSourceError?

    init(file: CSVFile, identifier: Identifier) throws(MeterSourceError) {
        self.file = file
        self.identifier = identifier
        self.cursors = []
        self.heads = []
        try self.rewind()
    }

    private mutating func rewind() throws(MeterSourceError) {
        self.cursors = []
        self.heads = []
        self.given = 0
        self.checksum = Checksum()
        self.failure = nil
        for type: UInt8 in self.file.form == .series ? [0] : [0, 1] {
            var cursor = CSVCursor(
                reader: try self.file.reader(), file: self.file, identifier: self.identifier, type: type)
            self.heads.append(try cursor.next())
            self.cursors.append(cursor)
        }
    }

    public mutating func resume(at position: SourcePosition) throws(MeterSourceError) {
        var coder = PositionCoder(bytes: position.bytes)
        guard coder.read(UInt8.self) == 1, let count: UInt64 = coder.read(), let checksum: UInt64 = coder.read(),
            coder.bytes.isEmpty
        else {
            throw MeterSourceError(
                .changed, file: self.file.name,
                "the state directory belongs to another kind of source; give this source a state directory of its own")
        }
        try self.rewind()
        while self.given < count, try self.next() != nil {}
        guard self.given == count, self.checksum.value == checksum else {
            throw MeterSourceError(
                .changed, file: self.file.name,
                "is not the file that was being read: its first \(count) readings differ; give it a state directory of its own"
            )
        }
    }

    public mutating func next() throws(MeterSourceError) -> SourceBatch? {
        if let failure { throw failure }
        guard let time = self.heads.compactMap({ $0?.time }).min() else { return nil }
        var readings: [Reading] = []
        var available = time
        for index in self.cursors.indices {
            guard let sample = self.heads[index], sample.time == time else { continue }
            readings.append(contentsOf: sample.readings)
            available = max(available, sample.available)
            self.heads[index] = nil
            do throws(MeterSourceError) {
                self.heads[index] = try self.cursors[index].next()
            } catch {
                self.failure = self.failure ?? error
            }
        }
        for reading in readings { self.checksum.add(reading) }
        self.given += UInt64(readings.count)
        var coder = PositionCoder()
        coder.write(UInt8(1))
        coder.write(self.given)
        coder.write(self.checksum.value)
        return SourceBatch(readings: readings, available: available, position: SourcePosition(bytes: coder.bytes))
    }
}

/// FNV-1a over times and values: not against an adversary, only against the wrong file.
private struct Checksum {
    private(set) var value: UInt64 = 0xCBF2_9CE4_8422_2325

    mutating func add(_ reading: Reading) {
        self.add(UInt64(bitPattern: reading.time.nanoseconds))
        self.add(UInt64(bitPattern: reading.value?.mantissa ?? .min))
        self.add(UInt64(bitPattern: Int64(reading.value?.exponent ?? 1)))
    }

    private mutating func add(_ word: UInt64) {
        for shift in stride(from: UInt64(0), to: 64, by: 8) {
            self.value = (self.value ^ (word >> shift & 0xFF)) &* 0x100_0000_01B3
        }
    }
}

/// What one line, or one field of a wide line, says.
struct CSVSample: Sendable {
    var time: Timestamp
    var available: Timestamp
    var readings: [Reading]
}

/// One way through a file: the lines of one identifier and type, which must be in order of time.
struct CSVCursor: Sendable {
    private var reader: CSVRecordReader
    private let file: CSVFile
    private let identifier: [UInt8]
    private let type: UInt8
    private let allowsComma: Bool
    private var resolver: LocalTimeResolver
    private var last: Timestamp?
    /// Samples of a wide line that are not given yet, the next one last.
    private var waiting: [CSVSample] = []

    /// Times that SenML takes for absolute begin at 2^28 seconds (RFC 8428 section 4.5.3).
    private static let expressible: Range<Int64> = 1 << 28..<Timestamp.wireSecondsLimit

    init(reader: CSVRecordReader, file: CSVFile, identifier: Identifier, type: UInt8) {
        self.reader = reader
        self.file = file
        self.identifier = Array(identifier.rawValue.utf8)
        self.type = type
        self.allowsComma = file.delimiter != UInt8(ascii: ",")
        self.resolver = LocalTimeResolver(file.options.timeZone)
    }

    mutating func next() throws(MeterSourceError) -> CSVSample? {
        while self.waiting.isEmpty {
            guard try self.reader.next() else { return nil }
            guard self.reader.fieldCount == self.file.fieldCount else {
                throw self.reader.error(
                    .fields, "\(self.reader.fieldCount) fields instead of \(self.file.fieldCount)")
            }
            switch self.file.form {
            case .series:
                let time = try self.time(0, self.local(0), isMissing: false)
                guard let time else { continue }
                try self.give(time, field: 0, readings: self.seriesReadings(time))
            case .long:
                guard try self.isMine(typeField: 2) else { continue }
                let value = try self.value(3)
                guard let time = try self.time(1, self.local(1), isMissing: value == nil) else { continue }
                try self.give(time, field: 1, readings: [self.energy(time, value)])
            case .wide:
                guard try self.isMine(typeField: 1) else { continue }
                try self.readDay()
            }
        }
        return self.waiting.removeLast()
    }

    private mutating func give(_ time: Timestamp, field: Int, readings: [Reading]) throws(MeterSourceError) {
        if let last, time <= last {
            throw self.reader.error(
                .order, field: field,
                time == last
                    ? "this time was in the file before"
                    : "this time is earlier than one before it; sort the file by time")
        }
        self.last = time
        let interval = readings.compactMap(\.interval).max() ?? 0
        self.waiting.insert(
            CSVSample(
                time: time, available: Timestamp(nanoseconds: time.nanoseconds + interval), readings: readings),
            at: 0)
    }

    /// Whether the current line is of this cursor's identifier and type.
    private func isMine(typeField: Int) throws(MeterSourceError) -> Bool {
        guard self.reader.field(0).elementsEqual(self.identifier) else { return false }
        let type = self.reader.field(typeField)
        switch type.first {
        case UInt8(ascii: "0") where type.count == 1: return self.type == 0
        case UInt8(ascii: "1") where type.count == 1: return self.type == 1
        default:
            throw self.reader.error(
                .type, field: typeField, "\(shown(type)) is not a type: 0 is consumption, 1 is production")
        }
    }

    // MARK: Times

    private func local(_ field: Int) throws(MeterSourceError) -> LocalTime {
        guard let local = LocalTime(self.reader.field(field)) else {
            throw self.reader.error(
                .time, field: field,
                "\(shown(self.reader.field(field))) is not a time; write 2011-07-01 00:30:00, or 01/07/2011 00:30")
        }
        return local
    }

    /// - Parameter isMissing: There is no value; then a time that never was is no error but nothing.
    private mutating func time(
        _ field: Int, _ local: LocalTime, isMissing: Bool
    ) throws(MeterSourceError) -> Timestamp? {
        switch self.resolver.resolve(local) {
        case .one(let seconds):
            guard Self.expressible.contains(seconds) else {
                throw self.reader.error(
                    .time, field: field, "before July 1978 or after 2242, which cannot be expressed")
            }
            return Timestamp(nanoseconds: seconds * 1_000_000_000 + local.nanoseconds)
        case .skipped:
            guard !isMissing else { return nil }
            throw self.reader.error(
                .timeSkipped, field: field,
                "this local time never was in \(self.file.options.timeZone): clocks were put forward over it; is the time zone right? Files without changes of clock want an offset such as +10:00"
            )
        case .ambiguous:
            throw self.reader.error(
                .timeAmbiguous, field: field,
                "this local time was twice in \(self.file.options.timeZone): clocks were put back; write the offset behind the time, or give an offset such as +10:00 as the time zone"
            )
        }
    }

    // MARK: Values

    /// - Returns: `nil` if the field is empty.
    private func value(_ field: Int) throws(MeterSourceError) -> ExactDecimal? {
        let text = self.reader.field(field)
        guard !text.isEmpty else { return nil }
        let decimal: DecimalText
        do throws(DecimalText.Failure) {
            decimal = try DecimalText(text, allowsComma: self.allowsComma)
        } catch {
            throw self.reader.error(
                .value, field: field,
                error == .malformed
                    ? "\(shown(text)) is not a decimal number; leave missing values empty"
                    : "\(shown(text)) has too many digits: at most 18, and 18 behind the point")
        }
        return ExactDecimal(mantissa: decimal.mantissa, exponent: decimal.exponent)
    }

    // MARK: Lines

    private func energy(_ time: Timestamp, _ value: ExactDecimal?) -> Reading {
        Reading(
            meter: self.file.options.meter, quantity: self.type == 0 ? .consumption : .production, unit: .kilowattHour,
            time: time, interval: Int64(self.interval) * 1_000_000_000, value: value,
            quality: value == nil ? .missing : .good)
    }

    /// Wide lines have quarters of an hour.
    private var interval: Int { self.file.form == .wide ? 900 : self.file.options.energyInterval }

    private func seriesReadings(_ time: Timestamp) throws(MeterSourceError) -> [Reading] {
        var readings: [Reading] = []
        readings.reserveCapacity(self.file.columns.count)
        for (field, column) in self.file.columns {
            let interval: Int? =
                switch column.quantity.kind {
                case .energy: self.file.options.energyInterval
                case .momentary: self.file.options.interval
                case .register: nil
                }
            let value = try self.value(field)
            readings.append(
                Reading(
                    meter: self.file.options.meter, quantity: column.quantity, part: column.part, unit: column.unit,
                    time: time, interval: interval.map { Int64($0) * 1_000_000_000 }, value: value,
                    quality: value == nil ? .missing : .good))
        }
        return readings
    }

    private mutating func readDay() throws(MeterSourceError) {
        guard let day = self.number(2), let month = self.number(3), let year = self.number(4),
            let date = LocalTime.days(year: year, month: month, day: day)
        else {
            throw self.reader.error(
                .time, field: 2,
                "\(shown(self.reader.field(2))), \(shown(self.reader.field(3))), \(shown(self.reader.field(4))) are not a day, month and year"
            )
        }
        for quarter in 0..<96 {
            let value = try self.value(5 + quarter)
            let local = LocalTime(seconds: date * 86_400 + Int64(quarter) * 900)
            guard let time = try self.time(5 + quarter, local, isMissing: value == nil) else { continue }
            try self.give(time, field: 5 + quarter, readings: [self.energy(time, value)])
        }
    }

    private func number(_ field: Int) -> Int? {
        let text = self.reader.field(field)
        guard (1...4).contains(text.count), text.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return text.reduce(0) { $0 * 10 + Int($1 - 0x30) }
    }
}
