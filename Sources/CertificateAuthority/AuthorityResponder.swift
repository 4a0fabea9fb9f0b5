// RFC 7030 (EST): sections 4.1 (cacerts), 4.2 (simpleenroll, simplereenroll), 4.5 (csrattrs). RFC 6960 appendix A.1
// (OCSP over HTTP). RFC 5280 section 4.2.1.13 (lists over HTTP).

import Crypto
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Identity
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import PKI
import Synchronization
import X509

/// A request with its connection, of which the client's certificate is asked.
struct AuthorityContext: RequestContext {
    var coreContext: CoreRequestContextStorage
    let channel: any Channel

    init(source: ApplicationRequestContextSource) {
        self.coreContext = CoreRequestContextStorage(source: source)
        self.channel = source.channel
    }
}

/// Every path of the authority, and what it answers.
///
/// Files are read and written on a thread pool: an event loop never waits for a disk.
struct AuthorityResponder: HTTPResponder {
    typealias Context = AuthorityContext

    /// The longest body, in bytes: a request in PEM.
    static let maximumBody = 16_384
    static let maximumHosts = 16
    /// Bytes of a revocation list that are written at once.
    static let pieceSize = 65_536
    static let defaultRenewalAllowance: UnixTime = 7 * 86_400

    let configuration: AuthorityConfiguration
    let publisher: Publisher
    let limiter: Shared<AttemptLimiter>
    /// `https://HOST:PORT`, for invitations.
    let url: String
    /// Only revocation lists and OCSP.
    let isPublicOnly: Bool
    let now: @Sendable () -> UnixTime
    let logger: Logger

    func respond(to request: Request, context: AuthorityContext) async throws -> Response {
        do {
            return try await self.route(request, context)
        } catch let error as Refusal {
            return self.refuse(error, request, context)
        } catch let error as PKIError {
            return self.refuse(Refusal(error), request, context)
        } catch let error where error is any HTTPResponseError || error is HTTPParserError || error is CancellationError
        {
            // The server's own to answer.
            throw error
        } catch {
            return self.refuse(Refusal(.internalServerError, "internal", "\(error)"), request, context)
        }
    }

    private func refuse(_ refusal: Refusal, _ request: Request, _ context: AuthorityContext) -> Response {
        self.logger.log(
            level: refusal.isInternal ? .error : .info, "refused",
            metadata: [
                "path": "\(request.uri.path.prefix(80))", "from": "\(Self.address(context))",
                "reason": "\(refusal.reason)", "detail": "\(refusal.text)",
            ])
        return refusal.response
    }

    private func route(_ request: Request, _ context: AuthorityContext) async throws -> Response {
        let path = request.uri.path
        switch (request.method, path) {
        case (.post, "/ocsp"):
            return try await self.ocsp(try await Self.body(request))
        case (.get, _) where path.hasPrefix("/ocsp/"):
            let text = path.dropFirst("/ocsp/".count).removingPercentEncoding ?? ""
            return try await self.ocsp(Array(Data(base64Encoded: text) ?? Data()))
        case (.get, _) where path.hasPrefix("/crl/"):
            return try await self.list(String(path.dropFirst("/crl/".count)))
        case _ where self.isPublicOnly: break
        case (.get, "/.well-known/est/cacerts"):
            let directory = self.publisher.directory
            return Self.certificates(
                [directory.issuing, directory.root] + directory.issuers.dropFirst() + directory.roots.dropFirst())
        case (.get, "/.well-known/est/csrattrs"):
            return Self.encoded(Self.requestAttributes, type: "application/csrattrs")
        case (.post, "/.well-known/est/simpleenroll"): return try await self.enroll(request, context)
        case (.post, "/.well-known/est/simplereenroll"): return try await self.reenroll(request, context)
        case (.get, "/installation"): return try await self.installation()
        case (.post, "/api/invite"): return try await self.invite(request, context)
        case (.post, "/api/revoke"): return try await self.revoke(request, context)
        case (.post, "/api/renew-allow"): return try await self.allowRenewal(request, context)
        case (.get, "/api/certificates"): return try await self.list(request, context)
        case (.get, "/api/events"): return try await self.events(request, context)
        default: break
        }
        throw Refusal(.notFound, "not-found", "there is nothing here")
    }

    // MARK: EST

    private func enroll(_ request: Request, _ context: AuthorityContext) async throws -> Response {
        let address = Self.address(context)
        let now = self.now()
        guard self.limiter.value.withLock({ $0.mayTry(address, at: now) }) else {
            throw Refusal(.tooManyRequests, "too-many", "too many wrong tokens: wait ten minutes")
        }
        guard let (user, token) = Self.credentials(request) else {
            throw Refusal(.unauthorized, "token", "user name and password are wanted: the ID and its token")
        }
        let body = try await Self.body(request)
        do {
            let id = try Self.identifier(user)
            let certificate = try await self.run { directory throws(PKIError) in
                try directory.redeem(
                    id, token: token, try EnrolmentRequest(text: body), at: now, requester: "address \(address)")
            }
            self.logger.notice(
                "enrolled",
                metadata: ["id": "\(id)", "from": "\(address)", "serial": "\(certificate.serialBytes.hexadecimal)"])
            return Self.certificates([certificate])
        } catch let error as PKIError {
            if error.code == .token { self.limiter.value.withLock { $0.failed(address, at: now) } }
            throw error
        }
    }

    private func reenroll(_ request: Request, _ context: AuthorityContext) async throws -> Response {
        guard let old = try await Self.clientCertificate(context) else {
            throw Refusal(.unauthorized, "certificate", "the client certificate that is to be renewed is wanted")
        }
        let body = try await Self.body(request)
        let now = self.now()
        let certificate = try await self.run { directory throws(PKIError) in
            try directory.renew(old, try EnrolmentRequest(text: body), at: now)
        }
        self.logger.notice(
            "renewed",
            metadata: ["subject": "\(certificate.subject)", "serial": "\(certificate.serialBytes.hexadecimal)"])
        return Self.certificates([certificate])
    }

    private static func certificates(_ certificates: [Certificate]) -> Response {
        Self.encoded(CertificatesOnly.encode(certificates), type: "application/pkcs7-mime; smime-type=certs-only")
    }

    /// RFC 7030 section 4: base64 in lines, whatever the header about it says (RFC 8951 section 3).
    private static func encoded(_ der: [UInt8], type: String) -> Response {
        let text = Data(der).base64EncodedString(options: [.lineLength76Characters, .endLineWithLineFeed]) + "\n"
        var headers: HTTPFields = [.contentType: type]
        if let name = HTTPField.Name("Content-Transfer-Encoding") { headers[name] = "base64" }
        return Response(status: .ok, headers: headers, body: .init(byteBuffer: ByteBuffer(string: text)))
    }

    /// CsrAttrs (RFC 7030 section 4.5.2): a key on P-256, a signature with ecdsa-with-SHA256.
    private static let requestAttributes: [UInt8] = [
        0x30, 0x21,
        // SEQUENCE { ecPublicKey, SET { prime256v1 } }
        0x30, 0x15, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01,
        0x31, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07,
        // ecdsa-with-SHA256
        0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02,
    ]

    /// User name and password of HTTP Basic (RFC 7617).
    private static func credentials(_ request: Request) -> (user: String, password: String)? {
        guard let header = request.headers[.authorization], header.lowercased().hasPrefix("basic "),
            let data = Data(base64Encoded: String(header.dropFirst(6)).trimmingCharacters(in: .whitespaces)),
            let text = String(validating: data, as: UTF8.self), let colon = text.firstIndex(of: ":")
        else { return nil }
        return (String(text[..<colon]), String(text[text.index(after: colon)...]))
    }

    // MARK: Lists and OCSP

    private func list(_ name: String) async throws -> Response {
        let publisher = self.publisher
        guard let list = try await NIOThreadPool.singleton.runIfActive({ try publisher.list(name) }) else {
            throw Refusal(.notFound, "not-found", "there is no list of that name")
        }
        return Response(
            status: .ok, headers: [.contentType: "application/pkix-crl", .cacheControl: "max-age=300"],
            // In pieces of the one buffer: a list may be megabytes, and each connection that does not read would hold
            // all of it encrypted.
            body: ResponseBody(contentLength: list.readableBytes) { writer in
                var rest = list
                while let piece = rest.readSlice(length: min(Self.pieceSize, rest.readableBytes)),
                    piece.readableBytes > 0
                {
                    try await writer.write(piece)
                }
                try await writer.finish(nil)
            })
    }

    private func ocsp(_ bytes: [UInt8]) async throws -> Response {
        let (publisher, now) = (self.publisher, self.now())
        let answer = try await NIOThreadPool.singleton.runIfActive { publisher.answer(bytes, at: now) }
        return Response(
            status: .ok, headers: [.contentType: "application/ocsp-response"],
            body: .init(byteBuffer: ByteBuffer(bytes: answer)))
    }

    // MARK: API

    private func installation() async throws -> Response {
        let configuration = self.configuration
        let now = self.now()
        return try Self.json(
            try await self.run { directory throws(PKIError) in
                let centers = try directory.issued(to: .controlCenter).filter { $0.isInForce(at: now) }
                return AuthorityAPI.Installation(
                    trustDomain: try directory.trustDomain.rawValue, brokerHost: configuration.brokerHost,
                    brokerPort: configuration.brokerPort,
                    controlCenters: Set(centers.map(\.spiffeID.id.rawValue)).sorted())
            })
    }

    private func invite(_ request: Request, _ context: AuthorityContext) async throws -> Response {
        let who = try await self.client(context, [.operator])
        let message = try await Self.message(AuthorityAPI.Invite.self, request)
        let id = try Self.identifier(message.id)
        guard let role = Role(rawValue: message.role ?? Role.auditor.rawValue), role != .authority else {
            throw PKIError(.format, "there are no invitations for this role")
        }
        var hosts: [HostName] = []
        guard (message.hosts ?? []).count <= Self.maximumHosts else {
            throw PKIError(.format, "at most \(Self.maximumHosts) hosts")
        }
        for host in message.hosts ?? [] { hosts.append(try HostName(host)) }
        guard role.isServer != hosts.isEmpty else {
            throw PKIError(.format, "hosts are for a broker, and a broker needs some")
        }
        let lifetime = message.lifetime ?? self.configuration.invitationLifetime
        let (names, url, now) = (hosts, self.url, self.now())
        return try Self.json(
            try await self.run { directory throws(PKIError) in
                let token = EnrolmentToken()
                let invitation = try directory.invite(
                    .role(role, id, in: try directory.trustDomain, hosts: names), lifetime: lifetime, at: now,
                    requester: who.rawValue, token: token)
                return AuthorityAPI.Invited(invitation, token: token.text, root: directory.issuingRoot.sha256, url: url)
            })
    }

    private func revoke(_ request: Request, _ context: AuthorityContext) async throws -> Response {
        let who = try await self.client(context, [.operator])
        let message = try await Self.message(AuthorityAPI.Revoke.self, request)
        let id = try Self.identifier(message.id)
        let name = message.reason ?? "unspecified"
        guard let reason = RevocationList.Reason.allCases.first(where: { "\($0)" == name }),
            ![.removeFromCRL, .certificateHold].contains(reason)
        else { throw PKIError(.format, "there is no such reason for a revocation") }
        let now = self.now()
        let revoked = try await self.run { directory throws(PKIError) in
            try directory.revoke(id, reason: reason, at: now, requester: who.rawValue)
        }
        self.logger.notice("revoked", metadata: ["id": "\(id)", "by": "\(who)", "reason": "\(name)"])
        await self.publisher.announceLists(revoked)
        return try Self.json(AuthorityAPI.Revoked(revoked: revoked.map(\.serialNumber.hexadecimal)))
    }

    private func allowRenewal(_ request: Request, _ context: AuthorityContext) async throws -> Response {
        let who = try await self.client(context, [.operator])
        let message = try await Self.message(AuthorityAPI.AllowRenewal.self, request)
        let id = try Self.identifier(message.id)
        let lifetime = message.lifetime ?? Self.defaultRenewalAllowance
        guard (1...AuthorityDirectory.maximumInvitationLifetime).contains(lifetime) else {
            throw PKIError(.format, "an allowance lives for one second to thirty days")
        }
        let now = self.now()
        try await self.run { directory throws(PKIError) in
            try directory.allowRenewal(id, lifetime: lifetime, at: now, requester: who.rawValue, note: message.note)
        }
        return try Self.json(["id": id.rawValue])
    }

    private func list(_ request: Request, _ context: AuthorityContext) async throws -> Response {
        _ = try await self.client(context, [.operator])
        return try Self.json(
            try await self.run { directory throws(PKIError) in
                AuthorityAPI.Certificates(certificates: try directory.issued().map { .init($0) })
            })
    }

    private func events(_ request: Request, _ context: AuthorityContext) async throws -> Response {
        _ = try await self.client(context, [.operator, .controlCenter])
        let after: Int
        if let text = request.uri.queryParameters["after"] {
            guard let number = Int(text), number >= 0 else {
                throw PKIError(.format, "after is the number of an event")
            }
            after = number
        } else {
            after = 0
        }
        return try Self.json(
            try await self.run { directory throws(PKIError) in
                let (events, last) = try directory.events(after: after, limit: 1_000)
                return AuthorityAPI.Events(
                    events: events.map {
                        .init(number: $0.number, event: $0.kind.rawValue, certificate: .init($0.certificate))
                    }, last: last)
            })
    }

    // MARK: Who asks, and what

    /// The party behind the connection, checked for this very request: a certificate revoked a moment ago is refused
    /// on a connection that stands.
    private func client(_ context: AuthorityContext, _ roles: Set<Role>) async throws -> SPIFFEID {
        guard let certificate = try await Self.clientCertificate(context) else {
            throw Refusal(.unauthorized, "certificate", "a client certificate is wanted: an operator's")
        }
        let now = self.now()
        return try await self.run { directory throws(PKIError) in
            try directory.identify(certificate, at: now, roles: roles)
        }
    }

    /// Nil without one. TLS has shown that the client holds its key, and nothing else: who it is, is judged by us.
    private static func clientCertificate(_ context: AuthorityContext) async throws -> Certificate? {
        guard let certificate = try await context.channel.nioSSL_peerCertificate().get() else { return nil }
        return try Certificate(der: try certificate.toDERBytes())
    }

    private static func address(_ context: AuthorityContext) -> String {
        context.channel.remoteAddress?.ipAddress ?? "unknown"
    }

    private static func identifier(_ text: String) throws(PKIError) -> Identifier {
        do throws(IdentityError) {
            return try Identifier(text)
        } catch {
            throw PKIError(.name, error.reason)
        }
    }

    private static func body(_ request: Request) async throws -> [UInt8] {
        do {
            return Array(buffer: try await request.body.collect(upTo: Self.maximumBody))
        } catch is NIOTooManyBytesError {
            throw Refusal(.contentTooLarge, "too-large", "a body of more than \(Self.maximumBody) bytes")
        }
    }

    private static func message<Message: Decodable>(_ type: Message.Type, _ request: Request) async throws -> Message {
        let bytes = try await Self.body(request)
        guard let message = try? JSONDecoder().decode(type, from: Data(bytes)) else {
            throw PKIError(.format, "the body is not the JSON that is expected here")
        }
        return message
    }

    private static func json(_ value: some Encodable) throws -> Response {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Response(
            status: .ok, headers: [.contentType: "application/json"],
            body: .init(byteBuffer: ByteBuffer(bytes: try encoder.encode(value))))
    }

    private func run<Value: Sendable>(
        _ body: @escaping @Sendable (AuthorityDirectory) throws(PKIError) -> Value
    ) async throws -> Value {
        let directory = self.publisher.directory
        return try await NIOThreadPool.singleton.runIfActive { try body(directory) }
    }
}

/// A lock that values share.
final class Shared<Value: Sendable>: Sendable {
    let value: Mutex<Value>

    init(_ initial: Value) { self.value = Mutex(initial) }
}
