import Crypto
import Foundation
import Identity
import PKI
public import X509

/// Where an authority is: `https://ca.energy.example:8443`.
public struct AuthorityAddress: Hashable, Sendable, CustomStringConvertible {
    /// A DNS name or an IP address, as its certificate bears it.
    public let host: String
    public let port: Int

    /// - Throws: ``EnrolmentError`` with code `address` for anything but `https://HOST[:PORT][/]`.
    public init(_ text: some StringProtocol) throws(EnrolmentError) {
        // Before Foundation encodes what does not belong into an address.
        guard text.utf8.allSatisfy({ (0x21...0x7E).contains($0) && $0 != UInt8(ascii: "%") }),
            let url = URLComponents(string: String(text)), url.scheme?.lowercased() == "https",
            let host = url.host, !host.isEmpty, url.user == nil, url.password == nil, url.query == nil,
            url.fragment == nil, ["", "/"].contains(url.path), (1...65_535).contains(url.port ?? 443)
        else {
            throw EnrolmentError(
                .address, "'\(text)' is not the address of an authority: write https://HOST:PORT, as in the invitation")
        }
        self.host = host.hasPrefix("[") && host.hasSuffix("]") ? String(host.dropFirst().dropLast()) : host
        self.port = url.port ?? 443
    }

    public var description: String {
        "https://\(self.host.contains(":") ? "[\(self.host)]" : self.host):\(self.port)"
    }
}

/// SHA-256 of a root certificate's DER, as an invitation carries it: `SHA256:` and 64 hexadecimal digits.
public struct RootFingerprint: Hashable, Sendable, CustomStringConvertible {
    /// 32 bytes.
    public let bytes: [UInt8]

    public init(_ certificate: Certificate) { self.bytes = certificate.sha256 }

    /// Takes the digits in either case, with colons or spaces between them or without.
    ///
    /// - Throws: ``EnrolmentError`` with code `fingerprint`.
    public init(_ text: some StringProtocol) throws(EnrolmentError) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let digits = (parts.count == 2 && parts[0].uppercased() == "SHA256" ? String(parts[1]) : String(text))
            .filter { $0 != ":" && $0 != " " }
        guard let bytes = [UInt8](hexadecimal: digits), bytes.count == 32 else {
            throw EnrolmentError(
                .fingerprint,
                "'\(text)' is not a fingerprint: SHA256: and 64 hexadecimal digits, as in the invitation")
        }
        self.bytes = bytes
    }

    public var description: String { "SHA256:\(self.bytes.hexadecimal)" }
}
