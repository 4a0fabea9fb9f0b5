package import Telemetry

/// Feeds ``AlertWatch`` with what is stored, and stores what it finds.
package struct AlertDesk {
    /// So many statements are looked at before anything else is.
    private static let statementsAtOnce = 1_000
    /// What is counted over the whole store is looked at so often only.
    private static let countEvery: Int64 = 10_000_000_000
    private static let certificatesEvery: Int64 = 600_000_000_000

    private let store: ControlCenterStore
    private let channels: [String]
    private var watch: AlertWatch
    private var position: ControlCenterStore.WatchPosition?
    private var refusals: [String: Int64]?
    private var countedAt = Timestamp(nanoseconds: .min)
    private var certificatesAt = Timestamp(nanoseconds: .min)
    /// As the store has them.
    private var acceptedGaps: [String: Int64] = [:]

    /// Whether something is not watched for want of room.
    var isFull: Bool { self.watch.isFull }

    package init(store: ControlCenterStore, rules: AlertRules, channels: [String]) {
        self.store = store
        self.channels = channels
        self.watch = AlertWatch(rules: rules)
    }

    /// One look at what is new. If it throws, the next call looks again: what was seen twice changes nothing.
    ///
    /// - Returns: Whether there is more to look at.
    @discardableResult
    package mutating func work(at now: Timestamp) throws -> Bool {
        var position = try self.position ?? self.begin(at: now)
        let found = try self.store.watchEvents(after: &position, limit: Self.statementsAtOnce)
        for (event, time) in found.events { self.watch.take(event, at: time) }
        // Far behind, it works through its backlog a piece at a time: until then nobody is silent.
        if found.isBehind {
            self.position = position
            return true
        }
        if now >= self.countedAt {
            self.countedAt = now.advanced(byNanoseconds: Self.countEvery)
            try self.count(at: now)
        }
        if now >= self.certificatesAt {
            self.certificatesAt = now.advanced(byNanoseconds: Self.certificatesEvery)
            for (auditor, end) in try self.store.certificateEnds() {
                self.watch.take(.certificate(auditor: auditor, ends: end), at: now)
            }
        }
        let open = try self.store.openAlerts()
        self.watch.keep(Set(open.map(\.key)))
        for (key, isAcknowledged) in open where isAcknowledged { self.watch.take(.acknowledged(key), at: now) }
        var watch = self.watch
        let changes = watch.advance(to: now)
        let gaps = watch.acceptedGaps
        if !changes.isEmpty || position != self.position || gaps != self.acceptedGaps {
            try self.store.commit(
                changes, channels: self.channels, position: position, acceptedGaps: gaps, former: self.acceptedGaps,
                at: now)
        }
        self.watch = watch
        self.acceptedGaps = gaps
        self.position = position
        return false
    }

    private mutating func begin(at now: Timestamp) throws -> ControlCenterStore.WatchPosition {
        let (alerts, lastHeard) = try self.store.watchMemory()
        for alert in alerts {
            if let key = AlertKey(alert) { self.watch.restore(key, text: alert.text, at: now) }
        }
        let silent = Set(alerts.filter { $0.rule == AlertRule.noData.description }.map(\.auditor))
        for (auditor, time) in lastHeard {
            // While this process was away nobody listened: whoever was not silent before has its time anew.
            self.watch.restore(lastHeard: silent.contains(auditor) ? time : now, of: auditor)
        }
        self.acceptedGaps = try self.store.acceptedGaps()
        for (auditor, count) in self.acceptedGaps { self.watch.restore(acceptedGap: count, of: auditor) }
        return try self.store.watchPosition()
    }

    private mutating func count(at now: Timestamp) throws {
        let refusals = try self.store.refusalCounts()
        for (claimed, count) in refusals {
            // What was refused before this process began is not news.
            let more = count - (self.refusals.map { $0[claimed] ?? 0 } ?? count)
            if more > 0 { self.watch.take(.refused(claimed: claimed, count: more), at: now) }
        }
        self.refusals = refusals
        for (auditor, count) in try self.store.missingCounts() {
            self.watch.take(.missing(auditor: auditor, count: count), at: now)
        }
    }
}
