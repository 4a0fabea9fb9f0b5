public import Crypto
import Foundation
public import Identity
import SwiftASN1
import Synchronization
public import X509

/// An authority on disk: certificates, keys, revocation lists, and the record of what it did.
///
/// | file | what |
/// | --- | --- |
/// | `root.pem`, `root.key` | the root; its key belongs offline, and only a new list or intermediate needs it again |
/// | `issuing.pem`, `issuing.key` | the issuing intermediate |
/// | `crl.pem` | the revocation lists of root and intermediate |
/// | `issued.jsonl` | invitations, certificates issued and revoked, only ever appended to |
///
/// After a rollover `root.pem` and `issuing.pem` hold several certificates, the one in use first; the key of a later
/// one is `root-<key identifier>.key` or `issuing-<key identifier>.key`.
///
/// Keys are 0600, encrypted unless their owner wanted it otherwise; of a key in hardware the file holds the URI. Changes are made under a lock on `issued.jsonl`,
/// by one process at a time; a process that stays remembers what it has read, and reads on from there.
public struct AuthorityDirectory: Sendable {
    public let path: String
    /// The roots that parties shall trust, the one in use first.
    public let roots: [Certificate]
    /// The issuing intermediates, the one in use first: others still have certificates that are valid.
    public let issuers: [Certificate]

    /// Where lists and responder are found, for what is issued from now on.
    public var publication: PublicationPoints?

    /// Asked for the passphrase of an encrypted key, when the key is needed.
    public var passphrase: PassphraseSource?

    /// Finds keys whose file holds the URI of one in hardware.
    private let hardware: (any HardwareKeys)?

    private let memory: Memory

    public var root: Certificate { self.roots[0] }
    public var issuing: Certificate { self.issuers[0] }

    /// The root above ``issuing``, by which a device knows this authority: between the steps of a rollover it is not
    /// yet ``root``.
    public var issuingRoot: Certificate {
        let identifier = Self.issuerIdentifier(of: self.issuing)
        return self.roots.first { $0.keyIdentifier == identifier } ?? self.root
    }

    public static func rootPath(in path: String) -> String { "\(path)/root.pem" }
    public static func rootKeyPath(in path: String) -> String { "\(path)/root.key" }
    public static func issuingPath(in path: String) -> String { "\(path)/issuing.pem" }
    public static func issuingKeyPath(in path: String) -> String { "\(path)/issuing.key" }
    public static func revocationListsPath(in path: String) -> String { "\(path)/crl.pem" }
    public static func recordPath(in path: String) -> String { "\(path)/issued.jsonl" }

    /// The longest record that is read, in bytes: some 400,000 certificates.
    static let maximumRecordSize = 512 << 20

    /// Makes a root and an intermediate, their first lists and an empty record, in a folder that exists.
    ///
    /// - Parameters:
    ///   - passphrase: for the key of the intermediate; nil leaves it to file permissions.
    ///   - rootPassphrase: for the key of the root.
    ///   - key: of the intermediate; in hardware, or a new one. Passphrases are for keys in files.
    ///   - rootKey: of the root, likewise.
    /// - Throws: ``PKIError`` with code `exists` if one of the files does, `io`, or `signing`.
    public static func create(
        _ path: String, trustDomain: TrustDomain, at now: UnixTime, passphrase: Passphrase? = nil,
        rootPassphrase: Passphrase? = nil, publication: PublicationPoints? = nil, key: SigningKey = SigningKey(),
        rootKey: SigningKey = SigningKey(), hardware: (any HardwareKeys)? = nil
    ) throws(PKIError) -> AuthorityDirectory {
        guard key.publicKey.rawRepresentation != rootKey.publicKey.rawRepresentation else {
            throw PKIError(.exists, "root and intermediate need a key each: name two")
        }
        var root = try Authority.makeRoot(trustDomain: trustDomain, key: rootKey, at: now)
        root.publication = publication
        let issuing = try root.makeIntermediate(trustDomain: trustDomain, key: key, at: now)
        let lists = [
            try root.makeRevocationList(number: 1, at: now, lifetime: Authority.rootRevocationListLifetime),
            try issuing.makeRevocationList(number: 1, at: now),
        ]
        // The record first: with it the folder is taken.
        try DurableFile.create(Self.recordPath(in: path), [], mode: 0o600)
        try KeyFile.create(Self.rootKeyPath(in: path), root.key, passphrase: rootPassphrase)
        try KeyFile.create(Self.issuingKeyPath(in: path), issuing.key, passphrase: passphrase)
        try CertificateFile.create(Self.rootPath(in: path), [root.certificate])
        try CertificateFile.create(Self.issuingPath(in: path), [issuing.certificate])
        try DurableFile.create(
            Self.revocationListsPath(in: path), Array(lists.map(\.pemText).joined().utf8), mode: 0o644)
        let directory = AuthorityDirectory(
            path: path, roots: [root.certificate], issuers: [issuing.certificate], publication: publication,
            passphrase: passphrase?.source, hardware: hardware, memory: Memory())
        // The key is at hand: it need not be decrypted again.
        directory.memory.keep(issuing)
        return directory
    }

    /// Opens an authority; keys are read only when something is issued or revoked.
    ///
    /// - Throws: ``PKIError`` with code `missing`, `format`, `chain` or `io`.
    public static func open(
        _ path: String, passphrase: PassphraseSource? = nil, publication: PublicationPoints? = nil,
        hardware: (any HardwareKeys)? = nil
    ) throws(PKIError) -> AuthorityDirectory {
        let directory = AuthorityDirectory(
            path: path, roots: try CertificateFile.read(Self.rootPath(in: path)),
            issuers: try CertificateFile.read(Self.issuingPath(in: path)), publication: publication,
            passphrase: passphrase, hardware: hardware, memory: Memory())
        for root in directory.roots where root.issuer != root.subject {
            throw PKIError(.chain, "\(Self.rootPath(in: path)) holds a certificate that is not a root's")
        }
        for issuing in directory.issuers where issuing.issuer == issuing.subject {
            throw PKIError(.chain, "\(Self.issuingPath(in: path)) holds a root certificate")
        }
        return directory
    }

    /// The same authority, with the certificates as they are on disk now.
    ///
    /// - Throws: as ``open(_:passphrase:publication:hardware:)``.
    public func reopened() throws(PKIError) -> AuthorityDirectory {
        let fresh = try Self.open(self.path, passphrase: self.passphrase, publication: self.publication)
        return AuthorityDirectory(
            path: self.path, roots: fresh.roots, issuers: fresh.issuers, publication: self.publication,
            passphrase: self.passphrase, hardware: self.hardware, memory: self.memory)
    }

    private init(
        path: String, roots: [Certificate], issuers: [Certificate], publication: PublicationPoints?,
        passphrase: PassphraseSource?, hardware: (any HardwareKeys)?, memory: Memory
    ) {
        self.path = path
        self.roots = roots
        self.issuers = issuers
        self.publication = publication
        self.passphrase = passphrase
        self.hardware = hardware
        self.memory = memory
    }

    /// The trust domain, from the name of the intermediate.
    ///
    /// - Throws: ``PKIError`` with code `trust-domain` if the intermediate was not made here.
    public var trustDomain: TrustDomain {
        get throws(PKIError) {
            let suffix = " Issuing CA"
            let names = self.issuing.subject.lazy.flatMap { $0 }.filter { $0.type == .RDNAttributeType.commonName }
                .compactMap { String($0.value) }
            guard let name = names.first, name.hasSuffix(suffix),
                let trustDomain = try? TrustDomain(name.dropLast(suffix.count))
            else { throw PKIError(.trustDomain, "\(self.path) is not an authority of this program's") }
            return trustDomain
        }
    }

    // MARK: The record

    /// What was issued, in that order, with what was revoked.
    ///
    /// - Throws: ``PKIError`` with code `missing`, `permissions`, `format` or `io`.
    public func issued() throws(PKIError) -> [IssuedCertificate] {
        try self.read { (record) throws(PKIError) in record.certificates }
    }

    /// What was issued to parties of a role, in that order: as many steps as they are, however long the record is.
    public func issued(to role: Role) throws(PKIError) -> [IssuedCertificate] {
        try self.read { (record) throws(PKIError) in record.certificates(of: role) }
    }

    /// - Parameter serialNumber: its minimal big-endian bytes.
    /// - Returns: nil if no such certificate was issued.
    public func issued(_ serialNumber: [UInt8]) throws(PKIError) -> IssuedCertificate? {
        try self.read { (record) throws(PKIError) in record.certificate(serialNumber) }
    }

    /// What was issued and revoked after the event of that number, at most `limit`, and the number of the newest.
    public func events(after number: Int, limit: Int) throws(PKIError) -> (events: [AuthorityEvent], last: Int) {
        try self.read { (record) throws(PKIError) in (record.events(after: number, limit: limit), record.lastEvent) }
    }

    // MARK: Issuing

    /// Issues a certificate. The caller has proof that the subject holds the private key.
    ///
    /// - Parameters:
    ///   - renewing: the ID has a certificate already, of this very role and spelling, and gets another. Otherwise an
    ///     ID that was given out before, to whatever role and in whatever case, is refused.
    ///   - requester: who asked, for the record.
    ///   - note: why, for the record.
    /// - Throws: ``PKIError`` with code `name` if the ID is taken, or is to be renewed and unknown; `trust-domain` for
    ///   a profile of another one; those of the files; `signing`.
    public func issue(
        _ profile: CertificateProfile, to publicKey: P256.Signing.PublicKey, at now: UnixTime, renewing: Bool = false,
        requester: String? = nil, note: String? = nil
    ) throws(PKIError) -> Certificate {
        try self.change { (record) throws(PKIError) -> (Certificate, [UInt8]) in
            try self.requireTrustDomain(profile.spiffeID)
            if renewing {
                try Self.requireHeld(profile.spiffeID, in: record)
            } else {
                try Self.requireFree(profile.spiffeID, in: record, at: now)
            }
            return try self.issue(profile, publicKey, at: now, requester: requester, note: note)
        }
    }

    private func issue(
        _ profile: CertificateProfile, _ publicKey: P256.Signing.PublicKey, at now: UnixTime, requester: String?,
        invitation: (token: [UInt8], key: [UInt8])? = nil, note: String? = nil
    ) throws(PKIError) -> (Certificate, [UInt8]) {
        let authority = try self.authority(self.issuing)
        let certificate = try authority.issue(profile, to: publicKey, at: now)
        let issued = IssuedCertificate(
            certificate, spiffeID: profile.spiffeID, issuedAt: now, issuer: authority.keyIdentifier,
            requester: requester)
        return (
            certificate,
            try IssuanceRecord.issued(issued, der: certificate.der, invitation: invitation, note: note)
        )
    }

    /// Takes a certificate of this authority's into the record that was issued elsewhere: from then on its ID is taken,
    /// and it can be revoked.
    ///
    /// - Throws: ``PKIError`` with code `unknown-issuer`, `signature` and those of a certificate that breaks the rules;
    ///   `exists` if it is recorded; `name` if another party has its ID.
    public func importCertificate(
        _ certificate: Certificate, at now: UnixTime, requester: String
    ) throws(PKIError) -> SPIFFEID {
        let verifier = try IdentityVerifier(
            trustDomain: try self.trustDomain, roots: self.roots, intermediates: self.issuers)
        let identity = try verifier.verify(chain: [certificate], at: min(now, certificate.notAfter))
        return try self.change { (record) throws(PKIError) -> (SPIFFEID, [UInt8]) in
            guard record.certificate(certificate.serialBytes) == nil else {
                throw PKIError(.exists, "the certificate of \(identity.spiffeID) is in the record already")
            }
            let holders = record.certificates(of: identity.spiffeID.id)
            guard holders.allSatisfy({ $0.spiffeID == identity.spiffeID }) else {
                throw PKIError(.name, "\(identity.spiffeID.id) is taken by another party: IDs are unique, without case")
            }
            let issued = IssuedCertificate(
                certificate, spiffeID: identity.spiffeID, issuedAt: now, issuer: identity.issuerKeyIdentifier,
                requester: requester)
            return (
                identity.spiffeID, try IssuanceRecord.issued(issued, der: certificate.der, note: "imported")
            )
        }
    }

    private func requireTrustDomain(_ spiffeID: SPIFFEID) throws(PKIError) {
        guard try self.trustDomain == spiffeID.trustDomain else {
            throw PKIError(.trustDomain, "\(spiffeID) is not of this authority's trust domain")
        }
    }

    private static func requireHeld(_ spiffeID: SPIFFEID, in record: IssuanceRecord) throws(PKIError) {
        guard record.certificates(of: spiffeID.id).contains(where: { $0.spiffeID == spiffeID }) else {
            throw PKIError(.name, "there is no certificate of \(spiffeID.role) \(spiffeID.id) to renew")
        }
    }

    private static func requireFree(
        _ spiffeID: SPIFFEID, in record: IssuanceRecord, at now: UnixTime
    ) throws(PKIError) {
        let holder =
            record.certificates(of: spiffeID.id).first?.spiffeID
            ?? record.invitation(spiffeID.id).flatMap { $0.isOpen(at: now) ? $0.spiffeID : nil }
        if let holder {
            throw PKIError(
                .name, "\(spiffeID.id) is taken by \(holder.role) \(holder.id): IDs are unique, without case")
        }
    }

    // MARK: Invitations

    /// The longest an invitation lives: thirty days.
    public static let maximumInvitationLifetime: UnixTime = 30 * 86_400

    /// Invites a party: whoever brings the token first is certified under its ID. A newer invitation of an ID takes
    /// the place of an older one.
    ///
    /// - Parameters:
    ///   - profile: whom; with hosts for a server.
    ///   - lifetime: in seconds, at most ``maximumInvitationLifetime``.
    /// - Throws: ``PKIError`` with code `name` if the ID is another party's, or has a certificate in force; those of
    ///   the files.
    public func invite(
        _ profile: CertificateProfile, lifetime: UnixTime, at now: UnixTime, requester: String,
        token: EnrolmentToken = EnrolmentToken()
    ) throws(PKIError) -> Invitation {
        guard (1...Self.maximumInvitationLifetime).contains(lifetime) else {
            throw PKIError(.format, "an invitation lives for one second to thirty days")
        }
        return try self.change { (record) throws(PKIError) -> (Invitation, [UInt8]) in
            let spiffeID = profile.spiffeID
            try self.requireTrustDomain(spiffeID)
            for held in record.certificates(of: spiffeID.id) {
                guard held.spiffeID == spiffeID else { try Self.requireFree(spiffeID, in: record, at: now); continue }
                guard !held.isInForce(at: now) else {
                    throw PKIError(
                        .name, "\(spiffeID.id) has a valid certificate: revoke it first, or let the device renew it")
                }
            }
            if let open = record.invitation(spiffeID.id), open.isOpen(at: now), open.spiffeID != spiffeID {
                try Self.requireFree(spiffeID, in: record, at: now)
            }
            let invitation = Invitation(
                spiffeID: spiffeID, hosts: profile.hosts, createdAt: now, expiresAt: now + lifetime,
                requester: requester, tokenHash: token.hash)
            return (invitation, try IssuanceRecord.invited(invitation))
        }
    }

    /// Certifies the bearer of a token.
    ///
    /// An answer may be lost on its way: the same key may fetch the same certificate again with the same token for as
    /// long as the invitation lives. Any other key is refused.
    ///
    /// - Parameter requester: who asked, for the record: an address.
    /// - Throws: ``PKIError`` with code `token` for an unknown ID or a wrong token, `token-expired`, `token-used`,
    ///   `revoked` if what it gave was revoked since, and those of ``EnrolmentRequest/require(_:)``.
    public func redeem(
        _ id: Identifier, token: String, _ request: EnrolmentRequest, at now: UnixTime, requester: String
    ) throws(PKIError) -> Certificate {
        try self.change { (record) throws(PKIError) -> (Certificate, [UInt8]) in
            // One word for both, so that nobody learns which IDs are expected. The ID is compared with its case.
            guard let invitation = record.invitation(id), invitation.spiffeID.id == id,
                EnrolmentToken.isHash(invitation.tokenHash, of: token)
            else { throw PKIError(.token, "there is no invitation of \(id) with this token") }
            guard now <= invitation.expiresAt else {
                throw PKIError(
                    .tokenExpired,
                    "the invitation of \(id) expired at \(CivilTime(invitation.expiresAt).iso8601): ask for another")
            }
            let profile = CertificateProfile.role(
                invitation.spiffeID.role, id, in: invitation.spiffeID.trustDomain, hosts: invitation.hosts)
            try request.require(profile)
            if let use = invitation.use {
                guard use.keyHash == request.keyHash else {
                    throw PKIError(.tokenUsed, "the invitation of \(id) was used already, for another key")
                }
                let certificate = try Certificate(der: use.certificate)
                guard record.certificate(certificate.serialBytes)?.revocation == nil else {
                    throw PKIError(.revoked, "the certificate of \(id) was revoked")
                }
                return (certificate, [])
            }
            return try self.issue(
                profile, request.publicKey, at: now, requester: requester,
                invitation: (invitation.tokenHash, request.keyHash))
        }
    }

    // MARK: Renewal

    /// The most certificates that a party gets within a day when it renews by itself.
    public static let maximumDailyRenewals = 20

    /// An operator's word: this ID may be renewed with its expired certificate, once, until then.
    ///
    /// - Throws: ``PKIError`` with code `name` if the ID has no certificate that is not revoked; those of the files.
    public func allowRenewal(
        _ id: Identifier, lifetime: UnixTime, at now: UnixTime, requester: String, note: String? = nil
    ) throws(PKIError) {
        try self.change { (record) throws(PKIError) -> (Void, [UInt8]) in
            guard let held = record.certificates(of: id).last(where: { $0.spiffeID.id == id && $0.revocation == nil })
            else { throw PKIError(.name, "\(id) has no certificate that is not revoked") }
            let allowance = RenewalAllowance(spiffeID: held.spiffeID, expiresAt: now + lifetime)
            return ((), try IssuanceRecord.renewalAllowed(allowance, requester: requester, note: note, at: now))
        }
    }

    /// Renews a party's certificate, on the proof of its old key: that it holds this one was shown by TLS.
    ///
    /// The certificate must be of this authority, in the record and not revoked. An expired one is enough only with an
    /// operator's word (``allowRenewal(_:lifetime:at:requester:note:)``).
    ///
    /// A party that renews without end would fill record and list: it gets ``maximumDailyRenewals`` within a day.
    ///
    /// - Throws: ``PKIError`` with code `expired`, `revoked`, `unknown-issuer` and the others of a certificate that is
    ///   not good; `busy` for too many; those of ``EnrolmentRequest/require(_:)``.
    public func renew(
        _ old: Certificate, _ request: EnrolmentRequest, at now: UnixTime
    ) throws(PKIError) -> Certificate {
        let verifier = try IdentityVerifier(
            trustDomain: try self.trustDomain, roots: self.roots, intermediates: self.issuers)
        // Whether it has expired is judged below.
        let identity = try verifier.verify(chain: [old], at: max(old.notBefore, min(now, old.notAfter)))
        let spiffeID = identity.spiffeID
        return try self.change { (record) throws(PKIError) -> (Certificate, [UInt8]) in
            guard let held = record.certificate(old.serialBytes), held.certificateHash == old.sha256 else {
                throw PKIError(.unknownIssuer, "the certificate of \(spiffeID) is not in the record")
            }
            guard held.revocation == nil else {
                throw PKIError(.revoked, "the certificate of \(spiffeID) was revoked")
            }
            if now > held.notAfter {
                guard let allowance = record.allowance(spiffeID.id), allowance.spiffeID == spiffeID,
                    now <= allowance.expiresAt
                else {
                    throw PKIError(
                        .expired,
                        "the certificate of \(spiffeID) expired at \(CivilTime(held.notAfter).iso8601): "
                            + "an operator can allow its renewal (secure-mqtt pki renew-allow \(spiffeID.id))")
                }
            }
            let recent = record.certificates(of: spiffeID.id).suffix(Self.maximumDailyRenewals)
            guard recent.count < Self.maximumDailyRenewals || recent.contains(where: { $0.issuedAt <= now - 86_400 })
            else {
                throw PKIError(
                    .busy, "\(spiffeID) has got \(recent.count) certificates within a day: try again tomorrow")
            }
            let profile = CertificateProfile.role(
                spiffeID.role, spiffeID.id, in: spiffeID.trustDomain, hosts: old.hosts)
            try request.require(profile)
            return try self.issue(profile, request.publicKey, at: now, requester: spiffeID.rawValue, note: "renewed")
        }
    }

    // MARK: Revocation

    /// Revokes every certificate of an ID that is not revoked, writes new lists of the intermediates, and closes what
    /// the ID has open: an invitation that nobody used, an operator's word that it may be renewed.
    ///
    /// What a crash kept from the lists is written now: an ID that is revoked in the record alone is no error.
    ///
    /// - Returns: those that were revoked now, or came onto a list now; none if there was only something open.
    /// - Throws: ``PKIError`` with code `name` if nothing is left to revoke; `too-large` if a list would be longer than
    ///   anyone reads, and then nothing has changed; those of the files; `signing`.
    public func revoke(
        _ id: Identifier, reason: RevocationList.Reason, at now: UnixTime, requester: String? = nil
    ) throws(PKIError) -> [IssuedCertificate] {
        let revocation = IssuedCertificate.Revocation(time: now, reason: reason, requester: requester)
        return try self.change(
            { (record) throws(PKIError) -> (([IssuedCertificate], Lists?), [UInt8]) in
                let held = record.certificates(of: id).filter { $0.spiffeID.id == id }
                var revoked = held.filter { $0.revocation == nil }
                var lines: [UInt8] = []
                for index in revoked.indices {
                    lines += try IssuanceRecord.revoked(revoked[index], revocation)
                    revoked[index].revocation = revocation
                }
                if let spiffeID = record.open(id, at: now) {
                    lines += try IssuanceRecord.withdrawn(spiffeID, requester: requester, at: now)
                }
                let late = try self.unlisted(held)
                guard !lines.isEmpty || !late.isEmpty else {
                    throw PKIError(.name, "\(id) has no certificate that is not revoked, and no open invitation")
                }
                guard !revoked.isEmpty || !late.isEmpty else { return (([], nil), lines) }
                // Before anything is recorded: without the key, or with a list that is too long, there would be no
                // list that says so. The root's says nothing of parties; its key need not be opened for this.
                let lists = try self.makeLists(record, revoking: revoked, at: now, includingRoot: false)
                return ((late + revoked, lists), lines)
            },
            then: { (result) throws(PKIError) in
                if let lists = result.1 { try self.write(lists) }
            }
        ).0
    }

    /// Revokes an intermediate: on the root's list for those who verify chains, and all that it issued and that is
    /// valid on its own list, for those who look at leaves alone (Mosquitto). Their holders are locked out until they are
    /// invited anew; who was renewed under another intermediate before stays.
    ///
    /// What a crash kept from the list is written when it is called again.
    ///
    /// - Parameters:
    ///   - keyIdentifier: of an intermediate that is not the one in use.
    ///   - reason: `keyCompromise` is written as `caCompromise` (RFC 5280 section 5.3.1).
    ///   - rootKey: of the root above it, if its key is not here.
    ///   - force: although certificates of it are valid.
    /// - Returns: what was revoked with it.
    /// - Throws: ``PKIError`` with code `chain` for one that is in use, that is not there, or whose certificates are
    ///   valid and not to be revoked by force; `name` if it is revoked already; `missing` without the root's key;
    ///   `signing` if it is another's; those of the files.
    public func revokeIntermediate(
        _ keyIdentifier: [UInt8], reason: RevocationList.Reason, at now: UnixTime, rootKey: SigningKey? = nil,
        requester: String? = nil, force: Bool = false
    ) throws(PKIError) -> [IssuedCertificate] {
        guard let intermediate = self.issuers.first(where: { $0.keyIdentifier == keyIdentifier }) else {
            throw PKIError(
                .chain, "\(keyIdentifier.hexadecimal) is no intermediate here: pki show issuing.pem lists them")
        }
        guard intermediate != self.issuing else {
            throw PKIError(
                .chain, "it is in use: make another one first (secure-mqtt pki intermediate), then revoke this one")
        }
        guard let root = self.roots.first(where: { $0.keyIdentifier == Self.issuerIdentifier(of: intermediate) }) else {
            throw PKIError(.chain, "the root above \(keyIdentifier.hexadecimal) is not here any more")
        }
        let key: SigningKey = if let rootKey { rootKey } else { try self.requireRootKey(root) }
        _ = try Authority(certificate: root, key: key)
        let authority = IssuanceRecord.RevokedAuthority(
            serialNumber: intermediate.serialBytes, issuer: root.keyIdentifier,
            revocation: .init(
                time: now, reason: reason == .keyCompromise ? .caCompromise : reason, requester: requester))
        return try self.change(
            { (record) throws(PKIError) -> (([IssuedCertificate], Lists), [UInt8]) in
                var lines: [UInt8] = []
                if record.revokedAuthorities.contains(where: { $0.serialNumber == authority.serialNumber }) {
                    let isListed = try self.revocationLists().contains {
                        $0.isSigned(by: root) && $0.entry(for: authority.serialNumber) != nil
                    }
                    guard !isListed else { throw PKIError(.name, "\(keyIdentifier.hexadecimal) is revoked already") }
                } else {
                    lines += try IssuanceRecord.authorityRevoked(authority)
                }
                var revoked = self.valid(of: keyIdentifier, in: record, at: now)
                let locked = self.withoutAnother(revoked, in: record, at: now)
                if let first = locked.first, !force {
                    throw PKIError(
                        .chain,
                        "it locks out \(locked.count) whose only valid certificate is of it, first \(first): let them renew, or use --force"
                    )
                }
                let revocation = IssuedCertificate.Revocation(time: now, reason: .unspecified, requester: requester)
                for index in revoked.indices {
                    lines += try IssuanceRecord.revoked(revoked[index], revocation)
                    revoked[index].revocation = revocation
                }
                let lists = try self.makeLists(
                    record, revoking: revoked, authority: authority, at: now, rootKey: key, includingRoot: true)
                return ((revoked, lists), lines)
            },
            then: { (result) throws(PKIError) in try self.write(result.1) }
        ).0
    }

    /// Whether an intermediate was revoked, and when; nil if it was not.
    public func revocation(of intermediate: Certificate) throws(PKIError) -> IssuedCertificate.Revocation? {
        try self.read { (record) throws(PKIError) in record.revocation(of: intermediate) }
    }

    private static func issuerIdentifier(of intermediate: Certificate) -> [UInt8]? {
        (try? intermediate.extensions.authorityKeyIdentifier)?.keyIdentifier.map { Array($0) }
    }

    /// What an intermediate issued and is in force.
    private func valid(
        of keyIdentifier: [UInt8], in record: IssuanceRecord, at now: UnixTime
    ) -> [IssuedCertificate] {
        // Records that name no issuer are of a time when there was but one: the oldest.
        let isOldest = self.issuers.last?.keyIdentifier == keyIdentifier
        return record.certificates.filter {
            ($0.issuer == keyIdentifier || ($0.issuer == nil && isOldest)) && $0.isInForce(at: now)
        }
    }

    /// Whose certificates these are, and who has none in force of another intermediate.
    private func withoutAnother(
        _ certificates: [IssuedCertificate], in record: IssuanceRecord, at now: UnixTime
    ) -> [SPIFFEID] {
        let these = Set(certificates.map(\.serialNumber))
        let others = Set(
            record.certificates.filter { $0.isInForce(at: now) && !these.contains($0.serialNumber) }.map(\.spiffeID))
        var seen: Set<SPIFFEID> = []
        return certificates.map(\.spiffeID).filter { !others.contains($0) && seen.insert($0).inserted }
    }

    /// Certificates that are revoked in the record and not on the list of their issuer: a crash came in between, or
    /// the disk was full. New lists mend it.
    ///
    /// - Throws: ``PKIError``: those of the files.
    public func unlistedRevocations() throws(PKIError) -> [IssuedCertificate] {
        try self.read { (record) throws(PKIError) in try self.unlisted(record.revoked) }
    }

    private func unlisted(_ certificates: [IssuedCertificate]) throws(PKIError) -> [IssuedCertificate] {
        let revoked = certificates.filter { $0.revocation != nil }
        guard !revoked.isEmpty else { return [] }
        let held = try self.revocationLists()
        var lists: [(issuer: [UInt8], list: RevocationList?)] = []
        // Nothing comes onto the list of one whose key is away.
        for issuing in self.issuers where try self.isAtHand(issuing) {
            lists.append((issuing.keyIdentifier, held.last { $0.isSigned(by: issuing) }))
        }
        return revoked.filter { certificate in
            lists.contains { issuer, list in
                (certificate.issuer == nil || certificate.issuer == issuer)
                    && list?.entry(for: certificate.serialNumber) == nil
            }
        }
    }

    /// The lists as they are on disk.
    public func revocationLists() throws(PKIError) -> [RevocationList] {
        try CertificateFile.readRevocationLists(Self.revocationListsPath(in: self.path))
    }

    /// Writes new lists of the intermediates from the record, and of the roots whose key is here; the old lists of the
    /// others stay.
    ///
    /// - Parameters:
    ///   - rootKey: of a root that was brought back for this.
    ///   - includingRoot: whether to renew the list of a root whose key is here; one that is missing is made anyway.
    /// - Returns: whether the list of the root in use was renewed.
    /// - Throws: ``PKIError``: those of the files; `signing`.
    @discardableResult
    public func renewRevocationLists(
        at now: UnixTime, rootKey: SigningKey? = nil, includingRoot: Bool = true
    ) throws(PKIError) -> Bool {
        try self.change { (record) throws(PKIError) -> (Bool, [UInt8]) in
            let lists = try self.makeLists(record, at: now, rootKey: rootKey, includingRoot: includingRoot)
            try self.write(lists)
            return (lists.renewsRoot, [])
        }
    }

    /// What ``revocationListsPath(in:)`` shall hold.
    private struct Lists: Sendable {
        var lists: [RevocationList] = []
        /// Whether the list of the root in use is a new one.
        var renewsRoot = false
    }

    /// - Parameters:
    ///   - revoking: what is about to be recorded as revoked.
    ///   - authority: likewise.
    private func makeLists(
        _ record: IssuanceRecord, revoking: [IssuedCertificate] = [],
        authority: IssuanceRecord.RevokedAuthority? = nil, at now: UnixTime, rootKey: SigningKey? = nil,
        includingRoot: Bool
    ) throws(PKIError) -> Lists {
        // Another process may have made an intermediate or a root since: its list must not be left out.
        let current = try self.reopened()
        let held = try self.revocationLists()
        let authorities = record.revokedAuthorities + (authority.map { [$0] } ?? [])
        var result = Lists()
        for root in current.roots {
            let former = held.filter { $0.isSigned(by: root) }.max { $0.number < $1.number }
            var key = rootKey
            if root.publicKey != key.map({ Certificate.PublicKey($0.publicKey) }) {
                key = nil
                if includingRoot || former == nil { key = try self.rootKey(root) }
            }
            if let key {
                result.lists.append(
                    try Authority(certificate: root, key: key).makeRevocationList(
                        number: (former?.number ?? 0) + 1,
                        entries: Self.entries(authorities.filter { $0.issuer == root.keyIdentifier }), at: now,
                        lifetime: Authority.rootRevocationListLifetime))
                if root == current.root { result.renewsRoot = true }
            } else if let former {
                result.lists.append(former)
            }
        }
        let revoked = record.revoked + revoking
        // The list of the authority in use is the last: of several, readers take that.
        for issuing in current.issuers.reversed() {
            let former = held.filter { $0.isSigned(by: issuing) }.max { $0.number < $1.number }
            let entries = revoked.filter { $0.issuer == nil || $0.issuer == issuing.keyIdentifier }
                .compactMap { certificate in
                    certificate.revocation.map {
                        RevocationList.Entry(
                            serialNumber: certificate.serialNumber, revokedAt: $0.time, reason: $0.reason)
                    }
                }
            do throws(PKIError) {
                result.lists.append(
                    try self.authority(issuing).makeRevocationList(
                        number: (former?.number ?? 0) + 1, entries: entries, at: now))
            } catch {
                // A former one's key may be lost, broken or stolen with its token: that must not keep the others from
                // being told. But what is to be revoked now must come onto a list, or onto that of the root.
                let isRevoked = authority?.serialNumber == issuing.serialBytes
                let isWanted = revoking.contains { $0.issuer == issuing.keyIdentifier || $0.issuer == nil }
                guard issuing != current.issuing, Self.isAway(error), isRevoked || !isWanted else { throw error }
                if let former { result.lists.append(former) }
            }
        }
        return result
    }

    /// Whether a key is not at hand, for now or for ever.
    private static func isAway(_ error: PKIError) -> Bool {
        [.missing, .passphrase, .hardware, .signing].contains(error.code)
    }

    /// Each once: a second try after a crash may be recorded again.
    private static func entries(_ authorities: [IssuanceRecord.RevokedAuthority]) -> [RevocationList.Entry] {
        var serials: Set<[UInt8]> = []
        return authorities.filter { serials.insert($0.serialNumber).inserted }.map(\.entry)
    }

    private func write(_ lists: Lists) throws(PKIError) {
        try DurableFile.replace(
            Self.revocationListsPath(in: self.path), Array(lists.lists.map(\.pemText).joined().utf8), mode: 0o644)
    }

    // MARK: OCSP

    /// A certificate in the name of a revoked party, for the one connection that ends its session at a broker which does
    /// not look at live sessions (Mosquitto). It is recorded, but renews nothing; its key is to be thrown away.
    ///
    /// - Throws: ``PKIError`` with code `name` if the party has a certificate in force; those of the files.
    public func issueTakeover(
        _ profile: CertificateProfile, to publicKey: P256.Signing.PublicKey, at now: UnixTime
    ) throws(PKIError) -> Certificate {
        try self.change { (record) throws(PKIError) -> (Certificate, [UInt8]) in
            try Self.requireHeld(profile.spiffeID, in: record)
            guard !record.certificates(of: profile.spiffeID.id).contains(where: { $0.isInForce(at: now) }) else {
                throw PKIError(.name, "\(profile.spiffeID.id) has a certificate that is not revoked")
            }
            let authority = try self.authority(self.issuing)
            let certificate = try authority.issue(profile, to: publicKey, at: now)
            return (
                certificate,
                try IssuanceRecord.takeover(
                    certificate, of: profile.spiffeID, issuer: authority.keyIdentifier, at: now)
            )
        }
    }

    /// A certificate for a responder that answers for one of the issuing intermediates, recorded.
    public func issueResponder(
        for issuing: Certificate, to publicKey: P256.Signing.PublicKey, at now: UnixTime, lifetime: UnixTime
    ) throws(PKIError) -> Certificate {
        try self.change { (_) throws(PKIError) -> (Certificate, [UInt8]) in
            let authority = try self.authority(issuing)
            let certificate = try authority.issueResponder(
                name: "\(try self.trustDomain) OCSP responder", to: publicKey, at: now, lifetime: lifetime)
            return (certificate, try IssuanceRecord.responder(certificate, issuer: authority.keyIdentifier, at: now))
        }
    }

    // MARK: Rollover

    /// Each root and each intermediate has a list of its own in one file, which holds so many.
    private func requireRoomForAuthority() throws(PKIError) {
        guard self.roots.count + self.issuers.count < CertificateFile.maximumListCount else {
            throw PKIError(
                .chain,
                "there are \(CertificateFile.maximumListCount) roots and intermediates: retire one first (secure-mqtt pki retire)"
            )
        }
    }

    /// Authorities are told apart by their keys.
    private func requireNew(_ key: SigningKey) throws(PKIError) {
        let publicKey = Certificate.PublicKey(key.publicKey)
        guard (self.roots + self.issuers).allSatisfy({ $0.publicKey != publicKey }) else {
            throw PKIError(.exists, "a root or intermediate here has that key already: name another")
        }
    }

    /// Makes a new intermediate beside the old one, which goes on serving what it issued: from now on the new one
    /// issues. The roots are asked for their key here, or it is brought back for this.
    ///
    /// - Parameters:
    ///   - key: of the new one; in hardware, or a new one in a file.
    ///   - passphrase: for a new key in a file.
    /// - Throws: ``PKIError`` with code `missing` without the root's key; those of the files; `signing`; `exists` for a
    ///   key that an authority here has already.
    public func addIntermediate(
        rootKey: SigningKey? = nil, key: SigningKey = SigningKey(), passphrase: Passphrase?, at now: UnixTime
    ) throws(PKIError) -> AuthorityDirectory {
        try self.requireRoomForAuthority()
        try self.requireNew(key)
        let root = try self.openRoot(rootKey)
        let trustDomain = try self.trustDomain
        let next = try root.makeIntermediate(trustDomain: trustDomain, key: key, at: now)
        try self.change { (_) throws(PKIError) -> (Void, [UInt8]) in
            // The key first: a certificate that is on disk has its key.
            try KeyFile.create(
                Self.laterKeyPath("issuing", next.certificate, in: self.path), next.key, passphrase: passphrase)
            let text = ([next.certificate] + self.issuers).map(\.pemText).joined()
            try DurableFile.replace(Self.issuingPath(in: self.path), Array(text.utf8), mode: 0o644)
            return ((), [])
        }
        let directory = try self.reopened()
        directory.memory.keep(next)
        try directory.renewRevocationLists(at: now, rootKey: root.key)
        return directory
    }

    /// Makes a new root. Both are trusted from now on: parties learn the new one with their next look at the
    /// authority's certificates; only then let a new intermediate stand under it.
    ///
    /// - Parameters:
    ///   - key: of the new one; in hardware, or a new one in a file.
    ///   - passphrase: for a new key in a file.
    /// - Throws: ``PKIError``: those of the files; `signing`; `exists` for a key that an authority here has already.
    public func addRoot(
        key: SigningKey = SigningKey(), passphrase: Passphrase?, at now: UnixTime
    ) throws(PKIError) -> AuthorityDirectory {
        try self.requireRoomForAuthority()
        try self.requireNew(key)
        let next = try Authority.makeRoot(trustDomain: try self.trustDomain, key: key, at: now)
        try self.change { (_) throws(PKIError) -> (Void, [UInt8]) in
            try KeyFile.create(
                Self.laterKeyPath("root", next.certificate, in: self.path), next.key, passphrase: passphrase)
            let text = ([next.certificate] + self.roots).map(\.pemText).joined()
            try DurableFile.replace(Self.rootPath(in: self.path), Array(text.utf8), mode: 0o644)
            return ((), [])
        }
        let directory = try self.reopened()
        try directory.renewRevocationLists(at: now, rootKey: next.key)
        return directory
    }

    /// Takes a root or an intermediate, with its list, out of the files once nothing that it issued is valid any more.
    ///
    /// - Parameter force: although certificates of it are still valid: their holders are locked out.
    /// - Throws: ``PKIError`` with code `chain` for one that is in use, that is not there, or that issued what is still
    ///   valid.
    public func retire(
        _ keyIdentifier: [UInt8], at now: UnixTime, force: Bool = false
    ) throws(PKIError) -> AuthorityDirectory {
        guard self.root.keyIdentifier != keyIdentifier, self.issuing.keyIdentifier != keyIdentifier,
            (self.roots + self.issuers).contains(where: { $0.keyIdentifier == keyIdentifier })
        else { throw PKIError(.chain, "\(keyIdentifier.hexadecimal) is no former root or intermediate here") }
        guard
            !self.issuers.contains(where: { Self.issuerIdentifier(of: $0) == keyIdentifier })
        else { throw PKIError(.chain, "an intermediate still stands under that root") }
        try self.change { (record) throws(PKIError) -> (Void, [UInt8]) in
            if let revoked = self.issuers.first(where: { $0.keyIdentifier == keyIdentifier }), now <= revoked.notAfter,
                record.revocation(of: revoked) != nil, !force
            {
                throw PKIError(
                    .chain,
                    "it is revoked, and must stay known until it ends at \(CivilTime(revoked.notAfter).iso8601): a gate that does not know it does not look it up"
                )
            }
            let valid = self.valid(of: keyIdentifier, in: record, at: now)
            let locked = self.withoutAnother(valid, in: record, at: now)
            if let first = locked.first, !force {
                throw PKIError(
                    .chain, "it locks out \(locked.count) whose only valid certificate is of it, first \(first)")
            }
            // Its list first: a list of an authority that nobody knows is of no use to those who read it.
            let kept = try self.revocationLists().filter { $0.authorityKeyIdentifier != keyIdentifier }
            try self.write(Lists(lists: kept))
            for (path, certificates) in [
                (Self.rootPath(in: self.path), self.roots), (Self.issuingPath(in: self.path), self.issuers),
            ] {
                let text = certificates.filter { $0.keyIdentifier != keyIdentifier }.map(\.pemText).joined()
                try DurableFile.replace(path, Array(text.utf8), mode: 0o644)
            }
            return ((), [])
        }
        return try self.reopened()
    }

    /// The root in use with its key.
    ///
    /// - Throws: ``PKIError`` with code `missing` if the key is not here, `signing` if the given one is another's.
    private func openRoot(_ key: SigningKey?) throws(PKIError) -> Authority {
        var root: Authority
        if let key {
            root = try Authority(certificate: self.root, key: key)
        } else {
            root = try Authority(certificate: self.root, key: try self.requireRootKey(self.root))
        }
        root.publication = self.publication
        return root
    }

    // MARK: Keys

    /// Where the key of an authority lies that came after the first.
    private static func laterKeyPath(_ kind: String, _ certificate: Certificate, in path: String) -> String {
        "\(path)/\(kind)-\(Array(certificate.keyIdentifier.prefix(8)).hexadecimal).key"
    }

    /// The file of the key of the root in use, whether it is there or offline.
    public var rootKeyFile: String {
        let later = Self.laterKeyPath("root", self.root, in: self.path)
        return self.roots.count > 1 || FileManager.default.fileExists(atPath: later)
            ? later : Self.rootKeyPath(in: self.path)
    }

    /// The key of a root, wanted.
    ///
    /// - Throws: ``PKIError`` with code `missing` if it is offline, or why what is here cannot be opened.
    private func requireRootKey(_ root: Certificate) throws(PKIError) -> SigningKey {
        var trouble: PKIError?
        if let key = try self.rootKey(root, trouble: &trouble) { return key }
        throw trouble ?? PKIError(.missing, "the root's key is not here: bring it back for this, with --root-key FILE")
    }

    private func rootKey(_ root: Certificate) throws(PKIError) -> SigningKey? {
        var trouble: PKIError?
        return try self.rootKey(root, trouble: &trouble)
    }

    /// Nil if it is offline, as it should be.
    ///
    /// - Parameter trouble: why a key that is here was not opened.
    private func rootKey(_ root: Certificate, trouble: inout PKIError?) throws(PKIError) -> SigningKey? {
        for path in [Self.laterKeyPath("root", root, in: self.path), Self.rootKeyPath(in: self.path)] {
            do throws(PKIError) {
                let key = try KeyFile.read(path, passphrase: self.passphrase, hardware: self.hardware)
                if root.publicKey == Certificate.PublicKey(key.publicKey) { return key }
            } catch {
                // An encrypted key that cannot be opened here is as good as offline; so is one in a token that is not here.
                guard [.missing, .passphrase, .hardware].contains(error.code) else { throw error }
                if error.code != .missing { trouble = error }
            }
        }
        return nil
    }

    /// An issuing intermediate with its key, decrypted once in the life of the process.
    private func authority(_ issuing: Certificate) throws(PKIError) -> Authority {
        var authority: Authority
        if let known = self.memory.authority(issuing.keyIdentifier) {
            authority = known
        } else {
            let later = Self.laterKeyPath("issuing", issuing, in: self.path)
            let path = FileManager.default.fileExists(atPath: later) ? later : Self.issuingKeyPath(in: self.path)
            authority = try Authority(
                certificate: issuing,
                key: try KeyFile.read(path, passphrase: self.passphrase, hardware: self.hardware))
            self.memory.keep(authority)
        }
        authority.publication = self.publication
        return authority
    }

    /// Reads the key of the intermediate in use now, so that what is wrong with it is known before it is needed; and
    /// those of former ones, if they are at hand.
    public func unlock() throws(PKIError) {
        _ = try self.authority(self.issuing)
        for issuing in self.issuers.dropFirst() { _ = try self.isAtHand(issuing) }
    }

    /// Whether an intermediate's key can be used; that of the one in use must be.
    ///
    /// - Throws: ``PKIError``: those of the files.
    public func isAtHand(_ issuing: Certificate) throws(PKIError) -> Bool {
        do throws(PKIError) {
            _ = try self.authority(issuing)
            return true
        } catch {
            guard issuing != self.issuing, Self.isAway(error) else { throw error }
            return false
        }
    }

    // MARK: Lock

    private func read<Result: Sendable>(
        _ body: (IssuanceRecord) throws(PKIError) -> Result
    ) throws(PKIError) -> Result {
        try self.memory.refresh(Self.recordPath(in: self.path)) { (record, _) throws(PKIError) in try body(record) }
    }

    /// Runs `body` with the record under the lock, then appends what it returned.
    ///
    /// - Parameter then: what follows when they are on disk, under the same lock.
    private func change<Result: Sendable>(
        _ body: (IssuanceRecord) throws(PKIError) -> (Result, [UInt8]),
        then: (Result) throws(PKIError) -> Void = { _ in }
    ) throws(PKIError) -> Result {
        let path = Self.recordPath(in: self.path)
        let descriptor = Foundation.open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw PKIError(errno == ENOENT ? .missing : .io, "cannot open \(path): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        while flock(descriptor, LOCK_EX) != 0 {
            guard errno == EINTR else {
                throw PKIError(.io, "cannot lock \(path): \(String(cString: strerror(errno)))")
            }
        }
        return try self.memory.refresh(path) { (record, cutOff) throws(PKIError) in
            let (result, lines) = try body(record)
            if !lines.isEmpty {
                // What a crash left behind the last whole line goes, so that the next one begins at a beginning.
                guard !cutOff || ftruncate(descriptor, off_t(record.wholeLength)) == 0 else {
                    throw PKIError(.io, "cannot mend \(path): \(String(cString: strerror(errno)))")
                }
                try DurableFile.append(path, lines, mode: 0o600)
            }
            try then(result)
            return result
        }
    }
}

/// What a process remembers of its authority: the record as far as it was read, and the keys that were opened.
private final class Memory: Sendable {
    private let record = Mutex(IssuanceRecord())
    private let authorities = Mutex<[[UInt8]: Authority]>([:])

    /// Reads what was appended since the last time, then runs `body`.
    ///
    /// - Parameter body: takes the record, and whether there is a line behind it that a crash cut off.
    func refresh<Result: Sendable>(
        _ path: String, _ body: (IssuanceRecord, Bool) throws(PKIError) -> Result
    ) throws(PKIError) -> Result {
        try self.record.withLock { (record) throws(PKIError) in
            let bytes = try DurableFile.read(
                path, from: record.wholeLength, maximumSize: AuthorityDirectory.maximumRecordSize)
            let before = record.wholeLength
            do throws(PKIError) {
                try record.append(bytes, path: path)
            } catch {
                // Half of it was taken: the next look begins at the beginning.
                record = IssuanceRecord()
                throw error
            }
            return try body(record, record.wholeLength != before + bytes.count)
        }
    }

    func keep(_ authority: Authority) {
        self.authorities.withLock { $0[authority.keyIdentifier] = authority }
    }

    func authority(_ keyIdentifier: [UInt8]) -> Authority? {
        self.authorities.withLock { $0[keyIdentifier] }
    }
}

extension Certificate {
    /// The first SPIFFE ID of our form among its names; nothing is verified by that.
    package var spiffeID: SPIFFEID? {
        guard let names = try? self.extensions.subjectAlternativeNames else { return nil }
        for case .uniformResourceIdentifier(let name) in names {
            if let spiffeID = try? SPIFFEID(name) { return spiffeID }
        }
        return nil
    }

    /// The DNS names and addresses of a server.
    package var hosts: [HostName] {
        guard let names = try? self.extensions.subjectAlternativeNames else { return [] }
        return names.compactMap { name in
            switch name {
            case .dnsName(let name): .dns(name)
            case .ipAddress(let bytes): .address(Array(bytes.bytes))
            default: nil
            }
        }
    }
}

extension AuthorityDirectory {
    /// Who holds a certificate of this authority: chain, record and revocation are judged; that the key is held was
    /// shown by TLS.
    ///
    /// - Throws: ``PKIError``: those of ``IdentityVerifier/verify(chain:at:roles:)`` and of the files.
    public func identify(_ leaf: Certificate, at now: UnixTime, roles: Set<Role>) throws(PKIError) -> SPIFFEID {
        let verifier = try IdentityVerifier(
            trustDomain: try self.trustDomain, roots: self.roots, intermediates: self.issuers)
        let identity = try verifier.verify(chain: [leaf], at: now, roles: roles)
        guard let held = try self.issued(leaf.serialBytes), held.certificateHash == identity.certificateHash else {
            throw PKIError(.unknownIssuer, "the certificate of \(identity.spiffeID) is not in the record")
        }
        guard held.revocation == nil else {
            throw PKIError(.revoked, "the certificate of \(identity.spiffeID) was revoked")
        }
        return identity.spiffeID
    }

    /// What OCSP says of a serial number of one of the issuing intermediates.
    public func status(_ serialNumber: [UInt8], of issuing: Certificate) throws(PKIError) -> OCSPStatus {
        guard let held = try self.issued(serialNumber), held.issuer == nil || held.issuer == issuing.keyIdentifier
        else { return .unknown }
        return held.revocation.map { .revoked(at: $0.time, reason: $0.reason) } ?? .good
    }
}
