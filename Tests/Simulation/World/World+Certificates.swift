import Auditor
import ControlCenter
import Identity
import PKI
import Telemetry
import TestSupport

/// Who has which certificate, and which of them are revoked: what the checker knows without asking.
struct CertificateBook {
    private var parties: [Int: [TestPKI.Party]] = [:]
    private var ends: [CertificateHash: UnixTime] = [:]
    private(set) var revoked: Set<CertificateHash> = []
    /// The newest revocation lists; nothing while nobody is revoked.
    private(set) var lists: [RevocationList] = []

    init() {}

    init(_ world: World) {
        for auditor in world.auditors {
            if let lifetime = world.scenario.lifetime {
                // Not all on one day.
                let party = try? world.cast.pki.issue(
                    .auditor, auditor.party.id.rawValue, at: world.now.seconds,
                    lifetime: lifetime * Int64(auditor.auditor + 2) / 2)
                auditor.party = party ?? auditor.party
            }
            self.add(auditor.party, of: auditor.auditor)
        }
    }

    mutating func add(_ party: TestPKI.Party, of auditor: Int) {
        self.parties[auditor, default: []].append(party)
        self.ends[CertificateHash(hashing: party.certificate.der)] = party.certificate.notAfter
    }

    /// What its device still knows of certificates that the auditor has had before.
    func former(of auditor: Int, but party: TestPKI.Party) -> [[UInt8]] {
        (self.parties[auditor] ?? []).map(\.certificate.der).filter { $0 != party.certificate.der }
            .suffix(AuditorConfiguration.maximumFormerCertificates)
    }

    /// Every certificate that the auditor has had.
    mutating func revoke(_ auditor: Int, in pki: TestPKI) throws {
        for party in self.parties[auditor] ?? [] {
            self.revoked.insert(CertificateHash(hashing: party.certificate.der))
        }
        let all = self.parties.values.flatMap(\.self).filter {
            self.revoked.contains(CertificateHash(hashing: $0.certificate.der))
        }
        self.lists = try pki.revocationLists(revoking: all, number: UInt64(self.lists.first?.number ?? 1) + 1)
    }

    func isRevoked(_ hash: CertificateHash) -> Bool { self.revoked.contains(hash) }

    func isExpired(_ hash: CertificateHash, at now: Timestamp) -> Bool {
        self.ends[hash].map { now.seconds > $0 } ?? false
    }

    func isGood(_ party: TestPKI.Party, at now: Timestamp) -> Bool {
        let hash = CertificateHash(hashing: party.certificate.der)
        return !self.isRevoked(hash) && !self.isExpired(hash, at: now)
    }
}

extension World {
    /// The auditor gets another certificate and key, while it runs or while it is down.
    func renew(_ auditor: AuditorNode, readmitting: Bool = false) {
        let hash = CertificateHash(hashing: auditor.party.certificate.der)
        // Nobody revoked is renewed, but by an operator.
        guard readmitting || !self.certificates.isRevoked(hash), let lifetime = self.scenario.lifetime else { return }
        do {
            let party = try self.cast.pki.issue(
                .auditor, auditor.party.id.rawValue, at: self.now.seconds,
                lifetime: readmitting ? 10 * 86_400 : lifetime)
            auditor.party = party
            self.certificates.add(party, of: auditor.auditor)
            self.checker.renewals += 1
            self.note(.auditor(auditor.node), "has another certificate")
            guard auditor.machine != nil else { return }
            self.feed(
                auditor, .renewed(try PartySigner(party), certificateChain: party.chainDER))
            // Its connection is made anew: at once, or when it breaks by itself.
            if self.dice.chance(0.7) { self.breakConnection(of: auditor.node) }
        } catch {
            self.violate(.machineWorks, "a certificate cannot be issued: \(error)")
        }
    }

    /// The operator revokes an auditor: the control center knows at once; the broker may cut the connection.
    func revoke(_ auditor: AuditorNode) {
        guard self.scenario.lifetime != nil,
            !self.certificates.isRevoked(CertificateHash(hashing: auditor.party.certificate.der))
        else { return }
        do {
            try self.certificates.revoke(auditor.auditor, in: self.cast.pki)
            try self.center.core?.update(self.certificates.lists)
            self.checker.revoked.insert(auditor.auditor)
            self.note(.auditor(auditor.node), "is revoked")
            // Ours cuts the connection; another broker lets a live session be, and receipts tell the auditor.
            if self.dice.chance(0.5) { self.breakConnection(of: auditor.node) }
        } catch {
            self.violate(.machineWorks, "an auditor cannot be revoked: \(error)")
        }
    }
}
