public import Identity
public import Telemetry

/// Sends updates, as a value without threads, sockets or clocks: the queue is in the store, and what is pending for an
/// auditor is signed with the nonce of its newest hello, when that arrives or at once if it is there already.
///
///     dispatcher.heard(hello.nonce, of: auditor)
///     for message in try dispatcher.work(at: now, signer: signer, chain: chain) { publish(message) }
///
/// Each connection gets its own signed form, with a number of its own. Within one connection the same bytes are sent
/// again until a result is stored: the auditor tells a repeat by its id; under a renewed certificate another form is
/// signed, since the former is not believed any more once that has expired. That an update which was applied on an
/// earlier connection is not applied again, the auditor sees by batch and parameter.
public struct UpdateDispatcher<Store: UpdateStore> {
    private struct Session {
        var nonce: Nonce
        /// By the number of the request: what was sent under this nonce, and with which certificate.
        var sent: [Int64: Sent] = [:]
    }

    private struct Sent {
        let message: SignedMessage
        let certificateHash: CertificateHash
        var at: Timestamp
        var isLate = false
    }

    /// What has no result after so long is sent again.
    static var sendAgainAfter: Int64 { 60_000_000_000 }

    public private(set) var store: Store
    private var sessions: [SPIFFEID: Session] = [:]

    public init(store: Store) {
        self.store = store
    }

    /// A hello was verified.
    public mutating func heard(_ nonce: Nonce, of auditor: SPIFFEID) {
        guard self.sessions[auditor]?.nonce != nonce else { return }
        self.sessions[auditor] = Session(nonce: nonce)
    }

    /// An auditor refused a form because of its nonce or number only: when it would be sent again, another is signed.
    public mutating func refusedAsLate(_ id: MessageID, by auditor: SPIFFEID) {
        guard let number = self.sessions[auditor]?.sent.first(where: { $0.value.message.id == id })?.key else { return }
        self.sessions[auditor]?.sent[number]?.isLate = true
    }

    /// What is to be published now. Everything of it is recorded in the store when this returns. What cannot be sent to
    /// one auditor holds up no other.
    ///
    /// - Throws: what the store throws, or the signer; then nothing is to be published, and the next call tries again.
    public mutating func work(at now: Timestamp, signer: some Signer, chain: [[UInt8]]) throws -> [Outgoing] {
        try self.store.expireUpdates(at: now)
        var outgoing: [Outgoing] = []
        var failure: (any Error)?
        for auditor in try self.store.auditorsWithPendingUpdates() {
            do {
                outgoing += try self.work(for: auditor, at: now, signer: signer, chain: chain)
            } catch {
                failure = failure ?? error
            }
        }
        // What was recorded leaves; what failed comes again.
        if let failure, outgoing.isEmpty { throw failure }
        return outgoing
    }

    private mutating func work(
        for auditor: SPIFFEID, at now: Timestamp, signer: some Signer, chain: [[UInt8]]
    ) throws -> [Outgoing] {
        guard var session = self.sessions[auditor] else { return [] }
        let pending = try self.store.pendingUpdates(for: auditor, at: now)
        var outgoing: [Outgoing] = []
        let numbers = Set(pending.map(\.number))
        session.sent = session.sent.filter { numbers.contains($0.key) }
        var last: Int64?
        var signed: [SignedUpdate] = []
        for update in pending {
            if let sent = session.sent[update.number] {
                guard now.nanoseconds - sent.at.nanoseconds >= Self.sendAgainAfter else { continue }
                if !sent.isLate, sent.certificateHash == signer.certificateHash {
                    session.sent[update.number]?.at = now
                    outgoing.append(Self.outgoing(sent.message, update, signer))
                    continue
                }
            }
            // Milliseconds: above all earlier ones also for a store that was restored from a copy.
            let former = if let last { last } else { try self.store.lastUpdateSequence(for: auditor) }
            let sequence = max(former + 1, now.nanoseconds / 1_000_000)
            last = sequence
            let message: SignedMessage
            do {
                message = try Update(
                    parameter: update.parameter, value: update.value, unit: update.unit, nonce: session.nonce,
                    batch: update.batch
                ).signed(
                    for: auditor, sequence: sequence, expires: update.expires, issuedAt: now, chain: chain, by: signer)
            } catch let refusal as Refusal where refusal.reason == .format {
                // It can never be said; those behind it can.
                try self.store.refuse(update.number, "\(refusal)", at: now)
                continue
            }
            signed.append(
                SignedUpdate(
                    request: update.number, auditor: auditor, sequence: sequence, nonce: session.nonce, signedAt: now,
                    message: message))
            session.sent[update.number] = Sent(message: message, certificateHash: signer.certificateHash, at: now)
            outgoing.append(Self.outgoing(message, update, signer))
        }
        if !signed.isEmpty { try self.store.record(signed) }
        self.sessions[auditor] = session
        return outgoing
    }

    private static func outgoing(_ message: SignedMessage, _ update: PendingUpdate, _ signer: some Signer) -> Outgoing {
        Outgoing(
            topic: .update(update.auditor.id, controller: signer.issuer.id, parameter: update.parameter),
            bytes: message.bytes, isRetained: false)
    }
}

extension UpdateDispatcher: Sendable where Store: Sendable {}
