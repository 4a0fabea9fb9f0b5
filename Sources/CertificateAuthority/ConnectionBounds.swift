import Connections
import Dispatch
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTPTypes
import Synchronization

/// How many connections the authority has at once, over all its ports, and how long each may take for what.
public struct AuthorityLimits: Hashable, Sendable {
    /// Connections at once; others are closed unheard.
    public var connections = 1_024
    /// Of one address, or of one /64 of IPv6.
    public var connectionsPerAddress = 128
    /// Seconds from a connection to its first request's head, TLS handshake included, and then from one answer to the
    /// next head.
    public var headDeadline: Int64 = 15
    /// Seconds from a request's head to its end.
    public var bodyDeadline: Int64 = 15
    /// Seconds for an answer to be taken.
    public var answerDeadline: Int64 = 120

    public init() {}
}

/// The connections that there are. Shared by the ports.
final class ConnectionCounter: Sendable {
    /// A refusal is logged so often at most, in seconds.
    private static let logInterval: UInt64 = 60

    private struct State {
        var total = 0
        var addresses: ConnectionTable<NetworkAddress>
        var refused = 0
        var saidAt: UInt64?
    }

    let limits: AuthorityLimits
    private let state: Mutex<State>
    private let logger: Logger

    init(_ limits: AuthorityLimits, logger: Logger) {
        self.limits = limits
        self.logger = logger
        self.state = Mutex(State(addresses: ConnectionTable(maximum: limits.connectionsPerAddress, rate: nil)))
    }

    /// - Returns: whether there is room. If so, ``close(_:)`` must follow.
    func open(_ address: NetworkAddress) -> Bool {
        let now = DispatchTime.now().uptimeNanoseconds
        let (isOpen, refused) = self.state.withLock { state -> (Bool, Int?) in
            if state.total < self.limits.connections, state.addresses.open(address.limitKey, at: now) == nil {
                state.total += 1
                return (true, nil)
            }
            state.refused += 1
            if let saidAt = state.saidAt, now - saidAt < Self.logInterval * 1_000_000_000 { return (false, nil) }
            defer { (state.saidAt, state.refused) = (now, 0) }
            return (false, state.refused)
        }
        if let refused {
            self.logger.warning(
                "too many connections: some are closed unheard",
                metadata: ["address": "\(address)", "refused": "\(refused)"])
        }
        return isOpen
    }

    func close(_ address: NetworkAddress) {
        self.state.withLock { state in
            state.total -= 1
            state.addresses.close(address.limitKey)
        }
    }
}

/// What a connection is waited for: decides when it has taken too long. A value; time is handed in by whoever sets the
/// timer.
struct RequestClock: Hashable, Sendable {
    enum Awaited: Hashable, Sendable {
        case head, body, answer
    }

    private(set) var awaited = Awaited.head
    /// Requests that were begun and not answered yet.
    private var open = 0
    private var isReading = false

    /// The head of a request has come.
    mutating func head() {
        self.open += 1
        self.isReading = true
        self.awaited = .body
    }

    /// A request has come to its end.
    mutating func requestEnd() {
        self.isReading = false
        self.awaited = self.open > 0 ? .answer : .head
    }

    /// An answer was written to its end. A request may be answered before its end: that has still to come.
    mutating func answerEnd() {
        self.open = max(0, self.open - 1)
        if !self.isReading { self.awaited = self.open > 0 ? .answer : .head }
    }
}

/// Counts its connection, and closes it when there are too many, or when what is awaited does not come in time.
///
/// Stands behind the HTTP decoder: a head or a body that trickles in byte by byte gets no more time by that.
final class ConnectionBounds: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    private let counter: ConnectionCounter
    private var address: NetworkAddress?
    private var clock = RequestClock()
    private var timer: Scheduled<Void>?

    init(_ counter: ConnectionCounter) {
        self.counter = counter
    }

    func channelActive(context: ChannelHandlerContext) {
        let address = context.remoteAddress?.ipAddress.flatMap { NetworkAddress($0) } ?? NetworkAddress(v4: 0)
        guard self.counter.open(address) else {
            context.close(promise: nil)
            return
        }
        self.address = address
        self.await(context)
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.timer?.cancel()
        self.timer = nil
        if let address { self.counter.close(address) }
        self.address = nil
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.unwrapInboundIn(data) {
        case .head: self.clock.head()
        case .body: break
        case .end: self.clock.requestEnd()
        }
        self.await(context)
        context.fireChannelRead(data)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard case .end = self.unwrapOutboundIn(data) else { return context.write(data, promise: promise) }
        // It counts as answered when the last of it has left: who does not read is not waited for for ever.
        let written = promise ?? context.eventLoop.makePromise()
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        written.futureResult.whenSuccess {
            let (handler, context) = bound.value
            handler.clock.answerEnd()
            handler.await(context)
        }
        context.write(data, promise: written)
    }

    private var awaited: RequestClock.Awaited?

    /// Sets the timer anew if something else is awaited than before.
    private func await(_ context: ChannelHandlerContext) {
        guard self.address != nil, self.awaited != self.clock.awaited else { return }
        self.awaited = self.clock.awaited
        self.timer?.cancel()
        let limits = self.counter.limits
        let seconds =
            switch self.clock.awaited {
            case .head: limits.headDeadline
            case .body: limits.bodyDeadline
            case .answer: limits.answerDeadline
            }
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: .seconds(seconds)) {
            context.close(promise: nil)
        }
    }
}
