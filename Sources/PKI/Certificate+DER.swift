import Crypto
import Foundation
import SwiftASN1
public import X509

extension Certificate {
    /// The longest certificate that is parsed, in bytes. Ours take about 600.
    public static let maximumSize = 8_192

    /// Parses a certificate, bounded.
    ///
    /// - Throws: ``PKIError`` with code `too-large` or `format`.
    public init(der bytes: [UInt8]) throws(PKIError) {
        guard bytes.count <= Self.maximumSize else {
            throw PKIError(.tooLarge, "a certificate of \(bytes.count) bytes; at most \(Self.maximumSize) are accepted")
        }
        do {
            try self.init(derEncoded: bytes)
        } catch {
            throw PKIError(.format, "not an X.509 certificate in DER")
        }
    }

    /// The certificate exactly as it was parsed or issued.
    public var der: [UInt8] {
        var serializer = DER.Serializer()
        // Serialising a certificate copies the bytes that it keeps, and cannot fail.
        try? serializer.serialize(self)
        return serializer.serializedBytes
    }

    /// `-----BEGIN CERTIFICATE-----` and so on, ending with a line feed.
    public var pemText: String {
        PEMDocument(type: "CERTIFICATE", derBytes: self.der).pemString + "\n"
    }

    /// SHA-256 of the DER, 32 bytes: what a COSE `x5t` names (RFC 9360 section 2).
    public var sha256: [UInt8] { Array(SHA256.hash(data: self.der)) }

    /// The subject key identifier; that of RFC 5280 section 4.2.1.2, method 1, where the certificate has none.
    package var keyIdentifier: [UInt8] {
        let identifier =
            (try? self.extensions.subjectKeyIdentifier) ?? SubjectKeyIdentifier(hash: self.publicKey)
        return Array(identifier.keyIdentifier)
    }

    /// The serial number as its minimal big-endian bytes.
    package var serialBytes: [UInt8] { Array(self.serialNumber.bytes) }

    package var notBefore: UnixTime { UnixTime(self.notValidBefore.timeIntervalSince1970) }

    package var notAfter: UnixTime { UnixTime(self.notValidAfter.timeIntervalSince1970) }
}

extension Date {
    init(_ time: UnixTime) { self.init(timeIntervalSince1970: Double(time)) }
}
