import DequeModule
package import Identity
package import MQTT

// Sessions that live in this process, and acknowledgements that wait for them.
extension Router {
    /// Opens a session that lives in this process.
    ///
    /// - Returns: the refusal of the first subscription that is not allowed, if any; then there is no session.
    package mutating func openInProcess(
        _ local: Int, peer: PeerIdentity, clientID: String, subscriptions: [Subscription]
    ) -> String? {
        if let reason = self.authorizer.refusalToConnect(peer) { return reason }
        for subscription in subscriptions {
            if subscription.filter.shareName != nil { return "shared" }
            if let reason = self.authorizer.refusalToSubscribe(subscription.filter, by: peer) { return reason }
        }
        let key = SessionKey(owner: self.authorizer.sessionOwner(peer), clientID)
        if let index = self.sessionIndex[key] {
            switch self.place(of: index) {
            case .inProcess: return "this client identifier is in use"
            case .connection(let old):
                self.actions.append(.close(old, .sessionTakenOver, "its session was taken over by the broker's own"))
            case .nowhere: break
            }
            self.removeSession(index)
        }
        let index = self.addSession(
            Session(key: key, clientID: clientID, peer: peer, place: .inProcess(local), expiry: 0))
        self.inProcess[local] = InProcess(session: index)
        for subscription in subscriptions { self.insert(subscription, identifier: nil, session: index) }
        for subscription in subscriptions { self.sendRetained(subscription, identifier: nil, session: index) }
        return nil
    }

    /// Ends an in-process session. Whoever waits for its settlement is disconnected, and will send again.
    package mutating func closeInProcess(_ local: Int) {
        guard let state = self.inProcess.removeValue(forKey: local) else { return }
        self.removeSession(state.session)
        var waiting: Set<ConnectionID> = []
        for (token, settlement) in self.settlements where settlement.inProcess == local {
            self.settlements[token] = nil
            // As if it had never come: the one that is sent again is delivered.
            settlement.session?.received[settlement.packetID] = nil
            if self.isOpen(settlement.connection) { waiting.insert(settlement.connection) }
        }
        for id in waiting {
            self.actions.append(.close(id, .serverShuttingDown, "the session that its messages were for has closed"))
        }
        self.resumeAll()
    }

    /// Whether an in-process session has so much to receive that its publishers must wait.
    package mutating func setFull(_ local: Int, _ isFull: Bool) {
        self.inProcess[local]?.isFull = isFull
        if !isFull { self.resumeAll() }
    }

    /// An in-process session has dealt with a message: its publisher gets the PUBACK or PUBREC, in its turn.
    package mutating func settle(_ token: UInt64) {
        guard let settlement = self.settlements.removeValue(forKey: token) else { return }
        if let session = settlement.session {
            self.settle(settlement.packetID, of: session)
            return
        }
        guard self.isOpen(settlement.connection) else { return }
        let id = settlement.connection
        let position = Int(settlement.place - self.connections[id.index].pendingBase)
        guard self.connections[id.index].pending.indices.contains(position) else { return }
        self.connections[id.index].pending[position].waiting -= 1
        self.answerPending(id)
    }

    /// QoS 2: only now may the session forget that the message could have to be sent again.
    private mutating func settle(_ packetID: UInt16, of session: Session) {
        guard self.sessions[session.index] === session, var received = session.received[packetID] else { return }
        received.waiting -= 1
        if received.waiting == 0, session.isDurable {
            self.persist(.receive(session.number, packetID: packetID))
            received.change = self.store.changes
        }
        session.received[packetID] = received
        guard case .connection(let id) = session.place else { return }
        if !self.store.isCommitted(received.change) { self.store.wait(for: received.change, .answers(id)) }
        self.answerPending(id)
    }

    /// A message published by an in-process session.
    ///
    /// - Returns: the refusal, if it was refused.
    package mutating func publish(_ publish: Publish, fromInProcess local: Int) -> String? {
        guard let state = self.inProcess[local], let peer = self.sessions[state.session]?.peer else { return "closed" }
        self.statistics.messagesReceived += 1
        if let reason = self.authorizer.refusalToPublish(publish.topic, isRetained: publish.retain, by: peer) {
            self.statistics.publishesRefused += 1
            self.actions.append(.event(.publishRefused(peer: peer, topic: publish.topic, reason: reason)))
            return reason
        }
        let message = Message(publish, sender: peer, now: self.now, isKept: true)
        if publish.retain, !self.retain(message, qos: publish.qos) { return "quota" }
        self.distribute(
            message, qos: publish.qos, retain: publish.retain,
            to: self.targets(publish.topic, publisher: state.session), settlement: nil)
        return nil
    }
}
