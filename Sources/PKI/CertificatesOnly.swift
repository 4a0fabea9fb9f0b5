// RFC 5652 section 5 (SignedData), as RFC 7030 section 4.1.3 and RFC 5272 section 4.1 use it for certificates alone:
//
//   ContentInfo { id-signedData, [0] { version 1, SET {}, { id-data }, [0] certificates, SET {} } }

import SwiftASN1
public import X509

/// A message that carries certificates and nothing else: "certs-only", what EST answers with.
public enum CertificatesOnly {
    private static let signedData: ASN1ObjectIdentifier = [1, 2, 840, 113549, 1, 7, 2]
    private static let data: ASN1ObjectIdentifier = [1, 2, 840, 113549, 1, 7, 1]
    private static let first = ASN1Identifier(tagWithNumber: 0, tagClass: .contextSpecific)

    /// - Returns: DER, the certificates in the given order.
    public static func encode(_ certificates: [Certificate]) -> [UInt8] {
        var serializer = DER.Serializer()
        // Nothing of this can fail: identifiers are constants, certificates are the bytes they came as.
        try? serializer.appendConstructedNode(identifier: .sequence) { info in
            try info.serialize(Self.signedData)
            try info.appendConstructedNode(identifier: Self.first) { content in
                try content.appendConstructedNode(identifier: .sequence) { signed in
                    try signed.serialize(1)
                    signed.appendConstructedNode(identifier: .set) { _ in }
                    try signed.appendConstructedNode(identifier: .sequence) { try $0.serialize(Self.data) }
                    signed.appendConstructedNode(identifier: Self.first) { list in
                        for certificate in certificates { list.serializeRawBytes(certificate.der) }
                    }
                    signed.appendConstructedNode(identifier: .set) { _ in }
                }
            }
        }
        return serializer.serializedBytes
    }
}
