import COSE

/// What is retained on `control_center/keys`: the certificates under which the control center signs, so that
/// auditors can verify its receipts. Not signed itself: a chain proves itself.
///
/// A COSE_X509 (RFC 9360 section 2) in its array form, in deterministic CBOR: an array of 2 to 4 byte strings, each a
/// certificate in DER, the signer's first.
public struct ControlCenterKeys: Hashable, Sendable {
    /// The longest message, in bytes.
    public static let maximumSize = 16_384

    /// In DER, leaf first.
    public let certificates: [[UInt8]]

    /// - Throws: ``Refusal`` `format` unless there are 2 to 4 certificates, `too-large`.
    public init(certificates: [[UInt8]]) throws(Refusal) {
        guard ProtectedHeader.chainLength.contains(certificates.count), certificates.allSatisfy({ !$0.isEmpty }) else {
            throw Refusal(.format, "2 to 4 certificates are needed, the signer's first")
        }
        self.certificates = certificates
        guard self.encoded.count <= Self.maximumSize else {
            throw Refusal(.tooLarge, "certificates of more than \(Self.maximumSize) bytes")
        }
    }

    /// Reads a message.
    ///
    /// - Throws: ``Refusal`` `too-large` or `format`.
    public init(_ bytes: [UInt8]) throws(Refusal) {
        guard bytes.count <= Self.maximumSize else {
            throw Refusal(.tooLarge, "\(bytes.count) bytes, at most \(Self.maximumSize) are allowed")
        }
        do throws(COSEError) {
            var reader = CBORReader(bytes)
            let count = try reader.listCount(upTo: ProtectedHeader.chainLength.upperBound, "the certificates")
            var certificates: [[UInt8]] = []
            for _ in 0..<count { certificates.append(try reader.byteArray()) }
            try reader.finish()
            guard count >= ProtectedHeader.chainLength.lowerBound, certificates.allSatisfy({ !$0.isEmpty }) else {
                throw reader.fail("2 to 4 certificates are needed")
            }
            self.certificates = certificates
        } catch {
            throw Refusal(.format, error.description)
        }
    }

    /// What is published.
    public var encoded: [UInt8] {
        var writer = CBORWriter(capacity: self.certificates.reduce(8) { $0 + $1.count + 4 })
        writer.array(self.certificates.count)
        for certificate in self.certificates { writer.byteString(certificate) }
        return writer.bytes
    }
}
