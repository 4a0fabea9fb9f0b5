public import Identity

/// A topic of ours. Everything else carries nothing.
public enum Topic: Hashable, Sendable {
    /// `audits/hello/<ID>`
    case hello(Identifier)
    /// `audits/measures/<ID>`
    case measures(Identifier)
    /// `audits/alerts/<ID>`: an auditor's own alerts, and the only place for wills.
    case auditorAlerts(Identifier)
    /// `control_center/receipts/<ID>`
    case receipts(Identifier)
    /// `control_center/updates/<ID>/<controller>/<PARAMETER>`
    case update(Identifier, controller: Identifier, parameter: Parameter)
    /// `control_center/alerts/<ID>`
    case alerts(Identifier)
    /// `control_center/alerts/all`
    case alertsToAll
    /// `control_center/keys`, retained: the control center's current certificate chain.
    case keys
    /// `control_center/crl`, retained.
    case crl
    /// `control_center/checkpoint`, retained.
    case checkpoint

    /// The name of a parameter: `[A-Z][A-Z0-9_]{0,31}`.
    public struct Parameter: Hashable, Sendable, CustomStringConvertible {
        public let rawValue: String

        /// Nil if not such a name.
        public init?(_ text: some StringProtocol) {
            func isCapital(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "A") < 26 }
            guard let first = text.utf8.first, isCapital(first), text.utf8.count <= 32,
                text.utf8.allSatisfy({ isCapital($0) || Name.isDigit($0) || $0 == UInt8(ascii: "_") })
            else { return nil }
            self.rawValue = String(text)
        }

        private init(known name: String) { self.rawValue = name }

        public var description: String { self.rawValue }

        /// Seconds between two readings of a meter.
        public static let sampleRate = Parameter(known: "SAMPLE_RATE")
        /// Seconds between two statements.
        public static let statementInterval = Parameter(known: "STATEMENT_INTERVAL")
        /// The meters that are told of; none for all.
        public static let metersEnabled = Parameter(known: "METERS_ENABLED")
        /// Messages that wait for receipts before the meters are no longer read.
        public static let outboxLimit = Parameter(known: "OUTBOX_LIMIT")
        /// How much the auditor logs.
        public static let logLevel = Parameter(known: "LOG_LEVEL")
    }

    /// The topic of this name; nil if it is none of ours.
    public init?(_ name: some StringProtocol) {
        let levels = name.split(separator: "/", omittingEmptySubsequences: false)
        guard (2...5).contains(levels.count) else { return nil }
        let id = levels.count >= 3 ? try? Identifier(levels[2]) : nil
        switch (levels[0], levels[1], levels.count) {
        case ("audits", "hello", 3): if let id { self = .hello(id) } else { return nil }
        case ("audits", "measures", 3): if let id { self = .measures(id) } else { return nil }
        case ("audits", "alerts", 3): if let id { self = .auditorAlerts(id) } else { return nil }
        case ("control_center", "receipts", 3): if let id { self = .receipts(id) } else { return nil }
        case ("control_center", "alerts", 3):
            if levels[2] == "all" { self = .alertsToAll } else if let id { self = .alerts(id) } else { return nil }
        case ("control_center", "updates", 5):
            guard let id, let controller = try? Identifier(levels[3]), let parameter = Parameter(levels[4]) else {
                return nil
            }
            self = .update(id, controller: controller, parameter: parameter)
        case ("control_center", "keys", 2): self = .keys
        case ("control_center", "crl", 2): self = .crl
        case ("control_center", "checkpoint", 2): self = .checkpoint
        default: return nil
        }
    }

    /// Whether messages on it are retained by the broker; on all others they never are.
    public var isRetained: Bool {
        switch self {
        case .keys, .crl, .checkpoint: true
        default: false
        }
    }

    /// Whether messages of this kind belong on it.
    func carries(_ kind: Envelope.Kind) -> Bool {
        switch (self, kind) {
        case (.hello, .hello), (.receipts, .receipts), (.update, .update): true
        case (.measures, .statement), (.measures, .heartbeat), (.measures, .result): true
        case (.auditorAlerts, .alert), (.alerts, .alert), (.alertsToAll, .alert): true
        default: false
        }
    }
}

extension Topic: CustomStringConvertible {
    /// The name of the topic.
    public var description: String {
        switch self {
        case .hello(let id): "audits/hello/\(id)"
        case .measures(let id): "audits/measures/\(id)"
        case .auditorAlerts(let id): "audits/alerts/\(id)"
        case .receipts(let id): "control_center/receipts/\(id)"
        case .update(let id, let controller, let parameter): "control_center/updates/\(id)/\(controller)/\(parameter)"
        case .alerts(let id): "control_center/alerts/\(id)"
        case .alertsToAll: "control_center/alerts/all"
        case .keys: "control_center/keys"
        case .crl: "control_center/crl"
        case .checkpoint: "control_center/checkpoint"
        }
    }
}
