import ArgumentParser
import Foundation
import Identity
import Logging
import MQTT
import MQTTBroker
import MQTTClient
import MessageBus
import NIOCore
import PKI

struct BenchSessionsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sessions",
        abstract: "Measure the store of durable sessions, alone and behind the broker.",
        discussion: """
            Alone: messages are put into a session and taken out again, so many a commit. Behind the broker: \
            publishers send QoS 1 to the queue of a client that is away, without TLS and in this process, with each \
            durability by turns. Commits are synchronous = FULL. Nothing is left behind.

            EXAMPLES
              secure-mqtt bench sessions
              secure-mqtt bench sessions --messages 1000000 --directory /srv/energy --json
            """)

    @Option(help: "Messages in each round.")
    var messages = 200_000

    @Option(help: "Bytes of each message.")
    var bytes = 200

    @Option(help: "Clients that publish.")
    var publishers = 20

    @Option(help: "Rounds with each durability.")
    var rounds = 3

    @Option(help: "Where to put the store; it should be on the disk that is to be measured.")
    var directory = FileManager.default.temporaryDirectory.path

    @Flag(help: "Print one JSON object on one line.")
    var json = false

    func validate() throws {
        guard (1_000...10_000_000).contains(self.messages), (1...100_000).contains(self.bytes),
            (1...1_000).contains(self.publishers), (1...100).contains(self.rounds)
        else { throw ValidationError("--messages, --bytes, --publishers and --rounds must be positive and sensible") }
    }

    private struct Result: Encodable {
        /// Changes a second, by how many were committed at once.
        var store: [String: Int] = [:]
        /// Messages a second, by durability; the median of the rounds.
        var broker: [String: Int] = [:]
    }

    func run() async throws {
        let folder = "\(self.directory)/secure-mqtt-bench-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var result = Result()
        let batches = [1, 10, 100, 1_000, 10_000]
        for batch in batches {
            Terminal.standardError.progress("store alone, \(batch) changes a commit")
            result.store["\(batch)"] = Int(try await self.measureStore(batch, in: "\(folder)/store-\(batch)"))
        }
        var rates: [String: [Double]] = [:]
        let durabilities: [(String, BrokerDurability?)] = [("memory", nil), ("relaxed", .relaxed), ("safe", .safe)]
        for round in 1...self.rounds {
            for (name, durability) in durabilities {
                Terminal.standardError.progress("broker, \(name), round \(round)")
                let store = durability.map {
                    BrokerConfiguration.Store(directory: "\(folder)/\(name)-\(round)", durability: $0)
                }
                rates[name, default: []].append(try await self.measureBroker(store))
            }
        }
        Terminal.standardError.endProgress()
        for (name, rates) in rates { result.broker[name] = Int(rates.sorted()[rates.count / 2]) }
        if self.json { return try Terminal.standardOutput.json(result) }
        var alone = Table("#changes a commit", "#changes/s")
        for batch in batches { alone.add(["\(batch)", "\(result.store["\(batch)"] ?? 0)"]) }
        Terminal.standardOutput.table(alone)
        var behind = Table("durability", "#messages/s")
        for (name, _) in durabilities { behind.add(["\(name)", "\(result.broker[name] ?? 0)"]) }
        Terminal.standardOutput.table(behind)
    }

    // MARK: The store alone

    /// - Returns: changes a second.
    private func measureStore(_ batch: Int, in folder: String) async throws -> Double {
        let store = try SQLiteSessionStore(directory: folder, logger: Logger(label: "store"))
        defer { store.close() }
        _ = try store.load()
        let session = StoredSession(number: 1, peer: try Self.peer(.operator, "bench"), clientID: "bench", expiry: .max)
        try await Self.commit([.openSession(session)], to: store)
        let topic = try TopicName("audits/measures/bench-1")
        let payload = ByteBuffer(repeating: 7, count: self.bytes)
        var place: UInt64 = 0
        var changes = 0
        let start = ContinuousClock.now
        while ContinuousClock.now - start < .seconds(2) {
            let first = place + 1
            let enqueues = (0..<batch).map { _ in
                place += 1
                let message = StoredMessage(
                    number: place + 1, topic: topic, payload: payload, properties: [], sender: session.peer, expiry: nil
                )
                return StoreChange.enqueue(
                    1, place: place,
                    StoredDelivery(message: message, qos: .atLeastOnce, retain: false, subscriptionIDs: []))
            }
            try await Self.commit(enqueues, to: store)
            try await Self.commit((first...place).map { .complete(1, place: $0) }, to: store)
            changes += 2 * batch
        }
        return Double(changes) / ((ContinuousClock.now - start) / .seconds(1))
    }

    private static func commit(_ changes: [StoreChange], to store: SQLiteSessionStore) async throws {
        try await withCheckedThrowingContinuation { continuation in
            store.append(changes) { continuation.resume(with: $0) }
        }
    }

    // MARK: Behind the broker

    private static func peer(_ role: Role, _ id: String) throws -> PeerIdentity {
        PeerIdentity(
            spiffeID: SPIFFEID(trustDomain: try TrustDomain("bench.example"), role: role, id: try Identifier(id)),
            certificateHash: [UInt8](repeating: 0, count: 32))
    }

    /// - Returns: messages a second, from the first publish to the last PUBACK.
    private func measureBroker(_ store: BrokerConfiguration.Store?) async throws -> Double {
        var limits = BrokerLimits()
        limits.maximumQueuedMessages = .max
        limits.maximumQueuedBytes = .max
        var configuration = BrokerConfiguration(
            listeners: [
                .plaintextOnLoopback(port: 0) { connect in
                    try? Self.peer(connect.clientID == "reader" ? .operator : .auditor, connect.clientID)
                }
            ], limits: limits)
        configuration.store = store
        var logger = Logger(label: "bench")
        logger.logLevel = .error
        let broker = try Broker(configuration: configuration, logger: logger)
        return try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await broker.run() }
            let port = try await broker.boundPorts()[0]

            // Whose queue it is: subscribes, and goes away.
            let reader = try self.client("reader", port: port, subscriptions: [try TopicFilter("audits/#")], logger)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await reader.run() }
                waiting: while let events = try await reader.receive() {
                    for case .connected in events { break waiting }
                }
                reader.shutDown()
                try await group.waitForAll()
            }

            let names = (1...self.publishers).map { "bench-\($0)" }
            let buses = try names.map { try self.client($0, port: port, subscriptions: [], logger) }
            for bus in buses {
                group.addTask { try await bus.run() }
                waiting: while let events = try await bus.receive() {
                    for case .connected in events { break waiting }
                }
            }
            let start = ContinuousClock.now
            try await withThrowingTaskGroup(of: Void.self) { sending in
                for (name, bus) in zip(names, buses) {
                    let message = OutgoingMessage(
                        topic: try TopicName("audits/measures/\(name)"),
                        payload: ByteBuffer(repeating: 7, count: self.bytes))
                    let batch = [OutgoingMessage](repeating: message, count: self.messages / self.publishers)
                    sending.addTask {
                        for case let error? in try await bus.publish(batch: batch) { throw error }
                    }
                }
                try await sending.waitForAll()
            }
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            for bus in buses { bus.shutDown() }
            group.cancelAll()
            try? await group.waitForAll()
            return Double(self.messages / self.publishers * self.publishers) / seconds
        }
    }

    private func client(
        _ name: String, port: Int, subscriptions: [TopicFilter], _ logger: Logger
    ) throws -> MQTTClientBus {
        try MQTTClientBus(
            MQTTClientConfiguration(
                host: "127.0.0.1", port: port, transport: .plaintextLoopback, clientID: name,
                subscriptions: subscriptions.map { .init($0) }), logger: logger)
    }
}
