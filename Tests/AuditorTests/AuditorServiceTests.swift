import Auditor
import Foundation
import Identity
import Logging
import MQTT
import MessageBus
import NIOCore
import PKI
import Synchronization
import Telemetry
import TestSupport
import Testing

/// A bus with a control center at its other end, in memory.
final class CenterBus: MessageBus {
    private struct State {
        var center: Center
        var events: [BusEvent] = []
        var waiter: CheckedContinuation<Void, any Error>?
        var isClosed = false
        var published = 0
        /// Every so many publications the connection is lost.
        var losesEvery: Int?
        var isDown = false
        var topics: Set<String> = []
    }

    private let state: Mutex<State>

    init(_ center: Center, losesEvery: Int? = nil) {
        var state = State(center: center)
        state.losesEvery = losesEvery
        state.events = [.connected]
        self.state = Mutex(state)
    }

    var center: Center { self.state.withLock { $0.center } }
    var published: Int { self.state.withLock { $0.published } }
    var topics: Set<String> { self.state.withLock { $0.topics } }

    func announce(_ bytes: [UInt8], on topic: Topic, isRetained: Bool) throws {
        let name = try TopicName(topic.description)
        self.push([
            .delivery(
                Delivery(topic: name, payload: ByteBuffer(bytes: bytes), qos: .atLeastOnce, isRetained: isRetained))
        ])
    }

    fileprivate func push(_ events: [BusEvent]) {
        let waiter = self.state.withLock { state in
            state.events += events
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }

    func receive() async throws -> [BusEvent]? {
        while true {
            let events = self.state.withLock { state in
                defer { state.events = [] }
                return state.isClosed && state.events.isEmpty ? nil : state.events
            }
            guard let events else { return nil }
            if !events.isEmpty { return events }
            try await withTaskCancellationHandler {
                try await withCheckedThrowingContinuation { continuation in
                    let ready = self.state.withLock { state in
                        if !state.events.isEmpty || state.isClosed || Task.isCancelled { return true }
                        state.waiter = continuation
                        return false
                    }
                    if ready { continuation.resume() }
                }
                try Task.checkCancellation()
            } onCancel: {
                let waiter = self.state.withLock { state in
                    defer { state.waiter = nil }
                    return state.waiter
                }
                waiter?.resume(throwing: CancellationError())
            }
        }
    }

    func publish(topic: TopicName, payload: ByteBuffer, qos: QoS, retain: Bool) async throws {
        let answers: [[UInt8]] = try self.state.withLock { state in
            guard !state.isDown else { throw BusError(.disconnected, "down") }
            state.published += 1
            state.topics.insert(topic.rawValue)
            if let every = state.losesEvery, state.published % every == 0 {
                state.events += [.disconnected(BusError(.disconnected, "lost")), .connected]
                throw BusError(.disconnected, "lost")
            }
            return try state.center.receive(Array(payload.readableBytesView))
        }
        let name = try TopicName("control_center/receipts/home-1")
        self.push(
            answers.map {
                .delivery(
                    Delivery(topic: name, payload: ByteBuffer(bytes: $0), qos: .atLeastOnce, isRetained: false))
            })
    }

    func close() {
        let waiter = self.state.withLock { state in
            state.isClosed = true
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }
}

@Suite("Auditor: service", .timeLimit(.minutes(2))) struct AuditorServiceTests {
    private func service(
        _ bus: CenterBus, _ source: any MeterSource, _ outbox: sending any OutboxStore, pki: TestPKI,
        knowsCenter: Bool = true, _ change: (inout AuditorService.Options) -> Void = { _ in }
    ) throws -> AuditorService {
        let party = try pki.auditor("home-1")
        let trust = try pki.verifier()
        let identity = try trust.verify(chain: party.chain, at: pki.now)
        var configuration = AuditorConfiguration(certificateChain: party.chainDER)
        configuration.resendAfter = 50_000_000
        configuration.helloAgainAfter = 50_000_000
        var options = AuditorService.Options()
        options.speed = .unlimited
        options.drains = true
        change(&options)
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return try AuditorService(
            bus: bus, source: source, outbox: outbox, configuration: configuration,
            signer: try CertificateSigner(identity, key: party.key), trust: trust,
            controlCenter: knowsCenter ? pki.controlCenter.chainDER : nil, options: options, logger: logger)
    }

    private func home(count: Int) throws -> SimulatedHome {
        SimulatedHome(
            .init(seed: 3, meter: try MeterName("main"), start: Timestamp(seconds: 1_700_000_100), count: count))
    }

    private func readings(_ center: Center) -> [Reading] { center.stored.flatMap { Array($0.readings) } }

    @Test("a replay ends when everything is receipted, exactly what the source gave, in order")
    func drains() async throws {
        let desk = try Desk()
        let bus = CenterBus(try Center(desk))
        let service = try self.service(bus, try self.home(count: 500), MemoryOutbox(), pki: desk.pki)
        try await service.run()
        #expect(self.readings(bus.center) == (try readAll(try self.home(count: 500))))
        let report = service.report
        #expect(report.isFinished)
        #expect(report.statistics.readings == 2_000)
        #expect(report.statistics.heartbeats == 1)
        #expect(report.outbox.unreceipted == 0)
        #expect(report.statistics.receiptsVerified > 0)
        #expect(bus.topics == ["audits/hello/home-1", "audits/measures/home-1"])
    }

    @Test("a connection that is lost again and again loses nothing", arguments: [3, 7, 50])
    func lossy(_ every: Int) async throws {
        let desk = try Desk()
        let bus = CenterBus(try Center(desk), losesEvery: every)
        let service = try self.service(bus, try self.home(count: 100), MemoryOutbox(), pki: desk.pki)
        try await service.run()
        #expect(Set(self.readings(bus.center)) == Set(try readAll(try self.home(count: 100))))
        #expect(self.readings(bus.center).count == 400)
    }

    @Test("the control center's chain on its topic is enough to know it; a retained receipt is not taken")
    func keys() async throws {
        let desk = try Desk()
        let bus = CenterBus(try Center(desk))
        try bus.announce(
            try ControlCenterKeys(certificates: desk.pki.controlCenter.chainDER).encoded, on: .keys, isRetained: true)
        try bus.announce([1, 2, 3], on: .receipts(try Identifier("home-1")), isRetained: true)
        let service = try self.service(
            bus, try self.home(count: 10), MemoryOutbox(), pki: desk.pki, knowsCenter: false)
        try await service.run()
        #expect(self.readings(bus.center).count == 40)
        #expect(service.report.statistics.receiptsRefused == 0)
    }

    /// The former run's lock goes with the last of its tasks, which may end a moment after `run()` has.
    private static func reopened(_ directory: String, owner: SPIFFEID) async throws -> SQLiteOutbox {
        for _ in 0..<1_000 {
            do throws(OutboxError) {
                return try SQLiteOutbox(directory: directory, owner: owner)
            } catch {
                guard error.code == .locked else { throw error }
            }
            try await Task.sleep(for: .milliseconds(10))
        }
        return try SQLiteOutbox(directory: directory, owner: owner)
    }

    @Test("a second run on the same state directory goes on, and stores nothing twice")
    func resumes() async throws {
        let desk = try Desk()
        let bus = CenterBus(try Center(desk))
        let directory = try TemporaryDirectory()
        for count in [50, 120, 120] {
            let outbox = try await Self.reopened(directory.path("state"), owner: desk.party.spiffeID)
            try await self.service(bus, try self.home(count: count), outbox, pki: desk.pki).run()
            bus.reconnect()
        }
        #expect(self.readings(bus.center) == (try readAll(try self.home(count: 120))))
    }

    @Test("a source that fails ends the run with its error, after what it gave is receipted")
    func sourceFails() async throws {
        let desk = try Desk()
        let bus = CenterBus(try Center(desk))
        let text = "id,datetime,type,value\nhome-1,2020-01-01 00:00,0,1\nhome-1,2020-01-01 00:15,0,x\n"
        let source = try CSVFile(bytes: Array(text.utf8), name: "f", options: try options()).source(
            for: try Identifier("home-1"))
        let service = try self.service(bus, source, MemoryOutbox(), pki: desk.pki)
        let error = await #expect(throws: MeterSourceError(.value, "")) { try await service.run() }
        #expect(error?.line == 3)
        #expect(self.readings(bus.center).count == 1)
    }

    @Test("when the bus closes the auditor signs what it has and ends")
    func busCloses() async throws {
        let desk = try Desk()
        let bus = CenterBus(try Center(desk))
        let directory = try TemporaryDirectory()
        let outbox = try SQLiteOutbox(directory: directory.path("state"), owner: desk.party.spiffeID)
        let service = try self.service(bus, try self.home(count: 5), outbox, pki: desk.pki) {
            $0.drains = false
            $0.speed = .times(1e9)
        }
        async let run: Void = service.run()
        while !service.report.isFinished { try await Task.sleep(for: .milliseconds(5)) }
        bus.close()
        try await run
        #expect(service.report.statistics.heartbeats == 1)
    }

    @Test("a source that is not the one that was read is refused at once")
    func otherSource() async throws {
        let desk = try Desk()
        let bus = CenterBus(try Center(desk))
        var outbox = MemoryOutbox()
        var state = OutboxState(stream: StreamID(rawValue: 1), previous: .zero, nextOrder: 1)
        state.source = SourcePosition(bytes: [9])
        try outbox.commit(OutboxTransaction(state: state))
        let image = outbox
        #expect(throws: MeterSourceError(.changed, "")) {
            try self.service(bus, try self.home(count: 1), image, pki: desk.pki)
        }
    }
}

extension CenterBus {
    /// As after a reconnect.
    func reconnect() {
        self.push([.connected])
    }
}
