import CertificateAuthority
import Foundation

/// The original's registry of devices: a CSV file whose head names a column `device`, and perhaps `state`, `locality`
/// and `postal_code`.
enum DeviceRegistry {
    struct Device: Sendable {
        let id: String
        /// Where it stands, for the sheet; empty if unknown.
        var place = ""
    }

    /// The most devices of one file.
    static let maximumCount = 10_000

    static func read(_ path: String) throws -> [Device] {
        let text: String
        do {
            text = try String(contentsOfFile: path, encoding: .utf8)
        } catch {
            throw CommandError(.noInput, "\(path) cannot be read as text in UTF-8")
        }
        let lines = text.split(whereSeparator: \.isNewline).map { line in
            line.split(separator: ",", omittingEmptySubsequences: false).map {
                $0.trimmingCharacters(in: CharacterSet.whitespaces.union(CharacterSet(charactersIn: "\"")))
            }
        }
        guard let head = lines.first?.map({ $0.lowercased() }), let column = head.firstIndex(of: "device") else {
            throw CommandError(.badData, "\(path): the first line names no column 'device'")
        }
        guard (2...Self.maximumCount + 1).contains(lines.count) else {
            throw CommandError(.badData, "\(path): \(lines.count - 1) devices; 1 to \(Self.maximumCount) are expected")
        }
        var seen: Set<String> = []
        return try lines.dropFirst().enumerated().map { index, fields in
            guard fields.count == head.count else {
                throw CommandError(
                    .badData, "\(path), line \(index + 2): \(fields.count) fields where \(head.count) are expected")
            }
            guard seen.insert(fields[column].lowercased()).inserted else {
                throw CommandError(.badData, "\(path), line \(index + 2): \(fields[column]) is there twice")
            }
            let place = ["postal_code", "locality", "state"].compactMap { name in
                head.firstIndex(of: name).map { fields[$0] }
            }
            return Device(id: fields[column], place: place.filter { !$0.isEmpty }.joined(separator: " "))
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
