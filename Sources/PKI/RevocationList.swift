import Crypto
import SwiftASN1
public import X509

/// A certificate revocation list, version 2 (RFC 5280 section 5): complete, of one issuer, not indirect.
///
/// A value: parsed or made, with the exact bytes that were signed. A parsed list says nothing until
/// ``isSigned(by:)`` holds.
public struct RevocationList: Sendable {
    /// The longest list that is parsed, in bytes: about 150,000 entries with a reason.
    public static let maximumSize = 8 << 20

    /// The most entries that are parsed.
    public static let maximumCount = 150_000

    /// A revoked certificate.
    public struct Entry: Hashable, Sendable {
        /// The serial number as its minimal big-endian bytes.
        public let serialNumber: [UInt8]
        public let revokedAt: UnixTime
        /// Nil if the list gives none.
        public let reason: Reason?

        public init(serialNumber: [UInt8], revokedAt: UnixTime, reason: Reason?) {
            self.serialNumber = serialNumber
            self.revokedAt = revokedAt
            self.reason = reason
        }

        public init(_ certificate: Certificate, revokedAt: UnixTime, reason: Reason?) {
            self.init(serialNumber: certificate.serialBytes, revokedAt: revokedAt, reason: reason)
        }
    }

    /// Why a certificate was revoked (RFC 5280 section 5.3.1).
    public enum Reason: UInt8, Hashable, Sendable, CaseIterable {
        case unspecified = 0
        case keyCompromise = 1
        case caCompromise = 2
        case affiliationChanged = 3
        case superseded = 4
        case cessationOfOperation = 5
        case certificateHold = 6
        case removeFromCRL = 8
        case privilegeWithdrawn = 9
        case aACompromise = 10
    }

    public let issuer: DistinguishedName

    /// The issuer's subject key identifier, at most 64 bytes.
    public let authorityKeyIdentifier: [UInt8]

    /// Grows with each list of the issuer.
    public let number: UInt64

    public let thisUpdate: UnixTime

    /// When the next list is promised at the latest.
    public let nextUpdate: UnixTime

    /// The list as it was parsed or made.
    public let der: [UInt8]

    let signedBytes: ArraySlice<UInt8>
    let signature: ArraySlice<UInt8>
    private let revoked: RevokedEntries

    init(
        issuer: DistinguishedName, authorityKeyIdentifier: [UInt8], number: UInt64, thisUpdate: UnixTime,
        nextUpdate: UnixTime, entries: RevokedEntries, der: [UInt8], signedBytes: ArraySlice<UInt8>,
        signature: ArraySlice<UInt8>
    ) {
        self.issuer = issuer
        self.authorityKeyIdentifier = authorityKeyIdentifier
        self.number = number
        self.thisUpdate = thisUpdate
        self.nextUpdate = nextUpdate
        self.der = der
        self.signedBytes = signedBytes
        self.signature = signature
        self.revoked = entries
    }

    /// The number of revoked certificates.
    public var count: Int { self.revoked.count }

    /// The revoked certificates, in the order of their serial numbers.
    public var entries: [Entry] {
        self.revoked.all.sorted { $0.serialNumber.lexicographicallyPrecedes($1.serialNumber) }
    }

    /// - Parameter serialNumber: its minimal big-endian bytes.
    /// - Returns: nil if the certificate with this serial number is not revoked.
    public func entry(for serialNumber: [UInt8]) -> Entry? { self.revoked.find(serialNumber) }

    /// Whether the list is past its next update.
    public func isExpired(at now: UnixTime) -> Bool { now > self.nextUpdate }

    /// What is to be said of a list that is late, or will soon be; nil while there is time.
    ///
    /// A list that is past its next update still revokes what is on it. Whether it also locks everyone out is for the
    /// configuration to say (``RevocationDemand``).
    ///
    /// - Parameter margin: how long before its next update a list is worth a warning, in seconds.
    public func warning(at now: UnixTime, margin: UnixTime = 5 * 86_400) -> String? {
        guard now > self.nextUpdate - margin else { return nil }
        let time = CivilTime(self.nextUpdate).iso8601
        return self.isExpired(at: now)
            ? "the revocation list of \(self.issuer) is late: a new one was due at \(time)"
            : "the revocation list of \(self.issuer) must be renewed before \(time)"
    }

    /// Whether the authority with this certificate signed the list: name, key identifier, key usage `cRLSign` and
    /// signature agree.
    public func isSigned(by authority: Certificate) -> Bool {
        guard let rules = try? AuthorityRules(authority) else { return false }
        return self.isSigned(by: rules)
    }

    func isSigned(by rules: AuthorityRules) -> Bool {
        guard rules.certificate.subject == self.issuer,
            rules.keyIdentifier == self.authorityKeyIdentifier,
            rules.mayRevoke,
            let signature = try? P256.Signing.ECDSASignature(derRepresentation: self.signature)
        else { return false }
        return rules.publicKey.isValidSignature(signature, for: self.signedBytes)
    }

    /// `-----BEGIN X509 CRL-----` and so on, ending with a line feed.
    public var pemText: String { PEMDocument(type: "X509 CRL", derBytes: self.der).pemString + "\n" }
}

extension [RevocationList] {
    /// Those that name one of these authorities, and the others. Signatures are not checked.
    package func split(among authorities: [Certificate]) -> (known: [RevocationList], unknown: [RevocationList]) {
        var result: (known: [RevocationList], unknown: [RevocationList]) = ([], [])
        for list in self {
            let isKnown = authorities.contains {
                $0.keyIdentifier == list.authorityKeyIdentifier && $0.subject == list.issuer
            }
            if isKnown { result.known.append(list) } else { result.unknown.append(list) }
        }
        return result
    }
}
