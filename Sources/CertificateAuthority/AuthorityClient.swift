import AsyncHTTPClient
public import Enrolment
import Foundation
import Identity
import NIOHTTP1
public import PKI
public import X509

/// The operators' side of the authority's API, and a control center's: over one connection, under a party's certificate.
///
/// What an authority answers instead of doing what it was asked, and why it was not reached, are `EnrolmentError`s of
/// one line.
public struct AuthorityClient: Sendable {
    private let transport: AuthorityTransport
    private let client: HTTPClient

    /// - Parameters:
    ///   - roots: by which the authority's server is known: under one of them, of role `authority`.
    ///   - chain: the party's certificate and its intermediate.
    ///   - gate: asked about the server after every handshake; nil for one of the party's trust domain without
    ///     revocation lists.
    /// - Throws: `EnrolmentError` with code `identity` if TLS does not take certificate and key; `PKIError` if the
    ///   certificate names no party, or a root is none.
    public init(
        _ address: AuthorityAddress, roots: [Certificate], chain: [Certificate], key: SigningKey,
        gate: PeerGate? = nil
    ) throws {
        guard let name = chain.first?.spiffeID else {
            throw PKIError(.name, "the certificate names no SPIFFE ID")
        }
        self.transport = AuthorityTransport(
            address, roots: roots,
            gate: try gate ?? PeerGate(trustDomain: name.trustDomain, authorities: roots + chain.dropFirst()),
            timeout: .seconds(60))
        self.client = try self.transport.makeClient(PartyCredentials(chain: chain, key: key))
    }

    /// To be called once, at the end.
    public func close() async {
        // What cannot be closed in good order ends with the process.
        try? await self.client.shutdown()
    }

    public func invite(_ message: AuthorityAPI.Invite) async throws(EnrolmentError) -> AuthorityAPI.Invited {
        try await self.post("/api/invite", message)
    }

    public func revoke(_ message: AuthorityAPI.Revoke) async throws(EnrolmentError) -> AuthorityAPI.Revoked {
        try await self.post("/api/revoke", message)
    }

    public func allowRenewal(_ message: AuthorityAPI.AllowRenewal) async throws(EnrolmentError) {
        let _: [String: String] = try await self.post("/api/renew-allow", message)
    }

    public func certificates() async throws(EnrolmentError) -> [AuthorityAPI.Certificate] {
        let answer: AuthorityAPI.Certificates = try await self.send(.GET, "/api/certificates", maximum: 512 << 20)
        return answer.certificates
    }

    /// What happened after the event of that number, at most 1,000.
    public func events(after number: Int64) async throws(EnrolmentError) -> AuthorityAPI.Events {
        try await self.send(.GET, "/api/events?after=\(number)", maximum: 4 << 20)
    }

    private func post<Answer: Decodable>(
        _ path: String, _ message: some Encodable
    ) async throws(EnrolmentError) -> Answer {
        let body: Data
        do {
            body = try JSONEncoder().encode(message)
        } catch {
            throw EnrolmentError(.format, "the message to the authority cannot be written: \(error)")
        }
        return try await self.send(.POST, path, body: Array(body), maximum: 1 << 20)
    }

    private func send<Answer: Decodable>(
        _ method: HTTPMethod, _ path: String, body: [UInt8]? = nil, maximum: Int
    ) async throws(EnrolmentError) -> Answer {
        let headers: HTTPHeaders = body == nil ? [:] : ["Content-Type": "application/json"]
        let answer = try await self.transport.ask(
            self.client, method, path, headers: headers, body: body, maximum: maximum)
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(answer.body)) else {
            throw EnrolmentError(.format, "\(self.transport.address) answers what is not understood")
        }
        return answer
    }
}
