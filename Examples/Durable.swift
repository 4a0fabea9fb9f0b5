import ArgumentParser
import Logging
import MQTT
import MQTTClient
import MQTTClientSQLite
import MessageBus
import NIOCore

/// Where a session is kept on this machine.
struct DurableOptions: ParsableArguments {
    @Option(help: "Directory of the session, of this client alone.") var store: String

    func configuration(_ connection: ConnectionOptions) throws -> MQTTClientConfiguration {
        guard !connection.clientID.isEmpty else {
            throw ValidationError("a session needs a name: --client-id")
        }
        var configuration = try connection.configuration()
        configuration.cleanStart = false
        configuration.sessionExpiry = .seconds(14 * 86_400)
        configuration.sessionStore = try SQLiteSessionStore(directory: self.store)
        configuration.shutdownTimeout = .seconds(60)
        configuration.backoff = Backoff(base: .milliseconds(50), maximum: .seconds(5))
        return configuration
    }
}

/// Publishes the lines of standard input, each exactly once, whatever happens to this process or the network.
struct DurablePublish: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Publish the lines of standard input, exactly once each.",
        discussion: """
            Prints "accepted <line>" when a line is on disk: from then on it will be delivered, by this run or a \
            later one. Ends when all are.
            """)

    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var durable: DurableOptions
    @Argument(help: "The topic.", transform: topicName) var topic: TopicName

    func run() async throws {
        let bus = try MQTTClientBus(
            self.durable.configuration(self.connection),
            logger: Logger(label: "mqtt-example") { _ in SwiftLogNoOpLogHandler() })
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await bus.run() }
            let (connected, feed) = AsyncStream<Void>.makeStream()
            group.addTask {
                while let events = try await bus.receive() {
                    for case .connected in events { feed.yield() }
                }
                feed.finish()
            }
            group.addTask {
                for await line in standardInputLines() {
                    try await bus.enqueue(
                        try OutgoingMessage(topic: self.topic.rawValue, text: line, qos: .exactlyOnce))
                    printLine("accepted \(line)")
                }
                // Once connected, a shutdown waits until the server has everything.
                for await _ in connected { break }
                bus.shutDown()
            }
            try await group.waitForAll()
        }
    }
}

/// Prints messages, also those that came while it did not run; none is lost.
struct DurableSubscribe: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print messages, also those that came while nobody ran this.",
        discussion: """
            A message is settled after it was printed. One that was being printed when the process was killed comes \
            again; one that was settled does not.
            """)

    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var durable: DurableOptions
    @Argument(help: "Topic filters.", transform: topicFilter) var filters: [TopicFilter]
    @Option(help: "End after so many messages.") var count: Int?

    func validate() throws { try require("--count", self.count, 1...Int.max) }

    func run() async throws {
        var configuration = try self.durable.configuration(self.connection)
        configuration.subscriptions = self.filters.map { .init($0, qos: .exactlyOnce) }
        configuration.receiveMaximum = 1
        let bus = try MQTTClientBus(
            configuration, logger: Logger(label: "mqtt-example") { _ in SwiftLogNoOpLogHandler() })
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await bus.run() }
            var count = 0
            while let events = try await bus.receive() {
                for event in events {
                    if case .connected = event { printLine("subscribed") }
                    guard case .delivery(let message) = event else { continue }
                    printLine("\(message.topic) \(String(buffer: message.payload))")
                    message.settle()
                    count += 1
                    if count == self.count { bus.shutDown() }
                }
            }
            try await group.waitForAll()
        }
    }
}
