import COSE
import CoreFoundation
import Crypto
import Dispatch
import Foundation
public import Identity
public import LiCore
public import Logging
import MQTT
public import MessageBus
import NIOCore
public import PKI
public import ServiceLifecycle
import Synchronization
public import Telemetry

/// The control center: takes what auditors send, stores what it can verify, and answers with signed receipts.
///
///     let center = try ControlCenter(
///         bus: bus, store: ControlCenterStore(directory: "state"), verifier: verifier, signer: signer,
///         chain: [leaf, intermediate])
///     try await center.run()
///
/// It is a thin driver around ``IngestCore``: messages are examined on all cores, while one queue of its own
/// orders and commits the batch before. Deliveries are settled, and receipts published, after the commit that
/// decided about them. What the disk does not take is not taken from the bus.
///
/// The bus must be subscribed to `audits/#`.
public final class ControlCenter: Service {
    /// How it works.
    public struct Configuration: Sendable {
        public var ingest = IngestConfiguration()
        /// The most messages in one transaction.
        public var maximumBatch = 4_096
        /// The most messages received and not yet examined.
        public var maximumWaiting = 8_192
        /// Threads' worth of work that examining is cut into.
        public var cores = ProcessInfo.processInfo.activeProcessorCount
        /// How long to wait after a commit failed: at first, and at most. It doubles in between.
        public var retryDelay: ClosedRange<Duration> = .milliseconds(100) ... .seconds(10)
        /// Who may use the original's format at first; ``ControlCenter/update(_:)-(Fleet)`` changes it.
        public var fleet = Fleet.none
        /// In whose names updates in the original's form can be signed.
        public var liCoreControllers: [LiCoreController] = []

        public init() {}
    }

    /// What happened since the start.
    public struct Progress: Hashable, Sendable {
        public var received: Int64 = 0
        public var statements: Int64 = 0
        public var readings: Int64 = 0
        /// Readings in the original's format.
        public var measures: Int64 = 0
        public var commits: Int64 = 0
        public var receiptsPublished: Int64 = 0
        /// Receipts that could not be published; the auditor asks again.
        public var receiptsDropped: Int64 = 0
        /// Messages that met each reason: refused, duplicate, held.
        public var reasons: [Reason: Int64] = [:]
        /// Why the last commit failed, until one succeeds.
        public var storeTrouble: ControlCenterError?
        public var isConnected = false
    }

    /// A class, because it goes through arrays: a copy is one reference.
    private final class Received: Sendable {
        let arrival: Arrival
        let delivery: Delivery

        init(_ delivery: Delivery) {
            self.arrival = Arrival(
                topic: delivery.topic.rawValue, bytes: Array(delivery.payload.readableBytesView),
                isRetained: delivery.isRetained, sender: delivery.sender)
            self.delivery = delivery
        }
    }

    private struct ExaminedBatch: Sendable {
        var examined: [Examined]
        var received: [Received]
    }

    /// Who it is.
    private struct Own: Sendable {
        let signer: any Signer
        /// What is published on `control_center/keys`.
        let keys: [UInt8]

        /// - Throws: ``ControlCenterError`` with code `identity`.
        init(_ signer: any Signer, _ chain: [[UInt8]]) throws(ControlCenterError) {
            guard let leaf = chain.first, CertificateHash(hashing: leaf) == signer.certificateHash,
                signer.issuer.role == .controlCenter
            else {
                throw ControlCenterError(
                    .identity,
                    "the control center needs a certificate of role control-center, and the chain that begins with it")
            }
            self.signer = signer
            do throws(Refusal) {
                self.keys = try ControlCenterKeys(certificates: chain).encoded
            } catch {
                throw ControlCenterError(.identity, "the control center's chain cannot be published: \(error.detail)")
            }
        }
    }

    private enum Job: Sendable {
        case announce
        /// From here on another certificate signs.
        case renew(Own)
        case receipts([ReceiptDraft])
    }

    let bus: any MessageBus
    private let own: Mutex<Own>
    let configuration: Configuration
    let clock: @Sendable () -> Timestamp
    private let onHello: @Sendable (SPIFFEID, Nonce) -> Void
    let logger: Logger

    let store: ControlCenterStore
    private let core: Mutex<IngestCore<ControlCenterStore>>
    /// A copy of the core's, to be had while the core is busy committing.
    private let examiner: Mutex<Examiner>
    private let revocationLists: Mutex<[[UInt8]]>
    private let progressState = Mutex(Progress())
    /// Where the core works: commits wait for the disk, which no thread of the cooperative pool should.
    private let queue = DispatchQueue(label: "control-center.commit", qos: .userInitiated)

    private let inbox: Mailbox<Received>
    private let examinedBatches = Mailbox<ExaminedBatch>(capacity: 1)
    private let outbox = Mailbox<Job>(capacity: 256)

    /// - Parameters:
    ///   - bus: subscribed to `audits/#`.
    ///   - store: held by this process.
    ///   - verifier: who is trusted, with the revocation lists in force.
    ///   - signer: the control center's own certificate and key.
    ///   - chain: the control center's certificate and intermediate, DER; published on `control_center/keys`.
    ///   - revocationLists: of every authority, DER; published on `control_center/crl` one after the other. The last
    ///     one stays there.
    ///   - clock: what time it is, for receipts, validity and the records.
    ///   - onHello: told of every verified hello, after its commit: see ``ControlDesk/heard(_:_:)``.
    /// - Throws: ``ControlCenterError`` with code `identity` if `chain` is not the signer's.
    public init(
        bus: any MessageBus, store: ControlCenterStore, verifier: IdentityVerifier, signer: any Signer,
        chain: [[UInt8]], revocationLists: [[UInt8]] = [], configuration: Configuration = Configuration(),
        logger: Logger = Logger(label: "control-center"), clock: @escaping @Sendable () -> Timestamp = systemClock,
        onHello: @escaping @Sendable (SPIFFEID, Nonce) -> Void = { _, _ in }
    ) throws(ControlCenterError) {
        self.own = Mutex(try Own(signer, chain))
        self.bus = bus
        self.configuration = configuration
        self.clock = clock
        self.onHello = onHello
        self.logger = logger
        var core = IngestCore(store: store, verifier: verifier, configuration: configuration.ingest)
        core.update(configuration.fleet, at: clock())
        self.store = store
        self.examiner = Mutex(core.examiner)
        self.core = Mutex(core)
        self.revocationLists = Mutex(revocationLists)
        self.inbox = Mailbox(capacity: configuration.maximumWaiting)
    }

    /// What happened since the start.
    public var progress: Progress { self.progressState.withLock { $0 } }

    /// Takes newer revocation lists: nothing new by whom they name is stored from the next batch on.
    ///
    /// - Parameter published: the lists to publish on `control_center/crl`, DER; none leaves them as they are.
    /// - Throws: `PKIError`; then nothing has changed.
    public func update(_ lists: [RevocationList], published: [[UInt8]] = []) async throws {
        try await self.onQueue {
            try self.core.withLock { core in
                try core.update(lists)
                self.examiner.withLock { $0 = core.examiner }
            }
        }
        self.publish(revocationLists: published)
    }

    /// Exchanges who is trusted: roots, intermediates and revocation lists. Certificates that are known are verified
    /// anew; what is stored stays.
    public func replaceTrust(_ verifier: IdentityVerifier, published: [[UInt8]] = []) async throws {
        let now = self.clock()
        try await self.onQueue {
            self.core.withLock { core in
                core.replaceTrust(verifier, at: now)
                self.examiner.withLock { $0 = core.examiner }
            }
        }
        self.publish(revocationLists: published)
    }

    private func publish(revocationLists: [[UInt8]]) {
        guard !revocationLists.isEmpty else { return }
        self.revocationLists.withLock { $0 = revocationLists }
        _ = self.outbox.offer(.announce)
    }

    /// Takes who may use the original's format, from the next batch on.
    public func update(_ fleet: Fleet) async throws {
        let now = self.clock()
        try await self.onQueue {
            self.core.withLock { core in
                core.update(fleet, at: now)
                self.examiner.withLock { $0 = core.examiner }
            }
        }
    }

    /// Who may use the original's format now.
    var fleet: Fleet { self.examiner.withLock { $0.fleet.fleet } }

    /// Goes on under another certificate of the same control center: announces it on `control_center/keys`, and signs
    /// with it from then on. One call at a time.
    ///
    /// - Throws: ``ControlCenterError`` with code `identity` if `chain` is not the signer's or names somebody else, or
    ///   if the control center has ended.
    public func renew(_ signer: any Signer, chain: [[UInt8]]) async throws(ControlCenterError) {
        let own = try Own(signer, chain)
        guard signer.issuer == self.own.withLock({ $0.signer.issuer }) else {
            throw ControlCenterError(.identity, "the new certificate is of \(signer.issuer), another control center")
        }
        guard await self.outbox.send([.renew(own)]) else {
            throw ControlCenterError(.identity, "the control center has ended, before it took its new certificate")
        }
    }

    /// Works until shut down gracefully, cancelled, or the bus ends. What was received is decided before it
    /// returns; what could not be is not settled and comes again.
    public func run() async throws {
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await self.publishing() }
            group.addTask { await self.committing() }
            group.addTask { await self.examining() }
            group.addTask {
                // Cancelled, and waited for, at the end of the scope.
                async let _: Void = self.publishingLiCoreUpdates()
                // Only receiving stops at once; what follows drains, from the first step to the last.
                await cancelWhenGracefulShutdown { await self.receiving() }
                self.inbox.finish()
            }
        }
        try Task.checkCancellation()
    }

    // MARK: Receive

    private func receiving() async {
        while let events = try? await self.bus.receive() {
            var received: [Received] = []
            received.reserveCapacity(events.count)
            for event in events {
                switch event {
                case .connected:
                    self.logger.info("connected")
                    self.progressState.withLock { $0.isConnected = true }
                    _ = self.outbox.offer(.announce)
                case .disconnected(let error):
                    self.logger.notice("disconnected", metadata: ["reason": "\(error)"])
                    self.progressState.withLock { $0.isConnected = false }
                case .delivery(let delivery):
                    received.append(Received(delivery))
                }
            }
            guard !received.isEmpty else { continue }
            let count = Int64(received.count)
            self.progressState.withLock { $0.received += count }
            guard await self.inbox.send(received) else { return }
        }
    }

    // MARK: Decode, identify, verify

    private func examining() async {
        while let batch = await self.inbox.take(upTo: self.configuration.maximumBatch) {
            let examiner = self.examiner.withLock { $0 }
            let examined = await examiner.examine(
                batch.map(\.arrival), at: self.clock(), cores: self.configuration.cores)
            let result = ExaminedBatch(examined: examined, received: batch)
            guard await self.examinedBatches.send([result]) else { break }
        }
        self.examinedBatches.finish()
    }

    // MARK: Order, commit

    private func committing() async {
        while let batch = await self.examinedBatches.take(upTo: 1)?.first {
            guard let step = await self.decide(batch.examined) else { break }
            for received in batch.received { received.delivery.settle() }
            self.record(step)
            for hello in step.nonces { self.onHello(hello.auditor, hello.nonce) }
            if !step.receipts.isEmpty, !self.outbox.offer(.receipts(step.receipts)) {
                let count = step.receipts.count
                self.progressState.withLock { $0.receiptsDropped += Int64(count) }
                self.logger.warning("publishing is too slow: receipts dropped", metadata: ["count": "\(count)"])
            }
        }
        // After a failure nothing may be settled that comes behind it.
        self.inbox.finish()
        self.examinedBatches.finish()
        self.outbox.finish()
    }

    /// Orders and commits, again and again until the store takes it.
    ///
    /// - Returns: `nil` if the task was cancelled, or shut down while the store fails.
    private func decide(_ examined: [Examined]) async -> IngestStep? {
        var delay = self.configuration.retryDelay.lowerBound
        var ordered: IngestStep?
        while true {
            do {
                let step = ordered
                let now = self.clock()
                let made = try await self.onQueue {
                    try self.core.withLock { core in
                        let step = try step ?? core.order(examined, at: now)
                        self.examiner.withLock { $0 = core.examiner }
                        return step
                    }
                }
                ordered = made
                try await self.onQueue { try self.core.withLock { try $0.commit(made) } }
                self.recovered()
                return made
            } catch {
                let error = ControlCenterStore.failed(error)
                self.logger.error("storing failed", metadata: ["reason": "\(error)", "retry": "\(delay)"])
                self.progressState.withLock { $0.storeTrouble = error }
                if Task.isShuttingDownGracefully { return nil }
                do { try await Task.sleep(for: delay) } catch { return nil }
                delay = min(delay * 2, self.configuration.retryDelay.upperBound)
            }
        }
    }

    private func recovered() {
        let had = self.progressState.withLock { progress in
            defer { progress.storeTrouble = nil }
            return progress.storeTrouble
        }
        guard let had else { return }
        self.logger.notice("storing works again", metadata: ["was": "\(had)"])
    }

    private func record(_ step: IngestStep) {
        self.progressState.withLock { progress in
            progress.commits += 1
            progress.statements += Int64(step.batch.statements.count)
            progress.readings += Int64(step.batch.readings.count)
            progress.measures += Int64(step.batch.measures.count)
            for (count, more) in step.counts { progress.reasons[count.reason, default: 0] += more }
        }
        for (count, more) in step.counts where count.reason != .duplicate {
            self.logger.notice(
                "not stored",
                metadata: ["auditor": "\(count.claimed)", "reason": "\(count.reason)", "count": "\(more)"])
        }
        for alarm in step.batch.alarms {
            self.logger.warning(
                "alarm",
                metadata: ["kind": "\(alarm.kind)", "auditor": "\(alarm.auditor)", "detail": "\(alarm.detail)"])
        }
    }

    private func onQueue<R: Sendable>(_ body: @escaping @Sendable () throws -> R) async throws -> R {
        try await withCheckedThrowingContinuation { continuation in
            self.queue.async { continuation.resume(with: Result(catching: body)) }
        }
    }

    // MARK: Receipt

    private func publishing() async {
        while let job = await self.outbox.take(upTo: 1)?.first {
            switch job {
            case .announce: await self.announce()
            case .renew(let own):
                self.own.withLock { $0 = own }
                await self.announce()
            case .receipts(let drafts): await self.publish(drafts)
            }
        }
    }

    private func announce() async {
        await self.publish(Outgoing(topic: .keys, bytes: self.own.withLock { $0.keys }, isRetained: true))
        for list in self.revocationLists.withLock({ $0 }) {
            await self.publish(Outgoing(topic: .crl, bytes: list, isRetained: true))
        }
    }

    /// Signs and publishes, some at a time: each waits for its acknowledgement.
    private func publish(_ drafts: [ReceiptDraft]) async {
        await withTaskGroup(of: Void.self) { group in
            for (index, draft) in drafts.enumerated() {
                if index >= 64 { await group.next() }
                group.addTask { await self.publish(draft) }
            }
        }
    }

    @concurrent private func publish(_ draft: ReceiptDraft) async {
        do {
            let message = try draft.signed(by: AnySigner(self.own.withLock { $0.signer }), at: self.clock())
            let published = await self.publish(message)
            self.progressState.withLock {
                if published { $0.receiptsPublished += 1 } else { $0.receiptsDropped += 1 }
            }
        } catch {
            self.logger.error("cannot sign receipts", metadata: ["reason": "\(error)"])
            self.progressState.withLock { $0.receiptsDropped += 1 }
        }
    }

    @discardableResult
    private func publish(_ message: Outgoing) async -> Bool {
        do {
            try await self.bus.publish(
                topic: try TopicName(message.topic.description), payload: ByteBuffer(bytes: message.bytes),
                qos: .atLeastOnce, retain: message.isRetained)
            return true
        } catch {
            self.logger.notice(
                "cannot publish", metadata: ["topic": "\(message.topic)", "reason": "\(error)"])
            return false
        }
    }
}

/// The time of the machine.
public let systemClock: @Sendable () -> Timestamp = {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Timestamp(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
}

/// A signer of any kind as one of a known type.
struct AnySigner: Signer {
    private let signer: any Signer

    init(_ signer: any Signer) {
        self.signer = signer
    }

    var issuer: SPIFFEID { self.signer.issuer }
    var certificateHash: CertificateHash { self.signer.certificateHash }

    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature {
        try self.signer.signature(for: digest)
    }
}

extension Examiner {
    /// Examines a batch on all cores.
    ///
    /// - Parameter cores: how many work at once, about.
    /// - Returns: as many as there were arrivals, in their order.
    @concurrent public func examine(_ arrivals: [Arrival], at now: Timestamp, cores: Int) async -> [Examined] {
        // Pieces smaller than this cost more to hand out than to do.
        let size = max(16, (arrivals.count + cores * 4 - 1) / max(1, cores * 4))
        guard cores > 1, arrivals.count > size else { return arrivals.map { self.examine($0, at: now) } }
        return await withTaskGroup(of: (Int, [Examined]).self) { group in
            for start in stride(from: 0, to: arrivals.count, by: size) {
                let piece = arrivals[start..<min(start + size, arrivals.count)]
                group.addTask { (start, piece.map { self.examine($0, at: now) }) }
            }
            var pieces: [(Int, [Examined])] = []
            for await piece in group { pieces.append(piece) }
            pieces.sort { $0.0 < $1.0 }
            return pieces.flatMap(\.1)
        }
    }
}
