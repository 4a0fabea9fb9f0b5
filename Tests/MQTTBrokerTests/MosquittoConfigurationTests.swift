import Foundation
import Identity
import MQTTBroker
import PKI
import TestSupport
import Testing

/// What is generated for Mosquitto, tried on a real one.
@Suite(.enabled(if: MosquittoServer.isInstalled && ChildProcess.find("mosquitto_pub") != nil))
struct MosquittoConfigurationTests {
    let pki: TestPKI
    let directory: TemporaryDirectory

    init() throws {
        self.pki = try TestPKI()
        self.directory = try TemporaryDirectory()
        try self.pki.writeTrust(to: self.directory.path)
    }

    private func start() async throws -> MosquittoServer {
        let files = try self.pki.write(self.pki.broker, to: self.directory.path)
        let port = try freePort()
        let configuration = MosquittoConfiguration(
            files: MosquittoConfiguration.Files(
                certificateAuthorities: self.directory.path("root.pem"), certificateChain: files.chain,
                privateKey: files.key, revocationLists: self.directory.path("crls.pem"),
                accessControlList: self.directory.path("acl"), persistenceDirectory: self.directory.path),
            port: port, host: "127.0.0.1", controlCenters: [self.pki.controlCenter.id],
            operators: self.pki.operators.map(\.id), brokers: [self.pki.broker.id], user: "root")
        try self.directory.write(configuration.accessControlText, to: "acl")
        let file = try self.directory.write(configuration.configurationText, to: "mosquitto.conf")
        return try await MosquittoServer(configurationFile: file, port: port)
    }

    private func tool(
        _ name: String, _ server: MosquittoServer, _ party: TestPKI.Party, _ arguments: [String]
    ) throws -> ChildProcess {
        let files = try self.pki.write(
            party, to: self.directory.path, name: "\(party.id)-\(Int.random(in: 0 ..< .max))")
        return try ChildProcess(
            "stdbuf",
            [
                "-oL", name, "-h", "localhost", "-p", "\(server.port)", "--cafile", self.directory.path("root.pem"),
                "--cert", files.chain, "--key", files.key, "-V", "mqttv5", "-q", "1",
            ] + arguments)
    }

    private func publish(_ server: MosquittoServer, _ party: TestPKI.Party, _ topic: String) async throws {
        let process = try self.tool("mosquitto_pub", server, party, ["-t", topic, "-m", "x"])
        try await process.wait(within: .seconds(20))
    }

    @Test("Mosquitto takes the configuration, and the control center gets what auditors publish")
    func path() async throws {
        let server = try await self.start()
        let center = try self.tool(
            "mosquitto_sub", server, self.pki.controlCenter, ["-d", "-t", "audits/#", "-C", "1", "-F", "got %t"])
        try await center.waitForOutput("SUBACK")
        let auditor = try self.pki.auditor("auditor-1")
        try await self.publish(server, auditor, "audits/measures/auditor-2")
        try await self.publish(server, self.pki.operators[0], "audits/measures/operator-1")
        try await self.publish(server, self.pki.broker, "audits/measures/broker-1")
        try await self.publish(server, auditor, "audits/measures/auditor-1")
        try await center.wait(within: .seconds(20))
        // The first that arrives is the first that was allowed.
        #expect(center.output.contains("got audits/measures/auditor-1"))
        server.send(signal: SIGTERM)
    }

    @Test("An auditor gets its own receipts and nobody else's")
    func receipts() async throws {
        let server = try await self.start()
        let auditor = try self.tool(
            "mosquitto_sub", server, try self.pki.auditor("auditor-1"),
            ["-d", "-t", "control_center/receipts/+", "-t", "control_center/crl", "-C", "2", "-F", "got %t"])
        try await auditor.waitForOutput("SUBACK")
        try await self.publish(server, self.pki.controlCenter, "control_center/receipts/auditor-2")
        try await self.publish(server, self.pki.controlCenter, "control_center/receipts/auditor-1")
        try await self.publish(server, self.pki.controlCenter, "control_center/crl")
        try await auditor.wait(within: .seconds(20))
        let got = auditor.output.split(separator: "\n").filter { $0.hasPrefix("got") }
        #expect(got == ["got control_center/receipts/auditor-1", "got control_center/crl"])
        server.send(signal: SIGTERM)
    }
}
