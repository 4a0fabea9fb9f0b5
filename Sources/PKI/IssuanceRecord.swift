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
    /// Nil unless revoked.
    public var revocation: Revocation?

    /// When and why it was revoked.
    public struct Revocation: Hashable, Sendable {
        public let time: UnixTime
        public let reason: RevocationList.Reason
    }

    init(_ certificate: Certificate, spiffeID: SPIFFEID, issuedAt: UnixTime) {
        self.spiffeID = spiffeID
        self.serialNumber = certificate.serialBytes
        self.issuedAt = issuedAt
        self.notBefore = certificate.notBefore
        self.notAfter = certificate.notAfter
        self.certificateHash = certificate.sha256
    }

    fileprivate init?(_ line: IssuanceRecord.Line) {
        guard let text = line.spiffeID, let spiffeID = try? SPIFFEID(text),
            let notBefore = line.notBefore, let notAfter = line.notAfter,
            let serial = [UInt8](hexadecimal: line.serial), let hash = line.sha256.flatMap([UInt8].init(hexadecimal:))
        else { return nil }
        self.spiffeID = spiffeID
        self.serialNumber = serial
        self.issuedAt = line.time
        self.notBefore = notBefore
        self.notAfter = notAfter
        self.certificateHash = hash
    }
}

/// What an authority did, one JSON object a line, only ever appended to: certificates issued and revoked.
///
/// It is what keeps an ID unique, and what a revocation list is made from.
struct IssuanceRecord: Sendable {
    fileprivate struct Line: Codable {
        var event: String
        /// Unix seconds.
        var time: UnixTime
        /// Hexadecimal.
        var serial: String
        var spiffeID: String?
        var notBefore: UnixTime?
        var notAfter: UnixTime?
        var sha256: String?
        var reason: UInt8?

        enum CodingKeys: String, CodingKey {
            case event, time, serial, sha256, reason
            case spiffeID = "spiffe_id"
            case notBefore = "not_before"
            case notAfter = "not_after"
        }
    }

    /// In the order of issue.
    private(set) var certificates: [IssuedCertificate] = []

    /// The length of the file up to its last whole line, in bytes.
    private(set) var wholeLength = 0

    /// Reads a record. A last line without its line feed was cut off by a crash: it did not happen.
    ///
    /// - Throws: ``PKIError`` with code `format` and the number of the line.
    init(_ bytes: [UInt8], path: String) throws(PKIError) {
        let decoder = JSONDecoder()
        let whole = bytes.lastIndex(of: 0x0A).map { bytes[...$0] } ?? []
        self.wholeLength = whole.count
        for (index, text) in whole.split(separator: 0x0A).enumerated() {
            guard let line = try? decoder.decode(Line.self, from: Data(text)), self.apply(line) else {
                throw PKIError(.format, "\(path), line \(index + 1): not a record of this program's")
            }
        }
    }

    private mutating func apply(_ line: Line) -> Bool {
        switch line.event {
        case "issued":
            guard let certificate = IssuedCertificate(line) else { return false }
            self.certificates.append(certificate)
        case "revoked":
            guard let serial = [UInt8](hexadecimal: line.serial),
                let index = self.certificates.firstIndex(where: { $0.serialNumber == serial }),
                let reason = line.reason.flatMap(RevocationList.Reason.init(rawValue:))
            else { return false }
            self.certificates[index].revocation = .init(time: line.time, reason: reason)
        default: return false
        }
        return true
    }

    static func issued(_ certificate: IssuedCertificate) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "issued", time: certificate.issuedAt, serial: certificate.serialNumber.hexadecimal,
                spiffeID: certificate.spiffeID.rawValue, notBefore: certificate.notBefore,
                notAfter: certificate.notAfter, sha256: certificate.certificateHash.hexadecimal))
    }

    static func revoked(
        _ certificate: IssuedCertificate, _ revocation: IssuedCertificate.Revocation
    ) throws(PKIError) -> [UInt8] {
        try Self.encode(
            Line(
                event: "revoked", time: revocation.time, serial: certificate.serialNumber.hexadecimal,
                spiffeID: certificate.spiffeID.rawValue, reason: revocation.reason.rawValue))
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

extension [UInt8] {
    /// Two lower-case digits a byte.
    package var hexadecimal: String {
        let digits = Array<UInt8>("0123456789abcdef".utf8)
        var text: [UInt8] = []
        text.reserveCapacity(2 * self.count)
        for byte in self {
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// - Parameter text: two digits a byte, of either case.
    package init?(hexadecimal text: some StringProtocol) {
        let digits = Array<UInt8>(text.utf8)
        guard digits.count.isMultiple(of: 2) else { return nil }
        self = []
        self.reserveCapacity(digits.count / 2)
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let high = Self.value(digits[index]), let low = Self.value(digits[index + 1]) else { return nil }
            self.append(high << 4 | low)
        }
    }

    private static func value(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x41...0x46: digit - 0x37
        case 0x61...0x66: digit - 0x57
        default: nil
        }
    }
}
