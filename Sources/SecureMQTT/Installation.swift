import Foundation
import Identity
import PKCS11
import PKI
import X509

/// What `init` makes: everything for one server, and a folder for each auditor and operator.
///
/// | path | what |
/// | --- | --- |
/// | `secure-mqtt.yaml` | the configuration of broker and control center |
/// | `pki/` | the authority (``AuthorityDirectory``) |
/// | `broker/`, `control-center/` | their certificates and keys |
/// | `store/` | the control center's database |
/// | `auditors/<ID>/` | all that a device needs, its configuration included |
/// | `operators/<ID>/` | certificate and key of a person or program, and the root |
struct Installation: Sendable {
    var trustDomain: TrustDomain
    var hosts: [HostName]
    var port: Int
    var broker: Identifier
    var controlCenter: Identifier
    var auditors: [Identifier]
    var operators: [Identifier]
    /// The ID of the authority's server.
    var ca: Identifier?
    /// For the keys of the authority; nil leaves them to file permissions.
    var passphrase: Passphrase?
    /// Those of the authority; asked for once the folder is known to be free.
    var keys: @Sendable () throws(PKIError) -> (root: SigningKey, issuing: SigningKey) = {
        (SigningKey(), SigningKey())
    }
    var publication: PublicationPoints?

    /// Makes it in a folder that does not exist or is empty: aside first, then in one step, so that a failure leaves
    /// nothing behind.
    ///
    /// - Throws: ``CommandError`` `cannotCreate` if the folder holds anything; ``PKIError``.
    func make(at path: String, now: UnixTime) throws {
        let files = FileManager.default
        let path = URL(fileURLWithPath: path).standardizedFileURL.path
        try Self.requireEmpty(path)
        let parent = URL(fileURLWithPath: path).deletingLastPathComponent().path
        let aside = "\(parent)/.\(URL(fileURLWithPath: path).lastPathComponent).\(getpid()).new"
        do {
            try files.createDirectory(atPath: parent, withIntermediateDirectories: true)
            try Self.makeDirectory(aside, mode: 0o755)
        } catch {
            throw CommandError(.cannotCreate, "cannot create \(path): \(String(cString: strerror(errno)))")
        }
        do {
            try self.fill(aside, now: now)
            guard rename(aside, path) == 0 else {
                throw CommandError(.cannotCreate, "cannot create \(path): \(String(cString: strerror(errno)))")
            }
        } catch {
            try? files.removeItem(atPath: aside)
            throw error
        }
    }

    private func fill(_ path: String, now: UnixTime) throws {
        let pki = "\(path)/pki"
        try Self.makeDirectory(pki, mode: 0o755)
        let keys = try self.keys()
        let authority = try AuthorityDirectory.create(
            pki, trustDomain: self.trustDomain, at: now, passphrase: self.passphrase,
            rootPassphrase: self.passphrase, publication: self.publication, key: keys.issuing, rootKey: keys.root,
            hardware: PKCS11Keys())
        let host = self.hosts.first?.description ?? "localhost"

        try Party.issue(
            .broker(self.broker, in: self.trustDomain, hosts: self.hosts), by: authority, into: "\(path)/broker",
            name: "broker", at: now)
        try Party.issue(
            .controlCenter(self.controlCenter, in: self.trustDomain), by: authority, into: "\(path)/control-center",
            name: "control-center", at: now)
        // Apart from keys: others may be let in to read it.
        try Self.makeDirectory("\(path)/store", mode: 0o750)
        if !self.auditors.isEmpty { try Self.makeDirectory("\(path)/auditors", mode: 0o755) }
        for id in self.auditors {
            try Party.issueAuditor(
                id, by: authority, into: "\(path)/auditors/\(id)", host: host, port: self.port, at: now)
        }
        if !self.operators.isEmpty { try Self.makeDirectory("\(path)/operators", mode: 0o755) }
        for id in self.operators {
            try Party.issue(
                .operator(id, in: self.trustDomain), by: authority, into: "\(path)/operators/\(id)", name: "operator",
                at: now)
        }
        let configuration = InstallationTemplate.server(
            trustDomain: self.trustDomain.rawValue, hosts: self.hosts.map(\.description), port: self.port,
            controlCenter: self.controlCenter.rawValue, ca: self.ca?.rawValue ?? "ca-1",
            publicURL: self.publication?.base)
        try DurableFile.create("\(path)/secure-mqtt.yaml", Array(configuration.utf8), mode: 0o644)
    }

    /// - Parameter hint: what else may have been meant, in brackets.
    /// - Throws: ``CommandError`` `cannotCreate` if there is something else than an empty folder.
    static func requireEmpty(_ path: String, hint: String = "") throws(CommandError) {
        let files = FileManager.default
        guard files.fileExists(atPath: path) else { return }
        guard let contents = try? files.contentsOfDirectory(atPath: path), contents.isEmpty else {
            throw CommandError(.cannotCreate, "\(path) exists and is not an empty folder: nothing was changed\(hint)")
        }
    }

    static func makeDirectory(_ path: String, mode: UInt32) throws(CommandError) {
        guard mkdir(path, mode_t(mode)) == 0, chmod(path, mode_t(mode)) == 0 else {
            throw CommandError(.cannotCreate, "cannot create \(path): \(String(cString: strerror(errno)))")
        }
    }
}

/// The folders of parties.
enum Party {
    /// Makes a key, has it certified, and writes `<name>.pem` (leaf and intermediate) and `<name>.key`.
    @discardableResult
    static func issue(
        _ profile: CertificateProfile, by authority: AuthorityDirectory, into folder: String, name: String,
        at now: UnixTime, renewing: Bool = false
    ) throws -> Certificate {
        if !FileManager.default.fileExists(atPath: folder) { try Installation.makeDirectory(folder, mode: 0o700) }
        for path in ["\(folder)/\(name).pem", "\(folder)/\(name).key"]
        where FileManager.default.fileExists(atPath: path) {
            throw CommandError(.cannotCreate, "\(path) exists already and is not overwritten")
        }
        let key = SigningKey()
        // The key first, and it stays once a certificate is recorded, also if that cannot be written here.
        try KeyFile.create("\(folder)/\(name).key", key)
        let certificate: Certificate
        do {
            certificate = try authority.issue(
                profile, to: key.publicKey, at: now, renewing: renewing, requester: Requester.local)
        } catch {
            unlink("\(folder)/\(name).key")
            rmdir(folder)
            throw error
        }
        try CertificateFile.create("\(folder)/\(name).pem", [certificate, authority.issuing])
        // By which an operator's commands know the authority (--as).
        if profile.spiffeID.role == .operator { try CertificateFile.create("\(folder)/root.pem", authority.roots) }
        return certificate
    }

    /// All that an auditor's device needs: certificate, key, whom to trust, configuration.
    @discardableResult
    static func issueAuditor(
        _ id: Identifier, by authority: AuthorityDirectory, into folder: String, host: String, port: Int,
        at now: UnixTime, renewing: Bool = false
    ) throws -> Certificate {
        let trustDomain = try authority.trustDomain
        let certificate = try Self.issue(
            .auditor(id, in: trustDomain), by: authority, into: folder, name: "auditor", at: now, renewing: renewing)
        try CertificateFile.create("\(folder)/root.pem", authority.roots)
        try CertificateFile.create("\(folder)/issuing.pem", authority.issuers)
        let lists = try DurableFile.read(
            AuthorityDirectory.revocationListsPath(in: authority.path), maximumSize: 64 << 20)
        try DurableFile.create("\(folder)/crl.pem", lists, mode: 0o644)
        let configuration = InstallationTemplate.auditor(
            trustDomain: trustDomain.rawValue, id: id.rawValue, host: host, port: port)
        try DurableFile.create("\(folder)/secure-mqtt.yaml", Array(configuration.utf8), mode: 0o644)
        return certificate
    }
}
