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
    var hash: [UInt8] { Self.hash(self.text) }

    static func hash(_ text: String) -> [UInt8] { Array(SHA256.hash(data: Array(text.utf8))) }

    /// Compares two hashes in a time that says nothing about where they differ.
    static func equal(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        guard a.count == b.count else { return false }
        var difference: UInt8 = 0
        for (x, y) in zip(a, b) { difference |= x ^ y }
        return difference == 0
    }
}
