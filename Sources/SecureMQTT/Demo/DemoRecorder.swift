import Auditor
import Identity
import Synchronization
import Telemetry

/// Every reading that the demo's auditors took from their sources, so that the database can be compared with it.
final class DemoRecorder: Sendable {
    /// What identifies a reading, and its digits.
    struct Entry: Hashable, Sendable {
        var auditor: String
        var meter: String
        var quantity: String
        var unit: String
        var time: Timestamp
        var interval: Int64?
        /// As written by the meter; `nil` for a missing one.
        var exact: String?
    }

    private let counts = Mutex<[Entry: Int]>([:])

    /// How many readings were taken.
    var count: Int { self.counts.withLock { $0.values.reduce(0, +) } }

    /// How often each was taken.
    var entries: [Entry: Int] { self.counts.withLock { $0 } }

    fileprivate func note(_ readings: [Reading], of auditor: Identifier) {
        self.counts.withLock { counts in
            for reading in readings {
                let part = reading.part.description
                counts[
                    Entry(
                        auditor: auditor.rawValue, meter: reading.meter.rawValue,
                        quantity: reading.quantity.description + (part.isEmpty ? "" : "/" + part),
                        unit: reading.unit.description, time: reading.time, interval: reading.interval,
                        exact: reading.value?.description), default: 0] += 1
            }
        }
    }
}

/// A source that tells the recorder what it gave.
struct RecordedSource<Source: MeterSource>: MeterSource {
    var source: Source
    let auditor: Identifier
    let recorder: DemoRecorder

    mutating func resume(at position: SourcePosition) throws(MeterSourceError) {
        try self.source.resume(at: position)
    }

    mutating func next() throws(MeterSourceError) -> SourceBatch? {
        guard let batch = try self.source.next() else { return nil }
        self.recorder.note(batch.readings, of: self.auditor)
        return batch
    }
}
