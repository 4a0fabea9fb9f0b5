// RFC 5280 section 5.1.2.6 (revokedCertificates) and section 5.3.1 (reason code).

import SwiftASN1
import X509

/// The entries of a revocation list, checked once and left where they lie in its DER; found by serial number.
///
/// A table of places, four bytes each, at least twice as many as entries: a list of a hundred thousand takes its own
/// bytes and a megabyte, and a look-up one hash.
struct RevokedEntries: Sendable {
    private let der: [UInt8]
    /// Open addressing: where an entry begins in `der`; 0 for a free place. A power of two.
    private var places: [UInt32] = []
    private(set) var count = 0

    static let none = RevokedEntries(der: [])

    private init(der: [UInt8]) { self.der = der }

    /// - Parameter range: the content of `revokedCertificates`.
    /// - Throws: ``PKIError`` with code `format`, `extension` or `too-large`; ``DERCursor/Malformed``.
    init(der: [UInt8], in range: Range<Int>) throws {
        self.der = der
        // RFC 5280 section 5.1.2.6: no revoked certificates, no list of them.
        guard !range.isEmpty else { throw PKIError(.format, "an empty list of entries") }
        var starts: [UInt32] = []
        starts.reserveCapacity(min(RevocationList.maximumCount, range.count / 36))
        var cursor = DERCursor(der, in: range)
        while !cursor.isAtEnd {
            guard starts.count < RevocationList.maximumCount else {
                throw PKIError(.tooLarge, "a revocation list of more than \(RevocationList.maximumCount) entries")
            }
            let element = try cursor.next(0x30)
            try Self.check(der, element)
            starts.append(UInt32(element.start))
        }
        var capacity = 2
        while capacity < 2 * starts.count { capacity *= 2 }
        self.places = [UInt32](repeating: 0, count: capacity)
        for start in starts { self.insert(start) }
    }

    private mutating func insert(_ start: UInt32) {
        let serial = Self.serial(self.der, at: Int(start))
        var index = self.firstPlace(self.der[serial])
        while self.places[index] != 0 {
            // Of two entries of one serial number the first stands.
            if Self.equal(self.der, Self.serial(self.der, at: Int(self.places[index])), self.der[serial]) { return }
            index = (index + 1) & (self.places.count - 1)
        }
        self.places[index] = start
        self.count += 1
    }

    /// - Parameter serialNumber: its minimal big-endian bytes.
    func find(_ serialNumber: [UInt8]) -> RevocationList.Entry? {
        guard self.count > 0 else { return nil }
        let wanted = serialNumber[...]
        var index = self.firstPlace(wanted)
        while self.places[index] != 0 {
            let start = Int(self.places[index])
            if Self.equal(self.der, Self.serial(self.der, at: start), wanted) { return Self.entry(self.der, at: start) }
            index = (index + 1) & (self.places.count - 1)
        }
        return nil
    }

    /// In no order.
    var all: [RevocationList.Entry] {
        self.places.compactMap { $0 == 0 ? nil : Self.entry(self.der, at: Int($0)) }
    }

    /// Seeded by the process: a list is parsed before its signature is verified, and nobody shall choose serial
    /// numbers that collide.
    private func firstPlace(_ serial: ArraySlice<UInt8>) -> Int {
        var hasher = Hasher()
        serial.withUnsafeBytes { hasher.combine(bytes: $0) }
        return hasher.finalize() & (self.places.count - 1)
    }

    private static func equal(_ der: [UInt8], _ range: Range<Int>, _ serial: ArraySlice<UInt8>) -> Bool {
        range.count == serial.count && der[range].elementsEqual(serial)
    }

    // MARK: One entry

    /// The value of a checked entry's serial number, without a leading zero.
    private static func serial(_ der: [UInt8], at start: Int) -> Range<Int> {
        // An entry takes two to three bytes of tag and length, its serial number always two.
        let first = start + (der[start + 1] < 0x80 ? 2 : 2 + Int(der[start + 1] & 0x7F))
        let content = first + 2..<first + 2 + Int(der[first + 1])
        return der[content.lowerBound] == 0 ? content.dropFirst() : content
    }

    private static func entry(_ der: [UInt8], at start: Int) -> RevocationList.Entry? {
        var cursor = DERCursor(der, in: start..<der.count)
        guard let element = try? cursor.next(0x30) else { return nil }
        return try? Self.parse(der, element)
    }

    private static func check(_ der: [UInt8], _ element: DERCursor.Element) throws {
        _ = try Self.parse(der, element, wantsSerial: false)
    }

    private static func parse(
        _ der: [UInt8], _ element: DERCursor.Element, wantsSerial: Bool = true
    ) throws -> RevocationList.Entry {
        var cursor = DERCursor(der, in: element.content)
        let content = try cursor.next(0x02).content
        guard let first = der[content].first, first & 0x80 == 0 else {
            throw PKIError(.format, "a serial number that is not positive")
        }
        var serial = content
        if first == 0 {
            guard content.count == 1 || der[content.lowerBound + 1] & 0x80 != 0 else { throw DERCursor.Malformed() }
            serial = content.dropFirst()
        }
        guard (1...20).contains(serial.count) else {
            throw PKIError(.format, "a serial number of \(serial.count) bytes")
        }
        let time = try RevocationList.time(der, try cursor.next())
        var reason: RevocationList.Reason?
        if !cursor.isAtEnd {
            let extensions = try cursor.next(0x30)
            reason = try Self.reason(der, extensions)
        }
        return RevocationList.Entry(
            serialNumber: wantsSerial ? Array(der[serial]) : [], revokedAt: time, reason: reason)
    }

    /// The extensions of nearly every entry: a reason, not critical.
    private static let reasonPrefix: [UInt8] = [
        0x30, 0x0A, 0x06, 0x03, 0x55, 0x1D, 0x15, 0x04, 0x03, 0x0A, 0x01,
    ]

    private static func reason(_ der: [UInt8], _ extensions: DERCursor.Element) throws -> RevocationList.Reason? {
        let content = der[extensions.content]
        if content.count == Self.reasonPrefix.count + 1, content.starts(with: Self.reasonPrefix),
            let value = content.last
        {
            return try Self.reason(value)
        }
        var reason: RevocationList.Reason?
        try RevocationList.forEachExtension(
            try DER.parse(der[extensions.start..<extensions.content.upperBound])
        ) { item in
            if item.oid == RevocationList.crlReason {
                let value = Array(item.value)
                guard value.count == 3, value.starts(with: [0x0A, 0x01]) else {
                    throw PKIError(.format, "a revocation reason that does not exist")
                }
                reason = try Self.reason(value[2])
            } else if item.critical {
                throw PKIError(.extension, "an entry with the unknown critical extension \(item.oid)")
            }
        }
        return reason
    }

    private static func reason(_ value: UInt8) throws -> RevocationList.Reason {
        guard let reason = RevocationList.Reason(rawValue: value) else {
            throw PKIError(.format, "a revocation reason that does not exist")
        }
        return reason
    }
}
