import Crypto
import Foundation
import Identity
import Telemetry
import TestSupport

/// The published test vectors, `Vectors/*.json`.
enum Vectors {
    struct Party: Decodable, Sendable {
        let name: String
        let role: String
        let privateKey: String
        let publicKey: String
        let certificate: String
        let certificateHash: String
        let spiffeID: String?

        private enum CodingKeys: String, CodingKey {
            case name
            case role
            case privateKey = "private_key"
            case publicKey = "public_key"
            case certificate
            case certificateHash = "certificate_hash"
            case spiffeID = "spiffe_id"
        }
    }

    struct Accepted: Decodable, Sendable, CustomStringConvertible {
        let name: String
        let topic: String
        let message: String
        let id: String

        var description: String { self.name }
    }

    struct Refused: Decodable, Sendable, CustomStringConvertible {
        let name: String
        let reason: String
        let topic: String
        let message: String?
        let `repeat`: Repeat?
        let retained: Bool?
        let sender: String?

        var description: String { "\(self.reason): \(self.name)" }

        var bytes: [UInt8] { self.message.flatMap(hexBytes) ?? self.repeat?.bytes ?? [] }
    }

    struct Repeat: Decodable, Sendable {
        let bytes: [UInt8]

        init(from decoder: any Decoder) throws {
            var container = try decoder.unkeyedContainer()
            let unit = hexBytes(try container.decode(String.self)) ?? []
            let count = try container.decode(Int.self)
            self.bytes = Array(repeatElement(unit, count: count).joined())
        }
    }

    struct Step: Decodable, Sendable {
        let message: String
        let id: String
        let outcome: String
    }

    static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("Vectors")

    /// Empty if the file cannot be read; a test says so.
    private static func load<Row: Decodable>(_ name: String, _ type: Row.Type = Row.self) -> [Row] {
        guard let data = try? Data(contentsOf: self.folder.appendingPathComponent("\(name).json")) else { return [] }
        return (try? JSONDecoder().decode([Row].self, from: data)) ?? []
    }

    static let parties: [Party] = Self.load("parties")
    static let accepted: [Accepted] = Self.load("accepted")
    static let refused: [Refused] = Self.load("refused")
    static let streams: [Step] = Self.load("streams")

    static func message(_ name: String) -> [UInt8] {
        self.accepted.first { $0.name == name }.flatMap { hexBytes($0.message) } ?? []
    }

    /// What a control center or auditor checks of one message on its own: who is allowed to say what.
    ///
    /// - Returns: Nil if the message is taken.
    static func verdict(_ bytes: [UInt8], topic: String, isRetained: Bool = false, sender: String? = nil) -> Refusal? {
        do throws(Refusal) {
            let envelope = try Envelope.decode(bytes)
            guard let topic = Topic(topic) else { throw Refusal(.topic, "no topic of ours") }
            try envelope.checkTopic(topic, isRetained: isRetained)
            if let sender {
                guard envelope.issuer.rawValue == sender else { throw Refusal(.sender, sender) }
            }
            let hash = envelope.certificateHash.description
            guard let party = self.parties.first(where: { $0.certificateHash == hash }),
                let key = hexBytes(party.publicKey).flatMap({ try? P256.Signing.PublicKey(x963Representation: $0) })
            else { throw Refusal(.certificateUnknown, hash) }
            guard envelope.issuer.rawValue == party.spiffeID else { throw Refusal(.issuer, party.name) }
            guard envelope.kind.signerRoles.contains(where: { $0.rawValue == party.role }) else {
                throw Refusal(.role, party.role)
            }
            guard envelope.isSigned(by: key) else { throw Refusal(.signature, party.name) }
            return nil
        } catch {
            return error
        }
    }

    /// A signer out of the vectors' parties.
    static func signer(_ name: String) throws -> KeySigner {
        guard let party = self.parties.first(where: { $0.name == name }), let spiffe = party.spiffeID,
            let key = hexBytes(party.privateKey), let certificate = hexBytes(party.certificate)
        else { throw Refusal(.issuer, "no party \(name)") }
        return KeySigner(
            issuer: try SPIFFEID(spiffe), certificateHash: CertificateHash(hashing: certificate),
            key: try P256.Signing.PrivateKey(rawRepresentation: key))
    }

    static func certificate(_ name: String) -> [UInt8] {
        self.parties.first { $0.name == name }.flatMap { hexBytes($0.certificate) } ?? []
    }
}

func hexBytes(_ hex: String) -> [UInt8]? {
    let digits = Array(hex.utf8)
    guard digits.count.isMultiple(of: 2) else { return nil }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(digits.count / 2)
    for index in stride(from: 0, to: digits.count, by: 2) {
        guard let byte = UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16) else {
            return nil
        }
        bytes.append(byte)
    }
    return bytes
}

func hexText(_ bytes: [UInt8]) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

func makeReading(
    _ meter: String = "m1", _ quantity: Quantity = .consumption, part: Part = .whole,
    unit: Telemetry.Unit = .kilowattHour,
    at seconds: Int64 = 1_767_225_600, nanoseconds: Int64 = 0, interval: Int64? = 900_000_000_000,
    _ value: String? = "0.482", quality: Quality = .good
) throws -> Reading {
    Reading(
        meter: try MeterName(meter), quantity: quantity, part: part, unit: unit,
        time: Timestamp(seconds: seconds).advanced(byNanoseconds: nanoseconds), interval: interval,
        value: value.flatMap { ExactDecimal($0) }, quality: quality)
}
