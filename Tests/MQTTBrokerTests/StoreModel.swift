import Identity
import MQTT
import MQTTBroker
import NIOCore
import Synchronization

/// What a store holds, as the contract says: changes in, state out. Also a measure for stores that write to disk.
struct StoreModel {
    private struct Session {
        var session: StoredSession
        var subscriptions: [TopicFilter: (Subscription, UInt32?)] = [:]
        var deliveries: [UInt64: StoredState.Delivery] = [:]
        var received: Set<UInt16> = []
    }

    private var sessions: [UInt64: Session] = [:]
    private var retained: [TopicName: (StoredMessage, QoS)] = [:]
    private var nextNumber: UInt64 = 1

    mutating func apply(_ change: StoreChange) {
        switch change {
        case .openSession(let session):
            self.sessions[session.number, default: Session(session: session)].session = session
            self.nextNumber = max(self.nextNumber, session.number + 1)
        case .leaveSession(let number, let time): self.sessions[number]?.session.leftAt = time
        case .removeSession(let number): self.sessions[number] = nil
        case .subscribe(let number, let subscription, let identifier):
            self.sessions[number]?.subscriptions[subscription.filter] = (subscription, identifier)
        case .unsubscribe(let number, let filter): self.sessions[number]?.subscriptions[filter] = nil
        case .enqueue(let number, let place, let delivery):
            self.sessions[number]?.deliveries[place] = StoredState.Delivery(
                place: place, delivery: delivery, packetID: nil, isReleased: false)
            self.nextNumber = max(self.nextNumber, delivery.message.number + 1)
        case .send(let number, let place, let packetID):
            self.sessions[number]?.deliveries[place]?.packetID = packetID
        case .release(let number, let place): self.sessions[number]?.deliveries[place]?.isReleased = true
        case .complete(let number, let place): self.sessions[number]?.deliveries[place] = nil
        case .receive(let number, let packetID): self.sessions[number]?.received.insert(packetID)
        case .forget(let number, let packetID): self.sessions[number]?.received.remove(packetID)
        case .retain(let message, let qos):
            self.retained[message.topic] = (message, qos)
            self.nextNumber = max(self.nextNumber, message.number + 1)
        case .removeRetained(let topic): self.retained[topic] = nil
        }
    }

    var state: StoredState {
        var state = StoredState()
        for session in self.sessions.values.sorted(by: { $0.session.number < $1.session.number }) {
            var stored = StoredState.Session(session: session.session)
            stored.subscriptions = session.subscriptions.values.map { ($0.0, identifier: $0.1) }
            stored.deliveries = session.deliveries.values.sorted { $0.place < $1.place }
            stored.received = Array(session.received)
            state.sessions.append(stored)
        }
        state.retained = self.retained.values.map { (message: $0.0, qos: $0.1) }
        state.nextNumber = self.nextNumber
        return state
    }
}
