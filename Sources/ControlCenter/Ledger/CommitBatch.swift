public import Telemetry

/// Everything that one transaction writes: the decisions about a batch of messages, as rows.
///
/// All numbers are already given, so that a batch that failed (disk full) is written again as it is.
public struct CommitBatch: Sendable {
    /// A party seen for the first time.
    public struct Auditor: Hashable, Sendable {
        public var number: Int64
        public var spiffeID: String
        public var id: String
    }

    /// A certificate whose chain was verified, seen for the first time.
    public struct Certificate: Hashable, Sendable {
        public var number: Int64
        /// SHA-256 of the leaf's DER.
        public var hash: [UInt8]
        public var spiffeID: String
        /// Leaf first, DER.
        public var chain: [[UInt8]]
        public var firstSeen: Timestamp
    }

    /// What readings are of: the small number that stands for it in every row.
    public struct Series: Hashable, Sendable {
        public var number: Int64
        public var auditor: Int64
        public var meter: String
        public var quantity: String
        public var unit: String
    }

    /// A statement stored.
    public struct Statement: Hashable, Sendable {
        public var leafIndex: Int64
        public var auditor: Int64
        public var stream: Int64
        public var sequence: Int64
        public var id: MessageID
        public var previous: MessageID
        public var kind: String
        public var certificate: Int64
        public var received: Timestamp
        public var bytes: [UInt8]
        /// Its readings: how many of ``CommitBatch/readings`` from where the former statement's end.
        public var readings: Int
    }

    /// One reading of a stored statement.
    public struct Reading: Hashable, Sendable {
        public var series: Int64
        public var time: Timestamp
        /// Nanoseconds; 0 for none.
        public var interval: Int64
        /// No value: the reading is missing.
        public var value: ExactDecimal?
        public var quality: UInt8
    }

    /// A reading in the original's format.
    public struct Measure: Hashable, Sendable {
        public var auditor: Int64
        /// Its date: nanoseconds since 1970 as the auditor's clock counts them.
        public var local: Int64
        /// 0 consumption, 1 production.
        public var kind: UInt8
        /// Its date in UTC, by the auditor's time zone.
        public var time: Timestamp
        /// Nanoseconds.
        public var interval: Int64
        public var value: ExactDecimal
        /// SHA-256 of the certificate that was pinned.
        public var certificateHash: [UInt8]
        public var received: Timestamp
        /// As signed, signature included.
        public var bytes: [UInt8]
    }

    /// A change to a stream's runs.
    public enum RunChange: Hashable, Sendable {
        /// The run that begins at `first` ends at `last`; it may be new.
        case put(stream: Int64, first: Int64, last: Int64)
        case remove(stream: Int64, first: Int64)
    }

    /// A contradiction, kept for ever.
    public struct Fork: Hashable, Sendable {
        public var auditor: Int64
        public var stream: Int64
        public var sequence: Int64
        public var id: MessageID
        public var kind: Order.Forked.Kind
        public var stored: MessageID
        public var disputedFrom: Int64
        public var certificate: Int64
        public var received: Timestamp
        public var bytes: [UInt8]
    }

    /// Something that an operator should know and acknowledge.
    public struct Alarm: Hashable, Sendable {
        public var kind: AlarmKind
        /// The auditor's SPIFFE ID, or empty.
        public var auditor: String
        public var detail: String
        public var raised: Timestamp
    }

    /// An auditor's own alert, verified.
    public struct AuditorAlert: Hashable, Sendable {
        public var auditor: Int64
        public var id: MessageID
        public var sequence: Int64
        public var alert: Alert
        public var certificate: Int64
        public var received: Timestamp
        public var bytes: [UInt8]
    }

    /// A refused message.
    public struct Quarantined: Hashable, Sendable {
        /// The ID on whose topic it came, or ``Quarantine/unknown``.
        public var claimed: String
        public var reason: Reason
        public var detail: String
        public var topic: String
        public var bytes: [UInt8]
        public var received: Timestamp
    }

    /// How often something happened, more.
    public struct Count: Hashable, Sendable {
        public var claimed: String
        public var reason: Reason

        public init(claimed: String, reason: Reason) {
            self.claimed = claimed
            self.reason = reason
        }
    }

    public var auditors: [Auditor] = []
    public var certificates: [Certificate] = []
    public var series: [Series] = []
    public var statements: ContiguousArray<Statement> = []
    public var readings: ContiguousArray<Reading> = []
    public var measures: [Measure] = []
    /// Streams as they are after this batch; runs are in ``runs``.
    public var streams: [StreamLedger] = []
    /// In this order.
    public var runs: [RunChange] = []
    /// The open stream of each auditor that changed.
    public var openStreams: [Int64: Int64] = [:]
    public var forks: [Fork] = []
    public var alarms: [Alarm] = []
    /// One that is stored already is passed over.
    public var auditorAlerts: [AuditorAlert] = []
    public var quarantined: [Quarantined] = []
    public var counts: [Count: Int64] = [:]

    public init() {}

    public var isEmpty: Bool {
        self.auditors.isEmpty && self.certificates.isEmpty && self.statements.isEmpty && self.streams.isEmpty
            && self.forks.isEmpty && self.alarms.isEmpty && self.auditorAlerts.isEmpty && self.quarantined.isEmpty
            && self.counts.isEmpty && self.measures.isEmpty
    }
}

/// What an alarm is about.
public struct AlarmKind: Hashable, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) {
        self.description = description
    }

    /// An auditor began a new stream although it had one.
    public static let streamRestart = AlarmKind("stream-restart")
    /// Two statements of one stream contradict each other.
    public static let fork = AlarmKind("fork")
    /// The authority's record is not the one that was read before.
    public static let authorityRestored = AlarmKind("authority-restored")
    /// The store could not be written; it can again.
    public static let store = AlarmKind("store")
}
