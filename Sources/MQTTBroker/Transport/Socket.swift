import NIOCore
import Synchronization

/// A connection's socket, as it is used from the event loop of the sessions.
///
/// A socket of that same loop is **near**: everything is done at once. One of another loop is **far**: bytes go to and
/// fro as tasks of the two loops, and are counted until they have arrived, so that no loop runs ahead of the other
/// without bound: what is on its way in stops reading, what is on its way out counts as not taken by the client.
final class Socket: Sendable {
    private let channel: any Channel
    let isNear: Bool
    /// Bytes that may be on their way in one direction, before it is full.
    private let capacity: Int
    private let way = Mutex(Way())

    private struct Way {
        /// Bytes that were read, and not yet dealt with by the connection.
        var inward = 0
        /// Bytes that the connection has written, and the channel does not have.
        var outward = 0
        var isReadingWanted = true
        /// Too much is on its way in.
        var isInwardFull = false
        /// The connection knows that too much is on its way out, and waits to hear that it is not any more.
        var isOutwardAwaited = false
    }

    /// - Parameters:
    ///   - eventLoop: of the sessions.
    ///   - capacity: bytes on their way, each way.
    init(_ channel: any Channel, eventLoop: any EventLoop, capacity: Int) {
        self.channel = channel
        self.isNear = channel.eventLoop === eventLoop
        self.capacity = capacity
    }

    // MARK: From the sessions' loop

    /// Whether the client takes what it is sent. If not, the connection hears when it does again.
    var isWritable: Bool {
        guard self.channel.isWritable else { return false }
        if self.isNear { return true }
        return self.way.withLock { way in
            guard way.outward >= self.capacity else { return true }
            way.isOutwardAwaited = true
            return false
        }
    }

    func write(_ bytes: ByteBuffer) {
        if self.isNear { return self.channel.writeAndFlush(bytes, promise: nil) }
        let size = bytes.readableBytes
        self.way.withLock { $0.outward += size }
        self.channel.eventLoop.execute {
            self.channel.writeAndFlush(bytes, promise: nil)
            let isDue = self.way.withLock { way in
                way.outward -= size
                guard way.isOutwardAwaited, way.outward < self.capacity else { return false }
                way.isOutwardAwaited = false
                return true
            }
            // Told as the channel tells it.
            if isDue { self.channel.pipeline.fireChannelWritabilityChanged() }
        }
    }

    func setReading(_ isOn: Bool) {
        self.way.withLock { $0.isReadingWanted = isOn }
        if self.isNear { self.updateReading() } else { self.updateReadingLater() }
    }

    func close() { self.channel.close(promise: nil) }

    /// Says that no more comes, behind all that was written, and closes a while later.
    func closeOutput(thenAfter delay: TimeAmount) {
        let channel = self.channel
        channel.close(mode: .output, promise: nil)
        channel.eventLoop.scheduleTask(in: delay) { channel.close(promise: nil) }
    }

    /// Bytes of ``arrived(_:)`` have been dealt with.
    func dealtWith(_ size: Int) {
        let isDue = self.way.withLock { way in
            way.inward -= size
            guard way.isInwardFull, way.inward <= self.capacity / 2 else { return false }
            way.isInwardFull = false
            return true
        }
        if isDue { self.updateReadingLater() }
    }

    // MARK: From the socket's loop

    /// Bytes are on their way to the sessions' loop.
    func arrived(_ size: Int) {
        let isFull = self.way.withLock { way in
            way.inward += size
            guard !way.isInwardFull, way.inward >= self.capacity else { return false }
            way.isInwardFull = true
            return true
        }
        if isFull { self.updateReading() }
    }

    private func updateReadingLater() {
        guard self.channel.isActive else { return }
        self.channel.eventLoop.execute { self.updateReading() }
    }

    /// Only here, so that what was wanted last is what is set last.
    private func updateReading() {
        let isOn = self.way.withLock { $0.isReadingWanted && !$0.isInwardFull }
        do {
            try self.channel.syncOptions?.setOption(.autoRead, value: isOn)
        } catch {
            // Only a closed channel refuses, and that is read no more anyway.
        }
    }
}
