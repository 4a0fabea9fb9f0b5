import X509

/// The newest verified revocation list of each authority, found by its key identifier.
struct RevocationIndex: Sendable {
    private var lists: [[UInt8]: RevocationList] = [:]

    /// Takes lists whose signatures hold. Of two lists of one authority the one with the higher number stays.
    ///
    /// - Throws: ``PKIError`` with code `unknown-issuer` if no authority has the list's name and key identifier,
    ///   `signature`, or `crl-outdated` if a newer list is held and `strict`.
    mutating func add(
        _ newLists: [RevocationList], authorities: [AuthorityRules], strict: Bool
    ) throws(PKIError) {
        for list in newLists {
            let candidates = authorities.filter {
                $0.keyIdentifier == list.authorityKeyIdentifier && $0.certificate.subject == list.issuer
            }
            guard !candidates.isEmpty else {
                throw PKIError(.unknownIssuer, "the revocation list of \(list.issuer) is not of a known authority")
            }
            guard candidates.contains(where: { list.isSigned(by: $0) }) else {
                throw PKIError(.signature, "the revocation list of \(list.issuer) is not signed by its issuer")
            }
            if let held = self.lists[list.authorityKeyIdentifier], held.number > list.number {
                guard !strict else {
                    throw PKIError(
                        .crlOutdated, "revocation list \(list.number) of \(list.issuer) is older than \(held.number)")
                }
                continue
            }
            self.lists[list.authorityKeyIdentifier] = list
        }
    }

    /// - Throws: ``PKIError`` with code `revoked`, `crl-missing` or `crl-expired`.
    func requireGood(
        _ serialNumber: [UInt8], issuer: [UInt8], subject: @autoclosure () -> String, at now: UnixTime,
        demand: RevocationDemand
    ) throws(PKIError) {
        guard let list = self.lists[issuer] else {
            guard demand == .lastKnown else {
                throw PKIError(.crlMissing, "there is no revocation list of the issuer of \(subject())")
            }
            return
        }
        if let entry = list.entry(for: serialNumber), entry.reason != .removeFromCRL {
            throw PKIError(
                .revoked, "the certificate of \(subject()) was revoked at \(CivilTime(entry.revokedAt).iso8601)")
        }
        guard demand == .lastKnown || !list.isExpired(at: now) else {
            throw PKIError(
                .crlExpired,
                "the revocation list of \(list.issuer) was due for renewal at \(CivilTime(list.nextUpdate).iso8601)")
        }
    }

    var all: [RevocationList] { Array(self.lists.values) }
}

/// What is demanded of revocation lists.
public enum RevocationDemand: Hashable, Sendable {
    /// The last known lists revoke; an authority without a list, or with one that is past its next update, locks
    /// nobody out. A list once held is never exchanged for an older one.
    case lastKnown
    /// Each issuer of the chain needs a list that is not past its next update.
    case current
}
