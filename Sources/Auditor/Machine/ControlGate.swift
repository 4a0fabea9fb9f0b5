import Identity
import PKI
import Telemetry

/// Judges what comes on the topics of updates and alerts: every check, in its order, and nothing else.
struct ControlGate {
    let auditor: SPIFFEID
    let trust: IdentityVerifier
    /// That of the newest hello; nil before the first.
    let nonce: Nonce?
    let clock: ClockQuality
    let now: Timestamp

    /// A message whose signature is that of a control center, and that is for this auditor.
    struct Told<Content> {
        let id: MessageID
        let controller: SPIFFEID
        let sequence: Int64
        let content: Content
    }

    enum Verdict {
        case apply(Told<Update>, ParameterValue)
        /// Applied already, under another number.
        case applied(Told<Update>, ControlMemory.Handled)
        case show(Told<Alert>, isPersonal: Bool)
        /// Seen before, byte for byte.
        case repeated
        /// Not one that a control center has signed for this auditor: nobody is answered.
        case ignore(Refusal)
        /// A control center's, for this auditor, and not to be applied.
        case refuse(Told<Update>, Refusal)
    }

    func judge(
        _ message: ControlMessage, memory: ControlMemory, controlCenter: (CertificateHash) -> VerifiedIdentity?
    ) -> Verdict {
        do throws(Refusal) {
            let envelope = try Envelope.decode(message.bytes)
            guard let topic = Topic(message.topic) else { throw Refusal(.topic, "not one of our topics") }
            try envelope.checkTopic(topic, isRetained: message.isRetained)
            guard let sequence = envelope.sequence else { throw Refusal(.header, "no number") }
            if let update = envelope.update {
                let signer = try self.verify(chain: envelope.certificateChain)
                try self.check(envelope, signer)
                guard envelope.isFor(self.auditor) else {
                    throw Refusal(.audience, "it is for \(envelope.audience?.rawValue ?? "nobody")")
                }
                let told = Told(id: envelope.id, controller: signer.spiffeID, sequence: sequence, content: update)
                return self.judge(told, expires: envelope.expires, memory)
            }
            guard let alert = envelope.alert else {
                throw Refusal(.topic, "a \(envelope.kind) is not for an auditor here")
            }
            guard let signer = controlCenter(envelope.certificateHash) else {
                throw Refusal(.certificateUnknown, "no control center has shown \(envelope.certificateHash)")
            }
            try Self.standing { () throws(PKIError) in
                try self.trust.requireStanding(signer, at: self.now.seconds)
            }
            try self.check(envelope, signer)
            let isPersonal = envelope.audience != nil
            guard !isPersonal || envelope.isFor(self.auditor) else {
                throw Refusal(.audience, "it is for \(envelope.audience?.rawValue ?? "nobody")")
            }
            try self.checkEnd(envelope.expires)
            guard !memory.isShown(sequence, of: signer.spiffeID) else { return .repeated }
            return .show(
                Told(id: envelope.id, controller: signer.spiffeID, sequence: sequence, content: alert),
                isPersonal: isPersonal)
        } catch {
            return .ignore(error)
        }
    }

    private func judge(_ told: Told<Update>, expires: Timestamp?, _ memory: ControlMemory) -> Verdict {
        guard !memory.isHandled(told.id) else { return .repeated }
        let update = told.content
        do throws(Refusal) {
            guard update.nonce == self.nonce else {
                throw Refusal(.nonce, "it is not bound to the newest hello: older than this connection")
            }
            let last = memory.lastSequences[told.controller.rawValue] ?? 0
            guard told.sequence > last else {
                throw Refusal(.sequence, "number \(told.sequence) is not above \(last)")
            }
            if let outcome = memory.outcome(of: update, by: told.controller) { return .applied(told, outcome) }
            try self.checkEnd(expires)
            guard let definition = ParameterDefinition.named(update.parameter) else {
                throw Refusal(.parameter, "there is no \(update.parameter) here")
            }
            try definition.check(update.value, unit: update.unit)
            return .apply(told, update.value)
        } catch {
            return .refuse(told, error)
        }
    }

    private func verify(chain: [[UInt8]]) throws(Refusal) -> VerifiedIdentity {
        try Self.standing { () throws(PKIError) in
            // A root that is sent along is of no use: we have ours.
            try self.trust.verify(der: Array(chain.prefix(2)), at: self.now.seconds, roles: [.controlCenter])
        }
    }

    private func check(_ envelope: Envelope, _ signer: VerifiedIdentity) throws(Refusal) {
        guard envelope.isIssued(by: signer.spiffeID) else {
            throw Refusal(.issuer, "the certificate is that of \(signer.spiffeID), not of \(envelope.issuer)")
        }
        guard signer.spiffeID.role == .controlCenter else { throw Refusal(.role, "\(signer.spiffeID)") }
        guard envelope.isSigned(by: signer.publicKey) else {
            throw Refusal(.signature, "the signature is not by the key of the certificate")
        }
    }

    /// Only a clock that is known to be right may call something late.
    private func checkEnd(_ expires: Timestamp?) throws(Refusal) {
        guard self.clock == .synchronised, let expires, self.now >= expires else { return }
        throw Refusal(.expired, "it was to be applied before \(expires)")
    }

    private static func standing<Value>(_ body: () throws(PKIError) -> Value) throws(Refusal) -> Value {
        do {
            return try body()
        } catch {
            let reason: Reason =
                switch error.code {
                case .revoked: .revoked
                case .expired, .notYetValid: .expired
                case .role: .role
                default: .certificateUnknown
                }
            throw Refusal(reason, error.reason)
        }
    }
}

/// A message on a topic of updates or alerts, as it came.
struct ControlMessage: Hashable {
    var topic: String
    var bytes: [UInt8]
    var isRetained: Bool
}
