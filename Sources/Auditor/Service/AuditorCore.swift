import DequeModule
import Foundation
import Identity
import Logging
import MQTT
import MessageBus
import NIOCore
import PKI
import ServiceLifecycle
import Telemetry

/// The state of a running auditor, on a thread of its own.
actor AuditorCore {
    /// So many batches are read before anything else is looked at.
    private static let batchesAtOnce = 64

    private let executor: ThreadExecutor
    private let bus: any MessageBus
    private let options: AuditorService.Options
    private let now: @Sendable () -> Timestamp
    private var logger: Logger
    private let report: ReportBox
    private let receiptsTopic: String
    private let measuresName: TopicName?
    private let toldPrefixes: [String]

    private var source: any MeterSource
    private var outbox: any OutboxStore
    private var machine: AuditorMachine
    private var random: AnyRandom

    private var inputs: Deque<AuditorMachine.Input> = []
    private var isProcessing = false
    /// Read, and not yet due.
    private var next: SourceBatch?
    private var isSourceDone = false
    private var sourceError: MeterSourceError?
    /// The first batch's time by the clock and by the source.
    private var anchor: (clock: Timestamp, source: Timestamp)?
    private var stopDeadline: Timestamp?
    private var isBusClosed = false
    /// Everything that the source gave was dealt with once; a heartbeat may be on its way since.
    private var hasFinished = false
    /// SAMPLE_RATE in nanoseconds, where the source does not keep it itself.
    private var pace: Int64?
    /// When the next batch is due at that pace.
    private var paced: Timestamp?
    private var nextDiskLook = Timestamp(nanoseconds: .min)

    private var waiter: CheckedContinuation<Void, Never>?
    private var waits: UInt64 = 0
    private var isWoken = false

    nonisolated var unownedExecutor: UnownedSerialExecutor { self.executor.asUnownedSerialExecutor() }

    init(
        bus: any MessageBus, source: any MeterSource, outbox: sending any OutboxStore,
        configuration: AuditorConfiguration, signer: any Signer, trust: IdentityVerifier,
        controlCenter: VerifiedIdentity?, options: AuditorService.Options,
        now: @escaping @Sendable () -> Timestamp, randomness: any RandomNumberGenerator & Sendable, logger: Logger,
        report: ReportBox
    ) throws(MeterSourceError) {
        let id = signer.issuer.id
        var source = source
        if let position = outbox.state?.source { try source.resume(at: position) }
        var random = AnyRandom(randomness)
        var machine = AuditorMachine(
            configuration: configuration, signer: signer, trust: trust, outbox: outbox, now: now(), random: &random)
        if let controlCenter { machine.know(controlCenter) }
        var logger = logger
        for (parameter, value) in machine.parameters {
            switch (parameter, value) {
            case (.sampleRate, .number(let number)):
                if let interval = number.nanoseconds, !source.sample(every: interval, takesBack: false, at: nil) {
                    self.pace = interval
                }
            case (.logLevel, .text(let level)):
                if let level = Logger.Level(rawValue: level) { logger.logLevel = level }
            default: break
            }
        }
        self.executor = ThreadExecutor(label: "auditor \(id)")
        self.bus = bus
        self.source = source
        self.machine = machine
        self.options = options
        self.now = now
        self.random = random
        self.logger = logger
        self.report = report
        self.receiptsTopic = Topic.receipts(id).description
        self.measuresName = try? TopicName(Topic.measures(id).description)
        self.toldPrefixes = ["control_center/updates/", "control_center/alerts/"]
        self.outbox = outbox
    }

    // MARK: Running

    func run() async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await self.receive() }
            try await withTaskCancellationHandler {
                try await self.work()
            } onCancel: {
                Task { await self.wake() }
            }
            group.cancelAll()
            // The receiving task ends by its cancellation.
            while let result = await group.nextResult() {
                if case .failure(let error) = result, !(error is CancellationError) { throw error }
            }
        }
        if let sourceError { throw sourceError }
    }

    /// Signs what was read, then a heartbeat; then ``run()`` returns, at the latest after the grace.
    func stop() {
        guard self.stopDeadline == nil else { return }
        let (seconds, attoseconds) = self.options.shutdownGrace.components
        self.stopDeadline = self.now().advanced(byNanoseconds: seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
        self.process(.stop)
        self.wake()
    }

    /// Takes a new certificate of the same auditor.
    func renew(_ signer: any Signer, certificateChain: [[UInt8]]) {
        self.process(.renewed(signer, certificateChain: certificateChain))
        self.wake()
    }

    func trust(_ verifier: IdentityVerifier) { self.process(.trust(verifier)) }

    func raise(_ alarm: Alarm) { self.process(.raise(alarm)) }

    func clear(_ kind: Alarm.Kind) { self.process(.clear(kind)) }

    private func receive() async throws {
        while let events = try await self.bus.receive() {
            for event in events { self.take(event) }
            self.wake()
        }
        self.isBusClosed = true
        self.wake()
    }

    private func take(_ event: BusEvent) {
        switch event {
        case .connected:
            self.process(.connected)
        case .disconnected(let error):
            self.logger.info("disconnected", metadata: ["reason": "\(error)"])
            self.process(.disconnected)
        case .delivery(let delivery):
            let bytes = Array(delivery.payload.readableBytesView)
            switch delivery.topic.rawValue {
            case self.receiptsTopic where !delivery.isRetained: self.process(.receipts(bytes))
            case "control_center/keys": self.process(.controlCenterKeys(bytes))
            case "control_center/crl": self.process(.revocationList(bytes))
            case let topic where self.toldPrefixes.contains(where: topic.hasPrefix):
                self.process(.told(topic: topic, bytes, isRetained: delivery.isRetained))
            default: break
            }
            // What it changed is on disk, or will be asked for again.
            delivery.settle()
        }
    }

    /// Reads, and keeps the time, until there is nothing more to do.
    private func work() async throws {
        self.process(.tick)
        defer { self.publishReport() }
        while true {
            try Task.checkCancellation()
            let now = self.now()
            if let deadline = self.machine.nextDeadline, deadline <= now { self.process(.tick) }
            self.lookAtDisk(now)
            let hasRead = self.readSource(now)
            self.publishReport()
            if self.hasFinished, self.options.drains || self.sourceError != nil { self.stop() }
            if self.isBusClosed, self.stopDeadline == nil { self.stop() }
            if let stopDeadline, self.hasStopped || now >= stopDeadline { return }
            if hasRead {
                // Receipts wait for the same thread.
                await Task.yield()
            } else {
                await self.wait(until: self.nextWake)
            }
        }
    }

    private var hasStopped: Bool {
        self.machine.isReadyToStop
            && (self.machine.isDrained(self.outbox) || !self.machine.isOpen || self.isBusClosed)
    }

    private func publishReport() {
        var report = AuditorReport()
        report.statistics = self.machine.statistics
        report.outbox = self.outbox.summary
        report.isOpen = self.machine.isOpen
        self.hasFinished = self.hasFinished || self.machine.isFinished(self.outbox)
        report.isFinished = self.hasFinished
        report.alarms = self.machine.activeAlarms
        report.sourceError = self.sourceError
        self.report.value = report
    }

    // MARK: The source

    /// - Returns: Whether there may be more at once.
    private func readSource(_ now: Timestamp) -> Bool {
        guard !self.isSourceDone, self.machine.wantsReadings(self.outbox) else { return false }
        var batches: [SourceBatch] = []
        do throws(MeterSourceError) {
            while batches.count < Self.batchesAtOnce {
                if self.next == nil { self.next = try self.source.next() }
                guard let next = self.next else {
                    self.isSourceDone = true
                    break
                }
                guard self.due(next, now) <= now else { break }
                batches.append(next)
                self.next = nil
                if let pace {
                    // What was missed while nothing could be read is not made up for by a burst.
                    let due = (self.paced ?? now).advanced(byNanoseconds: pace)
                    self.paced = max(due, now)
                }
            }
        } catch {
            self.isSourceDone = true
            self.sourceError = error
        }
        if !batches.isEmpty { self.process(.readings(batches)) }
        if let sourceError {
            self.process(.sourceFailed(sourceError))
        } else if self.isSourceDone {
            self.process(.sourceEnded)
        }
        return !batches.isEmpty
    }

    private func due(_ batch: SourceBatch, _ now: Timestamp) -> Timestamp {
        if self.pace != nil { return self.paced ?? now }
        switch self.options.speed {
        case .unlimited: return now
        case .live: return batch.available
        case .times(let factor):
            let anchor = self.anchor ?? (now, batch.available)
            self.anchor = anchor
            let distance = Double(batch.available.nanoseconds - anchor.source.nanoseconds) / factor
            guard distance < 1e18 else { return Timestamp(nanoseconds: .max) }
            return Timestamp(nanoseconds: anchor.clock.nanoseconds &+ Int64(distance))
        }
    }

    /// SAMPLE_RATE: a simulated meter is read so often; of what is replayed, one instant comes each time.
    private func sample(every interval: Int64) {
        let now = self.options.speed == .live ? self.now() : nil
        if self.source.sample(every: interval, takesBack: self.next != nil, at: now) {
            self.next = nil
        } else {
            self.pace = interval
            self.paced = nil
        }
        self.wake()
    }

    private func lookAtDisk(_ now: Timestamp) {
        guard let directory = self.options.stateDirectory, now >= self.nextDiskLook else { return }
        self.nextDiskLook = now.advanced(byNanoseconds: 60_000_000_000)
        var status = statvfs()
        guard statvfs(directory, &status) == 0 else { return }
        let (bytes, overflow) = Int64(clamping: status.f_bavail).multipliedReportingOverflow(
            by: Int64(clamping: status.f_frsize))
        self.process(.diskSpace(overflow ? .max : bytes))
    }

    // MARK: The machine

    /// One input after another; what is said while actions are carried out waits its turn.
    private func process(_ input: AuditorMachine.Input) {
        self.inputs.append(input)
        guard !self.isProcessing else { return }
        self.isProcessing = true
        defer { self.isProcessing = false }
        while let input = self.inputs.popFirst() {
            let outbox = self.outbox
            let actions = self.machine.handle(input, now: self.now(), outbox: outbox, random: &self.random)
            for action in actions { self.carryOut(action) }
        }
    }

    private func carryOut(_ action: AuditorMachine.Action) {
        switch action {
        case .commit(let transaction):
            do throws(OutboxError) {
                try self.outbox.commit(transaction)
                self.inputs.prepend(.committed)
            } catch {
                self.inputs.prepend(.commitFailed(error))
            }
        case .publish(let publication):
            self.publish(publication)
        case .keep(let list):
            self.options.keepRevocationList?(list)
        case .set(.sampleRate, .number(let number)):
            if let interval = number.nanoseconds { self.sample(every: interval) }
        case .set(.logLevel, .text(let level)):
            if let level = Logger.Level(rawValue: level) { self.logger.logLevel = level }
        case .set: break
        case .raise(let alarm):
            self.logger.warning("\(alarm.text)", metadata: ["alarm": "\(alarm.kind)"])
        case .clear(let kind):
            self.logger.info("over", metadata: ["alarm": "\(kind)"])
        }
    }

    private func publish(_ publication: AuditorMachine.Publication) {
        let name: TopicName? =
            if case .measures = publication.topic {
                self.measuresName
            } else {
                try? TopicName(publication.topic.description)
            }
        guard let name else { return }
        // It begins at once, so that messages reach the bus in their order.
        Task.immediate {
            do {
                try await self.bus.publish(
                    topic: name, payload: ByteBuffer(bytes: publication.bytes), qos: .atLeastOnce, retain: false)
                self.process(.published(publication.token))
            } catch {
                let isTooLarge = (error as? BusError)?.code == .tooLarge
                self.process(.publishFailed(publication.token, isTooLarge: isTooLarge))
            }
        }
    }

    // MARK: Waiting

    private var nextWake: Timestamp? {
        var times: [Timestamp] = []
        if let deadline = self.machine.nextDeadline { times.append(deadline) }
        if let stopDeadline { times.append(stopDeadline) }
        if let next, self.machine.wantsReadings(self.outbox) { times.append(self.due(next, self.now())) }
        return times.min()
    }

    private func wait(until time: Timestamp?) async {
        if self.isWoken || Task.isCancelled {
            self.isWoken = false
            return
        }
        self.waits += 1
        let wait = self.waits
        if let time {
            // A clock that jumps is looked at again within a minute.
            let nanoseconds = min(max(time.nanoseconds &- self.now().nanoseconds, 1_000_000), 60_000_000_000)
            self.executor.after(nanoseconds: nanoseconds) { [weak self] in
                Task { await self?.timeIsUp(wait) }
            }
        }
        await withCheckedContinuation { self.waiter = $0 }
        self.isWoken = false
    }

    private func timeIsUp(_ wait: UInt64) {
        if wait == self.waits { self.wake() }
    }

    private func wake() {
        self.isWoken = true
        self.waiter?.resume()
        self.waiter = nil
    }
}
