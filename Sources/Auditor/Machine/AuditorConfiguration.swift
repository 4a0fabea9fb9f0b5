public import Telemetry

/// How an auditor behaves: every interval, limit and window of it.
public struct AuditorConfiguration: Hashable, Sendable {
    /// The certificate and its intermediate (2 to 4 certificates in DER, the signer's first): what a hello carries.
    public var certificateChain: [[UInt8]]
    /// The most of ``formerCertificates`` that are told.
    public static let maximumFormerCertificates = 8
    /// Certificates that the auditor has had before, DER, the newest last: statements without a receipt may name them,
    /// and the control center may not have heard of them yet.
    public var formerCertificates: [[UInt8]] = []
    /// Readings of so many nanoseconds of the source's time share a statement (STATEMENT_INTERVAL); a group also
    /// closes when it has waited so long. 0: every batch is a statement at once.
    public var statementInterval: Int64 = 60 * second
    /// Without a statement for so long, a heartbeat is signed.
    public var heartbeatInterval: Int64 = 15 * 60 * second
    /// A message sent and not receipted for so long is sent again.
    public var resendAfter: Int64 = 30 * second
    /// A hello not answered for so long is said again.
    public var helloAgainAfter: Int64 = 30 * second
    /// The most messages sent and not receipted.
    public var window = 256
    /// The most statements in one transaction of the outbox.
    public var statementsPerCommit = 64
    /// The most bytes of messages without a receipt; beyond, the source is not read.
    public var maximumOutboxBytes: Int64 = 512 << 20
    /// The most messages without a receipt; beyond, the source is not read.
    public var maximumOutboxMessages = 1_000_000
    /// The most bytes of messages refused for good; beyond, nothing is sent until someone has looked.
    public var maximumDeadLetterBytes: Int64 = 64 << 20
    /// How long receipted messages are kept for a control center that loses its data.
    public var ringAge: Int64 = 30 * 86_400 * second
    /// The most bytes of receipted messages kept.
    public var maximumRingBytes: Int64 = 256 << 20
    /// The most new streams in an hour; a state directory that runs twice makes them without end.
    public var streamsPerHour = 12
    /// How good the clock is.
    public var clockQuality = ClockQuality.informative
    /// A meter that gives nothing for so long raises an alarm; 0: none does.
    public var meterSilentAfter: Int64 = 0
    /// With less room than so many bytes on the disk of the state directory, an alarm is raised.
    public var minimumDiskSpace: Int64 = 256 << 20
    /// A control center's clock may differ by so much before an alarm is raised.
    public var maximumClockDifference: Int64 = 120 * second
    /// Whether alarms go to the control center as signed alerts.
    public var sendsAlerts = false

    public init(certificateChain: [[UInt8]]) {
        self.certificateChain = certificateChain
    }

    /// In nanoseconds.
    private static var second: Int64 { 1_000_000_000 }
}

/// Something that a person should know about.
public struct Alarm: Hashable, Sendable, CustomStringConvertible {
    /// What kind of thing; the same word in log, metric and page.
    public struct Kind: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        /// The outbox cannot be written; nothing is signed or read until it can.
        public static let outboxWrite = Kind(description: "outbox-write")
        /// The outbox cannot be read.
        public static let outboxRead = Kind(description: "outbox-read")
        /// As many messages wait for receipts as may; the source is not read.
        public static let outboxFull = Kind(description: "outbox-full")
        /// A message was refused for good.
        public static let deadLetter = Kind(description: "dead-letter")
        /// As many messages were refused for good as may be kept; nothing is sent.
        public static let deadLettersFull = Kind(description: "dead-letters-full")
        /// The control center has what this state does not know: an old image, a copy, or a new disk.
        public static let rolledBack = Kind(description: "rolled-back")
        /// A new stream was opened.
        public static let streamRestart = Kind(description: "stream-restart")
        /// New streams too often: the state directory seems to run twice.
        public static let twin = Kind(description: "twin")
        /// The control center has lost what it had receipted; it is offered again.
        public static let controlCenterRestored = Kind(description: "control-center-restored")
        /// The control center's certificate does not verify.
        public static let controlCenterCertificate = Kind(description: "control-center-certificate")
        /// The source has failed.
        public static let source = Kind(description: "source")
        /// The key does not sign.
        public static let signing = Kind(description: "signing")
        /// The auditor's own certificate is revoked; nothing is sent.
        public static let revoked = Kind(description: "revoked")
        /// The auditor's own certificate could not be renewed and ends soon.
        public static let certificateEnds = Kind(description: "certificate-ends")
        /// It has ended.
        public static let certificateExpired = Kind(description: "certificate-expired")
        /// The next hop does not take a message.
        public static let refusedByBroker = Kind(description: "refused-by-broker")
        /// A control center has changed a parameter.
        public static let updateApplied = Kind(description: "update-applied")
        /// An update, or an alert, was not taken.
        public static let updateRefused = Kind(description: "update-refused")
        /// A control center has something to say.
        public static let controlCenterAlert = Kind(description: "control-center-alert")
        /// A meter has given nothing for long.
        public static let meterSilent = Kind(description: "meter-silent")
        /// The disk of the state directory is nearly full.
        public static let diskFilling = Kind(description: "disk-filling")
        /// The clock differs from the control center's.
        public static let clockOff = Kind(description: "clock-off")

        /// Whether it concerns the control center: what it has said itself does not.
        var isTold: Bool { self != .updateApplied && self != .controlCenterAlert }
    }

    public let kind: Kind
    /// One line: what happened and what to do.
    public let text: String

    public init(_ kind: Kind, _ text: String) {
        self.kind = kind
        self.text = text
    }

    public var description: String { "\(self.kind): \(self.text)" }
}

/// What an auditor has done since its start.
public struct AuditorStatistics: Hashable, Sendable {
    /// Readings that were signed and committed.
    public var readings = 0
    /// Statements with readings that were signed and committed.
    public var statements = 0
    public var heartbeats = 0
    /// Messages signed anew into another stream.
    public var signedAnew = 0
    /// Messages given to the bus, repeats included.
    public var sent = 0
    /// Of those, repeats for want of a receipt.
    public var resent = 0
    /// Receipts messages whose signature and names were verified.
    public var receiptsVerified = 0
    /// Receipts messages that did not verify or were not for this auditor.
    public var receiptsRefused = 0
    /// Ids in verified receipts that are not this auditor's.
    public var foreignIDs = 0
    /// Messages that verified receipts cover.
    public var receipted = 0
    public var deadLetters = 0
    /// New streams after the first.
    public var restarts = 0
    public var updatesApplied = 0
    /// Updates and alerts that were not taken, repeats included.
    public var updatesRefused = 0
    /// Alerts of control centers that were shown.
    public var alertsShown = 0

    public init() {}
}
