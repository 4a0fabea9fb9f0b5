public import Identity
public import PKI
public import X509

/// A certificate that an authority has given, checked: whose it is, and that it is for our key.
public struct EnrolledIdentity: Sendable {
    public let identity: VerifiedIdentity
    public let key: SigningKey

    /// The leaf and its intermediate.
    public var chain: [Certificate] { [self.identity.certificate, self.identity.intermediate] }

    /// Finds the certificate for our key among what an authority sent, and checks it: own key, own ID, own role, a
    /// chain that verifies now.
    ///
    /// - Parameters:
    ///   - certificates: in any order, intermediates among them or known to `trust`.
    ///   - now: the device's clock.
    /// - Throws: ``EnrolmentError`` with code `identity`, or `clock` if it is not valid yet.
    public init(
        _ certificates: [Certificate], for id: Identifier, role: Role, key: SigningKey, trust: IdentityVerifier,
        at now: UnixTime
    ) throws(EnrolmentError) {
        let own = Certificate.PublicKey(key.publicKey)
        guard let leaf = certificates.first(where: { $0.publicKey == own }) else {
            throw EnrolmentError(.identity, "the authority sent no certificate for this device's key")
        }
        let issuers = certificates.filter { $0.subject == leaf.issuer && $0.publicKey != own }
        var failure = PKIError(.unknownIssuer, "the issuer of \(leaf.subject) did not come along and is not known")
        for chain in issuers.map({ [leaf, $0] }) + [[leaf]] {
            do throws(PKIError) {
                let identity = try trust.verify(chain: chain, at: now, roles: [role])
                guard identity.spiffeID.id == id else {
                    throw PKIError(.name, "it is for \(identity.spiffeID.id), not for \(id)")
                }
                self.identity = identity
                self.key = key
                return
            } catch {
                failure = error
                if error.code == .notYetValid { break }
            }
        }
        if failure.code == .notYetValid {
            throw EnrolmentError(
                .clock, "the certificate that came begins in the future: this device's clock is behind, set it first")
        }
        throw EnrolmentError(.identity, "the certificate that came is not usable: \(failure.reason)")
    }
}

extension CertificateSigningRequest {
    /// A request (PKCS#10, RFC 2986) for an ID, signed with its key. What else the certificate says is the authority's.
    ///
    /// - Throws: ``EnrolmentError`` with code `identity` if the key does not sign.
    public static func make(for id: Identifier, key: SigningKey) throws(EnrolmentError) -> CertificateSigningRequest {
        do {
            return try CertificateSigningRequest(
                version: .v1, subject: try DistinguishedName { CommonName(id.rawValue) },
                privateKey: key.certificateKey, attributes: CertificateSigningRequest.Attributes(),
                signatureAlgorithm: .ecdsaWithSHA256)
        } catch {
            throw EnrolmentError(.identity, "the request cannot be signed: \(error)")
        }
    }
}
