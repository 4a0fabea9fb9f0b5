import COSE
import CoreFoundation
import Crypto
import Foundation
import Identity
import Logging
import MQTT
import MessageBus
import NIOCore
import PKI
import Synchronization
import Telemetry

/// Measures the ingest path: statements signed beforehand go through the whole running ``ControlCenter``
/// (receive ... commit, `synchronous = FULL`, receipts) in this process, and the same statements' signatures are
/// verified bare, on all cores, by turns in the same run. The ratio says how much of what the cores could verify
/// is really stored.
public struct IngestBenchmark: Sendable {
    /// What was measured.
    public struct Result: Hashable, Sendable, Codable {
        /// Records in each statement.
        public var records: Int
        public var statements: Int
        public var auditors: Int
        public var cores: Int
        public var bytesPerStatement: Int
        /// Bare P-256 verifications a second on all cores.
        public var verifiesPerSecond: Double
        /// Statements stored a second.
        public var statementsPerSecond: Double
        /// Readings stored a second.
        public var readingsPerSecond: Double
        /// Statements per verification, by time.
        public var ratio: Double
        /// The same by CPU time: what remains true when others use the machine.
        public var ratioByCPU: Double
        /// CPU time of the whole process per bare verification, in microseconds.
        public var microsecondsToVerify: Double
        /// CPU time of the whole process per statement, in microseconds.
        public var microsecondsToIngest: Double
        /// Transactions per statement, inverted.
        public var statementsPerCommit: Double
        /// Where it goes: microseconds of CPU time per statement of each step, alone on one thread.
        public var steps: Steps
    }

    /// Microseconds of CPU time per statement.
    public struct Steps: Hashable, Sendable, Codable {
        public var decode: Double
        /// Identify and verify, readings included.
        public var verify: Double
        public var order: Double
        /// Without the time that the disk takes.
        public var commit: Double
    }

    private struct Party {
        var spiffeID: SPIFFEID
        var signer: KeySigner
        var key: P256.Signing.PublicKey
        var chain: [[UInt8]]
    }

    private struct Load {
        var hellos: [Arrival] = []
        /// By turns of the auditors.
        var statements: [Arrival] = []
        var keys: [P256.Signing.PublicKey] = []
    }

    public var records: Int
    public var statements: Int
    public var auditors: Int
    /// How often bare verification and ingest take turns.
    public var rounds: Int
    public var cores: Int

    private let now = Timestamp(seconds: 1_800_000_000)

    /// - Parameters:
    ///   - records: in each statement, 1 ... 1,024.
    ///   - statements: in each round.
    ///   - cores: all of the machine's unless given.
    public init(
        records: Int, statements: Int = 20_000, auditors: Int = 16, rounds: Int = 3,
        cores: Int? = nil
    ) {
        self.records = records
        self.statements = statements
        self.auditors = auditors
        self.rounds = rounds
        self.cores = cores ?? ProcessInfo.processInfo.activeProcessorCount
    }

    /// Measures, in new folders below `directory`.
    ///
    /// - Parameter progress: called with a line about what is being done.
    @concurrent public func run(
        in directory: String, progress: @Sendable (String) -> Void = { _ in }
    ) async throws -> Result {
        let domain = try TrustDomain("bench.example")
        let root = try Authority.makeRoot(trustDomain: domain, at: self.now.seconds)
        let issuer = try root.makeIntermediate(trustDomain: domain, at: self.now.seconds)
        let verifier = try IdentityVerifier(
            trustDomain: domain, roots: [root.certificate], intermediates: [issuer.certificate])
        func party(_ profile: CertificateProfile) throws -> Party {
            let key = P256.Signing.PrivateKey(compactRepresentable: false)
            let certificate = try issuer.issue(profile, to: key.publicKey, at: self.now.seconds)
            return Party(
                spiffeID: profile.spiffeID,
                signer: KeySigner(
                    issuer: profile.spiffeID, certificateHash: CertificateHash(hashing: certificate.der), key: key),
                key: key.publicKey, chain: [certificate.der, issuer.certificate.der])
        }
        let center = try party(.controlCenter(Identifier("bench"), in: domain))
        let parties = try (1...self.auditors).map { try party(.auditor(Identifier("home-\($0)"), in: domain)) }

        progress("signing \(self.statements) statements of \(self.records) records")
        let load = try self.sign(parties)

        var verifying = Span()
        var ingesting = Span()
        var commits: Int64 = 0
        for round in 1...self.rounds {
            progress("round \(round) of \(self.rounds): verifying")
            verifying += try await self.verify(load)
            progress("round \(round) of \(self.rounds): storing")
            let (span, made) = try await self.ingest(
                load, center, verifier, directory: "\(directory)/\(self.records)-\(round)")
            ingesting += span
            commits += made
        }
        progress("step by step")
        let steps = try self.steps(load, verifier, directory: "\(directory)/\(self.records)-steps")

        let total = Double(self.statements * self.rounds)
        return Result(
            records: self.records, statements: self.statements, auditors: self.auditors, cores: self.cores,
            bytesPerStatement: load.statements.reduce(0) { $0 + $1.bytes.count } / self.statements,
            verifiesPerSecond: total / verifying.seconds, statementsPerSecond: total / ingesting.seconds,
            readingsPerSecond: total * Double(self.records) / ingesting.seconds,
            ratio: verifying.seconds / ingesting.seconds, ratioByCPU: verifying.cpuSeconds / ingesting.cpuSeconds,
            microsecondsToVerify: verifying.cpuSeconds / total * 1e6,
            microsecondsToIngest: ingesting.cpuSeconds / total * 1e6,
            statementsPerCommit: total / Double(max(1, commits)), steps: steps)
    }

    // MARK: The load

    private func sign(_ parties: [Party]) throws -> Load {
        var load = Load()
        load.statements.reserveCapacity(self.statements)
        var heads = parties.map { _ in MessageID.zero }
        var random = SystemRandomNumberGenerator()
        let streams = parties.map { _ in StreamID(using: &random) }
        for (party, stream) in zip(parties, streams) {
            let hello = Hello(
                stream: stream, lastSequence: 0, lastID: .zero, nonce: Nonce(using: &random), clock: .synchronised)
            load.hellos.append(
                Arrival(
                    topic: Topic.hello(party.spiffeID.id).description,
                    bytes: try hello.signed(issuedAt: self.now, chain: party.chain, by: party.signer).bytes))
        }
        let quantities: [(Quantity, Telemetry.Unit)] = [
            (.consumption, .kilowattHour), (.production, .kilowattHour), (.consumptionTotal, .kilowattHour),
            (.productionTotal, .kilowattHour),
        ]
        for index in 0..<self.statements {
            let turn = index % parties.count
            let number = Int64(index / parties.count + 1)
            let readings = try (0..<self.records).map { record in
                let (quantity, unit) = quantities[record % quantities.count]
                return Reading(
                    meter: try MeterName("meter"), quantity: quantity, unit: unit,
                    time: Timestamp(
                        seconds: 1_700_000_000 + (number * Int64(self.records) + Int64(record / 4)) * 900),
                    interval: quantity.kind == .energy ? 900_000_000_000 : nil,
                    value: ExactDecimal(mantissa: Int64(index % 9_000) + 100, exponent: -3))
            }
            let party = parties[turn]
            let message = try Payload.statement(readings, of: party.spiffeID.id).signed(
                at: StreamPosition(stream: streams[turn], sequence: number, previous: heads[turn]),
                clock: .synchronised, issuedAt: self.now, by: party.signer)
            heads[turn] = message.id
            load.statements.append(
                Arrival(topic: Topic.measures(party.spiffeID.id).description, bytes: message.bytes))
            load.keys.append(party.key)
        }
        return load
    }

    // MARK: Bare verification

    /// Only `isValidSignature` of a digest is timed: hashing and taking apart are done before.
    private func verify(_ load: Load) async throws -> Span {
        struct Check: Sendable {
            var key: P256.Signing.PublicKey
            var signature: P256.Signing.ECDSASignature
            var digest: SHA256Digest
        }
        let checks = try zip(load.statements, load.keys).map { arrival, key in
            let message = try Sign1(arrival.bytes)
            return Check(
                key: key, signature: try P256.Signing.ECDSASignature(rawRepresentation: arrival.bytes.suffix(64)),
                digest: message.digest)
        }
        let share = (checks.count + self.cores - 1) / self.cores
        let start = Moment()
        let valid = await withTaskGroup(of: Int.self) { group in
            for first in stride(from: 0, to: checks.count, by: share) {
                let part = checks[first..<min(first + share, checks.count)]
                group.addTask { part.count { $0.key.isValidSignature($0.signature, for: $0.digest) } }
            }
            return await group.reduce(0, +)
        }
        let span = Span(since: start)
        guard valid == checks.count else { throw ControlCenterError(.identity, "a signature did not verify") }
        return span
    }

    // MARK: The whole path

    private func ingest(
        _ load: Load, _ center: Party, _ verifier: IdentityVerifier, directory: String
    ) async throws -> (Span, commits: Int64) {
        let bus = try BenchmarkBus(hellos: load.hellos, statements: load.statements)
        let now = self.now
        var configuration = ControlCenter.Configuration()
        configuration.cores = self.cores
        let controlCenter = try ControlCenter(
            bus: bus, store: ControlCenterStore(directory: directory), verifier: verifier, signer: center.signer,
            chain: center.chain, configuration: configuration,
            logger: Logger(label: "bench", factory: { _ in SwiftLogNoOpLogHandler() }), clock: { now })
        try await controlCenter.run()
        guard let span = bus.span, controlCenter.progress.statements == Int64(load.statements.count) else {
            throw ControlCenterError(
                .storeFailed,
                "\(controlCenter.progress.statements) of \(load.statements.count) statements were stored: "
                    + "\(controlCenter.progress.reasons)")
        }
        return (span, controlCenter.progress.commits)
    }

    // MARK: Step by step

    private func steps(_ load: Load, _ verifier: IdentityVerifier, directory: String) throws -> Steps {
        var core = IngestCore(store: try ControlCenterStore(directory: directory), verifier: verifier)
        let examiner = core.examiner
        try core.commit(core.order(load.hellos.map { examiner.examine($0, at: self.now) }, at: self.now))
        var steps = Steps(decode: 0, verify: 0, order: 0, commit: 0)
        let known = core.examiner
        for start in stride(from: 0, to: load.statements.count, by: 4_096) {
            let batch = load.statements[start..<min(start + 4_096, load.statements.count)]
            var from = Moment()
            let decoded = try batch.map { try Decoded($0) }
            steps.decode += Span(since: from).cpuSeconds
            from = Moment()
            let examined = decoded.map { known.examine($0) }
            steps.verify += Span(since: from).cpuSeconds
            from = Moment()
            let step = try core.order(examined, at: self.now)
            steps.order += Span(since: from).cpuSeconds
            from = Moment()
            try core.commit(step)
            steps.commit += Span(since: from).cpuSeconds
        }
        let scale = 1e6 / Double(load.statements.count)
        return Steps(
            decode: steps.decode * scale, verify: steps.verify * scale, order: steps.order * scale,
            commit: steps.commit * scale)
    }
}

/// A moment by the wall and by the process's CPU clock.
private struct Moment {
    let wall: Double
    let cpu: Double

    init() {
        func read(_ clock: clockid_t) -> Double {
            var time = timespec()
            clock_gettime(clock, &time)
            return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
        }
        self.wall = read(CLOCK_MONOTONIC)
        self.cpu = read(CLOCK_PROCESS_CPUTIME_ID)
    }
}

/// How long something took, by both clocks.
private struct Span {
    var seconds: Double = 0
    var cpuSeconds: Double = 0

    init() {}

    init(since start: Moment) {
        let end = Moment()
        self.seconds = end.wall - start.wall
        self.cpuSeconds = end.cpu - start.cpu
    }

    static func += (a: inout Span, b: Span) {
        a.seconds += b.seconds
        a.cpuSeconds += b.cpuSeconds
    }
}

/// A bus that has all messages at hand, and ends when the last one is settled.
private final class BenchmarkBus: MessageBus {
    /// Counts what is settled.
    private final class Counter: SettlementTarget {
        struct State {
            var unsettled = 0
            var start: Moment?
            var span: Span?
            var waiter: CheckedContinuation<Void, Never>?
        }

        let state = Mutex(State())

        func settle(_ token: UInt64) {
            let waiter = self.state.withLock { state -> CheckedContinuation<Void, Never>? in
                state.unsettled -= 1
                guard state.unsettled == 0 else { return nil }
                if let start = state.start { state.span = Span(since: start) }
                defer { state.waiter = nil }
                return state.waiter
            }
            waiter?.resume()
        }
    }

    private let counter = Counter()
    private let hellos: [BusEvent]
    private let statements: [BusEvent]
    private let taken = Mutex(0)

    init(hellos: [Arrival], statements: [Arrival]) throws {
        let counter = self.counter
        func deliveries(_ arrivals: [Arrival]) throws -> [BusEvent] {
            try arrivals.map { arrival in
                .delivery(
                    Delivery(
                        topic: try TopicName(arrival.topic), payload: ByteBuffer(bytes: arrival.bytes),
                        qos: .atLeastOnce, isRetained: false,
                        settlement: Delivery.Settlement(target: counter, token: 0)))
            }
        }
        self.hellos = try deliveries(hellos)
        self.statements = try deliveries(statements)
        self.counter.state.withLock { $0.unsettled = hellos.count }
    }

    var span: Span? { self.counter.state.withLock { $0.span } }

    /// First all hellos; when they are settled, as in the protocol, the statements, some at a time.
    func receive() async throws -> [BusEvent]? {
        try Task.checkCancellation()
        let from = self.taken.withLock { taken in
            defer { taken = taken == 0 ? 1 : taken + 128 }
            return taken
        }
        if from == 0 { return self.hellos }
        if from == 1 {
            await self.settled()
            self.counter.state.withLock { state in
                state.unsettled = self.statements.count
                state.start = Moment()
            }
        }
        if from - 1 < self.statements.count { return Array(self.statements[(from - 1)...].prefix(128)) }
        await self.settled()
        return nil
    }

    private func settled() async {
        await withCheckedContinuation { continuation in
            let waits = self.counter.state.withLock { state in
                guard state.unsettled > 0 else { return false }
                state.waiter = continuation
                return true
            }
            if !waits { continuation.resume() }
        }
    }

    func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws {}
}
