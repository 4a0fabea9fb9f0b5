/// One node's way to the broker: connections, one after the other, each in order and without holes, as TCP
/// promises. What a connection had under way when it broke is gone, but what had left the node may still
/// reach the broker for a while: the two ends learn of the break at different times.
struct Link {
    /// Whose session it uses: two nodes with the same client are copies of one auditor.
    let client: Broker.Client
    /// The newest connection, as the node counts them.
    var epoch = 0
    /// The node's view: CONNACK has come, and the connection has not broken since.
    var isUp = false
    /// The node waits for a CONNACK.
    var isConnecting = false
    /// The broker's view: which connection it serves.
    var served: Int?
    /// Nothing overtakes anything.
    var lastArrivalAtBroker: Int64 = 0
    var lastArrivalAtNode: Int64 = 0
    /// The node's packet ids, and what waits for its PUBACK.
    private var nextID: UInt16 = 1
    private var awaiting: [UInt16: Int] = [:]

    init(client: Broker.Client) {
        self.client = client
    }

    /// A packet id for a PUBLISH that the node knows as `token`.
    mutating func packetID(for token: Int) -> UInt16 {
        while self.awaiting[self.nextID] != nil { self.nextID = self.nextID == .max ? 1 : self.nextID + 1 }
        let id = self.nextID
        self.nextID = id == .max ? 1 : id + 1
        self.awaiting[id] = token
        return id
    }

    mutating func acknowledged(_ id: UInt16) -> Int? {
        self.awaiting.removeValue(forKey: id)
    }

    /// The node has seen the connection break, or never come about.
    mutating func broke() {
        self.isUp = false
        self.isConnecting = false
        self.awaiting = [:]
    }
}
