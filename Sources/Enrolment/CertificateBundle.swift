// RFC 5652 sections 3 and 5.1, in the "certs-only" form of RFC 5751 section 3.2.2 that EST uses (RFC 7030 section
// 4.1.3).
//
//   ContentInfo ::= SEQUENCE { contentType OBJECT IDENTIFIER, content [0] EXPLICIT SignedData }
//   SignedData  ::= SEQUENCE { version INTEGER, digestAlgorithms SET, encapContentInfo SEQUENCE { eContentType },
//                              certificates [0] IMPLICIT SET OF Certificate, crls [1] IMPLICIT OPTIONAL,
//                              signerInfos SET }

import PKI
import SwiftASN1
public import X509

/// Certificates as a certs-only SignedData brings them: a bag without order, which nobody has signed. What they are
/// worth is found out by their own signatures.
public struct CertificateBundle: Hashable, Sendable {
    /// The longest message that is parsed, in bytes of DER.
    public static let maximumSize = 65_536
    /// The most certificates in one.
    public static let maximumCount = 16

    /// In the order of the message; at least one.
    public let certificates: [Certificate]

    /// Parses a message, bounded.
    ///
    /// - Throws: ``EnrolmentError`` with code `format`.
    public init(der bytes: [UInt8]) throws(EnrolmentError) {
        guard bytes.count <= Self.maximumSize else {
            throw EnrolmentError(
                .format, "certificates of \(bytes.count) bytes; at most \(Self.maximumSize) are accepted")
        }
        do {
            self.certificates = try Self.parse(bytes)
        } catch let error as EnrolmentError {
            throw error
        } catch {
            throw EnrolmentError(.format, "not a certs-only message (RFC 5652) in DER")
        }
    }

    /// Parses the body of an EST answer: the message in base64 (RFC 4648 section 4), lines of any length.
    ///
    /// - Throws: ``EnrolmentError`` with code `format`.
    public init(base64 text: [UInt8]) throws(EnrolmentError) {
        try self.init(der: try Base64.decode(text))
    }

    private static let signedData: ASN1ObjectIdentifier = [1, 2, 840, 113549, 1, 7, 2]
    private static let data: ASN1ObjectIdentifier = [1, 2, 840, 113549, 1, 7, 1]

    private static func parse(_ bytes: [UInt8]) throws -> [Certificate] {
        try DER.sequence(try DER.parse(bytes), identifier: .sequence) { nodes in
            guard try ASN1ObjectIdentifier(derEncoded: &nodes) == Self.signedData else {
                throw EnrolmentError(.format, "a message that is not SignedData")
            }
            return try DER.explicitlyTagged(&nodes, tagNumber: 0, tagClass: .contextSpecific) { node in
                try DER.sequence(node, identifier: .sequence) { nodes in
                    // Version 1, or 3 with CRLs beside the certificates: it says nothing that we need.
                    guard (1...5).contains(try Int(derEncoded: &nodes)) else {
                        throw EnrolmentError(.format, "SignedData of an unknown version")
                    }
                    try Self.requireEmptySet(&nodes, "digest algorithms")
                    guard let contents = nodes.next() else {
                        throw EnrolmentError(.format, "SignedData that ends early")
                    }
                    try DER.sequence(contents, identifier: .sequence) { nodes in
                        guard try ASN1ObjectIdentifier(derEncoded: &nodes) == Self.data else {
                            throw EnrolmentError(.format, "SignedData around something else than data")
                        }
                        guard nodes.next() == nil else {
                            throw EnrolmentError(.format, "a certs-only message with contents")
                        }
                    }
                    let certificates = try Self.certificates(nodes.next())
                    var node = nodes.next()
                    let lists = ASN1Identifier(tagWithNumber: 1, tagClass: .contextSpecific)
                    // Revocation lists have an address of their own; those here are passed over.
                    if node?.identifier == lists { node = nodes.next() }
                    guard let node, Self.isEmptySet(node) else {
                        throw EnrolmentError(.format, "a certs-only message with signers")
                    }
                    return certificates
                }
            }
        }
    }

    private static func certificates(_ node: ASN1Node?) throws -> [Certificate] {
        guard let node, node.identifier == ASN1Identifier(tagWithNumber: 0, tagClass: .contextSpecific),
            case .constructed(let nodes) = node.content
        else { throw EnrolmentError(.format, "a certs-only message without certificates") }
        var certificates: [Certificate] = []
        for node in nodes {
            guard certificates.count < Self.maximumCount else {
                throw EnrolmentError(.format, "more than \(Self.maximumCount) certificates in one message")
            }
            do throws(PKIError) {
                certificates.append(try Certificate(der: Array(node.encodedBytes)))
            } catch {
                throw EnrolmentError(.format, error.reason)
            }
        }
        guard !certificates.isEmpty else { throw EnrolmentError(.format, "a certs-only message without certificates") }
        return certificates
    }

    private static func requireEmptySet(_ nodes: inout ASN1NodeCollection.Iterator, _ what: String) throws {
        guard let node = nodes.next(), Self.isEmptySet(node) else {
            throw EnrolmentError(.format, "a certs-only message with \(what)")
        }
    }

    private static func isEmptySet(_ node: ASN1Node) -> Bool {
        guard node.identifier == .set, case .constructed(let nodes) = node.content else { return false }
        var iterator = nodes.makeIterator()
        return iterator.next() == nil
    }
}
