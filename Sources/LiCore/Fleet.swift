import Crypto
import Foundation
public import Identity
import PKI
import SwiftASN1
import Synchronization
import Telemetry
import X509

/// Everybody who may still use the original's format. Empty, and so off, unless an operator allows somebody.
public struct Fleet: Hashable, Sendable {
    /// The most members.
    public static let maximumCount = 10_000

    /// Ordered by ID.
    public private(set) var members: [FleetMember]
    private var byID: [Identifier: Int] = [:]
    private var byCertificate: [[UInt8]: Int] = [:]

    /// - Throws: ``LiCoreError`` with code `fleet` for an ID (without regard to case) or a certificate that is there
    ///   twice, or too many members.
    public init(_ members: [FleetMember] = []) throws(LiCoreError) {
        guard members.count <= Self.maximumCount else {
            throw LiCoreError(.fleet, "\(members.count) members; at most \(Self.maximumCount) are possible")
        }
        self.members = members.sorted { $0.id < $1.id }
        var folded: Set<String> = []
        for (index, member) in self.members.enumerated() {
            guard folded.insert(member.id.folded).inserted else {
                throw LiCoreError(.fleet, "\(member.id) is in the fleet twice")
            }
            guard self.byCertificate.updateValue(index, forKey: member.certificateHash) == nil else {
                throw LiCoreError(.fleet, "\(member.id) has the certificate of another member")
            }
            self.byID[member.id] = index
        }
    }

    private init() { self.members = [] }

    /// Nobody.
    public static let none = Fleet()

    public var isEmpty: Bool { self.members.isEmpty }

    public subscript(id: Identifier) -> FleetMember? { self.byID[id].map { self.members[$0] } }

    /// Who has pinned this certificate, by the SHA-256 of its DER.
    public subscript(certificateHash hash: [UInt8]) -> FleetMember? {
        self.byCertificate[hash].map { self.members[$0] }
    }

    /// The auditor of this ID, if it is one that speaks the original's format.
    public func auditor(_ id: Identifier) -> FleetMember? {
        guard let member = self[id], member.kind == .auditor else { return nil }
        return member
    }

    /// With a member more, or another in the place of the one of that ID.
    ///
    /// - Throws: as ``init(_:)``.
    public func adding(_ member: FleetMember) throws(LiCoreError) -> Fleet {
        try Fleet(self.members.filter { $0.id != member.id } + [member])
    }

    /// Without the member of that ID.
    public func removing(_ id: Identifier) throws(LiCoreError) -> Fleet {
        try Fleet(self.members.filter { $0.id != id })
    }
}

extension Fleet {
    /// The largest file that is read: 16 MiB.
    public static let maximumFileSize = 16 << 20

    private struct File: Codable {
        var version: Int
        var members: [Entry]
    }

    private struct Entry: Codable {
        var id: String
        var kind: String
        var controller: String?
        var timeZone: String?
        var interval: Int?
        var until: String
        var sha256: String
        var certificate: String

        enum CodingKeys: String, CodingKey {
            case id, kind, controller, interval, until, sha256, certificate
            case timeZone = "time-zone"
        }
    }

    /// Reads a fleet file: JSON as ``json`` writes it.
    ///
    /// - Throws: ``LiCoreError`` with code `fleet`, naming the member.
    public init(json bytes: [UInt8]) throws(LiCoreError) {
        guard bytes.count <= Self.maximumFileSize else {
            throw LiCoreError(.fleet, "a fleet file of \(bytes.count) bytes is too large")
        }
        let file: File
        do {
            file = try JSONDecoder().decode(File.self, from: Data(bytes))
        } catch {
            throw LiCoreError(.fleet, "not a fleet file: secure-mqtt fleet allow writes it")
        }
        guard file.version == 1 else {
            throw LiCoreError(.fleet, "a fleet file of version \(file.version); 1 is known")
        }
        var members: [FleetMember] = []
        for entry in file.members { members.append(try Self.member(entry)) }
        try self.init(members)
    }

    private static func member(_ entry: Entry) throws(LiCoreError) -> FleetMember {
        guard let id = try? Identifier(entry.id) else {
            throw LiCoreError(.fleet, "a member's id is not an identifier")
        }
        guard let kind = FleetMember.Kind(rawValue: entry.kind) else {
            throw LiCoreError(.fleet, "\(id): kind is neither auditor nor database-client")
        }
        guard let timeZone = LocalTimeZone(name: entry.timeZone ?? "UTC") else {
            throw LiCoreError(.fleet, "\(id): time-zone is none: write UTC, +02:00 or Europe/Madrid")
        }
        var controller: Identifier?
        if let name = entry.controller {
            guard let name = try? Identifier(name) else {
                throw LiCoreError(.fleet, "\(id): controller is not an identifier")
            }
            controller = name
        }
        guard let certificate = try? Certificate(pemEncoded: entry.certificate) else {
            throw LiCoreError(.fleet, "\(id): certificate is not one in PEM")
        }
        guard certificate.sha256.hexadecimal == entry.sha256 else {
            throw LiCoreError(.fleet, "\(id): sha256 is not that of the certificate")
        }
        return try FleetMember(
            id: id, kind: kind, certificate: certificate, controller: controller, timeZone: timeZone,
            interval: entry.interval ?? FleetMember.defaultInterval, until: entry.until)
    }

    /// The fleet file, for people to read too.
    ///
    /// - Throws: an error of the encoder.
    public var json: [UInt8] {
        get throws {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            let file = File(
                version: 1,
                members: self.members.map {
                    Entry(
                        id: $0.id.rawValue, kind: $0.kind.rawValue, controller: $0.controller?.rawValue,
                        timeZone: $0.kind == .auditor ? $0.timeZone.description : nil,
                        interval: $0.kind == .auditor ? $0.interval : nil, until: $0.until,
                        sha256: $0.certificateHash.hexadecimal, certificate: $0.certificate.pemText)
                })
            return Array(try encoder.encode(file)) + [UInt8(ascii: "\n")]
        }
    }
}

/// The fleet that is in force, shared by all who ask: it changes while they run.
public final class FleetRegister: Sendable {
    private let fleet: Mutex<Fleet>

    public init(_ fleet: Fleet = .none) { self.fleet = Mutex(fleet) }

    public var current: Fleet { self.fleet.withLock { $0 } }

    /// Takes another fleet.
    ///
    /// - Returns: the certificates, by their SHA-256, and the IDs of those whose rights are others now: what they
    ///   were answered before no longer holds.
    public func replace(with fleet: Fleet) -> (certificates: Set<[UInt8]>, ids: Set<Identifier>) {
        let former = self.fleet.withLock { current in
            defer { current = fleet }
            return current
        }
        let changed = Set(former.members).symmetricDifference(fleet.members)
        return (Set(changed.map(\.certificateHash)), Set(changed.map(\.id)))
    }
}

extension [UInt8] {
    /// SHA-256 of bytes, such as a certificate's DER.
    package var sha256: [UInt8] { Array(SHA256.hash(data: self)) }
}
