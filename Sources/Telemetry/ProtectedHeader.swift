import COSE
import Identity

/// The protected header of all our messages: what its labels say (RFC 9052 section 3.1, RFC 9360, 9596, 9597).
///
/// Labels come in the bytewise order of deterministic CBOR: 1 alg, 3 content type, 15 CWT claims, 16 typ,
/// 32 x5bag, 33 x5chain, 34 x5t, "seq", "prev", "clock"; the claims are 1 iss, 2 sub, 3 aud, 4 exp, 6 iat.
struct ProtectedHeader: Sendable {
    var issuer: SPIFFEBytes
    /// The auditor's SPIFFE ID in `sub`, where a kind has a subject.
    var subject: SPIFFEBytes?
    var subjectStream: StreamID?
    /// For whom it is, where a kind says so.
    var audience: SPIFFEBytes?
    /// Until when it counts, where a kind says so.
    var expires: Timestamp?
    var issuedAt: Timestamp
    var certificateHash: CertificateHash
    var chain: [Range<Int>]
    /// Of a hello: certificates that the auditor has had before.
    var bag: [Range<Int>]
    var position: StreamPosition?
    /// The number of what is numbered without being in a stream.
    var sequence: Int64?
    var clock: ClockQuality?

    /// Certificates in `x5chain`: leaf and at least one intermediate.
    static let chainLength = 2...4

    /// The most certificates in `x5bag`.
    static let maximumBagCount = 8

    /// The longest certificate in `x5chain` and `x5bag`, in bytes of DER.
    static let maximumCertificateLength = 4_096

    // MARK: First pass: is it canonical, which labels are there, and of what kind is the message?

    /// Where the values of the labels that we know begin.
    struct Labels {
        var algorithm: Int?
        var critical: Int?
        var contentType: Int?
        var claims: Int?
        var type: Int?
        var bag: Int?
        var chain: Int?
        var certificateHash: Int?
        var sequence: Int?
        var previous: Int?
        var clock: Int?
    }

    static func labels(_ bytes: [UInt8], in range: Range<Int>) throws(COSEError) -> Labels {
        var reader = CBORReader(bytes, in: range)
        var keys = CBORReader.MapKeys()
        var labels = Labels()
        for _ in 0..<(try reader.mapCount()) {
            let key = reader.position
            switch reader.nextMajorType {
            case 0, 1:
                let label = try reader.integer()
                switch label {
                case 1: labels.algorithm = reader.position
                case 2: labels.critical = reader.position
                case 3: labels.contentType = reader.position
                case 15: labels.claims = reader.position
                case 16: labels.type = reader.position
                case 32: labels.bag = reader.position
                case 33: labels.chain = reader.position
                case 34: labels.certificateHash = reader.position
                default: break
                }
            case 3:
                let label = try reader.text()
                if areEqual(bytes, label, Self.sequenceLabel) {
                    labels.sequence = reader.position
                } else if areEqual(bytes, label, Self.previousLabel) {
                    labels.previous = reader.position
                } else if areEqual(bytes, label, Self.clockLabel) {
                    labels.clock = reader.position
                }
            default: throw reader.fail("a label must be an integer or text")
            }
            try keys.next(key..<reader.position, in: reader)
            try reader.skip()
        }
        try reader.finish()
        return labels
    }

    private static let sequenceLabel = Array("seq".utf8)
    private static let previousLabel = Array("prev".utf8)
    private static let clockLabel = Array("clock".utf8)

    // MARK: Second pass: what do the labels say?

    /// - Throws: ``COSEError`` for whatever this kind of message must not or cannot say.
    init(
        _ bytes: [UInt8], in range: Range<Int>, labels: Labels, kind: Envelope.Kind
    ) throws(COSEError) {
        func reader(_ position: Int?, _ what: StaticString) throws(COSEError) -> CBORReader {
            guard let position else { throw COSEError(.unexpected, "\(what) is missing", at: range.lowerBound) }
            return CBORReader(bytes, in: position..<range.upperBound)
        }
        func forbid(_ position: Int?, _ what: StaticString) throws(COSEError) {
            if let position { throw COSEError(.unexpected, "\(what) is not allowed here", at: position) }
        }
        try forbid(labels.critical, "crit")

        var value = try reader(labels.algorithm, "alg")
        let algorithm = try value.integer()
        guard algorithm == -7 || algorithm == -9 else {
            throw COSEError(.unexpected, "alg must be -7 or -9 (ECDSA, P-256, SHA-256)", at: value.position)
        }

        value = try reader(labels.contentType, "the content type")
        guard value.nextMajorType == 0, try value.unsigned() == kind.contentType else {
            throw COSEError(.unexpected, "the content type must be \(kind.contentType)", at: value.position)
        }

        value = try reader(labels.claims, "the CWT claims")
        let claims = try Claims(&value, kind: kind)
        guard let issuer = claims.issuer, let issuedAt = claims.issuedAt else {
            throw COSEError(.unexpected, "iss or iat is missing", at: value.position)
        }
        self.issuer = issuer
        self.issuedAt = issuedAt
        switch kind {
        case .hello, .alert: try forbid(claims.subjectPosition, "sub")
        case .update:
            guard let subject = claims.subject else {
                throw COSEError(.unexpected, "sub is missing", at: value.position)
            }
            self.subject = subject
        case .statement, .heartbeat, .result, .receipts:
            guard let subject = claims.subject, let stream = claims.stream else {
                throw COSEError(.unexpected, "sub must name a stream", at: value.position)
            }
            if kind.isInStream, subject.whole != issuer.whole, !areEqual(bytes, subject.whole, issuer.whole) {
                throw COSEError(.unexpected, "sub names another auditor than iss", at: subject.whole.lowerBound)
            }
            self.subject = subject
            self.subjectStream = stream
        }
        if kind.expires {
            guard let expires = claims.expires else {
                throw COSEError(.unexpected, "exp is missing", at: value.position)
            }
            self.expires = expires
            self.audience = claims.audience
            if kind == .update {
                guard let subject = claims.subject, let audience = claims.audience,
                    areEqual(bytes, subject.whole, audience.whole), audience.role == .auditor
                else {
                    throw COSEError(.unexpected, "aud is not the auditor that sub names", at: value.position)
                }
            } else if issuer.role == .auditor {
                try forbid(claims.audience?.whole.lowerBound, "aud")
            }
        } else {
            try forbid(claims.audiencePosition ?? claims.expiresPosition, "aud or exp")
        }

        value = try reader(labels.certificateHash, "x5t")
        try value.array(of: 2, "x5t")
        guard try value.integer() == -16 else {
            throw COSEError(.unexpected, "x5t must be by SHA-256 (-16)", at: value.position)
        }
        guard let hash = CertificateHash(bytes[try value.byteString()]) else {
            throw COSEError(.unexpected, "x5t must have 32 bytes", at: value.position)
        }
        self.certificateHash = hash

        self.chain = []
        self.bag = []
        if kind == .hello, let position = labels.bag {
            value = try reader(position, "x5bag")
            // One alone, or an array of two or more (RFC 9360 section 2).
            let count = value.nextMajorType == 2 ? 1 : try value.arrayCount()
            guard count == 1 ? value.position == position : (2...Self.maximumBagCount).contains(count) else {
                throw COSEError(.unexpected, "x5bag must be one certificate or an array of 2 to 8", at: position)
            }
            for _ in 0..<count {
                let certificate = try value.byteString()
                guard (1...Self.maximumCertificateLength).contains(certificate.count) else {
                    throw COSEError(.unexpected, "a certificate of more than 4,096 bytes", at: certificate.lowerBound)
                }
                self.bag.append(certificate)
            }
        }
        if kind.hasChain {
            value = try reader(labels.chain, "x5chain")
            let start = value.position
            let count = try value.arrayCount()
            guard Self.chainLength.contains(count) else {
                throw COSEError(.unexpected, "x5chain must hold 2 to 4 certificates", at: start)
            }
            for _ in 0..<count {
                let certificate = try value.byteString()
                guard (1...Self.maximumCertificateLength).contains(certificate.count) else {
                    throw COSEError(.unexpected, "a certificate of more than 4,096 bytes", at: certificate.lowerBound)
                }
                self.chain.append(certificate)
            }
            guard CertificateHash(hashing: [UInt8](bytes[self.chain[0]])) == hash else {
                throw COSEError(.unexpected, "x5t is not the hash of the first certificate of x5chain", at: start)
            }
        } else {
            try forbid(labels.chain, "x5chain")
        }

        if kind.isInStream, let stream = self.subjectStream {
            value = try reader(labels.sequence, "seq")
            let sequence = try value.sequence()
            value = try reader(labels.previous, "prev")
            let previous = try value.messageID()
            guard sequence == 1 || previous != .zero else {
                throw COSEError(.unexpected, "prev is zero behind the first message", at: value.position)
            }
            value = try reader(labels.clock, "clock")
            self.clock = try value.clockQuality()
            self.position = StreamPosition(stream: stream, sequence: sequence, previous: previous)
            self.sequence = sequence
        } else {
            if kind.expires {
                value = try reader(labels.sequence, "seq")
                self.sequence = try value.sequence()
            } else {
                try forbid(labels.sequence, "seq")
            }
            try forbid(labels.previous, "prev")
            try forbid(labels.clock, "clock")
        }
    }

    /// CWT claims (RFC 8392 section 3) as far as they are used. Unknown ones are ignored; those that would
    /// limit where or when the message counts are not.
    private struct Claims {
        var issuer: SPIFFEBytes?
        var subject: SPIFFEBytes?
        var stream: StreamID?
        var subjectPosition: Int?
        var audience: SPIFFEBytes?
        var audiencePosition: Int?
        var expires: Timestamp?
        var expiresPosition: Int?
        var issuedAt: Timestamp?

        private static let infix = Array(StreamName.infix.utf8)
        private static let updatesSuffix = Array(Update.subjectSuffix.utf8)

        /// Whose stream it is. Nearly always the issuer's own, which was checked a moment ago.
        private func auditor(_ bytes: [UInt8], in range: Range<Int>) -> SPIFFEBytes? {
            if let issuer = self.issuer, areEqual(bytes, range, issuer.whole) { return issuer }
            return SPIFFEBytes(bytes, in: range)
        }

        init(_ reader: inout CBORReader, kind: Envelope.Kind) throws(COSEError) {
            for _ in 0..<(try reader.mapCount()) {
                guard let major = reader.nextMajorType, major <= 1 else {
                    try reader.skip()
                    try reader.skip()
                    continue
                }
                switch try reader.integer() {
                case 1:
                    let text = try reader.text()
                    guard let issuer = SPIFFEBytes(reader.bytes, in: text) else {
                        throw COSEError(.unexpected, "iss is not a SPIFFE ID of ours", at: text.lowerBound)
                    }
                    self.issuer = issuer
                case 2:
                    let text = try reader.text()
                    self.subjectPosition = text.lowerBound
                    if kind == .update {
                        self.subject = try Self.updates(reader.bytes, in: text)
                        continue
                    }
                    let end = text.upperBound - 16
                    let start = end - Self.infix.count
                    guard start > text.lowerBound, areEqual(reader.bytes, start..<end, Self.infix),
                        let stream = StreamID(hexadecimalDigits: reader.bytes[end..<text.upperBound]),
                        let subject = self.auditor(reader.bytes, in: text.lowerBound..<start)
                    else {
                        throw COSEError(.unexpected, "sub is not the name of a stream", at: text.lowerBound)
                    }
                    self.subject = subject
                    self.stream = stream
                case 3:
                    self.audiencePosition = reader.position
                    let text = try reader.text()
                    guard let audience = SPIFFEBytes(reader.bytes, in: text) else {
                        throw COSEError(.unexpected, "aud is not a SPIFFE ID of ours", at: text.lowerBound)
                    }
                    self.audience = audience
                case 4:
                    self.expiresPosition = reader.position
                    self.expires = try reader.wireTime()
                case 5: throw COSEError(.unexpected, "nbf is not allowed", at: reader.position)
                case 6: self.issuedAt = try reader.wireTime()
                default: try reader.skip()
                }
            }
        }

        /// The auditor in `<SPIFFE ID>/updates`.
        private static func updates(_ bytes: [UInt8], in text: Range<Int>) throws(COSEError) -> SPIFFEBytes {
            let end = text.upperBound - Self.updatesSuffix.count
            guard end > text.lowerBound, areEqual(bytes, end..<text.upperBound, Self.updatesSuffix),
                let auditor = SPIFFEBytes(bytes, in: text.lowerBound..<end)
            else {
                throw COSEError(.unexpected, "sub does not name an auditor's updates", at: text.lowerBound)
            }
            return auditor
        }
    }

    // MARK: Encoding

    /// Encodes the header of a message of ours.
    static func encode(
        kind: Envelope.Kind, issuer: SPIFFEID, subject: String?, audience: SPIFFEID? = nil,
        expires: Timestamp? = nil, issuedAt: Timestamp, certificateHash: CertificateHash, chain: [[UInt8]] = [],
        bag: [[UInt8]] = [], position: StreamPosition? = nil, sequence: Int64? = nil, clock: ClockQuality? = nil
    ) -> [UInt8] {
        var writer = CBORWriter(capacity: 512 + (chain + bag).reduce(0) { $0 + $1.count })
        writer.map(
            5 + (chain.isEmpty ? 0 : 1) + (bag.isEmpty ? 0 : 1) + (position == nil ? 0 : 2) + (sequence == nil ? 0 : 1)
                + (clock == nil ? 0 : 1))
        writer.unsigned(1)
        writer.integer(-7)
        writer.unsigned(3)
        writer.unsigned(kind.contentType)
        writer.unsigned(15)
        writer.map(2 + (subject == nil ? 0 : 1) + (audience == nil ? 0 : 1) + (expires == nil ? 0 : 1))
        writer.unsigned(1)
        writer.text(issuer.rawValue)
        if let subject {
            writer.unsigned(2)
            writer.text(subject)
        }
        if let audience {
            writer.unsigned(3)
            writer.text(audience.rawValue)
        }
        if let expires {
            writer.unsigned(4)
            writer.integer(expires.seconds)
        }
        writer.unsigned(6)
        writer.integer(issuedAt.seconds)
        writer.unsigned(16)
        writer.text(kind.type)
        if !bag.isEmpty {
            writer.unsigned(32)
            if bag.count > 1 { writer.array(bag.count) }
            for certificate in bag { writer.byteString(certificate) }
        }
        if !chain.isEmpty {
            writer.unsigned(33)
            writer.array(chain.count)
            for certificate in chain { writer.byteString(certificate) }
        }
        writer.unsigned(34)
        writer.array(2)
        writer.integer(-16)
        writer.byteString(certificateHash.bytes)
        if let position {
            writer.text("seq")
            writer.integer(position.sequence)
            writer.text("prev")
            writer.byteString(position.previous.bytes)
        } else if let sequence {
            writer.text("seq")
            writer.integer(sequence)
        }
        if let clock {
            writer.text("clock")
            writer.text(clock.description)
        }
        return writer.bytes
    }
}
