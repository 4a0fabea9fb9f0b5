import COSE
public import Crypto
public import Identity

/// A message of ours as it arrived: in the one canonical form, its header and its payload checked against
/// every rule that can be checked without a key. Its signature is *not* verified yet.
///
/// ```swift
/// let envelope = try Envelope.decode(bytes)
/// try envelope.checkTopic(topic, isRetained: false)
/// guard envelope.isIssued(by: certificate.spiffeID) else { … }
/// guard envelope.isSigned(by: certificate.publicKey) else { … }
/// for reading in envelope.readings { … }
/// ```
public struct Envelope: Sendable {
    /// The largest message, in bytes.
    public static let maximumSize = 65_535

    /// What a message is, by its `typ` (RFC 9596): `application/vnd.secure-mqtt.<kind>+cose`.
    public enum Kind: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
        case statement = 1
        case heartbeat = 2
        case result = 3
        case hello = 4
        case receipts = 5
        case update = 6
        case alert = 7

        public var description: String {
            switch self {
            case .statement: "statement"
            case .heartbeat: "heartbeat"
            case .result: "result"
            case .hello: "hello"
            case .receipts: "receipts"
            case .update: "update"
            case .alert: "alert"
            }
        }

        /// Whether messages of this kind have a place in their issuer's stream: `seq`, `prev`, `clock`.
        public var isInStream: Bool {
            switch self {
            case .statement, .heartbeat, .result: true
            case .hello, .receipts, .update, .alert: false
            }
        }

        /// The roles that sign this kind.
        public var signerRoles: [Role] {
            switch self {
            case .statement, .heartbeat, .result, .hello: [.auditor]
            case .receipts, .update: [.controlCenter]
            case .alert: [.auditor, .controlCenter]
            }
        }

        /// Whether messages of this kind are numbered on their own and count until a time that they say.
        var expires: Bool { self == .update || self == .alert }

        /// Whether messages of this kind bring the signer's certificates along.
        var hasChain: Bool { self == .hello || self == .update }

        /// The CoAP content format: 112 application/senml+cbor, 60 application/cbor.
        var contentType: UInt64 { self == .statement ? 112 : 60 }

        /// The value of `typ`.
        var type: String { "application/vnd.secure-mqtt.\(self)+cose" }

        static let types: [(kind: Kind, bytes: [UInt8])] = Self.allCases.map { ($0, Array($0.type.utf8)) }
    }

    public let kind: Kind

    /// The message's id.
    public let id: MessageID

    /// The certificate that the signer says to have used.
    public var certificateHash: CertificateHash { self.header.certificateHash }

    /// When it was signed, by the signer's clock; whole seconds. Informs, decides nothing.
    public var issuedAt: Timestamp { self.header.issuedAt }

    /// The message's place in its stream; nil for kinds that are in none.
    public var position: StreamPosition? { self.header.position }

    /// Its number: in its stream, or for update and alert among the signer's for that target; nil for hello and
    /// receipts.
    public var sequence: Int64? { self.header.sequence }

    /// Until when an update or an alert counts, in whole seconds; nil for other kinds.
    public var expires: Timestamp? { self.header.expires }

    /// How good the signer's clock was; nil for kinds that are in no stream (but see ``Hello/clock``).
    public var clock: ClockQuality? { self.header.clock }

    /// How many readings a statement holds; 0 for the other kinds.
    public let readingCount: Int

    private let message: Sign1
    private let header: ProtectedHeader

    // MARK: Decoding

    /// Takes a message apart and checks all that needs no key.
    ///
    /// - Throws: ``Refusal`` with `too-large`, `format`, `not-canonical` or `header`, in this order.
    public static func decode(_ bytes: [UInt8]) throws(Refusal) -> Envelope {
        guard bytes.count <= Self.maximumSize else {
            throw Refusal(.tooLarge, "\(bytes.count) bytes, at most \(Self.maximumSize) are allowed")
        }
        guard bytes.first == Sign1.firstByte else {
            throw Refusal(.format, bytes.isEmpty ? "empty" : "the first byte is not that of a message")
        }
        return try Envelope(bytes)
    }

    private init(_ bytes: [UInt8]) throws(Refusal) {
        let message: Sign1
        do {
            message = try Sign1(bytes)
        } catch {
            throw Refusal(error.code == .notCanonical ? .notCanonical : .format, error.description)
        }
        let labels: ProtectedHeader.Labels
        do {
            labels = try ProtectedHeader.labels(bytes, in: message.protected)
        } catch {
            throw Self.refusal(error, bytes, message.protected, "header")
        }
        guard let kind = Self.kind(bytes, in: message.protected, labels) else {
            throw Refusal(.format, "typ is not that of a message that is known here")
        }
        // The header's contents are read first, because readings must name its issuer; but what is wrong with
        // the payload is said first.
        let header: ProtectedHeader?
        let flaw: COSEError?
        do {
            header = try ProtectedHeader(bytes, in: message.protected, labels: labels, kind: kind)
            flaw = nil
        } catch {
            header = nil
            flaw = error
        }
        do {
            self.readingCount = try Self.checkPayload(
                bytes, in: message.payload, kind: kind, issuerID: header?.issuer.id)
        } catch {
            throw Self.refusal(error, bytes, message.payload, "payload")
        }
        guard let header else { throw Refusal(.header, flaw?.description ?? "") }
        self.message = message
        self.header = header
        self.kind = kind
        self.id = MessageID(hashing: bytes)
    }

    private static func kind(_ bytes: [UInt8], in range: Range<Int>, _ labels: ProtectedHeader.Labels) -> Kind? {
        guard let position = labels.type else { return nil }
        var reader = CBORReader(bytes, in: position..<range.upperBound)
        guard let type = try? reader.text() else { return nil }
        for known in Kind.types where areEqual(bytes, type, known.bytes) { return known.kind }
        return nil
    }

    /// - Returns: The number of readings.
    private static func checkPayload(
        _ bytes: [UInt8], in range: Range<Int>, kind: Kind, issuerID: Range<Int>?
    ) throws(COSEError) -> Int {
        var reader = CBORReader(bytes, in: range)
        switch kind {
        case .statement:
            var parser = try SenMLParser(bytes, in: range, owner: issuerID)
            let count = parser.remaining
            while try parser.next() != nil {}
            return count
        case .heartbeat: _ = try Heartbeat(reading: &reader)
        case .result: _ = try UpdateResult(reading: &reader)
        case .hello: _ = try Hello(reading: &reader)
        case .receipts: _ = try Receipts(reading: &reader)
        case .update: _ = try Update(reading: &reader)
        case .alert: _ = try Alert(reading: &reader)
        }
        return 0
    }

    /// A part in another encoding is `not-canonical` only if it is CBOR at all.
    private static func refusal(
        _ error: COSEError, _ bytes: [UInt8], _ range: Range<Int>, _ what: StaticString
    ) -> Refusal {
        let isOtherEncoding = error.code == .notCanonical && CBORReader.isWellFormed(bytes, in: range)
        return Refusal(isOtherEncoding ? .notCanonical : .format, "\(what): \(error)")
    }

    // MARK: What it says

    /// All bytes, as they arrived.
    public var bytes: [UInt8] { self.message.bytes }

    /// The SPIFFE ID that signed, as the message says.
    public var issuer: SPIFFEID { self.header.issuer.spiffeID(in: self.message.bytes) }

    /// The issuer's role, without making a string.
    public var issuerRole: Role { self.header.issuer.role }

    /// Whether the message names `party` as its issuer, byte for byte.
    public func isIssued(by party: SPIFFEID) -> Bool {
        areEqual(self.message.bytes, self.header.issuer.whole, party.rawValue.utf8)
    }

    /// Whether the issuer's ID is this one, byte for byte.
    public func isIssuer(_ id: Identifier) -> Bool {
        areEqual(self.message.bytes, self.header.issuer.id, id.rawValue.utf8)
    }

    /// The stream that the message belongs to, or for receipts the stream that they are about; nil for hello.
    public var subject: StreamName? {
        guard let auditor = self.header.subject, let stream = self.header.subjectStream else { return nil }
        return StreamName(auditor: auditor.spiffeID(in: self.message.bytes), stream: stream)
    }

    /// The id of the stream in ``subject``.
    public var stream: StreamID? { self.header.subjectStream }

    /// For whom an update or an alert is; nil for other kinds, and for an alert to all.
    public var audience: SPIFFEID? { self.header.audience?.spiffeID(in: self.message.bytes) }

    /// The certificates of `x5bag` in DER: those that the signer of a hello has had before, at most 8; else none.
    public var formerCertificates: [[UInt8]] { self.header.bag.map { [UInt8](self.message.bytes[$0]) } }

    /// Whether it is for `party`, byte for byte.
    public func isFor(_ party: SPIFFEID) -> Bool {
        guard let audience = self.header.audience else { return false }
        return areEqual(self.message.bytes, audience.whole, party.rawValue.utf8)
    }

    /// The certificates of `x5chain` in DER, leaf first: 2 to 4 for a hello and an update, else none.
    public var certificateChain: [[UInt8]] { self.header.chain.map { [UInt8](self.message.bytes[$0]) } }

    // MARK: Payload

    /// The readings of a statement; empty for the other kinds.
    public var readings: Readings {
        guard self.kind == .statement else { return Readings(nil) }
        return Readings(try? SenMLParser(self.message.bytes, in: self.message.payload, owner: self.header.issuer.id))
    }

    /// What a heartbeat says; nil for other kinds.
    public var heartbeat: Heartbeat? {
        guard self.kind == .heartbeat else { return nil }
        var reader = CBORReader(self.message.bytes, in: self.message.payload)
        return try? Heartbeat(reading: &reader)
    }

    /// What a result says; nil for other kinds.
    public var result: UpdateResult? {
        guard self.kind == .result else { return nil }
        var reader = CBORReader(self.message.bytes, in: self.message.payload)
        return try? UpdateResult(reading: &reader)
    }

    /// What a hello says; nil for other kinds.
    public var hello: Hello? {
        guard self.kind == .hello else { return nil }
        var reader = CBORReader(self.message.bytes, in: self.message.payload)
        return try? Hello(reading: &reader)
    }

    /// What receipts say; nil for other kinds.
    public var receipts: Receipts? {
        guard self.kind == .receipts else { return nil }
        var reader = CBORReader(self.message.bytes, in: self.message.payload)
        return try? Receipts(reading: &reader)
    }

    /// What an update says; nil for other kinds.
    public var update: Update? {
        guard self.kind == .update else { return nil }
        var reader = CBORReader(self.message.bytes, in: self.message.payload)
        return try? Update(reading: &reader)
    }

    /// What an alert says; nil for other kinds.
    public var alert: Alert? {
        guard self.kind == .alert else { return nil }
        var reader = CBORReader(self.message.bytes, in: self.message.payload)
        return try? Alert(reading: &reader)
    }

    /// The payload of a message in a stream, to be signed again at another place; nil for the other kinds.
    public var payload: Payload? {
        guard self.kind.isInStream else { return nil }
        return Payload(
            kind: self.kind, bytes: [UInt8](self.message.bytes[self.message.payload]),
            auditor: self.issuer.id)
    }

    // MARK: Checks with more than the message

    /// Whether the signature is that of `key`.
    public func isSigned(by key: P256.Signing.PublicKey) -> Bool { self.message.isSigned(by: key) }

    /// As ``checkTopic(_:isRetained:)``, with the topic's name as it came. Where all is right, which is nearly
    /// always, no string is made.
    ///
    /// - Throws: ``Refusal`` with `topic` or `retained`.
    public func checkTopic(named name: String, isRetained: Bool) throws(Refusal) {
        let prefix = self.kind == .hello ? Self.helloPrefix : Self.measuresPrefix
        let issuer = self.header.issuer.id
        var name = name
        let isRight = name.withUTF8 { name in
            (self.kind == .hello || self.kind.isInStream) && name.count == prefix.count + issuer.count
                && name.starts(with: prefix) && name.dropFirst(prefix.count).elementsEqual(self.bytes[issuer])
        }
        if isRight, !isRetained { return }
        guard let topic = Topic(name) else { throw Refusal(.topic, "not one of our topics") }
        try self.checkTopic(topic, isRetained: isRetained)
    }

    private static let helloPrefix = Array("audits/hello/".utf8)
    private static let measuresPrefix = Array("audits/measures/".utf8)

    /// Checks that a message of this kind and of this auditor belongs on a topic.
    ///
    /// - Throws: ``Refusal`` with `topic` or `retained`.
    public func checkTopic(_ topic: Topic, isRetained: Bool) throws(Refusal) {
        guard topic.carries(self.kind) else {
            throw Refusal(.topic, "a \(self.kind) does not belong on \(topic)")
        }
        guard self.namesAgree(with: topic) else {
            throw Refusal(.topic, "the \(self.kind) does not say the names of \(topic)")
        }
        guard !isRetained else { throw Refusal(.retained, "a \(self.kind) is never retained") }
    }

    /// Whether the message names whom its topic names.
    private func namesAgree(with topic: Topic) -> Bool {
        func isNamed(_ party: SPIFFEBytes?, _ id: Identifier) -> Bool {
            party.map { areEqual(self.message.bytes, $0.id, id.rawValue.utf8) } ?? false
        }
        let issuer = self.header.issuer
        return switch topic {
        case .hello(let id), .measures(let id): isNamed(issuer, id)
        case .receipts(let id): isNamed(self.header.subject, id)
        case .update(let id, let controller, let parameter):
            isNamed(self.header.audience, id) && isNamed(issuer, controller) && self.update?.parameter == parameter
        case .auditorAlerts(let id): issuer.role == .auditor && isNamed(issuer, id)
        case .alerts(let id): issuer.role != .auditor && isNamed(self.header.audience, id)
        case .alertsToAll: issuer.role != .auditor && self.header.audience == nil
        case .keys, .crl, .checkpoint: false
        }
    }
}
