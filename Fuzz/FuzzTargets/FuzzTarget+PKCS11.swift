import Crypto
import PKCS11
import PKI

extension FuzzTarget {
    /// What tokens say of their keys, and what names them.
    public static let pkcs11: [FuzzTarget] = {
        let point = Array(SigningKey().publicKey.x963Representation)
        let uri = "pkcs11:token=home;object=mona;id=%01?module-path=/m.so&pin-source=file:pin"
        return [
            FuzzTarget("TokenPublicKey", seeds: [point, [0x04, 0x41] + point]) { bytes in
                guard let key = try? TokenPublicKey.decode(point: bytes, name: "a") else { return }
                precondition(Array(key.x963Representation) == bytes.suffix(65), "a key is the point that came")
            },
            FuzzTarget("TokenURI", seeds: [Array(uri.utf8)]) { bytes in
                let keys = PKCS11Keys()
                guard let resolved = try? keys.resolve(String(decoding: bytes, as: UTF8.self), in: "/etc") else {
                    return
                }
                precondition((try? keys.resolve(resolved, in: "/")) == resolved, "what was resolved stays")
            },
        ]
    }()
}
