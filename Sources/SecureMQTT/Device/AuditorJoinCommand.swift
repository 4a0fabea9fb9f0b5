import ArgumentParser
import Enrolment
import Foundation
import Identity
import PKCS11
import PKI
import Telemetry
import X509

/// `secure-mqtt auditor join`.
struct AuditorJoinCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "join",
        abstract: "Make this device an auditor, by an invitation of the operator.",
        discussion: """
            The invitation is one line, which the operator makes with secure-mqtt pki invite:
              secure-mqtt auditor join https://ca.energy.example:8443 --id mona --token TOKEN \\
                  --ca-fingerprint SHA256:4f0c...

            The key is made here and never leaves; with --key in a token (PKCS#11), such as a TPM. The authority is believed only if its root has the fingerprint of the
            invitation. Everything appears at once in the folder, or nothing does; the same command again goes on
            where it ended, with the same key. Then:
              secure-mqtt auditor run --config mona/secure-mqtt.yaml

            After a certificate has expired or was revoked, with a new invitation, keeping the outbox; an auditor that
            runs takes the new certificate at once:
              secure-mqtt auditor join --renew https://ca.energy.example:8443 --id mona --token TOKEN \\
                  --ca-fingerprint SHA256:4f0c... --directory mona

            Exit codes: 64 the line is not an invitation, 65 another root, 69 not reachable or busy, 73 the folder
            exists, 76 the authority answers nonsense, 77 token refused or server not trusted,
            78 this device's clock is wrong.
            """)

    @Argument(help: ArgumentHelp("The authority, https://HOST:PORT.", valueName: "url"))
    var url: String

    @Option(help: ArgumentHelp("Who this device is to be.", valueName: "id"))
    var id: String

    @Option(help: ArgumentHelp("The token of the invitation, good for one certificate.", valueName: "token"))
    var token: String?

    @Option(
        help: ArgumentHelp(
            "A file with the token, so that it is in no list of processes; - is standard input.", valueName: "file"))
    var tokenFile: String?

    @Option(help: ArgumentHelp("SHA-256 of the root certificate.", valueName: "fingerprint"))
    var caFingerprint: String

    @Option(help: ArgumentHelp("The folder to make (default: ./<id>).", valueName: "dir"))
    var directory: String?

    @Option(help: ArgumentHelp("The name of its meter.", valueName: "name"))
    var meter: String = "main"

    @Option(
        help: ArgumentHelp(
            "Use this key in a token, or make it there: pkcs11:token=home;object=mona?module-path=...&pin-source=file:pin",
            valueName: "uri"))
    var key: String?

    @Flag(help: "Give an auditor that exists a new certificate; its outbox stays.")
    var renew = false

    func validate() throws {
        guard !self.renew || self.key == nil else {
            throw ValidationError("--key is for a new auditor; with --renew the key is the one that auditor.key names")
        }
    }

    func run() async throws {
        let id = try Identifier(self.id)
        let joining = Joining(
            address: try AuthorityAddress(self.url), id: id, fingerprint: try RootFingerprint(self.caFingerprint))
        let device = JoiningDevice(
            joining: joining, directory: self.directory ?? id.rawValue, meter: try MeterName(self.meter),
            tokenKey: self.key)
        let identity = try await self.renew ? device.rejoin(token: self.readToken) : device.join(token: self.readToken)
        let output = Terminal.standardOutput
        output.line("\(identity.spiffeID) has joined, until \(identity.validity.upperBound.iso8601).")
        if self.renew {
            output.line("An auditor that runs goes on under the new certificate. Otherwise start it:")
        } else {
            output.line("Say in \(device.directory)/secure-mqtt.yaml what it reads, then start it:")
        }
        output.line("  secure-mqtt auditor run --config \(device.directory)/secure-mqtt.yaml")
    }

    private func readToken() throws -> String {
        let text: String
        switch (self.token, self.tokenFile) {
        case (let token?, nil): text = token
        case (nil, "-"?): text = readLine(strippingNewline: true) ?? ""
        case (nil, let file?):
            text = String(decoding: try DurableFile.read(file, maximumSize: 4_096), as: UTF8.self)
        default: throw CommandError(.usage, "give the token of the invitation: --token TOKEN or --token-file FILE")
        }
        let token = text.trimmingCharacters(in: .whitespacesAndNewlines)
        guard !token.isEmpty, token.utf8.count <= 512, token.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw CommandError(.usage, "that is not a token: one word, as in the invitation")
        }
        return token
    }
}

/// The files of a device that joins.
///
/// They are made aside, in `.<name>.joining` beside the folder, the key first. When everything is there the folder is
/// renamed into its place: before that there is nothing to run, behind it everything.
struct JoiningDevice: Sendable {
    let joining: Joining
    let directory: String
    let meter: MeterName
    /// The URI of a key in a token; nil for one in a file.
    let tokenKey: String?
    private let aside: String

    init(joining: Joining, directory: String, meter: MeterName, tokenKey: String? = nil) {
        self.joining = joining
        self.tokenKey = tokenKey
        let url = URL(fileURLWithPath: directory).standardizedFileURL
        self.directory = url.path
        self.meter = meter
        self.aside = "\(url.deletingLastPathComponent().path)/.\(url.lastPathComponent).joining"
    }

    private static let files = ["auditor.pem", "root.pem", "issuing.pem", "crl.pem", "secure-mqtt.yaml"]

    /// - Throws: ``CommandError`` `cannotCreate` if the folder holds anything; `EnrolmentError`, `PKIError`.
    func join(token: () throws -> String) async throws -> VerifiedIdentity {
        let manager = FileManager.default
        try Installation.requireEmpty(
            self.directory, hint: " (for a new certificate of an auditor that exists: --renew)")
        if !manager.fileExists(atPath: self.aside) {
            do {
                try manager.createDirectory(
                    atPath: URL(fileURLWithPath: self.aside).deletingLastPathComponent().path,
                    withIntermediateDirectories: true)
            } catch {
                throw CommandError(.cannotCreate, "cannot create \(self.directory): \(error.localizedDescription)")
            }
            try Installation.makeDirectory(self.aside, mode: 0o700)
        }
        let lock = try IdentityFiles(certificate: "\(self.aside)/auditor.pem", key: "\(self.aside)/auditor.key").lock()
        guard let lock else {
            throw CommandError(.unavailable, "another process is joining \(self.directory) now")
        }
        defer { withExtendedLifetime(lock) {} }
        try self.requireSameKey()
        // What a former try has finished needs only its place.
        if let identity = try self.finished() { return try self.settle(identity) }
        let key = try self.key()
        let outcome = try await self.joining.join(key: key, token: try token(), clock: { .now })
        try self.write(outcome)
        return try self.settle(outcome.enrolled.identity)
    }

    /// A former try may have made its key in a file, or in another token: nobody shall take that for the one that is
    /// wanted now.
    private func requireSameKey() throws {
        let path = "\(self.aside)/auditor.key"
        guard let tokenKey, FileManager.default.fileExists(atPath: path) else { return }
        guard try KeyFile.uri(path) == KeyFile.absolute(tokenKey) else {
            throw CommandError(
                .cannotCreate,
                "\(path) is another key, of an earlier try: delete \(self.aside) to begin anew with --key")
        }
    }

    private func key() throws -> SigningKey {
        let path = "\(self.aside)/auditor.key"
        do throws(PKIError) {
            return try KeyFile.open(path)
        } catch {
            // A key that a crash cut short has certified nothing yet.
            if error.code == .format { unlink(path) } else if error.code != .missing { throw error }
        }
        let key = try KeyFile.makeKey(inToken: self.tokenKey)
        try KeyFile.create(path, key)
        return key
    }

    private func write(_ outcome: Joining.Outcome) throws {
        // The certificate first: the token is used up.
        for name in Self.files { unlink("\(self.aside)/\(name)") }
        try CertificateFile.create("\(self.aside)/auditor.pem", outcome.enrolled.chain)
        try CertificateFile.create("\(self.aside)/root.pem", [outcome.root])
        try CertificateFile.create(
            "\(self.aside)/issuing.pem", Self.union(outcome.intermediates, [outcome.enrolled.identity.intermediate]))
        try DurableFile.create(
            "\(self.aside)/crl.pem", Array(outcome.revocationLists.map(\.pemText).joined().utf8), mode: 0o644)
        let configuration = InstallationTemplate.auditor(
            trustDomain: outcome.trustDomain.rawValue, id: self.joining.id.rawValue,
            host: outcome.installation.brokerHost, port: outcome.installation.brokerPort,
            authority: self.joining.address.description, meter: self.meter.rawValue)
        // The configuration last: with it everything is there.
        try DurableFile.create("\(self.aside)/secure-mqtt.yaml", Array(configuration.utf8), mode: 0o644)
    }

    /// The identity of a try that wrote everything and was cut off before the last step.
    private func finished() throws -> VerifiedIdentity? {
        guard FileManager.default.fileExists(atPath: "\(self.aside)/secure-mqtt.yaml"),
            let roots = try? CertificateFile.read("\(self.aside)/root.pem"), let root = roots.first,
            RootFingerprint(root) == self.joining.fingerprint,
            let chain = try? CertificateFile.read("\(self.aside)/auditor.pem"), chain.count == 2,
            let key = try? KeyFile.open("\(self.aside)/auditor.key"),
            let name = chain[0].spiffeID
        else { return nil }
        let trust = try IdentityVerifier(trustDomain: name.trustDomain, roots: roots)
        return try? EnrolledIdentity(chain, for: self.joining.id, role: .auditor, key: key, trust: trust, at: .now)
            .identity
    }

    private func settle(_ identity: VerifiedIdentity) throws -> VerifiedIdentity {
        unlink("\(self.aside)/auditor.key.lock")
        guard rename(self.aside, self.directory) == 0 else {
            throw CommandError(
                .cannotCreate,
                "cannot create \(self.directory): \(String(cString: strerror(errno))); the same command again goes on")
        }
        try DurableFile.syncDirectory(of: self.directory)
        return identity
    }

    /// A new certificate, with a new key, for an auditor that exists.
    func rejoin(token: () throws -> String) async throws -> VerifiedIdentity {
        let file = "\(self.directory)/secure-mqtt.yaml"
        guard FileManager.default.fileExists(atPath: file) else {
            throw CommandError(.noInput, "\(file) does not exist: --renew is for an auditor that has joined before")
        }
        let settings = try await InstallationConfiguration.load(file: file, overrides: [:])
        guard let auditor = settings.auditor, auditor.id == self.joining.id else {
            throw CommandError(.configuration, "\(file) is not that of auditor \(self.joining.id)")
        }
        guard
            try CertificateFile.read(settings.trust.root).contains(where: {
                RootFingerprint($0) == self.joining.fingerprint
            })
        else {
            throw CommandError(
                .badData,
                "the invitation is of another root than \(settings.trust.root): join into a new folder, after the outbox is empty"
            )
        }
        let files = IdentityFiles(certificate: auditor.certificate, key: auditor.key, hardware: PKCS11Keys())
        guard let lock = try files.lock() else {
            throw CommandError(.unavailable, "another process renews \(files.certificate) now")
        }
        defer { withExtendedLifetime(lock) {} }
        let outcome = try await self.joining.join(
            key: try files.prepareKey(), token: try token(), clock: { .now })
        // Whom to trust first: what comes next needs it.
        if let path = settings.trust.intermediates {
            let known = try CertificateFile.readIfThere(path)
            let all = Self.union(known, outcome.intermediates + [outcome.enrolled.identity.intermediate])
            if all.count > known.count {
                try DurableFile.replace(path, Array(all.map(\.pemText).joined().utf8), mode: 0o644)
            }
        }
        try files.replace(outcome.enrolled.chain)
        return outcome.enrolled.identity
    }

    private static func union(_ first: [Certificate], _ second: [Certificate]) -> [Certificate] {
        var all = first
        for certificate in second where !all.contains(certificate) { all.append(certificate) }
        return all
    }
}
