import ArgumentParser
import Foundation
import Identity
import Logging
import MQTT
import MQTTBroker

/// `broker --development`: a broker for whoever is on this machine, without certificates or a configuration, that keeps
/// nothing. For trying things out, and for test suites of other people.
enum DevelopmentBroker {
    /// What `--set` takes with `--development`.
    enum Setting: String, CaseIterable {
        case receiveMaximum = "receive-maximum"
        case maximumPacketSize = "maximum-packet-size"
        case maximumPayloadSize = "maximum-payload-size"
        case maximumQoS = "maximum-qos"
        case retainAvailable = "retain-available"
        case maximumKeepAlive = "maximum-keep-alive"
        case topicAliasMaximum = "topic-alias-maximum"
        case maximumConnections = "maximum-connections"
        case maximumInflight = "maximum-inflight"
        case maximumQueued = "maximum-queued"
        case subscribeDeny = "subscribe-deny"
    }

    static let settingNames = Setting.allCases.map(\.rawValue).joined(separator: ", ")

    /// - Parameter settings: each `name=value`, later ones win; `subscribe-deny` adds up.
    /// - Throws: ``CommandError``: 64 for a name that does not exist, 78 for a value that cannot be.
    static func makeBroker(port: Int, settings: [String], logger: Logger) throws -> Broker {
        guard (0...65_535).contains(port) else {
            throw CommandError(.usage, "--port \(port): a port is 0 to 65535, and 0 lets the system choose")
        }
        var limits = BrokerLimits()
        limits.maximumPacketSize = 16 * 1_024 * 1_024
        // Everybody is the same identity here, at the same address.
        limits.maximumSessionsPerIdentity = .max
        limits.maximumConnectionsPerIdentity = .max
        limits.connectionRatePerIdentity = nil
        limits.maximumConnectionsPerAddress = .max
        limits.connectionRatePerAddress = nil
        limits.maximumSubscriptionsPerSession = 10_000
        for setting in settings { try Self.apply(setting, to: &limits) }
        guard let anonymous = Self.anonymous else {
            throw CommandError(.software, "the anonymous identity cannot be made")
        }
        return try Broker(
            configuration: BrokerConfiguration(
                listeners: [.plaintextOnLoopback(port: port) { _ in anonymous }], authorizer: Everybody(),
                limits: limits),
            logger: logger)
    }

    static func warn() {
        Terminal.standardError.write(
            "secure-mqtt: warning: --development: everybody on this machine may read and write everything, "
                + "without TLS, and nothing is kept\n")
    }

    private static func apply(_ setting: String, to limits: inout BrokerLimits) throws(CommandError) {
        guard let separator = setting.firstIndex(of: "=") else {
            throw CommandError(.usage, "--set \(setting): write name=value, such as maximum-qos=1")
        }
        let name = String(setting[..<separator])
        let value = String(setting[setting.index(after: separator)...])
        guard let known = Setting(rawValue: name) else {
            throw CommandError(
                .usage, "--set \(name): with --development there are only \(Self.settingNames)")
        }
        func number(_ range: ClosedRange<Int>) throws(CommandError) -> Int {
            guard let number = Int(value), range.contains(number) else {
                throw CommandError(
                    .configuration, "--set \(setting): a whole number from \(range.lowerBound) to \(range.upperBound)")
            }
            return number
        }
        switch known {
        case .receiveMaximum: limits.receiveMaximum = UInt16(try number(1...65_535))
        case .maximumPacketSize: limits.maximumPacketSize = try number(16...268_435_460)
        case .maximumPayloadSize: limits.maximumPayloadSize = try number(0...268_435_455)
        case .maximumQoS:
            guard let qos = QoS(rawValue: UInt8(try number(0...2))) else { return }
            limits.maximumQoS = qos
        case .retainAvailable:
            switch value {
            case "true", "1": limits.isRetainAvailable = true
            case "false", "0": limits.isRetainAvailable = false
            default: throw CommandError(.configuration, "--set \(setting): true or false")
            }
        case .maximumKeepAlive: limits.maximumKeepAlive = UInt16(try number(1...65_535))
        case .topicAliasMaximum: limits.topicAliasMaximum = UInt16(try number(0...65_535))
        case .maximumConnections: limits.maximumConnections = try number(1...1_000_000)
        case .maximumInflight: limits.maximumInflight = try number(1...65_535)
        case .maximumQueued: limits.maximumQueuedMessages = try number(1...100_000_000)
        case .subscribeDeny:
            do throws(MQTTError) {
                limits.deniedSubscriptions.append(try TopicFilter(value))
            } catch {
                throw CommandError(.configuration, "--set \(setting): \(error.reason)")
            }
        }
    }

    /// Sessions are told apart by their client identifier alone.
    private static let anonymous: PeerIdentity? = {
        guard let identity = try? SPIFFEID("spiffe://development.invalid/operator/anonymous") else { return nil }
        return PeerIdentity(spiffeID: identity, certificateHash: [UInt8](repeating: 0, count: 32))
    }()

    /// Lets everybody do everything, but for the broker's own topics.
    private struct Everybody: Authorizer {
        func refusalToPublish(_ topic: TopicName, isRetained: Bool, by peer: PeerIdentity) -> String? {
            // By bytes: a slash with what combines with it is one character of Swift's.
            topic.rawValue.utf8.starts(with: "$SYS/".utf8) || topic.rawValue == "$SYS" ? "topic" : nil
        }

        func refusalToSubscribe(_ filter: TopicFilter, by peer: PeerIdentity) -> String? { nil }

        func refusalToConnect(_ peer: PeerIdentity) -> String? { nil }
    }
}
