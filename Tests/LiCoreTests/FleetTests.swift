import Foundation
import Identity
import LiCore
import PKI
import Telemetry
import TestSupport
import Testing
import X509

@Suite("The fleet", .enabled(if: OpenSSL.isInstalled))
struct FleetTests {
    let original: OriginalAuthority
    let mona: Certificate
    let database: Certificate

    init() async throws {
        self.original = try await OriginalAuthority(clients: ["mona", "database_licore"])
        self.mona = try CertificateFile.read(self.original.certificateFile("mona"))[0]
        self.database = try CertificateFile.read(self.original.certificateFile("database_licore"))[0]
    }

    func member(
        _ id: String = "mona", _ certificate: Certificate? = nil, until: String = "2099-06-30",
        controller: String? = "database_licore", kind: FleetMember.Kind = .auditor, interval: Int = 900
    ) throws -> FleetMember {
        try FleetMember(
            id: Identifier(id), kind: kind, certificate: certificate ?? self.mona,
            controller: try controller.map { try Identifier($0) },
            timeZone: try #require(LocalTimeZone(name: "Europe/Madrid")), interval: interval, until: until)
    }

    @Test("comes back from its file as it was")
    func file() throws {
        let client = try self.member("database_licore", self.database, controller: nil, kind: .databaseClient)
        let fleet = try Fleet([try self.member(), client])
        let again = try Fleet(json: fleet.json)
        #expect(again.members.map(\.id.rawValue) == ["database_licore", "mona"])
        let mona = try #require(again.auditor(try Identifier("mona")))
        #expect(mona == fleet.auditor(try Identifier("mona")))
        #expect(mona.timeZone.description == "Europe/Madrid")
        #expect(mona.until == "2099-06-30")
        #expect(again.auditor(try Identifier("database_licore")) == nil)
        #expect(again[certificateHash: self.mona.sha256]?.id.rawValue == "mona")
        #expect(try Fleet(json: Array(#"{"version":1,"members":[]}"#.utf8)) == .none)
    }

    @Test("has each ID once without regard to case, and each certificate once")
    func unique() throws {
        let one = try self.member()
        #expect(throws: LiCoreError(.fleet, "")) { try Fleet([one, try self.member("MONA", self.database)]) }
        #expect(throws: LiCoreError(.fleet, "")) { try Fleet([one, try self.member("lena")]) }
        #expect(try Fleet([one]).adding(try self.member("mona", self.database)).members.count == 1)
        #expect(try Fleet([one]).removing(one.id).isEmpty)
    }

    @Test("has no member that contradicts itself")
    func members() throws {
        #expect(throws: LiCoreError(.fleet, "")) { try self.member(controller: nil) }
        #expect(throws: LiCoreError(.fleet, "")) { try self.member(kind: .databaseClient) }
        for until in ["2027-6-30", "30.06.2027", "2027-02-30", "", "2027-06-30 00:00", "9999-12-31"] {
            #expect(throws: LiCoreError(.fleet, "")) { try self.member(until: until) }
        }
        #expect(throws: LiCoreError(.fleet, "")) { try self.member(interval: 0) }
    }

    @Test(
        "is refused when its file was changed by hand into something else",
        arguments: [
            ("\"mona\"", "\"all\""), ("\"auditor\"", "\"operator\""), ("Europe/Madrid", "Europe/Atlantis"),
            ("2099-06-30", "2099-06-31"), ("\"version\" : 1", "\"version\" : 2"), ("BEGIN CERT", "BEGIN SERT"),
            ("\"sha256\" : \"", "\"sha256\" : \"00"), ("\"members\"", "\"people\""), ("900", "\"soon\""),
        ])
    func tampered(_ change: (String, String)) throws {
        let text = String(decoding: try Fleet([try self.member()]).json, as: UTF8.self)
        #expect(text.contains(change.0))
        let changed = text.replacing(change.0, with: change.1)
        #expect(throws: LiCoreError(.fleet, "")) { try Fleet(json: Array(changed.utf8)) }
    }

    @Test("ends behind the last day, in UTC, or with the certificate, whichever comes first")
    func ends() throws {
        let now = UnixTime(Date().timeIntervalSince1970)
        let day = now / 86_400
        let today = String(Timestamp(seconds: day * 86_400).description.prefix(10))
        let member = try self.member(until: today)
        #expect(throws: Never.self) { try member.requireStanding(at: now) }
        #expect(throws: Never.self) { try member.requireStanding(at: day * 86_400 + 86_399) }
        #expect(throws: LiCoreError(.ended, "")) { try member.requireStanding(at: day * 86_400 + 86_400) }
        #expect(member.daysLeft(at: now) == 0)
        #expect(member.daysLeft(at: now + 86_400) == -1)
        let long = try self.member()
        // openssl gave it 360 days.
        #expect(throws: Never.self) { try long.requireStanding(at: now + 359 * 86_400) }
        #expect(throws: LiCoreError(.ended, "")) { try long.requireStanding(at: now + 361 * 86_400) }
        #expect((359...360).contains(long.daysLeft(at: now)))
    }

    @Test("knows the original's certificates from ours")
    func ours() throws {
        let pki = try TestPKI(auditors: ["mona"])
        #expect(self.mona.version == .v1)
        #expect(try !self.member().isOurs(in: pki.trustDomain))
        let certificate = try pki.auditor("mona").certificate
        #expect(try self.member("mona", certificate).isOurs(in: pki.trustDomain))
        // Another's name, another role or another domain is not enough.
        #expect(try !self.member("lena", certificate).isOurs(in: pki.trustDomain))
        #expect(try !self.member("mona", certificate).isOurs(in: try TrustDomain("other.example")))
    }

    @Test("says whose rights changed when another is put in force")
    func register() throws {
        let register = FleetRegister()
        let mona = try self.member()
        let first = register.replace(with: try Fleet([mona]))
        #expect(first.ids == [mona.id])
        #expect(first.certificates == [mona.certificateHash])
        #expect(register.replace(with: try Fleet([mona])).ids.isEmpty)
        let other = register.replace(with: try Fleet([try self.member("mona", self.database)]))
        #expect(other.certificates == [mona.certificateHash, self.database.sha256])
        #expect(register.current[certificateHash: mona.certificateHash] == nil)
    }
}
