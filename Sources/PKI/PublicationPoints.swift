// RFC 5280 section 4.2.1.13 (CRL distribution points), section 4.2.2.1 (authority information access).

import Identity
import SwiftASN1
import X509

/// Where an authority publishes its revocation lists and answers OCSP, as the certificates that it issues say.
///
/// Over plain HTTP: lists and answers are signed, and TLS would ask for the very check that they serve.
public struct PublicationPoints: Hashable, Sendable {
    /// For example `http://ca.energy.example:8080`, without a slash at the end.
    public let base: String

    /// - Throws: ``PKIError`` with code `name` if it is no `http` or `https` URL of printable ASCII.
    public init(_ base: some StringProtocol) throws(PKIError) {
        let text = base.hasSuffix("/") ? String(base.dropLast()) : String(base)
        guard text.hasPrefix("http://") || text.hasPrefix("https://"), text.utf8.count <= 256,
            text.utf8.allSatisfy({ (0x21...0x7E).contains($0) }), !text.hasSuffix("/")
        else { throw PKIError(.name, "'\(base)' is not a URL such as http://ca.energy.example:8080") }
        self.base = text
    }

    /// The name under which the list of an authority is published: after its key, so that it stays when another
    /// authority takes over.
    package static func listName(of keyIdentifier: [UInt8]) -> String {
        "issuing-\(Array(keyIdentifier.prefix(8)).hexadecimal).crl"
    }

    /// The same for a root's list.
    package static func rootListName(of keyIdentifier: [UInt8]) -> String {
        "root-\(Array(keyIdentifier.prefix(8)).hexadecimal).crl"
    }

    func listPoints(of keyIdentifier: [UInt8]) -> RevocationListPoints {
        RevocationListPoints(url: "\(self.base)/crl/\(Self.listName(of: keyIdentifier))")
    }

    var rootListPoints: RevocationListPoints { RevocationListPoints(url: "\(self.base)/crl/root.crl") }

    var responder: AuthorityInformationAccess {
        AuthorityInformationAccess([
            .init(method: .ocspServer, location: .uniformResourceIdentifier("\(self.base)/ocsp"))
        ])
    }
}

/// `cRLDistributionPoints` with one full name.
struct RevocationListPoints: CertificateExtensionConvertible {
    let url: String

    func makeCertificateExtension() throws -> Certificate.Extension {
        // SEQUENCE OF DistributionPoint { [0] distributionPoint { [0] fullName { [6] URI } } }
        func tagged(_ number: UInt) -> ASN1Identifier {
            ASN1Identifier(tagWithNumber: number, tagClass: .contextSpecific)
        }
        var value = DER.Serializer()
        value.appendConstructedNode(identifier: .sequence) { points in
            points.appendConstructedNode(identifier: .sequence) { point in
                point.appendConstructedNode(identifier: tagged(0)) { name in
                    name.appendConstructedNode(identifier: tagged(0)) { names in
                        names.appendPrimitiveNode(identifier: tagged(6)) { $0.append(contentsOf: self.url.utf8) }
                    }
                }
            }
        }
        return Certificate.Extension(
            oid: [2, 5, 29, 31], critical: false, value: value.serializedBytes[...])
    }
}
