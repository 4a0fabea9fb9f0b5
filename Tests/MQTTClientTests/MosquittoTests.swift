import MQTT
import MQTTClient
import MessageBus
import NIOCore
import Synchronization
import TestSupport
import Testing

/// Against the real thing.
@Suite(.enabled(if: MosquittoServer.isInstalled, "mosquitto is not installed"))
struct MosquittoTests {
    /// A PKI and a Mosquitto that demands its certificates.
    private struct Secure {
        let pki: TestPKI
        let directory: TemporaryDirectory
        let mosquitto: MosquittoServer

        init(address: String = "127.0.0.1") async throws {
            self.pki = try TestPKI()
            self.directory = try TemporaryDirectory()
            try self.pki.writeTrust(to: self.directory.path)
            let broker = try self.pki.write(self.pki.broker, to: self.directory.path)
            self.mosquitto = try await MosquittoServer(
                address: address,
                tls: .init(
                    certificateAuthorities: self.directory.path("root.pem"), certificateChain: broker.chain,
                    privateKey: broker.key))
        }

        func configuration(
            _ party: TestPKI.Party, trusting trust: TestPKI? = nil, host: String = "127.0.0.1",
            version: ProtocolVersion = .v5_0, change: (inout MQTTClientConfiguration.TLS) -> Void = { _ in }
        ) throws -> MQTTClientConfiguration {
            var tls = try MQTTClientConfiguration.TLS(
                certificateChainPEM: party.chainPEM.utf8, privateKeyPEM: party.keyPEM.utf8,
                trustRootsPEM: (trust ?? self.pki).rootPEM.utf8)
            change(&tls)
            var configuration = MQTTClientConfiguration(
                host: host, port: self.mosquitto.port, transport: .tls(tls), version: version,
                clientID: "secure", subscriptions: [.init(try TopicFilter("in/#"))])
            configuration.backoff = Backoff(base: .milliseconds(10), maximum: .milliseconds(50))
            return configuration
        }
    }

    @Test(
        "By mutual TLS a message goes there and back",
        arguments: ProtocolVersion.allCases, ["127.0.0.1", "localhost"])
    func thereAndBack(version: ProtocolVersion, host: String) async throws {
        let secure = try await Secure()
        let configuration = try secure.configuration(secure.pki.auditors[0], host: host, version: version)
        try await withBus(MQTTClientBus(quiet: configuration)) { bus, events in
            try await events.untilConnected()
            try await bus.publish("in/1", "hello")
            let delivery = try await events.nextDelivery()
            #expect(delivery.topic.rawValue == "in/1")
            #expect(delivery.text == "hello")
            #expect(!delivery.isRetained)
            delivery.settle()
            try await bus.publish("in/0", "at most once", qos: .atMostOnce)
            #expect(try await events.nextDelivery().qos == .atMostOnce)
        }
    }

    @Test(
        "A broker under another root, or at an address that its certificate does not bear, is not spoken to",
        arguments: [true, false])
    func untrustedServer(byRoot: Bool) async throws {
        let address = byRoot ? "127.0.0.1" : "127.0.0.2"
        let secure = try await Secure(address: address)
        let configuration = try secure.configuration(
            secure.pki.auditors[0], trusting: byRoot ? secure.pki.foreign() : nil, host: address)
        let thrown = try await #require(throws: MQTTClientError.self) {
            try await MQTTConnection.withConnection(configuration) { _ in }
        }
        #expect(thrown.code == .tls)
        try await withBus(MQTTClientBus(quiet: configuration)) { _, events in
            let lost = try await events.untilDisconnected()
            #expect(lost == BusError(.disconnected, ""))
        }
    }

    @Test("A client under another root is not let in")
    func foreignClient() async throws {
        let secure = try await Secure()
        let foreign = try secure.pki.foreign()
        let configuration = try secure.configuration(foreign.auditors[0], trusting: secure.pki)
        let thrown = try await #require(throws: MQTTClientError.self) {
            try await MQTTConnection.withConnection(configuration) { _ in }
        }
        // The alert says why, unless the reset that follows overtakes it.
        #expect([.certificateRefused, .connectionLost].contains(thrown.code))
    }

    @Test("After the handshake our own check sees the broker's certificate, and can refuse it")
    func verifyPeer() async throws {
        let secure = try await Secure()
        let seen = Mutex<[[UInt8]]>([])
        let accepting = try secure.configuration(secure.pki.auditors[0]) { tls in
            tls.verifyPeer = { certificate in seen.withLock { $0.append(certificate) } }
        }
        try await MQTTConnection.withConnection(accepting) { _ in }
        #expect(seen.withLock { $0 } == [secure.pki.broker.chainDER[0]])
        let refusing = try secure.configuration(secure.pki.auditors[0]) { tls in
            tls.verifyPeer = { _ in throw Unexpected(description: "revoked") }
        }
        let thrown = try await #require(throws: MQTTClientError.self) {
            try await MQTTConnection.withConnection(refusing) { _ in }
        }
        #expect(thrown.code == .peerRejected)
        #expect(thrown.reason == "revoked")
    }

    @Test("What was not settled comes again", arguments: ProtocolVersion.allCases)
    func unsettled(version: ProtocolVersion) async throws {
        let mosquitto = try await MosquittoServer()
        let configuration = try MQTTClientConfiguration.plaintext(port: mosquitto.port, version: version)
        try await MQTTConnection.withConnection(configuration) { connection in
            #expect(!connection.sessionPresent)
            let events = Events(connection)
            for number in 0..<10 { try await connection.publish("in/x", "\(number)") }
            var deliveries: [Delivery] = []
            for _ in 0..<10 { deliveries.append(try await events.nextDelivery()) }
            // The last one is settled too, but its PUBACK must not go before the others'.
            for index in [0, 1, 2, 3, 9] { deliveries[index].settle() }
        }
        try await MQTTConnection.withConnection(configuration) { connection in
            #expect(connection.sessionPresent)
            let events = Events(connection)
            for number in 4..<10 {
                let delivery = try await events.nextDelivery()
                #expect(delivery.text == "\(number)")
                delivery.settle()
            }
        }
        // Nothing is left: the next message is the next delivery.
        try await MQTTConnection.withConnection(configuration) { connection in
            try await connection.publish("in/x", "new")
            #expect(try await Events(connection).nextDelivery().text == "new")
        }
    }

    @Test(
        "A session outlives its server: what was published while we were away is delivered",
        arguments: ProtocolVersion.allCases)
    func serverRestart(version: ProtocolVersion) async throws {
        let mosquitto = try await MosquittoServer()
        let subscriber = try MQTTClientConfiguration.plaintext(port: mosquitto.port, version: version)
        try await MQTTConnection.withConnection(subscriber) { _ in }
        var publisher = try MQTTClientConfiguration.plaintext(port: mosquitto.port, version: version, clientID: "")
        publisher.cleanStart = true
        publisher.subscriptions = []
        try await MQTTConnection.withConnection(publisher) { connection in
            let messages = try (0..<200).map {
                OutgoingMessage(topic: try TopicName("in/x"), payload: ByteBuffer(string: "\($0)"))
            }
            #expect(try await connection.publish(batch: messages).allSatisfy { $0 == nil })
        }
        try await mosquitto.stop()
        try await mosquitto.start()
        try await MQTTConnection.withConnection(subscriber) { connection in
            #expect(connection.sessionPresent)
            let events = Events(connection)
            for number in 0..<200 {
                let delivery = try await events.nextDelivery()
                #expect(delivery.text == "\(number)")
                delivery.settle()
            }
        }
    }

    @Test("Killed and started again, the server has the bus back, subscribed", arguments: ProtocolVersion.allCases)
    func serverKilled(version: ProtocolVersion) async throws {
        let mosquitto = try await MosquittoServer()
        let configuration = try MQTTClientConfiguration.plaintext(port: mosquitto.port, version: version)
        try await withBus(MQTTClientBus(quiet: configuration)) { bus, events in
            try await events.untilConnected()
            for round in 0..<3 {
                try await mosquitto.kill()
                #expect(try await events.untilDisconnected() == BusError(.disconnected, ""))
                try await mosquitto.start()
                try await events.untilConnected()
                try await bus.publish("in/x", "\(round)")
                let delivery = try await events.nextDelivery()
                #expect(delivery.text == "\(round)")
                delivery.settle()
            }
        }
    }

    @Test("Another client with our name takes the session; the bus takes it back")
    func takeover() async throws {
        let mosquitto = try await MosquittoServer()
        var configuration = try MQTTClientConfiguration.plaintext(port: mosquitto.port)
        // It comes back late enough that the other's connection is not taken in its turn.
        configuration.backoff = Backoff(base: .milliseconds(300), maximum: .milliseconds(300))
        let frozen = configuration
        try await withBus(MQTTClientBus(quiet: frozen, randomness: Largest())) { _, events in
            try await events.untilConnected()
            try await MQTTConnection.withConnection(frozen) { _ in
                let error = try await events.untilDisconnected()
                #expect(error == BusError(.disconnected, ""))
            }
            try await events.untilConnected()
        }
    }

    @Test("Thousands of publishes at once, from many tasks, all arrive in the order of each task")
    func many() async throws {
        let mosquitto = try await MosquittoServer()
        let configuration = try MQTTClientConfiguration.plaintext(port: mosquitto.port)
        try await withBus(MQTTClientBus(quiet: configuration)) { bus, events in
            try await events.untilConnected()
            let (tasks, each) = (20, 200)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for task in 0..<tasks {
                    group.addTask {
                        for number in 0..<each { try await bus.publish("in/\(task)", "\(number)") }
                    }
                }
                group.addTask {
                    var next: [String: Int] = [:]
                    for _ in 0..<(tasks * each) {
                        let delivery = try await events.nextDelivery()
                        let expected = next[delivery.topic.rawValue, default: 0]
                        #expect(delivery.text == "\(expected)")
                        next[delivery.topic.rawValue] = expected + 1
                        delivery.settle()
                    }
                }
                try await group.waitForAll()
            }
        }
    }
}
