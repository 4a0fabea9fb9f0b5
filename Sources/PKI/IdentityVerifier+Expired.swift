public import Identity
import X509

extension IdentityVerifier {
    /// Verifies a chain as it was when its leaf was issued: whose it was, whatever the time has done to its validity
    /// since. For judging what a certificate signed before it expired.
    ///
    /// Revocation is judged by the lists of today: a revoked certificate is refused, expired or not. Ask
    /// ``requireStanding(_:at:)`` whether it is valid now.
    ///
    /// - Throws: ``PKIError`` as ``verify(chain:at:roles:)``.
    public func verifyAtIssue(
        der chain: [[UInt8]], roles: Set<Role>? = nil
    ) throws(PKIError) -> VerifiedIdentity {
        guard let first = chain.first else { throw PKIError(.chain, "there is no certificate") }
        let leaf = try Certificate(der: first)
        return try self.verify(der: chain, at: leaf.notBefore, roles: roles)
    }
}
