/// Bytes that must not be seen: printing, logging or reflecting it shows none of them.
public struct Secret: Hashable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible,
    CustomDebugStringConvertible, CustomReflectable
{
    /// The bytes themselves.
    public let bytes: [UInt8]

    public init(_ bytes: some Sequence<UInt8>) { self.bytes = Array(bytes) }

    /// The UTF-8 of a text.
    public init(_ text: String) { self.bytes = Array(text.utf8) }

    public init(stringLiteral text: String) { self.init(text) }

    public var description: String { "(secret)" }
    public var debugDescription: String { "(secret)" }
    public var customMirror: Mirror { Mirror(self, children: [] as [Mirror.Child]) }
}
