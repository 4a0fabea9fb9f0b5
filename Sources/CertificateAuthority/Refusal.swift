import HTTPTypes
import Hummingbird
import NIOCore
import PKI

/// An answer that refuses: one line, a reason word and what is meant by it.
struct Refusal: Error {
    let status: HTTPResponse.Status
    let reason: String
    let text: String

    init(_ status: HTTPResponse.Status, _ reason: String, _ text: String) {
        self.status = status
        self.reason = reason
        self.text = text
    }

    init(_ error: PKIError) {
        self.init(Self.status(of: error.code), "\(error.code)", error.reason)
    }

    /// Whether it is an error of ours, of which a stranger learns no more than that.
    var isInternal: Bool { self.status.code >= 500 }

    var response: Response {
        let line = self.isInternal ? "internal: the authority cannot do this now" : "\(self.reason): \(self.text)"
        var headers: HTTPFields = [.contentType: "text/plain; charset=utf-8"]
        if self.status == .unauthorized { headers[.wwwAuthenticate] = "Basic realm=\"enrolment\"" }
        return Response(
            status: self.status, headers: headers, body: .init(byteBuffer: ByteBuffer(string: line + "\n")))
    }

    private static func status(of code: PKIError.Code) -> HTTPResponse.Status {
        switch code {
        case .token: .unauthorized
        case .tokenExpired, .revoked, .expired, .notYetValid, .unknownIssuer, .role, .trustDomain, .chain: .forbidden
        case .tokenUsed, .exists: .conflict
        case .busy: .tooManyRequests
        case .format, .tooLarge, .version, .weakKey, .algorithm, .extension, .keyUsage, .name, .possession, .signature:
            .badRequest
        default: .internalServerError
        }
    }
}
