public import Identity
public import LiCore
public import PKI
public import Telemetry

/// The sixth step: a batch of decisions, ready to be written in one transaction, and what to say once it is.
///
/// A step that could not be written (disk full) is written again as it is: nothing in it changes. Only after
/// it is on disk may deliveries be settled and ``receipts`` be signed and published.
public struct IngestStep: Sendable {
    /// What is written.
    public internal(set) var batch = CommitBatch()
    /// What auditors are told, in this order.
    public internal(set) var receipts: [ReceiptDraft] = []
    /// Whose hello came, and its nonce: what waits for that auditor can be signed now.
    public internal(set) var nonces: [(auditor: SPIFFEID, nonce: Nonce)] = []
    /// How many messages met which reason, by claimed ID; `duplicate` and held ones too. For logs and metrics.
    public var counts: [CommitBatch.Count: Int64] { self.batch.counts }
}

/// The ingest path as a value without threads, sockets or clocks: receive, decode, identify, verify, order,
/// commit, receipt.
///
///     var core = IngestCore(store: store, verifier: verifier)
///     let step = try core.order(arrivals.map { core.examiner.examine($0, at: now) }, at: now)
///     try core.commit(step)
///     let messages = try step.receipts.map { try $0.signed(by: signer, at: now) }
///
/// Steps are committed in the order in which they were made, each before the next is made. Examining may run
/// ahead, on any number of threads.
public struct IngestCore<Store: LedgerStore> {
    private struct Party {
        var order: Order
        var spiffeID: SPIFFEID
        var told: TokenBucket
        var alerts: TokenBucket
        var lastUsed: UInt64
    }

    private struct SeriesKey: Hashable {
        var auditor: Int64
        var meter: MeterName
        var quantity: UInt8
        var part: UInt8
        var unit: UInt8
    }

    private struct DirtyStream {
        var party: String
        var id: StreamID
        /// The runs that begin at these numbers are new or longer, or gone.
        var put: Set<Int64> = []
        var removed: Set<Int64> = []

        mutating func add(_ change: RunSet.Change) {
            switch change {
            case .none: break
            case .created(let first), .extended(let first): self.put.insert(first)
            case .lowered(let from, let to):
                self.removed.insert(from)
                self.put.insert(to)
            case .joined(let first, let removed):
                self.put.insert(first)
                self.removed.insert(removed)
            }
        }
    }

    private struct StreamKey: Hashable {
        var party: String
        var stream: StreamID
    }

    /// The steps before ``order(_:at:)``: a value to hand to other threads. It changes as certificates come.
    public private(set) var examiner: Examiner
    public let configuration: IngestConfiguration

    private var overlay: StoreOverlay<Store>
    private var next: NextNumbers?
    private var parties: [String: Party] = [:]
    private var series: [SeriesKey: Int64] = [:]
    private var quarantineUse: [CommitBatch.Count: QuarantineUse] = [:]
    private var knownIDs: Set<String> = []
    /// By SPIFFE ID, of the newest hello of each auditor. After a restart they come anew: an auditor whose messages
    /// stay unanswered says hello again.
    private var vouches: [String: Vouch] = [:]
    private var stepNumber: UInt64 = 0

    // The step in the making.
    private var step = IngestStep()
    private var dirty: [Int64: DirtyStream] = [:]
    private var decided: [StreamKey: DecidedStream] = [:]
    private var decidedOrder: [StreamKey] = []
    private var hellos: [(party: String, hello: Hello)] = []
    private var standings: [CertificateHash: Standing] = [:]
    private var newForks: Set<MessageID> = []
    private var newMeasures: [MeasurePlace: ExactDecimal] = [:]

    public init(store: Store, verifier: IdentityVerifier, configuration: IngestConfiguration = IngestConfiguration()) {
        self.overlay = StoreOverlay(store)
        self.examiner = Examiner(directory: Directory(), verifier: verifier)
        self.configuration = configuration
    }

    /// The store, as of the last commit.
    public var store: Store { self.overlay.store }

    /// Takes newer revocation lists, in force from the next step on.
    ///
    /// - Throws: `PKIError`; then nothing has changed.
    public mutating func update(_ lists: [RevocationList]) throws(PKIError) {
        try self.examiner.verifier.update(lists)
    }

    /// Exchanges who is trusted, in force from the next step on. Certificates that are known are verified anew.
    public mutating func replaceTrust(_ verifier: IdentityVerifier, at now: Timestamp) {
        self.examiner.directory = Directory()
        self.examiner.verifier = verifier
        // Hellos under the former trust stand for nothing; they come anew.
        self.vouches = [:]
        self.update(self.examiner.fleet.fleet, at: now)
    }

    /// Takes who may use the original's format, in force from the next step on.
    public mutating func update(_ fleet: Fleet, at now: Timestamp) {
        self.examiner.fleet = FleetView(fleet, verifier: self.examiner.verifier, at: now)
    }

    /// All seven steps in one thread.
    ///
    /// - Returns: what to publish. All arrivals may be settled.
    /// - Throws: what the store throws; then nothing is decided, and the same arrivals may be given again.
    public mutating func process(_ arrivals: [Arrival], at now: Timestamp, signer: some Signer) throws -> [Outgoing] {
        let examiner = self.examiner
        let step = try self.order(arrivals.map { examiner.examine($0, at: now) }, at: now)
        do {
            try self.commit(step)
        } catch {
            self.forget()
            throw error
        }
        return try step.receipts.map { try $0.signed(by: signer, at: now) }
    }

    // MARK: Commit

    /// Writes a step.
    ///
    /// - Throws: what the store throws. Then the step is to be committed again, or to be given up with ``forget()``.
    public mutating func commit(_ step: IngestStep) throws {
        if !step.batch.isEmpty { try self.overlay.store.commit(step.batch) }
        self.overlay.clear()
        self.trim()
    }

    /// Gives up a step that was not committed: everything is read anew from the store.
    public mutating func forget() {
        self.overlay.clear()
        self.next = nil
        self.parties = [:]
        self.series = [:]
        self.quarantineUse = [:]
        self.knownIDs = []
        self.examiner.directory = Directory()
        self.resetStep()
    }

    private mutating func resetStep() {
        self.step = IngestStep()
        self.dirty.removeAll(keepingCapacity: true)
        self.decided.removeAll(keepingCapacity: true)
        self.decidedOrder.removeAll(keepingCapacity: true)
        self.hellos = []
        self.standings.removeAll(keepingCapacity: true)
        self.newForks = []
        self.newMeasures = [:]
    }

    /// Keeps memory bounded: what is dropped here is read again when it is needed.
    private mutating func trim() {
        if self.parties.count > self.configuration.maximumAuditorsInMemory {
            let keep = self.configuration.maximumAuditorsInMemory / 2
            let oldest = self.parties.sorted { $0.value.lastUsed < $1.value.lastUsed }.dropLast(keep)
            for party in oldest { self.parties[party.key] = nil }
        }
        if self.series.count > self.configuration.maximumSeriesInMemory { self.series = [:] }
        if self.quarantineUse.count > self.configuration.maximumSeriesInMemory { self.quarantineUse = [:] }
        if self.knownIDs.count > self.configuration.maximumAuditorsInMemory { self.knownIDs = [] }
        if self.vouches.count > self.configuration.maximumVouches { self.vouches = [:] }
        if self.examiner.directory.count > self.configuration.maximumAuditorsInMemory {
            self.examiner.directory = Directory()
        }
    }

    // MARK: Order

    /// Decides about messages, in the order in which they arrived.
    ///
    /// - Throws: what a look-up in the store throws; then nothing is decided, and the same messages may be given
    ///   again.
    public mutating func order(_ examined: [Examined], at now: Timestamp) throws -> IngestStep {
        do {
            self.resetStep()
            self.stepNumber += 1
            self.step.batch.statements.reserveCapacity(examined.count)
            for message in examined { try self.take(message, at: now) }
            self.finishStreams()
            try self.finishReceipts()
            defer { self.resetStep() }
            return self.step
        } catch {
            self.forget()
            throw error
        }
    }

    private mutating func take(_ message: Examined, at now: Timestamp) throws {
        switch message {
        case .statement(let statement):
            try self.take(statement, at: now)
        case .hello(let hello):
            try self.take(hello, at: now)
        case .measure(let measure):
            try self.take(measure, at: now)
        case .alert(let alert):
            try self.take(alert, at: now)
        case .unknownCertificate(let decoded):
            guard try self.loadCertificate(decoded.envelope.certificateHash) else {
                try self.hold(.certificateUnknown, topic: decoded.arrival.topic)
                return
            }
            switch self.examiner.examine(decoded) {
            case .unknownCertificate: try self.hold(.certificateUnknown, topic: decoded.arrival.topic)
            case let examined: try self.take(examined, at: now)
            }
        case .refused(let arrival, let refusal):
            // Its sender comes again; that of a reading in the original's format does not, so its bytes are kept.
            if refusal.reason == .busy, !self.examiner.isMeasure(arrival) {
                try self.hold(.busy, topic: arrival.topic)
            } else {
                try self.quarantine(arrival, refusal, at: now)
            }
        }
    }

    private mutating func take(_ statement: VerifiedStatement, at now: Timestamp) throws {
        let envelope = statement.decoded.envelope
        let hash = envelope.certificateHash
        // It may be gone from memory since the signature was verified.
        if self.examiner.directory[hash] == nil { _ = try self.loadCertificate(hash) }
        guard let certificate = self.examiner.directory[hash] else {
            return try self.hold(.certificateUnknown, topic: statement.decoded.arrival.topic)
        }
        let key = statement.signer.rawValue
        let position = statement.position
        let link = Link(
            stream: position.stream, sequence: position.sequence, id: envelope.id, previous: position.previous)
        let objection: Reason?
        var verdict: Vouch.Verdict?
        switch self.standing(of: certificate, hash, at: now) {
        case .good: objection = nil
        case .expired:
            let said = self.vouches[key]?.verdict(on: link, verifier: self.examiner.verifier, at: now) ?? .silent
            objection = said == .covered || said == .named ? nil : .expired
            verdict = said
        case .refused(let reason): objection = reason
        case .held: return try self.hold(.busy, topic: statement.decoded.arrival.topic)
        }

        let index = try self.partyIndex(statement.signer, at: now)
        let auditor = self.parties.values[index].order.auditor
        if self.parties.values[index].order.streams[position.stream] == nil,
            let stream = try self.overlay.store.stream(auditor: auditor, id: position.stream)
        {
            self.parties.values[index].order.remember(stream)
        }
        let wasDisputedFrom = self.parties.values[index].order.streams[position.stream]?.disputedFrom
        let newStream = try self.numbers().stream
        let decision = try self.parties.values[index].order.decide(
            link, objection: objection, onWord: verdict == .covered, newStream: newStream, stored: self.overlay)

        switch decision {
        case .append(let appended):
            try self.append(statement, link, appended, certificate: certificate.number, party: key, at: now)
            self.decide(key, position.stream) {
                $0.stored.append(Receipts.StreamHead(sequence: link.sequence, id: link.id))
            }
        case .duplicate:
            self.count(.duplicate, claimed: statement.signer.id.rawValue)
            self.decide(key, position.stream) {
                $0.stored.append(Receipts.StreamHead(sequence: link.sequence, id: link.id))
            }
        case .refuse(.expired, _) where verdict == .silent:
            // Not for good: the auditor keeps it, and a hello under its next certificate will stand for it.
            try self.hold(.expired, topic: statement.decoded.arrival.topic)
        case .refuse(let reason, _):
            try self.quarantine(
                statement.decoded.arrival, Refusal(reason, Self.detail(of: reason, link)), at: now)
            self.tell(reason, link, index, key, at: now)
            if verdict == .contradicted { self.alarmOfContradiction(link, statement.signer, at: now) }
        case .fork(let forked):
            try self.keepEvidence(
                statement, link, forked, certificate: certificate.number, auditor: auditor,
                isWider: wasDisputedFrom.map { forked.disputedFrom < $0 } ?? true, at: now)
            self.touch(forked.stream, party: key, id: position.stream)
            self.tell(.fork, link, index, key, at: now)
        case .hold(let reason):
            try self.hold(reason, topic: statement.decoded.arrival.topic)
        }
    }

    private mutating func append(
        _ statement: VerifiedStatement, _ link: Link, _ appended: Order.Appended, certificate: Int64, party: String,
        at now: Timestamp
    ) throws {
        var numbers = try self.numbers()
        if appended.isNewStream { numbers.stream += 1 }
        let leafIndex = numbers.leafIndex
        numbers.leafIndex += 1
        self.next = numbers
        self.overlay.add(link, stream: appended.stream)
        guard let auditor = self.parties[party]?.order.auditor else { return }

        for reading in statement.readings {
            self.step.batch.readings.append(
                CommitBatch.Reading(
                    series: try self.seriesNumber(of: reading, auditor: auditor), time: reading.time,
                    interval: reading.interval ?? 0, value: reading.value, quality: reading.quality.rawValue))
        }
        self.step.batch.statements.append(
            CommitBatch.Statement(
                leafIndex: leafIndex, auditor: auditor, stream: appended.stream, sequence: link.sequence, id: link.id,
                previous: link.previous, kind: statement.decoded.envelope.kind.description, certificate: certificate,
                received: now, bytes: statement.decoded.arrival.bytes, readings: statement.readings.count))

        self.touch(appended.stream, party: party, id: link.stream, appended.change)
        if appended.opens { self.step.batch.openStreams[auditor] = appended.stream }
        if let closed = appended.closes,
            let id = self.parties[party]?.order.streams.first(where: { $0.value.number == closed })?.key
        {
            self.touch(closed, party: party, id: id)
        }
        if appended.isRestart {
            self.step.batch.alarms.append(
                CommitBatch.Alarm(
                    kind: .streamRestart, auditor: statement.signer.rawValue,
                    detail: "stream \(link.stream) began after \(link.previous)", raised: now))
        }
    }

    /// Stored once; the same value again is a repeat, another value is kept as evidence.
    private mutating func take(_ verified: VerifiedMeasure, at now: Timestamp) throws {
        let index = try self.partyIndex(verified.signer, at: now)
        let auditor = self.parties.values[index].order.auditor
        let measure = verified.measure
        let place = MeasurePlace(auditor: auditor, measure)
        let stored =
            try self.newMeasures[place]
            ?? self.overlay.store.measure(auditor: auditor, local: place.local, kind: place.kind)
        if let stored {
            guard stored.isNumericallyEqual(to: measure.value) else {
                let detail = "\(measure.text) contradicts \(stored), which is stored"
                return try self.quarantine(verified.arrival, Refusal(.conflict, detail), at: now)
            }
            self.count(.duplicate, claimed: measure.id.rawValue)
            return
        }
        self.newMeasures[place] = measure.value
        self.step.batch.measures.append(
            CommitBatch.Measure(
                auditor: auditor, local: place.local, kind: place.kind, time: verified.time,
                interval: Int64(verified.member.interval) * 1_000_000_000, value: measure.value,
                certificateHash: verified.member.certificateHash, received: now, bytes: verified.arrival.bytes))
    }

    private mutating func take(_ hello: VerifiedHello, at now: Timestamp) throws {
        let spiffeID = hello.identity.spiffeID
        _ = try self.partyIndex(spiffeID, at: now)
        self.vouches[spiffeID.rawValue] = Vouch(hello)
        if self.examiner.directory[hello.certificateHash]?.identity == nil {
            try self.register(hello, at: now)
        }
        for leaf in hello.former { try self.register(former: leaf, hello, at: now) }
        self.hellos.append((spiffeID.rawValue, hello.hello))
        self.step.nonces.append((spiffeID, hello.hello.nonce))
    }

    private mutating func take(_ alert: VerifiedAlert, at now: Timestamp) throws {
        let arrival = alert.decoded.arrival
        let envelope = alert.decoded.envelope
        let hash = envelope.certificateHash
        // It may be gone from memory since the signature was verified.
        if self.examiner.directory[hash] == nil { _ = try self.loadCertificate(hash) }
        guard let certificate = self.examiner.directory[hash] else {
            return try self.hold(.certificateUnknown, topic: arrival.topic)
        }
        switch self.standing(of: certificate, hash, at: now) {
        case .good: break
        case .expired:
            return try self.quarantine(
                arrival, Refusal(.expired, "the certificate is outside of its validity"), at: now)
        case .refused(let reason):
            return try self.quarantine(arrival, Refusal(reason, "the certificate does not stand"), at: now)
        case .held: return try self.hold(.busy, topic: arrival.topic)
        }
        guard now < alert.expires else {
            return try self.quarantine(
                arrival, Refusal(.expired, "it was to be shown before \(alert.expires)"), at: now)
        }
        let index = try self.partyIndex(alert.signer, at: now)
        guard self.parties.values[index].alerts.take(at: now) else {
            return try self.hold(.busy, topic: arrival.topic)
        }
        self.step.batch.auditorAlerts.append(
            CommitBatch.AuditorAlert(
                auditor: self.parties.values[index].order.auditor, id: envelope.id, sequence: alert.sequence,
                alert: alert.alert, certificate: certificate.number, received: now, bytes: arrival.bytes))
    }

    /// Remembers a certificate of which the chain was just verified.
    private mutating func register(_ hello: VerifiedHello, at now: Timestamp) throws {
        if let record = try self.overlay.store.certificate(hash: hello.certificateHash.bytes) {
            self.examiner.directory[hello.certificateHash] = KnownCertificate(
                number: record.number, identity: hello.identity)
            return
        }
        var numbers = try self.numbers()
        let number = numbers.certificate
        numbers.certificate += 1
        self.next = numbers
        self.examiner.directory[hello.certificateHash] = KnownCertificate(number: number, identity: hello.identity)
        self.step.batch.certificates.append(
            CommitBatch.Certificate(
                number: number, hash: hello.certificateHash.bytes, spiffeID: hello.identity.spiffeID.rawValue,
                chain: hello.chain, firstSeen: now))
    }

    /// Remembers a certificate that the auditor has had before and no hello has brought until now.
    private mutating func register(former leaf: [UInt8], _ hello: VerifiedHello, at now: Timestamp) throws {
        let hash = CertificateHash(hashing: leaf)
        guard hello.chain.count > 1, try !self.loadCertificate(hash) else { return }
        var numbers = try self.numbers()
        let number = numbers.certificate
        let spiffeID = hello.identity.spiffeID
        guard
            let known = KnownCertificate(
                former: leaf, of: spiffeID, intermediate: hello.chain[1], number: number,
                verifier: self.examiner.verifier)
        else { return }
        numbers.certificate += 1
        self.next = numbers
        self.examiner.directory[hash] = known
        self.step.batch.certificates.append(
            CommitBatch.Certificate(
                number: number, hash: hash.bytes, spiffeID: spiffeID.rawValue,
                chain: [leaf, known.identity?.intermediate.der ?? hello.chain[1]], firstSeen: now))
    }

    // MARK: What is in memory

    private mutating func numbers() throws -> NextNumbers {
        if let next = self.next { return next }
        let next = try self.overlay.store.nextNumbers()
        self.next = next
        return next
    }

    private mutating func loadCertificate(_ hash: CertificateHash) throws -> Bool {
        if self.examiner.directory[hash] != nil { return true }
        guard let record = try self.overlay.store.certificate(hash: hash.bytes),
            let known = KnownCertificate(record, verifier: self.examiner.verifier)
        else { return false }
        self.examiner.directory[hash] = known
        return true
    }

    /// Revocation and validity at the moment of the commit: looked at once a step for each certificate.
    private mutating func standing(
        of certificate: KnownCertificate, _ hash: CertificateHash, at now: Timestamp
    ) -> Standing {
        if let standing = self.standings[hash] { return standing }
        let standing: Standing
        if let identity = certificate.identity {
            do throws(PKIError) {
                try self.examiner.verifier.requireNotRevoked(identity, at: now.seconds)
                try self.examiner.verifier.requireStanding(identity, at: now.seconds)
                standing = .good
            } catch {
                switch Reason(standing: error) {
                case .expired: standing = .expired
                case .some(let reason): standing = .refused(reason)
                case nil: standing = .held
                }
            }
        } else {
            standing = certificate.objection.map { .refused($0) } ?? .held
        }
        self.standings[hash] = standing
        return standing
    }

    private mutating func partyIndex(
        _ spiffeID: SPIFFEID, at now: Timestamp
    ) throws -> Dictionary<String, Party>.Index {
        let key = spiffeID.rawValue
        if let index = self.parties.index(forKey: key) {
            self.parties.values[index].lastUsed = self.stepNumber
            return index
        }
        let order: Order
        if let record = try self.overlay.store.auditor(spiffeID: key) {
            order = Order(
                auditor: record.number, openStream: record.open, pendingStreams: record.pendingStreams,
                limits: self.configuration.order)
        } else {
            var numbers = try self.numbers()
            order = Order(auditor: numbers.auditor, limits: self.configuration.order)
            self.step.batch.auditors.append(
                CommitBatch.Auditor(number: numbers.auditor, spiffeID: key, id: spiffeID.id.rawValue))
            numbers.auditor += 1
            self.next = numbers
            self.knownIDs.insert(spiffeID.id.rawValue)
        }
        self.parties[key] = Party(
            order: order, spiffeID: spiffeID,
            told: TokenBucket(perSecond: self.configuration.refusalsToldPerSecond, at: now),
            alerts: TokenBucket(perSecond: self.configuration.alertsPerSecond, at: now),
            lastUsed: self.stepNumber)
        guard let index = self.parties.index(forKey: key) else {
            throw ControlCenterError(.storeFailed, "an auditor is gone from memory")
        }
        return index
    }

    private mutating func seriesNumber(of reading: Reading, auditor: Int64) throws -> Int64 {
        let key = SeriesKey(
            auditor: auditor, meter: reading.meter, quantity: reading.quantity.rawValue, part: reading.part.rawValue,
            unit: reading.unit.rawValue)
        if let number = self.series[key] { return number }
        let part = reading.part == .whole ? "" : "/\(reading.part)"
        let row = CommitBatch.Series(
            number: try self.numbers().series, auditor: auditor, meter: reading.meter.rawValue,
            quantity: "\(reading.quantity)\(part)", unit: reading.unit.description)
        if let number = try self.overlay.store.series(
            auditor: auditor, meter: row.meter, quantity: row.quantity, unit: row.unit)
        {
            self.series[key] = number
            return number
        }
        self.next?.series += 1
        self.series[key] = row.number
        self.step.batch.series.append(row)
        return row.number
    }

    // MARK: Refused, held, forked

    private mutating func count(_ reason: Reason, claimed: String) {
        self.step.batch.counts[CommitBatch.Count(claimed: claimed, reason: reason), default: 0] += 1
    }

    private mutating func hold(_ reason: Reason, topic: String) throws {
        self.count(reason, claimed: try self.claimed(topic))
    }

    /// The ID on whose topic a message came, if an auditor has it.
    private mutating func claimed(_ topic: String) throws -> String {
        let id: Identifier
        switch Topic(topic) {
        case .hello(let auditor), .measures(let auditor), .auditorAlerts(let auditor): id = auditor
        default: return Quarantine.unknown
        }
        if self.knownIDs.contains(id.rawValue) || self.examiner.fleet.fleet[id] != nil { return id.rawValue }
        guard try self.overlay.store.knowsAuditor(id: id.rawValue) else { return Quarantine.unknown }
        self.knownIDs.insert(id.rawValue)
        return id.rawValue
    }

    private mutating func quarantine(_ arrival: Arrival, _ refusal: Refusal, at now: Timestamp) throws {
        let claimed = try self.claimed(arrival.topic)
        self.count(refusal.reason, claimed: claimed)
        let bucket = CommitBatch.Count(claimed: claimed, reason: refusal.reason)
        var use =
            try self.quarantineUse[bucket]
            ?? self.overlay.store.quarantineUse(claimed: claimed, reason: refusal.reason)
        // What is larger than any message of ours is not worth its room.
        let bytes = Array(arrival.bytes.prefix(Envelope.maximumSize))
        let quota = self.configuration.quarantine
        if use.rows < quota.maximumRows, use.bytes + bytes.count <= quota.maximumBytes {
            use.rows += 1
            use.bytes += bytes.count
            self.step.batch.quarantined.append(
                CommitBatch.Quarantined(
                    claimed: claimed, reason: refusal.reason, detail: refusal.detail, topic: arrival.topic,
                    bytes: bytes, received: now))
        }
        self.quarantineUse[bucket] = use
    }

    /// Tells the auditor that one of its messages is refused for good. Only called when it bore the auditor's
    /// signature: a refusal of anything else would let others make an auditor give up what is good.
    private mutating func tell(
        _ reason: Reason, _ link: Link, _ index: Dictionary<String, Party>.Index, _ key: String, at now: Timestamp
    ) {
        guard self.parties.values[index].told.take(at: now) else { return }
        self.decide(key, link.stream) {
            $0.refused.append(Receipts.RefusedMessage(sequence: link.sequence, id: link.id, reason: reason))
        }
    }

    private mutating func keepEvidence(
        _ statement: VerifiedStatement, _ link: Link, _ forked: Order.Forked, certificate: Int64, auditor: Int64,
        isWider: Bool, at now: Timestamp
    ) throws {
        let claimed = statement.signer.id.rawValue
        self.count(.fork, claimed: claimed)
        guard self.newForks.insert(link.id).inserted,
            try !self.overlay.store.hasFork(stream: forked.stream, sequence: link.sequence, id: link.id)
        else { return }
        let detail =
            "\(forked.kind.rawValue): \(link.stream) \(link.sequence) is \(link.id), \(forked.stored) is stored"
        let inBatch = self.step.batch.forks.count { $0.stream == forked.stream }
        if try self.overlay.store.forkCount(stream: forked.stream) + inBatch < self.configuration.forksPerStream {
            self.step.batch.forks.append(
                CommitBatch.Fork(
                    auditor: auditor, stream: forked.stream, sequence: link.sequence, id: link.id, kind: forked.kind,
                    stored: forked.stored, disputedFrom: forked.disputedFrom, certificate: certificate,
                    received: now, bytes: statement.decoded.arrival.bytes))
        }
        // One alarm, and another only if more becomes disputed.
        if isWider {
            self.step.batch.alarms.append(
                CommitBatch.Alarm(kind: .fork, auditor: statement.signer.rawValue, detail: detail, raised: now))
        }
    }

    /// Somebody has the expired key: its owner says by a newer one what stands in this place. Once for each hello.
    private mutating func alarmOfContradiction(_ link: Link, _ signer: SPIFFEID, at now: Timestamp) {
        guard self.vouches[signer.rawValue]?.alarm() == true else { return }
        let detail =
            "expired-key: \(link.stream) \(link.sequence) is \(link.id) by an expired certificate, and the auditor names "
            + "another under its present one"
        self.step.batch.alarms.append(
            CommitBatch.Alarm(kind: .fork, auditor: signer.rawValue, detail: detail, raised: now))
    }

    private static func detail(of reason: Reason, _ link: Link) -> String {
        switch reason {
        case .streamClosed: "stream \(link.stream) was closed by a newer one"
        case .revoked: "the certificate is revoked"
        case .expired: "the certificate is outside of its validity, and the newest hello names another statement"
        default: "number \(link.sequence) of stream \(link.stream)"
        }
    }

    // MARK: The end of a step

    private mutating func touch(_ stream: Int64, party: String, id: StreamID, _ change: RunSet.Change = .none) {
        self.dirty[stream, default: DirtyStream(party: party, id: id)].add(change)
    }

    private mutating func decide(_ party: String, _ stream: StreamID, _ change: (inout DecidedStream) -> Void) {
        let key = StreamKey(party: party, stream: stream)
        if self.decided[key] == nil { self.decidedOrder.append(key) }
        change(&self.decided[key, default: DecidedStream()])
    }

    /// Streams as they are now, and which of their runs changed.
    private mutating func finishStreams() {
        for (number, entry) in self.dirty.sorted(by: { $0.key < $1.key }) {
            guard let stream = self.parties[entry.party]?.order.streams[entry.id] else { continue }
            self.step.batch.streams.append(stream)
            for first in entry.removed.sorted() where stream.held.run(containing: first)?.lowerBound != first {
                self.step.batch.runs.append(.remove(stream: number, first: first))
            }
            for first in entry.put.sorted() {
                guard let run = stream.held.run(containing: first), run.lowerBound == first else { continue }
                self.step.batch.runs.append(.put(stream: number, first: first, last: run.upperBound))
            }
        }
    }

    private mutating func finishReceipts() throws {
        for key in self.decidedOrder {
            guard let party = self.parties[key.party], let decided = self.decided[key] else { continue }
            self.step.receipts += decided.drafts(
                for: StreamName(auditor: party.spiffeID, stream: key.stream),
                newest: party.order.streams[key.stream]?.head)
        }
        for (key, hello) in self.hellos { try self.answer(hello, of: key) }
        for key in self.parties.keys {
            guard let index = self.parties.index(forKey: key),
                self.parties.values[index].order.streams.count > self.configuration.streamsInMemory
            else { continue }
            self.parties.values[index].order.forgetStreams(beyond: self.configuration.streamsInMemory)
        }
    }

    /// Answers a hello: if its stream is known and is not the open one, first about that; then, always, with the
    /// nonce, about the open stream.
    private mutating func answer(_ hello: Hello, of key: String) throws {
        guard let index = self.parties.index(forKey: key) else { return }
        let spiffeID = self.parties.values[index].spiffeID
        let auditor = self.parties.values[index].order.auditor
        if self.parties.values[index].order.streams[hello.stream] == nil,
            let stored = try self.overlay.store.stream(auditor: auditor, id: hello.stream)
        {
            self.parties.values[index].order.remember(stored)
        }
        let named = self.parties.values[index].order.streams[hello.stream]
        let open = self.parties.values[index].order.open
        if let named, named.number != open?.number, open != nil {
            self.step.receipts.append(
                ReceiptDraft(
                    subject: StreamName(auditor: spiffeID, stream: named.id),
                    receipts: try self.receipts(of: named, asked: hello)))
        }
        let about = open ?? named
        var receipts = try about.map { try self.receipts(of: $0, asked: hello) } ?? Receipts()
        receipts.nonce = hello.nonce
        self.step.receipts.append(
            ReceiptDraft(
                subject: StreamName(auditor: spiffeID, stream: about?.id ?? hello.stream), receipts: receipts))
    }

    /// Everything held of a stream: its newest runs.
    ///
    /// An auditor whose state was restored from an older image knows the ids up to its own last number only. So
    /// the run that holds this number is told in parts that end where the auditor can compare: at its last
    /// message, if that is the stored one, else at places further and further back.
    private func receipts(of stream: StreamLedger, asked hello: Hello) throws -> Receipts {
        var receipts = Receipts(newest: stream.head.map { Receipts.StreamHead(sequence: $0.sequence, id: $0.id) })
        for run in stream.held.runs.suffix(Receipts.maximumAnswerRuns) {
            var first = run.lowerBound
            if stream.id == hello.stream, run.contains(hello.lastSequence) {
                let last = try self.overlay.link(stream: stream.number, sequence: hello.lastSequence).id
                for end in Self.ends(of: run, at: hello.lastSequence, isStored: last == hello.lastID) {
                    receipts.stored.append(
                        Receipts.StoredRange(
                            first: first, last: end,
                            lastID: try self.overlay.link(stream: stream.number, sequence: end).id))
                    first = end + 1
                }
            }
            guard first <= run.upperBound else { continue }
            receipts.stored.append(
                Receipts.StoredRange(
                    first: first, last: run.upperBound,
                    lastID: try self.overlay.link(stream: stream.number, sequence: run.upperBound).id))
        }
        return receipts
    }

    /// Where to cut a run for an auditor that has numbers up to `last`, ascending.
    private static func ends(of run: ClosedRange<Int64>, at last: Int64, isStored: Bool) -> [Int64] {
        if isStored { return [last] }
        var ends: [Int64] = []
        var back: Int64 = 1
        while last - back >= run.lowerBound {
            ends.append(last - back)
            back += back < 32 ? 1 : back / 2
        }
        return ends.reversed()
    }
}

extension IngestCore: Sendable where Store: Sendable {}

/// Bounds of the ingest path.
public struct IngestConfiguration: Hashable, Sendable {
    public var order = Order.Limits()
    public var quarantine = Quarantine()
    /// How many refusals an auditor is told a second.
    public var refusalsToldPerSecond = 10
    /// How many alerts of one auditor are stored a second; more are held.
    public var alertsPerSecond = 10
    /// How many contradictions of one stream are kept as evidence; more are counted.
    public var forksPerStream = 256
    /// Auditors, and certificates, that are kept in memory.
    public var maximumAuditorsInMemory = 16_384
    /// Auditors whose newest hello is remembered, for what their expired certificates signed.
    public var maximumVouches = 65_536
    /// Series that are kept in memory.
    public var maximumSeriesInMemory = 262_144
    /// Streams of one auditor that are kept in memory, beside the open one.
    public var streamsInMemory = 4

    public init() {}
}
