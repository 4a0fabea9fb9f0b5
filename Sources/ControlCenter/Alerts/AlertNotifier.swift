import AsyncHTTPClient
import Crypto
import Foundation
import Identity
import Logging
import NIOCore
import NIOHTTP1
import Synchronization
import Telemetry

/// How people are told of alerts. Without any, alerts are in the store only.
public struct NotificationSettings: Sendable {
    /// An HTTP POST of a JSON object to a URL.
    public struct Webhook: Hashable, Sendable {
        public var url: String
        /// The key of the signature; empty for none.
        public var secret: [UInt8]

        public init(url: String, secret: [UInt8] = []) {
            self.url = url
            self.secret = secret
        }
    }

    public var webhook: Webhook?
    public var mail: MailSettings?
    /// As a signed alert on `control_center/alerts/<ID>`, for the auditor itself and for operators who listen.
    public var isPublished = false

    public init() {}

    var channels: [String] {
        [
            self.webhook == nil ? nil : "webhook", self.mail == nil ? nil : "mail", self.isPublished ? "mqtt" : nil,
        ].compactMap(\.self)
    }
}

/// Tells people what is to be told, again and again until it is taken, or so often.
struct AlertNotifier: Sendable {
    /// Eight attempts: the last about an hour after the first.
    static let maximumAttempts = 8
    private static let firstDelay: Int64 = 30_000_000_000

    let store: ControlCenterStore
    let settings: NotificationSettings
    let clock: @Sendable () -> Timestamp
    let logger: Logger

    /// Works until cancelled. A way that is slow holds up no other.
    func run() async {
        let channels = self.settings.channels
        guard !channels.isEmpty else { return }
        var configuration = HTTPClient.Configuration()
        // What is told, and its signature, is for the address that was configured.
        configuration.redirectConfiguration = .disallow
        let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        await withTaskGroup(of: Void.self) { group in
            for channel in channels { group.addTask { await self.run(channel, client) } }
        }
        try? await client.shutdown()
    }

    private func run(_ channel: String, _ client: HTTPClient) async {
        var trouble: String?
        while !Task.isCancelled {
            do {
                for notification in try self.store.dueNotifications(by: channel, at: self.clock(), limit: 16) {
                    try await self.tell(notification, client)
                }
                trouble = nil
            } catch {
                // Said once, until it is over.
                if trouble != "\(error)" {
                    self.logger.error("notifications wait", metadata: ["by": "\(channel)", "reason": "\(error)"])
                }
                trouble = "\(error)"
            }
            try? await Task.sleep(for: .milliseconds(500))
        }
    }

    private func tell(_ notification: Notification, _ client: HTTPClient) async throws {
        var failure: String?
        do {
            switch notification.channel {
            case "webhook": try await self.post(notification, client)
            case "mail": try await self.mail(notification)
            // Into the queue of alerts, where it is signed.
            default: return try self.store.queue(notification, at: self.clock())
            }
        } catch {
            failure = "\(error)"
        }
        var retry: Timestamp?
        if let failure {
            let isLast = notification.attempts + 1 >= Self.maximumAttempts
            if !isLast { retry = self.clock().advanced(byNanoseconds: Self.firstDelay << Int64(notification.attempts)) }
            self.logger.warning(
                "cannot tell of an alert",
                metadata: [
                    "alert": "\(notification.alert.number)", "by": "\(notification.channel)", "reason": "\(failure)",
                    "again": "\(!isLast)",
                ])
        }
        try self.store.settle(notification, error: failure, retry: retry)
    }

    // MARK: Webhook

    private struct Body: Encodable {
        let alert: Int64
        let event: String
        let rule: String
        let auditor: String
        let subject: String
        let text: String
        let raised: String
        let cleared: String?
    }

    /// The signature is over the time and the body, so that nobody can repeat an old one for long:
    /// `X-Secure-MQTT-Signature: sha256=<HMAC-SHA256 of "<timestamp>.<body>" in hexadecimal>`.
    static func signature(of body: [UInt8], at timestamp: String, secret: [UInt8]) -> String {
        let code = HMAC<SHA256>.authenticationCode(
            for: Array("\(timestamp).".utf8) + body, using: SymmetricKey(data: secret))
        return "sha256=" + Array(code).hexadecimal
    }

    private func post(_ notification: Notification, _ client: HTTPClient) async throws {
        guard let webhook = self.settings.webhook else { return }
        let alert = notification.alert
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let body = [UInt8](
            try encoder.encode(
                Body(
                    alert: alert.number, event: notification.event, rule: alert.rule, auditor: alert.auditor,
                    subject: alert.subject, text: alert.text, raised: alert.raised.description,
                    cleared: alert.cleared?.description)))
        var request = HTTPClientRequest(url: webhook.url)
        request.method = .POST
        request.headers.add(name: "content-type", value: "application/json")
        // The same for every attempt: whoever gets it twice can tell.
        request.headers.add(name: "x-secure-mqtt-delivery", value: "\(notification.number)")
        if !webhook.secret.isEmpty {
            let timestamp = "\(self.clock().seconds)"
            request.headers.add(name: "x-secure-mqtt-timestamp", value: timestamp)
            request.headers.add(
                name: "x-secure-mqtt-signature",
                value: Self.signature(of: body, at: timestamp, secret: webhook.secret))
        }
        request.body = .bytes(ByteBuffer(bytes: body))
        let response = try await client.execute(request, timeout: .seconds(15))
        guard (200..<300).contains(response.status.code) else {
            throw NotificationError("the webhook answers \(response.status.code)")
        }
    }

    // MARK: Mail

    private func mail(_ notification: Notification) async throws {
        guard let settings = self.settings.mail else { return }
        let alert = notification.alert
        var text = "\(notification.text)\n\nraised \(alert.raised)"
        if let cleared = alert.cleared { text += "\ncleared \(cleared)" }
        if !alert.subject.isEmpty { text += "\nabout \(alert.subject)" }
        text += "\n\nsecure-mqtt alerts acknowledge \(alert.number)\n"
        try await MailClient(settings).send(
            subject: "secure-mqtt \(notification.event): \(alert.auditor): \(alert.rule)", text: text,
            id: "\(notification.number).\(alert.raised.nanoseconds)", at: self.clock())
    }
}

/// Why somebody could not be told, in one line.
struct NotificationError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}
