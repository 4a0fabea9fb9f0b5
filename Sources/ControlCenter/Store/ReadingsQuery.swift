import Foundation
import GRDB
public import Telemetry

/// Which stored readings are asked for. What is absent does not restrict.
public struct ReadingsQuery: Hashable, Sendable {
    /// An auditor's ID.
    public var auditor: String?
    public var meter: String?
    /// As on the wire, line or tariff included: `voltage/l1`.
    public var quantity: String?
    /// From this time on.
    public var from: Timestamp?
    /// Before this time.
    public var to: Timestamp?

    public init(
        auditor: String? = nil, meter: String? = nil, quantity: String? = nil, from: Timestamp? = nil,
        to: Timestamp? = nil
    ) {
        self.auditor = auditor
        self.meter = meter
        self.quantity = quantity
        self.from = from
        self.to = to
    }
}

/// A stored reading, as in the view `readings`.
public struct StoredReading: Hashable, Sendable {
    /// The auditor's ID.
    public var auditor: String
    public var meter: String
    /// As on the wire, line or tariff included: `voltage/l1`.
    public var quantity: String
    public var unit: String
    /// With an interval: its start.
    public var time: Timestamp
    /// Nanoseconds.
    public var interval: Int64?
    /// Absent if the reading is missing.
    public var value: ExactDecimal?
    /// `good`, `estimated`, `reset`, `missing`, `implausible`.
    public var quality: String
    public var stream: StreamID
    public var sequence: Int64
    public var statement: MessageID
    /// A fork of its stream is open, at or before it.
    public var isDisputed: Bool
}

extension StoredReading {
    init(_ row: Row) throws {
        func damaged() -> ControlCenterError {
            ControlCenterError(.storeDamaged, "a reading contradicts itself: restore a copy")
        }
        self.auditor = row["auditor"]
        self.meter = row["meter"]
        self.quantity = row["quantity"]
        self.unit = row["unit"]
        self.time = Timestamp(nanoseconds: row["time"])
        let interval: Int64 = row["interval"]
        self.interval = interval == 0 ? nil : interval
        if let mantissa: Int64 = row["mantissa"] {
            guard let value = ExactDecimal(mantissa: mantissa, exponent: row["exponent"]) else { throw damaged() }
            self.value = value
        } else {
            self.value = nil
        }
        self.quality = row["quality"]
        let stream: Data = row["stream"]
        let statement: Data = row["statement"]
        guard let stream = StreamID(stream), let statement = MessageID(statement) else { throw damaged() }
        self.stream = stream
        self.sequence = row["sequence"]
        self.statement = statement
        self.isDisputed = row["disputed"]
    }
}

/// The sum of one quantity over intervals, with every digit. Registers and momentary values have no sum.
public struct ReadingsSum: Hashable, Sendable {
    public var auditor: String
    public var meter: String
    public var quantity: String
    public var unit: String
    /// Readings with a value.
    public var count: Int64
    /// The exact sum as decimal text.
    public var sum: String
    /// Of these, the readings that are not of quality `good`: estimated, reset, implausible.
    public var notGood: Int64
    /// Of these, the readings that are disputed.
    public var disputed: Int64
}

extension ControlCenterStore {
    /// Calls `body` with each reading asked for, one at a time, ordered by auditor, meter, quantity, unit and
    /// time. All of one call is one snapshot: what is stored meanwhile does not show.
    ///
    /// - Throws: ``ControlCenterError`` with code `store-failed` or `store-damaged`, and what `body` throws.
    public func forEachReading(_ query: ReadingsQuery, _ body: (StoredReading) throws -> Void) throws {
        try Self.forEachReading(self.pool, query, body)
    }

    /// The exact sum and count of each series of intervals asked for.
    public func sums(_ query: ReadingsQuery) throws -> [ReadingsSum] {
        try Self.sums(self.pool, query)
    }

    static func forEachReading(
        _ reader: some DatabaseReader, _ query: ReadingsQuery, _ body: (StoredReading) throws -> Void
    ) throws {
        try reader.read { db in
            let (condition, arguments) = query.condition
            let rows = try Row.fetchCursor(
                db,
                sql: """
                    SELECT auditor.id AS auditor, series.meter AS meter, series.quantity AS quantity,
                        series.unit AS unit, reading.time AS time, reading.interval AS interval,
                        reading.mantissa AS mantissa, reading.exponent AS exponent, quality.name AS quality,
                        stream.id AS stream, statement.sequence AS sequence, statement.id AS statement,
                        \(Schema.isDisputed) AS disputed
                    FROM auditor
                    CROSS JOIN series ON series.auditor = auditor.number
                    CROSS JOIN reading ON reading.series = series.number
                    JOIN statement ON statement.leaf_index = reading.leaf_index
                    JOIN stream ON stream.number = statement.stream
                    JOIN quality ON quality.number = reading.quality
                    \(condition)
                    ORDER BY auditor.id, series.meter, series.quantity, series.unit, series.number, reading.time,
                        reading.leaf_index, reading.position
                    """, arguments: arguments)
            while let row = try rows.next() { try body(StoredReading(row)) }
        }
    }

    static func sums(_ reader: some DatabaseReader, _ query: ReadingsQuery) throws -> [ReadingsSum] {
        try reader.read { db in
            let (condition, arguments) = query.condition
            let rows = try Row.fetchCursor(
                db,
                sql: """
                    SELECT series.number AS number, auditor.id AS auditor, series.meter AS meter,
                        series.quantity AS quantity, series.unit AS unit, reading.mantissa AS mantissa,
                        reading.exponent AS exponent, quality.name <> 'good' AS not_good,
                        \(Schema.isDisputed) AS disputed
                    FROM auditor
                    CROSS JOIN series ON series.auditor = auditor.number
                    CROSS JOIN reading ON reading.series = series.number AND reading.interval > 0
                    JOIN statement ON statement.leaf_index = reading.leaf_index
                    JOIN stream ON stream.number = statement.stream
                    JOIN quality ON quality.number = reading.quality
                    \(condition)
                    ORDER BY auditor.id, series.meter, series.quantity, series.unit, series.number
                    """, arguments: arguments)
            var sums: [ReadingsSum] = []
            var number: Int64?
            var total = DecimalSum()
            while let row = try rows.next() {
                let series: Int64 = row["number"]
                if series != number {
                    if !sums.isEmpty { sums[sums.count - 1].sum = total.description }
                    number = series
                    total = DecimalSum()
                    sums.append(
                        ReadingsSum(
                            auditor: row["auditor"], meter: row["meter"], quantity: row["quantity"],
                            unit: row["unit"], count: 0, sum: "", notGood: 0, disputed: 0))
                }
                if let mantissa: Int64 = row["mantissa"],
                    let value = ExactDecimal(mantissa: mantissa, exponent: row["exponent"])
                {
                    total.add(value)
                    sums[sums.count - 1].count += 1
                    if row["not_good"] { sums[sums.count - 1].notGood += 1 }
                    if row["disputed"] { sums[sums.count - 1].disputed += 1 }
                }
            }
            if !sums.isEmpty { sums[sums.count - 1].sum = total.description }
            return sums
        }
    }
}

extension ReadingsQuery {
    fileprivate var condition: (sql: String, arguments: StatementArguments) {
        var terms: [String] = []
        var arguments: StatementArguments = []
        func add(_ term: String, _ value: (some DatabaseValueConvertible)?) {
            guard let value else { return }
            terms.append(term)
            arguments += [value]
        }
        add("auditor.id = ?", self.auditor)
        add("series.meter = ?", self.meter)
        add("series.quantity = ?", self.quantity)
        add("reading.time >= ?", self.from?.nanoseconds)
        add("reading.time < ?", self.to?.nanoseconds)
        return (terms.isEmpty ? "" : "WHERE " + terms.joined(separator: " AND "), arguments)
    }
}

/// The sum of decimals without rounding: 10^-18 as unit, in 128 bits.
///
/// A mantissa is below 2^63 and scaled by at most 10^18 < 2^60, so a term takes up to 123 bits: terms that
/// large overflow after 16 of them, and then the sum is told as such.
public struct DecimalSum: Hashable, Sendable, CustomStringConvertible {
    private var total: Int128 = 0
    private var behind: Int = 0
    private var isOverflown = false

    public init() {}

    /// Adds one value.
    public mutating func add(_ value: ExactDecimal) {
        let behind = -Int(value.exponent)
        if behind > self.behind { self.rescale(to: behind) }
        let (term, large) = Int128(value.mantissa).multipliedReportingOverflow(by: Self.power(self.behind - behind))
        let (sum, overflow) = self.total.addingReportingOverflow(term)
        self.isOverflown = self.isOverflown || large || overflow
        self.total = sum
    }

    private mutating func rescale(to behind: Int) {
        let (scaled, overflow) = self.total.multipliedReportingOverflow(by: Self.power(behind - self.behind))
        self.isOverflown = self.isOverflown || overflow
        self.total = scaled
        self.behind = behind
    }

    private static func power(_ exponent: Int) -> Int128 {
        var power: Int128 = 1
        for _ in 0..<exponent { power *= 10 }
        return power
    }

    /// With as many digits behind the point as the finest of the terms had; `overflow` if it is out of range.
    public var description: String {
        if self.isOverflown { return "overflow" }
        let digits = String(self.total.magnitude)
        let sign = self.total < 0 ? "-" : ""
        guard self.behind > 0 else { return sign + digits }
        let padded = String(repeating: "0", count: max(0, self.behind + 1 - digits.count)) + digits
        return sign + padded.dropLast(self.behind) + "." + padded.suffix(self.behind)
    }
}
