import MQTT

/// A shared subscription (MQTT 5.0 section 4.8.2): sessions that share the messages of one filter.
package final class Share {
    struct Member {
        var session: Int
        var qos: QoS
        var retainAsPublished: Bool
        var subscriptionIDs: [UInt32]
    }

    let filter: TopicFilter
    private(set) var members: [Member] = []
    /// Whose turn is next.
    var next = 0

    init(_ filter: TopicFilter) { self.filter = filter }

    /// Adds a member, or replaces its options.
    func insert(_ member: Member) {
        if let index = self.members.firstIndex(where: { $0.session == member.session }) {
            self.members[index] = member
        } else {
            self.members.append(member)
        }
    }

    /// Removes a member; the turn stays where it is among the others.
    func remove(session: Int) {
        guard let index = self.members.firstIndex(where: { $0.session == session }) else { return }
        self.members.remove(at: index)
        if index < self.next { self.next -= 1 }
    }
}
