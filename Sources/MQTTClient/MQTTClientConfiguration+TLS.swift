import NIOCore
public import NIOSSL

extension MQTTClientConfiguration {
    /// Mutual TLS 1.3: the server proves its name under our trust roots, we show our certificate.
    public struct TLS: Sendable {
        /// Ours, leaf first, with the intermediates.
        public var certificateChain: [NIOSSLCertificate]
        /// That of the leaf.
        public var privateKey: NIOSSLPrivateKeySource
        /// Whom the server's certificate must lead to. Nobody else is trusted, the system's roots neither.
        public var trustRoots: [NIOSSLCertificate]
        /// The name that the server's certificate must bear, if it is not ``MQTTClientConfiguration/host``. For
        /// an IP address as host, the certificate must bear that address. (NIOSSL also takes a certificate that
        /// bears the address we are connected to in place of the name.)
        public var serverName: String?
        /// Whether the server's name is checked. Off only where ``verifyPeer`` checks who it is.
        public var verifiesServerName = true
        /// Also accept TLS 1.2, for brokers that know no better.
        public var allowsTLS12 = false
        /// Called after every handshake with the server's leaf certificate in DER, before the first MQTT
        /// packet: here belong the checks that TLS doesn't make, such as role and revocation. Runs on the
        /// event loop and must not block. What it throws ends the connection as `peer-rejected`.
        public var verifyPeer: (@Sendable (_ certificate: [UInt8]) throws -> Void)?

        public init(
            certificateChain: [NIOSSLCertificate], privateKey: NIOSSLPrivateKeySource, trustRoots: [NIOSSLCertificate]
        ) {
            self.certificateChain = certificateChain
            self.privateKey = privateKey
            self.trustRoots = trustRoots
        }

        /// From PEM texts.
        ///
        /// - Throws: ``MQTTClientError`` with code `invalid-configuration`.
        public init(
            certificateChainPEM: some Sequence<UInt8>, privateKeyPEM: some Sequence<UInt8>,
            trustRootsPEM: some Sequence<UInt8>
        ) throws(MQTTClientError) {
            do {
                self.init(
                    certificateChain: try NIOSSLCertificate.fromPEMBytes(Array(certificateChainPEM)),
                    privateKey: .privateKey(try NIOSSLPrivateKey(bytes: Array(privateKeyPEM), format: .pem)),
                    trustRoots: try NIOSSLCertificate.fromPEMBytes(Array(trustRootsPEM)))
            } catch {
                throw MQTTClientError(
                    .invalidConfiguration, "certificates or key are not PEM that we can read: \(error)")
            }
        }

        /// Parses and checks chain and key: some CPU, not on an event loop.
        func makeContext() throws(MQTTClientError) -> NIOSSLContext {
            guard !self.trustRoots.isEmpty else {
                throw MQTTClientError(.invalidConfiguration, "TLS without a trust root trusts nobody")
            }
            var configuration = TLSConfiguration.makeClientConfiguration()
            configuration.minimumTLSVersion = self.allowsTLS12 ? .tlsv12 : .tlsv13
            configuration.trustRoots = .certificates(self.trustRoots)
            configuration.certificateVerification =
                self.verifiesServerName ? .fullVerification : .noHostnameVerification
            configuration.certificateChain = self.certificateChain.map { .certificate($0) }
            configuration.privateKey = self.privateKey
            // A server that does not answer our goodbye must not hold up the next attempt.
            configuration.shutdownTimeout = .seconds(1)
            do {
                return try NIOSSLContext(configuration: configuration)
            } catch {
                throw MQTTClientError(.invalidConfiguration, "TLS refuses certificate or key: \(error)")
            }
        }

        /// - Parameter host: Whom we connect to.
        func makeHandler(context: NIOSSLContext, host: String) throws -> NIOSSLClientHandler {
            let name = self.serverName ?? host
            let isAddress = (try? SocketAddress(ipAddress: name, port: 0)) != nil
            // TLS has no server name indication for addresses; NIOSSL then compares the peer's address.
            return try NIOSSLClientHandler(context: context, serverHostname: isAddress ? nil : name)
        }
    }
}
