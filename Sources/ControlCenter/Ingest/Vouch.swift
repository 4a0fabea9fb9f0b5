import PKI
import Telemetry

/// What a hello under a valid certificate says of its auditor's stream: everything up to there, whatever certificate of
/// the same SPIFFE ID signed it.
///
/// An auditor that was away for longer than its certificate lived comes back under a new one, with statements that
/// the former signed. The newest of them is named by the hello, and it names the one before it, and so on: whoever
/// signed the hello stands for the whole chain. They come oldest first, so each is taken when the hello reaches as
/// far; the links between them are compared as they fill, and a contradiction is a fork like any other.
struct Vouch: Sendable {
    /// Whose hello it is. Once it is revoked it vouches no more.
    let voucher: VerifiedIdentity
    let stream: StreamID
    let lastSequence: Int64
    let lastID: MessageID

    init(_ hello: VerifiedHello) {
        self.voucher = hello.identity
        self.stream = hello.hello.stream
        self.lastSequence = hello.hello.lastSequence
        self.lastID = hello.hello.lastID
    }

    /// What it says of a statement.
    enum Verdict {
        /// It stands for it.
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
        guard link.sequence < self.lastSequence || link.id == self.lastID else { return .contradicted }
        return .covered
    }
}
