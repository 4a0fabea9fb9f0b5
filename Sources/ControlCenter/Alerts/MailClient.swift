import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import Telemetry

/// A mail server and who gets the mail.
public struct MailSettings: Hashable, Sendable {
    /// How the connection is protected.
    public enum Security: String, Hashable, Sendable {
        /// TLS from the first byte (RFC 8314), usually port 465.
        case tls
        /// STARTTLS (RFC 3207), usually port 587. Without it nothing is sent.
        case startTLS = "starttls"
        /// In the clear: for a server on the same machine only.
        case none
    }

    public var host: String
    public var port: Int
    public var security: Security
    /// PEM of the roots that the server's certificate must chain to; nil for those of the system.
    public var roots: String?
    /// For AUTH PLAIN (RFC 4954); nil for none.
    public var user: String?
    public var password: String?
    public var from: String
    public var to: [String]

    public init(
        host: String, port: Int, security: Security = .startTLS, roots: String? = nil, user: String? = nil,
        password: String? = nil, from: String, to: [String]
    ) {
        self.host = host
        self.port = port
        self.security = security
        self.roots = roots
        self.user = user
        self.password = password
        self.from = from
        self.to = to
    }
}

/// Sends one mail over a connection of its own: the little of SMTP (RFC 5321) that this needs.
struct MailClient: Sendable {
    private static let timeout = TimeAmount.seconds(20)

    private let settings: MailSettings

    init(_ settings: MailSettings) {
        self.settings = settings
    }

    /// - Parameter id: tells this mail from all others.
    /// - Throws: ``NotificationError`` for what the server refuses; else what the network does.
    func send(subject: String, text: String, id: String, at now: Timestamp) async throws {
        let settings = self.settings
        for address in settings.to + [settings.from] where !Self.isPlain(address) {
            throw NotificationError("\(address) is no mail address")
        }
        let context = settings.security == .none ? nil : try self.context()
        let replies = MailReplies()
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connectTimeout(Self.timeout)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if settings.security == .tls, let context {
                        try channel.pipeline.syncOperations.addHandler(Self.tls(context, settings.host))
                    }
                    try channel.pipeline.syncOperations.addHandler(ByteToMessageHandler(MailLines(replies: replies)))
                    try channel.pipeline.syncOperations.addHandler(replies)
                }
            }
            .connect(host: settings.host, port: settings.port).get()
        // However the server dallies, the connection is closed then, and every wait ends.
        let deadline = channel.eventLoop.scheduleTask(in: .seconds(60)) { channel.close(promise: nil) }
        defer {
            deadline.cancel()
            channel.close(promise: nil)
        }
        let session = MailSession(channel: channel, replies: replies)
        _ = try await session.expect(2)
        var offers = try await session.command("EHLO localhost", 2)
        if settings.security == .startTLS, let context {
            guard offers.contains(where: { $0.uppercased().hasPrefix("STARTTLS") }) else {
                throw NotificationError("\(settings.host) does not offer STARTTLS")
            }
            _ = try await session.command("STARTTLS", 2)
            try await channel.eventLoop.submit {
                // What came in the clear behind the answer, even a part of a line, would be taken for what the server
                // says under TLS (RFC 3207 section 6).
                guard replies.isEmpty else {
                    throw NotificationError("\(settings.host) says more than it should before TLS")
                }
                try channel.pipeline.syncOperations.addHandler(Self.tls(context, settings.host), position: .first)
            }.get()
            offers = try await session.command("EHLO localhost", 2)
        }
        if let user = settings.user {
            guard settings.security != .none else {
                throw NotificationError("a password is not sent without TLS")
            }
            let credentials = Data("\u{0}\(user)\u{0}\(settings.password ?? "")".utf8).base64EncodedString()
            _ = try await session.command("AUTH PLAIN \(credentials)", 2, shown: "AUTH PLAIN")
        }
        _ = try await session.command("MAIL FROM:<\(settings.from)>", 2)
        for address in settings.to { _ = try await session.command("RCPT TO:<\(address)>", 2) }
        _ = try await session.command("DATA", 3)
        _ = try await session.command(self.message(subject, text, id, now) + "\r\n.", 2, shown: "the message")
        _ = try? await session.command("QUIT", 2)
    }

    /// RFC 5322. The subject and the text may have any character: both are sent as Base64.
    private func message(_ subject: String, _ text: String, _ id: String, _ now: Timestamp) -> String {
        let domain = self.settings.from.split(separator: "@").last.map(String.init) ?? "localhost"
        let body = Data(text.replacing("\n", with: "\r\n").utf8)
            .base64EncodedString(options: [.lineLength76Characters, .endLineWithCarriageReturn, .endLineWithLineFeed])
        return [
            "Date: \(Self.date(now))", "From: <\(self.settings.from)>",
            "To: \(self.settings.to.map { "<\($0)>" }.joined(separator: ", "))", "Message-ID: <\(id)@\(domain)>",
            "Subject: \(Self.encodedWords(subject))", "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: base64",
            "Auto-Submitted: auto-generated",
            "", body,
        ].joined(separator: "\r\n")
    }

    /// RFC 2047: a word has 75 characters at most, which is Base64 of 45 bytes.
    private static func encodedWords(_ text: String) -> String {
        var pieces = [""]
        for scalar in text.unicodeScalars.prefix(400) {
            let last = pieces.count - 1
            if pieces[last].utf8.count + UTF8.width(scalar) > 45 {
                pieces.append(String(scalar))
            } else {
                pieces[last].unicodeScalars.append(scalar)
            }
        }
        return pieces.map { "=?UTF-8?B?\(Data($0.utf8).base64EncodedString())?=" }.joined(separator: "\r\n ")
    }

    private static func date(_ time: Timestamp) -> String {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(secondsFromGMT: 0)
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss +0000"
        return formatter.string(from: Date(timeIntervalSince1970: TimeInterval(time.seconds)))
    }

    /// Without anything that could end a command or an address.
    private static func isPlain(_ address: String) -> Bool {
        (3...254).contains(address.utf8.count) && address.split(separator: "@").count == 2
            && address.utf8.allSatisfy {
                (0x21...0x7E).contains($0) && $0 != UInt8(ascii: "<") && $0 != UInt8(ascii: ">")
            }
    }

    private func context() throws -> NIOSSLContext {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.minimumTLSVersion = .tlsv12
        if let roots = self.settings.roots {
            configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(roots))
        }
        return try NIOSSLContext(configuration: configuration)
    }

    private static func tls(_ context: NIOSSLContext, _ host: String) throws -> NIOSSLClientHandler {
        // Addresses have no server name; the certificate must name them all the same.
        let isAddress = (try? SocketAddress(ipAddress: host, port: 0)) != nil
        return try NIOSSLClientHandler(context: context, serverHostname: isAddress ? nil : host)
    }
}

/// One command after another, each with its answer.
private struct MailSession {
    let channel: any Channel
    let replies: MailReplies

    /// - Parameters:
    ///   - kind: the first digit of the answer that is wanted.
    ///   - shown: what may be said of the command in an error.
    /// - Returns: The lines of the answer without their codes.
    func command(_ command: String, _ kind: Int, shown: String? = nil) async throws -> [String] {
        try await self.channel.writeAndFlush(ByteBuffer(string: command + "\r\n"))
        return try await self.expect(kind, shown ?? command)
    }

    func expect(_ kind: Int, _ shown: String = "the connection") async throws -> [String] {
        let lines = try await self.replies.next(on: self.channel.eventLoop)
        guard let last = lines.last, last.hasPrefix("\(kind)") else {
            throw NotificationError("the mail server refuses \(shown): \(lines.joined(separator: " ").prefix(200))")
        }
        return lines.map { String($0.dropFirst(4)) }
    }
}

/// Lines that end with CR LF, of at most 4,096 bytes.
private struct MailLines: ByteToMessageDecoder {
    typealias InboundOut = String

    let replies: MailReplies

    mutating func decode(context: ChannelHandlerContext, buffer: inout ByteBuffer) throws -> DecodingState {
        defer { self.replies.isMidLine = buffer.readableBytes > 0 }
        guard let end = buffer.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) else {
            guard buffer.readableBytes <= 4_096 else { throw NotificationError("the mail server says too much") }
            return .needMoreData
        }
        let line = buffer.readString(length: end - buffer.readerIndex) ?? ""
        buffer.moveReaderIndex(forwardBy: 1)
        context.fireChannelRead(Self.wrapInboundOut(line.hasSuffix("\r") ? String(line.dropLast()) : line))
        return .continue
    }

    mutating func decodeLast(
        context: ChannelHandlerContext, buffer: inout ByteBuffer, seenEOF: Bool
    ) throws -> DecodingState {
        .needMoreData
    }
}

/// Whole answers, for one task that waits for them.
///
/// Everything in it is touched on the channel's event loop only, hence `@unchecked`: `next` hops there, the handlers
/// and whoever asks `isEmpty` are there.
private final class MailReplies: ChannelInboundHandler, @unchecked Sendable {
    typealias InboundIn = String

    private var lines: [String] = []
    private var replies: [[String]] = []
    private var waiter: EventLoopPromise<[String]>?
    private var failure: (any Error)?
    /// A line has begun and has not ended.
    fileprivate var isMidLine = false

    /// Whether nothing has come that nobody has taken. On the event loop only.
    fileprivate var isEmpty: Bool { self.replies.isEmpty && self.lines.isEmpty && !self.isMidLine }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let line = Self.unwrapInboundIn(data)
        self.lines.append(line)
        // The last line of an answer has no hyphen behind its code (RFC 5321 section 4.2.1).
        guard self.lines.count < 100, line.dropFirst(3).first == "-" else {
            let reply = self.lines
            self.lines = []
            if let waiter {
                self.waiter = nil
                waiter.succeed(reply)
            } else {
                self.replies.append(reply)
            }
            return
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(NotificationError("the mail server closes the connection"))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.fail(error)
        context.close(promise: nil)
    }

    private func fail(_ error: any Error) {
        self.failure = self.failure ?? error
        self.waiter?.fail(error)
        self.waiter = nil
    }

    func next(on loop: any EventLoop) async throws -> [String] {
        try await loop.flatSubmit {
            let promise = loop.makePromise(of: [String].self)
            if !self.replies.isEmpty {
                promise.succeed(self.replies.removeFirst())
            } else if let failure = self.failure {
                promise.fail(failure)
            } else {
                self.waiter = promise
            }
            return promise.futureResult
        }.get()
    }
}
