// Enrolment over Secure Transport, RFC 7030, with the clarifications of RFC 8951.

import AsyncHTTPClient
import Foundation
public import Identity
import NIOCore
import NIOHTTP1
import NIOSSL
public import PKI
import PKITLS
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
        /// The leaf, then its intermediate.
        public let chain: [Certificate]
        public let key: SigningKey

        public init(chain: [Certificate], key: SigningKey) {
            self.chain = chain
            self.key = key
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

    public let address: AuthorityAddress
    /// How long one request may take.
    public var timeout = Duration.seconds(20)

    private let roots: [Certificate]?
    private let verifyServer: (@Sendable (_ leaf: [UInt8]) throws -> Void)?

    /// Verifies nobody: for the certificates of an authority whose root is checked by its fingerprint.
    public static func untrusted(_ address: AuthorityAddress) -> ESTClient {
        ESTClient(address: address, roots: nil, verifyServer: nil)
    }

    /// Believes any server under this root that bears the name of the address: for what is no secret and comes before
    /// the names of the installation are known.
    static func underRoot(_ address: AuthorityAddress, _ root: Certificate) -> ESTClient {
        ESTClient(address: address, roots: [root], verifyServer: nil)
    }

    /// Believes only a server under these roots whose certificate says that it is an authority, and is not revoked.
    ///
    /// - Parameter gate: asked after every handshake.
    public init(_ address: AuthorityAddress, roots: [Certificate], gate: PeerGate) {
        self.init(address: address, roots: roots) { leaf in
            let peer = try gate.admit(leaf: leaf, at: UnixTime(Date().timeIntervalSince1970)).identity
            guard peer.spiffeID.role == .authority else { throw PKIError(.role, "\(peer) is not an authority") }
        }
    }

    private init(
        address: AuthorityAddress, roots: [Certificate]?, verifyServer: (@Sendable ([UInt8]) throws -> Void)?
    ) {
        self.address = address
        self.roots = roots
        self.verifyServer = verifyServer
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
        var request = HTTPClientRequest(url: "\(self.address)\(path)")
        request.method = method
        if let authorization { request.headers.add(name: "authorization", value: authorization) }
        if let body {
            request.headers.add(name: "content-type", value: "application/pkcs10")
            request.headers.add(name: "content-transfer-encoding", value: "base64")
            request.body = .bytes(ByteBuffer(string: body))
        }
        let client = HTTPClient(
            eventLoopGroupProvider: .singleton, configuration: try self.configuration(credentials))
        let answer: Result<(status: UInt, headers: HTTPHeaders, body: [UInt8]), any Error>
        do {
            let response = try await client.execute(request, timeout: TimeAmount(self.timeout))
            let bytes = try await response.body.collect(upTo: Self.maximumAnswer)
            answer = .success((response.status.code, response.headers, Array(bytes.readableBytesView)))
        } catch {
            answer = .failure(error)
        }
        try? await client.shutdown()
        switch answer {
        case .failure(let error): throw self.explained(error)
        case .success(let answer):
            guard answer.status == 200 else { throw self.refusal(answer.status, answer.body) }
            return Answer(body: answer.body, date: answer.headers.first(name: "date").flatMap(Self.date))
        }
    }

    private func configuration(_ credentials: Credentials?) throws(EnrolmentError) -> HTTPClient.Configuration {
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.minimumTLSVersion = .tlsv13
        do {
            if let roots {
                tls.trustRoots = .certificates(try roots.tlsCertificates)
            } else {
                tls.certificateVerification = .none
            }
            if let credentials {
                tls.certificateChain = try credentials.chain.tlsCertificates.map { .certificate($0) }
                tls.privateKey = try credentials.key.tlsKey
            }
        } catch {
            throw EnrolmentError(.identity, "TLS refuses certificate or key: \(error)")
        }
        var configuration = HTTPClient.Configuration(
            tlsConfiguration: tls, redirectConfiguration: .disallow,
            timeout: HTTPClient.Configuration.Timeout(
                connect: TimeAmount(self.timeout), read: TimeAmount(self.timeout)))
        configuration.httpVersion = .http1Only
        // Its own tries would hide why the first one failed; when to try again is not decided here.
        configuration.connectionPool.retryConnectionEstablishment = false
        if let verifyServer {
            configuration.http1_1ConnectionDebugInitializer = { channel in
                // Behind the handshake and before the request. What fails here is never used.
                channel.eventLoop.submit {
                    let handler = try channel.pipeline.syncOperations.handler(type: NIOSSLHandler.self)
                    guard let leaf = handler.peerCertificate else {
                        throw PKIError(.chain, "the server showed no certificate")
                    }
                    try verifyServer(try leaf.toDERBytes())
                }
            }
        }
        return configuration
    }

    // MARK: What is said of failures

    private func explained(_ error: any Error) -> EnrolmentError {
        if let error = error as? PKIError {
            return EnrolmentError(.untrusted, "\(self.address) is not to be trusted: \(error.reason)")
        }
        let text = "\(error)"
        if text.contains("CERTIFICATE_VERIFY_FAILED") {
            return EnrolmentError(
                .untrusted,
                "\(self.address): its certificate does not lead to the root that is trusted here, or is out of its validity by this device's clock"
            )
        }
        if text.contains("PRIVATE_KEY_OPERATION_FAILED") {
            return EnrolmentError(
                .identity, "\(self.address): this device's private key did not sign: the log says why")
        }
        if error is NIOSSLExtraError || text.contains("failedToValidateHostname") {
            return EnrolmentError(
                .untrusted, "\(self.address): the certificate there is for another name than \(self.address.host)")
        }
        if text.contains("ALERT") || text.contains("alert") {
            return EnrolmentError(
                .forbidden, "\(self.address) does not accept this device's certificate: is it revoked or expired?")
        }
        if let error = error as? HTTPClientError {
            if error == .connectTimeout || error == .deadlineExceeded || error == .readTimeout {
                return EnrolmentError(.unreachable, "\(self.address) does not answer")
            }
        }
        if error is NIOTooManyBytesError {
            return EnrolmentError(.format, "an answer of more than \(Self.maximumAnswer) bytes")
        }
        if error is NIOSSLError {
            return EnrolmentError(.unreachable, "\(self.address): the TLS handshake failed: \(text)")
        }
        return EnrolmentError(
            .unreachable, "\(self.address) cannot be reached: \(Self.line(Array(text.utf8), limit: 200))")
    }

    /// What the authority says when it does not do what it was asked to: one line, `reason: words`.
    private func refusal(_ status: UInt, _ body: [UInt8]) -> EnrolmentError {
        let line = Self.line(body, limit: 300)
        let word = line.split(separator: ":", maxSplits: 1).first.map(String.init).flatMap { word in
            word.count <= 40 && word.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-") } ? word : nil
        }
        let code: EnrolmentError.Code =
            switch status {
            case 400: .request
            case 401: .token
            case 403: .forbidden
            case 409: word == "token-used" ? .token : .conflict
            case 429, 503: .busy
            default: .server
            }
        return EnrolmentError(
            code, "\(self.address) refuses: \(line.isEmpty ? "status \(status)" : line)", word: word)
    }

    /// Text of another party's as one line that does nothing to a terminal.
    static func line(_ bytes: [UInt8], limit: Int) -> String {
        let text = String(decoding: bytes.prefix(limit), as: UTF8.self)
        let line = text.split(whereSeparator: \.isNewline).first ?? ""
        let printable = line.unicodeScalars.filter { $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) }
        return String(printable)
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
