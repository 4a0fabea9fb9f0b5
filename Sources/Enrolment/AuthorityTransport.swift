package import AsyncHTTPClient
import Foundation
import Identity
import NIOCore
package import NIOHTTP1
import NIOSSL
package import PKI
import PKITLS
package import X509

/// A party's certificate to show to an authority, with its key.
package struct PartyCredentials: Sendable {
    /// The leaf, then its intermediate.
    package let chain: [Certificate]
    package let key: SigningKey

    package init(chain: [Certificate], key: SigningKey) {
        self.chain = chain
        self.key = key
    }
}

/// Requests to an authority over HTTPS (TLS 1.3), and what is said when they fail: what devices (``ESTClient``) and operators
/// have in common.
///
/// Whom it believes is fixed when it is made; the server's certificate is looked at after the handshake and before the
/// request.
package struct AuthorityTransport: Sendable {
    /// What an authority answered.
    package struct Answer: Sendable {
        package var headers: HTTPHeaders
        package var body: [UInt8]
    }

    package let address: AuthorityAddress
    /// How long one request may take.
    package var timeout: Duration
    /// Nil believes anybody.
    let roots: [Certificate]?
    private let verifyServer: (@Sendable (_ leaf: [UInt8]) throws -> Void)?

    /// - Parameters:
    ///   - roots: nil verifies no server at all.
    ///   - gate: asked after every handshake; the server must be of role `authority`, and not revoked as far as the gate
    ///     knows. Nil takes every server under the roots.
    package init(_ address: AuthorityAddress, roots: [Certificate]?, gate: PeerGate?, timeout: Duration) {
        self.address = address
        self.roots = roots
        self.timeout = timeout
        guard let gate else {
            self.verifyServer = nil
            return
        }
        self.verifyServer = { leaf in
            let peer = try gate.admit(leaf: leaf, at: UnixTime(Date().timeIntervalSince1970)).identity
            guard peer.spiffeID.role == .authority else { throw PKIError(.role, "\(peer) is not an authority") }
        }
    }

    /// A client that is to be shut down by whoever made it.
    ///
    /// - Throws: ``EnrolmentError`` with code `identity` if TLS does not take certificate or key.
    package func makeClient(_ credentials: PartyCredentials? = nil) throws(EnrolmentError) -> HTTPClient {
        HTTPClient(eventLoopGroupProvider: .singleton, configuration: try self.configuration(credentials))
    }

    /// - Parameters:
    ///   - path: with its query, as in a URL.
    ///   - maximum: the longest answer that is read, in bytes.
    /// - Throws: ``EnrolmentError``: `unreachable`, `untrusted`, `format`, or what a refusal means.
    package func ask(
        _ client: HTTPClient, _ method: HTTPMethod, _ path: String, headers: HTTPHeaders = [:],
        body: [UInt8]? = nil, maximum: Int
    ) async throws(EnrolmentError) -> Answer {
        var request = HTTPClientRequest(url: "\(self.address)\(path)")
        request.method = method
        request.headers = headers
        if let body { request.body = .bytes(ByteBuffer(bytes: body)) }
        let (status, answer): (UInt, Answer)
        do {
            let response = try await client.execute(request, timeout: TimeAmount(self.timeout))
            let bytes = try await response.body.collect(upTo: maximum)
            (status, answer) = (
                response.status.code, Answer(headers: response.headers, body: Array(bytes.readableBytesView))
            )
        } catch {
            throw self.explained(error)
        }
        guard status == 200 else { throw self.refusal(status, answer.body) }
        return answer
    }

    private func configuration(_ credentials: PartyCredentials?) throws(EnrolmentError) -> HTTPClient.Configuration {
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
                "\(self.address): its certificate does not lead to the root that is trusted here, or is out of its validity by the clock here"
            )
        }
        if text.contains("PRIVATE_KEY_OPERATION_FAILED") {
            return EnrolmentError(.identity, "\(self.address): the private key here did not sign: the log says why")
        }
        if error is NIOSSLExtraError || text.contains("failedToValidateHostname") {
            return EnrolmentError(
                .untrusted, "\(self.address): the certificate there is for another name than \(self.address.host)")
        }
        if text.contains("ALERT") || text.contains("alert") {
            return EnrolmentError(
                .forbidden, "\(self.address) does not accept the certificate that was shown: is it revoked or expired?")
        }
        if let error = error as? HTTPClientError {
            if error == .connectTimeout || error == .deadlineExceeded || error == .readTimeout {
                return EnrolmentError(.unreachable, "\(self.address) does not answer")
            }
        }
        if error is NIOTooManyBytesError {
            return EnrolmentError(.format, "\(self.address) answers with more bytes than are read")
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
}
