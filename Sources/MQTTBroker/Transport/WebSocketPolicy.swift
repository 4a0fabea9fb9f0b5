// MQTT over WebSocket: MQTT 5.0 section 6, RFC 6455 section 4.2.

package import NIOHTTP1

/// Which HTTP requests become MQTT connections.
///
/// A browser presents a client certificate for every page that asks it to connect, whoever wrote the page. So a
/// request with an `Origin`, which browsers always send and scripts cannot forge, is refused unless its origin is
/// listed (RFC 6455 section 10.2). Programs send none.
package struct WebSocketPolicy: Hashable, Sendable {
    /// Without query.
    package let path: String
    /// Such as `https://console.example.org`; compared without regard to case.
    private let allowedOrigins: Set<String>

    /// What a request that is refused is answered.
    package struct Refusal: Error, Hashable, Sendable {
        package let status: HTTPResponseStatus
        /// One line.
        package let reason: String
    }

    package init(path: String = "/mqtt", allowedOrigins: [String] = []) {
        self.path = path
        self.allowedOrigins = Set(allowedOrigins.map { $0.lowercased() })
    }

    /// - Throws: ``Refusal``.
    package func check(_ request: HTTPRequestHead) throws(Refusal) {
        guard request.uri.prefix(while: { $0 != "?" }) == self.path[...] else {
            throw Refusal(status: .notFound, reason: "MQTT is at \(self.path)")
        }
        guard request.method == .GET, request.version == .http1_1 else {
            throw Refusal(status: .badRequest, reason: "a WebSocket begins with GET of HTTP/1.1")
        }
        for origin in request.headers["origin"] where !self.allowedOrigins.contains(origin.lowercased()) {
            throw Refusal(
                status: .forbidden, reason: "pages of \(String(origin.prefix(128)).debugDescription) may not connect")
        }
        guard request.headers[canonicalForm: "upgrade"].contains(where: { $0.lowercased() == "websocket" }) else {
            throw Refusal(status: .upgradeRequired, reason: "only WebSockets are served here")
        }
        guard request.headers[canonicalForm: "connection"].contains(where: { $0.lowercased() == "upgrade" }),
            request.headers["sec-websocket-version"] == ["13"], request.headers["sec-websocket-key"].count == 1
        else { throw Refusal(status: .badRequest, reason: "the WebSocket handshake is not that of RFC 6455") }
        guard request.headers[canonicalForm: "sec-websocket-protocol"].contains("mqtt") else {
            throw Refusal(status: .badRequest, reason: "the subprotocol mqtt is not offered (MQTT-6.0.0-3)")
        }
    }
}
