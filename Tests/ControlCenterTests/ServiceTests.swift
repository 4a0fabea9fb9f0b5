import COSE
import ControlCenter
import Foundation
import Identity
import LiCore
import Logging
import MQTT
import MessageBus
import NIOCore
import PKI
import ServiceLifecycle
import Synchronization
import Telemetry
import TestSupport
import Testing

/// A bus in memory that remembers what is settled and published.
private final class FakeBus: MessageBus, SettlementTarget {
    struct State {
        var events: [BusEvent] = []
        var isClosed = false
        var receiver: CheckedContinuation<Void, Never>?
        var settled: [UInt64] = []
        var published: [(topic: String, bytes: [UInt8], retain: Bool)] = []
        /// How many publications are to fail, as without a connection.
        var failures = 0
        var waiters: [(isMet: @Sendable (State) -> Bool, continuation: CheckedContinuation<Void, Never>)] = []
        var nextToken: UInt64 = 0
    }

    private let state = Mutex(State())
    /// Called at each settlement, before it is recorded.
    private let onSettle: @Sendable () -> Void

    init(onSettle: @escaping @Sendable () -> Void = {}) {
        self.onSettle = onSettle
    }

    private func change(_ body: (inout sending State) -> Void) {
        let woken = self.state.withLock { state in
            body(&state)
            var woken: [CheckedContinuation<Void, Never>] = []
            if let receiver = state.receiver, !state.events.isEmpty || state.isClosed {
                woken.append(receiver)
                state.receiver = nil
            }
            for index in state.waiters.indices.reversed() where state.waiters[index].isMet(state) {
                woken.append(state.waiters.remove(at: index).continuation)
            }
            return woken
        }
        for continuation in woken { continuation.resume() }
    }

    func deliver(_ arrivals: [Arrival]) throws {
        let named = try arrivals.map { (try TopicName($0.topic), $0) }
        self.change { state in
            for (topic, arrival) in named {
                state.events.append(
                    .delivery(
                        Delivery(
                            topic: topic, payload: ByteBuffer(bytes: arrival.bytes), qos: .atLeastOnce,
                            isRetained: arrival.isRetained, sender: arrival.sender,
                            settlement: Delivery.Settlement(target: self, token: state.nextToken))))
                state.nextToken += 1
            }
        }
    }

    func connect() { self.change { $0.events.append(.connected) } }

    func failNext(_ count: Int) { self.state.withLock { $0.failures = count } }

    func close() { self.change { $0.isClosed = true } }

    /// Returns as soon as the condition holds.
    func wait(for isMet: @escaping @Sendable (State) -> Bool) async {
        await withCheckedContinuation { continuation in
            let isMetNow = self.state.withLock { state in
                if isMet(state) { return true }
                state.waiters.append((isMet, continuation))
                return false
            }
            if isMetNow { continuation.resume() }
        }
    }

    var settled: [UInt64] { self.state.withLock { $0.settled } }
    var published: [(topic: String, bytes: [UInt8], retain: Bool)] { self.state.withLock { $0.published } }

    func receive() async throws -> [BusEvent]? {
        while true {
            try Task.checkCancellation()
            let (events, isClosed) = self.state.withLock { state in
                defer { state.events = [] }
                return (state.events, state.isClosed)
            }
            if !events.isEmpty { return events }
            if isClosed { return nil }
            await withTaskCancellationHandler {
                await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
                    let waits = self.state.withLock { state in
                        guard state.events.isEmpty, !state.isClosed, !Task.isCancelled else { return false }
                        state.receiver = continuation
                        return true
                    }
                    if !waits { continuation.resume() }
                }
            } onCancel: {
                let receiver = self.state.withLock { state in
                    defer { state.receiver = nil }
                    return state.receiver
                }
                receiver?.resume()
            }
        }
    }

    func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws {
        let fails = self.state.withLock { state in
            defer { state.failures = max(0, state.failures - 1) }
            return state.failures > 0
        }
        guard !fails else { throw BusError(.disconnected, "the broker is away") }
        self.change { $0.published.append((topic.rawValue, Array(payload.readableBytesView), retain)) }
    }

    func settle(_ token: UInt64) {
        self.onSettle()
        self.change { $0.settled.append(token) }
    }
}

@Suite struct ServiceTests {
    private let pki: TestPKI
    private let folder: TemporaryDirectory
    private var home: TestAuditor
    private let store: ControlCenterStore
    private let revocationList: [UInt8]

    init() throws {
        self.pki = try TestPKI(auditors: ["home-1"])
        self.folder = try TemporaryDirectory()
        self.home = TestAuditor(try self.pki.auditor("home-1"), at: Timestamp(seconds: self.pki.now))
        self.store = try ControlCenterStore(directory: self.folder.path)
        self.revocationList = try self.pki.revocationLists()[1].der
    }

    private func center(_ bus: FakeBus, _ change: (inout ControlCenter.Configuration) throws -> Void = { _ in }) throws
        -> ControlCenter
    {
        var configuration = ControlCenter.Configuration()
        configuration.retryDelay = .milliseconds(1) ... .milliseconds(2)
        try change(&configuration)
        let now = Timestamp(seconds: self.pki.now)
        return try ControlCenter(
            bus: bus, store: self.store, verifier: self.pki.verifier(), signer: PartySigner(self.pki.controlCenter),
            chain: self.pki.controlCenter.chainDER, revocationLists: [self.revocationList],
            configuration: configuration, logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            clock: { now })
    }

    @Test mutating func `deliveries are settled and receipts published after the commit`() async throws {
        let store = self.store
        let unstored = Mutex(0)
        let bus = FakeBus {
            // At each settlement, hello or statement, what it is about is on disk.
            let statistics = try? store.statistics()
            if statistics?.auditors.isEmpty ?? true { unstored.withLock { $0 += 1 } }
        }
        let center = try self.center(bus)
        let messages = try self.home.next(300)
        try bus.deliver([self.home.arrivalOfHello()])
        let home = self.home
        async let running: Void = center.run()
        await bus.wait { $0.settled.count == 1 }
        try bus.deliver(messages.map { home.arrival($0) })
        await bus.wait { $0.settled.count == 301 }
        bus.close()
        try await running
        #expect(unstored.withLock { $0 } == 0)
        #expect(bus.settled.sorted() == Array(0...300))
        #expect(try self.store.statistics().statements == 300)
        #expect(center.progress.statements == 300)
        #expect(center.progress.received == 301)
        var covered: Set<Int64> = []
        for message in bus.published where message.topic == "control_center/receipts/home-1" {
            #expect(!message.retain)
            let envelope = try Envelope.decode(message.bytes)
            #expect(envelope.isSigned(by: self.pki.controlCenter.key.publicKey))
            for range in envelope.receipts?.stored ?? [] {
                #expect(messages[Int(range.last) - 1].id == range.lastID)
                covered.formUnion(range.first...range.last)
            }
        }
        #expect(covered == Set(1...300))
    }

    @Test func `at each connect the chain and the revocation list are published, retained`() async throws {
        let bus = FakeBus()
        let center = try self.center(bus)
        async let running: Void = center.run()
        bus.connect()
        await bus.wait { $0.published.count == 2 }
        bus.connect()
        await bus.wait { $0.published.count == 4 }
        bus.close()
        try await running
        let published = bus.published
        #expect(
            published.map(\.topic) == [
                "control_center/keys", "control_center/crl", "control_center/keys", "control_center/crl",
            ])
        #expect(published.map(\.retain) == [true, true, true, true])
        var reader = CBORReader(published[0].bytes)
        let count = try reader.arrayCount()
        #expect(count == 2)
        let leaf = Array(published[0].bytes[try reader.byteString()])
        let intermediate = Array(published[0].bytes[try reader.byteString()])
        #expect(leaf == self.pki.controlCenter.certificate.der)
        #expect(intermediate == self.pki.intermediate.certificate.der)
        #expect(published[1].bytes == self.revocationList)
    }

    @Test mutating func `a graceful shutdown decides what was received and then ends`() async throws {
        let bus = FakeBus()
        let center = try self.center(bus) { $0.maximumBatch = 7 }
        try bus.deliver([self.home.arrivalOfHello()] + self.home.next(200).map { self.home.arrival($0) })
        let group = ServiceGroup(
            configuration: .init(services: [.init(service: center)], logger: Logger(label: "test")))
        async let running: Void = group.run()
        await bus.wait { !$0.settled.isEmpty }
        await group.triggerGracefulShutdown()
        try await running
        #expect(bus.settled.count == 201)
        #expect(try self.store.statistics().statements == 200)
        #expect(center.progress.commits > 20)
    }

    @Test mutating func `with a full disk nothing is settled or receipted, and it goes on once there is room`()
        async throws
    {
        let bus = FakeBus()
        let center = try self.center(bus)
        try bus.deliver([self.home.arrivalOfHello()])
        let home = self.home
        let messages = try self.home.next(300)
        async let running: Void = center.run()
        await bus.wait { $0.settled.count == 1 && $0.published.count == 1 }
        try self.store.limitSize(pages: self.store.pages + 2)
        try bus.deliver(messages.map { home.arrival($0) })
        while center.progress.storeTrouble == nil { await Task.yield() }
        #expect(center.progress.storeTrouble == ControlCenterError(.storeFailed, ""))
        #expect(bus.settled.count == 1)
        #expect(bus.published.count == 1)
        try self.store.limitSize(pages: 1 << 30)
        await bus.wait { $0.settled.count == 301 }
        bus.close()
        try await running
        #expect(center.progress.storeTrouble == nil)
        #expect(try self.store.statistics().statements == 300)
    }

    @Test mutating func `a shutdown while the disk is full settles nothing of what is not stored`() async throws {
        let bus = FakeBus()
        let center = try self.center(bus)
        try bus.deliver([self.home.arrivalOfHello()])
        let home = self.home
        let messages = try self.home.next(300)
        let group = ServiceGroup(
            configuration: .init(services: [.init(service: center)], logger: Logger(label: "test")))
        async let running: Void = group.run()
        await bus.wait { $0.settled.count == 1 }
        try self.store.limitSize(pages: self.store.pages + 2)
        try bus.deliver(messages.map { home.arrival($0) })
        while center.progress.storeTrouble == nil { await Task.yield() }
        await group.triggerGracefulShutdown()
        try await running
        #expect(bus.settled.count == 1)
        #expect(try self.store.statistics().statements == 0)
    }

    @Test mutating func `a revocation list taken while running refuses what comes next, and is published`() async throws
    {
        let bus = FakeBus()
        let center = try self.center(bus)
        let first = self.home.arrival(try self.home.next())
        let second = self.home.arrival(try self.home.next())
        try bus.deliver([self.home.arrivalOfHello(), first])
        async let running: Void = center.run()
        await bus.wait { $0.settled.count == 2 }
        let lists = try self.pki.revocationLists(revoking: [self.home.party], number: 2)
        let newest = lists[1].der
        try await center.update(lists, published: [newest])
        try bus.deliver([second])
        await bus.wait { $0.settled.count == 3 && $0.published.contains { $0.bytes == newest } }
        bus.close()
        try await running
        #expect(try self.store.statistics().statements == 1)
        #expect(center.progress.reasons[.revoked] == 1)
    }

    @Test func `an update in the original's form is published again after the connection was lost`() async throws {
        let bus = FakeBus()
        let original = try await OriginalAuthority(clients: ["mona"])
        let mona = try FleetMember(
            id: Identifier("mona"), kind: .auditor,
            certificate: try CertificateFile.read(original.certificateFile("mona"))[0],
            controller: Identifier("center-1"), until: "2099-12-31")
        let key = self.pki.controlCenter.key
        let center = try self.center(bus) {
            $0.fleet = try Fleet([mona])
            $0.liCoreControllers = [LiCoreController(name: mona.controller ?? mona.id) { try key.sign(prehashed: $0) }]
        }
        bus.failNext(1)
        let clerk = try StoreClerk(path: self.folder.path(ControlCenterStore.fileName))
        _ = try clerk.order(
            auditor: mona.id, parameter: try #require(Topic.Parameter("SAMPLE_RATE")), value: "0.2",
            by: "olga", at: Timestamp(seconds: self.pki.now))
        async let running: Void = center.run()
        await bus.wait { $0.published.contains { $0.topic == "control_center/updates/mona/center-1/SAMPLE_RATE" } }
        bus.close()
        try await running
    }

    @Test func `a certificate of another role does not make a control center`() throws {
        #expect(throws: ControlCenterError(.identity, "")) {
            try ControlCenter(
                bus: FakeBus(), store: self.store, verifier: self.pki.verifier(), signer: PartySigner(self.home.party),
                chain: self.home.party.chainDER)
        }
        #expect(throws: ControlCenterError(.identity, "")) {
            try ControlCenter(
                bus: FakeBus(), store: self.store, verifier: self.pki.verifier(),
                signer: PartySigner(self.pki.controlCenter), chain: self.home.party.chainDER)
        }
    }
}
