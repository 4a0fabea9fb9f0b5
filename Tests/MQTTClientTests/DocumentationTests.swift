import Foundation
import MQTT
import MQTTClient
import MessageBus
import NIOCore
import TestSupport
import Testing

/// What the article "Your first connection" shows, run against a real server; and a check that every article shows
/// code that is compiled somewhere.
struct DocumentationTests {
    private static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    private static func lines(_ text: some StringProtocol) -> [String] {
        text.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }
    }

    private static func sources(_ folder: String) throws -> [URL] {
        try FileManager.default.contentsOfDirectory(
            at: Self.root.appendingPathComponent(folder), includingPropertiesForKeys: nil
        ).filter { $0.pathExtension == "swift" }
    }

    @Test(
        "The code in an article stands, line by line, in a source that is compiled",
        arguments: [
            "Sources/MQTTClient/MQTTClient.docc/FirstConnection.md",
            "Sources/MQTTClient/MQTTClient.docc/DurableSessions.md",
            "Sources/MQTTBroker/MQTTBroker.docc/AuthenticatedBroker.md",
        ])
    func codeIsCompiled(article: String) throws {
        let files = try ["Examples", "Tests/MQTTClientTests", "Tests/MQTTBrokerTests"].flatMap(Self.sources)
        let compiled = try files.map { Self.lines(try String(contentsOf: $0, encoding: .utf8)) }
        let text = try String(contentsOf: Self.root.appendingPathComponent(article), encoding: .utf8)
        let blocks = text.components(separatedBy: "```swift\n").dropFirst().map {
            Self.lines($0.components(separatedBy: "```").first ?? "")
        }
        #expect(!blocks.isEmpty)
        for block in blocks {
            let isThere = compiled.contains { source in
                source.indices.contains { source[$0...].starts(with: block) }
            }
            #expect(isThere, "\(block.joined(separator: "\n"))")
        }
    }

    @Test(
        "The first connection does what the article says",
        .enabled(if: MosquittoServer.isInstalled, "mosquitto is not installed"))
    func firstConnection() async throws {
        let mosquitto = try await MosquittoServer()
        let configuration = self.configuration(port: mosquitto.port)
        let heard = try await withThrowingTaskGroup(of: String?.self) { group in
            group.addTask {
                try await MQTTConnection.withConnection(configuration) { try await self.subscribe($0) }
            }
            group.addTask {
                // Nobody knows when the other is subscribed: greet until it has heard.
                while !Task.isCancelled { try await self.publish(configuration) }
                return nil
            }
            let heard = try await group.next() ?? nil
            group.cancelAll()
            return heard
        }
        #expect(heard == "hello")
        let answer = try await MQTTConnection.withConnection(configuration) { connection in
            try await connection.withSubscription(to: [.init(TopicFilter("questions"))]) { questions in
                try await withThrowingTaskGroup(of: String?.self) { group in
                    group.addTask { try await MQTTConnection.withConnection(configuration) { try await self.ask($0) } }
                    group.addTask {
                        try await self.answer(questions, connection)
                        return nil
                    }
                    for try await answer in group { if let answer { return answer } }
                    return ""
                }
            }
        }
        #expect(answer == "me")
    }

    /// The other side: answers one question.
    private func answer(_ questions: MQTTMessages, _ connection: MQTTConnection) async throws {
        for try await question in questions {
            guard let topic = question.properties.responseTopic else { continue }
            var answer = OutgoingMessage(topic: topic, payload: ByteBuffer(string: "me"))
            answer.properties.correlationData = question.properties.correlationData
            try await connection.publish(answer)
            return
        }
    }

    private func configuration(port: Int) -> MQTTClientConfiguration {
        var configuration = MQTTClientConfiguration(
            host: "localhost", port: port, transport: .plaintextLoopback, clientID: "")
        configuration.cleanStart = true
        return configuration
    }

    private func publish(_ configuration: MQTTClientConfiguration) async throws {
        try await MQTTConnection.withConnection(configuration) { connection in
            var message = try OutgoingMessage(topic: "greetings", text: "hello", qos: .exactlyOnce)
            message.properties.contentType = "text/plain"
            try await connection.publish(message)
        }
    }

    private func subscribe(_ connection: MQTTConnection) async throws -> String {
        try await connection.withSubscription(to: [.init(TopicFilter("greetings"))]) { messages in
            for try await message in messages {
                return String(buffer: message.payload)
            }
            return ""
        }
    }

    private func ask(_ connection: MQTTConnection) async throws -> String {
        let question = try OutgoingMessage(topic: "questions", text: "who is there?")
        let answer = try await connection.request(question, timeout: .seconds(10))
        return String(buffer: answer.payload)
    }
}
