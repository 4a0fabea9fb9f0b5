import Identity
import Logging
import MQTT
import MQTTBroker
import NIOCore
import Synchronization
import TestSupport

/// All that a state says, a line for each thing, sorted.
func lines(of state: StoredState) -> [String] {
    var lines: [String] = []
    for session in state.sessions {
        lines.append(text(session.session))
        let number = session.session.number
        lines += session.subscriptions.map { text(number, $0.0, $0.identifier) }
        lines += session.deliveries.map { text(number, $0) }
        lines += session.received.map { "\(number) received \($0)" }
        // Deliveries come in the order of their places.
        let places = session.deliveries.map(\.place)
        if places != places.sorted() { lines.append("\(number) is out of order") }
    }
    lines += state.retained.map { "retained \($0.qos) \(text($0.message))" }
    return lines.sorted()
}

private func text(_ session: StoredSession) -> String {
    "\(session.number) is \(session.peer.spiffeID) \(session.peer.certificateHash) \(session.clientID) "
        + "\(session.expiry) \(session.leftAt.map(String.init) ?? "-") \(session.will.map { "\($0)" } ?? "-")"
}

private func text(_ session: UInt64, _ subscription: Subscription, _ identifier: UInt32?) -> String {
    "\(session) subscribed \(subscription.filter.rawValue) \(subscription.maximumQoS) \(subscription.noLocal) "
        + "\(subscription.retainAsPublished) \(subscription.retainHandling) \(identifier.map(String.init) ?? "-")"
}

private func text(_ session: UInt64, _ delivery: StoredState.Delivery) -> String {
    "\(session) has \(delivery.place) \(delivery.packetID.map(String.init) ?? "-") \(delivery.isReleased) "
        + "\(delivery.delivery.qos) \(delivery.delivery.retain) \(delivery.delivery.subscriptionIDs) "
        + "\(delivery.delivery.share?.rawValue ?? "-") "
        + text(delivery.delivery.message)
}

private func text(_ message: StoredMessage) -> String {
    "\(message.number) \(message.topic) \(Array(message.payload.readableBytesView)) \(message.properties.all) "
        + "\(message.sender?.description ?? "-") \(message.expiry.map(String.init) ?? "-")"
}

/// Makes changes as a router does.
struct StoreTraffic {
    /// Whether some messages come by a shared subscription.
    var isSharing = true
    private var model = StoreModel()
    /// What a store should hold now.
    var lines: [String] { MQTTBrokerTests.lines(of: self.model.state) }
    private var random: SplitMix64
    private var nextNumber: UInt64
    private var places: [UInt64: UInt64] = [:]
    /// Messages that may be delivered to more sessions.
    private var recent: [StoredMessage] = []

    init(seed: UInt64, nextNumber: UInt64 = 1) {
        self.random = SplitMix64(seed: seed)
        self.nextNumber = nextNumber
    }

    mutating func number() -> UInt64 {
        defer { self.nextNumber += 1 }
        return self.nextNumber
    }

    mutating func message(topic: String? = nil, bytes: Int? = nil) throws -> StoredMessage {
        let size = try bytes ?? [0, 3, 40, 200, 6_000].randomElement(using: &self.random).unwrapped()
        let properties: Properties =
            Bool.random(using: &self.random)
            ? [] : [.userProperty(name: "ä", value: "b"), .contentType("text/plain"), .messageExpiryInterval(9)]
        return StoredMessage(
            number: self.number(), topic: try TopicName(topic ?? "a/\(Int.random(in: 0..<20, using: &self.random))"),
            payload: ByteBuffer(bytes: self.random.bytes(size)), properties: properties,
            sender: Bool.random(using: &self.random) ? try peer(.auditor, "home-1") : nil,
            expiry: Bool.random(using: &self.random) ? UInt64.random(in: 1...9_999_999_999, using: &self.random) : nil)
    }

    mutating func session(_ client: String? = nil) throws -> StoredSession {
        let number = self.number()
        var will: Will?
        if Bool.random(using: &self.random) {
            will = Will(
                topic: try TopicName("w"), payload: self.random.bytes(20), qos: .exactlyOnce, retain: true,
                properties: [.willDelayInterval(5)])
        }
        return StoredSession(
            number: number, peer: try peer(.auditor, "home-\(number % 7)"), clientID: client ?? "client \(number) ö",
            expiry: .max, will: will)
    }

    /// The next change; about one in twenty belongs to nothing.
    mutating func next() throws -> StoreChange {
        let change = try self.make()
        self.model.apply(change)
        return change
    }

    private mutating func make() throws -> StoreChange {
        let isStray = Int.random(in: 0..<20, using: &self.random) == 0
        let known = isStray ? nil : self.model.state.sessions.randomElement(using: &self.random)
        guard let number = isStray ? 999_999 : known?.session.number else { return .openSession(try self.session()) }
        let places = known?.deliveries.map(\.place) ?? []
        let place = isStray ? 777_777 : places.randomElement(using: &self.random)
        let packetID = UInt16.random(in: 1...50, using: &self.random)
        switch Int.random(in: 0..<100, using: &self.random) {
        case 0..<3: return .openSession(try self.session())
        case 3..<5:
            guard var session = known?.session else { return .removeSession(number) }
            session.leftAt = nil
            session.will = nil
            session.expiry = UInt32.random(in: 1...9_999, using: &self.random)
            return .openSession(session)
        case 5..<8: return .leaveSession(number, at: UInt64.random(in: 1...9_999_999_999, using: &self.random))
        case 8..<9: return .removeSession(number)
        case 9..<14:
            let filter = try TopicFilter("f/\(Int.random(in: 0..<6, using: &self.random))/#")
            return .subscribe(
                number,
                Subscription(
                    filter: filter, maximumQoS: .exactlyOnce, noLocal: Bool.random(using: &self.random),
                    retainAsPublished: Bool.random(using: &self.random), retainHandling: .sendIfNew),
                identifier: Bool.random(using: &self.random) ? 268_435_455 : nil)
        case 14..<17:
            return .unsubscribe(number, try TopicFilter("f/\(Int.random(in: 0..<6, using: &self.random))/#"))
        case 17..<52:
            let isRepeated = Bool.random(using: &self.random)
            let known = isRepeated ? self.recent.randomElement(using: &self.random) : nil
            let message = try known ?? self.message()
            self.recent = self.recent.suffix(5) + [message]
            self.places[number, default: 0] += 1
            return .enqueue(
                number, place: self.places[number] ?? 0,
                StoredDelivery(
                    message: message, qos: Bool.random(using: &self.random) ? .atLeastOnce : .exactlyOnce,
                    retain: Bool.random(using: &self.random),
                    subscriptionIDs: Bool.random(using: &self.random) ? [] : [1, 268_435_455],
                    share: !self.isSharing || Bool.random(using: &self.random) ? nil : try TopicFilter("$share/g/t/+")))
        case 52..<62:
            return place.map { .send(number, place: $0, packetID: packetID) } ?? .forget(number, packetID: packetID)
        case 62..<66: return place.map { .release(number, place: $0) } ?? .forget(number, packetID: packetID)
        case 66..<86: return place.map { .complete(number, place: $0) } ?? .forget(number, packetID: packetID)
        case 86..<90: return .receive(number, packetID: packetID)
        case 90..<94: return .forget(number, packetID: packetID)
        case 94..<98:
            let topic = "r/\(Int.random(in: 0..<5, using: &self.random))"
            let known = self.recent.last.flatMap { $0.topic.rawValue == topic ? $0 : nil }
            let message = try known ?? self.message(topic: topic)
            self.recent.append(message)
            return .retain(message, .exactlyOnce)
        default: return .removeRetained(try TopicName("r/\(Int.random(in: 0..<5, using: &self.random))"))
        }
    }
}

extension Optional {
    fileprivate func unwrapped() throws -> Wrapped {
        guard let self else { throw StoreTestError() }
        return self
    }
}

struct StoreTestError: Error {}

extension SQLiteSessionStore {
    /// Appends, and waits until it is on disk.
    func commit(_ changes: [StoreChange]) async throws {
        try await withCheckedThrowingContinuation { continuation in
            self.append(changes) { continuation.resume(with: $0) }
        }
    }
}

/// Collects what is logged.
final class LogCollector: Sendable {
    private let state = Mutex<[(Logger.Level, String)]>([])
    private let stream: AsyncStream<Void>
    private let continuation: AsyncStream<Void>.Continuation

    init() { (self.stream, self.continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1)) }

    var logger: Logger { Logger(label: "test") { [self] _ in Handler(collector: self) } }

    var errors: [String] { self.state.withLock { $0.filter { $0.0 >= .error }.map(\.1) } }

    func wait(for text: String) async throws {
        try await withDeadline(.seconds(20), "'\(text)' is logged") {
            if self.contains(text) { return }
            for await _ in self.stream where self.contains(text) { return }
            throw CancellationError()
        }
    }

    private func contains(_ text: String) -> Bool { self.state.withLock { $0.contains { $0.1.contains(text) } } }

    private struct Handler: LogHandler {
        let collector: LogCollector
        var metadata: Logger.Metadata = [:]
        var logLevel: Logger.Level = .debug

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { self.metadata[key] }
            set { self.metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            self.collector.state.withLock { $0.append((event.level, "\(event.message)")) }
            self.collector.continuation.yield()
        }
    }
}
