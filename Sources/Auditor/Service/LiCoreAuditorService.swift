public import Crypto
public import Identity
public import LiCore
public import Logging
public import MQTT
public import MessageBus
import NIOCore
import PKI
public import ServiceLifecycle
import Storage
import Synchronization
public import Telemetry

/// What an auditor that speaks the original's format has done.
public struct LiCoreReport: Hashable, Sendable {
    /// Readings that the next hop holds.
    public var sent = 0
    /// Readings that the format cannot say: missing ones.
    public var skipped = 0
    /// Messages that the broker refused; they are sent again.
    public var refused = 0
    /// Seconds between readings, as a controller has set them; 0 if none has.
    public var sampleRate = 0.0
    /// Whether the source has ended and everything was sent.
    public var isFinished = false

    public init() {}
}

/// An auditor of ours that speaks the original's format, for as long as the original's database client must hear it.
///
/// The format has no receipts and no numbers: that the next hop holds a message (PUBACK) is all there is. The place in
/// the source is stored behind that, so a crash sends some readings again, which the receiver takes for repeats, and
/// loses none. Where the broker is another than the embedded one, a PUBACK says nothing about the control center.
public final class LiCoreAuditorService: Service {
    /// Whose updates are obeyed: the name in the topic, and the key of the certificate that is pinned for it.
    public struct Controller: Sendable {
        public var name: Identifier
        public var publicKey: P256.Signing.PublicKey

        public init(name: Identifier, publicKey: P256.Signing.PublicKey) {
            self.name = name
            self.publicKey = publicKey
        }
    }

    public struct Options: Sendable {
        public var speed = ReplaySpeed.live
        /// Whether ``LiCoreAuditorService/run()`` returns when the source has ended and all is sent.
        public var drains = false
        /// Of the dates that are written.
        public var timeZone = LocalTimeZone.utc
        public var controller: Controller?
        /// How long to wait before a message that the broker refused is sent again.
        public var retryDelay: Duration = .seconds(5)

        public init() {}
    }

    /// The name of the file with the place in the source.
    public static let positionFileName = "licore-position"

    private let bus: any MessageBus
    private let source: Mutex<any MeterSource>
    private let id: Identifier
    private let sign: @Sendable (BLAKE2b512Digest) throws -> P256.Signing.ECDSASignature
    private let options: Options
    private let now: @Sendable () -> Timestamp
    private let logger: Logger
    private let positionFile: String
    private let lock: StateLock
    private let state = Mutex(LiCoreReport())

    /// - Parameters:
    ///   - directory: the state directory, of this auditor alone.
    ///   - sign: makes an ECDSA signature on a digest, with the auditor's key.
    /// - Throws: ``OutboxError`` for the state directory; ``MeterSourceError`` if the source is not the one that was
    ///   being read; `PKIError` for a position that cannot be read.
    public init(
        bus: any MessageBus, source: any MeterSource, id: Identifier, directory: String,
        sign: @escaping @Sendable (BLAKE2b512Digest) throws -> P256.Signing.ECDSASignature,
        options: Options = Options(), now: @escaping @Sendable () -> Timestamp = { Timestamp.now },
        logger: Logger = Logger(label: "auditor")
    ) throws {
        self.lock = try StateLock.take(auditorsDirectory: directory)
        self.positionFile = "\(directory)/\(Self.positionFileName)"
        var source = source
        do {
            let position = try DurableFile.read(self.positionFile, maximumSize: SourcePosition.maximumLength)
            try source.resume(at: SourcePosition(bytes: position))
        } catch let error as PKIError where error.code == .missing {
            // It begins.
        }
        self.bus = bus
        self.source = Mutex(source)
        self.id = id
        self.sign = sign
        self.options = options
        self.now = now
        self.logger = logger
    }

    /// What such an auditor subscribes to: its updates.
    public static func subscriptions(for id: Identifier) -> [TopicFilter] {
        [try? TopicFilter("control_center/updates/\(id)/#")].compactMap { $0 }
    }

    /// How it stands now; from any thread.
    public var report: LiCoreReport { self.state.withLock { $0 } }

    /// Works until a graceful shutdown; with ``Options/drains`` until all is sent.
    ///
    /// - Throws: ``MeterSourceError`` when the source fails, `PKIError` when a position cannot be stored.
    public func run() async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await self.receiving() }
            group.addTask { try await cancelWhenGracefulShutdown { try await self.sending() } }
            // Sending ends first, unless the bus has: then there is nothing more to do.
            try await group.next()
            group.cancelAll()
        }
    }

    // MARK: Sending

    private func sending() async throws {
        var anchor: (clock: Timestamp, source: Timestamp)?
        while !Task.isCancelled {
            // Many at once only where nothing says how fast.
            let limit = self.options.speed == .unlimited && self.report.sampleRate == 0 ? 64 : 1
            let batches = try self.source.withLock { source in
                var batches: [SourceBatch] = []
                while batches.count < limit, let batch = try source.next() { batches.append(batch) }
                return batches
            }
            guard let last = batches.last else {
                self.state.withLock { $0.isFinished = true }
                if !self.options.drains { try? await Task.sleep(for: .seconds(86_400 * 365)) }
                return
            }
            do {
                try await self.wait(for: last, &anchor)
                try await self.publish(try batches.flatMap { try self.messages($0) })
            } catch is CancellationError {
                return
            }
            try DurableFile.replace(self.positionFile, last.position.bytes, mode: 0o600)
            let rate = self.report.sampleRate
            if rate > 0 { try? await Task.sleep(for: .seconds(rate)) }
        }
    }

    private func wait(for batch: SourceBatch, _ anchor: inout (clock: Timestamp, source: Timestamp)?) async throws {
        let now = self.now()
        let wait: Double
        switch self.options.speed {
        case .unlimited: return
        case .live: wait = Double(batch.available.nanoseconds - now.nanoseconds) / 1e9
        case .times(let factor):
            let from = anchor ?? (now, batch.available)
            anchor = from
            let due = Double(batch.available.nanoseconds - from.source.nanoseconds) / factor / 1e9
            wait = due - Double(now.nanoseconds - from.clock.nanoseconds) / 1e9
        }
        if wait > 0 { try await Task.sleep(for: .seconds(min(wait, 1e9))) }
    }

    /// The readings of a batch, signed.
    ///
    /// - Throws: ``MeterSourceError`` with code `options` for a quantity that the format does not have.
    private func messages(_ batch: SourceBatch) throws -> [[UInt8]] {
        var zone = LocalTimeResolver(self.options.timeZone)
        return try batch.readings.compactMap { reading in
            guard let kind = Self.kind(of: reading) else {
                throw MeterSourceError(
                    .options,
                    "the original's format has only consumption and production in kWh or Wh, not \(reading.quantity) in \(reading.unit)"
                )
            }
            guard let value = Self.kilowattHours(reading) else {
                self.state.withLock { $0.skipped += 1 }
                if let value = reading.value {
                    self.logger.warning(
                        "left out: kWh cannot have so many digits",
                        metadata: ["time": "\(reading.time)", "value": "\(value) \(reading.unit)"])
                }
                return nil
            }
            let seconds = reading.time.seconds
            let date = LocalTime(
                seconds: zone.localSeconds(at: seconds),
                nanoseconds: reading.time.nanoseconds - seconds * 1_000_000_000)
            // Written without a zone, it would be two moments: the receiver could not tell which.
            guard case .one = zone.resolve(date) else {
                self.state.withLock { $0.skipped += 1 }
                self.logger.warning(
                    "left out: this local time comes twice, since clocks are put back; a time zone of UTC avoids it",
                    metadata: ["time": "\(reading.time)", "zone": "\(self.options.timeZone)"])
                return nil
            }
            return try Measure(id: self.id, date: date, kind: kind, value: value).message(signedBy: self.sign)
        }
    }

    private static func kind(of reading: Reading) -> Measure.Kind? {
        guard reading.part == .whole, reading.unit == .kilowattHour || reading.unit == .wattHour else { return nil }
        switch reading.quantity {
        case .consumption: return .consumption
        case .production: return .production
        default: return nil
        }
    }

    /// With every digit; nil for a missing value, or one whose digits kWh cannot have.
    private static func kilowattHours(_ reading: Reading) -> ExactDecimal? {
        guard let value = reading.value, reading.unit == .wattHour else { return reading.value }
        return ExactDecimal(mantissa: value.mantissa, exponent: Int(value.exponent) - 3)
    }

    /// Publishes all, again and again until the next hop holds each.
    private func publish(_ messages: [[UInt8]]) async throws {
        let topic = try TopicName(Topic.measures(self.id).description)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for message in messages { group.addTask { try await self.publish(message, to: topic) } }
            try await group.waitForAll()
        }
    }

    private func publish(_ message: [UInt8], to topic: TopicName) async throws {
        while true {
            try Task.checkCancellation()
            do {
                try await self.bus.publish(
                    topic: topic, payload: ByteBuffer(bytes: message), qos: .atLeastOnce, retain: false)
                self.state.withLock { $0.sent += 1 }
                return
            } catch let error as BusError where error.code == .closed {
                throw CancellationError()
            } catch let error as BusError {
                if error.code == .disconnected {
                    try await Task.sleep(for: .milliseconds(200))
                } else {
                    self.state.withLock { $0.refused += 1 }
                    self.logger.warning(
                        "refused: is this auditor in the fleet?",
                        metadata: ["reason": "\(error)", "again": "\(self.options.retryDelay)"])
                    try await Task.sleep(for: self.options.retryDelay)
                }
            }
        }
    }

    // MARK: Updates

    private func receiving() async {
        while let events = try? await self.bus.receive() {
            for case .delivery(let delivery) in events {
                do throws(LiCoreError) {
                    try self.apply(Array(delivery.payload.readableBytesView), topic: delivery.topic.rawValue)
                } catch {
                    self.logger.warning(
                        "update refused", metadata: ["topic": "\(delivery.topic)", "reason": "\(error)"])
                }
                delivery.settle()
            }
        }
    }

    /// `SAMPLE_RATE`, the one parameter that the original has: seconds between readings.
    private func apply(_ message: [UInt8], topic: String) throws(LiCoreError) {
        guard case .update(self.id, let name, let parameter) = Topic(topic) else {
            throw LiCoreError(.shape, "not a topic of updates to \(self.id)")
        }
        guard let controller = self.options.controller, controller.name == name else {
            throw LiCoreError(.notAllowed, "\(name) is not the controller that is configured")
        }
        let text = try SignedText(message)
        guard text.isSigned(by: controller.publicKey) else {
            throw LiCoreError(.signature, "the signature is not by the key of \(name)")
        }
        let update = try ParameterUpdate(text: text.text)
        guard parameter == .sampleRate, let rate = Double(update.value),
            ParameterUpdate.sampleRates.contains(rate)
        else {
            throw LiCoreError(.value, "only SAMPLE_RATE can be set, to 0.05 ... 86400 seconds")
        }
        self.state.withLock { $0.sampleRate = rate }
        self.logger.notice("update applied", metadata: ["SAMPLE_RATE": "\(rate)"])
    }
}
