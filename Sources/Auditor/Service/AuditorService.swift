public import Identity
public import Logging
public import MQTT
public import MessageBus
public import PKI
public import ServiceLifecycle
import Synchronization
public import Telemetry

/// How fast a source is read.
public enum ReplaySpeed: Hashable, Sendable {
    /// As fast as it goes.
    case unlimited
    /// So many times as fast as the readings were made: 1 is their own pace, whenever they were made.
    case times(Double)
    /// Each reading when its time has come by the clock: a home that lives now. What is in the past comes at once.
    case live
}

/// What an auditor has done, and what it still has to do.
public struct AuditorReport: Hashable, Sendable {
    public var statistics = AuditorStatistics()
    public var outbox = OutboxSummary()
    /// Whether messages may leave: connected, and the hello was answered.
    public var isOpen = false
    /// Whether the source has ended or failed and everything it gave is receipted or refused for good.
    public var isFinished = false
    public var alarms: Set<Alarm.Kind> = []
    /// Why the source cannot go on.
    public var sourceError: MeterSourceError?

    public init() {}
}

/// An auditor: reads a source, signs, keeps, sends, forgets what is receipted. The thin part around
/// ``AuditorMachine``: it carries out what that says, on a thread of its own.
///
/// The bus runs by itself; in a service group put it before the auditor, so that it is shut down behind it.
public final class AuditorService: Service {
    public struct Options: Sendable {
        public var speed = ReplaySpeed.live
        /// Whether ``AuditorService/run()`` returns when the source has ended and all is receipted or refused for good.
        public var drains = false
        /// How long an orderly shutdown waits for receipts.
        public var shutdownGrace: Duration = .seconds(5)
        /// Called with each revocation list that is verified and newer than the one before: to keep it, and to look
        /// at the broker again. Called on the auditor's own thread, which may wait for a disk.
        public var keepRevocationList: (@Sendable (RevocationList) -> Void)?
        /// Where the outbox is: when its disk fills, an alarm is raised. `nil`: nobody looks.
        public var stateDirectory: String?

        public init() {}
    }

    private let core: AuditorCore
    private let published: ReportBox

    /// - Parameters:
    ///   - outbox: Nobody else may use it any more.
    ///   - signer: The auditor's identity and key; `configuration` has its certificates.
    ///   - trust: Who is a control center.
    ///   - controlCenter: Its certificate chain in DER, if it is configured and not only told by `control_center/keys`.
    ///   - now: The clock.
    /// - Throws: ``MeterSourceError`` if the source is not the one that the outbox has read from; ``PKIError`` if
    ///   `controlCenter` does not verify.
    public init(
        bus: any MessageBus, source: any MeterSource, outbox: sending any OutboxStore,
        configuration: AuditorConfiguration, signer: any Signer, trust: IdentityVerifier,
        controlCenter: [[UInt8]]? = nil, options: Options = Options(),
        now: @escaping @Sendable () -> Timestamp = { Timestamp.now },
        randomness: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator(),
        logger: Logger = Logger(label: "auditor")
    ) throws {
        let report = ReportBox()
        let identity = try controlCenter.map { try trust.verify(der: $0, at: now().seconds, roles: [.controlCenter]) }
        self.published = report
        self.core = try AuditorCore(
            bus: bus, source: source, outbox: outbox, configuration: configuration, signer: signer, trust: trust,
            controlCenter: identity, options: options, now: now, randomness: randomness, logger: logger,
            report: report)
    }

    /// What an auditor subscribes to.
    public static func subscriptions(for id: Identifier) -> [TopicFilter] {
        let topics = [Topic.keys, .crl, .receipts(id), .alerts(id), .alertsToAll].map(\.description)
        return (topics + ["control_center/updates/\(id)/#"]).compactMap { try? TopicFilter($0) }
    }

    /// Goes on under a new certificate of the same auditor, without losing anything: a hello under it comes next.
    ///
    /// - Parameter certificateChain: the certificate and its intermediate, DER.
    public func renew(_ signer: any Signer, certificateChain: [[UInt8]]) async {
        await self.core.renew(signer, certificateChain: certificateChain)
    }

    /// Judges receipts by another trust from now on: more roots, more intermediates.
    public func trust(_ verifier: IdentityVerifier) async { await self.core.trust(verifier) }

    /// Tells an alarm of a part beside the auditor, once until ``clear(_:)``.
    public func raise(_ alarm: Alarm) async { await self.core.raise(alarm) }

    /// What was raised is over.
    public func clear(_ kind: Alarm.Kind) async { await self.core.clear(kind) }

    /// How it stands now; from any thread.
    public var report: AuditorReport { self.published.value }

    /// Works until a graceful shutdown; with ``Options/drains`` until all is done.
    ///
    /// - Throws: ``MeterSourceError`` when the source has failed and what it had given is dealt with;
    ///   `CancellationError` when cancelled.
    public func run() async throws {
        try await withGracefulShutdownHandler {
            try await self.core.run()
        } onGracefulShutdown: {
            Task { await self.core.stop() }
        }
    }
}

/// A report that one writes and many read.
final class ReportBox: Sendable {
    private let mutex = Mutex(AuditorReport())

    var value: AuditorReport {
        get { self.mutex.withLock { $0 } }
        set { self.mutex.withLock { $0 = newValue } }
    }
}

/// Randomness of any type.
struct AnyRandom: RandomNumberGenerator {
    private var generator: any RandomNumberGenerator

    init(_ generator: any RandomNumberGenerator) { self.generator = generator }

    mutating func next() -> UInt64 { self.generator.next() }
}
