// RFC 5280 section 5.1 (CertificateList), section 5.2 (its extensions), section 5.3 (extensions of an entry).
//
//   CertificateList ::= SEQUENCE { tbsCertList, signatureAlgorithm, signatureValue BIT STRING }
//   TBSCertList     ::= SEQUENCE { version INTEGER (1), signature, issuer, thisUpdate, nextUpdate,
//                                  revokedCertificates SEQUENCE OF SEQUENCE { serial, date, extensions } OPTIONAL,
//                                  crlExtensions [0] EXPLICIT }

import Crypto
import SwiftASN1
import X509

extension RevocationList {
    private static let algorithm: ASN1ObjectIdentifier = [1, 2, 840, 10045, 4, 3, 2]
    private static let crlNumber: ASN1ObjectIdentifier = [2, 5, 29, 20]
    static let crlReason: ASN1ObjectIdentifier = [2, 5, 29, 21]
    private static let extensionsTag: UInt = 0
    private static let utcTime: UInt8 = 0x17
    private static let generalizedTime: UInt8 = 0x18

    /// Parses a list, bounded. Its signature is not checked here.
    ///
    /// - Throws: ``PKIError`` with code `too-large`, `format`, `version` (not 2), `algorithm` (not
    ///   ecdsa-with-SHA256), or `extension`: number or authority key identifier missing, or a critical extension that
    ///   is not understood (delta and indirect lists among them).
    public init(der bytes: [UInt8]) throws(PKIError) {
        guard bytes.count <= Self.maximumSize else {
            throw PKIError(
                .tooLarge, "a revocation list of \(bytes.count) bytes; at most \(Self.maximumSize) are accepted")
        }
        do {
            self = try Self.parse(bytes)
        } catch let error as PKIError {
            throw error
        } catch {
            throw PKIError(.format, "not a certificate revocation list in DER")
        }
    }

    private static func parse(_ bytes: [UInt8]) throws -> RevocationList {
        var file = DERCursor(bytes, in: bytes.indices)
        let list = try file.next(0x30)
        guard file.isAtEnd else { throw PKIError(.format, "bytes behind a revocation list") }
        var parts = DERCursor(bytes, in: list.content)
        let body = try parts.next(0x30)
        try Self.requireAlgorithm(bytes, try parts.next())
        let signature = try ASN1BitString(derEncoded: Self.node(bytes, try parts.next()))
        guard parts.isAtEnd, signature.paddingBits == 0 else { throw PKIError(.format, "a signature of broken bytes") }

        var fields = DERCursor(bytes, in: body.content)
        guard try Int(derEncoded: Self.node(bytes, try fields.next())) == 1 else {
            throw PKIError(.version, "a revocation list that is not of version 2")
        }
        try Self.requireAlgorithm(bytes, try fields.next())
        let issuer = try DistinguishedName(derEncoded: Self.node(bytes, try fields.next()))
        let thisUpdate = try Self.time(bytes, try fields.next())
        guard let tag = fields.nextTag, tag == Self.utcTime || tag == Self.generalizedTime else {
            throw PKIError(.format, "a revocation list without a next update")
        }
        let nextUpdate = try Self.time(bytes, try fields.next())
        var entries = RevokedEntries.none
        if fields.nextTag == 0x30 {
            entries = try RevokedEntries(der: bytes, in: try fields.next().content)
        }
        var number: UInt64?
        var authorityKeyIdentifier: [UInt8]?
        guard !fields.isAtEnd else { throw PKIError(.format, "a revocation list that ends too early") }
        try Self.forEachExtension(try Self.explicit(Self.node(bytes, try fields.next()))) { item in
            switch item.oid {
            case Self.crlNumber:
                number = try UInt64(derEncoded: item.value)
            case .X509ExtensionID.authorityKeyIdentifier:
                authorityKeyIdentifier = try AuthorityKeyIdentifier(item).keyIdentifier.map { Array($0) }
            default:
                guard !item.critical else {
                    throw PKIError(.extension, "a revocation list with the unknown critical extension \(item.oid)")
                }
            }
        }
        guard fields.isAtEnd else { throw PKIError(.format, "bytes behind the extensions of a revocation list") }
        guard let number else { throw PKIError(.extension, "a revocation list without a number") }
        guard let authorityKeyIdentifier, (1...64).contains(authorityKeyIdentifier.count) else {
            throw PKIError(.extension, "a revocation list without an authority key identifier")
        }
        return RevocationList(
            issuer: issuer, authorityKeyIdentifier: authorityKeyIdentifier, number: number, thisUpdate: thisUpdate,
            nextUpdate: nextUpdate, entries: entries, der: bytes,
            signedBytes: bytes[body.start..<body.content.upperBound], signature: signature.bytes)
    }

    private static func node(_ bytes: [UInt8], _ element: DERCursor.Element) throws -> ASN1Node {
        try DER.parse(bytes[element.start..<element.content.upperBound])
    }

    static func forEachExtension(
        _ node: ASN1Node, _ body: (Certificate.Extension) throws -> Void
    ) throws {
        guard node.identifier == .sequence, case .constructed(let nodes) = node.content else {
            throw PKIError(.format, "extensions that are none")
        }
        var seen: [ASN1ObjectIdentifier] = []
        for node in nodes {
            let item = try Certificate.Extension(derEncoded: node)
            guard seen.count < 16, !seen.contains(item.oid) else {
                throw PKIError(.extension, "an extension given twice, or too many of them")
            }
            seen.append(item.oid)
            try body(item)
        }
    }

    private static func explicit(_ node: ASN1Node) throws -> ASN1Node {
        guard node.identifier == ASN1Identifier(tagWithNumber: Self.extensionsTag, tagClass: .contextSpecific),
            case .constructed(let nodes) = node.content
        else { throw PKIError(.extension, "a revocation list without extensions") }
        var iterator = nodes.makeIterator()
        guard let inner = iterator.next(), iterator.next() == nil else {
            throw PKIError(.format, "extensions that are none")
        }
        return inner
    }

    private static func requireAlgorithm(_ bytes: [UInt8], _ element: DERCursor.Element) throws {
        guard bytes[element.start..<element.content.upperBound].elementsEqual(CommonRules.ecdsaWithSHA256) else {
            throw PKIError(.algorithm, "a revocation list that is not signed with ecdsa-with-SHA256")
        }
    }

    /// UTCTime and GeneralizedTime as RFC 5280 section 4.1.2.5 has them: with seconds, in UTC, without fractions.
    static func time(_ bytes: [UInt8], _ element: DERCursor.Element) throws(DERCursor.Malformed) -> UnixTime {
        var position = element.content.lowerBound
        func digits(_ count: Int) throws(DERCursor.Malformed) -> Int {
            var value = 0
            for _ in 0..<count {
                guard (0x30...0x39).contains(bytes[position]) else { throw DERCursor.Malformed() }
                value = 10 * value + Int(bytes[position] - 0x30)
                position += 1
            }
            return value
        }
        let year: Int
        switch (element.tag, element.content.count) {
        case (Self.utcTime, 13):
            let short = try digits(2)
            year = short >= 50 ? 1900 + short : 2000 + short
        case (Self.generalizedTime, 15): year = try digits(4)
        default: throw DERCursor.Malformed()
        }
        let time = CivilTime(
            year: year, month: try digits(2), day: try digits(2), hours: try digits(2), minutes: try digits(2),
            seconds: try digits(2))
        // A day 31 of a month of 30 comes back as the next month's first.
        guard bytes[position] == UInt8(ascii: "Z"), (1...12).contains(time.month), time.day >= 1, time.hours < 24,
            time.minutes < 60, time.seconds < 60, CivilTime(time.unixTime) == time
        else { throw DERCursor.Malformed() }
        return time.unixTime
    }
}

extension Authority {
    /// A month: long enough for a holiday, short enough that a withheld list is noticed.
    public static let revocationListLifetime: UnixTime = 30 * 86_400
    /// A year: the root is offline and its list is made by hand.
    public static let rootRevocationListLifetime: UnixTime = 365 * 86_400

    /// Makes and signs a list of the certificates of this authority that are revoked.
    ///
    /// - Parameters:
    ///   - number: greater than that of every earlier list.
    ///   - entries: at most ``RevocationList/maximumCount``.
    ///   - lifetime: until the next update, in seconds.
    /// - Throws: ``PKIError`` with code `too-large` or `signing`.
    public func makeRevocationList(
        number: UInt64, entries: [RevocationList.Entry] = [], at now: UnixTime,
        lifetime: UnixTime = Self.revocationListLifetime
    ) throws(PKIError) -> RevocationList {
        guard entries.count <= RevocationList.maximumCount else {
            throw PKIError(.tooLarge, "a revocation list of more than \(RevocationList.maximumCount) entries")
        }
        do {
            let body = try RevocationList.body(
                issuer: self.certificate.subject, keyIdentifier: self.keyIdentifier, number: number,
                entries: entries, thisUpdate: now, nextUpdate: now + lifetime)
            let signature = try self.key.sign(SHA256.hash(data: body)).derRepresentation
            var list = DER.Serializer()
            try list.appendConstructedNode(identifier: .sequence) { list in
                list.serializeRawBytes(body)
                try RevocationList.appendAlgorithm(&list)
                try list.serialize(ASN1BitString(bytes: Array(signature)[...]))
            }
            return try RevocationList(der: list.serializedBytes)
        } catch let error as PKIError {
            throw error
        } catch {
            throw PKIError(.signing, "cannot make the revocation list: \(error)")
        }
    }
}

extension RevocationList {
    fileprivate static func body(
        issuer: DistinguishedName, keyIdentifier: [UInt8], number: UInt64, entries: [Entry],
        thisUpdate: UnixTime, nextUpdate: UnixTime
    ) throws -> [UInt8] {
        var body = DER.Serializer()
        try body.appendConstructedNode(identifier: .sequence) { body in
            try body.serialize(1)
            try Self.appendAlgorithm(&body)
            try body.serialize(issuer)
            try Self.append(thisUpdate, &body)
            try Self.append(nextUpdate, &body)
            if !entries.isEmpty {
                try body.appendConstructedNode(identifier: .sequence) { list in
                    for entry in entries {
                        try Self.append(entry, &list)
                    }
                }
            }
            let tag = ASN1Identifier(tagWithNumber: Self.extensionsTag, tagClass: .contextSpecific)
            try body.appendConstructedNode(identifier: tag) { explicit in
                try explicit.appendConstructedNode(identifier: .sequence) { extensions in
                    try extensions.serialize(
                        try Certificate.Extension(
                            AuthorityKeyIdentifier(keyIdentifier: keyIdentifier[...]), critical: false))
                    var value = DER.Serializer()
                    try value.serialize(number)
                    try extensions.serialize(
                        Certificate.Extension(
                            oid: Self.crlNumber, critical: false, value: value.serializedBytes[...]))
                }
            }
        }
        return body.serializedBytes
    }

    private static func append(_ entry: Entry, _ list: inout DER.Serializer) throws {
        try list.appendConstructedNode(identifier: .sequence) { node in
            try node.serialize(entry.serialNumber[...])
            try Self.append(entry.revokedAt, &node)
            // RFC 5280 section 5.3.1: absent rather than unspecified.
            guard let reason = entry.reason, reason != .unspecified else { return }
            var value = DER.Serializer()
            value.appendPrimitiveNode(identifier: .enumerated) { $0.append(reason.rawValue) }
            try node.appendConstructedNode(identifier: .sequence) { extensions in
                try extensions.serialize(
                    Certificate.Extension(oid: Self.crlReason, critical: false, value: value.serializedBytes[...]))
            }
        }
    }

    /// RFC 5280 section 5.1.2.4: UTCTime through 2049, GeneralizedTime from 2050.
    private static func append(_ time: UnixTime, _ serializer: inout DER.Serializer) throws {
        let time = CivilTime(time)
        if (1950...2049).contains(time.year) {
            try serializer.serialize(
                UTCTime(
                    year: time.year, month: time.month, day: time.day, hours: time.hours, minutes: time.minutes,
                    seconds: time.seconds))
        } else {
            try serializer.serialize(
                GeneralizedTime(
                    year: time.year, month: time.month, day: time.day, hours: time.hours, minutes: time.minutes,
                    seconds: time.seconds, fractionalSeconds: 0))
        }
    }

    fileprivate static func appendAlgorithm(_ serializer: inout DER.Serializer) throws {
        try serializer.appendConstructedNode(identifier: .sequence) { try $0.serialize(Self.algorithm) }
    }
}
