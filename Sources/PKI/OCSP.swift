// RFC 6960 (OCSP), RFC 9654 (nonces of 1 to 128 bytes).
//
//   OCSPRequest  ::= SEQUENCE { tbsRequest, [0] optionalSignature }
//   TBSRequest   ::= SEQUENCE { [0] version, [1] requestorName, requestList SEQUENCE OF Request, [2] extensions }
//   Request      ::= SEQUENCE { CertID { hashAlgorithm, nameHash, keyHash, serial }, [0] extensions }
//   OCSPResponse ::= SEQUENCE { ENUMERATED status, [0] { id-pkix-ocsp-basic, OCTET STRING BasicOCSPResponse } }

import Crypto
import SwiftASN1
public import X509

/// A question about certificates: which of these are revoked?
public struct OCSPRequest: Sendable {
    /// The longest request, in bytes, and the most certificates that it asks about.
    public static let maximumSize = 4_096
    public static let maximumCount = 16

    /// Names a certificate by hashes of its issuer's name and key, and its serial number.
    public struct CertificateID: Hashable, Sendable {
        enum Algorithm: Hashable, Sendable { case sha1, sha256 }

        /// Nil for an algorithm that is not known here: the answer is `unknown`.
        let algorithm: Algorithm?
        let nameHash: [UInt8]
        let keyHash: [UInt8]
        /// Minimal big-endian bytes.
        public let serialNumber: [UInt8]
        /// As it came: the answer repeats it byte for byte.
        let der: [UInt8]
    }

    public let certificates: [CertificateID]
    /// 1 to 128 bytes; nil if there is none. The answer repeats it, so that an old answer is noticed.
    public let nonce: [UInt8]?

    private static let sha1: ASN1ObjectIdentifier = [1, 3, 14, 3, 2, 26]
    private static let sha256: ASN1ObjectIdentifier = [2, 16, 840, 1, 101, 3, 4, 2, 1]
    static let nonceIdentifier: ASN1ObjectIdentifier = [1, 3, 6, 1, 5, 5, 7, 48, 1, 2]

    /// - Throws: ``PKIError`` with code `too-large`, `format`, or `extension` for a critical one that is not known.
    public init(der bytes: [UInt8]) throws(PKIError) {
        guard bytes.count <= Self.maximumSize else {
            throw PKIError(.tooLarge, "a request of \(bytes.count) bytes; at most \(Self.maximumSize) are accepted")
        }
        do {
            (self.certificates, self.nonce) = try Self.parse(bytes)
        } catch let error as PKIError {
            throw error
        } catch {
            throw PKIError(.format, "not an OCSP request in DER")
        }
    }

    private static func parse(_ bytes: [UInt8]) throws -> ([CertificateID], [UInt8]?) {
        try DER.sequence(try DER.parse(bytes), identifier: .sequence) { nodes -> ([CertificateID], [UInt8]?) in
            let result = try DER.sequence(in: &nodes) { nodes -> ([CertificateID], [UInt8]?) in
                // Version 1 and who asks: neither changes the answer.
                _ = try DER.optionalExplicitlyTagged(&nodes, tagNumber: 0, tagClass: .contextSpecific) { $0 }
                _ = try DER.optionalExplicitlyTagged(&nodes, tagNumber: 1, tagClass: .contextSpecific) { $0 }
                let certificates = try DER.sequence(in: &nodes) { nodes -> [CertificateID] in
                    var certificates: [CertificateID] = []
                    while let node = nodes.next() {
                        guard certificates.count < Self.maximumCount else {
                            throw PKIError(.tooLarge, "a request about more than \(Self.maximumCount) certificates")
                        }
                        certificates.append(try Self.certificateID(node))
                    }
                    return certificates
                }
                guard !certificates.isEmpty else { throw PKIError(.format, "a request about no certificate") }
                let extensions = try DER.optionalExplicitlyTagged(
                    &nodes, tagNumber: 2, tagClass: .contextSpecific
                ) { $0 }
                return (certificates, try extensions.flatMap { try Self.nonce($0) })
            }
            // A signature of the request is not asked for, and not judged.
            _ = nodes.next()
            return result
        }
    }

    private static func certificateID(_ node: ASN1Node) throws -> CertificateID {
        try DER.sequence(node, identifier: .sequence) { nodes -> CertificateID in
            guard let id = nodes.next() else { throw PKIError(.format, "a request without a certificate") }
            _ = nodes.next()
            return try DER.sequence(id, identifier: .sequence) { nodes -> CertificateID in
                let algorithm = try DER.sequence(in: &nodes) { nodes -> ASN1ObjectIdentifier in
                    let algorithm = try ASN1ObjectIdentifier(derEncoded: &nodes)
                    _ = nodes.next()
                    return algorithm
                }
                let nameHash = try ASN1OctetString(derEncoded: &nodes)
                let keyHash = try ASN1OctetString(derEncoded: &nodes)
                let serial = try ArraySlice<UInt8>(derEncoded: &nodes)
                guard (1...20).contains(serial.count) else {
                    throw PKIError(.format, "a serial number of \(serial.count) bytes")
                }
                let known: CertificateID.Algorithm? =
                    switch algorithm {
                    case Self.sha1: .sha1
                    case Self.sha256: .sha256
                    default: nil
                    }
                return CertificateID(
                    algorithm: known, nameHash: Array(nameHash.bytes), keyHash: Array(keyHash.bytes),
                    serialNumber: Array(serial), der: Array(id.encodedBytes))
            }
        }
    }

    private static func nonce(_ node: ASN1Node) throws -> [UInt8]? {
        var nonce: [UInt8]?
        try RevocationList.forEachExtension(node) { item in
            if item.oid == Self.nonceIdentifier {
                let value = Array(try ASN1OctetString(derEncoded: Array(item.value)).bytes)
                guard (1...128).contains(value.count) else {
                    throw PKIError(.format, "a nonce of \(value.count) bytes; 1 to 128 are expected")
                }
                nonce = value
            } else if item.critical {
                throw PKIError(.extension, "a request with the unknown critical extension \(item.oid)")
            }
        }
        return nonce
    }
}

/// What an answer says of one certificate.
public enum OCSPStatus: Hashable, Sendable {
    case good
    case revoked(at: UnixTime, reason: RevocationList.Reason)
    /// Not a certificate that the authority knows of.
    case unknown
}

/// Answers for one issuing authority, under a key and certificate of its own (RFC 6960 section 4.2.2.2): the
/// authority's key signs no answers.
public struct OCSPResponder: Sendable {
    /// How long an answer holds.
    public static let answerLifetime: UnixTime = 3_600

    public let certificate: Certificate
    private let key: SigningKey
    private let issuer: Certificate
    private let hashes: [OCSPRequest.CertificateID.Algorithm: (name: [UInt8], key: [UInt8])]

    /// - Parameters:
    ///   - issuer: the authority that is answered for.
    ///   - certificate: issued by it, with `id-kp-OCSPSigning`.
    public init(issuer: Certificate, certificate: Certificate, key: SigningKey) throws(PKIError) {
        guard certificate.issuer == issuer.subject, certificate.publicKey == Certificate.PublicKey(key.publicKey),
            let issuerKey = P256.Signing.PublicKey(issuer.publicKey)
        else { throw PKIError(.signing, "the OCSP responder's certificate, key and issuer do not belong together") }
        self.issuer = issuer
        self.certificate = certificate
        self.key = key
        var name = DER.Serializer()
        // A name that was parsed or made can be written.
        try? name.serialize(issuer.subject)
        let (nameBytes, keyBytes) = (name.serializedBytes, Array(issuerKey.x963Representation))
        self.hashes = [
            // SHA-1 here only names an issuer; RFC 6960 section 4.3 still has clients use it.
            .sha1: (
                Array(Insecure.SHA1.hash(data: nameBytes)), Array(Insecure.SHA1.hash(data: keyBytes))
            ),
            .sha256: (Array(SHA256.hash(data: nameBytes)), Array(SHA256.hash(data: keyBytes))),
        ]
    }

    /// Whether the certificate that is asked about is of the authority that is answered for.
    public func isResponsible(for id: OCSPRequest.CertificateID) -> Bool {
        guard let algorithm = id.algorithm, let hashes = self.hashes[algorithm] else { return false }
        return id.nameHash == hashes.name && id.keyHash == hashes.key
    }

    /// A signed answer, with the nonce of the request if it had one.
    ///
    /// - Parameter status: what the record says of a serial number of this authority.
    /// - Throws: ``PKIError`` with code `signing`, and what `status` throws.
    public func answer(
        _ request: OCSPRequest, at now: UnixTime, status: ([UInt8]) throws(PKIError) -> OCSPStatus
    ) throws(PKIError) -> [UInt8] {
        var answers: [(id: OCSPRequest.CertificateID, status: OCSPStatus)] = []
        for id in request.certificates {
            var answer = OCSPStatus.unknown
            if self.isResponsible(for: id) { answer = try status(id.serialNumber) }
            answers.append((id, answer))
        }
        do {
            let body = try self.body(answers, nonce: request.nonce, at: now)
            let signature = try self.key.sign(SHA256.hash(data: body)).derRepresentation
            var basic = DER.Serializer()
            try basic.appendConstructedNode(identifier: .sequence) { basic in
                basic.serializeRawBytes(body)
                basic.serializeRawBytes(CommonRules.ecdsaWithSHA256)
                try basic.serialize(ASN1BitString(bytes: Array(signature)[...]))
                basic.appendConstructedNode(identifier: Self.tag(0)) { explicit in
                    explicit.appendConstructedNode(identifier: .sequence) {
                        $0.serializeRawBytes(self.certificate.der)
                    }
                }
            }
            return try Self.response(status: 0, basic.serializedBytes)
        } catch let error as PKIError {
            throw error
        } catch {
            throw PKIError(.signing, "cannot sign the answer: \(error)")
        }
    }

    /// What is answered instead of a status; not signed (RFC 6960 section 4.2.1).
    public enum Failure: UInt8, Sendable {
        case malformedRequest = 1
        case internalError = 2
        case unauthorized = 6
    }

    public static func failure(_ failure: Failure) -> [UInt8] { [0x30, 0x03, 0x0A, 0x01, failure.rawValue] }

    private static func response(status: UInt8, _ basic: [UInt8]) throws -> [UInt8] {
        var serializer = DER.Serializer()
        try serializer.appendConstructedNode(identifier: .sequence) { response in
            response.appendPrimitiveNode(identifier: .enumerated) { $0.append(status) }
            try response.appendConstructedNode(identifier: Self.tag(0)) { explicit in
                try explicit.appendConstructedNode(identifier: .sequence) { bytes in
                    try bytes.serialize([1, 3, 6, 1, 5, 5, 7, 48, 1, 1] as ASN1ObjectIdentifier)
                    try bytes.serialize(ASN1OctetString(contentBytes: basic[...]))
                }
            }
        }
        return serializer.serializedBytes
    }

    private func body(
        _ answers: [(id: OCSPRequest.CertificateID, status: OCSPStatus)], nonce: [UInt8]?, at now: UnixTime
    ) throws -> [UInt8] {
        var serializer = DER.Serializer()
        try serializer.appendConstructedNode(identifier: .sequence) { data in
            // byKey: SHA-1 of the responder's key.
            let keyHash = Insecure.SHA1.hash(data: self.key.publicKey.x963Representation)
            try data.appendConstructedNode(identifier: Self.tag(2)) {
                try $0.serialize(ASN1OctetString(contentBytes: Array(keyHash)[...]))
            }
            try data.serialize(Self.time(now))
            try data.appendConstructedNode(identifier: .sequence) { responses in
                for answer in answers {
                    try responses.appendConstructedNode(identifier: .sequence) { single in
                        single.serializeRawBytes(answer.id.der)
                        try Self.append(answer.status, &single)
                        try single.serialize(Self.time(now))
                        try single.appendConstructedNode(identifier: Self.tag(0)) {
                            try $0.serialize(Self.time(now + Self.answerLifetime))
                        }
                    }
                }
            }
            guard let nonce else { return }
            var value = DER.Serializer()
            try value.serialize(ASN1OctetString(contentBytes: nonce[...]))
            try data.appendConstructedNode(identifier: Self.tag(1)) { explicit in
                try explicit.appendConstructedNode(identifier: .sequence) {
                    try $0.serialize(
                        Certificate.Extension(
                            oid: OCSPRequest.nonceIdentifier, critical: false, value: value.serializedBytes[...]))
                }
            }
        }
        return serializer.serializedBytes
    }

    private static func append(_ status: OCSPStatus, _ serializer: inout DER.Serializer) throws {
        switch status {
        case .good: serializer.appendPrimitiveNode(identifier: Self.tag(0)) { _ in }
        case .unknown: serializer.appendPrimitiveNode(identifier: Self.tag(2)) { _ in }
        case .revoked(let time, let reason):
            try serializer.appendConstructedNode(identifier: Self.tag(1)) { info in
                try info.serialize(Self.time(time))
                guard reason != .unspecified else { return }
                info.appendConstructedNode(identifier: Self.tag(0)) { explicit in
                    explicit.appendPrimitiveNode(identifier: .enumerated) { $0.append(reason.rawValue) }
                }
            }
        }
    }

    private static func tag(_ number: UInt) -> ASN1Identifier {
        ASN1Identifier(tagWithNumber: number, tagClass: .contextSpecific)
    }

    private static func time(_ time: UnixTime) throws -> GeneralizedTime {
        let time = CivilTime(time)
        return try GeneralizedTime(
            year: time.year, month: time.month, day: time.day, hours: time.hours, minutes: time.minutes,
            seconds: time.seconds, fractionalSeconds: 0)
    }
}
