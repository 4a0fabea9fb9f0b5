import GRDB
import Identity
import MQTT
import NIOCore
import Storage

// How values lie in the rows of the store: as packets of MQTT 5.0 where there is one for them, so that the one codec
// with its checks serves the file too.

/// A row that does not say what it should.
struct StoreRowError: Error, CustomStringConvertible {
    let description: String

    init(_ table: String) { self.description = "a row of its table \(table) is damaged" }
}

/// The largest packet that there is.
private let anySize = 268_435_460

extension StoredMessage {
    fileprivate func encoded() throws -> ByteBuffer {
        var buffer = ByteBuffer()
        try Publish(topic: self.topic, payload: self.payload, properties: self.properties)
            .encode(into: &buffer, version: .v5_0)
        return buffer
    }
}

extension Will {
    /// As the will of a CONNECT.
    fileprivate func encoded() throws -> ByteBuffer {
        var buffer = ByteBuffer()
        try Packet.connect(Connect(version: .v5_0, clientID: "", will: self)).encode(into: &buffer, version: .v5_0)
        return buffer
    }

    fileprivate init?(stored bytes: UnsafeRawBufferPointer) {
        var decoder = PacketDecoder(sender: .client, maximumPacketSize: anySize)
        decoder.append(ByteBuffer(bytes: bytes))
        guard case .connect(let connect)? = try? decoder.next(), decoder.bufferedBytes == 0, let will = connect.will
        else { return nil }
        self = will
    }
}

extension Subscription {
    fileprivate func encoded(identifier: UInt32?) throws -> ByteBuffer {
        var buffer = ByteBuffer()
        let packet = Subscribe(
            packetID: 1, subscriptions: [self], properties: identifier.map { [.subscriptionIdentifier($0)] } ?? [])
        try Packet.subscribe(packet).encode(into: &buffer, version: .v5_0)
        return buffer
    }
}

extension PeerIdentity {
    fileprivate init?(stored spiffe: UnsafeRawBufferPointer, _ certificate: UnsafeRawBufferPointer) {
        guard let text = String(validating: spiffe, as: UTF8.self), let id = try? SPIFFEID(text) else { return nil }
        self.init(spiffeID: id, certificateHash: Array(certificate))
    }
}

extension StoredPlace {
    fileprivate var options: Int64 {
        Int64(self.qos.rawValue) | (self.retain ? 4 : 0) | (self.isReleased ? 8 : 0)
    }

    fileprivate var encodedSubscriptionIDs: [UInt8]? {
        guard !self.subscriptionIDs.isEmpty else { return nil }
        return self.subscriptionIDs.flatMap { id in (0..<4).map { UInt8(truncatingIfNeeded: id >> ($0 * 8)) } }
    }

    fileprivate func sum(_ session: UInt64, _ place: UInt64, _ subscriptions: UnsafeRawBufferPointer?) -> Int64 {
        var sum = RowSum("d")
        sum.add(session)
        sum.add(place)
        sum.add(self.message)
        sum.add(UInt64(bitPattern: self.options))
        sum.add(subscriptions)
        sum.add(self.packetID.map(UInt64.init))
        // As rows had it that were written before there was this column.
        if let share = self.share { sum.add(share.rawValue) }
        return sum.stored
    }
}

extension [UInt8]? {
    fileprivate func withBytes<R>(_ body: (UnsafeRawBufferPointer?) throws -> R) rethrows -> R {
        guard let self else { return try body(nil) }
        return try self.withUnsafeBytes { try body($0) }
    }
}

extension ByteBuffer? {
    fileprivate func withBytes<R>(_ body: (UnsafeRawBufferPointer?) throws -> R) rethrows -> R {
        guard let self else { return try body(nil) }
        return try self.withUnsafeReadableBytes { try body($0) }
    }
}

private func stored(_ number: UInt64) -> Int64 { Int64(bitPattern: number) }

// MARK: Writing

/// Writes what a batch comes to, within a transaction.
struct StoreWriter {
    private let db: Database

    init(_ db: Database) { self.db = db }

    func write(_ batch: StoreBatch, on index: StoreIndex) throws {
        // In the order of their keys: neighbours in a table are neighbours in time.
        let sessions = batch.sessions.sorted { $0.key < $1.key }
        for (number, session) in sessions {
            if session.isRemoved {
                if session.isOnDisk { try self.removeSession(number) }
                continue
            }
            if let value = session.value { try self.put(value) }
            for (filter, subscription) in session.subscriptions { try self.write(number, filter, subscription) }
            for (packetID, isThere) in session.received { try self.write(number, packetID, isThere: isThere) }
        }
        try self.writeDeliveries(sessions)
        try self.writeMessages(batch.messages)
        try self.writeRetained(batch)
        if let mark = batch.mark(beyond: index) {
            try Prepared("REPLACE INTO numbers (id, next, sum) VALUES (1, ?, ?)", self.db).run {
                $0.bind(1, stored(mark))
                $0.bind(2, Self.sum(ofNumbers: mark))
            }
        }
    }

    private func removeSession(_ number: UInt64) throws {
        for (table, key) in [
            ("session", "number"), ("subscription", "session"), ("delivery", "session"), ("received", "session"),
        ] {
            try Prepared("DELETE FROM \(table) WHERE \(key) = ?", self.db).run { $0.bind(1, stored(number)) }
        }
    }

    private func put(_ session: StoredSession) throws {
        let statement = try Prepared("REPLACE INTO session VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self.db)
        let will = try session.will?.encoded()
        try session.peer.certificateHash.withUnsafeBytes { certificate in
            try will.withBytes { will in
                try statement.run {
                    $0.bind(1, stored(session.number))
                    $0.bind(2, session.peer.spiffeID.rawValue)
                    $0.bind(3, certificate)
                    $0.bind(4, session.clientID)
                    $0.bind(5, Int64(session.expiry))
                    $0.bind(6, session.leftAt.map(stored))
                    $0.bind(7, will)
                    $0.bind(8, Self.sum(of: session, certificate, will))
                }
            }
        }
    }

    private func write(
        _ session: UInt64, _ filter: TopicFilter, _ subscription: (Subscription, identifier: UInt32?)?
    ) throws {
        guard let subscription else {
            return try Prepared("DELETE FROM subscription WHERE session = ? AND filter = ?", self.db).run {
                $0.bind(1, stored(session))
                $0.bind(2, filter.rawValue)
            }
        }
        let statement = try Prepared("REPLACE INTO subscription VALUES (?, ?, ?, ?)", self.db)
        try subscription.0.encoded(identifier: subscription.identifier).withUnsafeReadableBytes { packet in
            try statement.run {
                $0.bind(1, stored(session))
                $0.bind(2, filter.rawValue)
                $0.bind(3, packet)
                $0.bind(4, Self.sum(ofSubscription: session, filter.rawValue, packet))
            }
        }
    }

    private func write(_ session: UInt64, _ packetID: UInt16, isThere: Bool) throws {
        if isThere {
            try Prepared("REPLACE INTO received VALUES (?, ?, ?)", self.db).run {
                $0.bind(1, stored(session))
                $0.bind(2, Int64(packetID))
                $0.bind(3, Self.sum(ofReceived: session, packetID))
            }
        } else {
            try Prepared("DELETE FROM received WHERE session = ? AND packet_id = ?", self.db).run {
                $0.bind(1, stored(session))
                $0.bind(2, Int64(packetID))
            }
        }
    }

    private func writeDeliveries(_ sessions: [(key: UInt64, value: StoreBatch.Session)]) throws {
        let insert = try Prepared("INSERT INTO delivery VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self.db)
        let update = try Prepared(
            "UPDATE delivery SET options = ?3, packet_id = ?4, sum = ?5 WHERE session = ?1 AND place = ?2", self.db)
        let remove = try Prepared("DELETE FROM delivery WHERE session = ? AND place = ?", self.db)
        for (session, changes) in sessions where !changes.isRemoved {
            for (place, delivery) in changes.deliveries.sorted(by: { $0.key < $1.key }) {
                let value = delivery.place
                guard delivery.isWanted else {
                    try remove.run {
                        $0.bind(1, stored(session))
                        $0.bind(2, stored(place))
                    }
                    continue
                }
                guard !delivery.isOnDisk || delivery.isChanged else { continue }
                try value.encodedSubscriptionIDs.withBytes { subscriptions in
                    let sum = value.sum(session, place, subscriptions)
                    if delivery.isOnDisk {
                        try update.run {
                            $0.bind(1, stored(session))
                            $0.bind(2, stored(place))
                            $0.bind(3, value.options)
                            $0.bind(4, value.packetID.map(Int64.init))
                            $0.bind(5, sum)
                        }
                    } else {
                        try insert.run {
                            $0.bind(1, stored(session))
                            $0.bind(2, stored(place))
                            $0.bind(3, stored(value.message))
                            $0.bind(4, value.options)
                            $0.bind(5, subscriptions)
                            $0.bind(6, value.packetID.map(Int64.init))
                            $0.bind(7, sum)
                            if let share = value.share {
                                $0.bind(8, share.rawValue)
                            } else {
                                $0.bind(8, nil as Int64?)
                            }
                        }
                    }
                }
            }
        }
    }

    private func writeMessages(_ messages: [UInt64: StoreBatch.Message]) throws {
        let insert = try Prepared("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)", self.db)
        let remove = try Prepared("DELETE FROM message WHERE number = ?", self.db)
        for (number, message) in messages.sorted(by: { $0.key < $1.key }) {
            switch (message.before, message.after) {
            case (0, 0): continue
            case (_, 0): try remove.run { $0.bind(1, stored(number)) }
            case (0, _):
                guard let body = message.body else { continue }
                let hash = body.sender?.certificateHash
                try hash.withBytes { certificate in
                    try body.encoded().withUnsafeReadableBytes { packet in
                        try insert.run {
                            $0.bind(1, stored(number))
                            if let spiffe = body.sender?.spiffeID.rawValue {
                                $0.bind(2, spiffe)
                            } else {
                                $0.bind(2, nil as Int64?)
                            }
                            $0.bind(3, certificate)
                            $0.bind(4, body.expiry.map(stored))
                            $0.bind(5, packet)
                            $0.bind(
                                6,
                                Self.sum(
                                    ofMessage: number, body.sender?.spiffeID.rawValue, certificate, body.expiry, packet)
                            )
                        }
                    }
                }
            default: continue
            }
        }
    }

    private func writeRetained(_ batch: StoreBatch) throws {
        for (topic, entry) in batch.retained {
            guard let entry else {
                try Prepared("DELETE FROM retained WHERE topic = ?", self.db).run { $0.bind(1, topic.rawValue) }
                continue
            }
            try Prepared("REPLACE INTO retained VALUES (?, ?, ?, ?)", self.db).run {
                $0.bind(1, topic.rawValue)
                $0.bind(2, stored(entry.message))
                $0.bind(3, Int64(entry.qos.rawValue))
                $0.bind(4, Self.sum(ofRetained: topic.rawValue, entry.message, entry.qos))
            }
        }
    }

    // MARK: Sums

    fileprivate static func sum(ofNumbers next: UInt64) -> Int64 {
        var sum = RowSum("n")
        sum.add(next)
        return sum.stored
    }

    fileprivate static func sum(
        of session: StoredSession, _ certificate: UnsafeRawBufferPointer, _ will: UnsafeRawBufferPointer?
    ) -> Int64 {
        var sum = RowSum("s")
        sum.add(session.number)
        sum.add(session.peer.spiffeID.rawValue)
        sum.add(certificate)
        sum.add(session.clientID)
        sum.add(UInt64(session.expiry))
        sum.add(session.leftAt)
        sum.add(will)
        return sum.stored
    }

    fileprivate static func sum(ofSubscription session: UInt64, _ filter: String, _ packet: UnsafeRawBufferPointer)
        -> Int64
    {
        var sum = RowSum("f")
        sum.add(session)
        sum.add(filter)
        sum.add(packet)
        return sum.stored
    }

    fileprivate static func sum(ofReceived session: UInt64, _ packetID: UInt16) -> Int64 {
        var sum = RowSum("r")
        sum.add(session)
        sum.add(UInt64(packetID))
        return sum.stored
    }

    fileprivate static func sum(
        ofMessage number: UInt64, _ spiffe: String?, _ certificate: UnsafeRawBufferPointer?, _ expiry: UInt64?,
        _ packet: UnsafeRawBufferPointer
    ) -> Int64 {
        var sum = RowSum("m")
        sum.add(number)
        sum.add(spiffe ?? "")
        sum.add(certificate)
        sum.add(expiry)
        sum.add(packet)
        return sum.stored
    }

    fileprivate static func sum(ofRetained topic: String, _ message: UInt64, _ qos: QoS) -> Int64 {
        var sum = RowSum("t")
        sum.add(topic)
        sum.add(message)
        sum.add(UInt64(qos.rawValue))
        return sum.stored
    }
}

// MARK: Reading

/// Reads rows, and checks each against its sum.
struct StoreReader: StoreLookup {
    private let db: Database

    init(_ db: Database) { self.db = db }

    func session(_ number: UInt64) throws -> StoredSession? {
        var session: StoredSession?
        try Prepared("SELECT * FROM session WHERE number = ?", self.db).query({ $0.bind(1, stored(number)) }) {
            session = try Self.session($0)
        }
        return session
    }

    func delivery(_ session: UInt64, place: UInt64) throws -> StoredPlace? {
        var found: StoredPlace?
        try Prepared("SELECT * FROM delivery WHERE session = ? AND place = ?", self.db).query {
            $0.bind(1, stored(session))
            $0.bind(2, stored(place))
        } _: {
            found = try Self.delivery($0).value
        }
        return found
    }

    func deliveries(_ session: UInt64) throws -> [(place: UInt64, message: UInt64)] {
        var found: [(place: UInt64, message: UInt64)] = []
        try Prepared("SELECT * FROM delivery WHERE session = ?", self.db).query({ $0.bind(1, stored(session)) }) {
            let row = try Self.delivery($0)
            found.append((row.place, row.value.message))
        }
        return found
    }

    /// All of it.
    ///
    /// - Throws: ``StoreRowError`` if a row is damaged or belongs to nothing.
    func readAll() throws -> (StoredState, StoreIndex) {
        var state = StoredState()
        var index = StoreIndex()
        try self.each("SELECT * FROM numbers") { row in
            index.marked = UInt64(bitPattern: row.int64(1))
            guard StoreWriter.sum(ofNumbers: index.marked) == row.int64(2) else { throw StoreRowError("numbers") }
        }
        state.nextNumber = index.marked

        var positions: [UInt64: Int] = [:]
        try self.each("SELECT * FROM session") { row in
            let session = try Self.session(row)
            guard session.number < index.marked else { throw StoreRowError("numbers") }
            positions[session.number] = state.sessions.count
            index.sessions.insert(session.number)
            state.sessions.append(StoredState.Session(session: session))
        }
        try self.each("SELECT * FROM subscription") { row in
            guard let position = positions[UInt64(bitPattern: row.int64(0))] else {
                throw StoreRowError("subscription")
            }
            state.sessions[position].subscriptions.append(try Self.subscription(row))
        }
        try self.each("SELECT * FROM received") { row in
            let session = UInt64(bitPattern: row.int64(0))
            guard let packetID = UInt16(exactly: row.int64(1)), let position = positions[session],
                StoreWriter.sum(ofReceived: session, packetID) == row.int64(2)
            else { throw StoreRowError("received") }
            state.sessions[position].received.append(packetID)
        }
        var messages: [UInt64: StoredMessage] = [:]
        try self.each("SELECT * FROM message") { row in
            let message = try Self.message(row)
            guard message.number < index.marked else { throw StoreRowError("numbers") }
            messages[message.number] = message
        }
        try self.each("SELECT * FROM delivery ORDER BY session, place") { row in
            let (session, place, value) = try Self.delivery(row)
            guard let position = positions[session], let message = messages[value.message] else {
                throw StoreRowError("delivery")
            }
            index.references[value.message, default: 0] += 1
            state.sessions[position].deliveries.append(
                StoredState.Delivery(
                    place: place,
                    delivery: StoredDelivery(
                        message: message, qos: value.qos, retain: value.retain,
                        subscriptionIDs: value.subscriptionIDs, share: value.share),
                    packetID: value.packetID, isReleased: value.isReleased))
        }
        try self.each("SELECT * FROM retained") { row in
            let number = UInt64(bitPattern: row.int64(1))
            guard let topic = String(validating: row.bytes(0), as: UTF8.self), let message = messages[number],
                message.topic.rawValue.hasSameBytes(as: topic),
                let qos = UInt8(exactly: row.int64(2)).flatMap(QoS.init(rawValue:)),
                StoreWriter.sum(ofRetained: topic, number, qos) == row.int64(3)
            else { throw StoreRowError("retained") }
            index.references[number, default: 0] += 1
            index.retained[message.topic] = number
            state.retained.append((message, qos))
        }
        // Who referred to it is gone.
        guard index.references.count == messages.count else { throw StoreRowError("message") }
        return (state, index)
    }

    private func each(_ sql: String, _ body: (StatementRow) throws -> Void) throws {
        try Prepared(sql, self.db).query({ _ in }, body)
    }

    private static func session(_ row: StatementRow) throws -> StoredSession {
        guard let peer = PeerIdentity(stored: row.bytes(1), row.bytes(2)),
            let client = String(validating: row.bytes(3), as: UTF8.self), let expiry = UInt32(exactly: row.int64(4))
        else { throw StoreRowError("session") }
        var session = StoredSession(
            number: UInt64(bitPattern: row.int64(0)), peer: peer, clientID: client, expiry: expiry,
            leftAt: row.isNull(5) ? nil : UInt64(bitPattern: row.int64(5)))
        let will = row.isNull(6) ? nil : row.bytes(6)
        guard StoreWriter.sum(of: session, row.bytes(2), will) == row.int64(7) else { throw StoreRowError("session") }
        if let will {
            guard let will = Will(stored: will) else { throw StoreRowError("session") }
            session.will = will
        }
        return session
    }

    private static func subscription(_ row: StatementRow) throws -> (Subscription, identifier: UInt32?) {
        let packet = row.bytes(2)
        guard let filter = String(validating: row.bytes(1), as: UTF8.self),
            StoreWriter.sum(ofSubscription: UInt64(bitPattern: row.int64(0)), filter, packet) == row.int64(3)
        else { throw StoreRowError("subscription") }
        var decoder = PacketDecoder(sender: .client, version: .v5_0, maximumPacketSize: anySize)
        decoder.append(ByteBuffer(bytes: packet))
        guard case .subscribe(let subscribe)? = try? decoder.next(), let subscription = subscribe.subscriptions.first,
            subscribe.subscriptions.count == 1, subscription.filter.rawValue.hasSameBytes(as: filter)
        else { throw StoreRowError("subscription") }
        return (subscription, subscribe.properties.subscriptionIdentifiers.first)
    }

    private static func message(_ row: StatementRow) throws -> StoredMessage {
        let number = UInt64(bitPattern: row.int64(0))
        var sender: PeerIdentity?
        if !row.isNull(1) {
            guard let peer = PeerIdentity(stored: row.bytes(1), row.bytes(2)) else { throw StoreRowError("message") }
            sender = peer
        }
        let expiry = row.isNull(3) ? nil : UInt64(bitPattern: row.int64(3))
        let packet = row.bytes(4)
        let sum = StoreWriter.sum(
            ofMessage: number, sender?.spiffeID.rawValue, row.isNull(2) ? nil : row.bytes(2), expiry, packet)
        var decoder = PacketDecoder(sender: .server, version: .v5_0, maximumPacketSize: anySize)
        guard sum == row.int64(5) else { throw StoreRowError("message") }
        decoder.append(ByteBuffer(bytes: packet))
        guard case .publish(let publish)? = try? decoder.next(), decoder.bufferedBytes == 0 else {
            throw StoreRowError("message")
        }
        return StoredMessage(
            number: number, topic: publish.topic, payload: publish.payload, properties: publish.properties,
            sender: sender, expiry: expiry)
    }

    private static func delivery(
        _ row: StatementRow
    ) throws -> (session: UInt64, place: UInt64, value: StoredPlace) {
        let session = UInt64(bitPattern: row.int64(0))
        let place = UInt64(bitPattern: row.int64(1))
        let options = row.int64(3)
        let ids = row.isNull(4) ? nil : row.bytes(4)
        guard (0...15).contains(options), let qos = QoS(rawValue: UInt8(options & 3)), (ids?.count ?? 0) % 4 == 0 else {
            throw StoreRowError("delivery")
        }
        var packetID: UInt16?
        if !row.isNull(5) {
            guard let id = UInt16(exactly: row.int64(5)) else { throw StoreRowError("delivery") }
            packetID = id
        }
        var share: TopicFilter?
        if !row.isNull(7) {
            guard let text = String(validating: row.bytes(7), as: UTF8.self), let filter = try? TopicFilter(text),
                filter.shareName != nil
            else { throw StoreRowError("delivery") }
            share = filter
        }
        let value = StoredPlace(
            message: UInt64(bitPattern: row.int64(2)), qos: qos, retain: options & 4 != 0,
            subscriptionIDs: ids.map { ids in
                stride(from: 0, to: ids.count, by: 4).map {
                    UInt32(littleEndian: ids.loadUnaligned(fromByteOffset: $0, as: UInt32.self))
                }
            } ?? [], share: share, packetID: packetID, isReleased: options & 8 != 0)
        guard value.sum(session, place, ids) == row.int64(6) else { throw StoreRowError("delivery") }
        return (session, place, value)
    }
}
