import Crypto
import PKI
import Synchronization

/// A private key in a token. Signatures wait for each other: a session is one caller's at a time.
///
/// A session that fails is dropped, and the next signature begins with a new one: a token that was taken away works
/// again when it is back.
final class TokenKey: HardwareKey {
    private struct State {
        /// Nil after a failure.
        var open: (session: TokenSession, key: TokenSession.Key)?
    }

    let publicKey: P256.Signing.PublicKey
    private let token: TokenURI
    private let state: Mutex<State>

    var uri: String? { self.token.text }

    /// The key, tried: it signs, and what it signs is its public key's.
    ///
    /// - Parameter session: in which it was found.
    /// - Throws: `PKIError` with code `hardware`, `passphrase`.
    init(_ uri: TokenURI, _ key: TokenSession.Key, in session: sending TokenSession) throws(PKIError) {
        let digest = SHA256.hash(data: Array("secure-mqtt tries a key".utf8))
        let signature = try session.sign(digest, with: key)
        guard key.publicKey.isValidSignature(signature, for: digest) else {
            throw PKIError(.hardware, "\(uri.name): the public key beside it in the token is another one's")
        }
        self.token = uri
        self.publicKey = key.publicKey
        self.state = Mutex(State(open: (session, key)))
    }

    func sign(_ digest: some Digest) throws -> P256.Signing.ECDSASignature {
        do {
            return try self.state.withLock { (state) throws(PKIError) in
                if let open = state.open {
                    do throws(PKIError) {
                        return try open.session.sign(digest, with: open.key)
                    } catch {
                        // What went wrong in an old session may be right in a new one, but not a PIN.
                        state.open = nil
                        if error.code == .passphrase { throw error }
                    }
                }
                let open = try self.reopen()
                let signature = try open.session.sign(digest, with: open.key)
                state.open = open
                return signature
            }
        } catch {
            throw PKIError(.signing, error.reason)
        }
    }

    private func reopen() throws(PKIError) -> (session: TokenSession, key: TokenSession.Key) {
        let session = try TokenSession(self.token)
        guard let key = try session.key() else {
            throw PKIError(.missing, "\(self.token.name): the token has no such private key")
        }
        guard key.publicKey.rawRepresentation == self.publicKey.rawRepresentation else {
            throw PKIError(.hardware, "\(self.token.name) is another key than before")
        }
        return (session, key)
    }
}
