import MQTT
import MQTTClient
import Testing

struct MQTTClientConfigurationTests {
    @Test("What contradicts itself is refused before anything connects")
    func invalid() throws {
        let changes: [(inout MQTTClientConfiguration) throws -> Void] = [
            { $0.port = 0 },
            { $0.port = 65_536 },
            { $0.clientID = "" },
            { $0.clientID = String(repeating: "x", count: 65_536) },
            { $0.receiveMaximum = 0 },
            { $0.maximumInFlight = 0 },
            { $0.maximumPacketSize = 0 },
            { $0.maximumPacketSize = 268_435_461 },
            { $0.subscriptions = [.init(try TopicFilter("a"), qos: .exactlyOnce)] },
            { $0.host = "192.0.2.1" },
            { $0.host = "broker.example.org" },
        ]
        for change in changes {
            var configuration = try MQTTClientConfiguration.plaintext(port: 1883)
            try change(&configuration)
            #expect(throws: error(.invalidConfiguration)) { try MQTTClientBus(configuration) }
        }
    }

    @Test("Without a session to resume no client ID is needed")
    func anonymous() throws {
        var configuration = try MQTTClientConfiguration.plaintext(port: 1883, clientID: "")
        configuration.cleanStart = true
        _ = try MQTTClientBus(configuration)
    }
}
