public import Telemetry

/// Where readings come from: a meter, a file, a simulated home.
///
/// A source is pulled, one batch at a time, and every batch says at which position the source stands behind
/// it. The position is stored in the same transaction as the statement that carries the readings, so that a
/// source that is opened again continues exactly where the last committed statement ended.
///
/// Calls may block on files; the auditor makes them on a thread of its own.
public protocol MeterSource: Sendable {
    /// Continues behind the readings that end at a position. Called before the first ``next()``, if at all.
    ///
    /// - Throws: ``MeterSourceError``, with code `changed` if this is not the source of that position.
    mutating func resume(at position: SourcePosition) throws(MeterSourceError)

    /// The next readings, in order of time.
    ///
    /// - Returns: `nil` at the end of the source.
    /// - Throws: ``MeterSourceError``; the source gives nothing more then.
    mutating func next() throws(MeterSourceError) -> SourceBatch?

    /// Reads the meter at another rate from now on.
    ///
    /// - Parameters:
    ///   - interval: Nanoseconds between two readings.
    ///   - takesBack: The newest batch was not used: what it covers is read anew.
    ///   - now: For a source that lives in time; what was before is not read at the new rate. `nil` for a replay.
    /// - Returns: Whether it is a source that can; the auditor gives the batches of others at that rate instead.
    mutating func sample(every interval: Int64, takesBack: Bool, at now: Timestamp?) -> Bool
}

extension MeterSource {
    public mutating func sample(every interval: Int64, takesBack: Bool, at now: Timestamp?) -> Bool { false }
}

/// Readings that belong together, of one instant or one line: never divided between two statements.
public struct SourceBatch: Hashable, Sendable {
    /// The most readings of one batch.
    public static let maximumReadings = 256

    /// In order of time; at least one.
    public var readings: [Reading]
    /// When a meter of this kind would have had these readings: the end of their interval.
    public var available: Timestamp
    /// Where the source stands behind these readings.
    public var position: SourcePosition

    public init(readings: [Reading], available: Timestamp, position: SourcePosition) {
        self.readings = readings
        self.available = available
        self.position = position
    }
}

/// A place in a source: a few bytes that only the source understands, at most 64.
public struct SourcePosition: Hashable, Sendable {
    public static let maximumLength = 64

    public let bytes: [UInt8]

    public init(bytes: [UInt8]) {
        self.bytes = bytes
    }
}

/// Bytes of a position, written and read in network order.
struct PositionCoder {
    var bytes: [UInt8] = []

    mutating func write(_ value: some FixedWidthInteger) {
        withUnsafeBytes(of: value.bigEndian) { self.bytes.append(contentsOf: $0) }
    }

    mutating func read<Value: FixedWidthInteger>(_: Value.Type = Value.self) -> Value? {
        let size = MemoryLayout<Value>.size
        guard self.bytes.count >= size else { return nil }
        var value = Value.zero
        for byte in self.bytes.prefix(size) { value = value << 8 | Value(truncatingIfNeeded: byte) }
        self.bytes.removeFirst(size)
        return value
    }
}
