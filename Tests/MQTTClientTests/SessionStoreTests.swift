import MQTT
import MQTTClient
import MQTTClientSQLite
import NIOCore
import TestSupport
import Testing

struct SQLiteSessionStoreTests {
    private func message(_ text: String) throws -> OutgoingMessage {
        try OutgoingMessage(
            topic: "t/é", text: text, qos: .exactlyOnce, retain: true,
            properties: MessageProperties(
                contentType: "a", responseTopic: TopicName("r"), correlationData: [0, 255], expiry: .seconds(9),
                userProperties: [UserProperty("n", "v")]))
    }

    @Test("What is committed is there when it is opened again, whatever the changes were", arguments: UInt64(1)...10)
    func random(seed: UInt64) throws {
        var randomness = SplitMix64(seed: seed)
        let directory = try TemporaryDirectory()
        var expected = StoredSession()
        var number: UInt64 = 0
        for _ in 0..<5 {
            let store = try SQLiteSessionStore(directory: directory.path("store"))
            #expect(try store.load(clientID: "me") == expected)
            for _ in 0..<20 {
                var changes: [SessionChange] = []
                for _ in 0..<Int.random(in: 1...5, using: &randomness) {
                    let known = expected.messages.randomElement(using: &randomness)?.number ?? 0
                    let packetID = UInt16.random(in: 1...9, using: &randomness)
                    let change: SessionChange
                    switch Int.random(in: 0..<13, using: &randomness) {
                    case 0: change = .began
                    case 1..<5:
                        number += 1
                        change = .accepted(number: number, try self.message("\(number)"))
                    case 5..<7: change = .sending(number: known, packetID: packetID)
                    case 7: change = .released(number: known)
                    case 8..<10: change = .finished(number: known)
                    case 10, 11: change = .received(packetID: packetID)
                    default: change = .completed(packetID: packetID)
                    }
                    changes.append(change)
                    expected.apply(change)
                }
                try store.commit(changes)
            }
        }
    }

    @Test("A directory is for one client, and for one process at a time; what is wrong fits in one line")
    func exclusive() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("store")
        do {
            let store = try SQLiteSessionStore(directory: path)
            _ = try store.load(clientID: "me")
            let used = #expect(throws: SQLiteSessionStore.Failure.self) { try SQLiteSessionStore(directory: path) }
            #expect(used?.description.contains("used by another process") == true)
        }
        let store = try SQLiteSessionStore(directory: path)
        let foreign = #expect(throws: SQLiteSessionStore.Failure.self) { try store.load(clientID: "you") }
        #expect(foreign?.description.contains("\n") == false)
        #expect(foreign?.description.contains("holds the session of client me") == true)
        let impossible = #expect(throws: SQLiteSessionStore.Failure.self) {
            try SQLiteSessionStore(directory: "/proc/none")
        }
        #expect(impossible?.description.contains("\n") == false)
    }

    @Test("A client that finds a foreign session in its store does not start")
    func foreignSession() throws {
        let directory = try TemporaryDirectory()
        let store = try SQLiteSessionStore(directory: directory.path("store"))
        _ = try store.load(clientID: "you")
        var configuration = try MQTTClientConfiguration.plaintext(port: 1883)
        configuration.sessionStore = store
        let frozen = configuration
        #expect(throws: error(.sessionStore)) { try MQTTClientBus(frozen) }
    }
}
