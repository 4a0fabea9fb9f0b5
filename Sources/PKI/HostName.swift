import Foundation

/// A name under which a broker is reached: a DNS name or an IP address, as its certificate carries it.
public enum HostName: Hashable, Sendable, CustomStringConvertible {
    /// A DNS name of at most 253 bytes; the first label may be `*`.
    case dns(String)
    /// An IPv4 (4 bytes) or IPv6 (16 bytes) address in network order.
    case address([UInt8])

    /// - Throws: ``PKIError`` with code `name`.
    public init(_ text: some StringProtocol) throws(PKIError) {
        let text = String(text)
        if let address = Self.parseAddress(text) {
            self = .address(address)
            return
        }
        let labels = Array(text.utf8).split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        let wellFormed = labels.enumerated().allSatisfy { index, label in
            if index == 0, labels.count > 2, label.elementsEqual("*".utf8) { return true }
            return (1...63).contains(label.count) && label.first != UInt8(ascii: "-")
                && label.last != UInt8(ascii: "-")
                && label.allSatisfy {
                    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0 | 0x20)
                        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || $0 == UInt8(ascii: "-")
                }
        }
        // All digits and dots is a mistyped address, not a name.
        let numeric = text.utf8.allSatisfy { $0 == UInt8(ascii: ".") || (0x30...0x39).contains($0) }
        guard wellFormed, !numeric, text.utf8.count <= 253 else {
            throw PKIError(.name, "'\(text)' is neither a DNS name nor an IP address")
        }
        self = .dns(text.lowercased())
    }

    public var description: String {
        switch self {
        case .dns(let name): return name
        case .address(let bytes):
            var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
            inet_ntop(bytes.count == 4 ? AF_INET : AF_INET6, bytes, &buffer, socklen_t(buffer.count))
            return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
    }

    private static func parseAddress(_ text: String) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 16)
        if inet_pton(AF_INET, text, &bytes) == 1 { return Array(bytes[..<4]) }
        if inet_pton(AF_INET6, text, &bytes) == 1 { return bytes }
        return nil
    }
}
