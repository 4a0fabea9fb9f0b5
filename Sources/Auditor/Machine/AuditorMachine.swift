import DequeModule
import Identity
public import PKI
public import Telemetry

/// The whole behaviour of an auditor as a value: something happens, actions come out. It does no I/O; clock and
/// randomness are handed in, and of the outbox it only reads.
///
/// ```
/// readings -> group -> sign -> commit -> publish -> receipts -> forget
/// ```
///
/// Whoever drives it carries out the actions in their order. After ``Action/commit(_:)`` it says at once
/// ``Input/committed`` or ``Input/commitFailed(_:)``; until then nothing more is signed. A message is published
/// only from what is committed, and its number, its bytes and the source's position are one transaction.
///
/// All times are those of the clock that is handed in; if it jumps, at worst something is sent twice.
public struct AuditorMachine: Sendable {
    public enum Input: Sendable {
        /// Readings of the source, in order.
        case readings([SourceBatch])
        /// The source has no more.
        case sourceEnded
        /// The source cannot go on.
        case sourceFailed(MeterSourceError)
        /// Time has passed.
        case tick
        /// The bus is connected and subscribed.
        case connected
        case disconnected
        /// The next hop holds a publication. That alone means nothing, but that it need not be sent at the moment.
        case published(Publication.Token)
        /// The next hop does not hold it, as far as is known.
        case publishFailed(Publication.Token, isTooLarge: Bool)
        /// A message on `control_center/receipts/<ID>`.
        case receipts([UInt8])
        /// A message on `control_center/keys`.
        case controlCenterKeys([UInt8])
        /// A message on `control_center/crl`.
        case revocationList([UInt8])
        /// A message below `control_center/updates/<ID>`, or on `control_center/alerts/<ID>` or `.../all`.
        case told(topic: String, [UInt8], isRetained: Bool)
        /// So many bytes are free on the disk of the state directory.
        case diskSpace(Int64)
        /// The transaction is durable.
        case committed
        /// The transaction did not happen.
        case commitFailed(OutboxError)
        /// The auditor has a new certificate: what is signed from here on bears it, and a hello under it stands for
        /// what the former has signed. The chain: the certificate and its intermediate, DER.
        case renewed(any Signer, certificateChain: [[UInt8]])
        /// Whom to trust from here on, with the revocation lists that are known.
        case trust(IdentityVerifier)
        /// Something that a part beside the machine found, for the one place where alarms are told.
        case raise(Alarm)
        /// It is over.
        case clear(Alarm.Kind)
        /// Orderly shutdown: what is read is signed, then a heartbeat.
        case stop
    }

    public enum Action: Sendable {
        /// Make this durable and say so at once.
        case commit(OutboxTransaction)
        case publish(Publication)
        /// A revocation list, DER, that is verified and newer than the one before: to be kept, and to be asked about
        /// the broker.
        case keep(RevocationList)
        /// A parameter has this value from now on; the transaction that says so is durable.
        case set(Topic.Parameter, ParameterValue)
        case raise(Alarm)
        /// What was raised is over.
        case clear(Alarm.Kind)
    }

    /// A message for the bus, QoS 1, never retained.
    public struct Publication: Hashable, Sendable {
        /// Names a publication when its fate is told.
        public struct Token: Hashable, Sendable {
            /// The message's place in the outbox; 0 for a hello or an alert.
            public let order: Int64
            /// Counts connections; what belongs to an earlier one is passed over.
            let connection: UInt64
        }

        public let token: Token
        public let topic: Topic
        public let bytes: [UInt8]
    }

    public private(set) var configuration: AuditorConfiguration
    public private(set) var statistics = AuditorStatistics()

    private var signer: any Signer
    private var trust: IdentityVerifier
    private var controlCenters: [CertificateHash: VerifiedIdentity] = [:]

    /// As it will be when everything signed so far is committed.
    private var state: OutboxState
    /// As it is on disk.
    private var durable: OutboxState?
    /// Changes for the next transaction.
    private var changes: [OutboxChange] = []
    private var appended: [OutboxEntry] = []
    private var isDirty = false
    /// The transaction that is being committed, or waits to be tried again.
    private var committing: OutboxTransaction?
    private var retry: (at: Timestamp, delay: Int64)?
    private var committingReadings = 0
    /// Parameters that the transaction sets.
    private var committingSettings: [(Topic.Parameter, ParameterValue)] = []
    /// What control centers have told, as it will be when everything signed so far is committed.
    private var memory: ControlMemory
    /// What they have told and is not looked at yet.
    private var told: Deque<ControlMessage> = []
    private var settings: [(Topic.Parameter, ParameterValue)] = []
    /// When it answered with a refusal, and when it told of a message that it did not take, within the last minute.
    private var answeredAt: Deque<Timestamp> = []
    private var ignoredAt: Deque<Timestamp> = []
    /// What an update has set, in nanoseconds; 0 if none has.
    private var sampleRate: Int64 = 0
    /// Whose readings are taken; nil for all.
    private var enabledMeters: Set<MeterName>?
    private var alerts: AlertOutbox
    private var committingStatements = 0

    private var groups: Deque<Group> = []
    private var open: Group?
    private var hasSourceEnded = false
    private var hasSourceFailed = false
    private var signRetryAt: Timestamp?
    private var lastSignedAt: Timestamp
    private var isStopping = false
    private var hasSignedLast = false
    private var meters: [MeterName: MeterState] = [:]

    private var link = Link.down
    private var connection: UInt64 = 0
    /// When the newest hello was said.
    private var helloAt = Timestamp(nanoseconds: 0)
    /// When it is to be said again although it was answered.
    private var helloWanted: Timestamp?
    /// Receipts have moved something since the newest hello, other than its answer: the answer may be older.
    private var hasReceiptsSinceHello = false
    private var inFlight: Deque<Flight> = []
    /// Everything up to this order has been sent on this connection, or need not be.
    private var sentUpTo: Int64 = 0
    /// The next answer to a hello makes a new stream: the control center has refused this one.
    private var isStreamRefused = false
    private var restarts: [Timestamp] = []
    /// Receipts came since the newest hello that could not be verified.
    private var hasUnverifiedReceipts = false
    /// Receipts from before this are of a control center that has been restored since.
    private var restoredAt: Timestamp?
    private var isFrozen = false
    /// The certificate that signs is revoked: what is read is signed and kept, and nothing is sent.
    private var isRevoked = false
    /// What is being committed was signed under a former certificate: a hello must not leave it out.
    private var isCommittingFormer = false

    private var active: [Alarm.Kind: String] = [:]
    private var actions: [Action] = []

    private enum Link {
        case down
        case awaitingAnswer(Nonce, since: Timestamp)
        /// Connected, but the first transaction is not on disk yet.
        case awaitingState
        case open(Nonce)
    }

    private struct Group {
        var readings: [Reading]
        var position: SourcePosition
        var since: Timestamp
        var bucket: Int64
    }

    private struct Flight {
        let order: Int64
        let stream: StreamID
        let sequence: Int64
        let id: MessageID
        var sentAt: Timestamp
        var isPublishing: Bool
    }

    private struct MeterState {
        var lastReading: Timestamp?
        /// When it gave its last reading.
        var lastGiven: Timestamp
        var failedReads: Int64 = 0
    }

    /// - Parameters:
    ///   - trust: Roots, known issuing authorities and revocation lists: who is a control center.
    ///   - outbox: Where the auditor stands since it ran last.
    ///   - random: Gives the number of the first stream.
    public init(
        configuration: AuditorConfiguration, signer: any Signer, trust: IdentityVerifier,
        outbox: some OutboxReader, now: Timestamp, random: inout some RandomNumberGenerator
    ) {
        self.configuration = configuration
        self.signer = signer
        self.trust = trust
        self.durable = outbox.state
        self.state =
            outbox.state ?? OutboxState(stream: StreamID(using: &random), previous: .zero, nextOrder: 1)
        self.isDirty = outbox.state == nil
        self.lastSignedAt = now
        self.memory = outbox.memory
        self.alerts = AlertOutbox(told: outbox.memory.told ?? [])
        for (parameter, value) in self.parameters { self.set(parameter, value) }
    }

    // MARK: What the driver asks

    /// Whether readings may be handed in: there is room in the outbox, and nothing has to be finished first.
    public func wantsReadings(_ outbox: some OutboxReader) -> Bool {
        !self.isStopping && !self.hasSourceEnded && !self.hasSourceFailed && self.committing == nil
            && self.state.resignBefore == 0 && self.signRetryAt == nil
            && self.groups.count < self.configuration.statementsPerCommit
            && !self.isFull(outbox.summary)
    }

    /// Whether as much waits for receipts as may.
    private func isFull(_ summary: OutboxSummary) -> Bool {
        summary.unreceiptedBytes >= self.configuration.maximumOutboxBytes
            || summary.unreceipted >= self.configuration.maximumOutboxMessages
    }

    /// Whether everything that was read is signed, committed, and receipted or refused for good.
    public func isDrained(_ outbox: some OutboxReader) -> Bool {
        self.open == nil && self.groups.isEmpty && self.committing == nil && !self.isDirty
            && self.state.resignBefore == 0 && outbox.summary.unreceipted == 0
    }

    /// Whether the source has ended or failed and everything it gave is dealt with.
    public func isFinished(_ outbox: some OutboxReader) -> Bool {
        (self.hasSourceEnded || self.hasSourceFailed) && self.isDrained(outbox)
    }

    /// After ``Input/stop``: whether everything that was read, and the last heartbeat, is on disk.
    public var isReadyToStop: Bool {
        self.isStopping && self.hasSignedLast && self.committing == nil && !self.isDirty
    }

    /// Where the source continues: behind the newest reading that is on disk.
    public var sourcePosition: SourcePosition? { self.durable?.source }

    /// The stream that is being signed into, and the number of its newest message.
    public var stream: StreamID { self.state.stream }
    public var lastSequence: Int64 { self.state.lastSequence }

    /// Whether messages may leave: connected, and the newest hello was answered.
    public var isOpen: Bool {
        if case .open = self.link { true } else { false }
    }

    /// What was raised and is not over.
    public var activeAlarms: Set<Alarm.Kind> { Set(self.active.keys) }

    /// The parameters that control centers have set; the others have the configuration's value.
    public var parameters: [(Topic.Parameter, ParameterValue)] {
        ParameterDefinition.all.compactMap { definition in
            self.memory.value(of: definition.name).map { (definition.name, $0) }
        }
    }

    /// When ``Input/tick`` is due at the latest; `nil` if nothing waits for time.
    public var nextDeadline: Timestamp? {
        var deadlines: [Timestamp] = []
        if let retry { deadlines.append(retry.at) }
        if let signRetryAt { deadlines.append(signRetryAt) }
        if let open { deadlines.append(open.since.after(self.configuration.statementInterval)) }
        if self.meterSilentAfter > 0, self.active[.meterSilent] == nil, !self.hasSourceEnded {
            deadlines += self.meters.values.map { $0.lastGiven.after(self.meterSilentAfter) }
        }
        if !self.isStopping { deadlines.append(self.lastSignedAt.after(self.configuration.heartbeatInterval)) }
        switch self.link {
        case .awaitingAnswer where self.isRevoked, .open where self.isRevoked: break
        case .awaitingAnswer(_, let since): deadlines.append(since.after(self.configuration.helloAgainAfter))
        case .open:
            if let helloWanted { deadlines.append(helloWanted) }
            if let first = self.inFlight.lazy.filter({ !$0.isPublishing }).map(\.sentAt).min() {
                deadlines.append(first.after(self.configuration.resendAfter))
            }
        case .down, .awaitingState: break
        }
        return deadlines.min()
    }

    // MARK: Input

    /// - Parameter outbox: What is committed.
    /// - Returns: What to do, in this order.
    public mutating func handle(
        _ input: Input, now: Timestamp, outbox: some OutboxReader, random: inout some RandomNumberGenerator
    ) -> [Action] {
        self.actions = []
        do throws(OutboxError) {
            switch input {
            case .readings(let batches): self.take(batches, now)
            case .sourceEnded: self.hasSourceEnded = true
            case .sourceFailed(let error): self.sourceFailed(error)
            case .tick: break
            case .connected: self.connect(now, &random)
            case .disconnected: self.disconnect()
            case .published(let token): self.published(token)
            case .publishFailed(let token, let isTooLarge): self.publishFailed(token, isTooLarge, now)
            case .receipts(let bytes): try self.receive(bytes, now, outbox, &random)
            case .controlCenterKeys(let bytes): self.meetControlCenter(bytes, now)
            case .revocationList(let bytes): self.update(revocationList: bytes, now)
            case .told(let topic, let bytes, let isRetained):
                self.hear(ControlMessage(topic: topic, bytes: bytes, isRetained: isRetained))
            case .diskSpace(let bytes): self.watchDisk(bytes)
            case .committed: self.committed(now, &random)
            case .commitFailed(let error): self.commitFailed(error, now)
            case .renewed(let signer, let chain): self.renew(signer, chain, outbox, now, &random)
            case .trust(let verifier): self.trust(verifier)
            case .raise(let alarm): self.raise(alarm.kind, alarm.text)
            case .clear(let kind): self.clear(kind)
            case .stop: self.isStopping = true
            }
            try self.advance(now, outbox, &random)
            self.clear(.outboxRead)
        } catch {
            self.raise(.outboxRead, error.reason)
        }
        let actions = self.actions
        self.actions = []
        return actions
    }

    /// Does what there is to do by now, whatever has happened.
    private mutating func advance(
        _ now: Timestamp, _ outbox: some OutboxReader, _ random: inout some RandomNumberGenerator
    ) throws(OutboxError) {
        self.closeGroup(now)
        self.watchLimits(outbox)
        self.watchMeters(now, outbox)
        if self.committing == nil {
            // What is decided goes to disk before anything is signed on top of it.
            if !self.isDirty {
                if self.state.resignBefore > 0 {
                    try self.signAnew(now, outbox)
                } else {
                    self.takeTold(now)
                    self.signGroups(now, outbox)
                    self.signHeartbeat(now, outbox)
                }
            }
            if self.isDirty { self.commit() }
        } else if let retry, retry.at <= now, let committing {
            self.retry = (now.after(retry.delay), min(retry.delay * 2, 60_000_000_000))
            self.actions.append(.commit(committing))
        }
        // A revoked certificate is answered by nobody.
        guard !self.isRevoked else { return }
        switch self.link {
        case .awaitingAnswer(_, let since) where now >= since.after(self.configuration.helloAgainAfter):
            self.sayHello(now, &random)
        case .open where self.helloWanted.map { $0 <= now } ?? false: self.sayHello(now, &random)
        case .open where self.committing == nil || self.retry != nil:
            try self.send(now, outbox)
        default: break
        }
        self.sendAlerts(now)
        // What was told is on disk with the next transaction, which may be long in coming.
        if self.committing == nil, self.isDirty { self.commit() }
    }

    // MARK: Readings

    private mutating func take(_ batches: [SourceBatch], _ now: Timestamp) {
        for batch in batches {
            var batch = batch
            if let enabledMeters { batch.readings.removeAll { !enabledMeters.contains($0.meter) } }
            if let flaw = batch.readings.lazy.compactMap(\.flaw).first {
                self.sourceFailed(MeterSourceError(.value, "the source gives a reading that cannot be told: \(flaw)"))
                return
            }
            let interval = self.configuration.statementInterval
            let bucket = interval > 0 ? batch.available.nanoseconds / interval : 0
            if let open, open.bucket != bucket || open.readings.count + batch.readings.count > Payload.maximumReadings {
                self.groups.append(open)
                self.open = nil
            }
            if self.open == nil {
                self.open = Group(readings: batch.readings, position: batch.position, since: now, bucket: bucket)
            } else {
                self.open?.readings.append(contentsOf: batch.readings)
                self.open?.position = batch.position
            }
            for reading in batch.readings {
                // The table of meters is bounded by what a heartbeat can tell.
                guard self.meters.count < Heartbeat.maximumMeters || self.meters[reading.meter] != nil else { continue }
                self.meters[reading.meter, default: MeterState(lastGiven: now)].lastReading = reading.time
                self.meters[reading.meter]?.lastGiven = now
            }
            if interval == 0 { self.closeGroup(now) }
        }
    }

    private mutating func sourceFailed(_ error: MeterSourceError) {
        self.hasSourceFailed = true
        for meter in self.meters.keys { self.meters[meter]?.failedReads += 1 }
        self.raise(.source, error.description)
    }

    private mutating func closeGroup(_ now: Timestamp) {
        guard let open else { return }
        guard
            self.hasSourceEnded || self.hasSourceFailed || self.isStopping
                || now >= open.since.after(self.configuration.statementInterval)
        else { return }
        self.groups.append(open)
        self.open = nil
    }

    private mutating func watchLimits(_ outbox: some OutboxReader) {
        let summary = outbox.summary
        if self.isFull(summary) {
            self.raise(
                .outboxFull,
                "\(summary.unreceipted) messages wait for receipts, which is all there is room for; the source is not read until the control center answers"
            )
        } else {
            self.clear(.outboxFull)
        }
        self.isFrozen = summary.deadLetterBytes >= self.configuration.maximumDeadLetterBytes
        if self.isFrozen {
            self.raise(
                .deadLettersFull,
                "\(summary.deadLetters) messages were refused for good, which is all there is room for; nothing is sent until someone has looked at them"
            )
        } else {
            self.clear(.deadLettersFull)
        }
    }

    // MARK: Signing

    private mutating func signGroups(_ now: Timestamp, _ outbox: some OutboxReader) {
        if let signRetryAt, signRetryAt > now { return }
        var summary = outbox.summary
        while let group = self.groups.first, self.appended.count < self.configuration.statementsPerCommit,
            !self.isFull(summary)
        {
            let (state, count) = (self.state, self.appended.count)
            do {
                let payloads = try Payload.statements(group.readings, of: self.signer.issuer.id)
                for payload in payloads {
                    try self.append(
                        payload, readings: payloads.count == 1 ? group.readings.count : nil, signedAt: now)
                }
                self.state.source = group.position
                // Also where no meter of it is enabled: the source goes on behind it.
                self.isDirty = true
                self.groups.removeFirst()
                summary.unreceipted += payloads.count
                for entry in self.appended[count...] { summary.unreceiptedBytes += Int64(entry.bytes.count) }
                self.committingReadings += group.readings.count
                self.committingStatements += payloads.count
                self.signRetryAt = nil
                self.clear(.signing)
            } catch {
                // As if none of the group had been signed.
                self.state = state
                self.appended.removeLast(self.appended.count - count)
                self.signingFailed(error, now)
                return
            }
        }
    }

    private mutating func signHeartbeat(_ now: Timestamp, _ outbox: some OutboxReader) {
        let isLast = self.isStopping && self.groups.isEmpty && !self.hasSignedLast
        guard isLast || (!self.isStopping && now >= self.lastSignedAt.after(self.configuration.heartbeatInterval)),
            self.appended.isEmpty || isLast
        else {
            // A full outbox keeps what was read from being signed; it is read again after the next start.
            if self.isStopping, self.appended.isEmpty, !self.hasSignedLast, self.isFull(outbox.summary) {
                self.hasSignedLast = true
            }
            return
        }
        if let signRetryAt, signRetryAt > now {
            // The key does not sign: what was read is read again after the next start.
            if isLast { self.hasSignedLast = true }
            return
        }
        guard !self.isFull(outbox.summary) else {
            if isLast { self.hasSignedLast = true }
            self.lastSignedAt = now
            return
        }
        do {
            let summary = outbox.summary
            let heartbeat = Heartbeat(
                outboxCount: Int64(summary.unreceipted + self.appended.count),
                oldestUnsent: self.oldestUnsent(outbox),
                deadLetters: Int64(summary.deadLetters),
                meters: self.meters.sorted { $0.key < $1.key }.map {
                    Heartbeat.MeterState(
                        meter: $0.key, lastReading: $0.value.lastReading, failedReads: $0.value.failedReads)
                })
            try self.append(
                try Payload.heartbeat(heartbeat, of: self.signer.issuer.id), readings: 0, signedAt: now)
            self.statistics.heartbeats += 1
            if isLast { self.hasSignedLast = true }
        } catch {
            self.signingFailed(error, now)
            if isLast { self.hasSignedLast = true }
        }
    }

    /// When the oldest message that has not left on this connection was signed.
    private func oldestUnsent(_ outbox: some OutboxReader) -> Timestamp? {
        let next = try? outbox.unreceipted(after: self.sentUpTo, before: .max, limit: 1).first
        return next?.signedAt
    }

    private mutating func signingFailed(_ error: any Error, _ now: Timestamp) {
        if let refusal = error as? Refusal, refusal.reason == .format || refusal.reason == .tooLarge {
            // The readings themselves cannot be told; that is the source's fault, and the source stops.
            self.groups = []
            self.open = nil
            self.sourceFailed(
                MeterSourceError(.value, "the source gives readings that cannot be told: \(refusal.detail)"))
            return
        }
        self.signRetryAt = now.after(5_000_000_000)
        self.raise(.signing, "the key does not sign: \(error); nothing is sent until it does")
    }

    /// Signs a payload at the end of the stream.
    private mutating func append(_ payload: Payload, readings: Int?, signedAt now: Timestamp) throws {
        let position = StreamPosition(
            stream: self.state.stream, sequence: self.state.lastSequence + 1, previous: self.state.lastID)
        let message = try Self.sign(payload, position, self.configuration.clockQuality, now, self.signer)
        let count = try readings ?? Envelope.decode(message.bytes).readingCount
        self.appended.append(
            OutboxEntry(
                order: self.state.nextOrder, stream: position.stream, sequence: position.sequence, id: message.id,
                readings: count, signedAt: now, bytes: message.bytes))
        self.state.lastSequence = position.sequence
        self.state.lastID = message.id
        self.state.nextOrder += 1
        self.lastSignedAt = now
        self.isDirty = true
    }

    private static func sign(
        _ payload: Payload, _ position: StreamPosition, _ clock: ClockQuality, _ now: Timestamp, _ signer: some Signer
    ) throws -> SignedMessage {
        try payload.signed(at: position, clock: clock, issuedAt: now, by: signer)
    }

    /// Signs what has no receipt of a former stream into this one, oldest first, and drops the former messages in
    /// the same transaction.
    private mutating func signAnew(_ now: Timestamp, _ outbox: some OutboxReader) throws(OutboxError) {
        if let signRetryAt, signRetryAt > now { return }
        let entries = try outbox.unreceipted(
            after: 0, before: self.state.resignBefore, limit: self.configuration.statementsPerCommit)
        guard !entries.isEmpty else {
            self.state.resignBefore = 0
            self.isDirty = true
            return
        }
        for entry in entries {
            let state = self.state
            do {
                guard let payload = try Envelope.decode(entry.bytes).payload else {
                    throw Refusal(.format, "message \(entry.order) of the outbox is none of a stream")
                }
                try self.append(payload, readings: entry.readings, signedAt: now)
                self.changes.append(.replaced(order: entry.order))
                self.statistics.signedAnew += 1
                self.signRetryAt = nil
                self.clear(.signing)
            } catch {
                self.state = state
                self.signRetryAt = now.after(5_000_000_000)
                self.raise(.signing, "message \(entry.order) cannot be signed anew: \(error)")
                return
            }
        }
    }

    // MARK: Committing

    private mutating func commit() {
        let transaction = OutboxTransaction(changes: self.changes, appended: self.appended, state: self.state)
        self.changes = []
        self.appended = []
        self.committingSettings = self.settings
        self.settings = []
        self.isDirty = false
        self.committing = transaction
        self.actions.append(.commit(transaction))
    }

    private mutating func committed(_ now: Timestamp, _ random: inout some RandomNumberGenerator) {
        guard let committing else { return }
        self.durable = committing.state
        // What is offered again lies below what was sent while the transaction waited for a full disk.
        if committing.changes.contains(where: \.offersAgain) { self.sentUpTo = 0 }
        self.committing = nil
        self.isCommittingFormer = false
        self.retry = nil
        self.statistics.readings += self.committingReadings
        self.statistics.statements += self.committingStatements
        self.committingReadings = 0
        self.committingStatements = 0
        for (parameter, value) in self.committingSettings {
            self.set(parameter, value)
            self.actions.append(.set(parameter, value))
        }
        self.committingSettings = []
        self.clear(.outboxWrite)
        if case .awaitingState = self.link { self.sayHello(now, &random) }
    }

    private mutating func commitFailed(_ error: OutboxError, _ now: Timestamp) {
        guard self.committing != nil else { return }
        if self.retry == nil { self.retry = (now.after(1_000_000_000), 2_000_000_000) }
        self.raise(.outboxWrite, "\(error.reason); nothing is read or signed until it can be written")
    }

    // MARK: Connection

    private mutating func connect(_ now: Timestamp, _ random: inout some RandomNumberGenerator) {
        self.connection += 1
        self.inFlight = []
        self.sentUpTo = 0
        if self.durable == nil {
            self.link = .awaitingState
        } else {
            self.sayHello(now, &random)
        }
    }

    private mutating func disconnect() {
        self.connection += 1
        self.link = .down
        self.inFlight = []
        self.sentUpTo = 0
    }

    /// Says where the stream stands on disk, with a new nonce, and stops sending until it is answered.
    private mutating func sayHello(_ now: Timestamp, _ random: inout some RandomNumberGenerator) {
        guard let durable, !self.isCommittingFormer else {
            self.link = .awaitingState
            return
        }
        let nonce = Nonce(using: &random)
        let hello = Hello(
            stream: durable.stream, lastSequence: durable.lastSequence, lastID: durable.lastID, nonce: nonce,
            clock: self.configuration.clockQuality)
        // Kept even if it cannot be signed: it is tried again as if unanswered.
        self.link = .awaitingAnswer(nonce, since: now)
        self.helloAt = now
        self.helloWanted = nil
        self.hasReceiptsSinceHello = false
        self.hasUnverifiedReceipts = false
        do {
            let message = try Self.sign(hello, now, self.configuration, self.signer)
            self.actions.append(
                .publish(
                    Publication(
                        token: Publication.Token(order: 0, connection: self.connection),
                        topic: .hello(self.signer.issuer.id), bytes: message.bytes)))
            self.statistics.sent += 1
        } catch {
            self.raise(.signing, "the hello cannot be signed: \(error)")
        }
    }

    private static func sign(
        _ hello: Hello, _ now: Timestamp, _ configuration: AuditorConfiguration, _ signer: some Signer
    ) throws -> SignedMessage {
        try hello.signed(
            issuedAt: now, chain: configuration.certificateChain, former: configuration.formerCertificates, by: signer)
    }

    // MARK: The own certificate

    private mutating func renew(
        _ signer: any Signer, _ chain: [[UInt8]], _ outbox: some OutboxReader, _ now: Timestamp,
        _ random: inout some RandomNumberGenerator
    ) {
        guard signer.issuer == self.signer.issuer else {
            self.raise(.signing, "the new certificate is of \(signer.issuer), not of \(self.signer.issuer)")
            return
        }
        guard signer.certificateHash != self.signer.certificateHash else { return }
        self.signer = signer
        // Statements without a receipt may name any of them; without such statements none is needed.
        var former = self.configuration.formerCertificates
        if outbox.summary.unreceipted == 0, self.committing == nil { former = [] }
        former.append(contentsOf: self.configuration.certificateChain.prefix(1))
        self.configuration.formerCertificates = former.suffix(AuditorConfiguration.maximumFormerCertificates)
        self.configuration.certificateChain = chain
        self.isCommittingFormer = self.committing.map { !$0.appended.isEmpty } ?? false
        self.isRevoked = false
        self.signRetryAt = nil
        self.clear(.revoked)
        // The control center knows the new certificate by a hello, on this connection already.
        if case .down = self.link { return }
        self.sayHello(now, &random)
    }

    private mutating func trust(_ verifier: IdentityVerifier) {
        var verifier = verifier
        // What the control center has told since may be newer; lists of those who are gone are of no use.
        for list in self.trust.revocationLists { try? verifier.update([list]) }
        self.trust = verifier
        self.judgeOwnCertificate("the authority's revocation list")
    }

    private mutating func learnOfRevocation(_ how: String) {
        self.isRevoked = true
        self.raise(
            .revoked,
            "this auditor's certificate is revoked (\(how)): readings are signed and kept, nothing is sent; ask the operator for a new invitation, then secure-mqtt auditor join --renew"
        )
    }

    // MARK: Sending

    private mutating func send(_ now: Timestamp, _ outbox: some OutboxReader) throws(OutboxError) {
        guard !self.isFrozen else { return }
        var gone: Set<Int64> = []
        for index in self.inFlight.indices
        where !self.inFlight[index].isPublishing
            && now >= self.inFlight[index].sentAt.after(self.configuration.resendAfter)
        {
            guard let entry = try outbox.entry(order: self.inFlight[index].order) else {
                gone.insert(self.inFlight[index].order)
                continue
            }
            self.inFlight[index].sentAt = now
            self.inFlight[index].isPublishing = true
            self.statistics.resent += 1
            self.publish(entry)
            // A control center that has started anew may wait for a hello that stands for it.
            let helloIsOld = now >= self.helloAt.after(4 * self.configuration.helloAgainAfter)
            if helloIsOld, self.helloWanted == nil { self.helloWanted = now }
        }
        if !gone.isEmpty { self.inFlight.removeAll { gone.contains($0.order) } }
        // Messages of a former stream that are to be signed anew are not sent.
        let floor = max(self.state.resignBefore, self.durable?.resignBefore ?? 0) - 1
        while self.inFlight.count < self.configuration.window {
            let entries = try outbox.unreceipted(
                after: max(self.sentUpTo, floor), before: .max,
                limit: min(64, self.configuration.window - self.inFlight.count))
            guard !entries.isEmpty else { return }
            for entry in entries {
                self.sentUpTo = entry.order
                let place = self.place(of: entry.order)
                guard place == self.inFlight.count || self.inFlight[place].order != entry.order else { continue }
                self.inFlight.insert(
                    Flight(
                        order: entry.order, stream: entry.stream, sequence: entry.sequence, id: entry.id,
                        sentAt: now, isPublishing: true),
                    at: place)
                self.publish(entry)
            }
        }
    }

    private mutating func publish(_ entry: OutboxEntry) {
        self.statistics.sent += 1
        self.actions.append(
            .publish(
                Publication(
                    token: Publication.Token(order: entry.order, connection: self.connection),
                    topic: .measures(self.signer.issuer.id), bytes: entry.bytes)))
    }

    /// Where an order is, or would be, among what is in flight.
    private func place(of order: Int64) -> Int {
        var lower = 0
        var upper = self.inFlight.count
        while lower < upper {
            let middle = (lower + upper) / 2
            if self.inFlight[middle].order < order { lower = middle + 1 } else { upper = middle }
        }
        return lower
    }

    private func flight(_ token: Publication.Token) -> Int? {
        guard token.connection == self.connection else { return nil }
        let place = self.place(of: token.order)
        return place < self.inFlight.count && self.inFlight[place].order == token.order ? place : nil
    }

    private mutating func published(_ token: Publication.Token) {
        guard let index = self.flight(token) else { return }
        self.inFlight[index].isPublishing = false
        self.clear(.refusedByBroker)
    }

    private mutating func publishFailed(_ token: Publication.Token, _ isTooLarge: Bool, _ now: Timestamp) {
        guard token.connection == self.connection else { return }
        if isTooLarge {
            self.raise(
                .refusedByBroker,
                "the broker takes no messages as large as ours (up to \(Envelope.maximumSize) bytes); raise its limit, nothing is lost meanwhile"
            )
        }
        guard let index = self.flight(token) else { return }
        // Sent again when the time for a receipt is over.
        self.inFlight[index].isPublishing = false
        self.inFlight[index].sentAt = now
    }

    // MARK: The control center

    private mutating func meetControlCenter(_ bytes: [UInt8], _ now: Timestamp) {
        do {
            // A root that is sent along is of no use: we have ours.
            let chain = Array(try ControlCenterKeys(bytes).certificates.prefix(2))
            self.know(try self.trust.verify(der: chain, at: now.seconds, roles: [.controlCenter]))
            // A control center says its keys when it starts: it may have missed the hello, or answered under
            // a certificate that was not known yet.
            if case .awaitingAnswer(let nonce, let since) = self.link,
                self.hasUnverifiedReceipts || now > since.after(1_000_000_000)
            {
                self.link = .awaitingAnswer(nonce, since: Timestamp(nanoseconds: .min))
            }
            // Or it started from a backup, which only a hello finds out. Not sooner than one that went unanswered,
            // so that repeats of this message cost little.
            if self.isOpen { self.helloWanted = self.helloAt.after(self.configuration.helloAgainAfter) }
        } catch {
            self.raise(
                .controlCenterCertificate,
                "the certificate on \(Topic.keys) is not that of a control center: \(error); receipts are not believed")
        }
    }

    /// Makes a control center known whose certificate was verified elsewhere: a configured one.
    public mutating func know(_ controlCenter: VerifiedIdentity) {
        guard controlCenter.spiffeID.role == .controlCenter,
            let hash = CertificateHash(controlCenter.certificateHash)
        else { return }
        // Certificates are renewed; a handful of them is enough.
        if self.controlCenters.count >= 8, self.controlCenters[hash] == nil,
            let oldest = self.controlCenters.min(by: {
                ($0.value.validity.upperBound, $0.key.description) < ($1.value.validity.upperBound, $1.key.description)
            })
        {
            self.controlCenters[oldest.key] = nil
        }
        self.controlCenters[hash] = controlCenter
        self.clear(.controlCenterCertificate)
    }

    private mutating func update(revocationList bytes: [UInt8], _ now: Timestamp) {
        // An older list, or one of another authority, changes nothing.
        guard let list = try? RevocationList(der: bytes), (try? self.trust.update([list])) != nil else { return }
        self.actions.append(.keep(list))
        self.judgeOwnCertificate("revocation list \(list.number)")
    }

    private mutating func judgeOwnCertificate(_ how: String) {
        do {
            _ = try self.trust.verifyAtIssue(der: Array(self.configuration.certificateChain.prefix(2)))
        } catch {
            if error.code == .revoked { self.learnOfRevocation(how) }
        }
    }

    /// Verifies receipts, forgets what they cover, and compares where the control center stands.
    private mutating func receive(
        _ bytes: [UInt8], _ now: Timestamp, _ outbox: some OutboxReader, _ random: inout some RandomNumberGenerator
    ) throws(OutboxError) {
        guard let envelope = self.verified(bytes, now), let receipts = envelope.receipts,
            let stream = envelope.stream
        else {
            self.statistics.receiptsRefused += 1
            self.hasUnverifiedReceipts = true
            return
        }
        self.statistics.receiptsVerified += 1
        guard case .awaitingAnswer(let nonce, _) = self.link, receipts.nonce == nonce else {
            if let restoredAt, envelope.issuedAt < restoredAt { return }
            let receipted = self.statistics.receipted
            try self.settle(receipts, stream, now, outbox)
            if self.statistics.receipted > receipted { self.hasReceiptsSinceHello = true }
            return
        }
        // The answer is new, whatever the control center's clock says.
        if self.restoredAt != nil { self.restoredAt = envelope.issuedAt }
        try self.settle(receipts, stream, now, outbox)
        self.link = .open(nonce)
        self.watchClock(envelope.issuedAt, now)
        self.alerts.reset(lasting: self.active.filter { $0.key.isTold })
        try self.compare(receipts, stream, envelope.issuedAt, now, outbox, &random)
    }

    private func verified(_ bytes: [UInt8], _ now: Timestamp) -> Envelope? {
        guard let envelope = try? Envelope.decode(bytes), envelope.kind == .receipts,
            let controlCenter = self.controlCenters[envelope.certificateHash],
            envelope.isIssued(by: controlCenter.spiffeID),
            (try? self.trust.requireStanding(controlCenter, at: now.seconds)) != nil,
            envelope.subject?.auditor == self.signer.issuer,
            envelope.isSigned(by: controlCenter.publicKey)
        else { return nil }
        return envelope
    }

    /// Takes note of what is stored and of what is refused for good.
    private mutating func settle(
        _ receipts: Receipts, _ stream: StreamID, _ now: Timestamp, _ outbox: some OutboxReader
    ) throws(OutboxError) {
        for range in receipts.stored {
            guard let record = try outbox.record(stream, range.last), record.id == range.lastID else {
                self.statistics.foreignIDs += 1
                continue
            }
            let covered = range.first...range.last
            // Also those whose receipt was on its way to the disk when they were sent again: they would fill the
            // window for ever.
            self.inFlight.removeAll { $0.stream == stream && covered.contains($0.sequence) }
            let count = try outbox.unreceiptedCount(stream, covered)
            guard count > 0 else { continue }
            self.statistics.receipted += count
            self.changes.append(.receipted(stream, covered, at: now))
            if record.order > self.state.receiptedHead?.order ?? 0 {
                self.state.receiptedHead = StreamHead(
                    stream: stream, sequence: range.last, id: record.id, order: record.order)
            }
            self.state.lastReceiptAt = now
            self.isDirty = true
        }
        if self.isDirty, !receipts.stored.isEmpty { try self.trimRing(now, outbox) }
        for refused in receipts.refused where refused.reason.isForGood {
            try self.refuse(refused, stream, now, outbox)
        }
    }

    private mutating func trimRing(_ now: Timestamp, _ outbox: some OutboxReader) throws(OutboxError) {
        let limit = Timestamp(nanoseconds: now.nanoseconds - self.configuration.ringAge)
        let isOld = try outbox.oldestReceipt().map { $0 < limit } ?? false
        guard isOld || outbox.summary.ringBytes > self.configuration.maximumRingBytes else { return }
        self.changes.append(
            .trimRing(receiptedBefore: limit, maximumBytes: self.configuration.maximumRingBytes))
    }

    private mutating func refuse(
        _ refused: Receipts.RefusedMessage, _ stream: StreamID, _ now: Timestamp, _ outbox: some OutboxReader
    ) throws(OutboxError) {
        guard let record = try outbox.record(stream, refused.sequence), record.id == refused.id else {
            self.statistics.foreignIDs += 1
            return
        }
        guard !record.isReceipted else { return }
        var signsAnew = refused.reason == .fork || refused.reason == .streamClosed
        if refused.reason == .revoked || refused.reason == .expired {
            let bytes = try outbox.entry(order: record.order)?.bytes
            let isOwn = bytes.flatMap { try? Envelope.decode($0) }?.certificateHash == self.signer.certificateHash
            if isOwn, refused.reason == .revoked {
                self.learnOfRevocation("the control center says so")
                return
            }
            // What a former certificate signed and is not taken any more: the present one signs it anew.
            signsAnew = !isOwn
        }
        if signsAnew {
            // Those of a former stream are being signed anew already.
            guard stream == self.state.stream, !self.isStreamRefused else { return }
            self.isStreamRefused = true
            // The answer to a new hello says where the control center stands now.
            if case .open(let nonce) = self.link {
                self.link = .awaitingAnswer(nonce, since: Timestamp(nanoseconds: .min))
            }
            return
        }
        guard !self.isFrozen else { return }
        self.changes.append(.deadLetter(stream, sequence: refused.sequence, refused.reason, at: now))
        self.inFlight.removeAll { $0.order == record.order }
        self.statistics.deadLetters += 1
        self.isDirty = true
        self.announce(
            .deadLetter,
            "message \(refused.sequence) of stream \(stream) was refused for good: \(refused.reason); it is kept among the dead letters"
        )
    }

    /// Compares the control center's newest message with what is known here.
    private mutating func compare(
        _ answer: Receipts, _ stream: StreamID, _ issuedAt: Timestamp, _ now: Timestamp, _ outbox: some OutboxReader,
        _ random: inout some RandomNumberGenerator
    ) throws(OutboxError) {
        guard let newest = answer.newest else {
            if self.isStreamRefused {
                self.restart(after: self.state.receiptedHead?.id ?? self.state.firstPrevious, now, &random)
            } else if self.state.receiptedHead != nil {
                try self.offerAgain(after: 0, issuedAt, outbox)
            }
            return
        }
        let known: Int64?
        if let record = try outbox.record(stream, newest.sequence) {
            known = record.id == newest.id ? record.order : nil
        } else if newest.id == self.state.firstPrevious {
            known = self.state.firstOrder - 1
        } else if let head = self.state.receiptedHead, head.id == newest.id {
            known = head.order
        } else {
            known = nil
        }
        guard let known, !self.isStreamRefused else {
            if known == nil {
                self.announce(
                    .rolledBack,
                    "the control center has message \(newest.sequence) of stream \(stream), which this state directory does not know: it is an old image, a copy, or new; a new stream follows"
                )
            }
            self.restart(after: newest.id, now, &random)
            return
        }
        try self.offerAgain(after: known, issuedAt, outbox)
        try self.fillHoles(answer, stream, upTo: newest.sequence, issuedAt, outbox)
    }

    private mutating func offerAgain(
        after order: Int64, _ issuedAt: Timestamp, _ outbox: some OutboxReader
    ) throws(OutboxError) {
        let count = try outbox.ringCount(after: order)
        guard count > 0, !self.doubtAnswer() else { return }
        self.changes.append(.offerAgainAfter(order: order))
        if let head = self.state.receiptedHead, head.order > order { self.state.receiptedHead = nil }
        self.controlCenterRestored(count, issuedAt)
    }

    /// What has a receipt but is in none of the control center's runs was lost there.
    private mutating func fillHoles(
        _ answer: Receipts, _ stream: StreamID, upTo last: Int64, _ issuedAt: Timestamp, _ outbox: some OutboxReader
    ) throws(OutboxError) {
        let runs = answer.stored.sorted { $0.first < $1.first }
        guard let first = runs.first else { return }
        // Below the first of as many as an answer may list, nothing is known.
        var next = runs.count < Receipts.maximumAnswerRuns ? 1 : first.last + 1
        for run in runs {
            if run.first > next {
                let hole = next...(run.first - 1)
                let count = try outbox.ringCount(stream, hole)
                if count > 0 {
                    guard !self.doubtAnswer() else { return }
                    self.changes.append(.offerAgain(stream, hole))
                    self.controlCenterRestored(count, issuedAt)
                }
            }
            next = max(next, run.last + 1)
        }
    }

    /// An answer that tells of a loss may have been overtaken by the receipts of what seems to be lost: then it is
    /// asked again.
    private mutating func doubtAnswer() -> Bool {
        guard self.hasReceiptsSinceHello else { return false }
        self.helloWanted = self.helloAt
        return true
    }

    private mutating func controlCenterRestored(_ count: Int, _ issuedAt: Timestamp) {
        self.restoredAt = issuedAt
        self.sentUpTo = 0
        self.isDirty = true
        self.announce(
            .controlCenterRestored,
            "the control center has lost \(count) messages that it had receipted; they are offered again")
    }

    /// Opens a new stream behind a message that the control center has; what has no receipt is signed anew into it.
    private mutating func restart(
        after previous: MessageID, _ now: Timestamp, _ random: inout some RandomNumberGenerator
    ) {
        self.restarts.removeAll { now.nanoseconds - $0.nanoseconds > 3_600_000_000_000 }
        guard self.restarts.count < self.configuration.streamsPerHour else {
            // Asked again with the next hello.
            self.link = .awaitingAnswer(Nonce(using: &random), since: now)
            self.raise(
                .twin,
                "\(self.restarts.count) new streams within an hour: does a copy of the state directory run elsewhere? Nothing is sent for a while"
            )
            return
        }
        self.restarts.append(now)
        self.clear(.twin)
        var next = OutboxState(stream: StreamID(using: &random), previous: previous, nextOrder: self.state.nextOrder)
        next.resignBefore = self.state.nextOrder
        next.receiptedHead = self.state.receiptedHead
        next.source = self.state.source
        next.lastReceiptAt = self.state.lastReceiptAt
        self.state = next
        self.isStreamRefused = false
        self.isDirty = true
        self.inFlight = []
        self.sentUpTo = 0
        self.statistics.restarts += 1
        self.announce(.streamRestart, "stream \(next.stream) is opened behind message \(previous)")
    }

    // MARK: Alarms

    /// Raises what lasts: once, until it is over.
    private mutating func raise(_ kind: Alarm.Kind, _ text: String) {
        guard self.active.updateValue(text, forKey: kind) == nil else { return }
        self.actions.append(.raise(Alarm(kind, text)))
        self.alerts.raise(kind, text)
    }

    /// Raises what has happened and is over.
    private mutating func announce(_ kind: Alarm.Kind, _ text: String) {
        self.actions.append(.raise(Alarm(kind, text)))
        if kind.isTold { self.alerts.raise(kind, text, lasts: false) }
    }

    private mutating func clear(_ kind: Alarm.Kind) {
        guard self.active.removeValue(forKey: kind) != nil else { return }
        self.actions.append(.clear(kind))
        self.alerts.clear(kind)
    }

    // MARK: Updates and alerts

    /// So many messages of a control center wait to be looked at while something else has to be finished; it sends
    /// again what has no answer.
    private static let maximumTold = 64
    /// So many refusals are answered in a minute: whoever replays updates must not fill the stream.
    private static let refusalsPerMinute = 10

    private mutating func hear(_ message: ControlMessage) {
        guard self.told.count < Self.maximumTold else {
            self.statistics.updatesRefused += 1
            return
        }
        self.told.append(message)
    }

    /// The nonce of the newest hello.
    private var nonce: Nonce? {
        switch self.link {
        case .awaitingAnswer(let nonce, _), .open(let nonce): nonce
        case .down, .awaitingState: nil
        }
    }

    /// Judges what control centers have told. What becomes of an update, and the result that says so, is one
    /// transaction.
    private mutating func takeTold(_ now: Timestamp) {
        while let message = self.told.popFirst() {
            let gate = ControlGate(
                auditor: self.signer.issuer, trust: self.trust, nonce: self.nonce,
                clock: self.configuration.clockQuality, now: now)
            let controlCenters = self.controlCenters
            switch gate.judge(message, memory: self.memory, controlCenter: { controlCenters[$0] }) {
            case .apply(let update, let value): self.apply(update, value, now)
            case .applied(let update, let former):
                self.answer(update, isApplied: true, former.reason, now)
            case .show(let alert, let isPersonal): self.show(alert, isPersonal, now)
            case .repeated: self.statistics.updatesRefused += 1
            case .ignore(let refusal):
                self.statistics.updatesRefused += 1
                if Self.may(&self.ignoredAt, now) {
                    self.announce(.updateRefused, "a message on \(message.topic.prefix(200)) was not taken: \(refusal)")
                }
            case .refuse(let update, let refusal):
                self.statistics.updatesRefused += 1
                guard Self.may(&self.answeredAt, now) else { continue }
                self.answer(update, isApplied: false, refusal.description, now)
                self.announce(.updateRefused, "\(update.content.parameter) of \(update.controller.id): \(refusal)")
            }
        }
    }

    /// So many a minute.
    private static func may(_ times: inout Deque<Timestamp>, _ now: Timestamp) -> Bool {
        while let first = times.first, now.nanoseconds - first.nanoseconds > 60_000_000_000 || now < first {
            times.removeFirst()
        }
        guard times.count < Self.refusalsPerMinute else { return false }
        times.append(now)
        return true
    }

    private mutating func apply(_ update: ControlGate.Told<Update>, _ value: ParameterValue, _ now: Timestamp) {
        let parameter = update.content.parameter
        let former = self.memory.settings[parameter.rawValue]
        self.memory.settings[parameter.rawValue] = ControlMemory.Setting(
            value: value.description, update: update.id.description, controller: update.controller.rawValue,
            appliedAt: now.nanoseconds)
        guard self.answer(update, isApplied: true, nil, now) else {
            self.memory.settings[parameter.rawValue] = former
            return
        }
        self.settings.append((parameter, value))
        self.statistics.updatesApplied += 1
        self.announce(
            .updateApplied,
            "\(parameter) is \(value)\(update.content.unit.map { " " + $0 } ?? "") now, by \(update.controller.id)")
    }

    /// Signs what became of an update, and remembers it.
    ///
    /// - Returns: Whether that could be signed; if not, nothing has changed, and the update comes again.
    @discardableResult
    private mutating func answer(
        _ update: ControlGate.Told<Update>, isApplied: Bool, _ reason: String?, _ now: Timestamp
    ) -> Bool {
        let parameter = update.content.parameter
        let reason = reason.map { Self.short($0, UpdateResult.maximumReasonLength) }
        guard
            self.append(
                UpdateResult(
                    update: update.id, isApplied: isApplied, reason: reason, value: self.memory.value(of: parameter)),
                now)
        else { return false }
        if update.sequence > self.memory.lastSequences[update.controller.rawValue] ?? 0,
            update.content.nonce == self.nonce
        {
            self.memory.remember(sequence: update.sequence, of: update.controller)
        }
        self.memory.remember(
            ControlMemory.Handled(
                update: update.id.description, controller: update.controller.rawValue,
                batch: update.content.batch?.description, parameter: parameter.rawValue, isApplied: isApplied,
                reason: reason))
        self.remember()
        return true
    }

    private mutating func show(_ alert: ControlGate.Told<Alert>, _ isPersonal: Bool, _ now: Timestamp) {
        guard self.append(UpdateResult(update: alert.id, isApplied: true, reason: "shown"), now) else { return }
        self.memory.remember(
            ControlMemory.ShownAlert(
                controller: alert.controller.rawValue, sequence: alert.sequence, word: alert.content.word.rawValue,
                text: alert.content.text, isRaised: alert.content.isRaised, isPersonal: isPersonal,
                shownAt: now.nanoseconds))
        self.remember()
        self.statistics.alertsShown += 1
        self.announce(
            .controlCenterAlert,
            "\(alert.controller.id): \(alert.content.word)\(alert.content.isRaised ? "" : " is over"): \(alert.content.text)"
        )
    }

    private mutating func append(_ result: UpdateResult, _ now: Timestamp) -> Bool {
        do {
            try self.append(try Payload.result(result, of: self.signer.issuer.id), readings: 0, signedAt: now)
            return true
        } catch {
            self.signingFailed(error, now)
            return false
        }
    }

    /// The memory goes to disk with what is signed.
    private mutating func remember() {
        self.changes.removeAll { if case .remember = $0 { true } else { false } }
        self.changes.append(.remember(self.memory))
        self.isDirty = true
    }

    private static func short(_ text: String, _ limit: Int) -> String {
        var text = text
        while text.utf8.count > limit { text.removeLast() }
        return text
    }

    /// Parameters of the machine itself.
    private mutating func set(_ parameter: Topic.Parameter, _ value: ParameterValue) {
        switch (parameter, value) {
        case (.sampleRate, .number(let number)): self.sampleRate = number.nanoseconds ?? 0
        case (.statementInterval, .number(let number)):
            if let interval = number.nanoseconds { self.configuration.statementInterval = interval }
        case (.outboxLimit, .number(let number)):
            self.configuration.maximumOutboxMessages = Int(number.mantissa)
        case (.metersEnabled, .texts(let names)):
            let meters = names.compactMap { try? MeterName($0) }
            self.enabledMeters = meters.isEmpty ? nil : Set(meters)
            // What is not to be told of cannot be silent.
            if let enabledMeters { self.meters = self.meters.filter { enabledMeters.contains($0.key) } }
        default: break
        }
    }

    private mutating func sendAlerts(_ now: Timestamp) {
        guard self.configuration.sendsAlerts, self.isOpen else { return }
        while true {
            let former = self.alerts
            guard let (alert, sequence) = self.alerts.next(at: now) else { break }
            do {
                let message = try Self.sign(alert, sequence, now, self.signer)
                self.actions.append(
                    .publish(
                        Publication(
                            token: Publication.Token(order: 0, connection: self.connection),
                            topic: .auditorAlerts(self.signer.issuer.id), bytes: message.bytes)))
            } catch {
                // It waits. The alarm about the key that does not sign is in the log.
                self.alerts = former
                break
            }
        }
        guard self.alerts.toldKinds != self.memory.told ?? [] else { return }
        self.memory.told = self.alerts.toldKinds
        self.remember()
    }

    private static func sign(
        _ alert: Alert, _ sequence: Int64, _ now: Timestamp, _ signer: some Signer
    ) throws -> SignedMessage {
        try alert.signed(
            sequence: sequence, expires: now.after(86_400_000_000_000), issuedAt: now, by: signer)
    }

    // MARK: Watching

    /// A meter that is read seldom is silent seldom. 0 for never.
    private var meterSilentAfter: Int64 {
        let limit = self.configuration.meterSilentAfter
        return limit > 0 ? max(limit, 3 * self.sampleRate) : 0
    }

    private mutating func watchMeters(_ now: Timestamp, _ outbox: some OutboxReader) {
        let limit = self.meterSilentAfter
        guard limit > 0, !self.hasSourceEnded else { return }
        // A meter that is not read is not silent.
        guard !self.isFull(outbox.summary), self.retry == nil, self.signRetryAt == nil, self.state.resignBefore == 0
        else {
            for meter in self.meters.keys { self.meters[meter]?.lastGiven = now }
            return
        }
        let silent = self.meters.filter { now >= $0.value.lastGiven.after(limit) }.map(\.key.rawValue).sorted()
        if silent.isEmpty {
            self.clear(.meterSilent)
        } else {
            self.raise(
                .meterSilent,
                "nothing from \(silent.joined(separator: ", ")) for \(limit / 1_000_000_000) s; look at meter and cable"
            )
        }
    }

    private mutating func watchDisk(_ bytes: Int64) {
        let minimum = self.configuration.minimumDiskSpace
        if bytes < minimum {
            self.raise(.diskFilling, "\(bytes >> 20) MiB are free on the disk of the state directory; make room")
        } else if bytes > minimum + minimum / 4 {
            self.clear(.diskFilling)
        }
    }

    /// - Parameter issuedAt: When the control center signed the answer to the newest hello.
    private mutating func watchClock(_ issuedAt: Timestamp, _ now: Timestamp) {
        let (difference, overflow) = now.nanoseconds.subtractingReportingOverflow(issuedAt.nanoseconds)
        let limit = self.configuration.maximumClockDifference
        if overflow || difference.magnitude > limit.magnitude {
            self.raise(
                .clockOff,
                "the clock is \(difference / 1_000_000_000) s off the control center's; set it, and let something keep it"
            )
        } else {
            self.clear(.clockOff)
        }
    }
}

extension OutboxChange {
    fileprivate var offersAgain: Bool {
        switch self {
        case .offerAgain, .offerAgainAfter: true
        default: false
        }
    }
}

extension Timestamp {
    /// Saturating, so that no clock value from outside can overflow.
    fileprivate func after(_ nanoseconds: Int64) -> Timestamp {
        let (sum, overflow) = self.nanoseconds.addingReportingOverflow(nanoseconds)
        return Timestamp(nanoseconds: overflow ? (nanoseconds < 0 ? .min : .max) : sum)
    }
}
