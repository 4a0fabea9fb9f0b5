import Enrolment
import Identity
import PKI

extension FuzzTarget {
    /// What an authority answers a device.
    public static let enrolment: [FuzzTarget] = {
        // Without a PKI there is nothing to begin from, and the test that counts seeds says so.
        guard let trustDomain = try? TrustDomain("energy.example"),
            let root = try? Authority.makeRoot(trustDomain: trustDomain, at: 1_800_000_000),
            let issuing = try? root.makeIntermediate(trustDomain: trustDomain, at: 1_800_000_000)
        else { return [] }
        let one = Self.certsOnly([root.certificate.der])
        let two = Self.certsOnly([root.certificate.der, issuing.certificate.der])
        return [
            FuzzTarget("CertificateBundle", seeds: [one, two]) { bytes in
                guard let bundle = try? CertificateBundle(der: bytes) else { return }
                precondition(
                    (1...CertificateBundle.maximumCount).contains(bundle.certificates.count), "a bounded number")
                _ = Joining.intermediates(bundle.certificates, under: root.certificate)
            },
            FuzzTarget("CertificateBundle in base64", seeds: [Array("TUlJ\r\nQg==".utf8)]) { bytes in
                _ = try? CertificateBundle(base64: bytes)
            },
        ]
    }()

    /// A certs-only SignedData (RFC 5652), by hand.
    public static func certsOnly(_ certificates: [[UInt8]]) -> [UInt8] {
        let data: [UInt8] = [0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x01]
        let signedData: [UInt8] = [0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02]
        var body: [UInt8] = [0x02, 0x01, 0x01, 0x31, 0x00]
        body += Self.der(0x30, data)
        body += Self.der(0xA0, certificates.flatMap(\.self))
        body += [0x31, 0x00]
        return Self.der(0x30, signedData + Self.der(0xA0, Self.der(0x30, body)))
    }

    /// Tag, length, contents.
    public static func der(_ tag: UInt8, _ contents: [UInt8]) -> [UInt8] {
        switch contents.count {
        case ..<0x80: [tag, UInt8(contents.count)] + contents
        case ..<0x100: [tag, 0x81, UInt8(contents.count)] + contents
        default: [tag, 0x82, UInt8(contents.count >> 8), UInt8(contents.count & 0xFF)] + contents
        }
    }
}
