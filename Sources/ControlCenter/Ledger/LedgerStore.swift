public import Telemetry

/// The durable memory of the ingest path: looked up by one thread at a time, written a batch at a time.
///
/// Two things conform: ``ControlCenterStore`` (SQLite) and ``MemoryLedger`` (a value, for tests and for
/// simulated disks).
public protocol LedgerStore {
    /// The numbers that are given next.
    func nextNumbers() throws -> NextNumbers

    /// - Returns: `nil` if the auditor was never seen.
    func auditor(spiffeID: String) throws -> AuditorRecord?

    /// - Returns: `nil` if no auditor of this ID was ever seen.
    func knowsAuditor(id: String) throws -> Bool

    /// - Returns: `nil` if nothing of this stream is stored.
    func stream(auditor: Int64, id: StreamID) throws -> StreamLedger?

    /// The stored statement at a place that is held.
    func link(stream: Int64, sequence: Int64) throws -> StoredLink?

    /// A certificate that was seen under a valid chain.
    func certificate(hash: [UInt8]) throws -> CertificateRecord?

    /// - Returns: the number, or `nil` if such readings were never stored.
    func series(auditor: Int64, meter: String, quantity: String, unit: String) throws -> Int64?

    /// The value of the stored reading in the original's format at a place: auditor, local date, kind.
    func measure(auditor: Int64, local: Int64, kind: UInt8) throws -> ExactDecimal?

    /// How much of its quota a quarantine bucket uses.
    func quarantineUse(claimed: String, reason: Reason) throws -> QuarantineUse

    /// Whether a contradiction is kept already.
    func hasFork(stream: Int64, sequence: Int64, id: MessageID) throws -> Bool

    /// How many contradictions of one stream are kept.
    func forkCount(stream: Int64) throws -> Int

    /// Writes all of a batch or nothing, durably when it returns.
    mutating func commit(_ batch: CommitBatch) throws
}

/// The numbers that are given next. All begin at 1: leaf 0 is kept for the log's genesis.
public struct NextNumbers: Hashable, Sendable {
    public var leafIndex: Int64
    public var auditor: Int64
    public var stream: Int64
    public var certificate: Int64
    public var series: Int64

    public init(leafIndex: Int64 = 1, auditor: Int64 = 1, stream: Int64 = 1, certificate: Int64 = 1, series: Int64 = 1)
    {
        self.leafIndex = leafIndex
        self.auditor = auditor
        self.stream = stream
        self.certificate = certificate
        self.series = series
    }
}

/// An auditor as stored.
public struct AuditorRecord: Hashable, Sendable {
    public var number: Int64
    public var spiffeID: String
    public var open: StreamLedger?
    public var pendingStreams: Int

    public init(number: Int64, spiffeID: String, open: StreamLedger?, pendingStreams: Int) {
        self.number = number
        self.spiffeID = spiffeID
        self.open = open
        self.pendingStreams = pendingStreams
    }
}

/// A certificate as stored.
public struct CertificateRecord: Hashable, Sendable {
    public var number: Int64
    public var spiffeID: String
    /// Leaf first, DER.
    public var chain: [[UInt8]]

    public init(number: Int64, spiffeID: String, chain: [[UInt8]]) {
        self.number = number
        self.spiffeID = spiffeID
        self.chain = chain
    }
}

/// How much a quarantine bucket holds.
public struct QuarantineUse: Hashable, Sendable {
    public var rows: Int
    public var bytes: Int

    public init(rows: Int = 0, bytes: Int = 0) {
        self.rows = rows
        self.bytes = bytes
    }
}

/// The quotas of the quarantine: per claimed ID and reason, so that nobody can flush what another left there.
/// Messages beyond are counted all the same.
public struct Quarantine: Hashable, Sendable {
    /// The bucket of every ID that no auditor has.
    public static let unknown = "-"

    /// Rows per bucket.
    public var maximumRows = 100
    /// Bytes of messages per bucket.
    public var maximumBytes = 1 << 20

    public init() {}
}
