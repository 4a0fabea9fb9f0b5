import Identity
import Telemetry
import TestSupport

/// A broker that means no good, and an insider with a certificate of his own.
extension World {
    static let captured = 64

    /// What the broker does to a message that is passing through.
    ///
    /// - Returns: whether the broker says "I have it" and drops it.
    func interfere(with message: Broker.Message, _ request: Broker.Request, from client: Int) -> Bool {
        if message.topic == "\(Topic.keys)" { return false }
        self.capture(message)
        guard case .publish(let id, _) = request else { return false }
        if self.faults.strikes(.brokerDrop) {
            self.note(.broker, "drops what it acknowledged", Int64(client))
            self.route([Broker.Output(client: client, response: .acknowledge(id))])
            return true
        }
        if self.faults.strikes(.brokerDelay) {
            self.note(.broker, "keeps a message", Int64(client))
            self.schedule.after(
                self.faults.dice(of: .brokerDelay, between: .seconds(1)...(.seconds(200))), .brokerReleases(message))
            self.route([Broker.Output(client: client, response: .acknowledge(id))])
            return true
        }
        if self.faults.strikes(.brokerDuplicate) {
            self.note(.broker, "delivers twice", Int64(client))
            self.inject(message)
        }
        if self.faults.strikes(.brokerReorder) { self.broker.shuffleQueue(of: 0, using: &self.dice) }
        if self.faults.strikes(.replay), !self.capturedMessages.isEmpty {
            let old = self.capturedMessages[self.faults.dice(of: .replay, below: self.capturedMessages.count)]
            self.note(.adversary, "replays", Int64(old.payload.count))
            self.inject(old)
        }
        if self.faults.strikes(.misdirect) { self.misdirect(message) }
        if self.faults.strikes(.forge) { self.forge() }
        if self.faults.strikes(.tamper) {
            self.tamper(message)
            // Instead of the message as often as in addition to it.
            if self.dice.chance(0.5) {
                self.route([Broker.Output(client: client, response: .acknowledge(id))])
                return true
            }
        }
        return false
    }

    private func capture(_ message: Broker.Message) {
        if self.capturedMessages.count < Self.captured {
            self.capturedMessages.append(message)
        } else {
            self.capturedMessages[self.dice.below(Self.captured)] = message
        }
    }

    func inject(_ message: Broker.Message) {
        let receiver =
            message.topic.hasPrefix("audits/")
            ? 0
            : self.auditors.first {
                message.topic.hasSuffix("/\($0.party.id)") || message.topic.contains("/\($0.party.id)/")
            }?.client
        guard let receiver else { return }
        self.route(self.broker.enqueue(message, for: receiver))
    }

    private func misdirect(_ message: Broker.Message) {
        guard let slash = message.topic.lastIndex(of: "/") else { return }
        let owner = message.topic[message.topic.index(after: slash)...]
        guard let other = self.auditors.first(where: { $0.party.id.rawValue != owner }) else { return }
        self.note(.adversary, "misdirects", Int64(message.payload.count))
        var changed = message
        changed.topic = "\(message.topic[..<slash])/\(other.party.id)"
        changed.truth = .attack(.misdirected)
        self.inject(changed)
    }

    private func tamper(_ message: Broker.Message) {
        let attacks: [Attack] = [
            .oversized, .garbage, .truncated, .trailingByte, .longerLength, .highS, .unprotectedLabel,
            .flippedPayload, .flippedSignature, .retained,
        ]
        let attack = attacks[self.faults.dice(of: .tamper, below: attacks.count)]
        var changed = message
        guard let bytes = Mutation.apply(attack, to: message.payload, using: &self.dice) else { return }
        self.note(.adversary, "tampers", Int64(attack.rawValue))
        changed.payload = bytes
        changed.isRetained = attack == .retained
        changed.truth = .attack(attack)
        self.inject(changed)
    }

    /// Messages in a victim's name under other keys, and an operator's hello.
    private func forge() {
        let victim = self.auditors[self.dice.below(self.auditors.count)].party
        let attack: Attack
        let payload: [UInt8]
        var topic = Topic.measures(victim.id)
        do {
            switch self.faults.dice(of: .forge, below: 3) {
            case 0:
                attack = .otherIssuer
                payload = try self.statement(of: victim, by: PartySigner(self.cast.insider, as: victim.spiffeID))
            case 1:
                attack = .unknownCertificate
                var signer = try PartySigner(self.cast.insider, as: victim.spiffeID)
                signer.certificateHash = CertificateHash(hashing: [])
                payload = try self.statement(of: victim, by: signer)
            default:
                attack = .otherRole
                topic = .hello(self.cast.person.id)
                payload = try self.hello(of: self.cast.person)
            }
        } catch {
            return
        }
        self.note(.adversary, "forges", Int64(attack.rawValue))
        self.inject(Broker.Message(topic: "\(topic)", payload: payload, truth: .attack(attack)))
    }

    private func statement(of victim: TestPKI.Party, by signer: PartySigner) throws -> [UInt8] {
        let reading = try Meter.reading(0, of: 0, from: self.cast.start)
        let position = StreamPosition(
            stream: StreamID(using: &self.dice), sequence: 1, previous: .zero)
        return try Payload.statement([reading], of: victim.id).signed(
            at: position, clock: .synchronised, issuedAt: self.now, by: signer
        ).bytes
    }

    /// The insider's own hello makes its certificate known, so that what it forges is refused for its issuer.
    func introduceInsider() {
        guard let hello = try? self.hello(of: self.cast.insider) else { return }
        let message = Broker.Message(topic: "\(Topic.hello(self.cast.insider.id))", payload: hello)
        self.schedule.after(.seconds(5), .brokerReleases(message))
    }

    func hello(of party: TestPKI.Party) throws -> [UInt8] {
        let hello = Hello(
            stream: StreamID(using: &self.dice), lastSequence: 0, lastID: .zero, nonce: Nonce(using: &self.dice),
            clock: .synchronised)
        return try hello.signed(issuedAt: self.now, chain: party.chainDER, by: PartySigner(party)).bytes
    }
}
