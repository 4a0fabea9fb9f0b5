public import Crypto
import Foundation
public import Identity
import SwiftASN1
public import X509

/// An authority on disk: certificates, keys, revocation lists, and the record of what it issued.
///
/// | file | what |
/// | --- | --- |
/// | `root.pem`, `root.key` | the root; its key belongs offline, and nothing but the root's own list needs it again |
/// | `issuing.pem`, `issuing.key` | the issuing intermediate |
/// | `crl.pem` | the revocation lists of root and intermediate |
/// | `issued.jsonl` | what was issued and revoked, only ever appended to |
///
/// Keys are 0600. Changes are made under a lock on `issued.jsonl`, one process at a time.
public struct AuthorityDirectory: Sendable {
    public let path: String
    public let root: Certificate
    public let issuing: Certificate

    public static func rootPath(in path: String) -> String { "\(path)/root.pem" }
    public static func rootKeyPath(in path: String) -> String { "\(path)/root.key" }
    public static func issuingPath(in path: String) -> String { "\(path)/issuing.pem" }
    public static func issuingKeyPath(in path: String) -> String { "\(path)/issuing.key" }
    public static func revocationListsPath(in path: String) -> String { "\(path)/crl.pem" }
    static func recordPath(in path: String) -> String { "\(path)/issued.jsonl" }

    /// Makes a root and an intermediate, their first lists and an empty record, in a folder that exists.
    ///
    /// - Throws: ``PKIError`` with code `exists` if one of the files does, `io`, or `signing`.
    public static func create(
        _ path: String, trustDomain: TrustDomain, at now: UnixTime
    ) throws(PKIError) -> AuthorityDirectory {
        let root = try Authority.makeRoot(trustDomain: trustDomain, at: now)
        let issuing = try root.makeIntermediate(trustDomain: trustDomain, at: now)
        let lists = [
            try root.makeRevocationList(number: 1, at: now, lifetime: Authority.rootRevocationListLifetime),
            try issuing.makeRevocationList(number: 1, at: now),
        ]
        // The record first: with it the folder is taken.
        try DurableFile.create(Self.recordPath(in: path), [], mode: 0o600)
        try KeyFile.create(Self.rootKeyPath(in: path), root.key)
        try KeyFile.create(Self.issuingKeyPath(in: path), issuing.key)
        try CertificateFile.create(Self.rootPath(in: path), [root.certificate])
        try CertificateFile.create(Self.issuingPath(in: path), [issuing.certificate])
        try DurableFile.create(
            Self.revocationListsPath(in: path), Array(lists.map(\.pemText).joined().utf8), mode: 0o644)
        return AuthorityDirectory(path: path, root: root.certificate, issuing: issuing.certificate)
    }

    /// Opens an authority; keys are read only when something is issued or revoked.
    ///
    /// - Throws: ``PKIError`` with code `missing`, `format`, `chain` or `io`.
    public static func open(_ path: String) throws(PKIError) -> AuthorityDirectory {
        func one(_ path: String) throws(PKIError) -> Certificate {
            let certificates = try CertificateFile.read(path)
            guard certificates.count == 1 else { throw PKIError(.chain, "\(path) holds more than one certificate") }
            return certificates[0]
        }
        return AuthorityDirectory(
            path: path, root: try one(Self.rootPath(in: path)), issuing: try one(Self.issuingPath(in: path)))
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

    /// What was issued, in that order, with what was revoked.
    ///
    /// - Throws: ``PKIError`` with code `missing`, `permissions`, `format` or `io`.
    public func issued() throws(PKIError) -> [IssuedCertificate] {
        let path = Self.recordPath(in: self.path)
        return try IssuanceRecord(try DurableFile.read(path, maximumSize: 256 << 20), path: path).certificates
    }

    /// Issues a certificate. The caller has proof that the subject holds the private key.
    ///
    /// - Parameters:
    ///   - renewing: the ID has a certificate already, of this very role and spelling, and gets another. Otherwise an
    ///     ID that was given out before, to whatever role and in whatever case, is refused.
    /// - Throws: ``PKIError`` with code `name` if the ID is taken, or is to be renewed and unknown; `trust-domain` for
    ///   a profile of another one; those of the files; `signing`.
    public func issue(
        _ profile: CertificateProfile, to publicKey: P256.Signing.PublicKey, at now: UnixTime, renewing: Bool = false
    ) throws(PKIError) -> Certificate {
        try self.change { (record) throws(PKIError) -> (Certificate, [UInt8]) in
            guard try self.trustDomain == profile.spiffeID.trustDomain else {
                throw PKIError(.trustDomain, "\(profile.spiffeID) is not of this authority's trust domain")
            }
            let holders = record.certificates.map(\.spiffeID).filter { $0.id.folded == profile.spiffeID.id.folded }
            if renewing {
                guard holders.contains(profile.spiffeID) else {
                    throw PKIError(
                        .name, "there is no certificate of \(profile.spiffeID.role) \(profile.spiffeID.id) to renew")
                }
            } else if let holder = holders.first {
                throw PKIError(
                    .name,
                    "\(profile.spiffeID.id) is taken by \(holder.role) \(holder.id): IDs are unique, without case")
            }
            let certificate = try self.readIssuing().issue(profile, to: publicKey, at: now)
            let issued = IssuedCertificate(certificate, spiffeID: profile.spiffeID, issuedAt: now)
            return (certificate, try IssuanceRecord.issued(issued))
        }
    }

    /// Revokes every certificate of an ID that is not revoked, and writes a new list of the intermediate.
    ///
    /// - Returns: those that were revoked now.
    /// - Throws: ``PKIError`` with code `name` if nothing is left to revoke; those of the files; `signing`.
    public func revoke(
        _ id: Identifier, reason: RevocationList.Reason, at now: UnixTime
    ) throws(PKIError) -> [IssuedCertificate] {
        let revoked = try self.change { (record) throws(PKIError) -> ([IssuedCertificate], [UInt8]) in
            let matching = record.certificates.filter { $0.spiffeID.id == id && $0.revocation == nil }
            guard !matching.isEmpty else { throw PKIError(.name, "\(id) has no certificate that is not revoked") }
            // Without the key there would be no list that says so.
            _ = try self.readIssuing()
            let revocation = IssuedCertificate.Revocation(time: now, reason: reason)
            var lines: [UInt8] = []
            for certificate in matching {
                lines += try IssuanceRecord.revoked(certificate, revocation)
            }
            return (matching, lines)
        }
        try self.renewRevocationLists(at: now)
        return revoked
    }

    /// Writes a new list of the intermediate from the record, and of the root if its key is here; the root's old list
    /// stays otherwise.
    ///
    /// - Returns: whether the root's list was renewed.
    /// - Throws: ``PKIError``: those of the files; `signing`.
    @discardableResult
    public func renewRevocationLists(at now: UnixTime) throws(PKIError) -> Bool {
        try self.change { (record) throws(PKIError) -> (Bool, [UInt8]) in
            let path = Self.revocationListsPath(in: self.path)
            let held = try CertificateFile.readRevocationLists(path)
            func next(_ authority: Certificate) -> UInt64 {
                (held.filter { $0.isSigned(by: authority) }.map(\.number).max() ?? 0) + 1
            }
            let entries = record.certificates.compactMap { certificate in
                certificate.revocation.map {
                    RevocationList.Entry(
                        serialNumber: certificate.serialNumber, revokedAt: $0.time, reason: $0.reason)
                }
            }
            let issuing = try self.readIssuing()
                .makeRevocationList(number: next(self.issuing), entries: entries, at: now)
            var rootLists = held.filter { $0.isSigned(by: self.root) }
            var renewsRoot = false
            do throws(PKIError) {
                let key = try KeyFile.read(Self.rootKeyPath(in: self.path))
                rootLists = [
                    try Authority(certificate: self.root, key: key).makeRevocationList(
                        number: next(self.root), at: now, lifetime: Authority.rootRevocationListLifetime)
                ]
                renewsRoot = true
            } catch {
                // Offline, as it should be.
                guard error.code == .missing else { throw error }
            }
            let text = (rootLists + [issuing]).map(\.pemText).joined()
            try DurableFile.replace(path, Array(text.utf8), mode: 0o644)
            return (renewsRoot, [])
        }
    }

    private func readIssuing() throws(PKIError) -> Authority {
        try Authority(certificate: self.issuing, key: try KeyFile.read(Self.issuingKeyPath(in: self.path)))
    }

    /// Runs `body` with the record under the lock, then appends what it returned.
    private func change<Result>(
        _ body: (IssuanceRecord) throws(PKIError) -> (Result, [UInt8])
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
        let bytes = try DurableFile.read(path, maximumSize: 256 << 20)
        let record = try IssuanceRecord(bytes, path: path)
        let (result, lines) = try body(record)
        guard !lines.isEmpty else { return result }
        // What a crash left behind the last whole line goes, so that the next line begins at the beginning of one.
        guard record.wholeLength == bytes.count || ftruncate(descriptor, off_t(record.wholeLength)) == 0 else {
            throw PKIError(.io, "cannot mend \(path): \(String(cString: strerror(errno)))")
        }
        try DurableFile.append(path, lines, mode: 0o600)
        return result
    }
}
