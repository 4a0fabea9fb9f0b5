import SwiftASN1
public import X509

/// Certificates and revocation lists on disk: PEM (RFC 7468), or one in DER.
public enum CertificateFile {
    /// The most certificates that one file may hold.
    public static let maximumCount = 64

    /// Creates the file with mode 0644, synced, certificates in the given order; never overwrites.
    ///
    /// - Throws: ``PKIError`` with code `exists` or `io`.
    public static func create(_ path: String, _ certificates: [Certificate]) throws(PKIError) {
        try DurableFile.create(path, Array(certificates.map(\.pemText).joined().utf8), mode: 0o644)
    }

    /// Reads certificates in the order of the file.
    ///
    /// - Throws: ``PKIError`` with code `missing`, `too-large`, `format`, `chain` if there are none or too many, `io`.
    public static func read(_ path: String) throws(PKIError) -> [Certificate] {
        let documents = try Self.documents(path, type: "CERTIFICATE", maximumSize: 1 << 20)
        guard (1...Self.maximumCount).contains(documents.count) else {
            throw PKIError(
                .chain, "\(path) holds \(documents.count) certificates; 1 to \(Self.maximumCount) are expected")
        }
        var certificates: [Certificate] = []
        for document in documents {
            do throws(PKIError) {
                certificates.append(try Certificate(der: document))
            } catch {
                throw PKIError(error.code, "\(path): \(error.reason)")
            }
        }
        return certificates
    }

    /// As ``read(_:)``; none if there is no such file.
    package static func readIfThere(_ path: String) throws(PKIError) -> [Certificate] {
        do throws(PKIError) {
            return try Self.read(path)
        } catch {
            guard error.code == .missing else { throw error }
            return []
        }
    }

    /// The most revocation lists in a file, and so the most roots and intermediates of an authority together.
    public static let maximumListCount = 8

    /// Reads revocation lists in the order of the file.
    ///
    /// - Throws: ``PKIError`` with code `missing`, `too-large`, `format`, `chain` if there are none or too many, `io`,
    ///   and those of ``RevocationList/init(der:)``.
    public static func readRevocationLists(_ path: String) throws(PKIError) -> [RevocationList] {
        let most = Self.maximumListCount
        let documents = try Self.documents(path, type: "X509 CRL", maximumSize: most * RevocationList.maximumSize)
        guard (1...most).contains(documents.count) else {
            throw PKIError(.chain, "\(path) holds \(documents.count) revocation lists; 1 to \(most) are expected")
        }
        var lists: [RevocationList] = []
        for document in documents {
            do throws(PKIError) {
                lists.append(try RevocationList(der: document))
            } catch {
                throw PKIError(error.code, "\(path): \(error.reason)")
            }
        }
        return lists
    }

    /// The DER documents of one type in a PEM file; or the file itself if it is DER.
    private static func documents(_ path: String, type: String, maximumSize: Int) throws(PKIError) -> [[UInt8]] {
        let bytes = try DurableFile.read(path, maximumSize: maximumSize)
        // 0x30 is a DER sequence; in PEM it would be the digit 0 before the first boundary.
        if bytes.first == 0x30 { return [bytes] }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw PKIError(.format, "\(path) is neither PEM nor DER")
        }
        let documents: [PEMDocument]
        do {
            documents = try PEMDocument.parseMultiple(pemString: text)
        } catch {
            throw PKIError(.format, "\(path) is not a PEM file")
        }
        for document in documents where document.discriminator != type {
            throw PKIError(.format, "\(path) holds '\(document.discriminator)' where '\(type)' is expected")
        }
        return documents.map(\.derBytes)
    }
}
