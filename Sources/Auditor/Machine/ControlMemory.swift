import Identity
public import Telemetry

/// What an auditor remembers of what control centers have told it: parameters, numbers, alerts. It is kept in the
/// outbox, in the transaction of the result that tells what became of an update.
public struct ControlMemory: Hashable, Sendable, Codable {
    /// The most updates and alerts remembered.
    public static let maximumHandled = 256
    public static let maximumAlerts = 64
    /// The most control centers whose numbers are remembered.
    static let maximumControllers = 64

    /// A parameter that an update has set.
    public struct Setting: Hashable, Sendable, Codable {
        /// The value as people write it.
        public var value: String
        /// The update's id, 64 hexadecimal digits.
        public var update: String
        /// The control center's SPIFFE ID.
        public var controller: String
        /// Nanoseconds since 1970.
        public var appliedAt: Int64
    }

    /// An update that was applied or refused, and answered.
    public struct Handled: Hashable, Sendable, Codable {
        /// 64 hexadecimal digits.
        public var update: String
        public var controller: String
        public var batch: String?
        public var parameter: String
        public var isApplied: Bool
        public var reason: String?
    }

    /// An alert of a control center that was shown.
    public struct ShownAlert: Hashable, Sendable, Codable {
        public var controller: String
        public var sequence: Int64
        public var word: String
        public var text: String
        public var isRaised: Bool
        /// Whether it was for this auditor alone.
        public var isPersonal: Bool
        /// Nanoseconds since 1970.
        public var shownAt: Int64
    }

    /// By the name of the parameter.
    public internal(set) var settings: [String: Setting] = [:]
    /// The highest number of an update, by the SPIFFE ID of its control center.
    public internal(set) var lastSequences: [String: Int64] = [:]
    /// The newest last.
    public internal(set) var handled: [Handled] = []
    /// The newest last.
    public internal(set) var alerts: [ShownAlert] = []
    /// The auditor's own alarms that control centers may believe to last; nil in what an older version wrote.
    public internal(set) var told: [String]?

    public init() {}

    /// What a parameter was set to, and is within the bounds of this version; nil if it has its default.
    public func value(of parameter: Topic.Parameter) -> ParameterValue? {
        guard let setting = self.settings[parameter.rawValue] else { return nil }
        return try? ParameterDefinition.named(parameter)?.parse(setting.value)
    }

    func isHandled(_ id: MessageID) -> Bool {
        let id = id.description
        return self.handled.contains { $0.update == id }
    }

    /// What became of an update of the same batch, signed again since.
    func outcome(of update: Update, by controller: SPIFFEID) -> Handled? {
        guard let batch = update.batch?.description else { return nil }
        return self.handled.last {
            $0.isApplied && $0.batch == batch && $0.parameter == update.parameter.rawValue
                && $0.controller == controller.rawValue
        }
    }

    mutating func remember(_ outcome: Handled) {
        self.handled.append(outcome)
        if self.handled.count > Self.maximumHandled { self.handled.removeFirst() }
    }

    mutating func remember(sequence: Int64, of controller: SPIFFEID) {
        // Forgetting one allows nothing: what it signed is bound to a nonce as well.
        if self.lastSequences.count >= Self.maximumControllers, self.lastSequences[controller.rawValue] == nil,
            let least = self.lastSequences.min(by: { ($0.value, $0.key) < ($1.value, $1.key) })
        {
            self.lastSequences[least.key] = nil
        }
        self.lastSequences[controller.rawValue] = sequence
    }

    /// Whether an alert is a repeat, or older than all that is remembered.
    func isShown(_ sequence: Int64, of controller: SPIFFEID) -> Bool {
        let known = self.alerts.filter { $0.controller == controller.rawValue }
        if known.contains(where: { $0.sequence == sequence }) { return true }
        return self.alerts.count >= Self.maximumAlerts && sequence < known.map(\.sequence).min() ?? 0
    }

    mutating func remember(_ alert: ShownAlert) {
        self.alerts.append(alert)
        if self.alerts.count > Self.maximumAlerts { self.alerts.removeFirst() }
    }
}
