public import Identity

/// Who may publish and subscribe to what. Everything that is not allowed here is denied.
public enum TopicTable {
    /// Whether a party may publish to a topic.
    ///
    /// - Parameters:
    ///   - topic: The topic's name as it came.
    ///   - isRetained: Whether the message is to be retained by the broker.
    /// - Returns: Nil if it may, else ``Reason/topic`` or ``Reason/retained``.
    public static func refusalToPublish(
        _ topic: some StringProtocol, isRetained: Bool, by role: Role, _ id: Identifier
    ) -> Reason? {
        guard let topic = Topic(topic), Self.isWriter(of: topic, role, id) else { return .topic }
        return isRetained && !topic.isRetained ? .retained : nil
    }

    /// Whether a party may have a will on a topic: only an auditor, on its own alerts, not retained.
    ///
    /// - Returns: Nil if it may, else ``Reason/topic`` or ``Reason/retained``.
    public static func refusalOfWill(
        _ topic: some StringProtocol, isRetained: Bool, by role: Role, _ id: Identifier
    ) -> Reason? {
        guard let parsed = Topic(topic), case .auditorAlerts = parsed else { return .topic }
        return Self.refusalToPublish(topic, isRetained: isRetained, by: role, id)
    }

    private static func isWriter(of topic: Topic, _ role: Role, _ id: Identifier) -> Bool {
        switch (role, topic) {
        case (.auditor, .hello(let owner)), (.auditor, .measures(let owner)), (.auditor, .auditorAlerts(let owner)):
            owner == id
        case (.controlCenter, .receipts), (.controlCenter, .alerts), (.controlCenter, .alertsToAll),
            (.controlCenter, .keys), (.controlCenter, .crl), (.controlCenter, .checkpoint):
            true
        case (.controlCenter, .update(_, let controller, _)): controller == id
        default: false
        }
    }

    /// Whether a party may subscribe to a filter: every topic that the filter could match, it may read.
    ///
    /// Shared subscriptions (`$share/…`) are the control center's alone: anyone else could take messages away
    /// from it.
    public static func maySubscribe(_ filter: some StringProtocol, _ role: Role, _ id: Identifier) -> Bool {
        var levels = filter.split(separator: "/", omittingEmptySubsequences: false)
        if levels.first == "$share" {
            guard role == .controlCenter, levels.count >= 3, !levels[1].isEmpty,
                !levels[1].contains("+"), !levels[1].contains("#")
            else { return false }
            levels.removeFirst(2)
        }
        return Self.readable(by: role, id).contains { Self.covers($0, levels) }
    }

    /// The filters that a party may subscribe to, together all that it may read.
    public static func readable(by role: Role, _ id: Identifier) -> [String] {
        switch role {
        case .auditor:
            [
                "control_center/receipts/\(id)", "control_center/updates/\(id)/#", "control_center/alerts/\(id)",
                "control_center/alerts/all", "control_center/keys", "control_center/crl",
                "control_center/checkpoint",
            ]
        case .controlCenter: ["audits/#"]
        case .operator: ["audits/#", "control_center/#", "$SYS/#"]
        case .broker, .authority: []
        }
    }

    /// Whether every topic that matches `asked` matches `granted` too (MQTT 5.0 section 4.7.1).
    public static func filter(_ granted: some StringProtocol, covers asked: some StringProtocol) -> Bool {
        Self.covers(granted, asked.split(separator: "/", omittingEmptySubsequences: false))
    }

    private static func covers(_ granted: some StringProtocol, _ asked: [some StringProtocol]) -> Bool {
        guard Self.isFilter(asked) else { return false }
        let granted = granted.split(separator: "/", omittingEmptySubsequences: false)
        for (index, level) in granted.enumerated() {
            // `a/#` matches `a` itself, too.
            if level == "#" { return index > 0 || !(asked.first?.hasPrefix("$") ?? false) }
            guard index < asked.count else { return false }
            let wanted = asked[index]
            if level == "+" {
                guard wanted != "#", index > 0 || !wanted.hasPrefix("$") else { return false }
            } else {
                guard level == wanted else { return false }
            }
        }
        return asked.count == granted.count
    }

    /// Wildcards stand alone in their level, `#` in the last one.
    private static func isFilter(_ levels: [some StringProtocol]) -> Bool {
        levels.indices.allSatisfy { index in
            let level = levels[index]
            if level == "#" { return index == levels.count - 1 }
            return level == "+" || !(level.contains("+") || level.contains("#"))
        }
    }
}
