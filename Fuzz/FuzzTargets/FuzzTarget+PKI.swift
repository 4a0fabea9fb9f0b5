import Enrolment
import Identity
import PKI
import SwiftASN1
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
            let request = try? CertificateSigningRequest.make(for: id, key: SigningKey()),
            let requestDER = try? request.serializeAsPEM().derBytes,
            let gate = try? PeerGate(
                trustDomain: trustDomain, authorities: [root.certificate, issuing.certificate])
        else { return [] }
        let profile = CertificateProfile.auditor(id, in: trustDomain)
        // OCSPRequest { { { CertID { sha1, name hash, key hash, serial } } }, [2] { nonce } }
        let certificateID: [UInt8] =
            [0x30, 0x3A, 0x30, 0x09, 0x06, 0x05, 0x2B, 0x0E, 0x03, 0x02, 0x1A, 0x05, 0x00, 0x04, 0x14]
            + [UInt8](repeating: 1, count: 20) + [0x04, 0x14] + [UInt8](repeating: 2, count: 20)
            + [0x02, 0x01, 0x07]
        let question: [UInt8] =
            [0x30, 0x61, 0x30, 0x5F, 0x30, 0x3E, 0x30, 0x3C] + certificateID
            + [0xA2, 0x1D, 0x30, 0x1B, 0x30, 0x19, 0x06, 0x09, 0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x02]
            + [0x04, 0x0C, 0x04, 0x0A] + [UInt8](repeating: 3, count: 10)
        return [
            FuzzTarget("EnrolmentRequest", seeds: [requestDER]) { bytes in
                guard let request = try? EnrolmentRequest(text: bytes) else { return }
                _ = try? request.require(profile)
            },
            FuzzTarget("OCSPRequest", seeds: [question]) { bytes in
                guard let request = try? OCSPRequest(der: bytes) else { return }
                precondition((1...OCSPRequest.maximumCount).contains(request.certificates.count), "bounded")
                precondition(request.nonce.map { (1...128).contains($0.count) } ?? true, "bounded")
            },
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
