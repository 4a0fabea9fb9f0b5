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
            let text = String(decoding: try Self.read("--password-file", file), as: UTF8.self)
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
            certificateChainPEM: Self.read("--certificate", certificate), privateKeyPEM: Self.read("--key", key),
            trustRootsPEM: Self.read("--ca", ca))
        return self.webSocket.map { .webSocket(tls, path: $0) } ?? .tls(tls)
    }

    private static func read(_ option: String, _ path: String) throws -> Data {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw ValidationError("\(option) \(path): the file cannot be read")
        }
        return data
    }
}

extension QoS: ExpressibleByArgument {}

/// A topic of the command line; says why if it is none.
func topicName(_ text: String) throws -> TopicName {
    do throws(MQTTError) { return try TopicName(text) } catch { throw ValidationError("'\(text)': \(error.reason)") }
}

/// A topic filter of the command line; says why if it is none.
func topicFilter(_ text: String) throws -> TopicFilter {
    do throws(MQTTError) { return try TopicFilter(text) } catch { throw ValidationError("'\(text)': \(error.reason)") }
}

/// - Throws: a line about the option, if its value is out of range.
func require(_ option: String, _ value: Int?, _ range: ClosedRange<Int>) throws {
    guard let value, !range.contains(value) else { return }
    throw ValidationError("\(option) \(value): give a number from \(range.lowerBound) to \(range.upperBound)")
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
