import Auditor
import Foundation
import Identity
import Logging
import PKI
import Synchronization
import Telemetry
import TestSupport
import Testing
import X509

/// An auditor goes on under another certificate, and learns that its own is revoked.
@Suite("Auditor machine: its own certificate") struct OwnCertificateTests {
    private func desk() throws -> (Desk, Center) {
        var desk = try Desk()
        var center = try Center(desk)
        try desk.read(1...3)
        try desk.connect(&center)
        return (desk, center)
    }

    @Test("after a renewal a hello under the new certificate comes first, then what waits, byte for byte")
    func renewed() throws {
        var (desk, center) = try self.desk()
        let before = desk.outbox.entries.map(\.bytes)
        let next = try desk.pki.issue(.auditor, "home-1")
        desk.sent = []
        try desk.renew(next)
        // On the connection that there is, and on the one that is made anew.
        #expect(try desk.takeSent().map(\.certificateHash) == [CertificateHash(hashing: next.certificate.der)])
        desk.step(.disconnected)
        desk.step(.connected)
        try desk.read(4...4)
        let hello = try #require(try desk.takeSent().first)
        #expect(hello.certificateHash == CertificateHash(hashing: next.certificate.der))
        #expect(hello.certificateChain == next.chainDER)
        desk.step(.receipts(try center.answer(try #require(hello.hello))))
        let sent = desk.sent.map(\.bytes)
        #expect(Array(sent.prefix(3)) == before)
        let last = try Envelope.decode(try #require(sent.last))
        #expect(last.certificateHash == CertificateHash(hashing: next.certificate.der))
        #expect(last.position?.sequence == 4)
        #expect(last.position?.previous == (try Envelope.decode(before[2])).id)
        try desk.converse(&center)
        #expect(center.numbers == [1, 2, 3, 4])
        #expect(desk.alarms.isEmpty)
    }

    @Test("what is being committed under the former certificate is in the hello under the new one")
    func whileCommitting() throws {
        var (desk, center) = try self.desk()
        try desk.converse(&center)
        desk.failure = OutboxError(.full, "full")
        try desk.read(4...4)
        desk.sent = []
        try desk.renew(desk.pki.issue(.auditor, "home-1"))
        #expect(desk.sent.isEmpty)
        desk.failure = nil
        desk.wait(seconds: 5)
        #expect(try desk.takeHello().lastSequence == 4)
    }

    @Test("a certificate of another auditor is not taken")
    func another() throws {
        var (desk, _) = try self.desk()
        desk.sent = []
        try desk.renew(desk.pki.issue(.auditor, "home-2"))
        #expect(desk.alarms.map(\.kind) == [.signing])
        #expect(desk.sent.isEmpty)
    }

    @Test("a revoked auditor keeps everything, sends nothing, and goes on under a new certificate")
    func revokedByReceipt() throws {
        var (desk, center) = try self.desk()
        center.revoked = [CertificateHash(hashing: desk.party.certificate.der)]
        try desk.converse(&center)
        #expect(desk.alarms.map(\.kind) == [.revoked])
        #expect(desk.outbox.summary.unreceipted == 3)
        #expect(desk.outbox.summary.deadLetters == 0)
        try desk.read(4...4)
        for _ in 0..<5 { desk.wait(seconds: 60) }
        #expect(desk.sent.isEmpty)
        #expect(desk.outbox.summary.unreceipted == 4)

        // What the former certificate signed stays refused: it is signed anew.
        try desk.renew(desk.pki.issue(.auditor, "home-1"))
        #expect(desk.cleared.contains(.revoked))
        try desk.converse(&center)
        for _ in 0..<3 {
            desk.wait(seconds: 30)
            try desk.converse(&center)
        }
        #expect(desk.machine.statistics.restarts == 1)
        #expect(center.numbers.sorted() == [1, 2, 3, 4])
        #expect(desk.outbox.summary.unreceipted == 0)
        #expect(desk.outbox.summary.deadLetters == 0)
    }

    @Test("an auditor that finds itself on the revocation list sends nothing more")
    func revokedByList() throws {
        var (desk, _) = try self.desk()
        let number = desk.sent.count
        #expect(number == 3)
        desk.sent = []
        for list in try desk.pki.revocationLists(revoking: [desk.party], number: 2) {
            desk.step(.revocationList(list.der))
        }
        #expect(desk.alarms.map(\.kind) == [.revoked])
        desk.wait(seconds: 300)
        #expect(desk.sent.isEmpty)
        #expect(desk.outbox.summary.unreceipted == 3)
    }

    @Test("newer revocation lists are to be kept; older and foreign ones change nothing")
    func lists() throws {
        var (desk, _) = try self.desk()
        let newer = try desk.pki.revocationLists(number: 7)
        for list in newer { desk.step(.revocationList(list.der)) }
        #expect(desk.keptLists == [7, 7])
        for list in try desk.pki.revocationLists(number: 6) { desk.step(.revocationList(list.der)) }
        for list in try desk.pki.foreign().revocationLists(number: 9) { desk.step(.revocationList(list.der)) }
        desk.step(.revocationList([0x30, 0x00]))
        #expect(desk.keptLists == [7, 7])
    }

    @Test("a message that stays without a receipt makes it say hello again")
    func helloAgain() throws {
        var (desk, center) = try self.desk()
        center.refusals = [1: .busy]
        try desk.converse(&center)
        for _ in 0..<10 {
            desk.wait(seconds: 30)
            try desk.converse(&center)
        }
        #expect((1...3).contains(center.hellos))
    }
}

@Suite("Renewal of a certificate") struct RenewalMachineTests {
    private static let day: Int64 = 86_400
    private let validity: ClosedRange<UnixTime> = 0...(90 * 86_400)

    private func machine(_ seed: UInt64 = 1, canRenew: Bool = true) -> (RenewalMachine, SplitMix64) {
        var random = SplitMix64(seed: seed)
        return (RenewalMachine(validity: self.validity, canRenew: canRenew, using: &random), random)
    }

    @Test("it is due at two thirds of the lifetime, spread by a thirtieth", arguments: 0..<100 as Range<UInt64>)
    func due(_ seed: UInt64) {
        var (machine, _) = self.machine(seed)
        #expect((57 * Self.day...63 * Self.day).contains(machine.nextTry))
        #expect(machine.nextDeadline == machine.nextTry)
        #expect(machine.tick(at: machine.nextTry - 1).isEmpty)
        #expect(machine.tick(at: machine.nextTry) == [.renew])
        // Once at a time.
        #expect(machine.tick(at: machine.nextTry + 1).isEmpty)
    }

    @Test("not all come at the same moment")
    func spread() {
        let tries = Set((0..<100).map { self.machine($0).0.nextTry })
        #expect(tries.count > 90)
        #expect((tries.max() ?? 0) - (tries.min() ?? 0) > 4 * Self.day)
    }

    @Test(
        "a failure is tried again, less and less often, but several times in what is left",
        arguments: 0..<20 as Range<UInt64>)
    func backoff(_ seed: UInt64) {
        var (machine, random) = self.machine(seed)
        var now = machine.nextTry
        var waits: [Int64] = []
        var alarms: [Alarm.Kind] = []
        while now <= self.validity.upperBound {
            let actions = machine.tick(at: now)
            #expect(actions.last == .renew)
            for case .raise(let alarm) in actions + machine.failed("no answer", at: now, using: &random) {
                alarms.append(alarm.kind)
            }
            #expect(machine.nextTry > now)
            waits.append(machine.nextTry - now)
            now = machine.nextTry
        }
        #expect((45...75).contains(waits[0]))
        #expect(waits.max() ?? 0 <= RenewalMachineTests.longest)
        // Many tries, and still some on the last day.
        #expect(waits.count > 60)
        #expect(waits.suffix(8).allSatisfy { $0 <= Self.day / 8 })
        // At a sixth, a twelfth, a twenty-fourth of the lifetime.
        #expect(alarms == [.certificateEnds, .certificateEnds, .certificateEnds])
        let end = machine.tick(at: now)
        #expect(end.contains(.clear(.certificateEnds)))
        let last = end.compactMap { (action) -> Alarm? in
            guard case .raise(let alarm) = action else { return nil }
            return alarm
        }
        #expect(last.map(\.kind) == [.certificateExpired])
        #expect(last.first?.text.contains("join --renew") ?? false)
        #expect(last.first?.text.contains("no answer") ?? false)
        // An expired certificate asks for nothing.
        #expect(machine.tick(at: now + 1_000_000).isEmpty)
        #expect(machine.nextDeadline == nil)
    }

    private static let longest: Int64 = 6 * 3_600 * 5 / 4

    @Test("a new certificate ends all alarms and begins anew")
    func renewed() {
        var (machine, random) = self.machine()
        _ = machine.tick(at: 90 * Self.day + 1)
        let actions = machine.renewed(
            80 * Self.day...(170 * Self.day), at: 90 * Self.day + 1, using: &random)
        #expect(actions == [.clear(.certificateEnds), .clear(.certificateExpired)])
        #expect(machine.failures == 0)
        #expect((137 * Self.day...143 * Self.day).contains(machine.nextTry))
    }

    @Test("without an authority nothing is tried, and the end is told all the same")
    func byHand() {
        var (machine, _) = self.machine(canRenew: false)
        var alarms: [Alarm] = []
        for day in 0...91 {
            for action in machine.tick(at: Int64(day) * Self.day) {
                #expect(action != .renew)
                if case .raise(let alarm) = action { alarms.append(alarm) }
            }
        }
        #expect(
            alarms.map(\.kind) == [.certificateEnds, .certificateEnds, .certificateEnds, .certificateExpired])
    }

    @Test("a clock that jumps behind the end and back goes on as if nothing had been")
    func clockJumps() {
        var (machine, _) = self.machine()
        _ = machine.tick(at: 4_000_000_000)
        #expect(machine.tick(at: 70 * Self.day).contains(.renew))
    }
}

@Suite("Renewal while an auditor runs") struct RenewalServiceTests {
    private let pki: TestPKI
    private let folder: TemporaryDirectory
    private let files: IdentityFiles

    init() throws {
        self.pki = try TestPKI(auditors: ["home-1"])
        self.folder = try TemporaryDirectory()
        let written = try self.pki.write(self.pki.auditor("home-1"), to: self.folder.path, name: "auditor")
        self.files = IdentityFiles(certificate: written.chain, key: written.key)
    }

    /// What happened, for who waits for it.
    private final class Diary: Sendable {
        private let lines = Mutex<[String]>([])

        func note(_ line: String) { self.lines.withLock { $0.append(line) } }
        var all: [String] { self.lines.withLock { $0 } }

        func wait(for count: Int) async throws {
            try await withDeadline(.seconds(30), "\(count) events") {
                while self.all.count < count { try await Task.sleep(for: .milliseconds(5)) }
            }
        }
    }

    private func run(
        renewAfter: UnixTime, _ renew: (@Sendable () async throws -> Void)?, _ diary: Diary,
        _ body: @escaping @Sendable () async throws -> Void
    ) async throws {
        let verifier = try self.pki.verifier()
        let current = try verifier.verify(chain: self.pki.auditor("home-1").chain, at: self.pki.now)
        let now = self.pki.now + renewAfter
        let service = RenewalService(
            files: self.files, current: current,
            actions: RenewalService.Actions(
                renew: renew, verify: { chain, _ in try verifier.verifyAtIssue(der: chain.map(\.der)) },
                adopt: { identity, _ in diary.note("adopt \(identity.certificate.serialNumber)") },
                raise: { diary.note("raise \($0.kind)") }, clear: { _ in }),
            report: RenewalReport.path(in: self.folder.path), pause: .milliseconds(5), clock: { now },
            randomness: SplitMix64(seed: 1), logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await service.run() }
            try await body()
            group.cancelAll()
        }
    }

    @Test("a pair that somebody puts in its place is taken, and only then")
    func adopts() async throws {
        let diary = Diary()
        let next = try self.pki.issue(.auditor, "home-1")
        let files = self.files
        try await self.run(renewAfter: 0, nil, diary) {
            try KeyFile.create("\(files.key).next", next.key)
            try files.replace(next.chain)
            try await diary.wait(for: 1)
        }
        #expect(diary.all == ["adopt \(next.certificate.serialNumber)"])
    }

    @Test("a renewal that is due is made and taken")
    func renews() async throws {
        let diary = Diary()
        let files = self.files
        let renew: @Sendable () async throws -> Void = {
            let key = try files.prepareKey()
            let party = try self.pki.issue(.auditor, "home-1", key: key, at: self.pki.now + 600 * 86_400)
            diary.note("renew \(party.certificate.serialNumber)")
            try files.replace(party.chain)
        }
        try await self.run(renewAfter: 600 * 86_400, renew, diary) { try await diary.wait(for: 2) }
        #expect(diary.all.count == 2)
        let serial = try #require(diary.all.first?.split(separator: " ", maxSplits: 1).last)
        #expect(diary.all.first == "renew \(serial)")
        #expect(diary.all.last?.hasPrefix("adopt") ?? false)
        #expect(diary.all.last?.contains(serial) ?? false)
        let report = try #require(RenewalReport(reading: RenewalReport.path(in: self.folder.path)))
        #expect(report.failures == 0)
    }

    @Test("a renewal that fails is told, and what is on disk stays as it was")
    func fails() async throws {
        let diary = Diary()
        let before = try self.files.read().chain
        // In the last sixth of the lifetime.
        try await self.run(
            renewAfter: 700 * 86_400, { throw PKIError(.io, "the authority is away") }, diary
        ) {
            let path = RenewalReport.path(in: self.folder.path)
            try await withDeadline(.seconds(30), "the failure is on disk") {
                while RenewalReport(reading: path)?.failures != 1 { try await Task.sleep(for: .milliseconds(5)) }
            }
        }
        #expect(diary.all.contains("raise certificate-ends"))
        #expect(try self.files.read().chain == before)
        let report = try #require(RenewalReport(reading: RenewalReport.path(in: self.folder.path)))
        #expect(report.lastFailure == "the authority is away")
    }
}

@Suite("What an auditor remembers of revocations") struct RevocationMemoryTests {
    @Test("the newest list of each authority is kept, an older one never takes its place")
    func newest() throws {
        let pki = try TestPKI(auditors: [], operators: [])
        let folder = try TemporaryDirectory()
        let memory = RevocationMemory(directory: folder.path)
        #expect(memory.read().isEmpty)
        for list in try pki.revocationLists(number: 5) { #expect(try memory.keep(list)) }
        for list in try pki.revocationLists(number: 4) { #expect(try !memory.keep(list)) }
        for list in try pki.revocationLists(number: 5) { #expect(try !memory.keep(list)) }
        #expect(memory.read().map(\.number) == [5, 5])
        for list in try pki.revocationLists(number: 6) { #expect(try memory.keep(list)) }
        #expect(RevocationMemory(directory: folder.path).read().map(\.number) == [6, 6])
        #expect(Set(memory.read().map(\.authorityKeyIdentifier)).count == 2)
    }

    @Test("what cannot be read is as if nothing was kept")
    func broken() throws {
        let folder = try TemporaryDirectory()
        try folder.write("-----BEGIN NOTHING-----", to: "revocation-lists.pem")
        #expect(RevocationMemory(directory: folder.path).read().isEmpty)
    }
}
