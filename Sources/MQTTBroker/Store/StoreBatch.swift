import MQTT

/// What the disk holds, as far as it must be known while changes are taken in: names and numbers only.
struct StoreIndex: Sendable {
    var sessions: Set<UInt64> = []
    /// How often each stored message is referred to, by deliveries and retained topics.
    var references: [UInt64: Int] = [:]
    /// The stored message of each topic with a retained one.
    var retained: [TopicName: UInt64] = [:]
    /// Numbers below are marked as given out. Marked in strides, so that not every commit writes the mark.
    var marked: UInt64 = 1

    static let stride: UInt64 = 65_536
}

/// A delivery without its message's body.
struct StoredPlace: Sendable, Equatable {
    var message: UInt64
    var qos: QoS
    var retain: Bool
    var subscriptionIDs: [UInt32]
    var share: TopicFilter?
    var packetID: UInt16?
    var isReleased: Bool
}

/// Answers what ``StoreBatch`` must know of the disk.
protocol StoreLookup {
    func session(_ number: UInt64) throws -> StoredSession?
    func delivery(_ session: UInt64, place: UInt64) throws -> StoredPlace?
    /// Place and message of all that a session has.
    func deliveries(_ session: UInt64) throws -> [(place: UInt64, message: UInt64)]
}

/// What changes come to in the end, as one transaction writes it: whatever begins and ends within the batch is not in
/// it. No I/O.
///
/// A change that belongs to nothing (of a session that has ended, of a place that was dealt with) is counted and left
/// out.
struct StoreBatch {
    /// The end of one delivery. Not in the batch at all if it began and ended in it.
    struct Delivery {
        var place: StoredPlace
        let isOnDisk: Bool
        var isWanted = true
        var isChanged = false
    }

    /// One session.
    struct Session {
        let isOnDisk: Bool
        var isRemoved = false
        /// To be put in the place of what is stored.
        var value: StoredSession?
        /// By filter; `nil` removes.
        var subscriptions: [TopicFilter: (Subscription, identifier: UInt32?)?] = [:]
        var deliveries: [UInt64: Delivery] = [:]
        /// Whether it is there.
        var received: [UInt16: Bool] = [:]
    }

    /// One message's references.
    struct Message {
        let before: Int
        var after: Int
        /// Known if it was referred to in this batch.
        var body: StoredMessage?
    }

    private(set) var sessions: [UInt64: Session] = [:]
    private(set) var messages: [UInt64: Message] = [:]
    /// `nil` removes.
    private(set) var retained: [TopicName: (message: UInt64, qos: QoS)?] = [:]
    private(set) var highestNumber: UInt64 = 0
    /// Changes that belonged to nothing.
    private(set) var strays = 0

    mutating func apply(_ change: StoreChange, on index: StoreIndex, _ disk: some StoreLookup) throws {
        switch change {
        case .openSession(let session):
            let number = session.number
            self.highestNumber = max(self.highestNumber, number)
            if self.sessions[number] == nil {
                self.sessions[number] = Session(isOnDisk: index.sessions.contains(number))
            }
            guard self.sessions[number]?.isRemoved == false else { return self.strays += 1 }
            self.sessions[number]?.value = session
        case .leaveSession(let number, let time):
            guard self.touch(number, index) else { return self.strays += 1 }
            var session = self.sessions[number]?.value
            if session == nil { session = try disk.session(number) }
            session?.leftAt = time
            self.sessions[number]?.value = session
        case .removeSession(let number):
            guard self.touch(number, index) else { return self.strays += 1 }
            try self.remove(number, index, disk)
        case .subscribe(let number, let subscription, let identifier):
            guard self.touch(number, index) else { return self.strays += 1 }
            self.sessions[number]?.subscriptions[subscription.filter] = .some((subscription, identifier))
        case .unsubscribe(let number, let filter):
            guard self.touch(number, index) else { return self.strays += 1 }
            self.sessions[number]?.subscriptions.updateValue(nil, forKey: filter)
        case .enqueue(let number, let place, let delivery):
            guard self.touch(number, index) else { return self.strays += 1 }
            self.refer(to: delivery.message, index)
            self.sessions[number]?.deliveries[place] = Delivery(
                place: StoredPlace(
                    message: delivery.message.number, qos: delivery.qos, retain: delivery.retain,
                    subscriptionIDs: delivery.subscriptionIDs, share: delivery.share, packetID: nil, isReleased: false),
                isOnDisk: false)
        case .send(let number, let place, let packetID):
            try self.change(number, place, index, disk) { $0.packetID = packetID }
        case .release(let number, let place):
            try self.change(number, place, index, disk) { $0.isReleased = true }
        case .complete(let number, let place):
            guard let delivery = try self.find(number, place, index, disk) else { return self.strays += 1 }
            if delivery.isOnDisk {
                self.sessions[number]?.deliveries[place]?.isWanted = false
            } else {
                self.sessions[number]?.deliveries[place] = nil
            }
            self.release(delivery.place.message, index)
        case .receive(let number, let packetID):
            guard self.touch(number, index) else { return self.strays += 1 }
            self.sessions[number]?.received[packetID] = true
        case .forget(let number, let packetID):
            guard self.touch(number, index) else { return self.strays += 1 }
            self.sessions[number]?.received[packetID] = false
        case .retain(let message, let qos):
            // First the new one, which may be the old one: its count must not fall to zero in between.
            self.refer(to: message, index)
            if let old = self.retainedMessage(message.topic, index) { self.release(old, index) }
            self.retained[message.topic] = .some((message.number, qos))
        case .removeRetained(let topic):
            guard let old = self.retainedMessage(topic, index) else { return self.strays += 1 }
            self.release(old, index)
            self.retained.updateValue(nil, forKey: topic)
        }
    }

    /// Notes in the index that the batch is on disk.
    func note(in index: inout StoreIndex) {
        for (number, session) in self.sessions {
            if session.isRemoved {
                index.sessions.remove(number)
            } else if session.value != nil {
                index.sessions.insert(number)
            }
        }
        for (number, message) in self.messages where message.before != message.after {
            index.references[number] = message.after == 0 ? nil : message.after
        }
        for (topic, entry) in self.retained { index.retained[topic] = entry?.message }
        if let mark = self.mark(beyond: index) { index.marked = mark }
    }

    /// The new mark of numbers given out, if the old one was reached.
    func mark(beyond index: StoreIndex) -> UInt64? {
        self.highestNumber >= index.marked ? self.highestNumber + StoreIndex.stride : nil
    }

    // MARK: Parts

    /// - Returns: whether there is such a session; then there is an entry for it.
    private mutating func touch(_ number: UInt64, _ index: StoreIndex) -> Bool {
        if let session = self.sessions[number] { return !session.isRemoved }
        guard index.sessions.contains(number) else { return false }
        self.sessions[number] = Session(isOnDisk: true)
        return true
    }

    private mutating func find(
        _ number: UInt64, _ place: UInt64, _ index: StoreIndex, _ disk: some StoreLookup
    ) throws -> Delivery? {
        guard self.touch(number, index) else { return nil }
        if let delivery = self.sessions[number]?.deliveries[place] { return delivery.isWanted ? delivery : nil }
        guard self.sessions[number]?.isOnDisk == true, let stored = try disk.delivery(number, place: place) else {
            return nil
        }
        let delivery = Delivery(place: stored, isOnDisk: true)
        self.sessions[number]?.deliveries[place] = delivery
        return delivery
    }

    private mutating func change(
        _ number: UInt64, _ place: UInt64, _ index: StoreIndex, _ disk: some StoreLookup,
        _ body: (inout StoredPlace) -> Void
    ) throws {
        guard var delivery = try self.find(number, place, index, disk) else { return self.strays += 1 }
        body(&delivery.place)
        delivery.isChanged = true
        self.sessions[number]?.deliveries[place] = delivery
    }

    private mutating func remove(_ number: UInt64, _ index: StoreIndex, _ disk: some StoreLookup) throws {
        guard let session = self.sessions[number] else { return }
        if session.isOnDisk {
            for (place, message) in try disk.deliveries(number) where session.deliveries[place] == nil {
                self.release(message, index)
            }
        }
        for delivery in session.deliveries.values where delivery.isWanted {
            self.release(delivery.place.message, index)
        }
        self.sessions[number] = Session(isOnDisk: session.isOnDisk, isRemoved: true)
    }

    private mutating func refer(to message: StoredMessage, _ index: StoreIndex) {
        self.highestNumber = max(self.highestNumber, message.number)
        if self.messages[message.number] == nil {
            let before = index.references[message.number] ?? 0
            self.messages[message.number] = Message(before: before, after: before + 1, body: message)
        } else {
            self.messages[message.number]?.after += 1
            self.messages[message.number]?.body = message
        }
    }

    private mutating func release(_ number: UInt64, _ index: StoreIndex) {
        let before = index.references[number] ?? 0
        self.messages[number, default: Message(before: before, after: before)].after -= 1
    }

    private func retainedMessage(_ topic: TopicName, _ index: StoreIndex) -> UInt64? {
        if let entry = self.retained[topic] { return entry?.message }
        return index.retained[topic]
    }
}
