import DequeModule
import Identity
package import MQTT

extension Router {
    /// SUBSCRIBE: the answer goes first, then what is retained (MQTT 5.0 section 3.8.4).
    package mutating func subscribe(_ packet: Subscribe, from id: ConnectionID) {
        guard self.isOpen(id), let peer = self.connections[id.index].peer else { return }
        let index = self.connections[id.index].session
        guard let session = self.sessions[index] else { return }
        let identifier = packet.properties.subscriptionIdentifiers.first
        let change = self.store.changes
        var codes: [ReasonCode] = []
        // What is retained is sent once for a filter, however often the packet names it.
        var wanted: [Subscription] = []
        var places: [TopicFilter: Int] = [:]
        for subscription in packet.subscriptions {
            if let (code, reason) = self.refusal(of: subscription, session) {
                codes.append(code)
                self.statistics.subscriptionsRefused += 1
                self.actions.append(
                    .event(.subscribeRefused(peer: peer, filter: subscription.filter, reason: reason)))
                continue
            }
            let isNew = session.subscriptions[subscription.filter] == nil
            self.insert(subscription, identifier: identifier, session: index)
            if session.isDurable {
                self.persist(.subscribe(session.number, subscription, identifier: identifier))
            }
            codes.append(ReasonCode(rawValue: min(subscription.maximumQoS, self.limits.maximumQoS).rawValue))
            guard subscription.filter.shareName == nil else { continue }
            switch subscription.retainHandling {
            case .doNotSend: continue
            case .sendIfNew where !isNew: continue
            case .send, .sendIfNew:
                if let place = places[subscription.filter] {
                    wanted[place] = subscription
                } else {
                    places[subscription.filter] = wanted.count
                    wanted.append(subscription)
                }
            }
            if subscription.filter.isOfSystem { self.actions.append(.wantFigures) }
        }
        self.whenCommitted(
            since: change,
            .subscribed(id, SubAck(packetID: packet.packetID, reasonCodes: codes), wanted, identifier: identifier))
        if self.store.isFull, self.store.changes != change { self.hold(id) }
    }

    /// The subscriptions are as safe as they will be: says so, and sends what is retained for them.
    mutating func subscribed(_ id: ConnectionID, _ subAck: SubAck, _ wanted: [Subscription], identifier: UInt32?) {
        self.actions.append(.send(id, .subAck(subAck)))
        let session = self.connections[id.index].session
        for subscription in wanted { self.sendRetained(subscription, identifier: identifier, session: session) }
    }

    private func refusal(of subscription: Subscription, _ session: Session) -> (ReasonCode, String)? {
        let isDenied = self.limits.deniedSubscriptions.contains {
            $0 == subscription.filter || $0.covers(subscription.filter)
        }
        if isDenied { return (.unspecifiedError, "denied") }
        guard SubscriptionTree.accepts(subscription.filter) else { return (.topicFilterInvalid, "levels") }
        if let reason = self.authorizer.refusalToSubscribe(subscription.filter, by: session.peer) {
            return (.notAuthorized, reason)
        }
        let held = session.subscriptions
        guard held.count < self.limits.maximumSubscriptionsPerSession || held[subscription.filter] != nil else {
            return (.quotaExceeded, "quota")
        }
        return nil
    }

    mutating func insert(_ subscription: Subscription, identifier: UInt32?, session: Int) {
        let filter = subscription.filter
        let qos = min(subscription.maximumQoS, self.limits.maximumQoS)
        self.sessions[session]?.subscriptions[filter] = .some(identifier)
        guard filter.shareName != nil else {
            self.tree.insert(
                SubscriptionTree.Entry(
                    session: session, qos: qos, noLocal: subscription.noLocal,
                    retainAsPublished: subscription.retainAsPublished, identifier: identifier),
                filter)
            return
        }
        let share: Share
        if let known = self.shares[filter] {
            share = known
        } else {
            share = Share(filter)
            self.shares[filter] = share
            self.tree.insert(SubscriptionTree.Entry(share), filter)
        }
        share.insert(
            Share.Member(
                session: session, qos: qos, retainAsPublished: subscription.retainAsPublished,
                subscriptionIDs: identifier.map { [$0] } ?? []))
    }

    mutating func removeSubscription(_ filter: TopicFilter, session: Int) {
        guard filter.shareName != nil else {
            self.tree.remove(session: session, filter)
            return
        }
        guard let share = self.shares[filter] else { return }
        share.remove(session: session)
        if share.members.isEmpty {
            self.shares[filter] = nil
            self.tree.remove(share)
        }
    }

    mutating func sendRetained(_ subscription: Subscription, identifier: UInt32?, session: Int) {
        let highest = min(subscription.maximumQoS, self.limits.maximumQoS)
        guard let holder = self.sessions[session] else { return }
        let identifiers = identifier.map { [$0] } ?? []
        for entry in self.retained.matching(subscription.filter, now: self.now)
        where self.authorizer.mayReceive(entry.message.topic, by: holder.peer) {
            let qos = min(entry.qos, highest)
            if qos == .atMostOnce, case .connection = holder.place {
                // Through the queue, from which it goes out as fast as the client takes it.
                self.queue(
                    Session.Outgoing(message: entry.message, qos: qos, retain: true, subscriptionIDs: identifiers),
                    for: holder)
            } else {
                self.deliver(
                    entry.message, to: session, qos: qos, retain: true, subscriptionIDs: identifiers, share: nil,
                    settlement: nil)
            }
        }
    }

    package mutating func unsubscribe(_ packet: Unsubscribe, from id: ConnectionID) {
        guard self.isOpen(id) else { return }
        let index = self.connections[id.index].session
        guard let session = self.sessions[index] else { return }
        let change = self.store.changes
        var codes: [ReasonCode] = []
        for filter in packet.filters {
            guard session.subscriptions.removeValue(forKey: filter) != nil else {
                codes.append(.noSubscriptionExisted)
                continue
            }
            self.removeSubscription(filter, session: index)
            if session.isDurable { self.persist(.unsubscribe(session.number, filter)) }
            codes.append(.success)
        }
        let answer = UnsubAck(packetID: packet.packetID, reasonCodes: codes)
        self.whenCommitted(since: change, .send(id, .unsubAck(answer)))
        if self.store.isFull, self.store.changes != change { self.hold(id) }
    }

    // MARK: Shared subscriptions (section 4.8.2)

    /// Who gets the next message: in turn those who take it now, else those who are connected, else, for QoS above 0,
    /// those who will come back.
    func nextMember(of share: Share, topic: TopicName, qos: QoS) -> Share.Member? {
        var second: Int?
        var third: Int?
        let count = share.members.count
        for step in 0..<count {
            let index = (share.next + step) % count
            let member = share.members[index]
            guard let peer = self.sessions[member.session]?.peer, self.authorizer.mayReceive(topic, by: peer) else {
                continue
            }
            switch self.place(of: member.session) {
            case .connection(let id) where self.connections[id.index].isWritable:
                share.next = (index + 1) % count
                return member
            case .connection:
                second = second ?? index
            case .nowhere where min(qos, member.qos) > .atMostOnce:
                third = third ?? index
            case .nowhere, .inProcess:
                continue
            }
        }
        guard let index = second ?? third else { return nil }
        share.next = (index + 1) % count
        return share.members[index]
    }

    /// A session has ended: what others of its shares can take over goes to them. What was on its way to it at QoS 2
    /// does not (MQTT-4.8.2-5).
    mutating func passOn(_ session: Session) {
        var left: [Session.Outgoing] = []
        for entry in session.inflight where entry.qos == .atLeastOnce || !entry.wasSent {
            if let outgoing = entry.outgoing, outgoing.share != nil { left.append(outgoing) }
        }
        for outgoing in session.queue where outgoing.share != nil { left.append(outgoing) }
        for outgoing in left {
            guard let share = outgoing.share, !outgoing.message.hasExpired(self.now) else { continue }
            self.deliver(outgoing.message, to: share, qos: outgoing.qos, retain: outgoing.retain, settlement: nil)
        }
    }
}

extension TopicFilter {
    /// Below `$SYS/`, where the broker's figures are.
    fileprivate var isOfSystem: Bool { self.pattern.utf8.starts(with: "$SYS/".utf8) }
}
