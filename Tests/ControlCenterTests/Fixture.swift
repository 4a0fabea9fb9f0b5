import ControlCenter
import Crypto
import Identity
import PKI
import Telemetry
import TestSupport

/// A party of the test PKI as a signer.
struct PartySigner: Signer {
    let party: TestPKI.Party
    var issuer: SPIFFEID
    var certificateHash: CertificateHash

    init(_ party: TestPKI.Party, as issuer: SPIFFEID? = nil) {
        self.party = party
        self.issuer = issuer ?? party.spiffeID
        self.certificateHash = CertificateHash(hashing: party.certificate.der)
    }

    func signature(for digest: SHA256Digest) throws -> P256.Signing.ECDSASignature {
        try self.party.key.sign(digest)
    }
}

/// An auditor that signs one stream after the other, as a test wants it.
struct TestAuditor {
    let party: TestPKI.Party
    let now: Timestamp
    var signer: PartySigner
    var stream = StreamID(rawValue: 0xA1)
    var sequence: Int64 = 0
    var last: MessageID = .zero

    init(_ party: TestPKI.Party, at now: Timestamp) {
        self.party = party
        self.now = now
        self.signer = PartySigner(party)
    }

    var id: Identifier { self.party.id }
    var measures: String { "audits/measures/\(self.id)" }

    /// Readings of a quarter of an hour each.
    func readings(_ values: [String], from number: Int64) throws -> [Reading] {
        try values.enumerated().map { index, value in
            Reading(
                meter: try MeterName("meter"), quantity: .consumption, unit: .kilowattHour,
                time: Timestamp(seconds: 1_700_000_000 + (number * 100 + Int64(index)) * 900),
                interval: 900_000_000_000, value: ExactDecimal(value))
        }
    }

    /// The statement with this number, whatever came before.
    func statement(
        _ number: Int64, previous: MessageID, stream: StreamID? = nil, values: [String] = ["0.250"]
    ) throws -> SignedMessage {
        try Payload.statement(self.readings(values, from: number), of: self.id).signed(
            at: StreamPosition(stream: stream ?? self.stream, sequence: number, previous: previous),
            clock: .synchronised, issuedAt: self.now, by: self.signer)
    }

    /// The next statement of the stream.
    mutating func next(values: [String] = ["0.250"]) throws -> SignedMessage {
        let message = try self.statement(self.sequence + 1, previous: self.last, values: values)
        self.sequence += 1
        self.last = message.id
        return message
    }

    mutating func next(_ count: Int) throws -> [SignedMessage] {
        try (0..<count).map { _ in try self.next() }
    }

    /// Begins a new stream that names the last statement of this one.
    mutating func restart(_ stream: UInt64) {
        self.stream = StreamID(rawValue: stream)
        self.sequence = 0
    }

    func nonce(_ seed: UInt64) -> Nonce {
        var random = SplitMix64(seed: seed)
        return Nonce(using: &random)
    }

    func hello(_ seed: UInt64 = 1) throws -> SignedMessage {
        try Hello(
            stream: self.stream, lastSequence: self.sequence, lastID: self.last, nonce: self.nonce(seed),
            clock: .synchronised
        ).signed(issuedAt: self.now, chain: self.party.chainDER, by: self.signer)
    }

    func arrival(_ message: SignedMessage) -> Arrival {
        Arrival(topic: self.measures, bytes: message.bytes)
    }

    func arrivalOfHello(_ seed: UInt64 = 1) throws -> Arrival {
        Arrival(topic: "audits/hello/\(self.id)", bytes: try self.hello(seed).bytes)
    }
}

/// A control center without threads and sockets.
struct TestCenter<Store: LedgerStore> {
    let pki: TestPKI
    var now: Timestamp
    var core: IngestCore<Store>

    init(_ store: Store, pki: TestPKI, configuration: IngestConfiguration = IngestConfiguration()) throws {
        self.pki = pki
        self.now = Timestamp(seconds: pki.now)
        self.core = IngestCore(store: store, verifier: try pki.verifier(), configuration: configuration)
    }

    /// All seven steps; the receipts are verified as an auditor does.
    @discardableResult
    mutating func process(_ arrivals: [Arrival]) throws -> [(subject: StreamName, receipts: Receipts)] {
        try self.core.process(arrivals, at: self.now, signer: PartySigner(self.pki.controlCenter)).map { message in
            let envelope = try Envelope.decode(message.bytes)
            try envelope.checkTopic(message.topic, isRetained: message.isRetained)
            guard envelope.isSigned(by: self.pki.controlCenter.key.publicKey),
                envelope.isIssued(by: self.pki.controlCenter.spiffeID),
                let subject = envelope.subject, let receipts = envelope.receipts
            else { throw Refusal(.signature, "not receipts of the control center") }
            return (subject, receipts)
        }
    }

    @discardableResult
    mutating func process(_ arrivals: Arrival...) throws -> [(subject: StreamName, receipts: Receipts)] {
        try self.process(arrivals)
    }
}

extension TestCenter<MemoryLedger> {
    init(pki: TestPKI, configuration: IngestConfiguration = IngestConfiguration()) throws {
        try self.init(MemoryLedger(), pki: pki, configuration: configuration)
    }

    var ledger: MemoryLedger { self.core.store }

    func count(_ reason: Reason) -> Int64 {
        self.ledger.counts.reduce(0) { $1.key.reason == reason ? $0 + $1.value : $0 }
    }
}
