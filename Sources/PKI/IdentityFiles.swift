import Foundation
public import X509

/// A party's certificate and key as two files that are exchanged together.
///
/// The next pair is written beside the present one (`.next`), then renamed over it, the key first. A crash in between
/// leaves one pair or the other: whoever reads finishes what was begun. A key that was made for a request is kept
/// until its certificate has come, so that a second try asks for the same.
///
/// A key in hardware stays: its certificates are exchanged alone.
public struct IdentityFiles: Sendable {
    /// The leaf and its intermediate, PEM.
    public let certificate: String
    /// PEM, mode 0600; or the URI of a key in hardware, here or in the file.
    public let key: String
    private let hardware: (any HardwareKeys)?

    /// - Parameter hardware: finds the key, if it is in hardware.
    public init(certificate: String, key: String, hardware: (any HardwareKeys)? = nil) {
        self.certificate = certificate
        self.key = key
        self.hardware = hardware
    }

    /// Whether the key is in hardware, where it is made once and stays. A file that cannot be read says no; whoever
    /// reads it for the key says why.
    public var isInHardware: Bool { ((try? KeyFile.uri(self.key)) ?? nil) != nil }

    private func readKey() throws(PKIError) -> SigningKey { try KeyFile.read(self.key, hardware: self.hardware) }

    private var nextCertificate: String { "\(self.certificate).next" }
    private var nextKey: String { "\(self.key).next" }

    /// Reads the pair.
    ///
    /// - Throws: ``PKIError``: those of the files; `signing` if the key is not the certificate's.
    public func read() throws(PKIError) -> (chain: [Certificate], key: SigningKey) {
        if !self.isInHardware {
            // Another process may be exchanging the pair at this moment.
            for _ in 0..<3 {
                if try self.finish() { break }
            }
        }
        let chain = try CertificateFile.read(self.certificate)
        let key = try self.readKey()
        guard Self.belongs(key, to: chain) else {
            throw PKIError(.signing, "\(self.key.prefix { $0 != "?" }) is not the key of \(self.certificate)")
        }
        return (chain, key)
    }

    /// The key of the next certificate: the one that was made for a request before, or a new one, on disk when this
    /// returns. In hardware the present one, or a new one if the hardware has none of that name.
    ///
    /// - Throws: ``PKIError``.
    public func prepareKey() throws(PKIError) -> SigningKey {
        if self.isInHardware {
            do throws(PKIError) {
                return try self.readKey()
            } catch {
                guard error.code == .missing, let hardware, let uri = try KeyFile.uri(self.key, hardware: hardware)
                else { throw error }
                return try hardware.openOrMake(uri)
            }
        }
        do throws(PKIError) {
            return try KeyFile.read(self.nextKey)
        } catch {
            guard error.code == .missing else {
                throw PKIError(error.code, "\(error.reason) (left from a renewal; delete it to begin anew)")
            }
        }
        let key = SigningKey()
        try KeyFile.create(self.nextKey, key)
        return key
    }

    /// Puts the next certificate in place of the present one, together with the key that was prepared for it, or with
    /// the present key if it is for that.
    ///
    /// - Throws: ``PKIError`` with code `signing` if it is for neither key; `io`.
    public func replace(_ chain: [Certificate]) throws(PKIError) {
        try self.keepFormer()
        let text = Array(chain.map(\.pemText).joined().utf8)
        let isInHardware = self.isInHardware
        // Hardware that fails says why; a file that does is exchanged.
        let present = try isInHardware ? self.readKey() : try? self.readKey()
        if let present, Self.belongs(present, to: chain) {
            try DurableFile.replace(self.certificate, text, mode: 0o644)
            return
        }
        guard !isInHardware, let next = try? KeyFile.read(self.nextKey), Self.belongs(next, to: chain) else {
            throw PKIError(.signing, "the certificate is for no key of this device")
        }
        try DurableFile.replace(self.nextCertificate, text, mode: 0o644)
        _ = try self.finish()
    }

    /// The most former certificates that are kept.
    public static let maximumFormerCount = 8

    /// The certificates that this party has had before, the newest last: what they signed may still be on its way.
    public var former: [Certificate] { (try? CertificateFile.readIfThere(self.formerPath)) ?? [] }

    private var formerPath: String { "\(self.certificate).former" }

    private func keepFormer() throws(PKIError) {
        guard let leaf = (try? CertificateFile.read(self.certificate))?.first,
            // What is there and cannot be read is left as it is: a renewal does not end by that.
            let kept = try? CertificateFile.readIfThere(self.formerPath)
        else { return }
        let former = (kept.filter { $0 != leaf } + [leaf]).suffix(Self.maximumFormerCount)
        try DurableFile.replace(
            self.formerPath, Array(former.map(\.pemText).joined().utf8), mode: 0o644)
    }

    /// Carries out an exchange that is complete on disk.
    ///
    /// - Returns: whether the pair is one.
    private func finish() throws(PKIError) -> Bool {
        if let chain = try? CertificateFile.read(self.nextCertificate) {
            if let next = try? KeyFile.read(self.nextKey), Self.belongs(next, to: chain) {
                try Self.rename(self.nextKey, self.key)
            }
            if let key = try? KeyFile.read(self.key), Self.belongs(key, to: chain) {
                try Self.rename(self.nextCertificate, self.certificate)
            }
        }
        guard let chain = try? CertificateFile.read(self.certificate), let key = try? KeyFile.read(self.key) else {
            return false
        }
        return Self.belongs(key, to: chain)
    }

    private static func rename(_ from: String, _ to: String) throws(PKIError) {
        guard Foundation.rename(from, to) == 0 else {
            // Somebody else has done it.
            guard errno != ENOENT else { return }
            throw PKIError(.io, "cannot replace \(to): \(String(cString: strerror(errno)))")
        }
        try DurableFile.syncDirectory(of: to)
    }

    private static func belongs(_ key: SigningKey, to chain: [Certificate]) -> Bool {
        chain.first?.publicKey == Certificate.PublicKey(key.publicKey)
    }

    /// Keeps every other process from exchanging this pair for as long as it lives.
    public final class Lock: Sendable {
        private let descriptor: Int32

        fileprivate init(_ descriptor: Int32) { self.descriptor = descriptor }

        deinit { close(self.descriptor) }
    }

    /// - Returns: `nil` if another process exchanges this pair now.
    /// - Throws: ``PKIError`` with code `io`.
    public func lock() throws(PKIError) -> Lock? {
        let path = "\(self.key.hasPrefix(KeyFile.uriScheme) ? self.certificate : self.key).lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw PKIError(.io, "cannot open \(path): \(String(cString: strerror(errno)))")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            return nil
        }
        return Lock(descriptor)
    }

    /// What changes when the pair is exchanged.
    public var mark: FileMark? { FileMark(self.certificate) }
}
