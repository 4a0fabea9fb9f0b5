import ArgumentParser
import MQTT
import MQTTClient

/// Publishes one message and returns when the server has it.
struct Publish: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Publish one message; return when the server has it.")

    @OptionGroup var connection: ConnectionOptions
    @Argument(help: "The topic.", transform: topicName) var topic: TopicName
    @Argument(help: "The payload, as text.") var text: String
    @Option(help: "0: at most once, 1: at least once, 2: exactly once.") var qos = QoS.atLeastOnce
    @Flag(help: "Let the server keep it for later subscribers.") var retain = false
    @Option(help: "What the payload is, such as text/plain.") var contentType: String?
    @Option(help: "Seconds after which nobody needs it any more.") var expiry: Int?

    func validate() throws { try require("--expiry", self.expiry, 0...Int(UInt32.max)) }

    func run() async throws {
        var message = try OutgoingMessage(
            topic: self.topic.rawValue, text: self.text, qos: self.qos, retain: self.retain)
        message.properties.contentType = self.contentType
        message.properties.expiry = self.expiry.map { .seconds($0) }
        try await MQTTConnection.withConnection(self.connection.configuration()) { connection in
            try await connection.publish(message)
        }
    }
}
