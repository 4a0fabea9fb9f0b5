/// A decoder to be fuzzed: what it reads, and inputs that it accepts to begin with.
///
/// Mutation fuzzing, in process and from a seed, so that a find can be repeated. A crash, a trap or a hang is a find;
/// a decoder that returns something wrong says so by trapping in ``run``.
public struct FuzzTarget: Sendable {
    public let name: String

    /// Well-formed inputs, from which mutations begin.
    public let seeds: [[UInt8]]

    /// Feeds the decoder one input, and returns what was seen of what it did. Errors are what it is for; it must return.
    public let run: @Sendable ([UInt8]) -> FuzzFeatures

    public init(_ name: String, seeds: [[UInt8]], run: @escaping @Sendable ([UInt8]) -> Void) {
        self.name = name
        self.seeds = seeds
        self.run = { bytes in
            run(bytes)
            return FuzzFeatures()
        }
    }

    private init(_ name: String, seeds: [[UInt8]], watching run: @escaping @Sendable ([UInt8]) -> FuzzFeatures) {
        self.name = name
        self.seeds = seeds
        self.run = run
    }

    /// A target whose inputs are kept when they show new features, and then mutated in their turn.
    public static func watched(
        _ name: String, seeds: [[UInt8]], run: @escaping @Sendable ([UInt8]) -> FuzzFeatures
    ) -> FuzzTarget {
        FuzzTarget(name, seeds: seeds, watching: run)
    }

    /// Feeds the decoder every prefix of each seed, what the corpus has, and then `count` mutations of both.
    ///
    /// - Parameters:
    ///   - seed: the same seed, from the same corpus, gives the same inputs.
    ///   - corpus: grows by what shows new features.
    ///   - maximumSize: of an input, in bytes.
    public func fuzz(count: Int, seed: UInt64, from corpus: inout FuzzCorpus, maximumSize: Int = 4_096) {
        var mutator = Mutator(seed: seed, maximumSize: maximumSize)
        for input in self.seeds {
            for length in 0..<min(input.count, 1_024) { corpus.know(self.run(Array(input[..<length]))) }
            corpus.know(self.run(input))
        }
        for input in corpus.inputs { corpus.know(self.run(input)) }
        for _ in 0..<count {
            let input = mutator.mutation(of: self.seeds, corpus.inputs)
            corpus.offer(input, self.run(input), self.run)
        }
    }

    /// The same, from the corpus that is kept.
    ///
    /// - Throws: if it cannot be read.
    public func fuzz(count: Int, seed: UInt64, maximumSize: Int = 4_096) throws {
        var corpus = try FuzzCorpus.kept(for: self)
        self.fuzz(count: count, seed: seed, from: &corpus, maximumSize: maximumSize)
    }
}

/// What an input made a decoder or a state machine do, in words: each step with the one before it.
public struct FuzzFeatures: Sendable {
    public private(set) var words: Set<String> = []
    private var last = ""

    public init() {}

    /// - Parameter step: its words of letters count. Of numbers there is no end.
    public mutating func note(_ step: String) {
        let words = step.split(separator: " ").filter {
            $0.utf8.allSatisfy { UInt8(ascii: "A")...UInt8(ascii: "z") ~= $0 }
        }
        let step = words.joined(separator: " ")
        self.words.insert("\(self.last) \(step)")
        self.last = step
    }

    /// Notes the name of a case.
    public mutating func note(caseOf value: Any) {
        self.note(Mirror(reflecting: value).children.first?.label ?? "\(value)")
    }
}

/// Changes well-formed inputs a little, as a careless or hostile sender would.
public struct Mutator: Sendable {
    private var state: UInt64
    private let maximumSize: Int

    public init(seed: UInt64, maximumSize: Int) {
        self.state = seed
        self.maximumSize = maximumSize
    }

    /// One to eight changes to one of the seeds: bits, bytes that often matter, runs cut out, doubled, or taken from
    /// another seed.
    public mutating func mutation(of seeds: [[UInt8]], _ more: [[UInt8]] = []) -> [UInt8] {
        let others = !more.isEmpty && (seeds.isEmpty || self.below(2) == 0) ? more : seeds
        guard !others.isEmpty else { return [] }
        var bytes = others[self.below(others.count)]
        for _ in 0...self.below(8) {
            self.change(&bytes, others)
        }
        return bytes.count > self.maximumSize ? Array(bytes[..<self.maximumSize]) : bytes
    }

    private mutating func change(_ bytes: inout [UInt8], _ seeds: [[UInt8]]) {
        let telling: [UInt8] = [0x00, 0x01, 0x7F, 0x80, 0xFF, 0x30, 0x1F, 0x3F, 0x5F, 0x9F, 0xBF, 0xDF, 0x18, 0x1B]
        guard !bytes.isEmpty else {
            bytes.append(UInt8(self.below(256)))
            return
        }
        let at = self.below(bytes.count)
        let length = min(self.below(16) + 1, bytes.count - at)
        switch self.below(8) {
        case 0: bytes[at] ^= 1 << UInt8(self.below(8))
        case 1: bytes[at] = UInt8(self.below(256))
        case 2: bytes[at] = telling[self.below(telling.count)]
        case 3: bytes[at] = bytes[at] &+ (self.below(2) == 0 ? 1 : 0xFF)
        case 4: bytes.removeSubrange(at..<at + length)
        case 5: bytes.insert(contentsOf: bytes[at..<at + length], at: at)
        case 6: bytes.insert(telling[self.below(telling.count)], at: at)
        default:
            let other = seeds[self.below(seeds.count)]
            guard !other.isEmpty else { return }
            let from = self.below(other.count)
            bytes.replaceSubrange(at..<at + length, with: other[from..<min(from + self.below(32), other.count)])
        }
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    private mutating func next() -> UInt64 {
        self.state &+= 0x9E37_79B9_7F4A_7C15
        var z = self.state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    private mutating func below(_ bound: Int) -> Int { Int(self.next() % UInt64(bound)) }
}
