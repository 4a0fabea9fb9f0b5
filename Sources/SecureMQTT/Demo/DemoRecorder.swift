import Auditor
import ControlCenter
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

    private struct Note {
        var count = 0
        var available: Timestamp
    }

    private let notes = Mutex<[Entry: Note]>([:])

    /// How often each reading was given that a meter has had by a time. What a live source was asked for in advance
    /// is not signed before its time.
    func entries(availableBy now: Timestamp) -> [Entry: Int] {
        self.notes.withLock { notes in notes.filter { $0.value.available <= now }.mapValues(\.count) }
    }

    fileprivate func note(_ batch: SourceBatch, of auditor: Identifier) {
        self.notes.withLock { notes in
            for reading in batch.readings {
                notes[Entry(reading, of: auditor), default: Note(available: batch.available)].count += 1
            }
        }
    }
}

extension DemoRecorder.Entry {
    init(_ reading: Reading, of auditor: Identifier) {
        let part = reading.part.description
        self.init(
            auditor: auditor.rawValue, meter: reading.meter.rawValue,
            quantity: reading.quantity.description + (part.isEmpty ? "" : "/" + part),
            unit: reading.unit.description, time: reading.time, interval: reading.interval,
            exact: reading.value?.description)
    }

    init(_ reading: StoredReading) {
        self.init(
            auditor: reading.auditor, meter: reading.meter, quantity: reading.quantity, unit: reading.unit,
            time: reading.time, interval: reading.interval, exact: reading.value?.description)
    }
}

/// A source that tells the recorder what it gave.
struct RecordedSource: MeterSource {
    private var source: any MeterSource
    private let auditor: Identifier
    private let recorder: DemoRecorder

    init(_ source: any MeterSource, auditor: Identifier, recorder: DemoRecorder) {
        self.source = source
        self.auditor = auditor
        self.recorder = recorder
    }

    mutating func resume(at position: SourcePosition) throws(MeterSourceError) {
        try self.source.resume(at: position)
    }

    mutating func next() throws(MeterSourceError) -> SourceBatch? {
        guard let batch = try self.source.next() else { return nil }
        self.recorder.note(batch, of: self.auditor)
        return batch
    }
}
