public import Connections

/// Addresses with a common prefix, such as `10.0.0.0/8`, `2001:db8::/32`, or a single one.
public struct AddressRange: Hashable, Sendable, CustomStringConvertible {
    private let base: NetworkAddress
    private let bits: Int

    public let description: String

    /// - Throws: ``BrokerError`` with code `configuration`.
    public init(_ text: String) throws(BrokerError) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, let base = NetworkAddress(first) else {
            throw BrokerError(.configuration, "'\(text)' is no address or range of addresses, such as 10.0.0.0/8")
        }
        let width = base.isIPv4 ? 32 : 128
        let bits = parts.count == 1 ? width : Int(parts[1]) ?? -1
        guard (0...width).contains(bits) else {
            throw BrokerError(.configuration, "'\(text)': a prefix has 0 to \(width) bits")
        }
        self.base = base
        self.bits = bits + 128 - width
        self.description = text
    }

    public func contains(_ address: NetworkAddress) -> Bool { address.hasPrefix(of: self.base, bits: self.bits) }
}
