// On Linux the fields of `stat` belong to this module once Foundation is linked.
import CoreFoundation
import Foundation
import Identity
import MQTT
import MQTTClient
import PKI
import PKITLS
import X509

/// Makes a revocation felt at a Mosquitto, which by itself lets a live session be.
///
/// Mosquitto reads its revocation lists at SIGHUP, and asks them at handshakes only. A session ends when another
/// connection comes with the same client identifier, which is the common name of its certificate
/// (`use_username_as_clientid`). So for the one connection that is needed the authority issues a certificate in the
/// revoked name, for a key that is thrown away; it is valid for a minute, and so are its rights.
struct MosquittoTakeover: Sendable {
    /// How long the certificate is valid from the moment of issue, in seconds.
    static let lifetime: UnixTime = 60

    /// The folder that `pki export-mosquitto` has written.
    let folder: String
    let host: String
    let port: Int
    /// The roots under which the broker must be.
    let roots: [Certificate]
    /// Asked after the handshake whether it is the broker.
    let gate: PeerGate

    init(folder: String, _ settings: InstallationConfiguration, roots: [Certificate]) throws {
        self.folder = folder
        self.host = settings.broker.host
        self.port = settings.broker.port
        self.roots = roots
        self.gate = try settings.trust.makeGate()
    }

    /// Gives Mosquitto the lists, and ends the live sessions of the revoked.
    ///
    /// - Parameter say: what was done, a line each.
    /// - Throws: ``CommandError`` `unavailable`, which says what is still to be done; `PKIError`.
    func tell(
        _ lists: [RevocationList], ending parties: Set<SPIFFEID>, by authority: AuthorityDirectory,
        say: (String) -> Void
    ) async throws {
        guard try self.reload(lists) else {
            throw CommandError(
                .unavailable,
                "Mosquitto does not run as \(self.folder)/mosquitto.pid says: send it a SIGHUP, and restart it to end live sessions"
            )
        }
        say("Mosquitto reads \(self.folder)/crl.pem again.")
        for party in parties.sorted(by: { $0.rawValue < $1.rawValue }) {
            do {
                try await self.end(sessionOf: party, by: authority, at: .now)
            } catch {
                throw CommandError(
                    .unavailable,
                    "\(party) is revoked, but its live session at Mosquitto could not be ended: \(error); restart Mosquitto"
                )
            }
            say("Ended the session of \(party.id), if there was one.")
        }
    }

    private var listsPath: String { "\(self.folder)/crl.pem" }
    private var processIdentifierPath: String { "\(self.folder)/mosquitto.pid" }

    /// Replaces the lists that Mosquitto reads, keeping owner and permissions of the file, and tells it to.
    ///
    /// - Returns: whether it was told; if not, somebody must send it a SIGHUP.
    /// - Throws: `PKIError` with code `missing` if `export-mosquitto` has not been here, `io`.
    @discardableResult
    func reload(_ lists: [RevocationList]) throws -> Bool {
        var status = stat()
        guard stat(self.listsPath, &status) == 0 else {
            throw PKIError(.missing, "\(self.listsPath) does not exist: run secure-mqtt pki export-mosquitto first")
        }
        try DurableFile.replace(
            self.listsPath, Array(lists.map(\.pemText).joined().utf8), mode: UInt32(status.st_mode & 0o777))
        if geteuid() == 0, chown(self.listsPath, status.st_uid, status.st_gid) != 0 {
            throw PKIError(.io, "cannot give \(self.listsPath) to its owner: \(String(cString: strerror(errno)))")
        }
        guard let text = try? DurableFile.read(self.processIdentifierPath, maximumSize: 32),
            let process = pid_t(String(decoding: text, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)),
            process > 1, Self.isMosquitto(process)
        else { return false }
        return kill(process, SIGHUP) == 0
    }

    /// The number may have been given to another process since.
    private static func isMosquitto(_ process: pid_t) -> Bool {
        guard let name = try? DurableFile.read("/proc/\(process)/comm", maximumSize: 64) else { return false }
        return String(decoding: name, as: UTF8.self).hasPrefix("mosquitto")
    }

    /// Ends the live session of a party whose certificates have been revoked. Nothing happens if it has none.
    ///
    /// - Parameter authority: whose certificates they were.
    /// - Throws: `MQTTClientError` if the broker cannot be reached or is not ours, `PKIError`.
    func end(sessionOf party: SPIFFEID, by authority: AuthorityDirectory, at now: UnixTime) async throws {
        var profile = CertificateProfile.role(party.role, party.id, in: party.trustDomain)
        profile.lifetime = Self.lifetime
        let key = SigningKey()
        let certificate = try authority.issueTakeover(profile, to: key.publicKey, at: now)
        let gate = self.gate
        var tls = try MQTTClientConfiguration.TLS(
            certificateChain: [certificate, authority.issuing].tlsCertificates, privateKey: key.tlsKey,
            trustRoots: self.roots.tlsCertificates)
        tls.verifyPeer = { leaf in
            let peer = try gate.admit(leaf: leaf, at: .now).identity
            guard peer.spiffeID.role == .broker else { throw PKIError(.role, "\(peer) is not a broker") }
        }
        var configuration = MQTTClientConfiguration(
            host: self.host, port: self.port, transport: .tls(tls), clientID: party.id.rawValue)
        // What was queued for it goes with it.
        configuration.cleanStart = true
        configuration.sessionExpiry = .zero
        try await MQTTConnection.withConnection(configuration) { _ in }
    }
}
