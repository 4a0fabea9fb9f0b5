import Auditor
import Crypto
import Identity
import PKI
import Telemetry
import TestSupport
import Testing

/// An auditor on a desk: its machine, its outbox, and everything it does, one step at a time.
struct Desk {
    let pki: TestPKI
    let party: TestPKI.Party
    var outbox = MemoryOutbox()
    var machine: AuditorMachine
    var now: Timestamp
    var random: SplitMix64
    /// What is published, in order, and not yet looked at.
    var sent: [AuditorMachine.Publication] = []
    var alarms: [Alarm] = []
    var cleared: [Alarm.Kind] = []
    var settings: [String: ParameterValue] = [:]
    /// What every commit fails with.
    var failure: OutboxError?
    var commits = 0
    /// The numbers of revocation lists that were to be kept.
    var keptLists: [UInt64] = []

    static let pki = Result { try TestPKI(auditors: ["home-1", "home-2"]) }

    init(
        _ outbox: MemoryOutbox = MemoryOutbox(), seed: UInt64 = 1, at now: Timestamp? = nil,
        knowsCenter: Bool = true, _ change: (inout AuditorConfiguration) -> Void = { _ in }
    ) throws {
        self.pki = try Self.pki.get()
        self.party = try self.pki.auditor("home-1")
        self.now = now ?? Timestamp(seconds: self.pki.now)
        self.outbox = outbox
        self.random = SplitMix64(seed: seed)
        var configuration = AuditorConfiguration(certificateChain: self.party.chainDER)
        configuration.statementInterval = 0
        change(&configuration)
        let trust = try self.pki.verifier()
        let identity = try trust.verify(chain: self.party.chain, at: self.pki.now)
        self.machine = AuditorMachine(
            configuration: configuration, signer: try CertificateSigner(identity, key: self.party.key), trust: trust,
            outbox: outbox, now: self.now, random: &self.random)
        if knowsCenter {
            self.machine.know(
                try trust.verify(
                    chain: self.pki.controlCenter.chain, at: self.pki.now))
        }
    }

    /// Gives the auditor another certificate.
    mutating func renew(_ party: TestPKI.Party) throws {
        let identity = try self.pki.verifier().verifyAtIssue(der: party.chainDER)
        self.step(
            .renewed(try CertificateSigner(identity, key: party.key), certificateChain: party.chainDER))
    }

    /// The machine anew, with what is on disk: as after a crash.
    mutating func restart(with image: MemoryOutbox? = nil) throws {
        let statementInterval = self.machine.configuration.statementInterval
        var next = try Desk(image ?? self.outbox, seed: self.random.next(), at: self.now) {
            $0.statementInterval = statementInterval
        }
        next.alarms = self.alarms
        self = next
    }

    mutating func step(_ input: AuditorMachine.Input) {
        var inputs = [input]
        while !inputs.isEmpty {
            let actions = self.machine.handle(
                inputs.removeFirst(), now: self.now, outbox: self.outbox, random: &self.random)
            for action in actions {
                switch action {
                case .commit(let transaction):
                    if let failure {
                        inputs.insert(.commitFailed(failure), at: 0)
                        continue
                    }
                    do {
                        try self.outbox.commit(transaction)
                        self.commits += 1
                        inputs.insert(.committed, at: 0)
                    } catch {
                        Issue.record(error)
                    }
                case .publish(let publication): self.sent.append(publication)
                case .keep(let list): self.keptLists.append(list.number)
                case .set(let parameter, let value): self.settings[parameter.rawValue] = value
                case .raise(let alarm): self.alarms.append(alarm)
                case .clear(let kind): self.cleared.append(kind)
                }
            }
        }
    }

    mutating func wait(seconds: Int64) {
        self.now = self.now.advanced(byNanoseconds: seconds * 1_000_000_000)
        self.step(.tick)
    }

    /// One batch of two readings a number, a quarter of an hour apart.
    static func batch(_ number: Int, meter: String = "main") throws -> SourceBatch {
        let start = Timestamp(seconds: 1_600_000_200 + Int64(number) * 900)
        let meter = try MeterName(meter)
        return SourceBatch(
            readings: [Quantity.consumption, .production].map {
                Reading(
                    meter: meter, quantity: $0, unit: .kilowattHour, time: start, interval: 900_000_000_000,
                    value: ExactDecimal(mantissa: Int64(number), exponent: -3))
            },
            available: start.advanced(byNanoseconds: 900_000_000_000),
            position: SourcePosition(bytes: [UInt8(number >> 8), UInt8(number & 0xFF)]))
    }

    mutating func read(_ numbers: ClosedRange<Int>) throws {
        for number in numbers { self.step(.readings([try Self.batch(number)])) }
    }

    /// What was published since the last look, decoded.
    mutating func takeSent() throws -> [Envelope] {
        defer { self.sent = [] }
        return try self.sent.map { try Envelope.decode($0.bytes) }
    }

    /// The hello among what was published; everything is taken.
    mutating func takeHello() throws -> Hello {
        try #require(try self.takeSent().compactMap(\.hello).last)
    }

    /// Connects and answers the hello as `center` would.
    mutating func connect(_ center: inout Center) throws {
        self.step(.connected)
        self.step(.receipts(try center.answer(try self.takeHello())))
    }

    /// Hands everything published to `center` and its receipts back, until nothing is said any more.
    mutating func converse(_ center: inout Center) throws {
        while !self.sent.isEmpty {
            let publications = self.sent
            self.sent = []
            for publication in publications {
                self.step(.published(publication.token))
                for answer in try center.receive(publication.bytes) { self.step(.receipts(answer)) }
            }
        }
    }
}

/// What a control center must be for an auditor's tests: it keeps streams, answers hellos, signs receipts.
struct Center {
    let pki: TestPKI
    var auditor: SPIFFEID
    var signer: any Signer
    var issuedAt: Timestamp
    var open: StreamID?
    /// The ids of each stream by number.
    var held: [StreamID: [Int64: MessageID]] = [:]
    var stored: [Envelope] = []
    /// What it refuses, and why, by number.
    var refusals: [Int64: Reason] = [:]
    /// Certificates whose messages it refuses.
    var revoked: Set<CertificateHash> = []
    var hellos = 0

    init(_ desk: Desk) throws {
        self.pki = desk.pki
        self.auditor = desk.party.spiffeID
        self.issuedAt = desk.now
        let center = desk.pki.controlCenter
        let identity = try desk.pki.verifier().verify(chain: center.chain, at: desk.pki.now)
        self.signer = try CertificateSigner(identity, key: center.key)
    }

    func sign(_ receipts: Receipts, about stream: StreamID) throws -> [UInt8] {
        func sign(_ signer: some Signer) throws -> [UInt8] {
            try receipts.signed(
                about: StreamName(auditor: self.auditor, stream: stream), issuedAt: self.issuedAt, by: signer
            ).bytes
        }
        return try sign(self.signer)
    }

    func runs(_ stream: StreamID) -> [Receipts.StoredRange] {
        var runs: [Receipts.StoredRange] = []
        for (sequence, id) in (self.held[stream] ?? [:]).sorted(by: { $0.key < $1.key }) {
            if let last = runs.last, last.last + 1 == sequence {
                runs[runs.count - 1].last = sequence
                runs[runs.count - 1].lastID = id
            } else {
                runs.append(Receipts.StoredRange(first: sequence, last: sequence, lastID: id))
            }
        }
        return runs
    }

    func newest(_ stream: StreamID) -> Receipts.StreamHead? {
        (self.held[stream] ?? [:]).max { $0.key < $1.key }.map { Receipts.StreamHead(sequence: $0.key, id: $0.value) }
    }

    func answer(_ hello: Hello) throws -> [UInt8] {
        let stream = self.open ?? hello.stream
        var runs = self.runs(stream)
        // Where the auditor's own knowledge ends, a run that it can compare.
        if stream == hello.stream, hello.lastSequence > 0, self.held[stream]?[hello.lastSequence] == hello.lastID,
            let run = runs.first(where: { ($0.first...$0.last).contains(hello.lastSequence) })
        {
            runs.append(Receipts.StoredRange(first: run.first, last: hello.lastSequence, lastID: hello.lastID))
        }
        return try self.sign(
            Receipts(stored: runs, newest: self.newest(stream), nonce: hello.nonce), about: stream)
    }

    /// Stores, or refuses, one message.
    mutating func receive(_ bytes: [UInt8]) throws -> [[UInt8]] {
        let envelope = try Envelope.decode(bytes)
        if let hello = envelope.hello {
            self.hellos += 1
            return [try self.answer(hello)]
        }
        let position = try #require(envelope.position)
        let isRevoked = self.revoked.contains(envelope.certificateHash)
        if let reason = isRevoked ? .revoked : self.refusals[position.sequence] {
            return [
                try self.sign(
                    Receipts(
                        refused: [
                            Receipts.RefusedMessage(sequence: position.sequence, id: envelope.id, reason: reason)
                        ], newest: self.newest(position.stream)),
                    about: position.stream)
            ]
        }
        if self.held[position.stream]?[position.sequence] == nil { self.stored.append(envelope) }
        self.held[position.stream, default: [:]][position.sequence] = envelope.id
        self.open = position.stream
        return [
            try self.sign(
                Receipts(
                    stored: [
                        Receipts.StoredRange(
                            first: position.sequence, last: position.sequence, lastID: envelope.id)
                    ], newest: self.newest(position.stream)),
                about: position.stream)
        ]
    }

    /// The numbers of the readings that are stored, as ``Desk/batch(_:meter:)`` numbers them.
    var numbers: [Int64] {
        self.stored.flatMap { $0.readings.filter { $0.quantity == .consumption }.compactMap { $0.value?.mantissa } }
    }
}
