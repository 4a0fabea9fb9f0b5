import ControlCenter
import Crypto
import Foundation
import GRDB
import Identity
import LiCore
import PKI
import Telemetry
import TestSupport
import Testing
import X509

/// Readings in the original's format, from auditors that are allowed it.
@Suite("The original's format at the control center", .enabled(if: OpenSSL.isInstalled))
struct LiCoreIngestTests {
    let pki: TestPKI
    let original: OriginalAuthority
    let key: P256.Signing.PrivateKey
    let certificate: Certificate
    let folder: TemporaryDirectory

    init() async throws {
        self.original = try await OriginalAuthority(clients: ["mona"])
        // Behind it: the PKI's time is that of the test, and openssl's certificates begin when they are made.
        self.pki = try TestPKI(auditors: ["home-1", "ours"])
        let pem = try String(contentsOfFile: self.original.keyFile("mona"), encoding: .utf8)
        self.key = try P256.Signing.PrivateKey(pemRepresentation: pem)
        self.certificate = try CertificateFile.read(self.original.certificateFile("mona"))[0]
        self.folder = try TemporaryDirectory()
    }

    func member(
        _ id: String = "mona", _ certificate: Certificate? = nil, zone: String = "Europe/Madrid",
        until: String = "2099-12-31"
    ) throws -> FleetMember {
        try FleetMember(
            id: Identifier(id), kind: .auditor, certificate: certificate ?? self.certificate,
            controller: Identifier("database_licore"), timeZone: try #require(LocalTimeZone(name: zone)), until: until)
    }

    func center(_ members: FleetMember...) throws -> TestCenter<MemoryLedger> {
        var center = try TestCenter(pki: self.pki)
        center.core.update(try Fleet(members), at: center.now)
        return center
    }

    func arrival(
        _ text: String, topic: String = "audits/measures/mona", key: P256.Signing.PrivateKey? = nil,
        isRetained: Bool = false, sender: PeerIdentity? = nil
    ) throws -> Arrival {
        let key = key ?? self.key
        let signature = try key.signature(for: BLAKE2b512.hash(data: Array(text.utf8)))
        let hex = signature.derRepresentation.map { String(format: "%02x", $0) }.joined()
        return Arrival(topic: topic, bytes: Array("\(text)||\(hex)".utf8), isRetained: isRetained, sender: sender)
    }

    @Test("stores what is signed by the pinned certificate, once, at the time of the auditor's zone, without a receipt")
    func stores() throws {
        var center = try self.center(try self.member())
        let receipts = try center.process([
            try self.arrival("mona/2011-07-01 00:15:00/0/0.098"), try self.arrival("mona/2011-07-01 00:15:00/1/0.30"),
            try self.arrival("mona/2011-12-01 00:15:00/0/5e-05"),
        ])
        #expect(receipts.isEmpty)
        #expect(
            center.ledger.measures.map(\.time.description) == [
                "2011-06-30T22:15:00Z", "2011-06-30T22:15:00Z", "2011-11-30T23:15:00Z",
            ])
        #expect(center.ledger.measures.map(\.value.description) == ["0.098", "0.30", "0.00005"])
        #expect(center.ledger.auditors.keys.sorted() == ["spiffe://energy.example/auditor/mona"])
        #expect(center.ledger.statements.isEmpty && center.ledger.readings.isEmpty)
    }

    @Test(
        "takes the same value again for a repeat, and keeps another as evidence of a conflict",
        arguments: [true, false])
    func conflict(inOneBatch: Bool) throws {
        var center = try self.center(try self.member())
        let arrivals = try ["1.50", "1.50", "1.5", "1.51"].map { try self.arrival("mona/2011-07-01 00:15:00/0/\($0)") }
        if inOneBatch {
            try center.process(arrivals)
        } else {
            for arrival in arrivals { try center.process(arrival) }
        }
        #expect(center.ledger.measures.map(\.value.description) == ["1.50"])
        #expect(center.count(.duplicate) == 2)
        #expect(center.count(.conflict) == 1)
        let kept = try #require(center.ledger.quarantined.first)
        #expect(kept.reason == .conflict && kept.claimed == "mona" && kept.bytes == arrivals[3].bytes)
        // Another spelling of the date is the same place, another type is not.
        try center.process(
            self.arrival("mona/2011-07-01T00:15/0/1.5"), self.arrival("mona/2011-07-01 00:15:00/1/1.51"))
        #expect(center.count(.duplicate) == 3)
        #expect(center.ledger.measures.count == 2)
    }

    /// One message, what it is refused for, and a fleet.
    @Test("refuses for one reason each")
    func reasons() throws {
        let other = P256.Signing.PrivateKey()
        let good = "mona/2011-07-01 00:15:00/0/1"
        let ended = try self.member(until: "2020-01-01")
        let peer = try self.pki.auditor("home-1").peer
        func reason(_ arrival: Arrival, _ members: FleetMember...) throws -> Reason? {
            var center = try TestCenter(pki: self.pki)
            center.core.update(try Fleet(members), at: center.now)
            try center.process(arrival)
            #expect(center.ledger.measures.isEmpty == (center.ledger.quarantined.count == 1))
            return center.ledger.quarantined.first?.reason
        }
        let mona = try self.member()
        #expect(try reason(self.arrival(good), mona) == nil)
        // Nobody is allowed, or somebody else.
        #expect(try reason(self.arrival(good)) == .format)
        #expect(try reason(self.arrival(good), try self.member("lena")) == .format)
        #expect(try reason(self.arrival(good), ended) == .expired)
        #expect(try reason(self.arrival(good, key: other), ended) == .signature)
        #expect(try reason(self.arrival(good, key: other), mona) == .signature)
        #expect(try reason(self.arrival(good, isRetained: true), mona) == .retained)
        #expect(try reason(self.arrival(good, topic: "audits/hello/mona"), mona) == .format)
        #expect(try reason(self.arrival("lena/2011-07-01 00:15:00/0/1"), mona) == .topic)
        #expect(try reason(self.arrival(good, sender: peer), mona) == .sender)
        #expect(try reason(self.arrival("mona/2011-07-01 00:15:00/0"), mona) == .format)
        #expect(try reason(self.arrival("mona/2011-07-01 00:15:00/0/x"), mona) == .format)
        // Clocks were put forward over this time, and back over that one.
        #expect(try reason(self.arrival("mona/2020-03-29 02:30:00/0/1"), mona) == .format)
        #expect(try reason(self.arrival("mona/2020-10-25 02:30:00/0/1"), mona) == .format)
        #expect(try reason(self.arrival("mona/2020-03-29 02:30:00/0/1"), try self.member(zone: "+01:00")) == nil)
        #expect(try reason(self.arrival("mona/1971-01-01/0/1"), mona) == .format)
        let long = Array(String(repeating: "m", count: 600).utf8)
        #expect(try reason(Arrival(topic: "audits/measures/mona", bytes: long), mona) == .tooLarge)
        // Told by the first byte: a sealed one, and what is nothing.
        for first: UInt8 in [0xD8, 0x00, 0x2F, 0x7B, 0x20] {
            #expect(try reason(Arrival(topic: "audits/measures/mona", bytes: [first, 0x41, 0x42]), mona) == .format)
        }
    }

    @Test("an auditor speaks one format: signed statements are refused while it is allowed the other")
    func oneFormat() throws {
        let party = try self.pki.auditor("ours")
        var home = TestAuditor(party, at: Timestamp(seconds: self.pki.now))
        let member = try self.member("ours", party.certificate)
        var center = try self.center(member)
        let statement = try home.next()
        try center.process(home.arrivalOfHello(), home.arrival(statement))
        #expect(center.count(.format) == 2)
        #expect(center.ledger.statements.isEmpty)
        // When it ends, what waits in the outbox is taken.
        center.core.update(.none, at: center.now)
        try center.process(home.arrivalOfHello(), home.arrival(statement))
        #expect(center.ledger.statements.count == 1)
        // Others are not concerned.
        center.core.update(try Fleet([member]), at: center.now)
        let other = TestAuditor(try self.pki.auditor("home-1"), at: Timestamp(seconds: self.pki.now))
        #expect(try center.process(other.arrivalOfHello()).count == 1)
        // An end that has passed needs no operator.
        center.core.update(try Fleet([try self.member("ours", party.certificate, until: "2020-01-01")]), at: center.now)
        let next = try home.next()
        try center.process(home.arrival(next))
        #expect(center.ledger.statements.count == 2)
    }

    @Test("a pinned certificate of ours that is revoked signs nothing more")
    func revoked() throws {
        let party = try self.pki.auditor("ours")
        var center = try self.center(try self.member("ours", party.certificate, zone: "UTC"))
        let signature = { (text: String) throws -> Arrival in
            let digest = BLAKE2b512.hash(data: Array(text.utf8))
            let hex = try party.key.sign(prehashed: digest).derRepresentation.map { String(format: "%02x", $0) }
                .joined()
            return Arrival(topic: "audits/measures/ours", bytes: Array("\(text)||\(hex)".utf8))
        }
        try center.process(signature("ours/2011-07-01 00:15:00/0/1"))
        #expect(center.ledger.measures.count == 1)
        try center.core.update(self.pki.revocationLists(revoking: [party], number: 2))
        try center.process(signature("ours/2011-07-01 00:30:00/0/1"))
        #expect(center.ledger.measures.count == 1)
        #expect(center.count(.revoked) == 1)
    }

    // MARK: The store

    private var file: String { self.folder.path(ControlCenterStore.fileName) }

    private func query(_ sql: String) throws -> [String] {
        var configuration = Configuration()
        configuration.readonly = true
        return try DatabaseQueue(path: self.file, configuration: configuration).read { db in
            try Row.fetchAll(db, sql: sql).map { row in
                row.databaseValues.map { $0.isNull ? "-" : String.fromDatabaseValue($0) ?? $0.description }
                    .joined(separator: "|")
            }
        }
    }

    @Test("readings show in the view beside signed ones, marked, and are found again after a restart")
    func view() throws {
        let party = try self.pki.auditor("home-1")
        var home = TestAuditor(party, at: Timestamp(seconds: self.pki.now))
        do {
            var center = try TestCenter(ControlCenterStore(directory: self.folder.path), pki: self.pki)
            center.core.update(try Fleet([try self.member()]), at: center.now)
            try center.process(
                home.arrivalOfHello(), home.arrival(try home.next(values: ["0.250"])),
                self.arrival("mona/2011-07-01 00:15:00/1/0.30"), self.arrival("mona/2011-07-01 00:30:00/0/-0.5"))
        }
        #expect(
            try self.query(
                """
                SELECT auditor, meter, quantity, unit, time, interval, exact, quality, stream, sequence, statement,
                    disputed, leaf_index, format FROM readings WHERE format = 'licore' ORDER BY time_ns
                """) == [
                    "mona|licore|production|kWh|2011-06-30T22:15:00Z|900.0|0.30|good|-|-|-|0|-|licore",
                    "mona|licore|consumption|kWh|2011-06-30T22:30:00Z|900.0|-0.5|good|-|-|-|0|-|licore",
                ])
        #expect(
            try self.query("SELECT auditor, exact, format FROM readings WHERE format = 'cose'") == ["home-1|0.250|cose"]
        )
        #expect(
            try self.query("SELECT value FROM readings WHERE format = 'licore' ORDER BY time_ns") == ["0.3", "-0.5"])
        let activity = try StoreReader(path: self.file).liCoreActivity()
        #expect(activity.map(\.auditor) == ["mona"] && activity.first?.readings == 2)

        var again = try TestCenter(ControlCenterStore(directory: self.folder.path), pki: self.pki)
        again.core.update(try Fleet([try self.member()]), at: again.now)
        try again.process(
            self.arrival("mona/2011-07-01 00:15:00/1/0.30"), self.arrival("mona/2011-07-01 00:15:00/1/0.31"))
        #expect(try self.query("SELECT count(*) FROM licore_reading") == ["2"])
        #expect(
            try self.query("SELECT reason, count FROM counter ORDER BY reason") == ["conflict|1", "duplicate|1"])
        #expect(try self.query("SELECT claimed, reason FROM quarantine") == ["mona|conflict"])
    }

    @Test("a condition on time_ns uses the index in both halves of the view")
    func plan() throws {
        do { _ = try ControlCenterStore(directory: self.folder.path) }
        let plan = try self.query(
            """
            EXPLAIN QUERY PLAN SELECT value FROM readings
            WHERE auditor = 'a' AND meter = 'm' AND quantity = 'consumption' AND time_ns BETWEEN 1 AND 2
            """)
        #expect(plan.contains { $0.contains("SEARCH reading") && $0.contains("time>") }, "\(plan)")
        #expect(plan.contains { $0.contains("SEARCH licore_reading") && $0.contains("time>") }, "\(plan)")
        #expect(!plan.contains { $0.hasSuffix("SCAN reading") || $0.hasSuffix("SCAN licore_reading") }, "\(plan)")
    }

    // MARK: History

    @Test(
        "the original's database becomes history, once, and never readings",
        arguments: [
            "aud_id TEXT, measured_timestamp TEXT, measure_type INTEGER, measure REAL",
            "id TEXT, date TEXT, type TEXT, value TEXT, remark TEXT DEFAULT 'x'",
            "measure_id INTEGER PRIMARY KEY, AUD_ID TEXT, datetime TEXT, measure_type TEXT, measure TEXT",
        ])
    func history(_ columns: String) async throws {
        let path = self.folder.path("measures.sqlite3")
        let names = columns.split(separator: ",").map { $0.split(separator: " ")[0] }
            .filter { $0 != "measure_id" && $0 != "remark" }.joined(separator: ", ")
        try await DatabaseQueue(path: path).write { db in
            try db.execute(sql: "CREATE TABLE measures (\(columns))")
            for row in [
                "'mona', '2011-07-01 00:00:00', '0', '0.098'", "'mona', '2011-07-01 00:00:00', '1', '0.482'",
                "'mona', '2011-07-01 00:00:00', '0', '0.098'", "'mona', '2011-07-01 00:15:00', '7', '1'",
                "'mona', NULL, '0', '1'", "'mona', '2011-07-01 00:30:00', '0', 'x'",
            ] {
                try db.execute(sql: "INSERT INTO measures (\(names)) VALUES (\(row))")
            }
        }
        let now = Timestamp(seconds: self.pki.now)
        // While a control center holds the database, and when none does.
        let center = try ControlCenterStore(directory: self.folder.path)
        let first = try StoreClerk(path: self.file).importHistory(from: path, at: now)
        #expect(first.imported == 2 && first.known == 1 && first.skipped == 3, "\(first)")
        withExtendedLifetime(center) {}
        let second = try StoreClerk(path: self.file).importHistory(from: path, at: now)
        #expect(second.imported == 0 && second.known == 3)
        #expect(
            try self.query("SELECT auditor, quantity, unit, date, exact, source FROM history ORDER BY quantity") == [
                "mona|consumption|kWh|2011-07-01 00:00:00|0.098|measures.sqlite3",
                "mona|production|kWh|2011-07-01 00:00:00|0.482|measures.sqlite3",
            ])
        #expect(try self.query("SELECT count(*) FROM readings") == ["0"])
    }

    @Test("what is not the original's database is refused in one line")
    func notHistory() async throws {
        do { _ = try ControlCenterStore(directory: self.folder.path) }
        let clerk = try StoreClerk(path: self.file)
        let text = try self.folder.write("not a database, but long enough to look at twice", to: "text.sqlite3")
        #expect(throws: ControlCenterError(.storeDamaged, "")) {
            try clerk.importHistory(from: text, at: .init(seconds: 1))
        }
        let other = self.folder.path("other.sqlite3")
        try await DatabaseQueue(path: other).write { try $0.execute(sql: "CREATE TABLE measures (a, b)") }
        #expect(throws: ControlCenterError(.storeDamaged, "")) {
            try clerk.importHistory(from: other, at: .init(seconds: 1))
        }
    }
}
