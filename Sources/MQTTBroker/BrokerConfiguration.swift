public import Identity
public import MQTT
public import NIOCore
public import NIOSSL
public import PKI

/// How a broker is set up.
public struct BrokerConfiguration: Sendable {
    /// Where it listens.
    public struct Listener: Sendable {
        enum Kind: Sendable {
            case tls(host: String, port: Int)
            case webSocket(host: String, port: Int, policy: WebSocketPolicy)
            case unix(UnixSocket, identify: @Sendable (LocalPeer) -> PeerIdentity?)
            case plaintext(port: Int, identify: @Sendable (Connect) -> PeerIdentity?)
        }

        let kind: Kind
        /// From where a PROXY header comes first.
        var balancers: [AddressRange] = []

        /// Mutual TLS. Needs ``BrokerConfiguration/tls`` and ``BrokerConfiguration/admission``.
        ///
        /// - Parameter port: 0 lets the system choose; see ``Broker/boundPorts()``.
        public static func tls(host: String, port: Int) -> Listener { Listener(kind: .tls(host: host, port: port)) }

        /// MQTT over WebSocket (RFC 6455) over mutual TLS, subprotocol `mqtt`. Needs what ``tls(host:port:)`` needs.
        ///
        /// - Parameters:
        ///   - path: of the HTTP request, without query.
        ///   - allowedOrigins: whose web pages may connect, such as `https://console.example.org`; none by default,
        ///     for a browser presents its user's certificate on behalf of any page. Programs send no origin.
        public static func webSocket(
            host: String, port: Int, path: String = "/mqtt", allowedOrigins: [String] = []
        ) -> Listener {
            Listener(
                kind: .webSocket(
                    host: host, port: port, policy: WebSocketPolicy(path: path, allowedOrigins: allowedOrigins)))
        }

        /// A Unix socket, for tools on this machine. Who connects is who the kernel says it is.
        ///
        /// - Parameters:
        ///   - path: at most about 90 bytes. A stale socket there is replaced; it is removed at the end.
        ///   - mode: 0o600, or 0o660 for the group of the broker too.
        ///   - identify: says who a process is; `nil` refuses it.
        public static func unix(
            path: String, mode: UInt32 = 0o600, identify: @escaping @Sendable (LocalPeer) -> PeerIdentity?
        ) -> Listener {
            Listener(kind: .unix(UnixSocket(path: path, mode: mode), identify: identify))
        }

        /// The same listener behind load balancers: connections from these addresses begin with a header of the PROXY
        /// protocol, version 2, which says who the client is. From elsewhere such a header is not believed.
        public func behindBalancers(at addresses: [AddressRange]) -> Listener {
            var copy = self
            copy.balancers = addresses
            return copy
        }

        /// Without TLS, on 127.0.0.1 only: for tests and measurements. Whoever can reach it is whoever
        /// `identify` takes it for.
        ///
        /// - Parameter identify: says who a CONNECT is of; `nil` refuses it.
        public static func plaintextOnLoopback(
            port: Int, identify: @escaping @Sendable (Connect) -> PeerIdentity?
        ) -> Listener {
            Listener(kind: .plaintext(port: port, identify: identify))
        }
    }

    /// At least one.
    public var listeners: [Listener]

    /// What the broker presents and which roots it trusts; may be exchanged later by ``Broker/reload(tls:)``.
    public var tls: BrokerTLS?

    /// Asked after every TLS handshake, resumed ones included, before anything of the client is read.
    public var admission: PeerAdmission?

    /// Verifies client certificates within the handshake in the place of the TLS library; `nil` leaves it to that.
    public var verification: PeerVerification?

    /// Who may publish and subscribe to what.
    public var authorizer: any Authorizer

    public var limits: BrokerLimits

    /// Where sessions, what waits in them and retained messages outlive this process; `nil`: in memory only.
    public var store: Store?

    /// A folder on disk for sessions that outlive their connection.
    public struct Store: Sendable {
        /// Made if need be; for one broker at a time.
        public var directory: String
        public var durability: BrokerDurability

        public init(directory: String, durability: BrokerDurability = .safe) {
            self.directory = directory
            self.durability = durability
        }
    }

    /// Told of what happens, refusals above all. Called on the event loop: it must be quick.
    public var observer: (@Sendable (BrokerEvent) -> Void)?

    /// Where all sessions live; one of the process's shared loops unless given.
    public var eventLoop: (any EventLoop)?

    /// Threads of the broker, at least 1. With one, sockets and TLS share the loop of the sessions, which costs the
    /// least CPU for each message. With more, they have all others to themselves, which are made for them: TLS, by far
    /// the most expensive part, then takes as many cores, and the sessions one.
    public var threads = 1

    public init(
        listeners: [Listener], tls: BrokerTLS? = nil, admission: PeerAdmission? = nil,
        verification: PeerVerification? = nil, authorizer: any Authorizer = TopicTableAuthorizer(),
        limits: BrokerLimits = BrokerLimits(),
        observer: (@Sendable (BrokerEvent) -> Void)? = nil, eventLoop: (any EventLoop)? = nil
    ) {
        self.listeners = listeners
        self.tls = tls
        self.admission = admission
        self.verification = verification
        self.authorizer = authorizer
        self.limits = limits
        self.observer = observer
        self.eventLoop = eventLoop
    }
}

/// What the broker's acknowledgements say of its store.
public enum BrokerDurability: String, Sendable, CaseIterable {
    /// What is acknowledged is on disk: PUBACK, PUBREC, PUBCOMP, SUBACK and UNSUBACK wait for it.
    case safe
    /// Everything is written in the same way, and nobody waits for it: what was acknowledged in the last moments
    /// before a crash may be lost.
    case relaxed
}

/// The broker's side of TLS.
public struct BrokerTLS: Sendable {
    let configuration: TLSConfiguration

    /// Mutual TLS 1.3 with a client certificate required.
    ///
    /// - Parameters:
    ///   - chain: the broker's certificate and its intermediates.
    ///   - key: its private key, which may be in hardware.
    ///   - roots: the roots that clients' chains must lead to.
    ///   - allowsTLS12: lets older clients in.
    public init(
        chain: [NIOSSLCertificate], key: NIOSSLPrivateKeySource, roots: [NIOSSLCertificate], allowsTLS12: Bool = false
    ) {
        var configuration = TLSConfiguration.makeServerConfigurationWithMTLS(
            certificateChain: chain.map { .certificate($0) }, privateKey: key, trustRoots: .certificates(roots))
        configuration.minimumTLSVersion = allowsTLS12 ? .tlsv12 : .tlsv13
        configuration.shutdownTimeout = .seconds(1)
        self.init(configuration)
    }

    /// As ``init(chain:key:roots:allowsTLS12:)``, from PEM texts.
    ///
    /// - Parameters:
    ///   - chainPEM: the broker's certificate and its intermediates.
    ///   - keyPEM: its private key.
    ///   - rootsPEM: the roots that clients' chains must lead to.
    ///   - allowsTLS12: lets older clients in.
    /// - Throws: an error of NIOSSL if one of them is not PEM.
    public init(chainPEM: String, keyPEM: String, rootsPEM: String, allowsTLS12: Bool = false) throws {
        self.init(
            chain: try NIOSSLCertificate.fromPEMBytes(Array(chainPEM.utf8)),
            key: .privateKey(try NIOSSLPrivateKey(bytes: Array(keyPEM.utf8), format: .pem)),
            roots: try NIOSSLCertificate.fromPEMBytes(Array(rootsPEM.utf8)), allowsTLS12: allowsTLS12)
    }

    /// Any other configuration. Client certificates must be required in it.
    public init(_ configuration: TLSConfiguration) {
        self.configuration = configuration
    }

    /// Reads no files, but computes: not for an event loop. Each context has its own ticket keys.
    func makeContext() throws -> NIOSSLContext { try NIOSSLContext(configuration: self.configuration) }
}

/// Verifies a client's certificate chain within the TLS handshake. Not asked when a session is resumed: it never
/// takes the place of ``PeerAdmission``.
public struct PeerVerification: Sendable {
    let isNeeded: @Sendable () -> Bool
    let verify: @Sendable (_ chain: [[UInt8]]) throws -> Void

    /// Both are called on event loops, several at once if the broker has several.
    ///
    /// - Parameters:
    ///   - isNeeded: asked for each connection; when false, the TLS library verifies as it always does.
    ///   - verify: takes the chain that the client sent, leaf first, in DER; throws to refuse. That the client has the
    ///     key of the leaf, TLS itself makes sure of.
    public init(
        isNeeded: @escaping @Sendable () -> Bool, verify: @escaping @Sendable (_ chain: [[UInt8]]) throws -> Void
    ) {
        self.isNeeded = isNeeded
        self.verify = verify
    }

    /// The callback of the TLS library; `observe` is told why it refuses.
    func callback(_ observe: @escaping @Sendable (any Error) -> Void) -> NIOSSLCustomVerificationCallback {
        { certificates, promise in
            do {
                try self.verify(try certificates.map { try $0.toDERBytes() })
                promise.succeed(.certificateVerified)
            } catch {
                observe(error)
                promise.succeed(.failed)
            }
        }
    }
}

/// Decides who is let in by its certificate, and for how long.
///
/// TLS resumes sessions without verifying anything again, so the broker asks this after *every* handshake,
/// and again for all live connections by ``Broker/recheckPeers()`` and once a minute.
public struct PeerAdmission: Sendable {
    /// Somebody who was let in.
    public struct Peer: Sendable {
        public let identity: PeerIdentity
        /// Throws once it may not stay: expired or revoked.
        public let requireStanding: @Sendable () throws -> Void

        public init(identity: PeerIdentity, requireStanding: @escaping @Sendable () throws -> Void = {}) {
            self.identity = identity
            self.requireStanding = requireStanding
        }
    }

    let admit: @Sendable (_ certificate: [UInt8]) throws -> Peer

    /// - Parameter admit: takes the DER of the leaf, throws to refuse. Called on the event loop.
    public init(_ admit: @escaping @Sendable (_ certificate: [UInt8]) throws -> Peer) {
        self.admit = admit
    }

    /// By the rules of the installation's PKI.
    ///
    /// - Parameter now: the time, in Unix seconds.
    public init(gate: PeerGate, now: @escaping @Sendable () -> UnixTime) {
        self.init { certificate in
            let peer = try gate.admit(leaf: certificate, at: now())
            return Peer(identity: peer.identity) { try gate.requireStanding(peer, at: now()) }
        }
    }
}

/// Why a broker does not start or a session does not open. Two errors are equal when their codes are.
public struct BrokerError: Error, Hashable, Sendable, CustomStringConvertible {
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        public let description: String

        /// No listener, or one without what it needs.
        public static let configuration = Code(description: "configuration")
        /// An address cannot be listened on.
        public static let listen = Code(description: "listen")
        /// An in-process session may not exist or subscribe.
        public static let notAuthorized = Code(description: "not-authorized")
        /// The broker has shut down.
        public static let closed = Code(description: "closed")
        /// Another process has the store of sessions.
        public static let storeInUse = Code(description: "store-in-use")
        /// The store of sessions cannot be made, opened or kept durable.
        public static let storeUnusable = Code(description: "store-unusable")
        /// The store of sessions is damaged, not one of ours, or of a newer version.
        public static let storeDamaged = Code(description: "store-damaged")
        /// The store of sessions could not be written any more.
        public static let storeFailed = Code(description: "store-failed")
    }

    public let code: Code
    /// One line: what is wrong and, where we know it, what to do.
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { self.reason }

    public static func == (a: BrokerError, b: BrokerError) -> Bool { a.code == b.code }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.code) }
}
