import ArgumentParser
import CertificateAuthority
import Crypto
import Enrolment
import Foundation
import Identity
import Logging
import PKI
import X509

struct BenchAuthorityCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "authority",
        abstract: "Enrol devices as fast as it goes, and read a large revocation list.",
        discussion: """
            An authority and its devices in one process: each device connects over TLS 1.3, enrols by its token (EST), \
            and goes; the record is synced before each answer. Then revocation lists are parsed and verified, and \
            certificates looked up at the broker's gate with a list of nobody and with the large one, by turns. \
            Nothing is left behind.

            EXAMPLES
              secure-mqtt bench authority
              secure-mqtt bench authority --devices 2000 --entries 150000 --json
            """)

    @Option(help: "Devices that enrol.")
    var devices = 1_000

    @Option(help: "Devices that do so at once.")
    var parallel = 4

    @Option(help: "Entries of the revocation list.")
    var entries = 100_000

    @Option(help: "Where to put the authority; it should be on the disk that is to be measured.")
    var directory = FileManager.default.temporaryDirectory.path

    @Flag(help: "Print one JSON object on one line.")
    var json = false

    func validate() throws {
        guard (1...1_000_000).contains(self.devices), (1...256).contains(self.parallel),
            (1...RevocationList.maximumCount).contains(self.entries)
        else {
            throw ValidationError("--devices, --parallel (at most 256) and --entries (at most 150000) must be positive")
        }
    }

    /// What was measured.
    private struct Result: Encodable {
        var devices = 0
        var enrolmentsPerMinute = 0.0
        var entries = 0
        var listBytes = 0
        var millisecondsToReadList = 0.0
        /// A certificate at the gate, with a list of nobody and with the large one.
        var microsecondsAtGate = 0.0
        var microsecondsAtGateWithList = 0.0

        enum CodingKeys: String, CodingKey {
            case devices, entries
            case enrolmentsPerMinute = "enrolments_per_minute"
            case listBytes = "list_bytes"
            case millisecondsToReadList = "ms_to_read_list"
            case microsecondsAtGate = "us_at_gate"
            case microsecondsAtGateWithList = "us_at_gate_with_list"
        }
    }

    func run() async throws {
        let folder = "\(self.directory)/secure-mqtt-bench-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let authority = try AuthorityDirectory.create(
            folder, trustDomain: try TrustDomain("bench.example"), at: .now)
        var result = Result()
        try await self.enrol(authority, &result)
        try self.readLists(authority, &result)
        let output = Terminal.standardOutput
        guard !self.json else { return try output.json(result) }
        func text(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }
        output.line("\(result.devices) devices enrolled, \(text(result.enrolmentsPerMinute, 0)) a minute")
        output.line(
            "a list of \(result.entries) entries (\(result.listBytes) bytes) read and verified in \(text(result.millisecondsToReadList, 1)) ms"
        )
        output.line(
            "a certificate at the gate: \(text(result.microsecondsAtGate, 2)) us, with that list \(text(result.microsecondsAtGateWithList, 2)) us"
        )
    }

    // MARK: Enrolment

    private func enrol(_ authority: AuthorityDirectory, _ result: inout Result) async throws {
        let trustDomain = try authority.trustDomain
        var configuration = AuthorityConfiguration(
            id: try Identifier("ca-1"), hosts: [try HostName("127.0.0.1")], listen: "127.0.0.1", port: 0,
            brokerHost: "127.0.0.1", brokerPort: 8_883)
        // All devices are at one address here.
        configuration.limits.connectionsPerAddress = configuration.limits.connections
        let (listening, continuation) = AsyncStream<Int>.makeStream()
        let server = try CertificateAuthorityServer(
            authority, configuration: configuration, now: { .now },
            onListening: { continuation.yield($0.https) },
            logger: Logger(label: "ca") { _ in SwiftLogNoOpLogHandler() })
        let running = Task { try await server.run() }
        defer { running.cancel() }
        var ports = listening.makeAsyncIterator()
        guard let port = await ports.next() else { return }
        let client = ESTClient(
            try AuthorityAddress("https://127.0.0.1:\(port)"), roots: authority.roots,
            gate: try PeerGate(trustDomain: trustDomain, authorities: authority.roots + authority.issuers))

        // Invitations, keys and requests beforehand: devices make theirs by themselves.
        var devices: [(id: Identifier, token: String, request: CertificateSigningRequest)] = []
        for number in 0..<self.devices {
            let (id, token) = (try Identifier("device-\(number)"), EnrolmentToken())
            _ = try authority.invite(
                .auditor(id, in: trustDomain), lifetime: 3_600, at: .now, requester: "bench", token: token)
            devices.append((id, token.text, try .make(for: id, key: SigningKey())))
        }
        let (all, workers) = (devices, self.parallel)
        let start = ContinuousClock.now
        try await withThrowingTaskGroup(of: Void.self) { group in
            for worker in 0..<workers {
                group.addTask {
                    for index in stride(from: worker, to: all.count, by: workers) {
                        _ = try await client.enrol(all[index].request, id: all[index].id, token: all[index].token)
                    }
                }
            }
            try await group.waitForAll()
        }
        result.devices = self.devices
        result.enrolmentsPerMinute = 60 * Double(self.devices) / Self.seconds(start.duration(to: .now))
    }

    // MARK: Lists

    private func readLists(_ authority: AuthorityDirectory, _ result: inout Result) throws {
        let issuing = try Authority(
            certificate: authority.issuing,
            key: try KeyFile.read(AuthorityDirectory.issuingKeyPath(in: authority.path)))
        var random = SystemRandomNumberGenerator()
        let entries = (0..<self.entries).map { _ in
            RevocationList.Entry(
                serialNumber: [0x40] + (0..<19).map { _ in UInt8.random(in: .min ... .max, using: &random) },
                revokedAt: .now, reason: .keyCompromise)
        }
        let large = try issuing.makeRevocationList(number: 100, entries: entries, at: .now)
        let empty = try issuing.makeRevocationList(number: 1, at: .now)
        let clock = ContinuousClock()
        var best = Duration.seconds(3_600)
        for _ in 0..<3 {
            best = min(
                best,
                try clock.measure {
                    let list = try RevocationList(der: large.der)
                    _ = try PeerGate(
                        trustDomain: authority.trustDomain, authorities: authority.roots + authority.issuers,
                        revocationLists: [list])
                })
        }
        result.entries = large.count
        result.listBytes = large.der.count
        result.millisecondsToReadList = 1_000 * Self.seconds(best)

        let leaf = try issuing.issue(
            .auditor(try Identifier("device"), in: try authority.trustDomain), to: SigningKey().publicKey, at: .now
        ).der
        let gates = try [empty, large].map {
            try PeerGate(
                trustDomain: authority.trustDomain, authorities: authority.roots + authority.issuers,
                revocationLists: [$0])
        }
        let times = 20_000
        var bests = [Duration.seconds(3_600), .seconds(3_600)]
        for _ in 0..<5 {
            for (index, gate) in gates.enumerated() {
                let now = UnixTime.now
                let took = try clock.measure {
                    for _ in 0..<times { _ = try gate.admit(leaf: leaf, at: now) }
                }
                bests[index] = min(bests[index], took)
            }
        }
        result.microsecondsAtGate = 1_000_000 * Self.seconds(bests[0]) / Double(times)
        result.microsecondsAtGateWithList = 1_000_000 * Self.seconds(bests[1]) / Double(times)
    }

    private static func seconds(_ duration: Duration) -> Double { duration / .seconds(1) }
}
