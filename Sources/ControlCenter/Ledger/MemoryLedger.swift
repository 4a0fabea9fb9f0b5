public import Telemetry

/// A ``LedgerStore`` in memory, as a value: a copy of it is an image of the disk at that moment.
///
/// For tests and simulations; the running system has ``ControlCenterStore``.
public struct MemoryLedger: LedgerStore, Sendable {
    private struct Place: Hashable, Sendable {
        var stream: Int64
        var sequence: Int64
    }

    private struct StreamKey: Hashable, Sendable {
        var auditor: Int64
        var id: StreamID
    }

    private struct SeriesKey: Hashable, Sendable {
        var auditor: Int64
        var meter: String
        var quantity: String
        var unit: String
    }

    public private(set) var auditors: [String: Int64] = [:]
    public private(set) var certificates: [[UInt8]: CertificateRecord] = [:]
    public private(set) var openStreams: [Int64: Int64] = [:]
    /// In commit order.
    public private(set) var statements: ContiguousArray<CommitBatch.Statement> = []
    /// In commit order.
    public private(set) var readings: ContiguousArray<CommitBatch.Reading> = []
    /// Readings in the original's format, in commit order.
    public private(set) var measures: [CommitBatch.Measure] = []
    public private(set) var forks: [CommitBatch.Fork] = []
    public private(set) var alarms: [CommitBatch.Alarm] = []
    public private(set) var auditorAlerts: [CommitBatch.AuditorAlert] = []
    public private(set) var quarantined: [CommitBatch.Quarantined] = []
    public private(set) var counts: [CommitBatch.Count: Int64] = [:]
    private var ids: Set<String> = []
    private var streams: [Int64: StreamLedger] = [:]
    private var streamNumbers: [StreamKey: Int64] = [:]
    private var places: [Place: Int] = [:]
    private var seriesNumbers: [SeriesKey: Int64] = [:]

    public init() {}

    /// Every stream, by number.
    public var allStreams: [StreamLedger] { self.streams.values.sorted { $0.number < $1.number } }

    /// The stored statement at a place.
    public func statement(stream: Int64, sequence: Int64) -> CommitBatch.Statement? {
        self.places[Place(stream: stream, sequence: sequence)].map { self.statements[$0] }
    }

    public func nextNumbers() -> NextNumbers {
        NextNumbers(
            leafIndex: Int64(self.statements.count) + 1, auditor: Int64(self.auditors.count) + 1,
            stream: Int64(self.streams.count) + 1, certificate: Int64(self.certificates.count) + 1,
            series: Int64(self.seriesNumbers.count) + 1)
    }

    public func auditor(spiffeID: String) -> AuditorRecord? {
        guard let number = self.auditors[spiffeID] else { return nil }
        let pending = self.streams.values.count { $0.auditor == number && $0.state == .pending }
        return AuditorRecord(
            number: number, spiffeID: spiffeID, open: self.openStreams[number].flatMap { self.streams[$0] },
            pendingStreams: pending)
    }

    public func knowsAuditor(id: String) -> Bool { self.ids.contains(id) }

    public func stream(auditor: Int64, id: StreamID) -> StreamLedger? {
        self.streamNumbers[StreamKey(auditor: auditor, id: id)].flatMap { self.streams[$0] }
    }

    public func link(stream: Int64, sequence: Int64) -> StoredLink? {
        self.statement(stream: stream, sequence: sequence).map { StoredLink(id: $0.id, previous: $0.previous) }
    }

    public func certificate(hash: [UInt8]) -> CertificateRecord? { self.certificates[hash] }

    public func series(auditor: Int64, meter: String, quantity: String, unit: String) -> Int64? {
        self.seriesNumbers[SeriesKey(auditor: auditor, meter: meter, quantity: quantity, unit: unit)]
    }

    public func measure(auditor: Int64, local: Int64, kind: UInt8) -> ExactDecimal? {
        self.measures.first { $0.auditor == auditor && $0.local == local && $0.kind == kind }?.value
    }

    public func quarantineUse(claimed: String, reason: Reason) -> QuarantineUse {
        self.quarantined.reduce(into: QuarantineUse()) { use, row in
            guard row.claimed == claimed, row.reason == reason else { return }
            use.rows += 1
            use.bytes += row.bytes.count
        }
    }

    public func hasFork(stream: Int64, sequence: Int64, id: MessageID) -> Bool {
        self.forks.contains { $0.stream == stream && $0.sequence == sequence && $0.id == id }
    }

    public func forkCount(stream: Int64) -> Int { self.forks.count { $0.stream == stream } }

    public mutating func commit(_ batch: CommitBatch) {
        for row in batch.auditors {
            self.auditors[row.spiffeID] = row.number
            self.ids.insert(row.id)
        }
        for row in batch.certificates {
            self.certificates[row.hash] = CertificateRecord(
                number: row.number, spiffeID: row.spiffeID, chain: row.chain)
        }
        for row in batch.series {
            let key = SeriesKey(auditor: row.auditor, meter: row.meter, quantity: row.quantity, unit: row.unit)
            self.seriesNumbers[key] = row.number
        }
        for row in batch.statements {
            self.places[Place(stream: row.stream, sequence: row.sequence)] = self.statements.count
            self.statements.append(row)
        }
        self.readings.append(contentsOf: batch.readings)
        self.measures.append(contentsOf: batch.measures)
        for stream in batch.streams {
            self.streams[stream.number] = stream
            self.streamNumbers[StreamKey(auditor: stream.auditor, id: stream.id)] = stream.number
        }
        for (auditor, stream) in batch.openStreams { self.openStreams[auditor] = stream }
        self.forks.append(contentsOf: batch.forks)
        self.alarms.append(contentsOf: batch.alarms)
        for alert in batch.auditorAlerts where !self.auditorAlerts.contains(where: { $0.id == alert.id }) {
            self.auditorAlerts.append(alert)
        }
        self.quarantined.append(contentsOf: batch.quarantined)
        for (count, more) in batch.counts { self.counts[count, default: 0] += more }
    }
}
