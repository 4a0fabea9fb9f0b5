import CertificateAuthority
import Foundation
import Identity
import PKI

/// The original's registry of devices: a CSV file whose head names a column `device`, and perhaps `state`, `locality`
/// and `postal_code`.
enum DeviceRegistry {
    struct Device: Sendable {
        let id: String
        /// Where it stands, for the sheet; empty if unknown.
        var place = ""
    }

    /// A row that names no device, or none that can be invited.
    struct RefusedRow: Sendable {
        let line: Int
        let reason: String
    }

    /// A device, by its line from 1 on, or what is wrong with the line.
    typealias Row = (line: Int, device: Result<Device, CommandError>)

    /// The most devices of one file.
    static let maximumCount = 10_000
    /// The longest file and line, in bytes.
    static let maximumSize = 4 << 20
    static let maximumLine = 1_024

    /// - Throws: ``CommandError`` if the file as a whole is none; what is wrong with one row is in its place.
    static func read(_ path: String) throws -> [Row] {
        let bytes: [UInt8]
        do throws(PKIError) {
            bytes = try DurableFile.read(path, maximumSize: Self.maximumSize)
        } catch {
            guard error.code != .tooLarge else {
                throw CommandError(.badData, "\(path) has more than \(Self.maximumSize) bytes: split it")
            }
            throw CommandError(.noInput, error.reason)
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw CommandError(.noInput, "\(path) is not text in UTF-8")
        }
        // Lines are counted as an editor does: empty ones too.
        let lines = text.drop { $0 == "\u{FEFF}" }.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
            .enumerated().map { (line: $0.offset + 1, text: $0.element) }
            .filter { !$0.text.allSatisfy(\.isWhitespace) }
        guard let first = lines.first, first.text.utf8.count <= Self.maximumLine,
            case let head = Self.fields(first.text).map({ $0.lowercased() }),
            let column = head.firstIndex(of: "device")
        else { throw CommandError(.badData, "\(path): the first line names no column 'device'") }
        guard (2...Self.maximumCount + 1).contains(lines.count) else {
            throw CommandError(.badData, "\(path): \(lines.count - 1) devices; 1 to \(Self.maximumCount) are expected")
        }
        var seen: Set<String> = []
        return lines.dropFirst().map { line, text in
            do throws(CommandError) {
                guard text.utf8.count <= Self.maximumLine else {
                    throw CommandError(.badData, "\(text.utf8.count) bytes; at most \(Self.maximumLine) are read")
                }
                let fields = Self.fields(text)
                guard fields.count == head.count else {
                    throw CommandError(.badData, "\(fields.count) fields where \(head.count) are expected")
                }
                let id = fields[column]
                guard seen.insert(id.lowercased()).inserted else {
                    throw CommandError(.badData, "\(id) is there twice")
                }
                do throws(IdentityError) { _ = try Identifier(id) } catch {
                    throw CommandError(.badData, error.reason)
                }
                let place = ["postal_code", "locality", "state"].compactMap { name in
                    head.firstIndex(of: name).map { fields[$0] }
                }
                return (
                    line, .success(Device(id: id, place: place.filter { !$0.isEmpty }.joined(separator: " ")))
                )
            } catch {
                return (line, .failure(error))
            }
        }
    }

    /// The fields of one line; a comma within quotes does not separate.
    private static func fields(_ line: Substring) -> [String] {
        var isQuoted = false
        let parts = line.split(omittingEmptySubsequences: false) { character in
            if character == "\"" { isQuoted.toggle() }
            return character == "," && !isQuoted
        }
        return parts.map {
            $0.trimmingCharacters(in: CharacterSet.whitespaces.union(CharacterSet(charactersIn: "\"")))
        }
    }
}

/// What a device, or who stands before it, is given.
struct InvitationSheet: Sendable {
    let device: DeviceRegistry.Device
    let invited: AuthorityAPI.Invited
    let meter: String?

    var command: String { self.invited.command + (self.meter.map { " --meter \($0)" } ?? "") }
}

/// Many invitations at once, for a spreadsheet or for paper.
enum InvitationSheets {
    static func table(_ sheets: [InvitationSheet]) -> String {
        "device,place,expires,token,command\n"
            + sheets.map(Self.row).joined()
    }

    private static func row(_ sheet: InvitationSheet) -> String {
        // Nothing in these fields needs more than quotes: IDs, tokens and URLs have none.
        let place = sheet.device.place.replacing("\"", with: "'")
        let fields = [
            sheet.invited.id, "\"\(place)\"", sheet.invited.expires.iso8601, sheet.invited.token,
            "\"\(sheet.command)\"",
        ]
        return fields.joined(separator: ",") + "\n"
    }

    static func page(_ sheets: [InvitationSheet]) -> String {
        """
        <!DOCTYPE html>
        <html lang="en"><head><meta charset="utf-8"><title>Invitations</title><style>
        body { font: 12pt sans-serif; margin: 0 }
        section { border: 1px dashed #888; padding: 1em; margin: 1em; break-inside: avoid }
        h1 { font-size: 16pt; margin: 0 0 .5em }
        code { display: block; font: 10pt monospace; overflow-wrap: anywhere; background: #eee; padding: .5em }
        svg { width: 5cm; height: 5cm; float: right; margin-left: 1em }
        section::after { content: ""; display: block; clear: both }
        </style></head><body>

        """ + sheets.map(Self.section).joined() + "</body></html>\n"
    }

    private static func section(_ sheet: InvitationSheet) -> String {
        """
        <section>\((try? QRCode(sheet.command))?.svg ?? "")
        <h1>\(Self.escaped(sheet.invited.id))</h1>
        <p>\(Self.escaped(sheet.device.place))</p>
        <p>Type on the device, before \(sheet.invited.expires.iso8601); it works once:</p>
        <code>\(Self.escaped(sheet.command))</code>
        </section>

        """
    }

    private static func escaped(_ text: String) -> String {
        text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;")
            .replacing("\"", with: "&quot;")
    }
}
