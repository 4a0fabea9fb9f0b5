import PKI
import Telemetry

/// What a hello under a valid certificate says of its auditor's stream: everything up to there, whatever certificate of
/// the same SPIFFE ID signed it.
///
/// An auditor that was away for longer than its certificate lived comes back under a new one, with statements that
/// the former signed. The newest of them is named by the hello, and it names the one before it, and so on: whoever
/// signed the hello stands for the whole chain. But they come oldest first, and keep coming only as they are receipted:
/// that one is of the chain is known when all behind it are here, up to the one that the hello names. Until then
/// each is taken on the hello's number, and marked (``StreamLedger/unconfirmed``): three numbers a stream, however
/// long the backlog. What is never reached stays marked.
struct Vouch: Sendable {
    /// Whose hello it is. Once it is revoked it vouches no more.
    let voucher: VerifiedIdentity
    let stream: StreamID
    let lastSequence: Int64
    let lastID: MessageID
    private var isAlarmed = false

    init(_ hello: VerifiedHello) {
        self.voucher = hello.identity
        self.stream = hello.hello.stream
        self.lastSequence = hello.hello.lastSequence
        self.lastID = hello.hello.lastID
    }

    /// What it says of a statement.
    enum Verdict {
        /// It names it.
        case named
        /// It names one behind it.
        case covered
        /// It names another one in its place.
        case contradicted
        /// It says nothing of it; a later hello may.
        case silent
    }

    func verdict(on link: Link, verifier: IdentityVerifier, at now: Timestamp) -> Verdict {
        guard link.stream == self.stream, link.sequence <= self.lastSequence,
            (try? verifier.requireNotRevoked(self.voucher, at: now.seconds)) != nil
        else { return .silent }
        guard link.sequence == self.lastSequence else { return .covered }
        return link.id == self.lastID ? .named : .contradicted
    }

    /// Takes note that it was contradicted.
    ///
    /// - Returns: whether it was the first time.
    mutating func alarm() -> Bool {
        defer { self.isAlarmed = true }
        return !self.isAlarmed
    }
}
