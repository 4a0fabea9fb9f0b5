import COSE
import Identity

/// The payload of statements: a SenML pack in CBOR (RFC 8428 section 6, RFC 9100), narrowed to one way of
/// saying things.
///
/// A pack is an array of 1 ... 1,024 maps. The first has `bver` (-1) 26, `bn` (-2) `<ID>/<meter>/` and
/// `bt` (-3), Unix seconds from 2^28 on. A later one has none of them but `bn`, and that if and only if its
/// meter is another than that of the record before. Every record has `n` (0) `<quantity>[/<part>]` and
/// `u` (1); `v` (2) unless the value is missing; `t` (6) if it is not 0; `"q"` and `"interval"` where needed.
/// Records come in the order of time. Any other label is refused.
enum SenML {
    static let version: Int64 = 26

    /// 2^28 s: SenML takes smaller times for relative ones (RFC 8428 section 4.5.3).
    static let earliest: Int64 = (1 << 28) * 1_000_000_000

    /// 2^33 s.
    static let latest: Int64 = Timestamp.wireSecondsLimit * 1_000_000_000

    /// Encodes one pack.
    ///
    /// - Throws: ``Refusal`` `format` for readings that break the rules, or their order.
    static func encode(_ readings: some Collection<Reading>, of auditor: Identifier) throws(Refusal) -> [UInt8] {
        guard (1...Payload.maximumReadings).contains(readings.count), let first = readings.first else {
            throw Refusal(.format, "a statement holds 1 to \(Payload.maximumReadings) readings, not \(readings.count)")
        }
        if let flaw = first.flaw { throw Refusal(.format, flaw) }
        let base = first.time.seconds
        var writer = CBORWriter(capacity: readings.count * 48 + 96)
        writer.array(readings.count)
        var last = first
        var isFirst = true
        for reading in readings {
            if let flaw = reading.flaw { throw Refusal(.format, flaw) }
            guard reading.time >= last.time else { throw Refusal(.format, "readings out of the order of time") }
            let t = reading.time.nanoseconds - base * 1_000_000_000
            let namesMeter = isFirst || reading.meter != last.meter
            writer.map(
                2 + (reading.value == nil ? 0 : 1) + (t == 0 ? 0 : 1) + (isFirst ? 2 : 0) + (namesMeter ? 1 : 0)
                    + (reading.quality == .good ? 0 : 1) + (reading.interval == nil ? 0 : 1))
            writer.unsigned(0)
            writer.text(
                reading.part == .whole ? reading.quantity.description : "\(reading.quantity)/\(reading.part)")
            writer.unsigned(1)
            writer.text(reading.unit.description)
            if let value = reading.value {
                writer.unsigned(2)
                writer.decimal(value)
            }
            if t != 0 {
                writer.unsigned(6)
                writer.seconds(nanoseconds: t)
            }
            if isFirst {
                writer.integer(-1)
                writer.integer(Self.version)
            }
            if namesMeter {
                writer.integer(-2)
                writer.text("\(auditor)/\(reading.meter)/")
            }
            if isFirst {
                writer.integer(-3)
                writer.integer(base)
            }
            if reading.quality != .good {
                writer.text("q")
                writer.text(reading.quality.description)
            }
            if let interval = reading.interval {
                writer.text("interval")
                writer.seconds(nanoseconds: interval)
            }
            last = reading
            isFirst = false
        }
        return writer.bytes
    }
}

/// Reads a pack record by record, checking every rule on the way.
struct SenMLParser: Sendable {
    /// Records not yet read.
    private(set) var remaining: Int

    private var reader: CBORReader
    /// Whose readings they must be, in the same bytes; nil to take those of anyone.
    private let owner: Range<Int>?
    private var isFirst = true
    private var meter = MeterName(checked: "")
    private var meterRange = 0..<0
    private var base: Int64 = 0
    private var lastTime = Int64.min

    /// Begins to read the pack in `range`.
    init(_ bytes: [UInt8], in range: Range<Int>, owner: Range<Int>?) throws(COSEError) {
        self.reader = CBORReader(bytes, in: range)
        self.owner = owner
        self.remaining = try self.reader.listCount(upTo: Payload.maximumReadings, "a statement")
    }

    /// The next record; nil behind the last one.
    ///
    /// - Throws: ``COSEError`` for whatever breaks a rule, bytes behind the last record included.
    mutating func next() throws(COSEError) -> Reading? {
        guard self.remaining > 0 else {
            try self.reader.finish()
            return nil
        }
        self.remaining -= 1
        let start = self.reader.position
        var keys = CBORReader.MapKeys()
        var name: (quantity: Quantity, part: Part)?
        var unit: Unit?
        var value: ExactDecimal?
        var t: Int64 = 0
        var version: Int64?
        var baseTime: Int64?
        var namesMeter = false
        var quality = Quality.good
        var interval: Int64?
        for _ in 0..<(try self.reader.mapCount()) {
            let keyStart = self.reader.position
            let label = try self.label()
            try keys.next(keyStart..<self.reader.position, in: self.reader)
            switch label {
            case .n:
                name = try self.takeName()
            case .u:
                unit = try self.takeUnit()
            case .v:
                value = try self.reader.decimal()
            case .t:
                t = try self.reader.nanoseconds(below: SenML.latest)
            case .bver:
                version = try self.reader.integer()
            case .bn:
                try self.takeBaseName()
                namesMeter = true
            case .bt:
                baseTime = try self.reader.number(
                    in: (1 << 28)...(Timestamp.wireSecondsLimit - 1), "the base time")
            case .q:
                quality = try self.takeQuality()
            case .interval:
                interval = try self.reader.nanoseconds(below: Reading.maximumInterval + 1)
            }
        }
        if self.isFirst {
            guard version == SenML.version, namesMeter, let baseTime else {
                throw COSEError(.unexpected, "the first record needs bver 26, bn and bt", at: start)
            }
            self.base = baseTime * 1_000_000_000
            self.isFirst = false
        } else if version != nil || baseTime != nil {
            throw COSEError(.unexpected, "bver and bt belong into the first record only", at: start)
        }
        guard let name, let unit else { throw COSEError(.unexpected, "a record without n or u", at: start) }
        // base < 2^33 s and |t| < 2^33 s, so below 1.8 × 10^19 ns: may pass Int64.
        let (time, overflow) = self.base.addingReportingOverflow(t)
        guard !overflow else { throw COSEError(.unexpected, "a time out of range", at: start) }
        guard time >= self.lastTime else {
            throw COSEError(.unexpected, "records out of the order of time", at: start)
        }
        self.lastTime = time
        let reading = Reading(
            meter: self.meter, quantity: name.quantity, part: name.part, unit: unit,
            time: Timestamp(nanoseconds: time), interval: interval, value: value, quality: quality)
        if let flaw = reading.flaw { throw COSEError(.unexpected, flaw, at: start) }
        return reading
    }

    private enum Label { case n, u, v, t, bver, bn, bt, q, interval }

    private mutating func label() throws(COSEError) -> Label {
        let start = self.reader.position
        if self.reader.nextMajorType == 3 {
            let text = try self.reader.text()
            if text.count == 1, self.reader.bytes[text.lowerBound] == UInt8(ascii: "q") { return .q }
            if areEqual(self.reader.bytes, text, Self.intervalLabel) { return .interval }
        } else {
            switch try self.reader.integer() {
            case 0: return .n
            case 1: return .u
            case 2: return .v
            case 6: return .t
            case -1: return .bver
            case -2: return .bn
            case -3: return .bt
            default: break
            }
        }
        throw COSEError(.unexpected, "a label that statements do not use", at: start)
    }

    private static let intervalLabel = Array("interval".utf8)

    private mutating func takeName() throws(COSEError) -> (Quantity, Part) {
        let text = try self.reader.text()
        let bytes = self.reader.bytes
        var end = text.upperBound
        for index in text where bytes[index] == UInt8(ascii: "/") {
            end = index
            break
        }
        // A slash must be followed by a part.
        let hasPart = end < text.upperBound
        let suffix = hasPart ? (end + 1)..<text.upperBound : end..<end
        for (index, known) in Quantity.wireNames.enumerated()
        where areEqual(bytes, text.lowerBound..<end, known) {
            guard let quantity = Quantity(rawValue: UInt8(index + 1)), let part = Part(ascii: bytes[suffix]),
                hasPart == (part != .whole)
            else { break }
            return (quantity, part)
        }
        throw COSEError(.unexpected, "an unknown quantity or part", at: text.lowerBound)
    }

    private mutating func takeUnit() throws(COSEError) -> Unit {
        let text = try self.reader.text()
        for (index, known) in Unit.wireNames.enumerated() where areEqual(self.reader.bytes, text, known) {
            if let unit = Unit(rawValue: UInt8(index + 1)) { return unit }
        }
        throw COSEError(.unexpected, "an unknown unit", at: text.lowerBound)
    }

    private mutating func takeQuality() throws(COSEError) -> Quality {
        let text = try self.reader.text()
        guard text.count == 1, let quality = Quality(rawValue: self.reader.bytes[text.lowerBound]), quality != .good
        else {
            throw COSEError(.unexpected, "a quality must be e, r, m or x", at: text.lowerBound)
        }
        return quality
    }

    private mutating func takeBaseName() throws(COSEError) {
        let text = try self.reader.text()
        let bytes = self.reader.bytes
        var slash = text.lowerBound
        while slash < text.upperBound, bytes[slash] != UInt8(ascii: "/") { slash += 1 }
        guard slash + 1 < text.upperBound, bytes[text.upperBound - 1] == UInt8(ascii: "/") else {
            throw COSEError(.unexpected, "bn must be <ID>/<meter>/", at: text.lowerBound)
        }
        let id = text.lowerBound..<slash
        if let owner = self.owner {
            guard areEqual(bytes, id, owner) else {
                throw COSEError(.unexpected, "bn names another auditor than the issuer", at: text.lowerBound)
            }
        } else if !Name.isWellFormed(bytes, in: id, maximumLength: Identifier.maximumLength) {
            throw COSEError(.unexpected, "bn must be <ID>/<meter>/", at: text.lowerBound)
        }
        let meter = (slash + 1)..<(text.upperBound - 1)
        guard Name.isWellFormed(bytes, in: meter, maximumLength: MeterName.maximumLength) else {
            throw COSEError(.unexpected, "bn must be <ID>/<meter>/", at: text.lowerBound)
        }
        guard self.isFirst || !areEqual(bytes, meter, self.meterRange) else {
            throw COSEError(.unexpected, "bn again for the same meter", at: text.lowerBound)
        }
        self.meterRange = meter
        self.meter = MeterName(checked: String(decoding: bytes[meter], as: UTF8.self))
    }
}

/// The readings of a verified form, one by one, without an array of them.
///
/// Everything was checked when the envelope was decoded; going through it cannot fail.
public struct Readings: Sequence, Sendable {
    /// How many there are.
    public let count: Int

    private let parser: SenMLParser?

    init(_ parser: SenMLParser?) {
        self.parser = parser
        self.count = parser?.remaining ?? 0
    }

    public var underestimatedCount: Int { self.count }

    public func makeIterator() -> Iterator { Iterator(parser: self.parser) }

    public struct Iterator: IteratorProtocol, Sendable {
        fileprivate var parser: SenMLParser?

        public mutating func next() -> Reading? {
            // The same parser has read the same bytes to their end before.
            (try? self.parser?.next()) ?? nil
        }
    }
}
