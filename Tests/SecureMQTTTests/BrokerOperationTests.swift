import Foundation
import TestSupport
import Testing

/// The running broker in its operator's hands: what it counts, and files that are exchanged under it.
@Suite(.enabled(if: OpenSSL.isInstalled)) struct BrokerOperationTests {
    private let plant: Plant

    init() async throws {
        self.plant = try await Plant(.brokerAndControlCenter, file: Readings(instants: 1, seed: 1).file)
    }

    private var configuration: [String] { ["--config", "\(self.plant.site)/secure-mqtt.yaml"] }

    private func status(_ arguments: [String]) async throws -> Program.Result {
        try await Program.run(["broker", "status"] + self.configuration + arguments)
    }

    private func party(_ path: String) -> [String] {
        ["--certificate", "\(self.plant.site)/\(path).pem", "--key", "\(self.plant.site)/\(path).key"]
    }

    @Test func `status tells the figures to operators, over the socket and over TLS, and to nobody else`() async throws
    {
        let socket = ["--set", "broker.socket=\(self.plant.folder.path("broker.sock"))"]
        let absent = try await self.status(socket)
        #expect(absent.status == 69)
        #expect(absent.errorOutput.contains("no broker answers"))

        let broker = try Program.start(["broker"] + self.configuration + socket)
        try await broker.waitForOutput("listening")
        try await self.plant.start(.controlCenter)
        let json = try await self.status(socket + ["--json"])
        #expect(json.status == 0, "\(json.errorOutput)")
        let figures = try #require(
            try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Int])
        // The control center, and whoever asks.
        #expect(figures["connections/open"] == 2, "\(json.output)")
        #expect(figures["messages/received"] ?? 0 >= 2, "keys and revocation list: \(json.output)")
        let table = try await self.status(socket)
        #expect(table.output.split(separator: "\n").count == figures.count)
        let prometheus = try await self.status(socket + ["--prometheus"])
        #expect(prometheus.output.contains("secure_mqtt_broker_connections_open 2"), "\(prometheus.output)")
        for metric in [
            "secure_mqtt_broker_messages_dropped_by_reason{reason=\"queue-full\"} 0",
            "secure_mqtt_broker_messages_received_by_qos{qos=\"qos2\"} 0", "secure_mqtt_broker_queues_largest_bytes 0",
        ] {
            #expect(prometheus.output.contains(metric), "\(prometheus.output)")
        }

        let issued = try await Program.run(
            ["pki", "issue", "operator", "op-1", "--out", "\(self.plant.site)/op-1"] + self.configuration)
        #expect(issued.status == 0, "\(issued.errorOutput)")
        let far = try await self.status(self.party("op-1/operator") + ["--json"])
        #expect(far.status == 0, "\(far.errorOutput)")
        let auditor = try await self.status(self.party("auditors/\(Plant.auditor)/auditor"))
        #expect(auditor.status == 77, "\(auditor.errorOutput)")
        #expect(auditor.errorOutput.contains("only operators may ask"))
        let none = try await self.status([])
        #expect(none.status == 64)
        #expect(none.errorOutput.contains("broker.socket"))

        broker.send(signal: SIGTERM)
        #expect(try await broker.wait() == .exited(0))
        #expect(!FileManager.default.fileExists(atPath: self.plant.folder.path("broker.sock")))
    }

    /// The serial number of the certificate that the broker shows.
    private func shown() async throws -> String {
        let greeting = try await OpenSSL.run([
            "s_client", "-connect", "127.0.0.1:\(self.plant.port)", "-CAfile", "\(self.plant.site)/pki/root.pem",
        ])
        return try await self.serial(Array(greeting.output.utf8))
    }

    private func serial(_ certificate: [UInt8]) async throws -> String {
        let read = try await OpenSSL.run(["x509", "-noout", "-serial"], input: certificate)
        #expect(read.status == 0, "\(read.errorOutput)")
        return read.output
    }

    @Test
    func `a certificate that is exchanged is shown to who comes, who is there stays, a broken one changes nothing`()
        async throws
    {
        try await self.plant.start(.broker)
        try await self.plant.start(.controlCenter)
        let broker = try #require(self.plant.process(.broker))
        let former = try await self.shown()
        let own = "\(self.plant.site)/broker/broker"
        let name = try await OpenSSL.run(["x509", "-noout", "-subject", "-nameopt", "multiline", "-in", "\(own).pem"])
        let id = try #require(name.output.split(separator: "=").last).trimmingCharacters(in: .whitespacesAndNewlines)

        let renewed = self.plant.folder.path("renewed")
        let issued = try await Program.run(
            ["pki", "issue", "broker", id, "--renew", "--host", "127.0.0.1", "--out", renewed] + self.configuration)
        #expect(issued.status == 0, "\(issued.errorOutput)")
        // The key last: until then certificate and key do not fit together, and the former ones hold.
        for file in ["pem", "key"] {
            try FileManager.default.removeItem(atPath: "\(own).\(file)")
            try FileManager.default.copyItem(atPath: "\(renewed)/broker.\(file)", toPath: "\(own).\(file)")
        }
        try await broker.waitForOutput("certificate, key and roots read again")
        let current = try await self.shown()
        #expect(current != former)
        #expect(current == (try await self.serial(Array(Data(contentsOf: URL(fileURLWithPath: "\(own).pem"))))))

        try "no certificate\n".write(toFile: "\(own).pem", atomically: true, encoding: .utf8)
        broker.send(signal: SIGHUP)
        try await broker.waitForOutput("holds 0 certificates")
        #expect(try await self.shown() == current)
        let center = try #require(self.plant.process(.controlCenter))
        #expect(!center.errorOutput.contains("disconnected"), "\(center.errorOutput)")
        #expect(try await self.plant.stop(), "\(self.plant.logs)")
    }
}
