/// The properties of an MQTT 5.0 packet, in their order. Empty in 3.1.1, where nothing is written.
public struct Properties: Hashable, Sendable {
    /// All of them. Those that may stand only once are looked up by the accessors, first one first.
    public private(set) var all: [Property]

    public init(_ all: [Property] = []) { self.all = all }

    public var isEmpty: Bool { self.all.isEmpty }

    public mutating func append(_ property: Property) { self.all.append(property) }

    /// Leaves only what `shouldKeep` says.
    public func filter(_ shouldKeep: (Property) -> Bool) -> Properties { Properties(self.all.filter(shouldKeep)) }

    private func first<Value>(_ value: (Property) -> Value?) -> Value? {
        for property in self.all {
            if let found = value(property) { return found }
        }
        return nil
    }

    /// Seconds; absent means 0 in CONNECT, "as you asked" in CONNACK.
    public var sessionExpiryInterval: UInt32? {
        self.first { if case .sessionExpiryInterval(let value) = $0 { value } else { nil } }
    }
    /// Absent means 65,535.
    public var receiveMaximum: UInt16? {
        self.first { if case .receiveMaximum(let value) = $0 { value } else { nil } }
    }
    /// Bytes; absent means no limit.
    public var maximumPacketSize: UInt32? {
        self.first { if case .maximumPacketSize(let value) = $0 { value } else { nil } }
    }
    /// Absent means 0.
    public var topicAliasMaximum: UInt16? {
        self.first { if case .topicAliasMaximum(let value) = $0 { value } else { nil } }
    }
    public var topicAlias: UInt16? {
        self.first { if case .topicAlias(let value) = $0 { value } else { nil } }
    }
    /// Absent means exactly once.
    public var maximumQoS: QoS? {
        self.first { if case .maximumQoS(let value) = $0 { value } else { nil } }
    }
    /// Absent means yes.
    public var retainAvailable: Bool? {
        self.first { if case .retainAvailable(let value) = $0 { value } else { nil } }
    }
    public var assignedClientIdentifier: String? {
        self.first { if case .assignedClientIdentifier(let value) = $0 { value } else { nil } }
    }
    /// Seconds; replaces what CONNECT asked for.
    public var serverKeepAlive: UInt16? {
        self.first { if case .serverKeepAlive(let value) = $0 { value } else { nil } }
    }
    public var reasonString: String? {
        self.first { if case .reasonString(let value) = $0 { value } else { nil } }
    }
    /// Absent means yes.
    public var requestProblemInformation: Bool? {
        self.first { if case .requestProblemInformation(let value) = $0 { value } else { nil } }
    }
    public var authenticationMethod: String? {
        self.first { if case .authenticationMethod(let value) = $0 { value } else { nil } }
    }
    public var authenticationData: [UInt8]? {
        self.first { if case .authenticationData(let value) = $0 { value } else { nil } }
    }
    /// Seconds.
    public var messageExpiryInterval: UInt32? {
        self.first { if case .messageExpiryInterval(let value) = $0 { value } else { nil } }
    }
    /// Seconds; absent means 0.
    public var willDelayInterval: UInt32? {
        self.first { if case .willDelayInterval(let value) = $0 { value } else { nil } }
    }
    /// Those of one SUBSCRIBE (at most one) or of a PUBLISH to a client (one for each subscription that matched).
    public var subscriptionIdentifiers: [UInt32] {
        self.all.compactMap { if case .subscriptionIdentifier(let value) = $0 { value } else { nil } }
    }
}

extension Properties: ExpressibleByArrayLiteral {
    public init(arrayLiteral elements: Property...) { self.init(elements) }
}
