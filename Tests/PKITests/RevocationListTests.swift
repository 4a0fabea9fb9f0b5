import Crypto
import FuzzTargets
import Identity
import PKI
import SwiftASN1
import TestSupport
import Testing
import X509

@Suite struct RevocationListTests {
    let pki: TestPKI

    init() throws { self.pki = try TestPKI() }

    @Test("A list comes back as it was made", arguments: [0, 1, 500])
    func roundTrip(count: Int) throws {
        let reasons: [RevocationList.Reason?] = [nil, .keyCompromise, .superseded]
        let entries = (0..<count).map { index in
            RevocationList.Entry(
                serialNumber: [0x40, UInt8(index >> 8), UInt8(index & 0xFF)],
                revokedAt: 1_700_000_000 + UnixTime(index), reason: reasons[index % 3])
        }
        let made = try self.pki.intermediate.makeRevocationList(
            number: .max, entries: entries, at: 1_800_000_000, lifetime: 86_400)
        let list = try RevocationList(der: made.der)
        #expect(list.entries == entries)
        #expect(list.number == .max)
        #expect(list.thisUpdate == 1_800_000_000)
        #expect(list.nextUpdate == 1_800_086_400)
        #expect(list.issuer == self.pki.intermediate.certificate.subject)
        #expect(list.isSigned(by: self.pki.intermediate.certificate))
        #expect(list.entry(for: [0x41]) == nil)
    }

    @Test("Times beyond 2049 are written and read")
    func farTimes() throws {
        let list = try self.pki.intermediate.makeRevocationList(number: 1, at: 2_600_000_000)
        #expect(list.thisUpdate == 2_600_000_000)
        #expect(!list.isExpired(at: list.nextUpdate))
        #expect(list.isExpired(at: list.nextUpdate + 1))
    }

    @Test("Every reason comes back; unspecified is not written", arguments: RevocationList.Reason.allCases)
    func reasons(reason: RevocationList.Reason) throws {
        let list = try self.pki.intermediate.makeRevocationList(
            number: 1, entries: [.init(serialNumber: [1], revokedAt: 0, reason: reason)], at: 1_800_000_000)
        #expect(list.entry(for: [1])?.reason == (reason == .unspecified ? nil : reason))
    }

    @Test("An entry that was taken off a list does not revoke")
    func removed() throws {
        let auditor = self.pki.auditors[0]
        let list = try self.pki.intermediate.makeRevocationList(
            number: 2, entries: [.init(auditor.certificate, revokedAt: self.pki.now, reason: .removeFromCRL)],
            at: self.pki.now)
        var verifier = try self.pki.verifier()
        try verifier.update([list])
        #expect(throws: Never.self) { try verifier.verify(chain: auditor.chain, at: self.pki.now) }
    }

    @Test("Only the issuer's signature counts, and only where it may sign lists")
    func signature() throws {
        let list = try self.pki.revocationLists()[1]
        #expect(!list.isSigned(by: self.pki.root.certificate))
        #expect(!list.isSigned(by: try self.pki.foreign().intermediate.certificate))
        #expect(!list.isSigned(by: self.pki.auditors[0].certificate))
        let key = self.pki.intermediate.key
        var forge = try CertificateForge(intermediateOf: self.pki.root, key: key, at: self.pki.now)
        forge.subject = self.pki.intermediate.certificate.subject
        #expect(list.isSigned(by: try forge.make()))
        forge.keyUsage = KeyUsage(keyCertSign: true)
        #expect(!list.isSigned(by: try forge.make()))
    }

    @Test("The issuer's key under another name or key identifier did not sign the list")
    func issuer() throws {
        let list = try self.pki.revocationLists()[1]
        var named = try CertificateForge(
            intermediateOf: self.pki.root, key: self.pki.intermediate.key, at: self.pki.now)
        #expect(!list.isSigned(by: try named.make()))
        named.subject = self.pki.intermediate.certificate.subject
        named.subjectKeyIdentifier = [1, 2, 3]
        #expect(!list.isSigned(by: try named.make()))
    }

    @Test("A list of more entries than the limit is not made")
    func tooMany() throws {
        let entry = RevocationList.Entry(serialNumber: [1], revokedAt: 0, reason: nil)
        #expect(throws: PKIError(.tooLarge, "")) {
            try self.pki.intermediate.makeRevocationList(
                number: 1, entries: Array(repeating: entry, count: RevocationList.maximumCount + 1), at: 0)
        }
    }

    // MARK: Malformed lists, built piece by piece

    struct Shape {
        var version: [UInt8]? = [0x02, 0x01, 0x01]
        var inner: [UInt8] = Self.algorithm
        var outer: [UInt8] = Self.algorithm
        var thisUpdate: [UInt8] = [0x17, 13] + Array("261122120000Z".utf8)
        var nextUpdate: [UInt8]? = [0x17, 13] + Array("261222120000Z".utf8)
        var entries: [UInt8]?
        var extensions: [[UInt8]]? = [Self.number([0x02, 0x01, 0x07]), Self.keyIdentifier]
        var signature: [UInt8] = [0x03, 0x03, 0x00, 0x30, 0x00]
        var trailing: [UInt8] = []
        var extensionsTag: UInt8 = 0xA0
        var secondExtensions: [UInt8] = []

        static let algorithm: [UInt8] = [0x30, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02]
        static let keyIdentifier = wrap(
            0x30, [0x06, 0x03, 0x55, 0x1D, 0x23] + wrap(0x04, [0x30, 0x06, 0x80, 0x04, 1, 2, 3, 4]))
        static let name: [UInt8] = wrap(
            0x30, wrap(0x31, wrap(0x30, [0x06, 0x03, 0x55, 0x04, 0x03] + wrap(0x0C, Array("CA".utf8)))))

        static func number(_ value: [UInt8]) -> [UInt8] {
            wrap(0x30, [0x06, 0x03, 0x55, 0x1D, 0x14] + wrap(0x04, value))
        }

        static func entry(_ serial: [UInt8], _ extensions: [UInt8] = []) -> [UInt8] {
            wrap(0x30, serial + [0x17, 13] + Array("261122120000Z".utf8) + extensions)
        }

        static func reason(_ value: [UInt8]) -> [UInt8] {
            wrap(0x30, wrap(0x30, [0x06, 0x03, 0x55, 0x1D, 0x15] + wrap(0x04, value)))
        }

        var der: [UInt8] {
            var body = (self.version ?? []) + self.inner + Self.name + self.thisUpdate + (self.nextUpdate ?? [])
            if let entries { body += wrap(0x30, entries) }
            if let extensions {
                body += wrap(self.extensionsTag, wrap(0x30, extensions.flatMap { $0 }) + self.secondExtensions)
            }
            return wrap(0x30, wrap(0x30, body) + self.outer + self.signature) + self.trailing
        }
    }

    struct Malformation: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let code: PKIError.Code
        let change: @Sendable (inout Shape) -> Void

        init(_ description: String, _ code: PKIError.Code, _ change: @escaping @Sendable (inout Shape) -> Void) {
            self.testDescription = description
            self.code = code
            self.change = change
        }
    }

    static let malformations: [Malformation] = [
        Malformation("bytes behind the list", .format) { $0.trailing = [0] },
        Malformation("no version", .format) { $0.version = nil },
        Malformation("version 1", .version) { $0.version = [0x02, 0x01, 0x00] },
        Malformation("version 3", .version) { $0.version = [0x02, 0x01, 0x02] },
        Malformation("another algorithm inside", .algorithm) { $0.inner[11] = 0x03 },
        Malformation("another algorithm outside", .algorithm) { $0.outer[11] = 0x03 },
        Malformation("algorithm parameters", .algorithm) {
            $0.outer = [0x30, 0x0C] + Shape.algorithm[2...] + [0x05, 0x00]
        },
        Malformation("no next update", .format) { $0.nextUpdate = nil },
        Malformation("a month 13", .format) { $0.thisUpdate = [0x17, 13] + Array("261322120000Z".utf8) },
        Malformation("a time without zone", .format) { $0.thisUpdate = [0x17, 12] + Array("261122120000".utf8) },
        Malformation("no extensions", .format) { $0.extensions = nil },
        Malformation("empty extensions", .extension) { $0.extensions = [] },
        Malformation("no number", .extension) { $0.extensions = [Shape.keyIdentifier] },
        Malformation("a negative number", .format) {
            $0.extensions = [Shape.number([0x02, 0x01, 0xFF]), Shape.keyIdentifier]
        },
        Malformation("a number of nine bytes", .format) {
            $0.extensions = [Shape.number([0x02, 0x09, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Shape.keyIdentifier]
        },
        Malformation("no key identifier", .extension) { $0.extensions = [Shape.number([0x02, 0x01, 0x07])] },
        Malformation("two numbers", .extension) { $0.extensions?.append(Shape.number([0x02, 0x01, 0x08])) },
        Malformation("a delta list", .extension) {
            // deltaCRLIndicator, critical
            $0.extensions?.append(
                wrap(0x30, [0x06, 0x03, 0x55, 0x1D, 0x1B, 0x01, 0x01, 0xFF] + wrap(0x04, [0x02, 0x01, 0x01])))
        },
        Malformation("an indirect list", .extension) {
            // issuingDistributionPoint, critical, indirectCRL
            $0.extensions?.append(
                wrap(
                    0x30,
                    [0x06, 0x03, 0x55, 0x1D, 0x1C, 0x01, 0x01, 0xFF] + wrap(0x04, [0x30, 0x03, 0x84, 0x01, 0xFF])))
        },
        Malformation("an empty list of entries", .format) { $0.entries = [] },
        Malformation("an entry without date", .format) { $0.entries = wrap(0x30, [0x02, 0x01, 0x05]) },
        Malformation("a serial number of 21 bytes", .format) {
            $0.entries = Shape.entry([0x02, 21] + [UInt8](repeating: 1, count: 21))
        },
        Malformation("an unknown reason", .format) {
            $0.entries = Shape.entry([0x02, 0x01, 0x05], Shape.reason([0x0A, 0x01, 0x07]))
        },
        Malformation("a reason that is an integer", .format) {
            $0.entries = Shape.entry([0x02, 0x01, 0x05], Shape.reason([0x02, 0x01, 0x01]))
        },
        Malformation("entry extensions in a set", .format) {
            var reason = Shape.reason([0x0A, 0x01, 0x01])
            reason[0] = 0x31
            $0.entries = Shape.entry([0x02, 0x01, 0x05], reason)
        },
        Malformation("17 extensions", .extension) { shape in
            for index in UInt8(0)..<15 {
                shape.extensions?.append(wrap(0x30, [0x06, 0x03, 0x2A, 0x03, index] + wrap(0x04, [0x05, 0x00])))
            }
        },
        Malformation("extensions under another tag", .extension) { $0.extensionsTag = 0xA1 },
        Malformation("two lists of extensions", .format) { $0.secondExtensions = [0x30, 0x00] },
        Malformation("an empty key identifier", .extension) {
            $0.extensions = [
                Shape.number([0x02, 0x01, 0x07]),
                wrap(0x30, [0x06, 0x03, 0x55, 0x1D, 0x23] + wrap(0x04, [0x30, 0x02, 0x80, 0x00])),
            ]
        },
        Malformation("a reason of two bytes", .format) {
            $0.entries = Shape.entry([0x02, 0x01, 0x05], Shape.reason([0x0A, 0x02, 0x00, 0x01]))
        },
        Malformation("an entry with an unknown critical extension", .extension) {
            // certificateIssuer
            $0.entries = Shape.entry(
                [0x02, 0x01, 0x05],
                wrap(
                    0x30,
                    wrap(0x30, [0x06, 0x03, 0x55, 0x1D, 0x1D, 0x01, 0x01, 0xFF] + wrap(0x04, [0x30, 0x00]))))
        },
        Malformation("a signature of broken bytes", .format) { $0.signature = [0x03, 0x02, 0x04, 0x30] },
    ]

    @Test("A malformed list is refused with a named error", arguments: Self.malformations)
    func malformed(malformation: Malformation) throws {
        var shape = Shape()
        shape.entries = Shape.entry([0x02, 0x01, 0x05], Shape.reason([0x0A, 0x01, 0x01]))
        #expect(try RevocationList(der: shape.der).entries.count == 1)
        malformation.change(&shape)
        #expect(throws: PKIError(malformation.code, "")) { try RevocationList(der: shape.der) }
    }

    @Test("Too many bytes or entries are refused")
    func limits() throws {
        #expect(throws: PKIError(.tooLarge, "")) {
            try RevocationList(der: [UInt8](repeating: 0x30, count: RevocationList.maximumSize + 1))
        }
        var shape = Shape()
        let entry = Shape.entry([0x02, 0x01, 0x05])
        shape.entries = Array(repeatElement(entry, count: RevocationList.maximumCount + 1).joined())
        #expect(throws: PKIError(.tooLarge, "")) { try RevocationList(der: shape.der) }
        shape.entries = Array(repeatElement(entry, count: RevocationList.maximumCount).joined())
        #expect(try RevocationList(der: shape.der).count == 1)
    }

    @Test("Mutated certificates and lists never crash a decoder nor verify", arguments: FuzzTarget.pki.indices)
    func fuzz(index: Int) throws {
        let target = FuzzTarget.pki[index]
        #expect(!target.seeds.isEmpty)
        try target.fuzz(count: 2_000, seed: 0x5EC0)
    }

    @Test("There is something to fuzz") func targets() { #expect(FuzzTarget.pki.count == 4) }
}

/// A DER element.
func wrap(_ tag: UInt8, _ content: [UInt8]) -> [UInt8] {
    let length: [UInt8] =
        switch content.count {
        case ..<0x80: [UInt8(content.count)]
        case ..<0x100: [0x81, UInt8(content.count)]
        case ..<0x10000: [0x82, UInt8(content.count >> 8), UInt8(content.count & 0xFF)]
        default:
            [0x83, UInt8(content.count >> 16), UInt8(content.count >> 8 & 0xFF), UInt8(content.count & 0xFF)]
        }
    return [tag] + length + content
}

/// Lists as long as a large installation makes them.
@Suite struct LongRevocationListTests {
    @Test("A list of 100,000 entries is made, read and looked up in, and costs a gate nothing but a look-up")
    func long() throws {
        let pki = try TestPKI()
        var random = SplitMix64(seed: 7)
        let serials = (0..<100_000).map { index in
            [0x40 | UInt8(index & 0x3F)] + (0..<19).map { _ in UInt8.random(in: .min ... .max, using: &random) }
        }
        let reasons: [RevocationList.Reason?] = [nil, .keyCompromise, .superseded]
        let entries = serials.enumerated().map {
            RevocationList.Entry(
                serialNumber: $1, revokedAt: 1_700_000_000 + UnixTime($0), reason: reasons[$0 % 3])
        }
        let made = try pki.intermediate.makeRevocationList(number: 9, entries: entries, at: pki.now)
        let list = try RevocationList(der: made.der)
        #expect(list.count == 100_000)
        for index in stride(from: 0, to: 100_000, by: 997) {
            #expect(list.entry(for: serials[index]) == entries[index])
            var other = serials[index]
            other[19] ^= 1
            #expect(list.entry(for: other) == nil)
        }
        #expect(list.isSigned(by: pki.intermediate.certificate))
        let gate = try PeerGate(
            trustDomain: pki.trustDomain, authorities: [pki.root.certificate, pki.intermediate.certificate],
            revocationLists: [list])
        #expect(throws: Never.self) { try gate.admit(leaf: pki.auditors[0].certificate.der, at: pki.now) }
    }

    @Test("A list that is late, or soon will be, is worth a warning")
    func warning() throws {
        let pki = try TestPKI()
        let list = try pki.intermediate.makeRevocationList(number: 1, at: 1_000_000, lifetime: 100_000)
        #expect(list.warning(at: 1_000_000, margin: 50_000) == nil)
        #expect(list.warning(at: 1_060_000, margin: 50_000)?.contains("must be renewed before") == true)
        #expect(list.warning(at: 1_100_001, margin: 50_000)?.contains("is late") == true)
    }
}
