package import Identity
import MQTT

extension Router {
    mutating func addSession(_ session: Session) -> Int {
        let index: Int
        if let free = self.freeSessions.popLast() {
            index = free
            self.sessions[index] = session
        } else {
            index = self.sessions.count
            self.sessions.append(session)
        }
        session.index = index
        session.join(self.totals)
        self.sessionIndex[session.key] = index
        self.sessionsOfOwner[session.key.owner, default: 0] += 1
        self.statistics.sessions += 1
        return index
    }

    /// Ends a session: its will is due, and what others could take over of shared subscriptions goes to them.
    mutating func removeSession(_ index: Int) {
        guard let session = self.sessions[index] else { return }
        for filter in session.subscriptions.keys { self.removeSubscription(filter, session: index) }
        self.sessions[index] = nil
        self.freeSessions.append(index)
        self.sessionIndex[session.key] = nil
        let left = self.sessionsOfOwner[session.key.owner, default: 1] - 1
        self.sessionsOfOwner[session.key.owner] = left == 0 ? nil : left
        self.statistics.sessions -= 1
        if session.isDurable { self.persist(.removeSession(session.number)) }
        session.isDurable = false
        self.publishWill(of: session)
        self.passOn(session)
    }

    /// Ends the sessions without connection of everybody for whom `isUnwanted` holds.
    package mutating func removeSessions(where isUnwanted: (PeerIdentity) -> Bool) {
        for index in self.sessions.indices {
            guard let session = self.sessions[index], session.place == .nowhere, isUnwanted(session.peer) else {
                continue
            }
            self.removeSession(index)
        }
    }

    // MARK: In the store

    /// A session with expiry is kept in the store, and one that has lost it no longer.
    mutating func keepInStore(_ session: Session) {
        guard self.store.isPresent else { return }
        if session.expiry > 0 {
            if !session.isDurable {
                session.isDurable = true
                session.number = self.store.takeNumber()
            }
            self.persist(.openSession(session.stored))
        } else if session.isDurable {
            session.isDurable = false
            self.persist(.removeSession(session.number))
        }
    }

    /// Takes up what a store holds. Connections that were open when it was written have ended now.
    mutating func restore(_ state: StoredState) {
        self.store.nextNumber = state.nextNumber
        var messages: [UInt64: Message] = [:]
        func message(_ stored: StoredMessage) -> Message {
            if let known = messages[stored.number] { return known }
            let message = Message(stored)
            messages[stored.number] = message
            return message
        }
        for (stored, qos) in state.retained { self.retained.restore(message(stored), qos: qos) }
        var restored: [(Session, [StoredState.Delivery])] = []
        for stored in state.sessions {
            let session = Session(
                key: SessionKey(
                    owner: self.authorizer.sessionOwner(stored.session.peer), stored.session.clientID),
                clientID: stored.session.clientID,
                peer: stored.session.peer, place: .nowhere, expiry: stored.session.expiry)
            session.number = stored.session.number
            session.isDurable = true
            session.will = stored.session.will
            session.detach(at: stored.session.leftAt.map(UnixClock.milliseconds) ?? self.now)
            for packetID in stored.received { session.received[packetID] = Session.Received() }
            let index = self.addSession(session)
            restored.append((session, stored.deliveries))
            if stored.session.leftAt == nil {
                self.persist(.leaveSession(session.number, at: UnixClock.seconds(self.now)))
            }
            for (subscription, identifier) in stored.subscriptions {
                if SubscriptionTree.accepts(subscription.filter),
                    self.authorizer.refusalToSubscribe(subscription.filter, by: session.peer) == nil
                {
                    self.insert(subscription, identifier: identifier, session: index)
                } else {
                    self.persist(.unsubscribe(session.number, subscription.filter))
                }
            }
        }
        // Now that all shared subscriptions have their members.
        for (session, deliveries) in restored {
            for delivery in deliveries {
                session.restore(
                    delivery, message(delivery.delivery.message),
                    share: delivery.delivery.share.flatMap { self.shares[$0] })
            }
        }
    }
}
