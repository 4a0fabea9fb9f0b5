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
            {
                $0.subscriptions = [.init(try TopicFilter("$share/g/a"))]
                $0.subscriptions[0].noLocal = true
            },
            { $0.userName = String(repeating: "x", count: 65_536) },
            { $0.userName = "a\u{0}b" },
            { $0.clientID = "a\u{0}b" },
            { $0.password = Secret([UInt8](repeating: 1, count: 65_536)) },
            { $0.userProperties = [UserProperty(String(repeating: "x", count: 65_536), "")] },
            { $0.will = .init(try OutgoingMessage(topic: "t", text: String(repeating: "x", count: 65_536))) },
            { $0.transport = .webSocketLoopback(path: "mqtt") },
            { $0.transport = .webSocketLoopback(path: "/a b") },
            { $0.transport = .unixSocket(path: "") },
            {
                $0.transport = .webSocketLoopback(path: "/mqtt")
                $0.host = "192.0.2.1"
            },
            {
                $0.sessionStore = MemorySessionStore()
                $0.cleanStart = true
            },
            { $0.host = "192.0.2.1" },
            { $0.host = "broker.example.org" },
        ]
        for change in changes {
            var configuration = try MQTTClientConfiguration.plaintext(port: 1883)
            try change(&configuration)
            #expect(throws: error(.invalidConfiguration)) { try MQTTClientBus(configuration) }
        }
    }

    @Test("What 3.1.1 does not have is refused, not left out in silence")
    func notInOld() throws {
        let changes: [(inout MQTTClientConfiguration) throws -> Void] = [
            { $0.password = "secret" },
            { $0.userProperties = [UserProperty("a", "b")] },
            { $0.topicAliasMaximum = 1 },
            { $0.usesTopicAliases = true },
            { $0.requestsResponseInformation = true },
            { $0.authenticator = Scripted(answers: [:]) },
            { $0.subscriptions[0].noLocal = true },
            { $0.subscriptions[0].retainAsPublished = true },
            { $0.subscriptions[0].retainHandling = .doNotSend },
            { $0.will = .init(try OutgoingMessage(topic: "t", text: ""), delay: .seconds(1)) },
            {
                $0.will = .init(
                    try OutgoingMessage(topic: "t", text: "", properties: MessageProperties(contentType: "x")))
            },
        ]
        for change in changes {
            var configuration = try MQTTClientConfiguration.plaintext(port: 1883, version: .v3_1_1)
            try change(&configuration)
            #expect(throws: error(.invalidConfiguration)) { try MQTTClientBus(configuration) }
            configuration.version = .v5_0
            _ = try MQTTClientBus(configuration)
        }
    }

    @Test("A password is not seen in a description, a debug description or a reflection")
    func secret() throws {
        var configuration = try MQTTClientConfiguration.plaintext(port: 1883)
        configuration.password = "hunter2"
        var dumped = ""
        dump(configuration, to: &dumped)
        for text in ["\(configuration)", String(reflecting: configuration), dumped] {
            #expect(!text.contains("hunter2"))
            #expect(!text.contains("104, 117, 110"))
        }
        #expect(dumped.contains("(secret)"))
    }

    @Test("Without a session to resume no client ID is needed")
    func anonymous() throws {
        var configuration = try MQTTClientConfiguration.plaintext(port: 1883, clientID: "")
        configuration.cleanStart = true
        _ = try MQTTClientBus(configuration)
    }
}
