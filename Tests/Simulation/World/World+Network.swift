/// The network and the broker: what may happen to a frame between two machines.
extension World {
    /// Puts a frame on the wire, unless the connection breaks instead.
    func send(_ request: Broker.Request, from node: Int) {
        guard self.links[node].isUp || self.links[node].isConnecting else { return }
        if self.isBreakable(node), self.faults.strikes(.disconnect) {
            self.breakConnection(of: node)
            return
        }
        let arrival = max(self.links[node].lastArrivalAtBroker + 1, self.schedule.now + self.latency())
        self.links[node].lastArrivalAtBroker = arrival
        self.schedule.at(arrival, .reachesBroker(node: node, epoch: self.links[node].epoch, request))
    }

    func connect(_ node: Int) {
        self.links[node].epoch += 1
        self.links[node].isConnecting = true
        self.send(.connect(subscriptions: self.subscriptions(of: node), keepsSession: true), from: node)
    }

    /// The node sees its connection break. The broker goes on with what has left the node until it notices.
    func breakConnection(of node: Int) {
        guard self.links[node].isUp || self.links[node].isConnecting else { return }
        self.note(.world, "connection breaks", Int64(node))
        let epoch = self.links[node].epoch
        self.links[node].broke()
        self.schedule.after(self.dice.between(0...Int64.seconds(5)), .brokerNotices(node: node, epoch: epoch))
        self.schedule.after(0, .nodeNotices(node: node, epoch: epoch))
    }

    func reachedBroker(_ request: Broker.Request, from node: Int, epoch: Int) {
        guard self.brokerIsUp else {
            self.refuse(node, epoch)
            return
        }
        let client = self.links[node].client
        if case .connect = request {
            guard epoch == self.links[node].epoch else { return }
            // A session has one connection: the newest takes it over.
            for other in self.links.indices
            where other != node && self.links[other].client == client && self.links[other].served != nil {
                self.closeByBroker(other)
            }
            if self.links[node].served != nil { self.broker.disconnected(client) }
            self.links[node].served = epoch
        }
        guard self.links[node].served == epoch else { return }
        if case .publish(_, let message) = request, self.scenario.shape == .forwarding {
            if self.interfere(with: message, request, from: client) { return }
        }
        self.route(self.broker.receive(request, from: client))
    }

    /// Nobody listens there.
    private func refuse(_ node: Int, _ epoch: Int) {
        guard self.links[node].epoch == epoch, self.links[node].isConnecting else { return }
        self.links[node].broke()
        self.schedule.after(0, .nodeNotices(node: node, epoch: epoch))
    }

    private func closeByBroker(_ node: Int) {
        self.links[node].served = nil
        self.broker.disconnected(self.links[node].client)
        if self.links[node].isUp || self.links[node].isConnecting {
            self.links[node].broke()
            self.schedule.after(0, .nodeNotices(node: node, epoch: self.links[node].epoch))
        }
    }

    func brokerNoticed(_ node: Int, epoch: Int) {
        guard self.links[node].served == epoch else { return }
        self.links[node].served = nil
        self.broker.disconnected(self.links[node].client)
    }

    /// Frames from the broker to whoever holds the session now.
    func route(_ outputs: [Broker.Output]) {
        for output in outputs {
            guard let node = self.links.firstIndex(where: { $0.client == output.client && $0.served != nil }) else {
                continue
            }
            guard let epoch = self.links[node].served, epoch == self.links[node].epoch else { continue }
            if self.isBreakable(node), self.faults.strikes(.disconnect) {
                self.breakConnection(of: node)
                continue
            }
            let arrival = max(self.links[node].lastArrivalAtNode + 1, self.schedule.now + self.latency())
            self.links[node].lastArrivalAtNode = arrival
            self.schedule.at(arrival, .reachesNode(node: node, epoch: epoch, output.response))
        }
    }

    /// In one process there is no connection to break.
    private func isBreakable(_ node: Int) -> Bool { node != 0 || self.scenario.shape == .forwarding }

    private func latency() -> Int64 {
        if self.faults.strikes(.slowNetwork) {
            return self.faults.dice(of: .slowNetwork, between: .seconds(1)...(.seconds(90)))
        }
        return self.dice.between(.milliseconds(1)...(.milliseconds(60)))
    }

    /// The broker dies; its sessions may or may not come back with it.
    func crashBroker(losingSessions: Bool) {
        self.note(.broker, losingSessions ? "crashes, forgets sessions" : "crashes", 0)
        self.brokerIsUp = false
        self.broker.restart(losingSessions: losingSessions)
        for node in self.links.indices {
            self.links[node].served = nil
            if self.links[node].isUp || self.links[node].isConnecting {
                self.links[node].broke()
                self.schedule.after(
                    self.dice.between(0...Int64.seconds(2)),
                    .nodeNotices(node: node, epoch: self.links[node].epoch))
            }
        }
        self.schedule.after(self.dice.between(.milliseconds(200)...(.seconds(30))), .brokerStarts)
    }
}
