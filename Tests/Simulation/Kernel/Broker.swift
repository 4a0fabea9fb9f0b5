/// A broker as its clients see it: sessions with subscriptions, QoS 1 with redelivery, and two ways of
/// saying that a message has arrived.
///
/// As a value: frames in, frames out. Which client is which, how long a frame takes and what is lost on
/// the way is the network's matter (`World`).
struct Broker {
    typealias Client = Int

    struct Message {
        var topic: String
        var payload: [UInt8]
        var isRetained = false
        /// The auditor whose connection it came by; told to the control center in one process only.
        var sender: Int?
        /// What really happened to the bytes on their way: nobody in the system sees it, the checker does.
        var truth = Truth.genuine
    }

    /// What a client sends.
    enum Request {
        case connect(subscriptions: [String], keepsSession: Bool)
        case publish(UInt16, Message)
        case acknowledge(UInt16)
    }

    /// What a client gets.
    enum Response {
        case connected(sessionPresent: Bool)
        case publish(UInt16, Message, isRepeated: Bool)
        case acknowledge(UInt16)
    }

    struct Output {
        var client: Client
        var response: Response
    }

    /// When a publisher gets its PUBACK.
    enum Shape {
        /// As Mosquitto: when the message is in the subscribers' queues.
        case forwarding
        /// As `serve`: when the control center has settled it.
        case withholding
    }

    struct Session {
        var subscriptions: [String] = []
        var isConnected = false
        var keepsSession = true
        var queue: [Message] = []
        var inFlight: [(id: UInt16, message: Message)] = []
        var nextID: UInt16 = 1
        /// PUBLISHes of this client whose acknowledgement waits for another's settlement.
        var owed: [(id: UInt16, isSettled: Bool, token: UInt64)] = []
    }

    private(set) var shape: Shape
    /// Clients of the in-process session, whose settlement releases the publisher's PUBACK.
    private let inProcess: Client
    private(set) var sessions: [Client: Session] = [:]
    /// By topic; only what a client published so. Comes again at each connect, as if subscribed anew.
    private var retained: [String: Message] = [:]
    /// Most messages in flight towards one client (Receive Maximum).
    var window = 32
    private var token: UInt64 = 0
    private var tokens: [UInt16: (publisher: Client, token: UInt64)] = [:]

    init(shape: Shape, inProcess: Client) {
        self.shape = shape
        self.inProcess = inProcess
    }

    mutating func receive(_ request: Request, from client: Client) -> [Output] {
        switch request {
        case .connect(let subscriptions, let keepsSession):
            return self.connect(client, subscriptions, keepsSession)
        case .publish(let id, let message):
            guard self.sessions[client]?.isConnected == true else { return [] }
            return self.publish(message, id: id, from: client)
        case .acknowledge(let id):
            return self.acknowledge(id, from: client)
        }
    }

    private mutating func connect(_ client: Client, _ subscriptions: [String], _ keepsSession: Bool) -> [Output] {
        let isPresent = keepsSession && self.sessions[client]?.keepsSession == true
        var session = isPresent ? self.sessions[client] ?? Session() : Session()
        session.subscriptions = subscriptions
        session.isConnected = true
        session.keepsSession = keepsSession
        session.owed = []
        self.sessions[client] = session
        var outputs = [Output(client: client, response: .connected(sessionPresent: isPresent))]
        for (id, message) in session.inFlight {
            outputs.append(Output(client: client, response: .publish(id, message, isRepeated: true)))
        }
        for topic in self.retained.keys.sorted() where subscriptions.contains(where: { Self.matches($0, topic) }) {
            if let message = self.retained[topic] { self.sessions[client]?.queue.append(message) }
        }
        return outputs + self.fill(client)
    }

    private mutating func publish(_ message: Message, id: UInt16, from client: Client) -> [Output] {
        if message.isRetained { self.retained[message.topic] = message }
        var outputs: [Output] = []
        var waits = false
        for subscriber in self.subscribers(of: message.topic) {
            if self.shape == .withholding && subscriber == self.inProcess {
                // Not in the broker's store: without that session there is nobody to settle it, and the
                // publisher keeps the message.
                guard self.sessions[subscriber]?.isConnected == true else {
                    waits = true
                    continue
                }
                waits = true
                self.token += 1
                self.sessions[client]?.owed.append((id, false, self.token))
                let deliveryID = self.enqueueInFlight(message, for: subscriber)
                self.tokens[deliveryID] = (client, self.token)
                outputs.append(
                    Output(client: subscriber, response: .publish(deliveryID, message, isRepeated: false)))
            } else {
                outputs += self.enqueue(message, for: subscriber)
            }
        }
        if !waits { outputs.append(Output(client: client, response: .acknowledge(id))) }
        return outputs
    }

    /// Puts a message into one session's queue, whoever it is from.
    mutating func enqueue(_ message: Message, for subscriber: Client) -> [Output] {
        self.sessions[subscriber]?.queue.append(message)
        return self.fill(subscriber)
    }

    private mutating func enqueueInFlight(_ message: Message, for subscriber: Client) -> UInt16 {
        guard var session = self.sessions[subscriber] else { return 0 }
        let id = session.nextID
        session.nextID = id == .max ? 1 : id + 1
        session.inFlight.append((id, message))
        self.sessions[subscriber] = session
        return id
    }

    private mutating func fill(_ client: Client) -> [Output] {
        guard let session = self.sessions[client], session.isConnected, !session.queue.isEmpty else { return [] }
        var outputs: [Output] = []
        let room = min(session.queue.count, max(0, self.window - session.inFlight.count))
        for message in session.queue.prefix(room) {
            let id = self.enqueueInFlight(message, for: client)
            outputs.append(Output(client: client, response: .publish(id, message, isRepeated: false)))
        }
        self.sessions[client]?.queue.removeFirst(room)
        return outputs
    }

    private mutating func acknowledge(_ id: UInt16, from client: Client) -> [Output] {
        guard let index = self.sessions[client]?.inFlight.firstIndex(where: { $0.id == id }) else { return [] }
        self.sessions[client]?.inFlight.remove(at: index)
        var outputs: [Output] = []
        if self.shape == .withholding && client == self.inProcess, let owed = self.tokens.removeValue(forKey: id) {
            outputs += self.settle(owed.token, of: owed.publisher)
        }
        return outputs + self.fill(client)
    }

    /// Acknowledgements go out in the order of the messages (MQTT-4.6.0-2), whatever the order of settling.
    private mutating func settle(_ token: UInt64, of publisher: Client) -> [Output] {
        guard var session = self.sessions[publisher] else { return [] }
        if let index = session.owed.firstIndex(where: { $0.token == token }) {
            session.owed[index].isSettled = true
        }
        var outputs: [Output] = []
        while let first = session.owed.first, first.isSettled {
            session.owed.removeFirst()
            if session.isConnected { outputs.append(Output(client: publisher, response: .acknowledge(first.id))) }
        }
        self.sessions[publisher] = session
        return outputs
    }

    /// The connection is gone. The in-process session leaves nothing behind.
    mutating func disconnected(_ client: Client) {
        guard var session = self.sessions[client] else { return }
        session.isConnected = false
        session.owed = []
        if !session.keepsSession || (self.shape == .withholding && client == self.inProcess) {
            session.inFlight = []
            session.queue = []
        }
        if client == self.inProcess { self.tokens = [:] }
        self.sessions[client] = session
    }

    /// The broker starts again: with its sessions as they were, or with none.
    mutating func restart(losingSessions: Bool) {
        if losingSessions {
            self.sessions = [:]
            self.retained = [:]
        }
        for client in self.sessions.keys { self.disconnected(client) }
        self.tokens = [:]
    }

    /// A hostile broker's own ideas about a client's queue.
    mutating func shuffleQueue(of client: Client, using dice: inout SeededRandom) {
        self.sessions[client]?.queue.shuffle(using: &dice)
    }

    /// In the order of their numbers, so that a run does not depend on the order of a dictionary.
    private func subscribers(of topic: String) -> [Client] {
        self.sessions.keys.sorted().filter { client in
            self.sessions[client]?.subscriptions.contains { Broker.matches($0, topic) } == true
        }
    }

    /// MQTT 5 section 4.7, for filters without `#` in the middle.
    static func matches(_ filter: String, _ topic: String) -> Bool {
        let filterLevels = filter.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        let topicLevels = topic.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        for (i, level) in filterLevels.enumerated() {
            if level.elementsEqual([UInt8(ascii: "#")]) { return true }
            guard i < topicLevels.count else { return false }
            if level.elementsEqual([UInt8(ascii: "+")]) { continue }
            guard level.elementsEqual(topicLevels[i]) else { return false }
        }
        return filterLevels.count == topicLevels.count
    }
}
