import COSE
import Identity

extension Payload {
    /// Binds the payload to a place in the signer's stream and signs it.
    ///
    /// - Parameters:
    ///   - position: Stream, number and predecessor.
    ///   - clock: How good `issuedAt` is.
    ///   - issuedAt: Now, by the signer's clock; whole seconds are kept, from 0 to below 2^33.
    ///   - signer: The auditor, whose ID is the payload's.
    /// - Throws: ``Refusal`` `issuer` if the payload is another's, `header` if `issuedAt` is out of range;
    ///   else what the signer throws.
    public func signed(
        at position: StreamPosition, clock: ClockQuality, issuedAt: Timestamp, by signer: some Signer
    ) throws -> SignedMessage {
        guard signer.issuer.id == self.auditor else {
            throw Refusal(.issuer, "a payload of \(self.auditor) cannot be signed by \(signer.issuer)")
        }
        let header = ProtectedHeader.encode(
            kind: self.kind, issuer: signer.issuer,
            subject: StreamName(auditor: signer.issuer, stream: position.stream).description,
            issuedAt: try checked(issuedAt), certificateHash: signer.certificateHash, position: position,
            clock: clock)
        return try sign(header, self.bytes, by: signer)
    }
}

extension Hello {
    /// Signs a hello.
    ///
    /// - Parameters:
    ///   - issuedAt: Now, by the signer's clock; whole seconds are kept.
    ///   - chain: Leaf and intermediate (up to four certificates) in DER; the leaf is the signer's.
    ///   - former: Certificates of the signer's that statements name which have no receipt yet; at most 8.
    /// - Throws: ``Refusal`` `header` if the chain does not begin with the signer's certificate or has a length
    ///   out of range, `format` if something in the hello is; else what the signer throws.
    public func signed(
        issuedAt: Timestamp, chain: [[UInt8]], former: [[UInt8]] = [], by signer: some Signer
    ) throws -> SignedMessage {
        guard former.count <= ProtectedHeader.maximumBagCount,
            former.allSatisfy({ (1...ProtectedHeader.maximumCertificateLength).contains($0.count) })
        else {
            throw Refusal(.header, "a hello carries at most 8 former certificates, of at most 4,096 bytes each")
        }
        let header = ProtectedHeader.encode(
            kind: .hello, issuer: signer.issuer, subject: nil, issuedAt: try checked(issuedAt),
            certificateHash: signer.certificateHash, chain: try checked(chain, of: signer), bag: former)
        return try sign(header, self.encoded(), by: signer)
    }
}

extension Receipts {
    /// Signs receipts.
    ///
    /// - Parameters:
    ///   - subject: The stream that they are about.
    ///   - issuedAt: Now, by the signer's clock; whole seconds are kept.
    /// - Throws: ``Refusal`` `format` for more than ``maximumEntries`` in a list, `too-large`; else what the
    ///   signer throws.
    public func signed(about subject: StreamName, issuedAt: Timestamp, by signer: some Signer) throws -> SignedMessage {
        guard self.stored.count <= Self.maximumEntries, self.refused.count <= Self.maximumEntries else {
            throw Refusal(.format, "receipts of more than \(Self.maximumEntries) entries")
        }
        let header = ProtectedHeader.encode(
            kind: .receipts, issuer: signer.issuer, subject: subject.description, issuedAt: try checked(issuedAt),
            certificateHash: signer.certificateHash)
        return try sign(header, self.encoded(), by: signer)
    }
}

/// A time that a message can say.
func checked(_ time: Timestamp) throws(Refusal) -> Timestamp {
    guard (0..<Timestamp.wireSecondsLimit).contains(time.seconds) else {
        throw Refusal(.header, "the clock says \(time), which no message can")
    }
    return time
}

/// A sequence number that a message can say.
func checked(_ sequence: Int64) throws(Refusal) -> Int64 {
    guard (1...StreamPosition.maximumSequence).contains(sequence) else {
        throw Refusal(.header, "\(sequence) is no sequence number")
    }
    return sequence
}

/// A chain as it goes into `x5chain`.
func checked(_ chain: [[UInt8]], of signer: some Signer) throws(Refusal) -> [[UInt8]] {
    guard ProtectedHeader.chainLength.contains(chain.count),
        chain.allSatisfy({ (1...ProtectedHeader.maximumCertificateLength).contains($0.count) }),
        CertificateHash(hashing: chain[0]) == signer.certificateHash
    else {
        throw Refusal(.header, "x5chain carries 2 to 4 certificates, the signer's first")
    }
    return chain
}

func sign(_ header: [UInt8], _ payload: [UInt8], by signer: some Signer) throws -> SignedMessage {
    let bytes = try Sign1.sign(protected: header, payload: payload) { try signer.signature(for: $0) }
    guard bytes.count <= Envelope.maximumSize else {
        throw Refusal(.tooLarge, "\(bytes.count) bytes, at most \(Envelope.maximumSize) are allowed")
    }
    return SignedMessage(bytes: bytes)
}
