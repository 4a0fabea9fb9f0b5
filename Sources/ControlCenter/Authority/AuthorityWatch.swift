public import Logging
public import ServiceLifecycle
import Synchronization
public import Telemetry

/// Reads what the authority did, and keeps it in the store: each event once, whatever crashes.
///
/// How far it has read is in the store too, in the same transaction. Each look begins with the event that was read
/// last: if the authority does not have it any more under its number, its record is another one, as after a restore
/// from a backup. That is an alarm, and everything is read anew: what is known stays as it is, what the authority does
/// not know any more is marked.
public struct AuthorityWatch: Service {
    /// Between two looks.
    public static let interval = Duration.seconds(60)

    private let store: ControlCenterStore
    private let events: @Sendable (_ after: Int64) async throws -> CertificateEvents
    private let clock: @Sendable () -> Timestamp
    private let logger: Logger
    private let trouble = Trouble()

    private final class Trouble: Sendable {
        let isThere = Mutex(false)
    }

    /// - Parameter events: asks the authority for what comes after a number.
    public init(
        store: ControlCenterStore, logger: Logger = Logger(label: "authority"),
        clock: @escaping @Sendable () -> Timestamp = systemClock,
        events: @escaping @Sendable (_ after: Int64) async throws -> CertificateEvents
    ) {
        self.store = store
        self.logger = logger
        self.clock = clock
        self.events = events
    }

    /// Looks until shut down gracefully or cancelled.
    public func run() async throws {
        await cancelWhenGracefulShutdown {
            repeat { await self.look() } while (try? await Task.sleep(for: Self.interval)) != nil
        }
    }

    /// One look. That it fails is said once, until it does not.
    package func look() async {
        do {
            try await self.read()
            let wasThere = self.trouble.isThere.withLock { isThere in
                defer { isThere = false }
                return isThere
            }
            if wasThere { self.logger.notice("the authority's events are read again") }
        } catch {
            guard !Task.isCancelled else { return }
            let isNew = self.trouble.isThere.withLock { isThere in
                defer { isThere = true }
                return !isThere
            }
            guard isNew else { return }
            self.logger.warning(
                "the authority's events cannot be read; all else goes on", metadata: ["reason": "\(error)"])
        }
    }

    /// Reads all that is new.
    private func read() async throws {
        var hasBegunAnew = false
        while true {
            let known = try await self.store.newestCertificateEvent()
            let after = max(0, (known?.number ?? 0) - 1)
            let page = try await self.events(after)
            guard zip(page.events, page.events.dropFirst()).allSatisfy({ $0.number < $1.number }),
                (page.events.first?.number ?? .max) > after
            else { throw ControlCenterError(.authority, "it answers with events out of their order") }
            if let known, !known.isSame(as: page.events.first) {
                // Once a look: one that answers otherwise each time is not to keep us busy.
                guard !hasBegunAnew else { return }
                hasBegunAnew = true
                try await self.beginAnew(known, page)
                continue
            }
            let new = known == nil ? page.events[...] : page.events.dropFirst()
            guard let newest = new.last else { return }
            try await self.store.store(Array(new), at: self.clock())
            guard newest.number < page.last else { return }
        }
    }

    private func beginAnew(_ known: CertificateEvent, _ page: CertificateEvents) async throws {
        let detail =
            "event \(known.number) (\(known.kind) \(known.party)) was read from the authority and is not there any more, its "
            + "newest is \(page.last): was it restored from a backup? What it issued or revoked since is missing there: "
            + "compare the view authority_events (known = 0)"
        try await self.store.forgetEventNumbers(alarm: detail, at: self.clock())
        self.logger.critical("\(detail)")
    }
}

extension CertificateEvent {
    fileprivate func isSame(as other: CertificateEvent?) -> Bool {
        other?.number == self.number && other?.kind == self.kind && other?.certificateHash == self.certificateHash
    }
}
