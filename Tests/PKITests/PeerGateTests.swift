import Crypto
import Foundation
import Identity
import PKI
import TestSupport
import Testing
import X509

@Suite struct PeerGateTests {
    let pki: TestPKI
    var now: UnixTime { self.pki.now }

    init() throws { self.pki = try TestPKI() }

    @Test("A good peer is let in under its name and hash, the first time and from memory", arguments: Role.allCases)
    func good(role: Role) throws {
        let gate = try self.pki.gate(demand: .current)
        let party = try self.pki.issue(role, "p")
        for _ in 0..<2 {
            let peer = try gate.admit(leaf: party.certificate.der, at: self.now)
            #expect(peer.identity == party.peer)
            #expect(peer.identity.certificateHash == Array(SHA256.hash(data: party.certificate.der)))
        }
    }

    @Test("A leaf with one fault in itself is refused for it", arguments: IdentityVerifierTests.leafFaults)
    func fault(fault: IdentityVerifierTests.Fault) throws {
        // Who signed it is for the TLS library to verify.
        guard ![.unknownIssuer, .signature].contains(fault.code) else { return }
        var forge = try CertificateForge(self.pki.intermediate, at: self.now)
        try fault.change(&forge)
        let leaf = try forge.make().der
        let gate = try self.pki.gate()
        for _ in 0..<2 {
            #expect(throws: PKIError(fault.code, "")) { try gate.admit(leaf: leaf, at: self.now) }
        }
    }

    @Test("Validity is judged each time, also from memory")
    func time() throws {
        let gate = try self.pki.gate()
        let leaf = self.pki.auditors[0].certificate.der
        let peer = try gate.admit(leaf: leaf, at: self.now)
        #expect(throws: PKIError(.expired, "")) { try gate.admit(leaf: leaf, at: peer.validity.upperBound + 1) }
        #expect(throws: PKIError(.notYetValid, "")) { try gate.admit(leaf: leaf, at: peer.validity.lowerBound - 1) }
        #expect(throws: PKIError(.expired, "")) {
            try gate.requireStanding(peer, at: peer.validity.upperBound + 1)
        }
    }

    @Test("Expired and not yet valid parties are refused")
    func expired() throws {
        let gate = try self.pki.gate()
        let old = try self.pki.expired(.auditor, "old")
        let early = try self.pki.notYetValid(.auditor, "early")
        #expect(throws: PKIError(.expired, "")) { try gate.admit(leaf: old.certificate.der, at: self.now) }
        #expect(throws: PKIError(.notYetValid, "")) { try gate.admit(leaf: early.certificate.der, at: self.now) }
    }

    @Test("A newer list revokes a peer that is in, and keeps it from coming back")
    func revoked() throws {
        let gate = try self.pki.gate()
        let auditor = self.pki.auditors[0]
        let peer = try gate.admit(leaf: auditor.certificate.der, at: self.now)
        let other = try gate.admit(leaf: self.pki.auditors[1].certificate.der, at: self.now)
        try gate.update(try self.pki.revocationLists(revoking: [auditor], number: 2))
        #expect(throws: PKIError(.revoked, "")) { try gate.requireStanding(peer, at: self.now) }
        #expect(throws: PKIError(.revoked, "")) { try gate.admit(leaf: auditor.certificate.der, at: self.now) }
        #expect(throws: Never.self) { try gate.requireStanding(other, at: self.now) }
        #expect(throws: PKIError(.crlOutdated, "")) { try gate.update(try self.pki.revocationLists(number: 1)) }
        #expect(throws: PKIError(.revoked, "")) { try gate.admit(leaf: auditor.certificate.der, at: self.now) }
    }

    @Test("A list of another authority is refused and changes nothing")
    func foreignList() throws {
        let gate = try self.pki.gate()
        let foreign = try self.pki.foreign()
        #expect(throws: PKIError(.unknownIssuer, "")) { try gate.update(try foreign.revocationLists(number: 7)) }
        #expect(throws: Never.self) { try gate.admit(leaf: self.pki.auditors[0].certificate.der, at: self.now) }
    }

    @Test("Where a current list is demanded, a stale or missing one refuses")
    func demand() throws {
        let leaf = self.pki.auditors[0].certificate.der
        let none = try PeerGate(
            trustDomain: self.pki.trustDomain, authorities: [self.pki.intermediate.certificate], demand: .current)
        #expect(throws: PKIError(.crlMissing, "")) { try none.admit(leaf: leaf, at: self.now) }
        let stale = try self.pki.gate(demand: .current)
        let later = self.now + Authority.revocationListLifetime + 1
        #expect(throws: PKIError(.crlExpired, "")) { try stale.admit(leaf: leaf, at: later) }
    }

    @Test("Garbage is refused, and oversized bytes before they are parsed")
    func bytes() throws {
        let gate = try self.pki.gate()
        #expect(throws: PKIError(.format, "")) { try gate.admit(leaf: [], at: self.now) }
        #expect(throws: PKIError(.format, "")) { try gate.admit(leaf: [0x30, 0x03, 1, 2, 3], at: self.now) }
        let long = [UInt8](repeating: 0, count: Certificate.maximumSize + 1)
        #expect(throws: PKIError(.tooLarge, "")) { try gate.admit(leaf: long, at: self.now) }
    }

    @Test("Many threads may ask while lists change")
    func threads() async throws {
        let gate = try self.pki.gate()
        let leaf = self.pki.auditors[0].certificate.der
        let peer = try gate.admit(leaf: leaf, at: self.now)
        let (now, pki) = (self.now, self.pki)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    for _ in 0..<200 {
                        _ = try? gate.admit(leaf: leaf, at: now)
                        try? gate.requireStanding(peer, at: now)
                    }
                }
            }
            group.addTask {
                for number in UInt64(2)...20 {
                    try gate.update(try pki.revocationLists(revoking: [pki.auditors[0]], number: number))
                }
            }
            try await group.waitForAll()
        }
        #expect(throws: PKIError(.revoked, "")) { try gate.requireStanding(peer, at: self.now) }
    }

    @Test("Who was issued by a revoked intermediate is refused, also in a live session")
    func revokedIntermediate() throws {
        let party = try self.pki.auditor("auditor-1")
        let gate = try self.pki.gate()
        let peer = try gate.admit(leaf: party.certificate.der, at: self.now)
        let revoked = try self.pki.root.makeRevocationList(
            number: 2,
            entries: [.init(self.pki.intermediate.certificate, revokedAt: self.now, reason: .caCompromise)],
            at: self.now)
        try gate.update([revoked])
        #expect(throws: PKIError(.revoked, "")) { try gate.requireStanding(peer, at: self.now) }
        #expect(throws: PKIError(.revoked, "")) { try gate.admit(leaf: party.certificate.der, at: self.now) }
    }

    @Test("One certificate of the intermediate's key that is not revoked is enough")
    func reissuedIntermediate() throws {
        let again = try self.pki.root.makeIntermediate(
            trustDomain: self.pki.trustDomain, key: self.pki.intermediate.key, at: self.now)
        let gate = try PeerGate(
            trustDomain: self.pki.trustDomain,
            authorities: [self.pki.root.certificate, self.pki.intermediate.certificate, again.certificate],
            revocationLists: try self.pki.revocationLists())
        try gate.update([
            try self.pki.root.makeRevocationList(
                number: 2,
                entries: [.init(self.pki.intermediate.certificate, revokedAt: self.now, reason: .superseded)],
                at: self.now)
        ])
        _ = try gate.admit(leaf: self.pki.auditor("auditor-1").certificate.der, at: self.now)
    }
}
