package import NIOCore

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

// What others say, as a line that a person can read: strangers, the system, the TLS library.

extension String {
    /// Without control characters: those are written as Swift writes them. A line of a stranger's words stays a line,
    /// and no terminal obeys it.
    package var withoutControls: String {
        guard self.unicodeScalars.contains(where: \.isControl) else { return self }
        var text = ""
        for scalar in self.unicodeScalars {
            if scalar.isControl {
                text += "\\u{\(String(scalar.value, radix: 16, uppercase: true))}"
            } else {
                text.unicodeScalars.append(scalar)
            }
        }
        return text
    }

    /// What BoringSSL's text of an error says, without numbers and places in its sources.
    package var ofTLS: String {
        let parts = self.split(separator: "OPENSSL_internal:", omittingEmptySubsequences: false).dropFirst()
        let names = parts.map { $0.prefix { $0.isLetter || $0.isNumber || $0 == "_" } }.filter { !$0.isEmpty }
        return names.isEmpty ? self.withoutControls : names.joined(separator: ", ")
    }
}

extension Unicode.Scalar {
    /// C0, C1, and what turns the direction of writing or begins a line or paragraph.
    fileprivate var isControl: Bool {
        switch self.value {
        case 0x00...0x1F, 0x7F...0x9F, 0x2028...0x202E, 0x2066...0x2069: true
        default: false
        }
    }
}

extension IOError {
    /// What the system calls it.
    package var words: String { String(cString: strerror(self.errnoCode)) }
}
