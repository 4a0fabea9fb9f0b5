import Foundation

/// Base64 as EST's bodies are (RFC 7030 section 4, RFC 8951 section 3): with line breaks or without.
enum Base64 {
    /// - Throws: ``EnrolmentError`` with code `format` for anything but the alphabet, padding and white space.
    static func decode(_ text: [UInt8]) throws(EnrolmentError) -> [UInt8] {
        let characters = text.filter { ![0x20, 0x09, 0x0A, 0x0D].contains($0) }
        guard let data = Data(base64Encoded: Data(characters)), !data.isEmpty else {
            throw EnrolmentError(.format, "an answer that is not base64")
        }
        return Array(data)
    }

    static func encode(_ bytes: [UInt8]) -> String {
        Data(bytes).base64EncodedString(options: [.lineLength64Characters, .endLineWithLineFeed])
    }
}
