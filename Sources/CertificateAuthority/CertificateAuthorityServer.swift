import Foundation
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
public import Logging
import NIOCore
import NIOPosix
import NIOSSL
public import PKI
public import ServiceLifecycle
import Synchronization

/// The authority's process: EST, revocation lists, OCSP and the operators' API over HTTPS, lists and OCSP over plain
/// HTTP too, and the upkeep of its own certificates and lists.
///
/// The one process that reads the issuing key. TLS asks clients for a certificate and takes whatever they show:
/// that they hold its key. Whether it is good is judged for each request, so that an expired one may be renewed where
/// an operator allowed it, and a revoked one is refused at once.
public struct CertificateAuthorityServer: Service {
    /// Between two looks at what is due, in seconds. A rollover by another process is noticed within one.
    static let maintenanceInterval = 30

    /// Where it listens.
    public struct Ports: Hashable, Sendable {
        public let https: Int
        /// Nil if no such port is configured.
        public let http: Int?
    }

    private let publisher: Publisher
    private let configuration: AuthorityConfiguration
    private let now: @Sendable () -> UnixTime
    private let onListening: @Sendable (Ports) -> Void
    private let logger: Logger

    /// Opens the issuing key, and issues what the server itself needs.
    ///
    /// - Parameters:
    ///   - onListening: called once, when all ports are open.
    /// - Throws: ``PKIError``: those of the files; `passphrase`; `name` if another party has its ID.
    public init(
        _ directory: AuthorityDirectory, configuration: AuthorityConfiguration,
        now: @escaping @Sendable () -> UnixTime,
        onListening: @escaping @Sendable (Ports) -> Void = { _ in }, logger: Logger
    ) throws(PKIError) {
        self.configuration = configuration
        self.now = now
        self.onListening = onListening
        self.logger = logger
        try directory.unlock()
        self.publisher = Publisher(directory, configuration, logger: logger)
        try self.publisher.maintain(at: now())
    }

    public func run() async throws {
        let opened = Shared<[Int]>([])
        let wanted = self.configuration.publicPort == nil ? 1 : 2
        let (onListening, hasPublicPort) = (self.onListening, wanted == 2)
        // The two servers open their ports in any order: the public one counts as negative until both are known.
        @Sendable func listens(_ channel: any Channel, isPublic: Bool) {
            let port = channel.localAddress?.port ?? 0
            let ports = opened.value.withLock { ports in
                ports.append(isPublic ? -port : port)
                return ports
            }
            guard ports.count == wanted, let https = ports.first(where: { $0 > 0 }) else { return }
            onListening(Ports(https: https, http: hasPublicPort ? ports.first { $0 < 0 }.map { -$0 } : nil))
        }

        let limiter = Shared(AttemptLimiter(maximum: self.configuration.maximumFailures))
        func responder(isPublicOnly: Bool) -> AuthorityResponder {
            AuthorityResponder(
                configuration: self.configuration, publisher: self.publisher, limiter: limiter, url: self.url,
                isPublicOnly: isPublicOnly, now: self.now, logger: self.logger)
        }
        // Bounded: how many connections there are, what each may hold, and how long it may take for what.
        let counter = ConnectionCounter(self.configuration.limits, logger: self.logger)
        let channel = HTTP1Channel.Configuration(
            additionalChannelHandlers: [ConnectionBounds(counter)],
            httpDecoderConfiguration: .init(
                maxHeaderFieldSize: 8_192, maxHeaderListSize: 16_384, maxHeaderFieldCount: 64))
        // The server's own log of requests would be ours twice.
        var quiet = self.logger
        quiet.logLevel = max(quiet.logLevel, .warning)
        var services: [any Service] = [
            Application(
                responder: responder(isPublicOnly: false),
                server: try .tls(.http1(configuration: channel), configuration: try self.tls()),
                configuration: .init(
                    address: .hostname(self.configuration.listen, port: self.configuration.port)),
                onServerRunning: { listens($0, isPublic: false) }, logger: quiet)
        ]
        if let publicPort = self.configuration.publicPort {
            services.append(
                Application(
                    responder: responder(isPublicOnly: true), server: .http1(configuration: channel),
                    configuration: .init(address: .hostname(self.configuration.listen, port: publicPort)),
                    onServerRunning: { listens($0, isPublic: true) }, logger: quiet))
        }
        services.append(Maintenance(publisher: self.publisher, now: self.now, logger: self.logger))
        try await ServiceGroup(configuration: .init(services: services, logger: quiet)).run()
    }

    private var url: String {
        let host = self.configuration.hosts.first?.description ?? "localhost"
        return "https://\(host.contains(":") ? "[\(host)]" : host):\(self.configuration.port)"
    }

    private func tls() throws -> TLSChannelConfiguration {
        let publisher = self.publisher
        var tls = try publisher.initialTLS()
        tls.minimumTLSVersion = .tlsv13
        tls.certificateVerification = .optionalVerification
        tls.trustRoots = .certificates(
            try publisher.directory.roots.map { try NIOSSLCertificate(bytes: $0.der, format: .der) })
        tls.sslContextCallback = { _, promise in promise.succeed(publisher.serverIdentity()) }
        return TLSChannelConfiguration(
            tlsConfiguration: tls,
            customVerificationCallback: { _, promise in promise.succeed(.certificateVerified) })
    }
}

/// Renews what is due, while the server runs.
private struct Maintenance: Service {
    let publisher: Publisher
    let now: @Sendable () -> UnixTime
    let logger: Logger

    func run() async throws {
        await cancelWhenGracefulShutdown {
            await self.publisher.announceRecent(at: self.now())
            var seconds = 0
            var isFailing = false
            while (try? await Task.sleep(for: .seconds(1))) != nil {
                seconds += 1
                // What failed is not tried again every second.
                let isDue = seconds >= CertificateAuthorityServer.maintenanceInterval
                guard isDue || (!isFailing && self.publisher.isStale) else { continue }
                seconds = 0
                isFailing = true
                do {
                    let (publisher, now) = (self.publisher, self.now())
                    if try await NIOThreadPool.singleton.runIfActive({ try publisher.maintain(at: now) }) {
                        await publisher.announceLists([])
                    }
                    isFailing = false
                } catch {
                    self.logger.error("what is due cannot be renewed", metadata: ["reason": "\(error)"])
                }
            }
        }
    }
}
