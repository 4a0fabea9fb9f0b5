/// Who is at the other end of a mutually authenticated TLS connection, as its certificate says and as
/// checked after this very handshake, resumed ones included.
public struct PeerIdentity: Hashable, Sendable, CustomStringConvertible {
    public let spiffeID: SPIFFEID

    /// SHA-256 of the certificate's DER, 32 bytes: what a COSE `x5t` names.
    public let certificateHash: [UInt8]

    public init(spiffeID: SPIFFEID, certificateHash: [UInt8]) {
        self.spiffeID = spiffeID
        self.certificateHash = certificateHash
    }

    public var description: String { self.spiffeID.rawValue }
}
