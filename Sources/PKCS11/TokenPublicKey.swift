// PKCS #11 v3.1 section 6.3.3: elliptic curve public key objects.

package import Crypto
package import PKI

/// What a token says of an elliptic curve key.
package enum TokenPublicKey {
    /// CKA_EC_PARAMS of P-256: its OID, in DER.
    package static let parameters: [UInt8] = [0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07]

    /// Decodes CKA_EC_POINT: an uncompressed point in a DER OCTET STRING, or, as some tokens have it, the point alone.
    ///
    /// - Parameter name: of the key, for messages.
    /// - Throws: `PKIError` with code `weak-key`.
    package static func decode(point: [UInt8], name: String) throws(PKIError) -> P256.Signing.PublicKey {
        // The length alone tells one form from the other: both begin with 4.
        let raw: ArraySlice<UInt8>
        switch point.count {
        case 65: raw = point[...]
        case 67 where point[0] == 0x04 && point[1] == 65: raw = point[2...]
        default: throw PKIError(.weakKey, "\(name): its public key is no uncompressed point of P-256")
        }
        // A prefix of 4 is uncompressed; swift-crypto checks that the point is on the curve.
        guard raw.first == 0x04, let key = try? P256.Signing.PublicKey(x963Representation: raw) else {
            throw PKIError(.weakKey, "\(name): its public key is not a point of P-256")
        }
        return key
    }
}
