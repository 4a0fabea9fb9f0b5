public import ArgumentParser
import Foundation
public import MQTT
import MQTTClient

/// Where to connect, and as whom.
struct ConnectionOptions: ParsableArguments {
    @Option(help: "Name or address of the server. Without --ca only this machine.") var host = "localhost"
    @Option(help: "Its port.") var port = 1883
    @Option(help: "PEM file of the roots that the server's certificate must lead to: TLS.") var ca: String?
    @Option(help: "PEM file of our certificate chain.") var certificate: String?
    @Option(help: "PEM file of its private key.") var key: String?
    @Option(help: "Path of a WebSocket to speak through, such as /mqtt.") var webSocket: String?
    @Option(help: "Our name as a user.") var user: String?
    @Option(help: "File with the password.") var passwordFile: String?
    @Option(help: "Our identifier; without one the server gives us one.") var clientID = ""
    @Flag(help: "Speak MQTT 3.1.1 instead of 5.0.") var v3 = false

    func configuration() throws -> MQTTClientConfiguration {
        var configuration = MQTTClientConfiguration(
            host: self.host, port: self.port, transport: try self.transport(),
            version: self.v3 ? .v3_1_1 : .v5_0, clientID: self.clientID)
        // Each run by itself: the server is to keep nothing of it.
        configuration.cleanStart = true
        configuration.sessionExpiry = .zero
        configuration.userName = self.user
        if let file = self.passwordFile {
            let text = try String(contentsOfFile: file, encoding: .utf8)
            configuration.password = Secret(text.trimmingCharacters(in: .newlines))
        }
        return configuration
    }

    private func transport() throws -> MQTTClientConfiguration.Transport {
        guard let ca = self.ca else {
            return self.webSocket.map { .webSocketLoopback(path: $0) } ?? .plaintextLoopback
        }
        guard let certificate = self.certificate, let key = self.key else {
            throw ValidationError("--ca needs --certificate and --key too: TLS is mutual here")
        }
        let tls = try MQTTClientConfiguration.TLS(
            certificateChainPEM: Data(contentsOf: URL(fileURLWithPath: certificate)),
            privateKeyPEM: Data(contentsOf: URL(fileURLWithPath: key)),
            trustRootsPEM: Data(contentsOf: URL(fileURLWithPath: ca)))
        return self.webSocket.map { .webSocket(tls, path: $0) } ?? .tls(tls)
    }
}

extension QoS: ExpressibleByArgument {}

extension TopicName: ExpressibleByArgument {
    public init?(argument: String) {
        guard let topic = try? TopicName(argument) else { return nil }
        self = topic
    }
}

extension TopicFilter: ExpressibleByArgument {
    public init?(argument: String) {
        guard let filter = try? TopicFilter(argument) else { return nil }
        self = filter
    }
}

/// The lines of standard input, read on a thread of their own.
func standardInputLines() -> AsyncStream<String> {
    AsyncStream { lines in
        Thread.detachNewThread {
            while let line = readLine() { lines.yield(line) }
            lines.finish()
        }
    }
}

/// Prints a line and does not keep it back, also when standard output is a pipe.
func printLine(_ line: String) {
    print(line)
    fflush(nil)
}
