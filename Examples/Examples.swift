import ArgumentParser
import Foundation
import MQTTClient
import MQTTClientSQLite

/// What a program does with the MQTT client, each in a screenful. `mqtt-example help <command>` explains.
@main
struct Examples: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mqtt-example", abstract: "The MQTT client at work.",
        discussion: """
            Exit status: 0 done, 64 wrong usage, 69 no connection or no answer, 73 the session store cannot be used, \
            76 the server broke the protocol, 77 the server refuses us. The one line on standard error says which \
            and why.
            """,
        subcommands: [
            Publish.self, Subscribe.self, Request.self, Respond.self, DurablePublish.self, DurableSubscribe.self,
        ])

    static func main() async {
        do {
            var command = try Self.parseAsRoot()
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
        } catch let error as MQTTClientError {
            Self.exit(error.description, status: Self.status(of: error))
        } catch let error as SQLiteSessionStore.Failure {
            Self.exit(error.description, status: 73)
        } catch {
            Self.exit(withError: error)
        }
    }

    private static func status(of error: MQTTClientError) -> Int32 {
        switch error.code {
        case .invalidConfiguration, .invalidRequest, .notInThisVersion, .messageTooLarge: 64
        case .sessionStore: 73
        case .malformedPacket, .protocolError, .packetTooLarge, .receiveMaximumExceeded, .topicAliasInvalid: 76
        case .connectionRefused, .certificateRefused, .subscriptionRefused, .publishRefused, .notOffered,
            .authenticationFailed:
            77
        default: 69
        }
    }

    private static func exit(_ line: String, status: Int32) -> Never {
        FileHandle.standardError.write(Data("mqtt-example: \(line)\n".utf8))
        Foundation.exit(status)
    }
}
