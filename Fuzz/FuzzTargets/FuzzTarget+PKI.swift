import Identity
import PKI
import X509

extension FuzzTarget {
    /// Revocation lists, and certificates up to the verdict of the gate.
    public static let pki: [FuzzTarget] = {
        // A PKI at a fixed time; without it there is nothing to begin from, and the test that counts seeds says so.
        guard let trustDomain = try? TrustDomain("energy.example"),
            let id = try? Identifier("auditor-1"),
            let root = try? Authority.makeRoot(trustDomain: trustDomain, at: 1_800_000_000),
            let issuing = try? root.makeIntermediate(trustDomain: trustDomain, at: 1_800_000_000),
            let leaf = try? issuing.issue(
                .auditor(id, in: trustDomain), to: SigningKey().publicKey, at: 1_800_000_000),
            let empty = try? root.makeRevocationList(number: 1, at: 1_800_000_000),
            let full = try? issuing.makeRevocationList(
                number: 1 << 40,
                entries: RevocationList.Reason.allCases.map {
                    RevocationList.Entry(
                        serialNumber: [0x40, $0.rawValue + 1], revokedAt: 1_700_000_000, reason: $0)
                }, at: 2_600_000_000),
            let gate = try? PeerGate(
                trustDomain: trustDomain, authorities: [root.certificate, issuing.certificate])
        else { return [] }
        return [
            FuzzTarget("RevocationList", seeds: [empty.der, full.der]) { bytes in
                guard let list = try? RevocationList(der: bytes) else { return }
                precondition(list.der == bytes, "a list is kept as it came")
                // What is signed is not ours to change: only the seeds themselves may verify.
                if bytes != full.der, list.isSigned(by: issuing.certificate) {
                    precondition(
                        list.number == full.number && list.entries == full.entries
                            && list.nextUpdate == full.nextUpdate,
                        "a changed list under a good signature")
                }
            },
            FuzzTarget("Certificate", seeds: [leaf.der, issuing.certificate.der, root.certificate.der]) { bytes in
                _ = try? gate.admit(leaf: bytes, at: 1_800_000_000)
                _ = try? IdentityVerifier(trustDomain: trustDomain, roots: [root.certificate])
                    .verify(der: [bytes, issuing.certificate.der], at: 1_800_000_000)
                _ = try? IdentityVerifier(trustDomain: trustDomain, roots: [root.certificate])
                    .verify(der: [leaf.der, bytes], at: 1_800_000_000)
            },
        ]
    }()
}
