import Crypto
import Logging
import NIOCore
import NIOPosix
public import NIOSSL
public import PKI
public import X509

extension SigningKey {
    /// The key for a TLS handshake. One in hardware signs on a thread that may wait, not on the event loop.
    ///
    /// - Throws: an error of NIOSSL, if it does not take a key in memory.
    public var tlsKey: NIOSSLPrivateKeySource {
        get throws {
            guard let pem = self.pemRepresentation else {
                return .privateKey(NIOSSLPrivateKey(customPrivateKey: HardwareTLSKey(key: self)))
            }
            return .privateKey(try NIOSSLPrivateKey(bytes: Array(pem.utf8), format: .pem))
        }
    }
}

extension Sequence<Certificate> {
    /// The same for TLS.
    ///
    /// - Throws: an error of NIOSSL, if it does not take one of them.
    public var tlsCertificates: [NIOSSLCertificate] {
        get throws { try self.map { try NIOSSLCertificate(bytes: $0.der, format: .der) } }
    }
}

/// A key in hardware as NIOSSL wants it.
private struct HardwareTLSKey: NIOSSLCustomPrivateKey, Hashable {
    let key: SigningKey

    var signatureAlgorithms: [SignatureAlgorithm] { [.ecdsaSecp256R1Sha256] }

    func sign(channel: any Channel, algorithm: SignatureAlgorithm, data: ByteBuffer) -> EventLoopFuture<ByteBuffer> {
        NIOThreadPool.singleton.runIfActive(eventLoop: channel.eventLoop) { [key] in
            do {
                let digest = SHA256.hash(data: Array(data.readableBytesView))
                return ByteBuffer(bytes: try key.sign(digest).derRepresentation)
            } catch {
                // All that the TLS library says of it is that a private key's operation failed.
                Logger(label: "tls").error("a handshake fails", metadata: ["reason": "\(error)"])
                throw error
            }
        }
    }

    func decrypt(channel: any Channel, data: ByteBuffer) -> EventLoopFuture<ByteBuffer> {
        channel.eventLoop.makeFailedFuture(PKIError(.signing, "a P-256 key decrypts nothing"))
    }

    static func == (a: Self, b: Self) -> Bool { a.key.publicKey.rawRepresentation == b.key.publicKey.rawRepresentation }

    func hash(into hasher: inout Hasher) { hasher.combine(self.key.publicKey.rawRepresentation) }
}
