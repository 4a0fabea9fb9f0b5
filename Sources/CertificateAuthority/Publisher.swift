import Foundation
import Identity
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import PKI
import PKITLS
import Synchronization
import X509

/// What the authority shows to the world: its server's certificate, revocation lists, answers of OCSP.
///
/// The keys of the server and of the OCSP responders are made here, live in memory and end with the process; their
/// certificates are short and renewed when a third of their life is left.
final class Publisher: Sendable {
    /// In seconds.
    static let responderLifetime: UnixTime = 7 * 86_400

    private struct State {
        var directory: AuthorityDirectory
        var server: Certificate?
        var responders: [(issuing: Certificate, responder: OCSPResponder)] = []
        var lists: [String: ByteBuffer] = [:]
        var listMark: FileMark?
        var certificateMarks: [FileMark?] = []
        /// When lists that are still due are made again.
        var nextTry: UnixTime = 0
        /// When a warning was last given, by its text.
        var warned: [String: UnixTime] = [:]
    }

    private let configuration: AuthorityConfiguration
    private let logger: Logger
    private let state: Mutex<State>
    /// Apart, because handshakes ask for it on an event loop, and ``maintain(at:)`` holds the state while it writes.
    private let server = Mutex<NIOSSLContextConfigurationOverride>(.noChanges)

    init(_ directory: AuthorityDirectory, _ configuration: AuthorityConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        self.state = Mutex(State(directory: directory))
    }

    var directory: AuthorityDirectory { self.state.withLock { $0.directory } }

    /// Whether there are other certificates of the authority on disk than those that are served: a rollover by another
    /// process, of which ``maintain(at:)`` takes notice. Looks at two files.
    var isStale: Bool {
        self.state.withLock { state in
            !state.certificateMarks.isEmpty && state.certificateMarks != Self.marks(state.directory)
        }
    }

    private static func marks(_ directory: AuthorityDirectory) -> [FileMark?] {
        [
            FileMark(AuthorityDirectory.rootPath(in: directory.path)),
            FileMark(AuthorityDirectory.issuingPath(in: directory.path)),
        ]
    }

    /// Certificates of server and responders, lists: whatever is due. Blocks on files.
    ///
    /// - Returns: whether the lists were renewed.
    /// - Throws: ``PKIError``: those of the files; `signing`.
    @discardableResult
    func maintain(at now: UnixTime) throws(PKIError) -> Bool {
        try self.state.withLock { (state) throws(PKIError) in
            let marks = Self.marks(state.directory)
            if marks != state.certificateMarks {
                if !state.certificateMarks.isEmpty {
                    state.directory = try state.directory.reopened()
                    self.logger.notice("certificates of the authority read again")
                }
                state.certificateMarks = marks
                state.server = nil
                state.responders = []
                state.listMark = nil
            }
            try self.renewServer(&state, at: now)
            try self.renewResponders(&state, at: now)
            return try self.renewLists(&state, at: now)
        }
    }

    private func renewServer(_ state: inout State, at now: UnixTime) throws(PKIError) {
        if let server = state.server, !Self.isDue(server, at: now) { return }
        let directory = state.directory
        let profile = CertificateProfile.authority(
            self.configuration.id, in: try directory.trustDomain, hosts: self.configuration.hosts)
        let key = SigningKey()
        let isKnown = try directory.issued(to: .authority).contains { $0.spiffeID == profile.spiffeID }
        let certificate = try directory.issue(
            profile, to: key.publicKey, at: now, renewing: isKnown, requester: profile.spiffeID.rawValue,
            note: "its own server")
        do {
            var override = NIOSSLContextConfigurationOverride()
            override.certificateChain = try [certificate, directory.issuing].tlsCertificates.map { .certificate($0) }
            override.privateKey = try key.tlsKey
            let identity = override
            self.server.withLock { $0 = identity }
            state.server = certificate
        } catch {
            throw PKIError(.signing, "the certificate of the authority's server cannot be used: \(error)")
        }
    }

    private func renewResponders(_ state: inout State, at now: UnixTime) throws(PKIError) {
        if let first = state.responders.first, !Self.isDue(first.responder.certificate, at: now) { return }
        var responders: [(issuing: Certificate, responder: OCSPResponder)] = []
        for issuing in state.directory.issuers {
            guard try state.directory.isAtHand(issuing) else {
                self.warn(
                    "the key of the intermediate \(issuing.keyIdentifier.hexadecimal) cannot be used: its revocation list stays as it is, and OCSP does not answer for it",
                    &state, at: now)
                continue
            }
            let key = SigningKey()
            let certificate = try state.directory.issueResponder(
                for: issuing, to: key.publicKey, at: now, lifetime: Self.responderLifetime)
            responders.append((issuing, try OCSPResponder(issuer: issuing, certificate: certificate, key: key)))
        }
        state.responders = responders
    }

    private func renewLists(_ state: inout State, at now: UnixTime) throws(PKIError) -> Bool {
        let directory = state.directory
        var lists = try directory.revocationLists()
        let isDue = now >= state.nextTry ? try Self.areListsDue(directory, lists, at: now) : false
        if isDue {
            try directory.renewRevocationLists(at: now)
            lists = try directory.revocationLists()
            // The token of a former one may be away although its key was opened before: not every half minute.
            if try Self.areListsDue(directory, lists, at: now) { state.nextTry = now + 600 }
            self.logger.notice("revocation lists renewed")
        }
        // What cannot be renewed here, because the key is offline, is said every day, weeks before it is late.
        for list in lists {
            let isOffline = directory.roots.contains { list.isSigned(by: $0) }
            if let warning = list.warning(at: now, margin: (isOffline ? 30 : 5) * 86_400) {
                self.warn(warning, &state, at: now)
            }
        }
        for certificate in directory.roots + directory.issuers where certificate.notAfter - now < 365 * 86_400 {
            let end = CivilTime(certificate.notAfter).iso8601
            self.warn("\(certificate.subject) ends at \(end): see secure-mqtt pki intermediate --help", &state, at: now)
        }
        return isDue
    }

    private static func areListsDue(
        _ directory: AuthorityDirectory, _ lists: [RevocationList], at now: UnixTime
    ) throws(PKIError) -> Bool {
        for issuing in directory.issuers where try directory.isAtHand(issuing) {
            guard let list = lists.first(where: { $0.isSigned(by: issuing) }) else { return true }
            if list.nextUpdate - now < (list.nextUpdate - list.thisUpdate) * 2 / 3 { return true }
        }
        // A revocation of which a crash left no more than its line in the record.
        return try !directory.unlistedRevocations().isEmpty
    }

    /// Tells whoever has to be told of lists.
    func announceLists(_ revoked: [IssuedCertificate]) async {
        guard let onLists = self.configuration.onLists else { return }
        do {
            let directory = self.directory
            let lists = try await NIOThreadPool.singleton.runIfActive { try directory.revocationLists() }
            try await onLists(lists, revoked)
        } catch {
            self.logger.error("a broker could not be told of the revocation lists", metadata: ["reason": "\(error)"])
        }
    }

    /// Tells of who was revoked within the last ten minutes: a process may have ended between list and word.
    func announceRecent(at now: UnixTime) async {
        guard self.configuration.onLists != nil else { return }
        let directory = self.directory
        do {
            let recent = try await NIOThreadPool.singleton.runIfActive {
                let issued = try directory.issued()
                let recent = issued.filter { ($0.revocation?.time ?? .min) >= now - 600 }
                guard !recent.isEmpty else { return recent }
                let held = Set(issued.filter { $0.isInForce(at: now) }.map(\.spiffeID))
                return recent.filter { !held.contains($0.spiffeID) }
            }
            if !recent.isEmpty { await self.announceLists(recent) }
        } catch {
            self.logger.error("the record cannot be read", metadata: ["reason": "\(error)"])
        }
    }

    private func warn(_ text: String, _ state: inout State, at now: UnixTime) {
        guard now - (state.warned[text] ?? .min / 2) >= 86_400 else { return }
        state.warned[text] = now
        self.logger.warning("\(text)")
    }

    private static func isDue(_ certificate: Certificate, at now: UnixTime) -> Bool {
        certificate.notAfter - now < (certificate.notAfter - certificate.notBefore) / 3
    }

    /// What a handshake presents.
    func serverIdentity() -> NIOSSLContextConfigurationOverride {
        self.server.withLock { $0 }
    }

    /// Chain and key for the start, when there must be some.
    func initialTLS() throws(PKIError) -> TLSConfiguration {
        let override = self.serverIdentity()
        guard let chain = override.certificateChain, let key = override.privateKey else {
            throw PKIError(.missing, "the authority's server has no certificate yet")
        }
        return TLSConfiguration.makeServerConfiguration(certificateChain: chain, privateKey: key)
    }

    /// A list in DER under the name of its file: `issuing.crl`, `root.crl` of those in use, or after any authority's
    /// key. Nil if there is none of that name. Read again when the file has changed: `pki revoke` beside this process counts at once.
    func list(_ name: String) throws(PKIError) -> ByteBuffer? {
        try self.state.withLock { (state) throws(PKIError) in
            let mark = FileMark(AuthorityDirectory.revocationListsPath(in: state.directory.path))
            if mark == nil || mark != state.listMark {
                var lists: [String: ByteBuffer] = [:]
                for list in try state.directory.revocationLists() {
                    let bytes = ByteBuffer(bytes: list.der)
                    if let root = state.directory.roots.first(where: { list.isSigned(by: $0) }) {
                        lists[PublicationPoints.rootListName(of: root.keyIdentifier)] = bytes
                        if root == state.directory.root { lists["root.crl"] = bytes }
                    } else {
                        lists[PublicationPoints.listName(of: list.authorityKeyIdentifier)] = bytes
                    }
                }
                lists["issuing.crl"] = lists[PublicationPoints.listName(of: state.directory.issuing.keyIdentifier)]
                state.lists = lists
                state.listMark = mark
            }
            return state.lists[name]
        }
    }

    /// The answer to an OCSP request, in DER.
    func answer(_ bytes: [UInt8], at now: UnixTime) -> [UInt8] {
        let (directory, responders) = self.state.withLock { ($0.directory, $0.responders) }
        let request: OCSPRequest
        do throws(PKIError) {
            request = try OCSPRequest(der: bytes)
        } catch {
            return OCSPResponder.failure(.malformedRequest)
        }
        for (issuing, responder) in responders
        where request.certificates.contains(where: { responder.isResponsible(for: $0) }) {
            do throws(PKIError) {
                return try responder.answer(request, at: now) { (serial) throws(PKIError) in
                    try directory.status(serial, of: issuing)
                }
            } catch {
                self.logger.error("an OCSP request cannot be answered", metadata: ["reason": "\(error)"])
                return OCSPResponder.failure(.internalError)
            }
        }
        // Of nobody that is known here (RFC 5019 section 2.2.3).
        return OCSPResponder.failure(.unauthorized)
    }
}
