import ArgumentParser
import PKI

/// A span of time on the command line: `90m`, `12h`, `3d`, `2w`.
struct Lifetime: ExpressibleByArgument {
    let seconds: UnixTime

    init(seconds: UnixTime) { self.seconds = seconds }

    var defaultValueDescription: String { "\(self.seconds / 86_400)d" }

    init?(argument: String) {
        let units: [Character: UnixTime] = ["s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800]
        guard let last = argument.last, let unit = units[last], let count = UnixTime(argument.dropLast()),
            (1...1_000_000).contains(count)
        else { return nil }
        self.seconds = count * unit
    }
}
