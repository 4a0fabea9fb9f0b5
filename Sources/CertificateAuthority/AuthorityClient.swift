import AsyncHTTPClient
import Foundation
import Identity
import NIOCore
import NIOHTTP1
import NIOSSL
public import PKI
import PKITLS
public import X509

/// The operators' side of the authority's API.
public struct AuthorityClient: Sendable {
    /// What an authority answered instead of doing what it was asked, or why it was not reached.
    public struct Failure: Error, Sendable, CustomStringConvertible {
        /// Nil if there was no answer.
        public let status: Int?
        /// One line.
        public let description: String
    }

    private let client: HTTPClient
    private let base: String

    /// - Parameters:
    ///   - base: `https://HOST:PORT`.
    ///   - roots: by which the authority's server is known: under one of them, of role `authority`.
    ///   - chain: the operator's certificate and its intermediate.
    /// - Throws: ``Failure`` if TLS does not take certificate and key.
    public init(base: String, roots: [Certificate], chain: [Certificate], key: SigningKey) throws(Failure) {
        self.base = base.hasSuffix("/") ? String(base.dropLast()) : base
        do {
            var tls = TLSConfiguration.makeClientConfiguration()
            tls.minimumTLSVersion = .tlsv13
            tls.trustRoots = .certificates(try roots.tlsCertificates)
            tls.certificateChain = try chain.tlsCertificates.map { .certificate($0) }
            tls.privateKey = try key.tlsKey
            var configuration = HTTPClient.Configuration(tlsConfiguration: tls)
            configuration.timeout = .init(connect: .seconds(10), read: .seconds(30))
            configuration.redirectConfiguration = .disallow
            let gate = try PeerGate(
                trustDomain: try Self.trustDomain(of: chain), authorities: roots + chain.dropFirst())
            configuration.httpVersion = .http1Only
            configuration.connectionPool.retryConnectionEstablishment = false
            configuration.http1_1ConnectionDebugInitializer = { channel in
                // Behind the handshake and before the request. What fails here is never used.
                channel.eventLoop.submit {
                    let handler = try channel.pipeline.syncOperations.handler(type: NIOSSLHandler.self)
                    guard let leaf = handler.peerCertificate else {
                        throw PKIError(.chain, "the server showed no certificate")
                    }
                    let now = UnixTime(Date().timeIntervalSince1970)
                    let peer = try gate.admit(leaf: try leaf.toDERBytes(), at: now).identity
                    guard peer.spiffeID.role == .authority else {
                        throw PKIError(.role, "\(peer) is not an authority")
                    }
                }
            }
            self.client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        } catch {
            throw Failure(status: nil, description: "certificate or key cannot be used for TLS: \(error)")
        }
    }

    /// The operator's own, which the authority's server must be of too.
    private static func trustDomain(of chain: [Certificate]) throws -> TrustDomain {
        guard let name = chain.first?.spiffeID else {
            throw PKIError(.name, "the operator's certificate names no SPIFFE ID")
        }
        return name.trustDomain
    }

    /// To be called once, at the end.
    public func close() async {
        // What cannot be closed in good order ends with the process.
        try? await self.client.shutdown()
    }

    public func invite(_ message: AuthorityAPI.Invite) async throws -> AuthorityAPI.Invited {
        try await self.post("/api/invite", message)
    }

    public func revoke(_ message: AuthorityAPI.Revoke) async throws -> AuthorityAPI.Revoked {
        try await self.post("/api/revoke", message)
    }

    public func allowRenewal(_ message: AuthorityAPI.AllowRenewal) async throws {
        let _: [String: String] = try await self.post("/api/renew-allow", message)
    }

    public func certificates() async throws -> [AuthorityAPI.Certificate] {
        let answer: AuthorityAPI.Certificates = try await self.send(
            HTTPClientRequest(url: self.base + "/api/certificates"), maximum: 512 << 20)
        return answer.certificates
    }

    private func post<Answer: Decodable>(_ path: String, _ message: some Encodable) async throws -> Answer {
        var request = HTTPClientRequest(url: self.base + path)
        request.method = .POST
        request.headers.add(name: "Content-Type", value: "application/json")
        request.body = .bytes(ByteBuffer(bytes: try JSONEncoder().encode(message)))
        return try await self.send(request, maximum: 1 << 20)
    }

    private func send<Answer: Decodable>(_ request: HTTPClientRequest, maximum: Int) async throws -> Answer {
        let status: Int
        let bytes: ByteBuffer
        do {
            let response = try await self.client.execute(request, timeout: .seconds(60))
            status = Int(response.status.code)
            bytes = try await response.body.collect(upTo: maximum)
        } catch let error as PKIError {
            throw Failure(status: nil, description: "\(self.base) is not to be trusted: \(error.reason)")
        } catch {
            throw Failure(status: nil, description: "the authority at \(self.base) cannot be reached: \(error)")
        }
        let text = String(buffer: bytes)
        guard status == 200 else {
            let line = text.split(whereSeparator: \.isNewline).first.map(String.init) ?? "status \(status)"
            throw Failure(status: status, description: "the authority refuses: \(line)")
        }
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(text.utf8)) else {
            throw Failure(status: status, description: "the authority at \(self.base) answers what is not understood")
        }
        return answer
    }
}
