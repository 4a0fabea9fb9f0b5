// Enrolment over Secure Transport, RFC 7030, with the clarifications of RFC 8951.

import AsyncHTTPClient
import Foundation
public import Identity
import NIOCore
import NIOHTTP1
public import PKI
import SwiftASN1
public import X509

/// A device's side of EST: asks an authority for its certificates, for one of its own, and for a renewal.
///
/// Each request is a TLS connection of its own. Whom it believes is fixed when it is made: ``init(_:trust:roots:)``
/// verifies that a server of role `authority` answers; ``untrusted(_:)`` verifies nothing and may only be asked
/// for what is checked otherwise.
public struct ESTClient: Sendable {
    /// A certificate to show, with its key.
    public struct Credentials: Sendable {
        let party: PartyCredentials

        /// - Parameter chain: the leaf, then its intermediate.
        public init(chain: [Certificate], key: SigningKey) {
            self.party = PartyCredentials(chain: chain, key: key)
        }
    }

    /// What an installation says of itself.
    public struct Installation: Hashable, Sendable, Decodable {
        public var trustDomain: String
        public var brokerHost: String
        public var brokerPort: Int

        enum CodingKeys: String, CodingKey {
            case trustDomain = "trust_domain"
            case brokerHost = "broker_host"
            case brokerPort = "broker_port"
        }
    }

    /// The longest answer that is read, in bytes.
    static let maximumAnswer = 16 << 20

    public var address: AuthorityAddress { self.transport.address }

    /// How long one request may take.
    public var timeout: Duration {
        get { self.transport.timeout }
        set { self.transport.timeout = newValue }
    }

    private var transport: AuthorityTransport

    /// Verifies nobody: for the certificates of an authority whose root is checked by its fingerprint.
    public static func untrusted(_ address: AuthorityAddress) -> ESTClient {
        ESTClient(address, roots: nil, gate: nil)
    }

    /// Believes any server under this root that bears the name of the address: for what is no secret and comes before
    /// the names of the installation are known.
    static func underRoot(_ address: AuthorityAddress, _ root: Certificate) -> ESTClient {
        ESTClient(address, roots: [root], gate: nil)
    }

    /// Believes only a server under these roots whose certificate says that it is an authority, and is not revoked.
    ///
    /// - Parameter gate: asked after every handshake.
    public init(_ address: AuthorityAddress, roots: [Certificate], gate: PeerGate) {
        self.init(address, roots: roots, gate: Optional(gate))
    }

    private init(_ address: AuthorityAddress, roots: [Certificate]?, gate: PeerGate?) {
        self.transport = AuthorityTransport(address, roots: roots, gate: gate, timeout: .seconds(20))
    }

    // MARK: Requests

    /// The authority's certificates (RFC 7030 section 4.1): roots and intermediates, in any order.
    ///
    /// - Returns: them, and what the authority's clock says, if it does.
    public func authorities() async throws(EnrolmentError) -> (certificates: [Certificate], date: UnixTime?) {
        let answer = try await self.ask(.GET, "/.well-known/est/cacerts")
        return (try CertificateBundle(base64: answer.body).certificates, answer.date)
    }

    /// A first certificate (section 4.2.1), for a token that an operator has given out.
    ///
    /// - Returns: what came, in the order in which it came.
    public func enrol(
        _ request: CertificateSigningRequest, id: Identifier, token: String
    ) async throws(EnrolmentError) -> [Certificate] {
        let authorization = "Basic " + Data("\(id):\(token)".utf8).base64EncodedString()
        let answer = try await self.ask(
            .POST, "/.well-known/est/simpleenroll", body: try Self.body(request), authorization: authorization)
        return try CertificateBundle(base64: answer.body).certificates
    }

    /// The next certificate (section 4.2.2), by the present one.
    public func renew(
        _ request: CertificateSigningRequest, by credentials: Credentials
    ) async throws(EnrolmentError) -> [Certificate] {
        let answer = try await self.ask(
            .POST, "/.well-known/est/simplereenroll", body: try Self.body(request), credentials: credentials)
        return try CertificateBundle(base64: answer.body).certificates
    }

    /// Where broker and control centers are.
    public func installation() async throws(EnrolmentError) -> Installation {
        let answer = try await self.ask(.GET, "/installation")
        do {
            return try JSONDecoder().decode(Installation.self, from: Data(answer.body))
        } catch {
            throw EnrolmentError(.format, "\(self.address) does not say what installation it belongs to")
        }
    }

    /// The revocation lists of the intermediate and the root in use, then those of the other authorities that are
    /// known here: after a rollover each has its own. Their signatures are not checked here, and the first two may be
    /// of an authority that is not known here.
    ///
    /// - Parameter authorities: roots and intermediates.
    public func revocationLists(of authorities: [Certificate]) async throws(EnrolmentError) -> [RevocationList] {
        var lists = [
            try await self.revocationList("/crl/issuing.crl"), try await self.revocationList("/crl/root.crl"),
        ]
        for authority in authorities {
            let identifier = authority.keyIdentifier
            guard !lists.contains(where: { $0.authorityKeyIdentifier == identifier }) else { continue }
            let name =
                authority.subject == authority.issuer
                ? PublicationPoints.rootListName(of: identifier) : PublicationPoints.listName(of: identifier)
            do throws(EnrolmentError) {
                lists.append(try await self.revocationList("/crl/\(name)"))
            } catch {
                // One that has retired there has no list any more.
                guard error.code == .server else { throw error }
            }
        }
        return lists
    }

    private func revocationList(_ path: String) async throws(EnrolmentError) -> RevocationList {
        let answer = try await self.ask(.GET, path)
        do throws(PKIError) {
            return try RevocationList(der: answer.body)
        } catch {
            throw EnrolmentError(.format, "\(self.address)\(path): \(error.reason)")
        }
    }

    private static func body(_ request: CertificateSigningRequest) throws(EnrolmentError) -> String {
        var serializer = DER.Serializer()
        do {
            try serializer.serialize(request)
        } catch {
            throw EnrolmentError(.format, "the request cannot be encoded: \(error)")
        }
        return Base64.encode(serializer.serializedBytes)
    }

    // MARK: HTTP

    private struct Answer {
        var body: [UInt8]
        var date: UnixTime?
    }

    private func ask(
        _ method: HTTPMethod, _ path: String, body: String? = nil, authorization: String? = nil,
        credentials: Credentials? = nil
    ) async throws(EnrolmentError) -> Answer {
        var headers: HTTPHeaders = [:]
        if let authorization { headers.add(name: "authorization", value: authorization) }
        if body != nil {
            headers.add(name: "content-type", value: "application/pkcs10")
            headers.add(name: "content-transfer-encoding", value: "base64")
        }
        let client = try self.transport.makeClient(credentials?.party)
        let answer: Result<AuthorityTransport.Answer, EnrolmentError>
        do throws(EnrolmentError) {
            answer = .success(
                try await self.transport.ask(
                    client, method, path, headers: headers, body: body.map { Array($0.utf8) },
                    maximum: Self.maximumAnswer))
        } catch {
            answer = .failure(error)
        }
        try? await client.shutdown()
        let came = try answer.get()
        return Answer(body: came.body, date: came.headers.first(name: "date").flatMap(Self.date))
    }

    /// IMF-fixdate (RFC 9110 section 5.6.7).
    static func date(_ text: String) -> UnixTime? {
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        let pattern = #/[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT/#
        guard let match = text.wholeMatch(of: pattern), let month = months.firstIndex(of: String(match.2)),
            let day = Int(match.1), let year = Int(match.3), let hours = Int(match.4), let minutes = Int(match.5),
            let seconds = Int(match.6)
        else { return nil }
        return CivilTime(
            year: year, month: month + 1, day: day, hours: hours, minutes: minutes, seconds: seconds
        ).unixTime
    }
}
