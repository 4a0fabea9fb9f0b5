import ArgumentParser
import ControlCenter
import Foundation
import Identity
import Telemetry

/// `--config`, `--set` and `--store`, for the commands by which operators act through a control center's store.
struct OperatorOptions: ParsableArguments {
    @OptionGroup
    var configuration: ConfigurationOptions

    @Option(help: ArgumentHelp("The database, instead of the configuration's.", valueName: "file"))
    var store: String?

    func openDesk() async throws -> OperatorDesk {
        if let store { return try OperatorDesk(path: store) }
        guard let settings = try await self.configuration.load().controlCenter else {
            throw CommandError(
                .configuration,
                "the configuration has no control-center.store: name the database by --store, or the server's configuration by --config"
            )
        }
        return try OperatorDesk(path: settings.store)
    }

    /// Who acts: the user of the operating system.
    static var operatorID: String {
        if let entry = getpwuid(getuid()), let name = entry.pointee.pw_name { return String(cString: name) }
        return "uid \(getuid())"
    }

    /// The auditors of these IDs, or all.
    static func auditors(
        _ ids: [String], all: Bool, of desk: OperatorDesk
    ) throws -> [SPIFFEID] {
        let known = try desk.auditors()
        if all {
            guard ids.isEmpty else { throw CommandError(.usage, "--all and IDs: choose one") }
            guard !known.isEmpty else { throw CommandError(.usage, "no auditor has said hello yet") }
            return known
        }
        return try ids.map { id in
            guard let auditor = known.first(where: { $0.id.rawValue == id }) else {
                let names = known.prefix(20).map(\.id.rawValue).joined(separator: ", ")
                throw CommandError(
                    .usage, "no auditor '\(id)' has said hello yet; there are: \(names.isEmpty ? "none" : names)")
            }
            return auditor
        }
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

    /// One line for who should know that nothing happens yet.
    static func warnIfNotRunning(_ desk: OperatorDesk) {
        guard !desk.isControlCenterRunning else { return }
        Terminal.standardError.line(
            "secure-mqtt: the control center does not run at the moment; it sends what is queued when it is started")
    }
}
