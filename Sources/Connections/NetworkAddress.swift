import Foundation

/// An IPv4 or IPv6 address, as a value to compare, to count by, and to print.
public struct NetworkAddress: Hashable, Sendable, CustomStringConvertible {
    /// 16 bytes; an IPv4 address is the mapped one (RFC 4291 section 2.5.5.2).
    private let high: UInt64
    private let low: UInt64

    private static let mappedPrefix: UInt64 = 0xFFFF_0000_0000

    private init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// - Parameter v4: in the order of the network.
    public init(v4: UInt32) {
        self.init(high: 0, low: Self.mappedPrefix | UInt64(v4))
    }

    /// The two halves, in the order of the network.
    public init(v6 high: UInt64, _ low: UInt64) { self.init(high: high, low: low) }

    /// Reads `192.0.2.1` or `2001:db8::1`, without brackets; a zone (`%eth0`) is left out.
    ///
    /// - Returns: `nil` if it is neither.
    public init?(_ text: some StringProtocol) {
        let text = String(text.prefix { $0 != "%" })
        var v4 = in_addr()
        if inet_pton(AF_INET, text, &v4) == 1 {
            self.init(v4: UInt32(bigEndian: v4.s_addr))
            return
        }
        var v6 = in6_addr()
        guard inet_pton(AF_INET6, text, &v6) == 1 else { return nil }
        let halves = withUnsafeBytes(of: &v6) {
            ($0.loadUnaligned(as: UInt64.self), $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        }
        self.init(high: UInt64(bigEndian: halves.0), low: UInt64(bigEndian: halves.1))
    }

    public var isIPv4: Bool { self.high == 0 && self.low >> 32 == Self.mappedPrefix >> 32 }

    /// What limits count by: an IPv4 address itself; of IPv6 its /64, for that is what one customer has at least.
    public var limitKey: NetworkAddress {
        self.isIPv4 ? self : NetworkAddress(high: self.high, low: 0)
    }

    public var description: String {
        if self.isIPv4 {
            return (0..<4).map { String(UInt8(truncatingIfNeeded: self.low >> (24 - 8 * $0))) }.joined(separator: ".")
        }
        var address = in6_addr()
        withUnsafeMutableBytes(of: &address) {
            $0.storeBytes(of: self.high.bigEndian, as: UInt64.self)
            $0.storeBytes(of: self.low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(AF_INET6, &address, &text, socklen_t(INET6_ADDRSTRLEN)) != nil else { return "?" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Whether the first bits are those of another one; IPv4 counts as the mapped address.
    package func hasPrefix(of other: NetworkAddress, bits: Int) -> Bool {
        func mask(_ bits: Int) -> UInt64 { bits <= 0 ? 0 : bits >= 64 ? .max : ~(UInt64.max >> UInt64(bits)) }
        return (self.high ^ other.high) & mask(bits) == 0 && (self.low ^ other.low) & mask(bits - 64) == 0
    }
}
