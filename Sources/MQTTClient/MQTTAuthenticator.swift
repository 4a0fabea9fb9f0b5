/// The client's side of enhanced authentication (MQTT 5.0 section 4.12): a method such as `SCRAM-SHA-256`, and what
/// it has to say at each step.
///
/// The calls come in this order, at each connect and at each ``MQTTConnection/reauthenticate()``: ``begin()``, then
/// ``respond(to:)`` for each challenge, then ``finish(_:)``. What they throw ends the connection with
/// ``MQTTClientError/Code/authenticationFailed``. One exchange at a time; a connection lost in the middle of one
/// begins anew.
public protocol MQTTAuthenticator: Sendable {
    /// The name of the method, as both sides know it.
    var method: String { get }

    /// What goes with the first packet; `nil`: nothing. At most 65,535 bytes.
    func begin() async throws -> [UInt8]?

    /// The answer to a challenge; at most 65,535 bytes.
    func respond(to challenge: [UInt8]) async throws -> [UInt8]

    /// The server is satisfied. With what it says last it may prove who it is: throw, if it doesn't.
    func finish(_ data: [UInt8]?) async throws
}
