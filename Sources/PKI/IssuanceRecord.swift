import Foundation
public import Identity
import X509

/// A certificate that an ``AuthorityDirectory`` issued.
public struct IssuedCertificate: Hashable, Sendable {
    public let spiffeID: SPIFFEID
    /// The serial number as its minimal big-endian bytes.
    public let serialNumber: [UInt8]
    public let issuedAt: UnixTime
    public let notBefore: UnixTime
    public let notAfter: UnixTime
    /// SHA-256 of the certificate's DER, 32 bytes.
    public let certificateHash: [UInt8]
    /// Key identifier of the authority that issued it; nil in records of a time when there was but one.
    public let issuer: [UInt8]?
    /// Who asked for it; nil in older records.
    public let requester: String?
    /// Nil unless revoked.
    public var revocation: Revocation?

    /// When and why it was revoked.
    public struct Revocation: Hashable, Sendable {
        public let time: UnixTime
        public let reason: RevocationList.Reason
        /// Who asked for it; nil in older records.
        public let requester: String?
    }

    /// Whether it is valid at that time and not revoked.
    public func isInForce(at now: UnixTime) -> Bool { self.revocation == nil && now <= self.notAfter }

    init(
        _ certificate: Certificate, spiffeID: SPIFFEID, issuedAt: UnixTime, issuer: [UInt8], requester: String?
    ) {
        self.spiffeID = spiffeID
        self.serialNumber = certificate.serialBytes
        self.issuedAt = issuedAt
        self.notBefore = certificate.notBefore
        self.notAfter = certificate.notAfter
        self.certificateHash = certificate.sha256
        self.issuer = issuer
        self.requester = requester
    }

    fileprivate init?(_ line: IssuanceRecord.Line) {
        guard let text = line.spiffeID, let spiffeID = try? SPIFFEID(text),
            let notBefore = line.notBefore, let notAfter = line.notAfter,
            let serial = line.serial.flatMap([UInt8].init(hexadecimal:)),
            let hash = line.sha256.flatMap([UInt8].init(hexadecimal:))
        else { return nil }
        self.spiffeID = spiffeID
        self.serialNumber = serial
        self.issuedAt = line.time
        self.notBefore = notBefore
        self.notAfter = notAfter
        self.certificateHash = hash
        self.issuer = line.issuer.flatMap([UInt8].init(hexadecimal:))
        self.requester = line.requester
    }
}

/// The promise to certify an ID once, to whoever brings its token.
public struct Invitation: Hashable, Sendable {
    public let spiffeID: SPIFFEID
    /// For a server: the names that its certificate will carry.
    public let hosts: [HostName]
    public let createdAt: UnixTime
    public let expiresAt: UnixTime
    public let requester: String
    /// SHA-256 of the token; the token itself is kept nowhere.
    let tokenHash: [UInt8]
    /// What it was used for.
    var use: Use?

    struct Use: Hashable, Sendable {
        /// Of the key that was certified.
        let keyHash: [UInt8]
        let certificate: [UInt8]
    }

    func isOpen(at now: UnixTime) -> Bool { self.use == nil && now <= self.expiresAt }
}

/// An operator's word that an ID may be renewed although its certificate has expired.
struct RenewalAllowance: Hashable, Sendable {
    let spiffeID: SPIFFEID
    let expiresAt: UnixTime
}

/// Something that an authority did, under the number of its line in the record: numbers only grow.
public struct AuthorityEvent: Sendable {
    public enum Kind: String, Sendable {
        case issued, revoked
    }

    public let number: Int
    public let kind: Kind
    public let certificate: IssuedCertificate
}

/// What an authority did, one JSON object a line, only ever appended to: invitations, certificates issued and revoked,
/// each with who asked.
///
/// It is what keeps an ID unique, and what a revocation list is made from. Events:
///
/// | event | what |
/// | --- | --- |
/// | `issued` | a certificate, whole |
/// | `revoked` | a serial number, with reason |
/// | `invited` | an ID may be certified once by a token, of which only the hash is here |
/// | `renewal-allowed` | an ID may be renewed with an expired certificate, once, until a time |
/// | `authority-revoked` | an intermediate's own serial number, with reason; it belongs on the list of the root above it |
/// | `withdrawn` | what an ID had open, invitation or renewal, is closed |
/// | `responder` | a certificate for the OCSP responder |
/// | `takeover` | a certificate of a minute in the name of a revoked party, which ended its session at a Mosquitto |
struct IssuanceRecord: Sendable {
    fileprivate struct Line: Codable {
        var event: String
        /// Unix seconds.
        var time: UnixTime
        /// Hexadecimal.
        var serial: String?
        var spiffeID: String?
        var notBefore: UnixTime?
        var notAfter: UnixTime?
        var sha256: String?
        var reason: UInt8?
        /// Hexadecimal: the key identifier of the issuing authority.
        var issuer: String?
        var requester: String?
        /// Hexadecimal: the hash of the token of the invitation that this created, or used.
        var token: String?
        /// Hexadecimal: the hash of the key that was certified by an invitation.
        var key: String?
        /// Base64 of the DER.
        var certificate: String?
        var expires: UnixTime?
        var hosts: [String]?
        /// In an operator's words.
        var note: String?

        enum CodingKeys: String, CodingKey {
            case event, time, serial, sha256, reason, issuer, requester, token, key, certificate, expires, hosts, note
            case spiffeID = "spiffe_id"
            case notBefore = "not_before"
            case notAfter = "not_after"
        }
    }

    /// An intermediate that is revoked.
    struct RevokedAuthority: Hashable, Sendable {
        /// Minimal big-endian bytes.
        let serialNumber: [UInt8]
        /// Key identifier of the root that issued it.
        let issuer: [UInt8]
        let revocation: IssuedCertificate.Revocation

        var entry: RevocationList.Entry {
            RevocationList.Entry(
                serialNumber: self.serialNumber, revokedAt: self.revocation.time, reason: self.revocation.reason)
        }
    }

    private(set) var revokedAuthorities: [RevokedAuthority] = []

    /// In the order of issue.
    private(set) var certificates: [IssuedCertificate] = []

    /// The length of the file up to its last whole line, in bytes.
    private(set) var wholeLength = 0

    private var lineCount = 0
    /// Places in ``certificates``.
    private var bySerial: [[UInt8]: Int] = [:]
    private var byFoldedID: [String: [Int]] = [:]
    private var byRole: [Role: [Int]] = [:]
    private var changes: [(number: Int, kind: AuthorityEvent.Kind, place: Int)] = []
    /// The newest of each ID.
    private var invitations: [String: Invitation] = [:]
    private var allowances: [String: RenewalAllowance] = [:]

    init() {}

    /// Takes what was appended. A last line without its line feed was cut off by a crash: it did not happen.
    ///
    /// - Throws: ``PKIError`` with code `format` and the number of the line.
    mutating func append(_ bytes: [UInt8], path: String) throws(PKIError) {
        guard let end = bytes.lastIndex(of: 0x0A) else { return }
        let decoder = JSONDecoder()
        for text in bytes[..<end].split(separator: 0x0A, omittingEmptySubsequences: false) {
            self.lineCount += 1
            guard !text.isEmpty else { continue }
            guard let line = try? decoder.decode(Line.self, from: Data(text)), self.apply(line) else {
                throw PKIError(.format, "\(path), line \(self.lineCount): not a record of this program's")
            }
        }
        self.wholeLength += end + 1
    }

    // MARK: What it says

    func certificate(_ serialNumber: [UInt8]) -> IssuedCertificate? {
        self.bySerial[serialNumber].map { self.certificates[$0] }
    }

    /// The certificates of an ID, whatever its case, in the order of issue.
    func certificates(of id: Identifier) -> [IssuedCertificate] {
        (self.byFoldedID[id.folded] ?? []).map { self.certificates[$0] }
    }

    /// The certificates of a role, in the order of issue.
    func certificates(of role: Role) -> [IssuedCertificate] { (self.byRole[role] ?? []).map { self.certificates[$0] } }

    func revocation(of intermediate: Certificate) -> IssuedCertificate.Revocation? {
        self.revokedAuthorities.first { $0.serialNumber == intermediate.serialBytes }?.revocation
    }

    func invitation(_ id: Identifier) -> Invitation? { self.invitations[id.folded] }

    func allowance(_ id: Identifier) -> RenewalAllowance? { self.allowances[id.folded] }

    /// Whose invitation is unused, or whose renewal is allowed, under that ID; nil if nothing is open.
    func open(_ id: Identifier, at now: UnixTime) -> SPIFFEID? {
        if let invitation = self.invitation(id), invitation.spiffeID.id == id, invitation.isOpen(at: now) {
            return invitation.spiffeID
        }
        return self.allowance(id).flatMap { $0.spiffeID.id == id && now <= $0.expiresAt ? $0.spiffeID : nil }
    }

    var revoked: [IssuedCertificate] { self.certificates.filter { $0.revocation != nil } }

    /// - Parameter number: only what came later.
    func events(after number: Int, limit: Int) -> [AuthorityEvent] {
        // Numbers grow: the first that is wanted is found by halving.
        var (low, high) = (0, self.changes.count)
        while low < high {
            let middle = (low + high) / 2
            if self.changes[middle].number <= number { low = middle + 1 } else { high = middle }
        }
        return self.changes[low...].prefix(limit).map {
            AuthorityEvent(number: $0.number, kind: $0.kind, certificate: self.certificates[$0.place])
        }
    }

    /// The number of the newest event.
    var lastEvent: Int { self.changes.last?.number ?? 0 }

    // MARK: Reading lines

    private mutating func apply(_ line: Line) -> Bool {
        switch line.event {
        case "issued": return self.applyIssued(line)
        case "revoked":
            guard let serial = line.serial.flatMap([UInt8].init(hexadecimal:)), let place = self.bySerial[serial],
                let reason = line.reason.flatMap(RevocationList.Reason.init(rawValue:))
            else { return false }
            self.certificates[place].revocation = .init(time: line.time, reason: reason, requester: line.requester)
            self.changes.append((self.lineCount, .revoked, place))
        case "authority-revoked":
            guard let serial = line.serial.flatMap([UInt8].init(hexadecimal:)),
                let issuer = line.issuer.flatMap([UInt8].init(hexadecimal:)),
                let reason = line.reason.flatMap(RevocationList.Reason.init(rawValue:))
            else { return false }
            self.revokedAuthorities.append(
                .init(
                    serialNumber: serial, issuer: issuer,
                    revocation: .init(time: line.time, reason: reason, requester: line.requester)))
        case "invited":
            guard let text = line.spiffeID, let spiffeID = try? SPIFFEID(text), let expires = line.expires,
                let hash = line.token.flatMap([UInt8].init(hexadecimal:)),
                let hosts = try? (line.hosts ?? []).map({ try HostName($0) })
            else { return false }
            self.invitations[spiffeID.id.folded] = Invitation(
                spiffeID: spiffeID, hosts: hosts, createdAt: line.time, expiresAt: expires,
                requester: line.requester ?? "", tokenHash: hash)
        case "renewal-allowed":
            guard let text = line.spiffeID, let spiffeID = try? SPIFFEID(text), let expires = line.expires
            else { return false }
            self.allowances[spiffeID.id.folded] = RenewalAllowance(spiffeID: spiffeID, expiresAt: expires)
        case "withdrawn":
            guard let text = line.spiffeID, let spiffeID = try? SPIFFEID(text) else { return false }
            let folded = spiffeID.id.folded
            // A used one stays: who fetches its certificate again is told that it was revoked.
            if self.invitations[folded]?.use == nil { self.invitations[folded] = nil }
            self.allowances[folded] = nil
        case "responder", "takeover": break
        default: return false
        }
        return true
    }

    private mutating func applyIssued(_ line: Line) -> Bool {
        guard let certificate = IssuedCertificate(line) else { return false }
        let (place, folded) = (self.certificates.count, certificate.spiffeID.id.folded)
        self.certificates.append(certificate)
        self.bySerial[certificate.serialNumber] = place
        self.byFoldedID[folded, default: []].append(place)
        self.byRole[certificate.spiffeID.role, default: []].append(place)
        self.changes.append((self.lineCount, .issued, place))
        // One certificate uses up what allowed it.
        self.allowances[folded] = nil
        if let token = line.token.flatMap([UInt8].init(hexadecimal:)),
            self.invitations[folded]?.tokenHash == token,
            let key = line.key.flatMap([UInt8].init(hexadecimal:)),
            let der = line.certificate.flatMap({ Data(base64Encoded: $0) })
        {
            self.invitations[folded]?.use = .init(keyHash: key, certificate: Array(der))
        }
        return true
    }

    // MARK: Writing lines

    /// - Parameters:
    ///   - invitation: the one that was used, with the hash of the key.
    ///   - note: why, in an operator's words.
    static func issued(
        _ certificate: IssuedCertificate, der: [UInt8], invitation: (token: [UInt8], key: [UInt8])? = nil,
        note: String? = nil
    ) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "issued", time: certificate.issuedAt, serial: certificate.serialNumber.hexadecimal,
                spiffeID: certificate.spiffeID.rawValue, notBefore: certificate.notBefore,
                notAfter: certificate.notAfter, sha256: certificate.certificateHash.hexadecimal,
                issuer: certificate.issuer?.hexadecimal, requester: certificate.requester,
                token: invitation?.token.hexadecimal, key: invitation?.key.hexadecimal,
                certificate: Data(der).base64EncodedString(), note: note))
    }

    static func revoked(
        _ certificate: IssuedCertificate, _ revocation: IssuedCertificate.Revocation
    ) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "revoked", time: revocation.time, serial: certificate.serialNumber.hexadecimal,
                spiffeID: certificate.spiffeID.rawValue, reason: revocation.reason.rawValue,
                requester: revocation.requester))
    }

    static func authorityRevoked(_ authority: RevokedAuthority) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "authority-revoked", time: authority.revocation.time,
                serial: authority.serialNumber.hexadecimal, reason: authority.revocation.reason.rawValue,
                issuer: authority.issuer.hexadecimal, requester: authority.revocation.requester))
    }

    static func invited(_ invitation: Invitation) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "invited", time: invitation.createdAt, spiffeID: invitation.spiffeID.rawValue,
                requester: invitation.requester, token: invitation.tokenHash.hexadecimal,
                expires: invitation.expiresAt,
                hosts: invitation.hosts.isEmpty ? nil : invitation.hosts.map(\.description)))
    }

    static func renewalAllowed(
        _ allowance: RenewalAllowance, requester: String, note: String?, at now: UnixTime
    ) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "renewal-allowed", time: now, spiffeID: allowance.spiffeID.rawValue, requester: requester,
                expires: allowance.expiresAt, note: note))
    }

    static func withdrawn(
        _ spiffeID: SPIFFEID, requester: String?, at now: UnixTime
    ) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(event: "withdrawn", time: now, spiffeID: spiffeID.rawValue, requester: requester))
    }

    static func responder(_ certificate: Certificate, issuer: [UInt8], at now: UnixTime) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "responder", time: now, serial: certificate.serialBytes.hexadecimal,
                notBefore: certificate.notBefore, notAfter: certificate.notAfter,
                sha256: certificate.sha256.hexadecimal, issuer: issuer.hexadecimal))
    }

    static func takeover(
        _ certificate: Certificate, of spiffeID: SPIFFEID, issuer: [UInt8], at now: UnixTime
    ) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "takeover", time: now, serial: certificate.serialBytes.hexadecimal,
                spiffeID: spiffeID.rawValue, notBefore: certificate.notBefore, notAfter: certificate.notAfter,
                sha256: certificate.sha256.hexadecimal, issuer: issuer.hexadecimal))
    }

    private static func encode(_ line: Line) throws(PKIError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            return Array(try encoder.encode(line)) + [0x0A]
        } catch {
            throw PKIError(.format, "cannot write the record: \(error)")
        }
    }
}
