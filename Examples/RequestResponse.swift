import ArgumentParser
import MQTT
import MQTTClient
import MessageBus
import NIOCore

/// Asks a question and prints the answer.
struct Request: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Ask a question and print the answer (MQTT 5.0).")

    @OptionGroup var connection: ConnectionOptions
    @Argument(help: "The topic on which somebody responds.", transform: topicName) var topic: TopicName
    @Argument(help: "The question.") var text: String
    @Option(help: "Seconds to wait for the answer.") var timeout = 10

    func validate() throws { try require("--timeout", self.timeout, 1...86_400) }

    func run() async throws {
        let question = try OutgoingMessage(topic: self.topic.rawValue, text: self.text)
        try await MQTTConnection.withConnection(self.connection.configuration()) { connection in
            let answer = try await connection.request(question, timeout: .seconds(self.timeout))
            printLine(String(buffer: answer.payload))
        }
    }
}

/// Answers questions: with the text in capitals.
struct Respond: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Answer questions, in capitals (MQTT 5.0).")

    @OptionGroup var connection: ConnectionOptions
    @Argument(help: "The topic on which questions come.", transform: topicName) var topic: TopicName
    @Option(help: "End after so many answers.") var count: Int?

    func validate() throws { try require("--count", self.count, 1...Int.max) }

    func run() async throws {
        let filter = try TopicFilter(self.topic)
        try await MQTTConnection.withConnection(self.connection.configuration()) { connection in
            try await connection.withSubscription(to: [.init(filter)]) { questions in
                printLine("responding")
                var count = 0
                for try await question in questions {
                    guard let topic = question.properties.responseTopic else { continue }
                    let text = String(buffer: question.payload).uppercased()
                    var answer = OutgoingMessage(topic: topic, payload: ByteBuffer(string: text))
                    answer.properties.correlationData = question.properties.correlationData
                    try await connection.publish(answer)
                    count += 1
                    if count == self.count { break }
                }
            }
        }
    }
}
