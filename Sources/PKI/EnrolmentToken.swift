import Crypto

/// The one-time secret of an invitation: 26 letters and digits, 130 random bits, without those that are mistaken for
/// others (Crockford's base 32, lower case).
public struct EnrolmentToken: Sendable {
    public static let length = 26

    /// What is given to the device, once.
    public let text: String

    /// Makes a new one from the system's random source.
    public init() {
        var random = SystemRandomNumberGenerator()
        self.init(using: &random)
    }

    /// As ``init()``, with randomness handed in.
    public init(using random: inout some RandomNumberGenerator) {
        let digits = Array("0123456789abcdefghjkmnpqrstvwxyz")
        self.text = String((0..<Self.length).map { _ in digits[Int.random(in: 0..<32, using: &random)] })
    }

    /// What an authority keeps of it. A plain hash is enough for what cannot be guessed.
    var hash: [UInt8] { Array(Self.digest(self.text)) }

    /// Whether a hash is that of a text, in a time that says nothing about where they differ.
    static func isHash(_ hash: [UInt8], of text: String) -> Bool { Self.digest(text) == hash }

    private static func digest(_ text: String) -> SHA256Digest { SHA256.hash(data: Array(text.utf8)) }
}
