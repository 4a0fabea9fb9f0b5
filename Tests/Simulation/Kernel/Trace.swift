/// The last events of a run, for the report of a failure, and a digest of all of them, by which two runs
/// of one seed are compared.
///
/// Signatures are random, so no event may tell bytes that depend on one: two runs of a seed are equal
/// but for the renaming of ids.
struct Trace {
    static let kept = 60

    private(set) var count = 0
    private var digest: UInt64 = 0xCBF2_9CE4_8422_2325
    private var ring: [Line?] = Array(repeating: nil, count: Trace.kept)

    struct Line {
        var step: Int
        var time: Int64
        var node: Node
        var what: StaticString
        var a: Int64
        var b: Int64
    }

    /// Whom a line is about.
    enum Node: Equatable {
        case world, broker, controlCenter
        case auditor(Int)
        case adversary

        var code: UInt64 {
            switch self {
            case .world: 1
            case .broker: 2
            case .controlCenter: 3
            case .adversary: 4
            case .auditor(let i): 16 + UInt64(i)
            }
        }
    }

    /// FNV-1a over everything that was noted.
    var fingerprint: UInt64 { self.digest }

    mutating func note(
        step: Int, time: Int64, _ node: Node, _ what: StaticString, _ a: Int64 = 0, _ b: Int64 = 0
    ) {
        self.ring[self.count % Self.kept] = Line(step: step, time: time, node: node, what: what, a: a, b: b)
        self.count += 1
        for word in [
            UInt64(bitPattern: time), node.code, UInt64(what.utf8CodeUnitCount), UInt64(bitPattern: a),
            UInt64(bitPattern: b),
        ] {
            self.digest = (self.digest ^ word) &* 0x0000_0100_0000_01B3
        }
    }

    /// The newest lines, oldest first.
    func lines(startingAt origin: Int64) -> [String] {
        (max(0, self.count - Self.kept)..<self.count).compactMap { i in
            guard let line = self.ring[i % Self.kept] else { return nil }
            let milliseconds = (line.time - origin) / 1_000_000
            let node =
                switch line.node {
                case .world: "world"
                case .broker: "broker"
                case .controlCenter: "center"
                case .adversary: "adversary"
                case .auditor(let i): "auditor \(i)"
                }
            return "step \(line.step) +\(milliseconds) ms \(node): \(line.what) \(line.a) \(line.b)"
        }
    }
}
