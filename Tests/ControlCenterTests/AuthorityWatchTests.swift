import ControlCenter
import Foundation
import Logging
import Synchronization
import Telemetry
import TestSupport
import Testing

/// An authority's record, as its API tells it.
private final class Record: Sendable {
    struct Away: Error, CustomStringConvertible { let description = "the authority is away" }

    private let state = Mutex((events: [CertificateEvent](), isAway: false, asked: [Int64]()))

    var asked: [Int64] { self.state.withLock { $0.asked } }

    func set(_ events: [CertificateEvent], isAway: Bool = false) {
        self.state.withLock { ($0.events, $0.isAway) = (events, isAway) }
    }

    func events(after number: Int64) throws -> CertificateEvents {
        try self.state.withLock { state in
            state.asked.append(number)
            guard !state.isAway else { throw Away() }
            return CertificateEvents(
                events: Array(state.events.filter { $0.number > number }.prefix(3)),
                last: state.events.last?.number ?? 0)
        }
    }
}

/// Lines of a log, by level.
private final class Lines: Sendable {
    let lines = Mutex<[(level: Logger.Level, text: String)]>([])

    func count(_ level: Logger.Level) -> Int { self.lines.withLock { $0.count { $0.level == level } } }

    var logger: Logger { Logger(label: "test") { _ in Handler(lines: self) } }

    private struct Handler: LogHandler {
        let lines: Lines
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.trace

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { self.metadata[key] }
            set { self.metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            self.lines.lines.withLock { $0.append((event.level, "\(event.message)")) }
        }
    }
}

/// What the authority did, in the store of the control center.
@Suite struct AuthorityWatchTests {
    private let folder: TemporaryDirectory
    private let record = Record()
    private let log = Lines()

    init() throws { self.folder = try TemporaryDirectory() }

    private func event(_ number: Int64, _ name: String) -> CertificateEvent { self.event(number, .issued, name) }

    private func event(_ number: Int64, _ kind: CertificateEvent.Kind, _ name: String) -> CertificateEvent {
        CertificateEvent(
            number: number, kind: kind, certificateHash: [UInt8](repeating: UInt8(name.utf8.first ?? 0), count: 32),
            party: "spiffe://energy.example/auditor/\(name)", serial: "0a", notBefore: 1_000, notAfter: 2_000,
            time: kind == .revoked ? 1_500 : 1_000, requester: "spiffe://energy.example/operator/olga",
            reason: kind == .revoked ? "keyCompromise" : nil)
    }

    private func watch(_ store: ControlCenterStore) -> AuthorityWatch {
        let record = self.record
        return AuthorityWatch(store: store, logger: self.log.logger, clock: { Timestamp(seconds: 5_000) }) {
            try record.events(after: $0)
        }
    }

    private func shell(_ sql: String) async throws -> String {
        let process = try ChildProcess(
            "sqlite3", ["-readonly", self.folder.path(ControlCenterStore.fileName), sql])
        #expect(try await process.wait() == .exited(0), "\(process.errorOutput)")
        return process.output.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    @Test func `each event is stored once, in pages, over restarts, and shown by the view`() async throws {
        let all = [
            self.event(2, "a"), self.event(3, "b"), self.event(7, "c"), self.event(9, "d"),
            self.event(12, .revoked, "b"),
        ]
        self.record.set(all)
        do {
            let store = try ControlCenterStore(directory: self.folder.path)
            await self.watch(store).look()
            #expect(try store.certificateEvents() == all)
            await self.watch(store).look()
            #expect(try store.certificateEvents() == all)
        }
        let store = try ControlCenterStore(directory: self.folder.path)
        self.record.set(all + [self.event(13, "e")])
        await self.watch(store).look()
        #expect(try store.certificateEvents() == all + [self.event(13, "e")])
        // It begins where it was, with the event that it read last.
        #expect(self.record.asked.last == 11)
        #expect(
            try await self.shell(
                "SELECT id, event, time, reason, requester, known FROM authority_events WHERE number = 5")
                == "b|revoked|1970-01-01T00:25:00Z|keyCompromise|spiffe://energy.example/operator/olga|1")
        #expect(self.log.count(.warning) == 0 && self.log.count(.critical) == 0)
        #expect(try store.alarms().isEmpty)
    }

    @Test func `an authority that is away is said once, and again after it was back`() async throws {
        let store = try ControlCenterStore(directory: self.folder.path)
        let watch = self.watch(store)
        for _ in 0..<2 {
            self.record.set([], isAway: true)
            for _ in 0..<3 { await watch.look() }
            self.record.set([self.event(1, "a")])
            for _ in 0..<3 { await watch.look() }
        }
        #expect(self.log.count(.warning) == 2)
        #expect(self.log.count(.notice) == 2)
        #expect(try store.certificateEvents().count == 1)
    }

    @Test(
        arguments: [
            "ends before what was read", "has other events under the same numbers", "is empty",
        ])
    func `an authority that was restored from a backup is an alarm, and what it lost is marked`(_ how: String)
        async throws
    {
        let store = try ControlCenterStore(directory: self.folder.path)
        let watch = self.watch(store)
        self.record.set([self.event(1, "a"), self.event(2, "b"), self.event(3, "c"), self.event(4, .revoked, "a")])
        await watch.look()
        let restored: [CertificateEvent] =
            switch how {
            case "ends before what was read": [self.event(1, "a"), self.event(2, "b")]
            case "is empty": []
            default:
                [
                    self.event(1, "a"), self.event(2, "b"), self.event(3, "x"), self.event(4, "y"), self.event(5, "z"),
                ]
            }
        self.record.set(restored)
        await watch.look()
        #expect(try store.alarms().map(\.kind) == [.authorityRestored])
        #expect(self.log.count(.critical) == 1)
        #expect(
            try await self.shell("SELECT count(*) FROM authority_events WHERE known = 0 AND id IN ('a', 'c')")
                == (how == "is empty" ? "3" : "2"))
        #expect(try await self.shell("SELECT count(*) FROM authority_events WHERE known") == "\(restored.count)")
        // Once; then it goes on.
        self.record.set(restored + [self.event(6, "n")])
        await watch.look()
        await watch.look()
        #expect(try store.alarms().count == 1)
        #expect(
            try store.certificateEvents().count == 4
                + restored.count { !["a", "b"].contains(String($0.party.suffix(1))) } + 1)
        #expect(try store.certificateEvents().last?.party.hasSuffix("/n") == true)
    }

    @Test func `events out of their order are not believed`() async throws {
        let store = try ControlCenterStore(directory: self.folder.path)
        self.record.set([self.event(3, "a"), self.event(2, "b")])
        await self.watch(store).look()
        #expect(try store.certificateEvents().isEmpty)
        #expect(self.log.count(.warning) == 1)
    }
}
