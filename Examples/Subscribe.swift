import ArgumentParser
import MQTT
import MQTTClient
import MessageBus
import NIOCore

/// Prints messages as they come: topic, a space, payload.
struct Subscribe: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Print messages: topic, a space, payload.")

    @OptionGroup var connection: ConnectionOptions
    @Argument(help: "Topic filters, such as sensors/+/power or $share/group/jobs/#.", transform: topicFilter)
    var filters: [TopicFilter]
    @Option(help: "The highest quality of service to receive with.") var qos = QoS.atLeastOnce
    @Option(help: "End after so many messages.") var count: Int?

    func validate() throws { try require("--count", self.count, 1...Int.max) }

    func run() async throws {
        let topics = self.filters.map { MQTTClientConfiguration.Topic($0, qos: self.qos) }
        try await MQTTConnection.withConnection(self.connection.configuration()) { connection in
            try await connection.withSubscription(to: topics) { messages in
                printLine("subscribed")
                var count = 0
                // A message is acknowledged when the next one is asked for: after it was printed.
                for try await message in messages {
                    printLine("\(message.topic) \(String(buffer: message.payload))")
                    count += 1
                    if count == self.count { break }
                }
            }
        }
    }
}
