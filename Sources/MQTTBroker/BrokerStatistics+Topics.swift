extension BrokerStatistics {
    /// Every figure under a name of its own, below `$SYS/broker/`; the same names as metrics of Prometheus.
    public var figures: [(name: String, value: UInt64)] {
        var figures: [(name: String, value: UInt64)] = [
            ("connections/open", UInt64(self.connections)),
            ("connections/sockets", UInt64(self.sockets)),
            ("connections/accepted", self.connectionsAccepted),
            ("sessions", UInt64(self.sessions)),
            ("messages/received", self.messagesReceived),
            ("messages/received/qos0", self.messagesReceivedByQoS.zero),
            ("messages/received/qos1", self.messagesReceivedByQoS.one),
            ("messages/received/qos2", self.messagesReceivedByQoS.two),
            ("messages/sent", self.messagesSent),
            ("messages/sent/qos0", self.messagesSentByQoS.zero),
            ("messages/sent/qos1", self.messagesSentByQoS.one),
            ("messages/sent/qos2", self.messagesSentByQoS.two),
            ("messages/dropped", self.messagesDropped),
            ("messages/queued", UInt64(self.queuedMessages)),
            ("queues", UInt64(self.queues)),
            ("queues/longest", UInt64(self.longestQueue)),
            ("queues/largest/bytes", UInt64(self.largestQueueBytes)),
            ("bytes/received", self.bytesReceived),
            ("bytes/sent", self.bytesSent),
            ("bytes/queued", UInt64(self.queuedBytes)),
            ("refused/publishes", self.publishesRefused),
            ("refused/subscriptions", self.subscriptionsRefused),
        ]
        // Each reason from the start, so that a graph of it begins at 0.
        for reason in DropReason.allCases {
            figures.append(("messages/dropped/\(reason.rawValue)", self.messagesDroppedByReason[reason] ?? 0))
        }
        func add(_ group: String, _ counts: [RefusalReason: UInt64]) {
            figures.append(("refused/\(group)", counts.values.reduce(0, +)))
            for (reason, count) in counts.sorted(by: { $0.key.description < $1.key.description }) {
                figures.append(("refused/\(group)/\(reason)", count))
            }
        }
        add("handshakes", self.handshakesRefused)
        add("connections", self.connectionsRefused)
        return figures
    }
}
