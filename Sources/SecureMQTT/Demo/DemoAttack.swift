import Identity
import MQTT
import Telemetry

/// One attack against the running system.
struct DemoAttack: Sendable {
    /// In the report: `high-s`.
    let name: String
    /// For people: what the attacker does.
    let title: String
    /// Does it, and says where and how it was refused.
    let run: @Sendable (DemoAttacker) async throws -> DemoReport.Attack

    /// All of them, in the order in which they are shown.
    static let catalogue: [DemoAttack] =
        [
            DemoAttack(name: "no-certificate", title: "connects without a certificate") {
                try await $0.handshake(as: DemoPeer.Credentials())
            },
            DemoAttack(name: "foreign-certificate", title: "connects with the same name under another CA") {
                try await $0.handshake(as: $0.stranger.credentials())
            },
            DemoAttack(name: "foreign-subscription", title: "subscribes to everybody's readings and receipts") {
                try await $0.subscribe(
                    to: ["audits/#", "audits/measures/\($0.victim.id)", "control_center/receipts/\($0.victim.id)", "#"])
            },
            DemoAttack(name: "other-topic", title: "publishes its own valid statement on another auditor's topic") {
                try await $0.publishOnTopicOfVictim()
            },
            DemoAttack(name: "oversized-packet", title: "sends a packet of 1 MB") {
                try await $0.sendOversizedPacket()
            },
            DemoAttack(name: "retained", title: "publishes a statement for the broker to retain") {
                try await $0.publishRetained()
            },
            DemoAttack(name: "tampered-payload", title: "turns one bit of a signed reading") { attacker in
                try await attacker.publish(DemoForgery.tamperedPayload(attacker.statement()), expecting: .signature)
            },
            DemoAttack(name: "other-key", title: "signs its statement with another auditor's key") { attacker in
                let forged = try attacker.statement(by: attacker.intruder.signer(withKeyOf: attacker.accomplice))
                return try await attacker.publish(forged, expecting: .signature)
            },
            DemoAttack(name: "other-statement", title: "replays another auditor's stored statement as its own") {
                try await $0.publish($0.capturedStatement(), expecting: .topic)
            },
        ] + Self.encodings + [
            DemoAttack(name: "replay", title: "sends a stored statement again") {
                try await $0.replay()
            },
            DemoAttack(name: "fork", title: "signs two statements with the same number") {
                try await $0.fork()
            },
        ]

    /// The same signed statement in other bytes.
    private static let encodings: [DemoAttack] = [
        DemoAttack(name: "high-s", title: "replaces the signature's s by n - s, which verifies as well") {
            try await $0.publish(DemoForgery.highS($0.statement()), expecting: .notCanonical)
        },
        DemoAttack(name: "long-length", title: "writes a length with more bytes than it needs") {
            try await $0.publish(DemoForgery.longLength($0.statement()), expecting: .notCanonical)
        },
        DemoAttack(name: "unprotected-label", title: "adds a label to the unprotected header") {
            try await $0.publish(DemoForgery.unprotectedLabel($0.statement()), expecting: .notCanonical)
        },
        DemoAttack(name: "trailing-byte", title: "adds a byte behind the end") {
            try await $0.publish(DemoForgery.trailingByte($0.statement()), expecting: .notCanonical)
        },
    ]
}
