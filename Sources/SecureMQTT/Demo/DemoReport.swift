import Foundation

/// What `demo --json` writes as its last line.
struct DemoReport: Codable {
    /// One attack's outcome.
    struct Attack: Codable {
        /// Refused where it should be, and recorded there.
        var refused: Bool
        /// `broker handshake`, `broker authorisation`, `broker limits` or `control center`; `nowhere`.
        var `where`: String
        /// The reason word, MQTT reason code or TLS alert.
        var reason: String
    }

    var readingsSent: Int
    /// Readings sent that are in the database exactly once, with exactly their digits.
    var readingsStored: Int
    var statementsStored: Int
    /// Receipts messages whose signature the auditors verified.
    var receiptsVerified: Int
    var attacks: [String: Attack]
    var seconds: Double

    enum CodingKeys: String, CodingKey {
        case readingsSent = "readings_sent"
        case readingsStored = "readings_stored"
        case statementsStored = "statements_stored"
        case receiptsVerified = "receipts_verified"
        case attacks
        case seconds
    }

    /// Every reading stored exactly once, every attack refused and recorded.
    var isSuccess: Bool {
        self.readingsSent > 0 && self.readingsStored == self.readingsSent && !self.attacks.isEmpty
            && self.attacks.values.allSatisfy(\.refused)
    }

    /// One line of JSON.
    func line() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self)
    }
}
