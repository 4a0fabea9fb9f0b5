import CertificateAuthority
import Configuration
import Connections
import ControlCenter
import Enrolment
import Foundation
import Identity
import MQTTBroker
import PKCS11
import PKI
import Telemetry

extension InstallationConfiguration {
    /// - Parameters:
    ///   - file: YAML; nil for environment and overrides alone.
    ///   - overrides: by the raw value of ``Key``.
    static func load(
        file: String?, overrides: [String: String],
        environment: [String: String] = ProcessInfo.processInfo.environment
    ) async throws(CommandError) -> InstallationConfiguration {
        var providers: [any ConfigProvider] = [
            InMemoryProvider(
                values: Dictionary(
                    uniqueKeysWithValues: overrides.map {
                        (
                            AbsoluteConfigKey($0.key.split(separator: ".").map(String.init)),
                            ConfigValue(stringLiteral: $0.value)
                        )
                    })),
            KeyMappingProvider(upstream: EnvironmentVariablesProvider(environmentVariables: environment)) {
                $0.prepending(["secure-mqtt"])
            },
        ]
        if let file {
            do {
                let text = try String(contentsOfFile: file, encoding: .utf8)
                try Self.requireKnownKeys(text, file)
                let path = InMemoryProvider(values: ["filePath": .init(stringLiteral: file)])
                providers.append(try await FileProvider<YAMLSnapshot>(config: ConfigReader(provider: path)))
            } catch let error as CommandError {
                throw error
            } catch let error as CocoaError where error.isFileError {
                throw CommandError(.noInput, "\(file) cannot be read: \(error.localizedDescription)")
            } catch {
                throw CommandError(.configuration, "\(file) is not YAML that can be read: \(error)")
            }
        }
        let overridden = Set(overrides.keys)
        return try Self(
            Values(reader: ConfigReader(providers: providers), file: file) { key in
                // A path from a flag or the environment is the caller's; one from the file is the file's.
                overridden.contains(key) || environment[Self.environmentName(key)] != nil
            })
    }

    static func environmentName(_ key: String) -> String {
        "SECURE_MQTT_" + key.uppercased().replacing(".", with: "_").replacing("-", with: "_")
    }

    private init(_ values: Values) throws(CommandError) {
        self.file = values.file
        self.trust = TrustSettings(
            domain: try values.required(.trustDomain) { (text) throws(IdentityError) in try TrustDomain(text) },
            root: try values.requiredPath(.trustRoot),
            intermediates: values.path(.trustIntermediates),
            revocationLists: values.path(.trustRevocationLists),
            requireCurrentLists: try values.bool(.trustRequireCurrentLists, default: false))
        self.broker = BrokerSettings(
            host: values.string(.brokerHost) ?? "localhost",
            port: try values.int(.brokerPort, 0...65_535, default: 8_883),
            listen: values.string(.brokerListen) ?? "0.0.0.0",
            plaintextPort: try values.int(.brokerPlaintextPort, 0...65_535),
            certificate: values.path(.brokerCertificate),
            key: try values.key(.brokerKey),
            store: values.path(.brokerStore),
            durability: try values.choice(.brokerDurability, default: .safe),
            allowTLS12: try values.bool(.brokerAllowTLS12, default: false),
            threads: try values.int(.brokerThreads, 0...1_024, default: 0),
            limits: try Self.brokerLimits(values),
            webSocketPort: try values.int(.brokerWebSocketPort, 0...65_535),
            webSocketPath: try values.webSocketPath() ?? "/mqtt",
            webSocketOrigins: values.list(.brokerWebSocketOrigins),
            socket: values.path(.brokerSocket),
            socketMode: try values.socketMode(),
            socketOperators: try values.socketOperators(),
            balancers: try values.list(.brokerBalancers).map { (text) throws(CommandError) in
                do throws(BrokerError) {
                    return try AddressRange(text)
                } catch {
                    throw values.wrong(.brokerBalancers, error.reason)
                }
            })
        self.controlCenter = try values.has(.controlCenterID) ? Self.controlCenter(values) : nil
        self.licore = LiCoreSettings(
            fleet: values.path(.licoreFleet) ?? values.resolve("fleet.json"),
            controller: try values.identifier(.licoreController),
            controllerKey: try values.key(.licoreControllerKey))
        self.alerts = AlertSettings(
            rules: try Self.alertRules(values), notifications: try Self.notifications(values))
        self.auditor = try values.has(.auditorID) ? Self.auditor(values) : nil
        self.ca = try values.has(.caID) ? Self.ca(values, brokerHost: self.broker.host) : nil
    }

    private static func brokerLimits(_ values: Values) throws(CommandError) -> BrokerLimits {
        var limits = BrokerLimits()
        func set(
            _ limit: WritableKeyPath<BrokerLimits, Int>, _ key: Key, _ range: ClosedRange<Int>
        ) throws(CommandError) {
            limits[keyPath: limit] = try values.int(key, range, default: limits[keyPath: limit])
        }
        try set(\.maximumConnections, .brokerMaxConnections, 1...1_000_000)
        try set(\.maximumPacketSize, .brokerMaxPacketSize, 1_024...16_777_216)
        try set(\.maximumQueuedMessages, .brokerMaxQueuedMessages, 1...100_000_000)
        try set(\.maximumQueuedBytes, .brokerMaxQueuedBytes, 1_024...(1 << 40))
        try set(\.maximumTotalQueuedBytes, .brokerMaxTotalQueuedBytes, 1_024...(1 << 44))
        try set(\.slowConsumerBytes, .brokerSlowConsumerBytes, 16_384...(1 << 30))
        try set(\.maximumConnectionsPerAddress, .brokerMaxConnectionsPerAddress, 1...1_000_000)
        try set(\.maximumConnectionsPerIdentity, .brokerMaxConnectionsPerIdentity, 1...1_000_000)
        try set(\.maximumSessionsPerIdentity, .brokerMaxSessionsPerIdentity, 1...1_000_000)
        limits.connectDeadline = UInt32(
            try values.int(.brokerConnectDeadline, 1...3_600, default: Int(limits.connectDeadline)))
        limits.maximumKeepAlive = UInt16(
            try values.int(.brokerMaxKeepAlive, 1...65_535, default: Int(limits.maximumKeepAlive)))
        limits.connectionRatePerAddress = try values.rate(
            .brokerConnectionRatePerAddress, burst: 10, default: limits.connectionRatePerAddress)
        limits.connectionRatePerIdentity = try values.rate(
            .brokerConnectionRatePerIdentity, burst: 20, default: limits.connectionRatePerIdentity)
        limits.packetRatePerConnection = try values.rate(.brokerMaxPacketRate, burst: 2, default: nil)
        limits.byteRatePerConnection = try values.rate(.brokerMaxByteRate, burst: 2, default: nil)
        return limits
    }

    private static func controlCenter(_ values: Values) throws(CommandError) -> ControlCenterSettings {
        ControlCenterSettings(
            id: try values.required(.controlCenterID) { (text) throws(IdentityError) in try Identifier(text) },
            certificate: try values.requiredPath(.controlCenterCertificate),
            key: try values.requiredKey(.controlCenterKey),
            store: values.path(.controlCenterStore) ?? values.resolve("store/store.sqlite3"),
            authority: try values.string(.controlCenterAuthority).map { text throws(CommandError) in
                do throws(EnrolmentError) {
                    return try AuthorityAddress(text)
                } catch {
                    throw values.wrong(.controlCenterAuthority, error.reason)
                }
            },
            workers: try values.int(.controlCenterWorkers, 0...1_024, default: 0))
    }

    private static func ca(_ values: Values, brokerHost: String) throws(CommandError) -> AuthoritySettings {
        let names = values.list(.caHosts)
        let hosts = try (names.isEmpty ? [brokerHost] : names).map { name throws(CommandError) in
            do throws(PKIError) {
                return try HostName(name)
            } catch {
                throw values.wrong(.caHosts, error.reason)
            }
        }
        let publicPort = try values.int(.caPublicPort, 0...65_535)
        let url =
            values.string(.caPublicURL)
            ?? publicPort.flatMap { port in
                hosts.first.map { host in
                    if case .address(let bytes) = host, bytes.count == 16 {
                        "http://[\(host)]:\(port)"
                    } else {
                        "http://\(host):\(port)"
                    }
                }
            }
        let publication: PublicationPoints?
        do throws(PKIError) {
            publication = if let url { try PublicationPoints(url) } else { nil }
        } catch {
            throw values.wrong(.caPublicURL, error.reason)
        }
        var limits = AuthorityLimits()
        limits.connections = try values.int(.caMaxConnections, 1...1_000_000, default: limits.connections)
        limits.connectionsPerAddress = try values.int(
            .caMaxConnectionsPerAddress, 1...1_000_000, default: limits.connectionsPerAddress)
        return AuthoritySettings(
            id: try values.required(.caID) { (text) throws(IdentityError) in try Identifier(text) },
            directory: values.path(.caDirectory) ?? values.resolve("pki"),
            hosts: hosts,
            listen: values.string(.caListen) ?? "0.0.0.0",
            port: try values.int(.caPort, 0...65_535, default: 8_443),
            publicPort: publicPort,
            publication: publication,
            passphraseFile: values.path(.caPassphraseFile),
            mosquitto: values.path(.caMosquitto),
            limits: limits,
            invitationLifetime: try values.int(.caInvitationLifetime, 60...2_592_000, default: 259_200))
    }

    private static func alertRules(_ values: Values) throws(CommandError) -> AlertRules {
        var rules = AlertRules()
        rules.noDataAfter = try values.time(.alertsNoDataAfter) ?? rules.noDataAfter
        // None at all is also an answer.
        if values.hasList(.alertsRanges) {
            var ranges: [AlertRules.Range] = []
            for text in values.list(.alertsRanges) { ranges.append(try values.range(.alertsRanges, text)) }
            rules.ranges = ranges
        }
        try values.require(.alertsNight, for: [.alertsUTCOffset])
        if let night = values.string(.alertsNight) {
            let offset = try values.minutes(
                .alertsUTCOffset, values.string(.alertsUTCOffset) ?? "+00:00", isOffset: true)
            let parts = night.split(separator: "-", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { throw values.wrong(.alertsNight, "'\(night)' is not like 22:00-04:00") }
            rules.night = AlertRules.Night(
                from: try values.minutes(.alertsNight, parts[0]), to: try values.minutes(.alertsNight, parts[1]),
                offset: offset)
        }
        rules.jumpFactor = try values.double(.alertsJumpFactor, 0...1_000_000, default: rules.jumpFactor)
        rules.gapAfter = try values.time(.alertsGapAfter) ?? rules.gapAfter
        rules.certificateWithin = try values.time(.alertsCertificateWithin) ?? rules.certificateWithin
        rules.clockOff = try values.time(.alertsClockOff) ?? rules.clockOff
        rules.outboxCount = Int64(
            try values.int(.alertsOutboxCount, 1...1_000_000_000, default: Int(rules.outboxCount)))
        rules.refusalsPerMinute = Int64(
            try values.int(.alertsRefusalsPerMinute, 1...1_000_000_000, default: Int(rules.refusalsPerMinute)))
        rules.clearAfter = try values.time(.alertsClearAfter) ?? rules.clearAfter
        return rules
    }

    private static func notifications(_ values: Values) throws(CommandError) -> NotificationSettings {
        // What belongs to something that is not there would say nothing, and be missed.
        try values.require(.alertsWebhook, for: [.alertsWebhookSecret])
        try values.require(
            .alertsMailHost,
            for: [
                .alertsMailPort, .alertsMailSecurity, .alertsMailRoots, .alertsMailUser, .alertsMailPassword,
                .alertsMailFrom, .alertsMailTo,
            ])
        try values.require(.alertsMailUser, for: [.alertsMailPassword])
        var settings = NotificationSettings()
        settings.isPublished = try values.bool(.alertsPublish, default: false)
        if let url = values.string(.alertsWebhook) {
            let parts = URL(string: url)
            let host = (parts?.host ?? "").trimmingCharacters(in: CharacterSet(charactersIn: "[]"))
            // Alerts and their signatures are not for everybody on the way.
            guard !host.isEmpty,
                parts?.scheme == "https" || parts?.scheme == "http" && ["localhost", "127.0.0.1", "::1"].contains(host)
            else {
                throw values.wrong(
                    .alertsWebhook, "'\(url)' is no URL that begins with https://, or with http:// on this machine")
            }
            let secret = try values.secret(.alertsWebhookSecret)
            settings.webhook = NotificationSettings.Webhook(url: url, secret: Array((secret ?? "").utf8))
        }
        guard let host = values.string(.alertsMailHost) else { return settings }
        let word = values.string(.alertsMailSecurity) ?? "starttls"
        guard let security = MailSettings.Security(rawValue: word) else {
            throw values.wrong(.alertsMailSecurity, "'\(word)' is none of starttls, tls, none")
        }
        let to = values.list(.alertsMailTo)
        guard let from = values.string(.alertsMailFrom), !to.isEmpty else {
            throw values.missing(to.isEmpty ? .alertsMailTo : .alertsMailFrom)
        }
        settings.mail = MailSettings(
            host: host, port: try values.int(.alertsMailPort, 1...65_535, default: security == .tls ? 465 : 587),
            security: security, roots: values.path(.alertsMailRoots), user: values.string(.alertsMailUser),
            password: try values.secret(.alertsMailPassword), from: from, to: to)
        return settings
    }

    private static func auditor(_ values: Values) throws(CommandError) -> AuditorSettings {
        let source = values.string(.auditorSource) ?? "simulated"
        return AuditorSettings(
            id: try values.required(.auditorID) { (text) throws(IdentityError) in try Identifier(text) },
            certificate: try values.requiredPath(.auditorCertificate),
            key: try values.requiredKey(.auditorKey),
            state: values.path(.auditorState) ?? values.resolve("state"),
            authority: values.string(.auditorAuthority),
            keepsKey: try values.bool(.auditorKeepKey, default: false),
            source: source == "simulated" ? source : values.path(.auditorSource) ?? source,
            meter: try values.value(.auditorMeter, default: "main") { (text) throws(IdentityError) in
                try MeterName(text)
            },
            columns: values.list(.auditorColumns),
            interval: try values.int(.auditorInterval, 1...86_400),
            timeZone: values.string(.auditorTimeZone) ?? "UTC",
            speed: try values.double(.auditorSpeed, 0...1_000_000_000, default: 0),
            seed: UInt64(try values.int(.auditorSeed, 0...Int.max, default: 1)),
            statementInterval: try values.int(.auditorStatementInterval, 1...86_400, default: 60),
            maximumUnsent: try values.int(.auditorMaxUnsent, 1...1_000_000_000, default: 1_000_000),
            format: try values.format(),
            controller: try values.identifier(.auditorController),
            controllerCertificate: values.path(.auditorControllerCertificate))
    }

    /// Finds keys that are misspelt, which a reader of values would pass over in silence. Knows the two levels of
    /// block mappings of which our files consist; other YAML passes.
    private static func requireKnownKeys(_ text: String, _ file: String) throws(CommandError) {
        let known = Set(Key.allCases.map(\.rawValue))
        let sections = Set(known.compactMap { $0.split(separator: ".").first.map(String.init) })
        var section = ""
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            guard let match = line.firstMatch(of: #/^( *)([A-Za-z0-9_-]+):(?: |$|\r)/#) else { continue }
            let name = String(match.2)
            if match.1.isEmpty {
                section = name
                guard sections.contains(name) else {
                    throw CommandError(.configuration, "\(file), line \(index + 1): there is no section '\(name)'")
                }
            } else if !known.contains("\(section).\(name)") {
                throw CommandError(.configuration, "\(file), line \(index + 1): there is no key '\(section).\(name)'")
            }
        }
    }
}

/// Values as text from wherever they come, parsed here so that an error names key and value.
private struct Values {
    typealias Key = InstallationConfiguration.Key

    let reader: ConfigReader
    let file: String?
    /// Whether a key's value comes from elsewhere than the file.
    let isFromOutside: (String) -> Bool

    func string(_ key: Key) -> String? {
        self.reader.string(forKey: ConfigKey(key.rawValue.split(separator: ".").map(String.init)))
    }

    func has(_ key: Key) -> Bool { self.string(key) != nil }

    /// Whether a list is there, also an empty one.
    func hasList(_ key: Key) -> Bool {
        self.has(key)
            || self.reader.stringArray(forKey: ConfigKey(key.rawValue.split(separator: ".").map(String.init))) != nil
    }

    func list(_ key: Key) -> [String] {
        let name = ConfigKey(key.rawValue.split(separator: ".").map(String.init))
        if let list = self.reader.stringArray(forKey: name) { return list }
        return self.string(key).map { $0.split(separator: ",").map(String.init) } ?? []
    }

    func value<Value>(
        _ key: Key, default text: String, _ parse: (String) throws(IdentityError) -> Value
    ) throws(CommandError) -> Value {
        do throws(IdentityError) {
            return try parse(self.string(key) ?? text)
        } catch {
            throw self.wrong(key, error.reason)
        }
    }

    func required<Value>(
        _ key: Key, _ parse: (String) throws(IdentityError) -> Value
    ) throws(CommandError) -> Value {
        guard let text = self.string(key) else { throw self.missing(key) }
        return try self.value(key, default: text, parse)
    }

    func identifier(_ key: Key) throws(CommandError) -> Identifier? {
        guard let text = self.string(key) else { return nil }
        return try self.value(key, default: text) { (text) throws(IdentityError) in try Identifier(text) }
    }

    func format() throws(CommandError) -> AuditorFormat {
        let text = self.string(.auditorFormat) ?? AuditorFormat.cose.rawValue
        guard let format = AuditorFormat(rawValue: text) else {
            throw self.wrong(.auditorFormat, "'\(text)' is neither cose nor licore")
        }
        return format
    }

    func path(_ key: Key) -> String? {
        self.string(key).map { self.isFromOutside(key.rawValue) ? $0 : self.resolve($0) }
    }

    func requiredPath(_ key: Key) throws(CommandError) -> String {
        guard let path = self.path(key) else { throw self.missing(key) }
        return path
    }

    /// The path of a private key's file, or the URI of one in a token, whose PIN file is a path like any other.
    func key(_ key: Key) throws(CommandError) -> String? {
        guard let text = self.string(key), text.hasPrefix(KeyFile.uriScheme) else { return self.path(key) }
        do throws(PKIError) {
            return try PKCS11Keys().resolve(text, in: self.isFromOutside(key.rawValue) ? "" : self.resolve(""))
        } catch {
            throw self.wrong(key, error.reason)
        }
    }

    func requiredKey(_ key: Key) throws(CommandError) -> String {
        guard let place = try self.key(key) else { throw self.missing(key) }
        return place
    }

    func resolve(_ path: String) -> String {
        guard let file, !path.hasPrefix("/"), let slash = file.lastIndex(of: "/") else { return path }
        return String(file[...slash]) + path
    }

    func int(_ key: Key, _ range: ClosedRange<Int>) throws(CommandError) -> Int? {
        guard let text = self.string(key) else { return nil }
        guard let value = Int(text.replacing("_", with: "")), range.contains(value) else {
            throw self.wrong(
                key, "'\(text)' is not a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    func int(_ key: Key, _ range: ClosedRange<Int>, default value: Int) throws(CommandError) -> Int {
        try self.int(key, range) ?? value
    }

    func double(_ key: Key, _ range: ClosedRange<Double>, default value: Double) throws(CommandError) -> Double {
        guard let text = self.string(key) else { return value }
        guard let value = Double(text), range.contains(value) else {
            throw self.wrong(key, "'\(text)' is not a number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    /// `90s`, `35m`, `12h`, `14d`, in nanoseconds.
    func time(_ key: Key) throws(CommandError) -> Int64? {
        guard let text = self.string(key) else { return nil }
        let factors: [Character: Int64] = ["s": 1, "m": 60, "h": 3_600, "d": 86_400]
        guard let factor = text.last.flatMap({ factors[$0] }), let number = Int64(text.dropLast()),
            (1...31_536_000).contains(number), number * factor <= 31_536_000
        else { throw self.wrong(key, "'\(text)' is not a time of up to a year, such as 90s, 35m, 12h or 14d") }
        return number * factor * 1_000_000_000
    }

    /// `22:30` as minutes of the day, or `+01:00` as minutes ahead.
    func minutes(_ key: Key, _ text: String, isOffset: Bool = false) throws(CommandError) -> Int {
        guard let match = text.firstMatch(of: #/^([+-]?)([0-9]{1,2}):([0-9]{2})$/#), let hours = Int(match.2),
            let minutes = Int(match.3), hours < 24, minutes < 60, match.1.isEmpty != isOffset
        else { throw self.wrong(key, "'\(text)' is not like \(isOffset ? "+01:00" : "22:00")") }
        return (hours * 60 + minutes) * (match.1 == "-" ? -1 : 1)
    }

    /// `voltage=195..255`.
    func range(_ key: Key, _ text: String) throws(CommandError) -> AlertRules.Range {
        let parts = text.split(separator: "=", maxSplits: 1)
        let bounds = parts.last.map { $0.split(separator: "..").compactMap { Double($0) } } ?? []
        guard parts.count == 2, bounds.count == 2, bounds[0] <= bounds[1], Quantity(parts[0]) != nil,
            bounds.allSatisfy({ $0.magnitude <= 1e15 })
        else {
            throw self.wrong(key, "'\(text)' is not like voltage=195..255")
        }
        return AlertRules.Range(quantity: String(parts[0]), bounds: bounds[0]...bounds[1])
    }

    /// A key that others belong to.
    func require(_ key: Key, for others: [Key]) throws(CommandError) {
        guard !self.has(key), let other = others.first(where: { self.has($0) || self.hasList($0) }) else { return }
        throw self.wrong(other, "it belongs to \(key.rawValue), which is missing")
    }

    /// What the first line of a file says.
    func secret(_ key: Key) throws(CommandError) -> String? {
        guard let path = self.path(key) else { return nil }
        let bytes: [UInt8]
        do {
            bytes = try DurableFile.read(path, maximumSize: 4_096, ownerOnly: true)
        } catch {
            throw self.wrong(key, error.reason)
        }
        guard let line = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline).first else {
            throw self.wrong(key, "\(path) is empty")
        }
        return String(line)
    }

    func bool(_ key: Key, default value: Bool) throws(CommandError) -> Bool {
        guard let text = self.string(key) else { return value }
        switch text.lowercased() {
        case "true", "yes", "on", "1": return true
        case "false", "no", "off", "0": return false
        default: throw self.wrong(key, "'\(text)' is neither true nor false")
        }
    }

    func choice<Value: RawRepresentable<String> & CaseIterable>(
        _ key: Key, default value: Value
    ) throws(CommandError) -> Value {
        guard let text = self.string(key) else { return value }
        guard let value = Value(rawValue: text) else {
            let names = Value.allCases.map { "'\($0.rawValue)'" }.joined(separator: " or ")
            throw self.wrong(key, "'\(text)' is not \(names)")
        }
        return value
    }

    /// So many a second; 0 is any number.
    ///
    /// - Parameter burst: at once after a pause, in seconds of the rate.
    func rate(_ key: Key, burst: Int, default value: Rate?) throws(CommandError) -> Rate? {
        guard let perSecond = try self.int(key, 0...1_000_000_000) else { return value }
        return perSecond == 0 ? nil : Rate(perSecond: perSecond, burst: burst * perSecond)
    }

    func webSocketPath() throws(CommandError) -> String? {
        guard let path = self.string(.brokerWebSocketPath) else { return nil }
        guard path.hasPrefix("/"), !path.contains("?") else {
            throw self.wrong(.brokerWebSocketPath, "'\(path)' is not the path of a URL, such as /mqtt")
        }
        return path
    }

    func socketMode() throws(CommandError) -> UInt32 {
        switch self.string(.brokerSocketMode) {
        case nil, "0600", "600": return 0o600
        case "0660", "660": return 0o660
        case let text?: throw self.wrong(.brokerSocketMode, "'\(text)' is neither 0600 nor 0660")
        }
    }

    /// `1000=mona`: numbers of users, and the operators that they are.
    func socketOperators() throws(CommandError) -> [UInt32: Identifier] {
        var operators: [UInt32: Identifier] = [:]
        for entry in self.list(.brokerSocketOperators) {
            let parts = entry.split(separator: "=", maxSplits: 1)
            guard parts.count == 2, let user = UInt32(parts[0]), let id = try? Identifier(String(parts[1])) else {
                throw self.wrong(.brokerSocketOperators, "'\(entry)' is not USER=OPERATOR, such as 1000=mona")
            }
            operators[user] = id
        }
        return operators
    }

    func wrong(_ key: Key, _ reason: String) -> CommandError {
        let name = InstallationConfiguration.environmentName(key.rawValue)
        let source =
            !self.isFromOutside(key.rawValue)
            ? self.file.map { "\($0): \(key.rawValue)" }
            : ProcessInfo.processInfo.environment[name] == nil ? nil : name
        return CommandError(.configuration, "\(source ?? key.rawValue): \(reason)")
    }

    func missing(_ key: Key) -> CommandError {
        guard let file else {
            return CommandError(
                .configuration,
                "there is no configuration: give --config FILE (secure-mqtt init makes one) or set "
                    + InstallationConfiguration.environmentName(key.rawValue))
        }
        return CommandError(.configuration, "\(file): \(key.rawValue) is missing")
    }
}
