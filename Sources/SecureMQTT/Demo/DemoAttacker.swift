import Identity
import MQTT
import NIOCore
import NIOSSL
import PKI
import Telemetry
import X509

/// Who attacks: an insider with a certificate of this PKI, so that most refusals are not TLS's.
///
/// It is an auditor of its own, with its own stream: the honest auditors' readings are not disputed by its fork.
struct DemoAttacker: Sendable {
    let host: String
    let port: Int
    let roots: [NIOSSLCertificate]
    /// An auditor of the demo's PKI that has gone bad.
    let intruder: DemoParty
    /// Another auditor whose key the intruder has got.
    let accomplice: DemoParty
    /// The same name as the victim's, under another root.
    let stranger: DemoParty
    /// An honest auditor.
    let victim: SPIFFEID
    /// A stored statement of the victim, as a broker that went bad would have it.
    let captured: @Sendable () throws -> [UInt8]
    let witness: DemoWitness

    /// The intruder's own stream, its one honest message, and what it pretends to have measured.
    private let stream: StreamID
    private let nonce: Nonce
    private let first: [UInt8]
    private let meter: MeterName
    private let now: Timestamp

    init(
        host: String, port: Int, roots: [NIOSSLCertificate], intruder: DemoParty, accomplice: DemoParty,
        stranger: DemoParty, victim: SPIFFEID, captured: @escaping @Sendable () throws -> [UInt8],
        witness: DemoWitness, now: Timestamp, using random: inout some RandomNumberGenerator
    ) throws {
        self.host = host
        self.port = port
        self.roots = roots
        self.intruder = intruder
        self.accomplice = accomplice
        self.stranger = stranger
        self.victim = victim
        self.captured = captured
        self.witness = witness
        self.stream = StreamID(using: &random)
        self.nonce = Nonce(using: &random)
        self.meter = try MeterName("meter")
        self.now = now
        self.first = try Payload.heartbeat(
            Heartbeat(outboxCount: 0, oldestUnsent: nil, deadLetters: 0, meters: []), of: intruder.id
        ).signed(
            at: StreamPosition(stream: self.stream, sequence: 1, previous: .zero), clock: .synchronised,
            issuedAt: now, by: intruder.signer
        ).bytes
    }

    // MARK: At the broker

    /// Must not get as far as CONNACK.
    func handshake(as credentials: DemoPeer.Credentials) async throws -> DemoReport.Attack {
        let before = self.witness.handshakesRefused
        let reason: String
        do {
            let answer = try await self.connection(as: credentials) { try await $0.connect(clientID: "stranger") }
            guard answer.reasonCode.isFailure else { return .notRefused }
            reason = "\(answer.reasonCode)"
        } catch let failure as DemoPeer.Failure {
            reason = failure.description
        }
        let recorded = try await self.witness.waits { self.witness.handshakesRefused > before }
        return DemoReport.Attack(refused: recorded, where: "broker handshake", reason: reason)
    }

    func subscribe(to filters: [String]) async throws -> DemoReport.Attack {
        let before = self.witness.authorisationsRefused
        let answers = try await self.session { peer in
            try await peer.subscribe(try filters.map { try TopicFilter($0) })
        }
        guard answers.allSatisfy(\.isFailure), let first = answers.first else { return .notRefused }
        let recorded = try await self.witness.waits { self.witness.authorisationsRefused > before }
        return DemoReport.Attack(refused: recorded, where: "broker authorisation", reason: "\(first)")
    }

    func publishOnTopicOfVictim() async throws -> DemoReport.Attack {
        try await self.refusedByBroker { peer in
            try await peer.publish(self.statement(), to: try TopicName("audits/measures/\(self.victim.id)"))
        }
    }

    func publishRetained() async throws -> DemoReport.Attack {
        try await self.refusedByBroker { try await $0.publish(self.statement(), to: self.topic, retain: true) }
    }

    private func refusedByBroker(
        _ attack: (inout DemoPeer) async throws -> ReasonCode
    ) async throws -> DemoReport.Attack {
        let before = self.witness.authorisationsRefused
        let answer = try await self.session(attack)
        guard answer.isFailure else { return .notRefused }
        let recorded = try await self.witness.waits { self.witness.authorisationsRefused > before }
        return DemoReport.Attack(refused: recorded, where: "broker authorisation", reason: "\(answer)")
    }

    func sendOversizedPacket() async throws -> DemoReport.Attack {
        let before = self.witness.limitsRefused
        var reason = "connection closed"
        do {
            let answer = try await self.session { peer in
                try await peer.publish([UInt8](repeating: 0xD2, count: 1 << 20), to: self.topic)
            }
            guard answer.isFailure else { return .notRefused }
            reason = "\(answer)"
        } catch DemoPeer.Failure.closed {
        } catch is IOError {
            // The rest of the packet met a connection that the broker had reset.
        } catch is ChannelError {
        }
        let recorded = try await self.witness.waits { self.witness.limitsRefused > before }
        return DemoReport.Attack(refused: recorded, where: "broker limits", reason: reason)
    }

    // MARK: At the control center

    /// Publishes on the intruder's own topic, where the broker lets it, and expects the control center to refuse,
    /// count and keep it.
    func publish(_ message: [UInt8], expecting reason: Reason) async throws -> DemoReport.Attack {
        let before = try self.witness.record(of: reason)
        _ = try await self.session { try await $0.publish(message, to: self.topic) }
        let recorded = try await self.witness.waits {
            let after = try self.witness.record(of: reason)
            return after.count > before.count && after.kept > before.kept
        }
        return recorded
            ? DemoReport.Attack(refused: true, where: "control center", reason: "\(reason)") : .notRefused
    }

    /// What is stored already is recognised: counted, nothing stored.
    func replay() async throws -> DemoReport.Attack {
        try await self.publishFirst()
        let before = try self.witness.record(of: .duplicate)
        let stored = try self.witness.storedStatements()
        try await self.publishFirst()
        let recorded = try await self.witness.waits { try self.witness.record(of: .duplicate).count > before.count }
        guard recorded, try self.witness.storedStatements() == stored else { return .notRefused }
        return DemoReport.Attack(refused: true, where: "control center", reason: "\(Reason.duplicate)")
    }

    /// Another message with the number of a stored one: kept as evidence, with an alarm.
    func fork() async throws -> DemoReport.Attack {
        try await self.publishFirst()
        let before = try self.witness.forks()
        let second = try self.reading().signed(
            at: StreamPosition(stream: self.stream, sequence: 1, previous: .zero), clock: .synchronised,
            issuedAt: self.now, by: self.intruder.signer)
        _ = try await self.session { try await $0.publish(second.bytes, to: self.topic) }
        let recorded = try await self.witness.waits { try self.witness.forks() > before }
        return recorded
            ? DemoReport.Attack(refused: true, where: "control center", reason: "\(Reason.fork)") : .notRefused
    }

    /// The intruder introduces itself as any auditor does: from then on the control center knows its certificate.
    func sayHello() async throws {
        let hello = try Hello(
            stream: self.stream, lastSequence: 0, lastID: .zero, nonce: self.nonce, clock: .synchronised
        ).signed(issuedAt: self.now, chain: self.intruder.chain.map(\.der), by: self.intruder.signer)
        let receipts = try TopicFilter("control_center/receipts/\(self.intruder.id)")
        let hellos = try TopicName("audits/hello/\(self.intruder.id)")
        try await self.session { peer in
            _ = try await peer.subscribe([receipts])
            _ = try await peer.publish(hello.bytes, to: hellos)
            while true {
                let answer = try await peer.nextMessage()
                let envelope = try Envelope.decode(Array(answer.payload.readableBytesView))
                if envelope.receipts?.nonce == self.nonce { return }
            }
        }
    }

    /// A statement that nobody measured anything for, the second of the intruder's stream.
    ///
    /// - Parameter signer: The intruder itself unless given.
    func statement(by signer: DemoSigner? = nil) throws -> [UInt8] {
        try self.reading().signed(
            at: StreamPosition(stream: self.stream, sequence: 2, previous: MessageID(hashing: self.first)),
            clock: .synchronised, issuedAt: self.now, by: signer ?? self.intruder.signer
        ).bytes
    }

    private func reading() throws -> Payload {
        let reading = Reading(
            meter: self.meter, quantity: .production, unit: .kilowattHour, time: self.now,
            interval: 900 * 1_000_000_000, value: ExactDecimal("999.999"))
        return try Payload.statement([reading], of: self.intruder.id)
    }

    func capturedStatement() throws -> [UInt8] { try self.captured() }

    /// The intruder's one honest message, so that there is something to replay and to contradict.
    private func publishFirst() async throws {
        _ = try await self.session { try await $0.publish(self.first, to: self.topic) }
    }

    private var topic: TopicName {
        get throws { try TopicName("audits/measures/\(self.intruder.id)") }
    }

    // MARK: Connections

    /// A connection with the intruder's certificate that the broker has let in.
    private func session<Value>(_ body: (inout DemoPeer) async throws -> Value) async throws -> Value {
        try await self.connection(as: try self.intruder.credentials()) { peer in
            let answer = try await peer.connect(clientID: "")
            guard !answer.reasonCode.isFailure else { throw DemoPeer.Failure.handshake("\(answer.reasonCode)") }
            return try await body(&peer)
        }
    }

    private func connection<Value>(
        as credentials: DemoPeer.Credentials, _ body: (inout DemoPeer) async throws -> Value
    ) async throws -> Value {
        try await DemoPeer.withConnection(
            host: self.host, port: self.port, credentials: credentials, trusting: self.roots, body)
    }
}

extension DemoReport.Attack {
    static let notRefused = DemoReport.Attack(refused: false, where: "nowhere", reason: "not refused or not recorded")
}
