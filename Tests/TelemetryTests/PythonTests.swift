import Foundation
import FuzzTargets
import Identity
import Telemetry
import TestSupport
import Testing

/// Independent implementations: pycose, cbor2 and a CDDL tool, in a Python that has
/// `Tests/Interop/python/requirements.txt` installed.
private enum Python {
    static let checkout = Vectors.folder.deletingLastPathComponent().path
    static let scripts = "\(Self.checkout)/Tests/Interop/python"

    /// The one that `SECURE_MQTT_PYTHON` names, else that of `.venv` in the checkout.
    static let program: String? = {
        let named = ProcessInfo.processInfo.environment["SECURE_MQTT_PYTHON"]
        let path = named ?? "\(Self.checkout)/.venv/bin/python3"
        return FileManager.default.isExecutableFile(atPath: path) ? path : nil
    }()

    static func run(_ script: String, _ arguments: [String], input: String = "") async throws -> (Int32, String) {
        guard let program = Self.program else { throw CancellationError() }
        let process = try ChildProcess(
            program, ["\(Self.scripts)/\(script)"] + arguments, input: Array(input.utf8))
        guard case .exited(let status) = try await process.wait(within: .seconds(300)) else { return (-1, "") }
        return (status, process.output + process.errorOutput)
    }
}

@Suite("Another implementation agrees", .enabled(if: Python.program != nil, "no Python environment: run make setup"))
struct PythonTests {
    private func write(_ bytes: [UInt8], _ name: String, in folder: TemporaryDirectory) throws -> String {
        let path = folder.path(name)
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        return path
    }

    @Test("The published vectors are what the independent generator makes")
    func vectorsAreReproducible() async throws {
        let folder = try TemporaryDirectory()
        defer { folder.remove() }
        let (status, output) = try await Python.run("make_vectors.py", [folder.path])
        #expect(status == 0, "\(output)")
        for name in ["parties", "accepted", "refused", "streams"] {
            let committed = try Data(contentsOf: Vectors.folder.appendingPathComponent("\(name).json"))
            #expect(try Data(contentsOf: URL(fileURLWithPath: folder.path("\(name).json"))) == committed)
        }
    }

    @Test("The CDDL takes what we take, and refuses the refused vectors")
    func cddl() async throws {
        let target = try #require(FuzzTarget.telemetry.first { $0.name == "Envelope" })
        var mutator = Mutator(seed: 8_610, maximumSize: 4_096)
        var taken = target.seeds
        var tries = 0
        while taken.count < 300, tries < 200_000 {
            tries += 1
            let bytes = mutator.mutation(of: target.seeds)
            if (try? Envelope.decode(bytes)) != nil { taken.append(bytes) }
        }
        #expect(taken.count == 300)
        let folder = try TemporaryDirectory()
        defer { folder.remove() }
        let messages = try self.write(
            Array(taken.map(hexText).joined(separator: "\n").utf8), "messages.hex", in: folder)
        let (status, output) = try await Python.run(
            "check_cddl.py", ["\(Python.checkout)/docs/secure-mqtt.cddl", Vectors.folder.path, messages])
        #expect(status == 0, "\(output)")
    }

    private struct Verdict: Decodable {
        let valid: Bool
        let kind: String?
        let id: String?
        let why: String?
    }

    @Test("Our messages verify by pycose with nothing but certificates; changed ones do not")
    func verifies() async throws {
        let folder = try TemporaryDirectory()
        defer { folder.remove() }
        let root = try self.write(Vectors.certificate("vector-root"), "root.der", in: folder)
        let others = try ["vector-intermediate", "home-1", "center-1"].map {
            try self.write(Vectors.certificate($0), "\($0).der", in: folder)
        }
        let auditor = try Vectors.signer("home-1")
        let now = Timestamp(seconds: 1_767_225_600)
        let stream = StreamID(rawValue: 7)
        let statement = try Payload.statement([try makeReading(), try makeReading("m2")], of: auditor.issuer.id)
            .signed(
                at: StreamPosition(stream: stream, sequence: 1, previous: .zero), clock: .synchronised,
                issuedAt: now, by: auditor)
        let hello = try Hello(
            stream: stream, lastSequence: 1, lastID: statement.id, nonce: try #require(Nonce(Array(0..<16))),
            clock: .synchronised
        ).signed(
            issuedAt: now, chain: [Vectors.certificate("home-1"), Vectors.certificate("vector-intermediate")],
            former: [Vectors.certificate("center-1"), Vectors.certificate("home-1")], by: auditor)
        let receipts = try Receipts(
            stored: [Receipts.StoredRange(first: 1, last: 1, lastID: statement.id)],
            newest: Receipts.StreamHead(sequence: 1, id: statement.id)
        ).signed(
            about: StreamName(auditor: auditor.issuer, stream: stream), issuedAt: now,
            by: try Vectors.signer("center-1"))
        var changed = statement.bytes
        changed[changed.count - 80] ^= 1
        let messages = [statement.bytes, hello.bytes, receipts.bytes, changed]
        let files = try messages.enumerated().map { try self.write($1, "message-\($0)", in: folder) }
        let (status, output) = try await Python.run(
            "verify.py", ["--trust", root] + others.flatMap { ["--certificate", $0] } + files)
        #expect(status == 1)
        let verdicts = try output.split(separator: "\n").map {
            try JSONDecoder().decode(Verdict.self, from: Data($0.utf8))
        }
        #expect(verdicts.map(\.valid) == [true, true, true, false], "\(output)")
        #expect(verdicts.compactMap(\.kind) == ["statement", "hello", "receipts"])
        #expect(verdicts.compactMap(\.id) == [statement.id, hello.id, receipts.id].map(\.description))

        // Without the signer's certificate there is nothing to verify a statement with.
        let (alone, _) = try await Python.run("verify.py", ["--trust", root, files[0]])
        #expect(alone == 1)
    }

    @Test("A statement made by Python is taken, its second encoding is not", arguments: [false, true])
    func takesStatements(_ highS: Bool) async throws {
        let party = try #require(Vectors.parties.first { $0.name == "home-1" })
        let order = """
            {"key": "\(party.privateKey)", "certificate": "\(party.certificate)",
             "issuer": "\(party.spiffeID ?? "")", "stream": "00000000000000ff", "sequence": 1,
             "previous": "\(String(repeating: "00", count: 32))", "clock": "S", "issued_at": 1767225600,
             "high_s": \(highS),
             "readings": [{"meter": "m1", "name": "consumption", "unit": "kWh", "value": "0.48200000000000004",
                           "time": 1767225600, "interval": 900}]}
            """
        let (status, output) = try await Python.run("make_statement.py", [], input: order)
        #expect(status == 0, "\(output)")
        let bytes = try #require(hexBytes(output.trimmingCharacters(in: .whitespacesAndNewlines)))
        let verdict = Vectors.verdict(bytes, topic: "audits/measures/home-1")
        #expect(verdict?.reason == (highS ? .notCanonical : nil))
        if !highS {
            let reading = try #require(Array(try Envelope.decode(bytes).readings).first)
            #expect(reading.value?.description == "0.48200000000000004")
        }
    }
}
