import Identity
import Logging
import MQTT
import MQTTBroker
import MQTTClient
import PKI
import TestSupport
import Testing

// What the article "An authenticated broker in twenty lines" shows.

struct OwnTopics: Authorizer {
    func refusalToPublish(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
        topic.rawValue.hasPrefix("devices/\(peer.spiffeID.id)/") ? nil : "topic"
    }

    func refusalToSubscribe(_ filter: TopicFilter, by peer: PeerIdentity) -> String? {
        filter.rawValue.hasPrefix("devices/\(peer.spiffeID.id)/") ? nil : "topic"
    }

    func refusalToConnect(_ peer: PeerIdentity) -> String? { nil }
}

struct AuthenticatedBrokerTests {
    private func broker(
        chain: String, key: String, roots: String, gate: PeerGate, now: @escaping @Sendable () -> UnixTime
    ) throws -> Broker {
        let broker = try Broker(
            configuration: BrokerConfiguration(
                listeners: [.tls(host: "127.0.0.1", port: 0)],
                tls: BrokerTLS(chainPEM: chain, keyPEM: key, rootsPEM: roots),
                admission: PeerAdmission(gate: gate, now: now),
                authorizer: OwnTopics()),
            logger: Logger(label: "broker"))
        return broker
    }

    @Test("The article's broker lets a device do what is its own and nothing else")
    func article() async throws {
        let pki = try TestPKI()
        let broker = try self.broker(
            chain: pki.broker.chainPEM, key: pki.broker.keyPEM, roots: pki.rootPEM, gate: pki.gate(),
            now: { TestPKI.currentTime() })
        let party = pki.auditors[0]
        let tls = try MQTTClientConfiguration.TLS(
            certificateChainPEM: party.chainPEM.utf8, privateKeyPEM: party.keyPEM.utf8,
            trustRootsPEM: pki.rootPEM.utf8)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await broker.run() }
            let port = try #require(try await broker.boundPorts().first)
            let configuration = MQTTClientConfiguration(
                host: "127.0.0.1", port: port, transport: .tls(tls), clientID: "device")
            let own = "devices/\(party.spiffeID.id)/state"
            try await MQTTConnection.withConnection(configuration) { connection in
                try await connection.publish(OutgoingMessage(topic: own, text: "on"))
                let refused = await #expect(throws: MQTTClientError(.publishRefused, "")) {
                    try await connection.publish(OutgoingMessage(topic: "devices/other/state", text: "on"))
                }
                #expect(refused?.reasonCode == .notAuthorized)
            }
            group.cancelAll()
            while let result = await group.nextResult() { _ = result }
        }
    }
}
