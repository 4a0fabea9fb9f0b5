import DequeModule
package import Identity
package import MQTT

extension Router {
    /// A CONNECT of an authenticated peer (MQTT 5.0 section 3.1).
    package mutating func connect(
        _ packet: Connect, peer: PeerIdentity, assignedClientID: () -> String
    ) -> ConnectOutcome {
        if let (code, reason) = self.refusal(of: packet, peer) { return .refused(code, reason) }
        let clientID = packet.clientID.isEmpty ? assignedClientID() : packet.clientID
        let key = SessionKey(owner: self.authorizer.sessionOwner(peer), clientID)

        var found = self.sessionIndex[key]
        if let index = found, case .inProcess = self.place(of: index) {
            return .refused(.clientIdentifierNotValid, "an in-process session has this client identifier")
        }
        guard found != nil || self.sessionsOfOwner[key.owner, default: 0] < self.limits.maximumSessionsPerIdentity
        else { return .refused(.quotaExceeded, "this identity has too many sessions") }
        let isConnected = if let index = found, case .connection = self.place(of: index) { true } else { false }
        guard isConnected || self.statistics.connections < self.limits.maximumConnections else {
            return .refused(.quotaExceeded, "there are too many connections")
        }
        if let index = found, case .connection(let old) = self.place(of: index) {
            self.actions.append(.close(old, .sessionTakenOver, "its session was taken over by a new connection"))
            self.sessions[index]?.detach(at: self.now)
        }
        if let index = found {
            let session = self.sessions[index]
            if packet.cleanStart || session?.expiry == 0 || session?.hasExpired(self.now) == true {
                self.removeSession(index)
                found = nil
            } else if let session, session.willDelay == 0 {
                self.publishWill(of: session)
            }
        }

        let asked =
            packet.version == .v5_0
            ? packet.properties.sessionExpiryInterval ?? 0 : packet.cleanStart ? 0 : UInt32.max
        let expiry = min(asked, self.limits.maximumSessionExpiry)
        let id = self.openConnection(packet, peer)
        let index =
            found
            ?? self.addSession(
                Session(key: key, clientID: clientID, peer: peer, place: .nowhere, expiry: expiry))
        self.connections[id.index].session = index
        self.connections[id.index].clientID = clientID
        if let session = self.sessions[index] {
            session.place = .connection(id)
            session.peer = peer
            session.expiry = expiry
            session.will = packet.will
            session.window = min(Int(packet.properties.receiveMaximum ?? .max), self.limits.maximumInflight)
            self.keepInStore(session)
        }
        self.actions.append(.event(.connected(peer: peer, clientID: clientID, version: packet.version)))
        let (properties, keepAlive) = self.announcements(
            for: packet, assignedClientID: packet.clientID.isEmpty ? clientID : nil, expiry: expiry, asked: asked)
        let connAck = ConnAck(sessionPresent: found != nil, reasonCode: .success, properties: properties)
        return .accepted(id, connAck, keepAlive: keepAlive)
    }

    private func refusal(of packet: Connect, _ peer: PeerIdentity) -> (ReasonCode, String)? {
        if let reason = self.authorizer.refusalToConnect(peer) { return (.notAuthorized, reason) }
        guard packet.properties.authenticationMethod == nil else {
            return (.badAuthenticationMethod, "extended authentication is not supported")
        }
        guard packet.clientID.utf8.count <= self.limits.maximumClientIDLength else {
            return (.clientIdentifierNotValid, "the client identifier is too long")
        }
        guard !packet.clientID.isEmpty || packet.cleanStart || packet.version == .v5_0 else {
            return (.clientIdentifierNotValid, "an empty client identifier needs a clean session (MQTT-3.1.3-8)")
        }
        return packet.will.flatMap { self.refusal(of: $0, peer) }
    }

    /// What the server does otherwise than a client may assume (MQTT 5.0 section 3.2.2.3).
    private func announcements(
        for packet: Connect, assignedClientID: String?, expiry: UInt32, asked: UInt32
    ) -> (Properties, keepAlive: UInt16) {
        guard packet.version == .v5_0 else { return (Properties(), packet.keepAlive) }
        var properties = Properties()
        if expiry != asked { properties.append(.sessionExpiryInterval(expiry)) }
        properties.append(.receiveMaximum(self.limits.receiveMaximum))
        if self.limits.maximumQoS != .exactlyOnce { properties.append(.maximumQoS(self.limits.maximumQoS)) }
        if !self.limits.isRetainAvailable { properties.append(.retainAvailable(false)) }
        properties.append(.maximumPacketSize(UInt32(clamping: self.limits.maximumPacketSize)))
        if let assignedClientID { properties.append(.assignedClientIdentifier(assignedClientID)) }
        if self.limits.topicAliasMaximum > 0 { properties.append(.topicAliasMaximum(self.limits.topicAliasMaximum)) }
        var keepAlive = packet.keepAlive
        if keepAlive == 0 || keepAlive > self.limits.maximumKeepAlive {
            keepAlive = self.limits.maximumKeepAlive
            properties.append(.serverKeepAlive(keepAlive))
        }
        return (properties, keepAlive)
    }

    private mutating func openConnection(_ packet: Connect, _ peer: PeerIdentity) -> ConnectionID {
        let index: Int
        if let free = self.freeConnections.popLast() {
            index = free
        } else {
            index = self.connections.count
            self.connections.append(Connection())
        }
        var connection = Connection()
        connection.generation = self.connections[index].generation &+ 1
        connection.isOpen = true
        connection.peer = peer
        connection.version = packet.version
        connection.maximumPacketSize = packet.properties.maximumPacketSize.map { Int($0) } ?? .max
        self.connections[index] = connection
        self.statistics.connections += 1
        return ConnectionID(index: index, generation: connection.generation)
    }

    /// The CONNACK is on its way: what waits in the session may follow.
    package mutating func start(_ id: ConnectionID) {
        guard self.isOpen(id) else { return }
        self.connections[id.index].isStarted = true
        self.pump(self.connections[id.index].session)
    }

    /// The connection is gone, for whatever reason. A will that was not taken back by DISCONNECT is due.
    package mutating func connectionLost(_ id: ConnectionID, reason: String) {
        guard self.isOpen(id) else { return }
        let index = self.connections[id.index].session
        let peer = self.connections[id.index].peer
        self.connections[id.index].isOpen = false
        self.connections[id.index].pending = []
        self.connections[id.index].route = nil
        self.freeConnections.append(id.index)
        self.statistics.connections -= 1
        if let peer {
            let clientID = self.connections[id.index].clientID
            self.actions.append(.event(.disconnected(peer: peer, clientID: clientID, reason: reason)))
        }
        // After a takeover the session belongs to another connection, or to another session already.
        guard let session = self.sessions[index], session.place == .connection(id) else { return }
        session.detach(at: self.now)
        guard session.expiry > 0 else {
            self.removeSession(index)
            return
        }
        if session.isDurable { self.persist(.leaveSession(session.number, at: UnixClock.seconds(self.now))) }
        if session.willDelay == 0 { self.publishWill(of: session) }
    }

    /// DISCONNECT from the client; it closes afterwards.
    package mutating func disconnect(_ packet: Disconnect, from id: ConnectionID) {
        guard self.isOpen(id), let session = self.sessions[self.connections[id.index].session] else { return }
        var isChanged = false
        if let expiry = packet.properties.sessionExpiryInterval {
            guard session.expiry != 0 || expiry == 0 else {
                self.actions.append(
                    .close(
                        id, .protocolError, "a session without expiry cannot get one at the end (section 3.14.2.2.2)"))
                return
            }
            session.expiry = min(expiry, self.limits.maximumSessionExpiry)
            isChanged = true
        }
        if packet.reasonCode == .normalDisconnection, session.will != nil {
            session.will = nil
            isChanged = true
        }
        if isChanged, session.isDurable, session.expiry > 0 { self.persist(.openSession(session.stored)) }
    }

    /// Whether the client takes what is sent to it. What is slow is told apart here from what is not.
    package mutating func setWritable(_ id: ConnectionID, _ isWritable: Bool) {
        guard self.isOpen(id), self.connections[id.index].isWritable != isWritable else { return }
        self.connections[id.index].isWritable = isWritable
        if isWritable { self.pump(self.connections[id.index].session) }
    }

    /// Whether it may not be read from now.
    package func isHeld(_ id: ConnectionID) -> Bool { self.isOpen(id) && self.connections[id.index].isHeld }
}
