import MQTT
import MQTTClient
import Synchronization

/// A session store without a disk; it can be made to fail.
final class MemorySessionStore: ClientSessionStore {
    private let state = Mutex((session: StoredSession(), fails: false))

    var session: StoredSession { self.state.withLock { $0.session } }

    func fail() { self.state.withLock { $0.fails = true } }

    func load(clientID: String) throws -> StoredSession { self.session }

    func commit(_ changes: [SessionChange]) throws {
        try self.state.withLock { state in
            guard !state.fails else { throw Unexpected(description: "the disk is full") }
            for change in changes { state.session.apply(change) }
        }
    }
}

/// An authentication method that knows its answers.
struct Scripted: MQTTAuthenticator {
    let method = "SCRIPTED"
    var first: [UInt8]? = [1]
    var answers: [[UInt8]: [UInt8]]
    /// What the server must say last.
    var proof: [UInt8]?

    func begin() async throws -> [UInt8]? { self.first }

    func respond(to challenge: [UInt8]) async throws -> [UInt8] {
        guard let answer = self.answers[challenge] else { throw Unexpected(description: "an unknown challenge") }
        return answer
    }

    func finish(_ data: [UInt8]?) async throws {
        guard data == self.proof else { throw Unexpected(description: "the server is not who it says") }
    }
}
