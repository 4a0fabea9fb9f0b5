import Foundation
public import PKI
import X509

/// The newest revocation lists that an auditor has heard of, on its disk: what it knew before a restart it knows
/// behind it, and nobody talks it back to an older list.
public struct RevocationMemory: Sendable {
    private let directory: String
    private let path: String

    /// - Parameter directory: the auditor's state directory; made when there is something to keep.
    public init(directory: String) {
        self.directory = directory
        self.path = "\(directory)/revocation-lists.pem"
    }

    /// What is kept; nothing if nothing was, or if it cannot be read.
    public func read() -> [RevocationList] {
        (try? self.lists()) ?? []
    }

    private func lists() throws(PKIError) -> [RevocationList] {
        do throws(PKIError) {
            return try CertificateFile.readRevocationLists(self.path)
        } catch {
            guard error.code == .missing else { throw error }
            return []
        }
    }

    /// Keeps a verified list, instead of an older one of the same authority.
    ///
    /// - Returns: whether it is news.
    /// - Throws: ``PKIError`` with code `io`, and of what is kept and cannot be read: it is not exchanged for a part of it.
    @discardableResult
    public func keep(_ list: RevocationList) throws(PKIError) -> Bool {
        var lists = try self.lists()
        let isSame: (RevocationList) -> Bool = {
            $0.authorityKeyIdentifier == list.authorityKeyIdentifier && $0.issuer == list.issuer
        }
        if let held = lists.first(where: isSame), held.number >= list.number { return false }
        lists.removeAll(where: isSame)
        // As many as are read again.
        if lists.count >= CertificateFile.maximumListCount { lists.removeFirst() }
        lists.append(list)
        do {
            try FileManager.default.createDirectory(
                atPath: self.directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        } catch {
            throw PKIError(.io, "cannot create \(self.directory): \(error.localizedDescription)")
        }
        try DurableFile.replace(self.path, Array(lists.map(\.pemText).joined().utf8), mode: 0o644)
        return true
    }
}
