public import Identity
public import Telemetry

/// An update that an operator has asked for, and that is not answered yet.
public struct PendingUpdate: Hashable, Sendable {
    /// Its number in the queue.
    public var number: Int64
    public var auditor: SPIFFEID
    public var parameter: Topic.Parameter
    public var value: ParameterValue
    public var unit: String?
    /// Common to the updates of a group.
    public var batch: Nonce
    public var expires: Timestamp

    public init(
        number: Int64, auditor: SPIFFEID, parameter: Topic.Parameter, value: ParameterValue, unit: String?,
        batch: Nonce,
        expires: Timestamp
    ) {
        self.number = number
        self.auditor = auditor
        self.parameter = parameter
        self.value = value
        self.unit = unit
        self.batch = batch
        self.expires = expires
    }
}

/// One signed form of an update: bound to a nonce, so there is another for each connection that needed one.
public struct SignedUpdate: Hashable, Sendable {
    /// The number of the update in the queue.
    public var request: Int64
    public var auditor: SPIFFEID
    public var sequence: Int64
    public var nonce: Nonce
    public var signedAt: Timestamp
    public var message: SignedMessage
}

extension UpdateResult {
    /// Whether it was refused only because of the connection that it was signed for: another form may be applied.
    public var isOnlyLate: Bool {
        guard !self.isApplied, let word = self.reason?.prefix(while: { $0 != ":" }) else { return false }
        return word == Reason.nonce.rawValue || word == Reason.sequence.rawValue
    }
}

/// The durable queue of updates: ``ControlCenterStore``, or ``MemoryUpdates`` for simulated disks.
public protocol UpdateStore {
    /// Auditors for which updates are not answered and not expired.
    func auditorsWithPendingUpdates() throws -> [SPIFFEID]

    /// Those of one auditor, in the order of asking. What cannot be read is settled as refused, and is none of them.
    func pendingUpdates(for auditor: SPIFFEID, at now: Timestamp) throws -> [PendingUpdate]

    /// Settles one that can never be signed.
    mutating func refuse(_ number: Int64, _ reason: String, at now: Timestamp) throws

    /// The highest number that was used for an auditor; 0 for none.
    func lastUpdateSequence(for auditor: SPIFFEID) throws -> Int64

    /// Notes signed forms, durably, before any of them leaves.
    mutating func record(_ updates: [SignedUpdate]) throws

    /// What was not applied in time is not sent any more.
    mutating func expireUpdates(at now: Timestamp) throws
}

/// A queue of updates in memory, as a value: a copy of it is an image of the disk.
public struct MemoryUpdates: UpdateStore, Sendable {
    public enum State: Hashable, Sendable {
        case queued, sent, applied, expired
        case refused(String)
    }

    public private(set) var states: [Int64: State] = [:]
    private var requests: [PendingUpdate] = []
    private var forms: [MessageID: SignedUpdate] = [:]
    private var sequences: [SPIFFEID: Int64] = [:]

    public init() {}

    public mutating func ask(_ update: PendingUpdate) {
        self.requests.append(update)
        self.states[update.number] = .queued
    }

    private func isPending(_ update: PendingUpdate) -> Bool {
        self.states[update.number] == .queued || self.states[update.number] == .sent
    }

    public func auditorsWithPendingUpdates() -> [SPIFFEID] {
        var auditors: [SPIFFEID] = []
        for update in self.requests where self.isPending(update) && !auditors.contains(update.auditor) {
            auditors.append(update.auditor)
        }
        return auditors
    }

    public func pendingUpdates(for auditor: SPIFFEID, at now: Timestamp) -> [PendingUpdate] {
        self.requests.filter { $0.auditor == auditor && self.isPending($0) }
    }

    public mutating func refuse(_ number: Int64, _ reason: String, at now: Timestamp) {
        self.states[number] = .refused(reason)
    }

    public func lastUpdateSequence(for auditor: SPIFFEID) -> Int64 { self.sequences[auditor] ?? 0 }

    public mutating func record(_ updates: [SignedUpdate]) {
        for update in updates {
            self.forms[update.message.id] = update
            self.sequences[update.auditor] = update.sequence
            self.states[update.request] = .sent
        }
    }

    public mutating func expireUpdates(at now: Timestamp) {
        for update in self.requests where self.isPending(update) && update.expires <= now {
            self.states[update.number] = .expired
        }
    }

    /// The signed form of this id, 64 hexadecimal digits.
    public func form(_ id: String) -> SignedUpdate? { self.forms.first { $0.key.description == id }?.value }

    /// Takes a stored result of an auditor into account.
    public mutating func link(_ result: UpdateResult, of auditor: SPIFFEID) {
        guard let form = self.forms[result.update], form.auditor == auditor else { return }
        if result.isApplied {
            self.states[form.request] = .applied
        } else if self.states[form.request] != .applied, !result.isOnlyLate {
            self.states[form.request] = .refused(result.reason ?? "")
        }
    }
}
