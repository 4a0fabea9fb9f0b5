import ArgumentParser
import Foundation
import MQTT
import NIOCore
import NIOPosix
import NIOSSL
import PKI
import PKITLS

struct BrokerStatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show what the running broker counts.",
        discussion: """
            Over the Unix socket of the configuration (broker.socket), or, with an operator's certificate, over TLS \
            from anywhere.

            EXAMPLES
              secure-mqtt broker status --config /srv/energy/secure-mqtt.yaml
              secure-mqtt broker status --certificate operators/mona/operator.pem --key operators/mona/operator.key
              secure-mqtt broker status --json | jq '."messages/received"'
            """)

    @OptionGroup
    var options: ConfigurationOptions

    @Option(help: ArgumentHelp("An operator's certificate and intermediate: ask over TLS.", valueName: "file"))
    var certificate: String?

    @Option(help: ArgumentHelp("Its key.", valueName: "file"))
    var key: String?

    @Flag(help: "Print one JSON object on one line.")
    var json = false

    @Flag(help: "Print in Prometheus' text format, for a textfile collector.")
    var prometheus = false

    func validate() throws {
        guard (self.certificate == nil) == (self.key == nil) else {
            throw ValidationError("--certificate and --key go together")
        }
        guard !(self.json && self.prometheus) else { throw ValidationError("--json or --prometheus, not both") }
    }

    func run() async throws {
        let configuration = try await self.options.load()
        let figures = try await self.ask(configuration)
        let output = Terminal.standardOutput
        if self.json {
            try output.json(Dictionary(figures) { $1 })
        } else if self.prometheus {
            for (name, value) in figures { output.line("\(Self.metric(name)) \(value)") }
        } else {
            let width = figures.map(\.0.count).max() ?? 0
            for (name, value) in figures {
                output.line(name + String(repeating: " ", count: width - name.count + 2) + "\(value)")
            }
        }
    }

    /// `refused/handshakes/no-certificate` and `messages/dropped/expired` are one of a metric's reasons, and
    /// `messages/sent/qos1` one of its levels; the others are metrics of their own.
    private static func metric(_ name: String) -> String {
        let parts = name.split(separator: "/").map { $0.replacing("-", with: "_") }
        let label: String? =
            parts.count != 3
            ? nil : parts[0] == "refused" || parts[1] == "dropped" ? "reason" : parts[0] == "messages" ? "qos" : nil
        guard let label, let last = name.split(separator: "/").last else {
            return "secure_mqtt_broker_" + parts.joined(separator: "_")
        }
        return "secure_mqtt_broker_\(parts[0])_\(parts[1])_by_\(label){\(label)=\"\(last)\"}"
    }

    private func ask(_ configuration: InstallationConfiguration) async throws -> [(String, UInt64)] {
        let tls: NIOSSLContext?
        if let certificate = self.certificate, let key = self.key {
            tls = try Self.context(configuration, certificate, key)
        } else if configuration.broker.socket != nil {
            tls = nil
        } else {
            throw CommandError(
                .usage, "give --certificate and --key of an operator, or set broker.socket in the configuration")
        }
        let place =
            tls == nil ? configuration.broker.socket ?? "" : "\(configuration.broker.host):\(configuration.broker.port)"
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let answer = eventLoop.makePromise(of: [(String, UInt64)].self)
        let bootstrap = ClientBootstrap(group: eventLoop)
            .connectTimeout(.seconds(10))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let tls {
                        let name = configuration.broker.host
                        // A name in SNI; an address is checked without.
                        let isAddress = (try? SocketAddress(ipAddress: name, port: 0)) != nil
                        try channel.pipeline.syncOperations.addHandler(
                            try NIOSSLClientHandler(context: tls, serverHostname: isAddress ? nil : name))
                    }
                    try channel.pipeline.syncOperations.addHandler(FiguresReader(answer: answer))
                }
            }
        do {
            if tls == nil {
                _ = try await bootstrap.connect(unixDomainSocketPath: place).get()
            } else {
                _ = try await bootstrap.connect(host: configuration.broker.host, port: configuration.broker.port).get()
            }
        } catch {
            answer.fail(error)
            throw CommandError(
                .unavailable, "no broker answers at \(place): start it, or name the one that runs (\(error))")
        }
        eventLoop.scheduleTask(in: .seconds(10)) {
            answer.fail(CommandError(.unavailable, "the broker at \(place) does not answer"))
        }
        return try await answer.futureResult.get()
    }

    private static func context(
        _ configuration: InstallationConfiguration, _ certificate: String, _ key: String
    ) throws -> NIOSSLContext {
        let chain = try CertificateFile.read(certificate)
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.certificateChain = try chain.tlsCertificates.map { .certificate($0) }
        tls.privateKey = try KeyFile.open(key).tlsKey
        tls.trustRoots = .certificates(try CertificateFile.read(configuration.trust.root).tlsCertificates)
        tls.minimumTLSVersion = configuration.broker.allowTLS12 ? .tlsv12 : .tlsv13
        return try NIOSSLContext(configuration: tls)
    }
}

/// Subscribes to the broker's figures and takes them once.
private final class FiguresReader: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private static let prefix = "$SYS/broker/"

    private let answer: EventLoopPromise<[(String, UInt64)]>
    private var decoder = PacketDecoder(sender: .server, version: .v3_1_1, maximumPacketSize: 1 << 20)
    private var figures: [(String, UInt64)] = []

    init(answer: EventLoopPromise<[(String, UInt64)]>) { self.answer = answer }

    func channelActive(context: ChannelHandlerContext) {
        self.send(.connect(Connect(version: .v3_1_1, clientID: "", cleanStart: true, keepAlive: 30)), context)
    }

    private func send(_ packet: Packet, _ context: ChannelHandlerContext) {
        var buffer = ByteBuffer()
        do {
            try packet.encode(into: &buffer, version: .v3_1_1)
            context.writeAndFlush(self.wrapOutboundOut(buffer), promise: nil)
        } catch {
            self.end(context, error)
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.decoder.append(self.unwrapInboundIn(data))
        do {
            while let packet = try self.decoder.next() { try self.take(packet, context) }
        } catch {
            self.end(context, error)
        }
    }

    private func take(_ packet: Packet, _ context: ChannelHandlerContext) throws {
        switch packet {
        case .connAck(let connAck):
            guard connAck.reasonCode == .success else {
                throw CommandError(.permission, "the broker refuses this user or certificate: only operators may ask")
            }
            let filter = try TopicFilter("\(Self.prefix)#")
            self.send(
                .subscribe(
                    Subscribe(packetID: 1, subscriptions: [Subscription(filter: filter, maximumQoS: .atMostOnce)])),
                context)
        case .subAck(let subAck):
            guard subAck.reasonCodes == [.grantedQoS0] else {
                throw CommandError(
                    .permission, "the broker does not tell its figures to this one: only operators may ask")
            }
            // Its answer comes behind the figures.
            self.send(.pingReq, context)
        case .publish(let publish):
            guard publish.topic.rawValue.hasPrefix(Self.prefix), let value = UInt64(String(buffer: publish.payload))
            else { return }
            self.figures.append((String(publish.topic.rawValue.dropFirst(Self.prefix.count)), value))
        case .pingResp:
            self.answer.succeed(self.figures)
            self.send(.disconnect(Disconnect()), context)
            context.close(promise: nil)
        default: break
        }
    }

    private func end(_ context: ChannelHandlerContext, _ error: any Error) {
        self.answer.fail(error)
        context.close(promise: nil)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.end(context, CommandError(.unavailable, "the connection to the broker failed: \(error)"))
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.answer.fail(CommandError(.unavailable, "the broker closed the connection: see its log for the reason"))
    }
}
