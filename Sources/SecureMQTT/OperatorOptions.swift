import ArgumentParser
import ControlCenter
import Foundation
import Identity
import LiCore
import Telemetry

/// `--config`, `--set` and `--store`, for the commands by which operators act through a control center's store.
struct OperatorOptions: ParsableArguments {
    @OptionGroup
    var configuration: ConfigurationOptions

    @Option(help: ArgumentHelp("The database, instead of the configuration's.", valueName: "file"))
    var store: String?

    /// Where operators act.
    struct Place {
        let desk: OperatorDesk
        /// The database.
        let store: String
        /// Who uses the original's format; nobody where no configuration is named.
        let fleet: Fleet
    }

    func openDesk() async throws -> OperatorDesk { try await self.open().desk }

    func open() async throws -> Place {
        if let store, self.configuration.config == nil {
            return Place(desk: try OperatorDesk(path: store), store: store, fleet: .none)
        }
        let settings = try await self.configuration.load()
        guard let path = self.store ?? settings.controlCenter?.store else {
            throw CommandError(
                .configuration,
                "the configuration has no control-center.store: name the database by --store, or the server's configuration by --config"
            )
        }
        return Place(desk: try OperatorDesk(path: path), store: path, fleet: try settings.licore.file.read())
    }

    /// Who acts: the user of the operating system.
    static var operatorID: String {
        if let entry = getpwuid(getuid()), let name = entry.pointee.pw_name { return String(cString: name) }
        return "uid \(getuid())"
    }

    /// Auditors, by the format that they speak.
    struct Targets {
        var ours: [SPIFFEID] = []
        /// Those that are allowed the original's format.
        var liCore: [Identifier] = []
    }

    /// The auditors of these IDs, or all.
    static func auditors(_ ids: [String], all: Bool, of place: Place) throws -> Targets {
        let known = try place.desk.auditors().filter { place.fleet.auditor($0.id) == nil }
        let members = place.fleet.members.filter { $0.kind == .auditor }.map(\.id)
        if all {
            guard ids.isEmpty else { throw CommandError(.usage, "--all and IDs: choose one") }
            guard !known.isEmpty || !members.isEmpty else {
                throw CommandError(.usage, "no auditor has said hello yet")
            }
            return Targets(ours: known, liCore: members)
        }
        var targets = Targets()
        for id in ids {
            if let member = members.first(where: { $0.rawValue == id }) {
                targets.liCore.append(member)
            } else if let auditor = known.first(where: { $0.id.rawValue == id }) {
                targets.ours.append(auditor)
            } else {
                let names = (known.map(\.id) + members).prefix(20).map(\.rawValue).joined(separator: ", ")
                throw CommandError(
                    .usage, "no auditor '\(id)' has said hello yet; there are: \(names.isEmpty ? "none" : names)")
            }
        }
        return targets
    }

    /// `90s`, `30m`, `12h`, `7d`.
    static func duration(_ text: String, _ option: String) throws(CommandError) -> Int64 {
        let factors: [Character: Int64] = ["s": 1, "m": 60, "h": 3_600, "d": 86_400]
        guard let factor = text.last.flatMap({ factors[$0] }), let number = Int64(text.dropLast()),
            (1...31_536_000).contains(number), number * factor <= 31_536_000
        else {
            throw CommandError(.usage, "\(option) \(text): write a time of up to a year, such as 7d, 12h, 30m or 90s")
        }
        return number * factor
    }

    /// A time for a table, to the second.
    static func time(_ time: Timestamp) -> String { Timestamp(seconds: time.seconds).description }

    /// One line for who should know that nothing happens yet.
    static func warnIfNotRunning(_ desk: OperatorDesk) {
        guard !desk.isControlCenterRunning else { return }
        Terminal.standardError.line(
            "secure-mqtt: the control center does not run at the moment; it sends what is queued when it is started")
    }
}
